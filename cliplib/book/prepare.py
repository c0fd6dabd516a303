"""Before a build: MathJax from a local file, an executed run as a page, nothing stale.

The engine's cache of executed chapters looks at their code only. So everything else that decides
what a chapter shows (result tables, records, the library, the installed packages) is digested here,
and the cache goes when the digest changes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cliplib.records import write_atomic

MATHJAX = Path("_assets/mathjax/tex-svg.js")
MATHJAX_VERSION = "3.2.2"
MATHJAX_INTEGRITY = (  # npm's own form of the sha512 of the archive
    "sha512-Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0"
    "/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw=="
)
EXAMPLE = Path("runs/example.ipynb")

# Paths from the project's root whose content decides what the chapters show ...
RESULTS = (
    "book/data/**/*",
    "runs/*/train.json",
    "runs/*/eval.json",
    "runs/*/probe.json",
    "runs/*/finetune.json",
    "runs/*/metrics.jsonl",
    "cliplib/**/*",
    "data/icons/manifest.json",
    "pyproject.toml",
)
# ... and from the book's folder, whose content decides how they are framed.
FRAME = ("_config.yml", "_toc.yml", "_static/**/*", "references.bib")


def prepare(book: Path, scale: str = "nano", offline: bool = False) -> None:
    """Make `book` ready to build: MathJax, the example run, no stale results. Idempotent."""
    place_mathjax(book, offline)
    place_example(book, scale)
    drop_stale(book)


# ------------------------------------------------------------------------------------- MathJax


def place_mathjax(book: Path, offline: bool = False) -> None:
    """Put MathJax's one-file build where the pages look for it, unless it is there.

    Raises InputError as `fetch_npm` does: no registry and not in the cache, a damaged archive.
    """
    if (book / MATHJAX).exists():
        return
    from cliplib.corpus.fetch import fetch_npm

    archive = fetch_npm("mathjax", MATHJAX_VERSION, MATHJAX_INTEGRITY, offline=offline)
    with tarfile.open(archive) as tar:
        script = tar.extractfile("package/es5/tex-svg.js")
        assert script is not None  # the pinned archive holds it
        write_atomic(book / MATHJAX, script.read())


# ----------------------------------------------------------------------- the executed run as a page


def place_example(book: Path, scale: str = "nano") -> None:
    """Copy the executed notebook of the largest finished run of `scale` into the book.

    Without such a run a page that says how to make one takes its place: the table of contents
    names the file, and an entry without a file is a failed build.
    """
    folder = example_run(book.parent / "runs", scale)
    text = (folder / "train.ipynb").read_text() if folder else json.dumps(_no_run_yet(scale))
    target = book / EXAMPLE
    if not target.exists() or target.read_text() != text:
        write_atomic(target, text)


def example_run(runs: Path, scale: str) -> Path | None:
    """The finished run of `scale` with the most compute (ties: first by name), or None."""
    finished = [
        (-_compute(record), folder)
        for folder in sorted(runs.glob("*"))
        if (folder / "train.ipynb").exists() and (folder / "eval.json").exists()
        if (record := _read(folder / "train.json")).get("run", {}).get("scale") == scale
    ]
    return min(finished)[1] if finished else None


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _compute(record: dict[str, Any]) -> float:
    return float(record["gmacs_per_pair"] * record["samples_seen"])


def _no_run_yet(scale: str) -> dict[str, Any]:
    """A notebook of one text cell, in notebook format 4."""
    text = (
        "# One run, from start to end\n\nNo run of this study is finished on this machine yet. "
        f"`make study SCALE={scale}` trains them; the next build of the book shows one of the "
        "executed notebooks here, every cell with what it printed."
    )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = {"cell_type": "markdown", "id": "no-run", "metadata": {}, "source": text}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": [cell]}


# --------------------------------------------------------------------------------- nothing stale


def drop_stale(book: Path) -> list[str]:
    """Remove what an earlier build kept and what is no longer true; return what was removed.

    Changed results drop the executed chapters; changed results or a changed frame drop the parsed
    pages, so that all are rendered anew. Run before the chapters execute: a result that arrives
    while they do is then seen as changed by the next build.
    """
    build = book / "_build"
    now = {"results": results_digest(book.parent), "frame": digest(book, FRAME)}
    kept = build / ".digests.json"
    before = _read(kept)
    stale = []
    if before.get("results") != now["results"]:
        stale += [".jupyter_cache"]
    if before != now:
        stale += [".doctrees"]
    if before.get("frame") != now["frame"]:
        stale += ["html"]  # a page that left the table of contents must not linger
    removed = [name for name in stale if (build / name).exists()]
    for name in removed:
        shutil.rmtree(build / name)
    write_atomic(kept, json.dumps(now, indent=1) + "\n")
    return removed


def results_digest(root: Path) -> str:
    """Digest of all that decides what chapters show: data, records, library, packages."""
    packages = sorted(p.name for p in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))
    parts = [digest(root, RESULTS), sys.version, *packages]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def digest(root: Path, patterns: Iterable[str]) -> str:
    """SHA-256 over paths and contents of the files under `root` that match any pattern."""
    found = {path for pattern in patterns for path in root.glob(pattern)}
    files = [path for path in found if path.is_file() and path.suffix != ".pyc"]
    sha = hashlib.sha256()
    for path in sorted(files):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        sha.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return sha.hexdigest()
