"""What a run leaves behind: records, their provenance, and whether they are still current.

A record is *current* when the run's configuration, the code that made it and the corpus are the same
as now. Content decides, never file times: a fresh clone, a touched file or an edited comment redoes
nothing; a changed line of ``train.py`` redoes every run.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from cliplib import InputError
from cliplib.ladder import RunSpec, model_config, rung

SCHEMA_VERSION = 1

PACKAGE = Path(__file__).parent

# fmt: off
#: Modules (and data) whose code decides the numbers of a training run and of its evaluation.
READ_CODE = (
    "data/corpus.py", "data/decode.py", "data/samples.py", "data/tar.py", "model.py",
    "tokenizer/tokenizer.json",
)
TRAIN_CODE = (
    *READ_CODE, "fast",
    *(f"data/{name}.py" for name in ("batches", "bundles", "lanes", "states", "stream")),
    *(f"train/{name}.py" for name in
      ("captions", "engines", "feeds", "loop", "loss", "optimiser", "state", "world")),
)
FEATURES_CODE = (
    *READ_CODE, "fast",
    *(f"pretrained/{name}.py" for name in
      ("clip_towers", "opening", "pixels", "texts", "written_out")),
    *(f"evaluate/{name}.py" for name in
      ("blocks", "features", "icon_tasks", "images", "metrics", "outcomes", "ranks", "tasks")),
    "evaluate/prompts.json",
)
EVALUATE_CODE = (
    *FEATURES_CODE,
    *(f"evaluate/{name}.py" for name in
      ("icons", "retrieval", "robustness", "similarity", "zero_shot")),
)
PROBE_CODE = (
    *FEATURES_CODE, "evaluate/linear_probe.py", "evaluate/probe.py", "evaluate/probe_tasks.csv",
)
FINETUNE_CODE = (*FEATURES_CODE, "finetune", "evaluate/probe_tasks.csv")
# fmt: on

#: Fields that may differ between two equal runs: when, where and how fast, never what came out.
VOLATILE = frozenset(
    {"seconds", "samples_per_s", "finished", "hardware", "load_average", "commit", "sessions"}
)

REQUIRED = {
    "train.json": (
        "schema_version", "run", "run_id", "config_hash", "code_hash", "corpus_hash", "commit",
        "versions", "hardware", "load_average", "seconds", "samples_per_s", "finished",
        "samples_seen", "steps", "epochs", "deferred", "bad_samples", "precision", "attention",
        "gmacs_per_pair", "executed_gmacs", "params", "params_non_embedding", "loss", "logit_scale",
    ),
    "eval.json": (
        "schema_version", "run_id", "checkpoint_hash", "code_hash", "corpus_hash", "commit",
        "versions", "hardware", "seconds", "finished", "prompt_hash", "precision", "metrics",
    ),
    "probe.json": (
        "schema_version", "run_id", "checkpoint_hash", "code_hash", "corpus_hash", "commit",
        "versions", "hardware", "seconds", "finished", "precision", "settings", "metrics",
    ),
}  # fmt: skip


# ---------------------------------------------------------------------------------- reading, writing


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` aside, then rename: a reader sees the old file or the new, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    aside.replace(path)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON; a record that lacks a field of its schema is a bug and raises KeyError."""
    missing = [key for key in REQUIRED.get(path.name, ()) if key not in record]
    if missing:
        raise KeyError(f"{path.name} lacks {', '.join(missing)}")
    write_atomic(path, json.dumps(record, indent=1, sort_keys=True) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        InputError: the file is no JSON, or lacks a field that its schema version requires.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable record ({error}); delete the folder and re-run"
        ) from None
    missing = [key for key in REQUIRED.get(path.name, ()) if key not in record]
    if missing or record.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: record of another schema (lacks {', '.join(missing) or 'nothing'}; version "
            f"{record.get('schema_version')}, this is {SCHEMA_VERSION}); delete the folder and re-run"
        )
    return record


def results(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that two equal runs share: everything but :data:`VOLATILE`."""
    return {key: value for key, value in record.items() if key not in VOLATILE}


# -------------------------------------------------------------------------------------- provenance


def digest(*parts: str | bytes) -> str:
    """SHA-256 over the parts, in order, shortened to 16 hex digits."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.encode() if isinstance(part, str) else part)
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def _normal_form(path: Path) -> str:
    """Source text without comments, docstrings and layout, so that only meaning counts."""
    if path.suffix != ".py":
        return path.read_text()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(body, list):
            first = body[0] if body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@cache
def code_hash(members: tuple[str, ...]) -> str:
    """Hash of the named modules of cliplib; comments, docstrings and formatting do not count."""
    files: list[Path] = []
    for member in members:
        path = PACKAGE / member
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return digest(*(f"{f.relative_to(PACKAGE)}\n{_normal_form(f)}" for f in files))


def config_hash(run: RunSpec) -> str:
    """Hash of everything that was chosen for a run: its specification and its architecture."""
    return digest(json.dumps([run.to_dict(), model_config(rung(run.rung))], sort_keys=True))


def commit() -> str:
    """The git commit of the code, with ``+`` when files differ from it; ``unknown`` outside git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(PACKAGE), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions(
    packages: Iterable[str] = ("torch", "open_clip_torch", "webdataset", "numpy"),
) -> dict[str, str]:
    """Versions of Python, of cliplib and of the libraries that the numbers rest on."""
    found = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "cliplib": metadata.version("cliplib"), **found}


def hardware() -> dict[str, Any]:
    """What ran it: processor, cores usable here, memory in GiB, accelerator if any."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), ""
    )
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        if os.name == "posix"
        else 0
    )
    return {
        "processor": model or platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def load_average() -> float | None:
    """The one-minute load average, to tell a quiet machine from a busy one (None on Windows)."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


# ---------------------------------------------------------------------------------------- currency


def is_current(folder: Path, run: RunSpec, corpus_hash: str) -> dict[str, bool]:
    """Which of a run's two records are current: ``{"train": bool, "eval": bool}``.

    A run whose training is stale is never current in its evaluation.
    """
    wanted = {
        "corpus_hash": corpus_hash,
        "config_hash": config_hash(run),
        "code_hash": code_hash(TRAIN_CODE),
    }
    train = _matches(folder / "train.json", wanted)
    wanted = {"corpus_hash": corpus_hash, "code_hash": code_hash(EVALUATE_CODE)}
    evaluation = (
        train and (folder / "ranks.npz").exists() and _matches(folder / "eval.json", wanted)
    )
    return {"train": train, "eval": evaluation}


def _matches(path: Path, wanted: Mapping[str, str]) -> bool:
    if not path.exists():
        return False
    try:
        record = read_record(path)
    except InputError:
        return False
    return all(record.get(key) == value for key, value in wanted.items())
