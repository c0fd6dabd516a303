"""What fine-tuning leaves behind: ``finetune.json``, and ranks from which each number can be had again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliplib import InputError, records
from cliplib.evaluate.metrics import Row, metric_row, task_rows
from cliplib.evaluate.outcomes import Ranked, pack, unpack
from cliplib.evaluate.ranks import top_k
from cliplib.finetune.joint import PATCHED, ZERO_SHOT
from cliplib.finetune.recipe import DIRECT, INTERMEDIATE, JOINT

if TYPE_CHECKING:
    from cliplib.finetune.stages import Result, Stage
    from cliplib.pretrained.opened import Opened

RECORD, RANKS = "finetune.json", "finetune_ranks.npz"
#: Towers that are compared item by item on the same images: (after, before).
COMPARED = ((INTERMEDIATE, DIRECT), (JOINT, ZERO_SHOT), (PATCHED, ZERO_SHOT))
TOWERS = {DIRECT: (DIRECT,), INTERMEDIATE: (INTERMEDIATE,), JOINT: (ZERO_SHOT, JOINT, PATCHED)}
SHOWN = 4  # differing fields named in full


# --------------------------------------------------------------------------------------------- rows


def metric_rows(ranked: Mapping[str, Ranked]) -> list[Row]:
    """Every metric, one row each, from the ranks alone.

    Args:
        ranked: by name of the tower and of the task, such as "direct.emoji-groups".

    Returns:
        Rows with the columns of `cliplib.evaluate.metrics` and ``tower``. ``top1_gain_over_X`` is the
        difference to tower X on the same images; its interval is that of the paired differences.
    """
    rows = []
    for name, r in ranked.items():
        tower, task = name.split(".", 1)
        rows += [{"tower": tower, **row} for row in task_rows(task, r)]
    return [*rows, *_gains(ranked)]


def _gains(ranked: Mapping[str, Ranked]) -> Iterator[Row]:
    for after, before in COMPARED:
        for name, r in ranked.items():
            tower, task = name.split(".", 1)
            other = ranked.get(f"{before}.{task}")
            if tower == after and other is not None:
                gain = top_k(r.rank, 1) - top_k(other.rank, 1)
                metric = f"top1_gain_over_{before}"
                yield {"tower": after, **metric_row(task, metric, gain, 0.0, r.cluster)}


# ------------------------------------------------------------------------------------------- record


def found_before(folder: Path, stages: list[Stage], opened: Opened) -> dict[str, Result]:
    """The finished stages that an earlier call left in the folder and that are still current.

    Raises:
        InputError: the folder holds a finished stage of another model, task or recipe.
    """
    from cliplib.finetune.stages import Result

    if not (folder / RECORD).exists():
        return {}
    record = read(folder)
    ranked = unpack(folder / RANKS)
    _refuse_another_model(folder, record, opened)
    mine = {stage.name: _json(stage.identity(opened)) for stage in stages}
    found = {}
    for name, theirs in record["stages"].items():
        own = mine.get(name, {**theirs["identity"], "code_hash": _code(mine)})
        _refuse_another(folder, name, theirs["identity"], own)
        if theirs["identity"] == own:
            towers = tuple(f"{tower}." for tower in TOWERS[name])
            its = {key: r for key, r in ranked.items() if key.startswith(towers)}
            found[name] = Result(theirs, its)
    return found


def write(
    folder: Path, opened: Opened, results: Mapping[str, Result], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ranks and record, and return the record.

    Args:
        folder: where they go.
        opened: the model before.
        results: of the stages, by name.
        about: more fields.
    """
    ranked = {key: r for result in results.values() for key, r in result.ranked.items()}
    record = {
        "schema_version": records.SCHEMA_VERSION, "run_id": opened.name,
        "checkpoint_hash": opened.weights_hash, "model": opened.circumstances(),
        "precision": opened.numerics.precision, "commit": records.commit(),
        "versions": records.versions(), "hardware": records.hardware(),
        "load_average": records.load_average(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "stages": {name: result.record for name, result in results.items()},
        "metrics": metric_rows(ranked), **about,
    }  # fmt: skip
    records.write_atomic(folder / RANKS, pack(ranked))
    records.write_atomic(folder / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")
    return record


def read(folder: Path) -> dict[str, Any]:
    """The record in a folder.

    Raises:
        InputError: there is none, or it is damaged or of another schema.
    """
    return records.read_record(folder / RECORD)


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _code(identities: Mapping[str, Any]) -> str:
    """The hash of the code as it is now."""
    return str(next(iter(identities.values()))["code_hash"])


def _refuse_another_model(folder: Path, record: Mapping[str, Any], opened: Opened) -> None:
    if record["checkpoint_hash"] != opened.weights_hash:
        raise InputError(
            f"{folder}: holds the fine-tuning of {record['model']['model']}, weights "
            f"{record['checkpoint_hash']}; {opened.name} has {opened.weights_hash}; use another --out"
        )


def _refuse_another(
    folder: Path, name: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]
) -> None:
    """A finished stage is not overwritten by one that was asked for differently.

    Raises:
        InputError: naming the fields that differ; changed code or data is no such difference.
    """
    old, new = dict(_flat(theirs)), dict(_flat(mine))
    differing = [
        field
        for field in {**old, **new}
        if old.get(field) != new.get(field) and not field.endswith("_hash")
    ]
    if differing:
        told = ", ".join(f"{f} {old.get(f)} (now {new.get(f)})" for f in differing[:SHOWN])
        raise InputError(
            f"{folder}: holds a finished stage {name} with {told}; use another --out, or delete it"
        )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf of mappings and lists."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, one in inner:
        path = f"{name}.{key}" if name else str(key)
        if isinstance(one, Mapping | list) and one:
            yield from _flat(one, path)
        else:
            yield path, one
