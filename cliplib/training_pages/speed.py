"""How our own ways of training compare on this machine: the tables behind "Training, measured".

``python -m cliplib.training_pages.speed --out book/data/speed.csv`` also writes ``step_profile.csv``
beside it. Every measurement is a process of its own; all cases take turns, and a value is the median
of its rounds, so that a machine that slows down slows them all. Let nothing else run.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cliplib import InputError, records
from cliplib.bench.peers import run_json
from cliplib.rungs import CLIP_VOCAB_SIZE, VOCAB_SIZE

SETTINGS = ("rung", "path", "precision", "attention", "threads", "processes", "compile", "runs")
MEASURED = ("samples_per_s", "cpu_seconds_per_sample", "step_ms", "peak_mb")
SPEED_COLUMNS = (*SETTINGS, *MEASURED, "load_average", "rounds")
PROFILE_COLUMNS = ("rung", "vocabulary", "path", "precision", "level", "part", "ms", "share")
PROFILE = "step_profile.csv"


@dataclass(frozen=True)
class Case:
    """One way to train a rung. ``runs``: whole runs side by side, each with these settings."""

    rung: str
    path: str = "fast"
    precision: str = "bf16"
    attention: str = "plain"
    threads: int = 1
    processes: int = 1
    compile: bool = False
    runs: int = 1

    def command(self, seconds: float, data: Path) -> list[str]:
        """What follows the interpreter."""
        measure = ["-m", "cliplib.train.measure", self.rung, "--seconds", str(seconds)]
        measure += ["--path", self.path, "--precision", self.precision]
        measure += ["--threads", str(self.threads), "--data", str(data)]
        measure += ["--attention", self.attention] if self.path == "torch" else []
        measure += ["--compile"] if self.compile else []
        if self.processes == 1:
            return measure
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        return [*torchrun, f"--nproc-per-node={self.processes}", *measure]

    def settings(self) -> dict[str, Any]:
        """The columns that say what was measured."""
        return {name: getattr(self, name) for name in SETTINGS}


#: What the chapter compares; `cliplib.training_pages.measured` looks these up.
CASES = (
    *(
        case
        for rung in ("XS", "M")
        for case in (
            Case(rung),
            Case(rung, threads=2),
            Case(rung, processes=2),
            Case(rung, runs=2),
            Case(rung, path="torch", attention="fused", precision="fp32"),
            Case(rung, path="torch", attention="fused"),
        )
    ),
    Case("XS", precision="fp32"),
    Case("XS", path="torch", precision="fp32"),
    Case("XS", path="torch"),
    Case("XS", path="torch", compile=True),
)
#: Rung, vocabulary, path, precision of each profile of a step.
PROFILES = (
    ("XS", VOCAB_SIZE, "torch", "bf16"),
    ("XS", VOCAB_SIZE, "torch", "fp32"),
    ("XS", VOCAB_SIZE, "fast", "bf16"),
    ("XS", CLIP_VOCAB_SIZE, "torch", "fp32"),
    ("XS", CLIP_VOCAB_SIZE, "fast", "bf16"),
    ("M", VOCAB_SIZE, "torch", "bf16"),
    ("M", VOCAB_SIZE, "torch", "fp32"),
    ("M", VOCAB_SIZE, "fast", "bf16"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write both tables; returns 2 where it cannot begin."""
    parser = argparse.ArgumentParser(
        prog="cliplib.training_pages.speed", description=__doc__.split("\n", 1)[0],
        epilog="example: python -m cliplib.training_pages.speed --out book/data/speed.csv",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="the table of speeds (CSV)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of each case")
    parser.add_argument("--data", type=Path, default=Path("data/icons"))
    args = parser.parse_args(arguments)
    try:
        _refuse(args)
    except InputError as error:
        print(f"cliplib.training_pages.speed: {error}", file=sys.stderr)
        return 2
    profiles = [row for asked in PROFILES for row in profiled(*asked, args.data)]
    _write(args.out.with_name(PROFILE), PROFILE_COLUMNS, profiles)
    _write(args.out, SPEED_COLUMNS, measured(CASES, args.seconds, args.rounds, args.data))
    return 0


def _refuse(args: argparse.Namespace) -> None:
    if args.rounds < 1 or not args.seconds > 0:
        raise InputError(
            f"--rounds {args.rounds} --seconds {args.seconds}: give more than 0 of each"
        )
    if not (args.data / "manifest.json").is_file():
        raise InputError(
            f"{args.data}: no corpus here; build it with `make corpus`, or give --data"
        )


# ---------------------------------------------------------------------------------------- the clock


def measured(
    cases: Sequence[Case], seconds: float, rounds: int, data: Path
) -> list[dict[str, Any]]:
    """One row a case: its settings, and the median of its rounds.

    Raises:
        RuntimeError: a measurement failed; the message is the last line that it wrote.
    """
    turns = [[turn(case, seconds, data) for case in cases] for _ in range(rounds)]
    return [
        {**case.settings(), **_medians(found), "rounds": rounds}
        for case, found in zip(cases, zip(*turns))
    ]


def turn(case: Case, seconds: float, data: Path) -> dict[str, float]:
    """One measurement: of runs side by side the speeds add up, all else is of one of them."""
    load = records.load_average()
    with ThreadPoolExecutor(case.runs) as pool:
        command = case.command(seconds, data)
        found = list(pool.map(lambda _: run_json(command, case.threads), range(case.runs)))
    together = {name: median(one[name] for one in found) for name in MEASURED}
    together["samples_per_s"] = sum(one["samples_per_s"] for one in found)
    print(f"{case}: {together['samples_per_s']:,.0f} samples/s", file=sys.stderr, flush=True)
    return {**together, "load_average": load or 0.0}


def _medians(rounds: Iterable[dict[str, float]]) -> dict[str, float]:
    found = list(rounds)
    return {name: round(median(one[name] for one in found), 7) for name in found[0]}


def profiled(
    rung: str, vocabulary: int, path: str, precision: str, data: Path
) -> list[dict[str, Any]]:
    """The rows of one profile, made in a process of its own."""
    words = [rung, str(vocabulary), path, precision, str(data)]
    found = run_json(["-m", "cliplib.training_pages.step_profile", *words], 1)
    asked = {"rung": rung, "vocabulary": vocabulary, "path": path, "precision": precision}
    print(f"profile of {asked}", file=sys.stderr, flush=True)
    return [{**asked, **row} for row in found["rows"]]


def _write(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
