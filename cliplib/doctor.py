"""Check what a study rests on: environment, corpus, records, checkpoints. One line each."""

from __future__ import annotations

import argparse
import hashlib
import importlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from cliplib import InputError
from cliplib.records import read_record

Finding = tuple[bool, str]

IMPORTED = (
    "torch",
    "torchvision",
    "open_clip",
    "webdataset",
    "transformers",
    "resvg_py",
    "papermill",
    "snakemake",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib doctor``."""
    parser.epilog = "example: python -m cliplib doctor --data data/icons --runs runs"
    parser.add_argument("--data", type=Path, default=Path("data/icons"), help="the built corpus")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders")


def run(args: argparse.Namespace) -> int:
    """Print every finding.

    Raises:
        InputError: something is wrong; the lines above say what.
    """
    wrong = 0
    for good, line in [*environment(), *shards(args.data), *finished_runs(args.runs)]:
        print(f"{'ok   ' if good else 'WRONG'} {line}", flush=True)
        wrong += not good
    if wrong:
        raise InputError(f"doctor found {wrong} things wrong, marked above")
    return 0


def environment() -> Iterator[Finding]:
    """Whether each library that the study needs can be imported, and how arithmetic is done here."""
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken binary raises whatever it likes
            yield False, f"{name}: cannot be imported ({str(error).splitlines()[0]}); run: make env"
    from cliplib.model import numerics

    how = numerics()
    yield (
        True,
        f"torch {metadata.version('torch')}: {how.precision}, {how.attention} attention ({how.reason})",
    )


def shards(data: Path) -> Iterator[Finding]:
    """Whether every shard is there and has its recorded hash."""
    from cliplib.data import open_corpus

    try:
        corpus = open_corpus(data)
    except InputError as error:
        yield False, str(error)
        return
    rows = corpus.manifest["shards"]
    bad = [row["path"] for row in rows if _sha256(data / row["path"]) != row["sha256"]]
    for path in bad:
        yield False, f"{data / path}: missing or damaged; build the corpus again: make corpus"
    if not bad:
        yield True, f"{data}: {len(rows)} shards, corpus {corpus.hash}"


def _sha256(path: Path) -> str | None:
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finished_runs(runs: Path) -> Iterator[Finding]:
    """Whether the records of every run can be read and its checkpoint opened."""
    from cliplib.downstream import PARTS
    from cliplib.model import load

    count = 0
    for folder in sorted(path.parent for path in runs.glob("*/train.json")):
        try:
            read_record(folder / "train.json")
            load(folder / "checkpoint")
            for name in ("eval.json", *(name for name, _ in PARTS.values())):
                if (folder / name).exists():
                    read_record(folder / name)
            count += 1
        except InputError as error:
            yield False, str(error)
    yield True, f"{runs}: {count} finished runs"
