"""Run a named scale: the grid, decided by content, executed by snakemake.

``make study SCALE=nano`` lands here. Runs whose records are current (same configuration, code and
corpus) are left alone; the others go through ``notebooks/train.ipynb``, one notebook a run, or, on
your own shards, through ``torchrun -m cliplib train``. What was killed goes on from its last
checkpoint. `cliplib.launch` places runs on machines; a dry run prints what would be started.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cliplib import InputError, downstream
from cliplib.ladder import RunSpec, scale
from cliplib.launch import jobs
from cliplib.launch.placement import Placement, place
from cliplib.records import write_atomic

ROOT = Path(__file__).parent.parent
SNAKEFILE = ROOT / "notebooks" / "Snakefile"

#: What a notebook may be given, by name and type; papermill itself lets any name pass.
PARAMETERS: dict[str, dict[str, type]] = {
    "train": {
        "scale": str, "rung": str, "data_scale": str, "corpus": str, "samples_seen": int, "seed": int,
        "data": str, "out": str,
    },
    "evaluate": {"checkpoint": str, "data": str, "out": str},
    "probe": {"checkpoint": str, "data": str, "out": str, "shots": list, "draws": int},
    "finetune": {"checkpoint": str, "data": str, "out": str, "stages": list, "epochs": int},
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


# --------------------------------------------------------------------------------- what is to be done


def stale_runs(
    scale_name: str, data: Path, runs: Path, hashes: Mapping[str, str] | None = None
) -> list[RunSpec]:
    """The runs of a scale whose records are absent or not current, cheapest first.

    On the icons in ``data`` both records count. On shards ``hashes`` has what `jobs.shards_hashes` gives,
    and the training record alone counts, as no evaluation belongs to them.
    """
    from cliplib.data import open_corpus
    from cliplib.records import is_current

    specs = scale(scale_name)
    if hashes is not None:
        current = {
            one.run_id: is_current(runs / one.run_id, one, hashes[one.run_id]) for one in specs
        }
        return [spec for spec in specs if not current[spec.run_id]["train"]]
    if not (data / "manifest.json").exists():
        return specs
    corpus_hash = open_corpus(data).hash
    return [spec for spec in specs if not is_current(runs / spec.run_id, spec, corpus_hash)["eval"]]


def stale_parts(
    scale_name: str, data: Path, runs: Path, hashes: Mapping[str, str] | None = None
) -> list[tuple[str, RunSpec]]:
    """The probes and fine-tunings of a scale that are absent or not current; none on shards."""
    from cliplib.data import open_corpus

    specs = scale(scale_name)
    if hashes is not None:
        return []
    if not (data / "manifest.json").exists():
        return downstream.wanted(scale_name, specs)
    return downstream.stale(scale_name, specs, runs, open_corpus(data).hash)


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


def part_job(part: str, spec: RunSpec, data: Path, runs: Path, after: bool) -> jobs.Job:
    """The job that probes or fine-tunes a trained run, after its training if that is to be done."""
    folder = runs / spec.run_id
    chosen = {"checkpoint": folder / "checkpoint", "data": data, "out": folder}
    command = papermill(part, folder / f"{part}.ipynb", chosen)
    resources: dict[str, int | str] = {"mem_mb": 4000, "runtime": 120}
    return jobs.Job(spec.run_id, command, 1, resources, part=part, after=after)


# ------------------------------------------------------------------------------------------ the verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib study``."""
    parser.epilog = "example: python -m cliplib study --scale nano --cores 2"
    add = parser.add_argument
    add("--scale", required=True, help="a named grid: smoke, nano, micro, gpu, paper")
    add("--cores", type=int, help="cores to use (default: all, or as the profile says)")
    add("--data", type=Path, default=Path("data/icons"), help="the built corpus")
    add("--runs", type=Path, default=Path("runs"), help="where run folders go")
    add("--profile", type=Path, help="a snakemake profile, such as notebooks/profiles/slurm")
    big = parser.add_argument_group("bigger machines")
    big.add_argument(
        "--shards", action="append", metavar="[DATA_SCALE=]URL",
        help="image-text shards of the scales gpu and paper: a folder, brace range, http, s3, pipe:",
    )  # fmt: skip
    big.add_argument("--gpus-per-node", type=int, help="default: 4 for paper, else 1")
    big.add_argument("--gpus", type=int, help="for each run (default: as published, or one node)")
    big.add_argument(
        "--job-hours", type=float, default=jobs.JOB_HOURS,
        help="longest job of your cluster; a longer run goes on in the next (default: %(default)g)",
    )  # fmt: skip
    big.add_argument(
        "--torchrun", action="store_true",
        help="train with torchrun in place of one notebook a run, as shards always are",
    )  # fmt: skip
    dry = parser.add_argument_group("dry run")
    dry.add_argument("--dry-run", action="store_true", help="print runs, commands and costs only")
    dry.add_argument("--out", type=Path, metavar="FILE.csv", help="write the table too")
    dry.add_argument("--write", type=Path, metavar="DIR", help="write a config and a command a run")


def run(args: argparse.Namespace) -> int:
    """Execute what is stale of a scale, then print the study's results.

    Raises:
        InputError: unknown scale, a study already under way here, or runs that failed.
    """
    specs = scale(args.scale)
    placed = [place(spec, args.gpus_per_node, args.gpus) for spec in specs]
    urls = jobs.shards(args.shards, specs) if args.shards else None
    if urls and not jobs.on_shards(specs[0]):
        raise InputError(f"scale {args.scale} trains on the icons in --data; leave out --shards")
    if args.dry_run:
        return _dry_run(args, placed, urls)
    _check_arguments(args, placed, urls)
    data, runs = args.data.resolve(), args.runs.resolve()
    urls = jobs.absolute(urls) if urls else None
    hashes = jobs.shards_hashes(placed, urls) if urls else None
    with _alone(runs):
        stale = stale_runs(args.scale, data, runs, hashes)
        parts = stale_parts(args.scale, data, runs, hashes)
        print(
            f"study {args.scale}: {len(specs)} runs, {len(specs) - len(stale)} current, {len(stale)} to do"
            + (f", {len(parts)} to probe or fine-tune" if parts else ""),
            flush=True,
        )
        todo = [_job(args, each, urls, data, runs) for each in placed if each.run in stale]
        todo += [part_job(part, spec, data, runs, spec in stale) for part, spec in parts]
        if todo:
            _execute(args, todo, data, runs)
    if failed := stale_runs(args.scale, data, runs, hashes):
        raise InputError(_failure(failed, len(specs), runs))
    if undone := stale_parts(args.scale, data, runs, hashes):
        (part, spec), log = undone[0], runs / undone[0][1].run_id / f"{undone[0][0]}-log.txt"
        raise InputError(f"{spec.run_id}: {part} did not finish: {_last_line(log)} (log: {log})")
    print(_training_summary(specs, runs) if urls else _summary(specs, runs))
    return 0


def _dry_run(args: argparse.Namespace, placed: list[Placement], urls: jobs.Shards | None) -> int:
    from cliplib.launch import dryrun

    folder, suffix = (args.write, ".json") if args.write else (args.runs, "/config.json")
    rows = dryrun.table(placed, folder, suffix)
    written = dryrun.write(placed, urls, args.data, args.write) if args.write else []
    print(dryrun.report(args.scale, placed, rows))
    if args.write:
        print(f"\n{args.write}: {len(written)} configurations, each with its command")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(args.out, index=False)
        print(f"{args.out}: {len(rows)} rows")
    return 0


def _check_arguments(
    args: argparse.Namespace, placed: list[Placement], urls: jobs.Shards | None
) -> None:
    """Refuse what cannot be started, before anything is."""
    if args.out or args.write:
        raise InputError("--out and --write belong to --dry-run; add it, or leave them out")
    if args.job_hours <= 0:
        raise InputError(
            f"--job-hours {args.job_hours:g}: a job takes some time; give hours above 0"
        )
    if (args.gpus or args.gpus_per_node) and not (args.torchrun or jobs.on_shards(placed[0].run)):
        raise InputError(
            "--gpus and --gpus-per-node are torchrun's, and this scale runs notebooks; add --torchrun"
        )
    jobs.source(placed[0], urls, args.data)
    largest = max(placed, key=lambda each: each.nodes)
    if largest.nodes > 1 and not args.profile:
        raise InputError(
            f"{largest.run.run_id} needs {largest.nodes} nodes; give --profile "
            "notebooks/profiles/slurm, or --dry-run for the commands"
        )
    settings = args.profile / "config.yaml" if args.profile else None
    if settings and not settings.exists():
        raise InputError(f"--profile {args.profile}: no config.yaml there; see notebooks/profiles")
    if settings and "executor: slurm" in settings.read_text() and not shutil.which("sbatch"):
        raise InputError(
            f"--profile {args.profile} submits to SLURM, and this machine has no sbatch; run it on "
            "the login node of a cluster"
        )


def _job(
    args: argparse.Namespace, placed: Placement, urls: jobs.Shards | None, data: Path, runs: Path
) -> jobs.Job:
    """The job of a run: its notebook, or torchrun with a configuration in the run's folder."""
    web = jobs.on_shards(placed.run)
    if not (web or args.torchrun):
        resources: dict[str, int | str] = {"mem_mb": 4000, "runtime": 600}
        return jobs.Job(placed.run.run_id, train_command(placed.run, data, runs), 1, resources)
    folder = runs / placed.run.run_id
    found = jobs.config(placed, jobs.source(placed, urls, data))
    write_atomic(folder / "config.json", json.dumps(found, indent=1) + "\n")
    job = jobs.job(
        placed, folder / "config.json", folder,
        job_hours=args.job_hours, evaluate_on=None if web else data,
    )  # fmt: skip
    if web and not args.profile:  # one after the other: they share this machine's GPUs
        return dataclasses.replace(job, threads=args.cores or os.cpu_count() or 1)
    return job


def _execute(args: argparse.Namespace, todo: list[jobs.Job], data: Path, runs: Path) -> None:
    for job in todo:
        (runs / job.run_id / f".{job.part}-done").unlink(missing_ok=True)
    fetch = not (args.shards or (data / "manifest.json").exists())
    if not (args.shards or fetch):
        _decode(data)
    grid = {
        "runs": str(runs),
        "corpus": papermill("corpus", runs / "corpus.ipynb", {"out": data}) if fetch else "true",
        "jobs": [dataclasses.asdict(job) for job in todo],
    }
    write_atomic(runs / ".study.json", json.dumps(grid, indent=1) + "\n")
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(runs),
        "--configfile", str(runs / ".study.json"), "--nolock", "--keep-going",
        "--rerun-incomplete", "--rerun-triggers", "input", "--quiet", "all",
    ]  # fmt: skip
    if args.profile:
        command += ["--workflow-profile", str(args.profile.resolve())]
    if args.cores or not args.profile:
        command += ["--cores", str(args.cores or os.cpu_count() or 1)]
    start = time.monotonic()
    subprocess.run(command, check=False)
    print(f"study {args.scale}: {len(todo)} jobs in {time.monotonic() - start:.0f} s", flush=True)


def _decode(data: Path) -> None:
    """Decode the shards once, before runs that start together would each do it."""
    from cliplib.data import load_split, open_corpus

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
    why = _last_line(first)
    return f"{len(failed)} of {total} runs did not finish; {failed[0].run_id}: {why} (log: {first})"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if line.strip()] if log.exists() else []
    own = [line for line in lines if line.startswith("cliplib: ")]  # torchrun adds a page to it
    return (own or lines or ["it left no log"])[-1].strip().removeprefix("cliplib: ")


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


def _training_summary(specs: list[RunSpec], runs: Path) -> str:
    import pandas as pd

    from cliplib.records import read_record

    shown = (
        "run_id",
        "samples_seen",
        "loss",
        "logit_scale",
        "samples_per_s",
        "seconds",
        "sessions",
    )
    found = [read_record(runs / spec.run_id / "train.json") for spec in specs]
    return pd.DataFrame([{name: record[name] for name in shown} for record in found]).to_string(
        index=False
    )
