"""Run a named scale: the grid, decided by content, executed by snakemake and papermill.

``make study SCALE=nano`` lands here. Runs whose records are current (same configuration, code and
corpus) are left alone; the others go through ``notebooks/train.ipynb``, one notebook a run. What was
killed goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cliplib import InputError
from cliplib.ladder import RunSpec, scale

ROOT = Path(__file__).parent.parent
SNAKEFILE = ROOT / "notebooks" / "Snakefile"

#: What a notebook may be given, by name and type; papermill itself lets any name pass.
PARAMETERS: dict[str, dict[str, type]] = {
    "train": {
        "scale": str, "rung": str, "data_scale": str, "corpus": str, "samples_seen": int, "seed": int,
        "data": str, "out": str,
    },
    "evaluate": {"checkpoint": str, "data": str, "out": str},
    "corpus": {"out": str, "offline": bool},
}  # fmt: skip


# ---------------------------------------------------------------------------------- called by notebooks


def check_parameters(notebook: str, namespace: Mapping[str, Any]) -> None:
    """Refuse a notebook parameter that is unknown or of the wrong type.

    Papermill only warns about an unknown name and runs on with the defaults. The first cell after
    the parameters passes ``globals()`` here.

    Raises:
        InputError: naming the parameter, and what is known.
    """
    known = PARAMETERS[notebook]
    injected = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and isinstance(value, (str, int, float, bool, list, dict, type(None)))
        and name not in ("In", "Out")
    }  # fmt: skip
    for name, value in injected.items():
        if name not in known:
            raise InputError(
                f"parameter {name!r} is not known to {notebook}.ipynb; known: {', '.join(known)}"
            )
        kind = known[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(
                f"parameter {name} of {notebook}.ipynb must be {kind.__name__}, not {value!r}"
            )


# ------------------------------------------------------------------------------------ called by snakemake


def stale_runs(scale_name: str, data: Path, runs: Path) -> list[RunSpec]:
    """The runs of a scale whose records are absent or not current, cheapest first."""
    from cliplib.data import open_corpus
    from cliplib.records import is_current

    specs = scale(scale_name)
    if not (data / "manifest.json").exists():
        return specs
    corpus_hash = open_corpus(data).hash
    return [spec for spec in specs if not is_current(runs / spec.run_id, spec, corpus_hash)["eval"]]


def papermill(notebook: str, output: Path, parameters: Mapping[str, object]) -> str:
    """The shell command that executes a notebook with parameters."""
    words = [
        sys.executable,
        "-m",
        "papermill",
        str(ROOT / "notebooks" / f"{notebook}.ipynb"),
        str(output),
    ]
    for name, value in parameters.items():
        words += ["-p", name, str(value)]
    return " ".join([*words, "--log-output", "--no-progress-bar", "--kernel", "python3"])


def train_command(spec: RunSpec, data: Path, runs: Path) -> str:
    """The shell command of one run."""
    fields = ("scale", "rung", "data_scale", "corpus", "samples_seen", "seed")
    chosen = {name: getattr(spec, name) for name in fields}
    folder = runs / spec.run_id
    return papermill("train", folder / "train.ipynb", {**chosen, "data": data, "out": folder})


# ------------------------------------------------------------------------------------------ the verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib study``."""
    parser.epilog = "example: python -m cliplib study --scale nano --cores 2"
    parser.add_argument(
        "--scale", required=True, help="a named grid of runs: smoke, nano, micro, gpu"
    )
    parser.add_argument(
        "--cores", type=int, default=os.cpu_count(), help="cores to use (default: all)"
    )
    parser.add_argument("--data", type=Path, default=Path("data/icons"), help="the built corpus")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    parser.add_argument(
        "--profile", type=Path, help="a snakemake profile, such as notebooks/profiles/slurm"
    )


def run(args: argparse.Namespace) -> int:
    """Execute what is stale of a scale, then print the study's results.

    Raises:
        InputError: unknown scale, a study already under way here, or runs that failed.
    """
    specs = scale(args.scale)
    data, runs = args.data.resolve(), args.runs.resolve()
    with _alone(runs):
        stale = stale_runs(args.scale, data, runs)
        print(
            f"study {args.scale}: {len(specs)} runs, {len(specs) - len(stale)} current, {len(stale)} to do",
            flush=True,
        )
        if stale:
            _execute(args, stale, data, runs)
    failed = stale_runs(args.scale, data, runs)
    if failed:
        raise InputError(_failure(failed, len(specs), runs))
    print(_summary(specs, runs))
    return 0


def _execute(args: argparse.Namespace, stale: list[RunSpec], data: Path, runs: Path) -> None:
    for spec in stale:
        (runs / spec.run_id / ".done").unlink(missing_ok=True)
    _decode(data)
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(runs),
        "--cores", str(args.cores), "--nolock", "--keep-going", "--rerun-incomplete",
        "--rerun-triggers", "input", "--quiet", "all",
        "--config", f"scale={args.scale}", f"data={data}", f"runs={runs}",
    ]  # fmt: skip
    if args.profile:
        command += ["--workflow-profile", str(args.profile.resolve())]
    start = time.monotonic()
    subprocess.run(command, check=False)
    print(f"study {args.scale}: {len(stale)} runs in {time.monotonic() - start:.0f} s", flush=True)


def _decode(data: Path) -> None:
    """Decode the shards once, before runs that start together would each do it."""
    from cliplib.data import load_split, open_corpus

    if (data / "manifest.json").exists():
        corpus = open_corpus(data)
        for split in {row["split"] for row in corpus.manifest["shards"]} - {"variants"}:
            load_split(corpus, split)


@contextmanager
def _alone(runs: Path) -> Iterator[None]:
    """Hold the folder of runs: two studies in one folder would start the same runs."""
    runs.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":
        yield
        return
    import fcntl

    with (runs / ".study.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{runs}: a study is already under way in this folder; wait or stop it"
            ) from None
        yield


def _failure(failed: list[RunSpec], total: int, runs: Path) -> str:
    first = runs / failed[0].run_id / "log.txt"
    lines = (
        [line for line in first.read_text().splitlines() if line.strip()] if first.exists() else []
    )
    why = lines[-1].strip() if lines else "it left no log"
    return f"{len(failed)} of {total} runs did not finish; {failed[0].run_id}: {why} (log: {first})"


def _summary(specs: list[RunSpec], runs: Path) -> str:
    from cliplib.collect import collect

    table = collect(runs, [spec.run_id for spec in specs])
    keep = [("phosphor", "accuracy_20_way"), ("retrieval", "recall_at_5"), ("retrieval", "infonce")]
    wide = table[[pair in keep for pair in zip(table.task, table.metric)]]
    wide = wide.assign(measure=wide.task + " " + wide.metric)
    columns = ["run_id", "compute_gmac", "seconds"]
    return (
        wide.pivot(index=columns, columns="measure", values="value")
        .reset_index()
        .to_string(index=False)
    )
