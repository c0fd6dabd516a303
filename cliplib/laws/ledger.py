"""A ledger of forecasts: written before the runs, never edited, scored after.

One JSON object a line. Each line holds the hash of the line before it and a name made from its own
content, so a changed, inserted or removed line shows, except lines cut off the end: keep the id
of the last line where you publish (`head`).
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cliplib import InputError, __version__
from cliplib.laws.forecast import Forecast
from cliplib.laws.tables import records
from cliplib.records import write_atomic

FIELDS = (
    "id", "made_at", "target", "x", "y", "value", "low", "high", "level", "kind", "recipe",
    "data_hash", "n_runs", "cliplib", "previous",
)  # fmt: skip
FIRST = "0" * 64  # what the first line names as the line before it
PATIENCE_S = 10.0

Entry = dict[str, Any]


# ------------------------------------------------------------------------------------------- writing


def append(path: Path, made: Forecast, target: str | Mapping[str, Any]) -> list[Entry]:
    """Add a forecast to the ledger, a line for each x, and return the new entries.

    target: what is forecast: a run_id or a pattern of it (``nano-*-s0``), or columns and values
    that name one run. The time is now. The file is written aside and renamed; a second writer
    waits. InputError: the ledger does not verify, or another process holds it.
    """
    if not target:
        raise InputError("a forecast needs a target: the run that will tell, in words or columns")
    with _lock(path):
        entries = read(path) if path.exists() else []
        lines = path.read_text(encoding="utf-8").splitlines() if entries else []
        new = []
        for row in records(made.table):
            entry = _entry(made, row, target, lines[-1] if lines else None)
            lines.append(json.dumps(entry, sort_keys=True))
            new.append(entry)
        write_atomic(path, "\n".join(lines) + "\n")
    return new


def _now() -> datetime:
    return datetime.now(UTC)


def _entry(made: Forecast, row: Entry, target: Any, before: str | None) -> Entry:
    low, high = made.ends
    if None in (row["value"], row[low], row[high]):
        raise InputError("a forecast without a finite value and interval cannot be scored later")
    entry = {
        "made_at": _now().isoformat(timespec="seconds"),
        "target": dict(target) if isinstance(target, Mapping) else target,
        "x": {name: row[name] for name in made.x},
        "y": made.y,
        "value": row["value"],
        "low": row[low],
        "high": row[high],
        "level": made.level,
        "kind": made.kind,
        "recipe": made.recipe,
        "data_hash": made.data_hash,
        "n_runs": made.n_runs,
        "cliplib": __version__,
        "previous": _sha(before) if before is not None else FIRST,
    }
    return {"id": _name(entry), **entry}


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _name(entry: Mapping[str, Any]) -> str:
    """The id of an entry: a hash of everything else in it."""
    rest = {key: value for key, value in entry.items() if key != "id"}
    return _sha(json.dumps(rest, sort_keys=True))[:16]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold ``path``.lock; created exclusively, which every system does in one step."""
    lock, until = path.with_name(f"{path.name}.lock"), time.monotonic() + PATIENCE_S
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            if time.monotonic() > until:
                raise InputError(
                    f"{lock} is there: another process is writing; if none is, delete it"
                ) from None
            time.sleep(0.02)
    try:
        yield
    finally:
        lock.unlink()


# ------------------------------------------------------------------------------------------- reading


def read(path: Path) -> list[Entry]:
    """The entries of a ledger, after checking every line against the one before it.

    InputError names the first line that is no JSON, lacks a field, was changed, or does not follow.
    """
    if not path.is_file():
        raise InputError(f"no ledger {path}")
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        raise InputError(f"{path}: the last line is cut off; restore it from a copy")
    entries: list[Entry] = []
    before = None
    for number, line in enumerate(text.splitlines(), start=1):
        entry = _checked(line, f"{path}, line {number}")
        if entry["previous"] != (_sha(before) if before is not None else FIRST):
            raise InputError(
                f"{path}, line {number} does not follow the line before it: a line was changed, "
                "added or removed"
            )
        if entries and entry["made_at"] < entries[-1]["made_at"]:
            raise InputError(f"{path}, line {number} was made before the line above it")
        entries.append(entry)
        before = line
    return entries


def _checked(line: str, where: str) -> Entry:
    try:
        entry = json.loads(line)
    except ValueError:
        raise InputError(f"{where} is not JSON") from None
    missing = [name for name in FIELDS if not isinstance(entry, dict) or name not in entry]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}")
    if entry["id"] != _name(entry):
        raise InputError(f"{where} was changed after it was written: its id does not fit")
    return dict(entry)


def head(path: Path) -> str:
    """The id of the last entry: publish it, and lines cut off the end show too."""
    entries = read(path)
    return str(entries[-1]["id"]) if entries else ""
