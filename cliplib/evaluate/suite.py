"""A model on data sets of any origin: one record, with everything that its numbers depend on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cliplib import InputError, records
from cliplib.evaluate.blocks import ALONE, Workers
from cliplib.evaluate.metrics import Row, metric_rows
from cliplib.evaluate.outcomes import Ranked, pack
from cliplib.evaluate.retrieval import retrieve
from cliplib.evaluate.tasks import Classification, Retrieval, Task
from cliplib.evaluate.zero_shot import classify
from cliplib.pretrained.opened import Opened
from cliplib.published import downstream_datasets

#: Means over data sets that the paper reports, by column of `published.downstream_datasets`.
AGGREGATES = {
    "in_robustness5": "imagenet_robustness",
    "in_vtab19_zeroshot": "vtab",
    "in_vtab_plus35": "vtab+",
}


def evaluate_tasks(
    opened: Opened, tasks: Sequence[Task], folder: Path, name: str, *,
    workers: Workers = ALONE,
) -> dict[str, Any]:  # fmt: skip
    """Test a model on data sets and write ``eval.json`` and ``ranks.npz`` into ``folder``.

    Args:
        opened: the model.
        tasks: the data sets; names must differ.
        folder: where the two files go. A record that is there already is replaced, unless its numbers
            were made with other prompts or another activation and so would not compare.
        name: of the model in the record.
        workers: the processes, of which the main one writes, and where progress is told.

    Returns:
        The record, as in ``eval.json``.

    Raises:
        InputError: what the protocols refuse, two tasks of one name, or a record that does not compare.
    """
    start = time.monotonic()
    about = {task.name: _about(task) for task in tasks}
    if len(about) < len(tasks):
        raise InputError("two tasks have the same name; give each folder a name of its own")
    refuse_change(folder / "eval.json", opened, about)
    ranked: dict[str, Ranked] = {}
    known: dict[str, np.ndarray] = {}
    for task in tasks:
        if isinstance(task, Retrieval):
            ranked |= retrieve(opened, task, workers)
        else:
            ranked[task.name] = classify(opened, task, workers, known)
        workers.tell(f"{task.name}: {len(task.images):,} images, {time.monotonic() - start:.0f} s")
    rows = metric_rows(ranked)
    hashes = [about[task]["data_hash"] for task in about]
    record = {
        "schema_version": records.SCHEMA_VERSION, "run_id": name,
        "checkpoint_hash": opened.weights_hash, "model": opened.circumstances(), "tasks": about,
        "code_hash": records.code_hash(records.EVALUATE_CODE),
        "corpus_hash": records.digest(*hashes),
        "prompt_hash": records.digest(*(task.get("prompt_hash", "") for task in about.values())),
        "commit": records.commit(), "versions": records.versions(), "hardware": records.hardware(),
        "seconds": round(time.monotonic() - start, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "precision": opened.numerics.precision, "metrics": [*rows, *aggregate_rows(rows)],
    }  # fmt: skip
    if workers.main:
        folder.mkdir(parents=True, exist_ok=True)
        records.write_atomic(folder / "ranks.npz", pack(ranked))
        records.write_record(folder / "eval.json", record)
    return record


def _about(task: Task) -> dict[str, Any]:
    kind = "retrieval" if isinstance(task, Retrieval) else "classification"
    found: dict[str, Any] = {"kind": kind, "split": task.split, "images": len(task.images)}
    if isinstance(task, Classification):
        found |= {"classes": len(task.classes), "templates": len(task.templates)}
    return found | task.hashes


def refuse_change(path: Path, opened: Opened, about: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to write over a record whose numbers would not compare with the new ones.

    Raises:
        InputError: the same weights with another activation, or the same task with other prompts.
    """
    if not path.exists():
        return
    before = records.read_record(path)
    model = before.get("model", {})
    if (
        before["checkpoint_hash"] == opened.weights_hash
        and model.get("activation", opened.activation) != opened.activation
    ):
        raise InputError(
            f"{path}: these weights were tested with {model['activation']}, now with "
            f"{opened.activation}: one of the two is not what they were trained with. Name the right "
            "model (with or without -quickgelu), or write to another --out"
        )
    for task, now in about.items():
        then = before.get("tasks", {}).get(task, {})
        for what in ("prompt_hash", "class_hash"):
            if what in then and what in now and then[what] != now[what]:
                words = "prompt templates" if what == "prompt_hash" else "class names"
                raise InputError(
                    f"{path}: the {words} of {task} have changed under the recorded hash "
                    f"({then[what]}, now {now[what]}): the numbers would not compare. Restore them, or "
                    "write to another --out"
                )


# ----------------------------------------------------------------------------------- the paper's means


def aggregate_rows(rows: Iterable[Row]) -> list[Row]:
    """The paper's means over data sets, each where all its members were tested.

    The standard error takes the data sets as fixed and their errors as independent.
    """
    top1 = {standard_name(row["task"]): row for row in rows if row["metric"] == "top1"}
    table = downstream_datasets()
    found = []
    for column, name in AGGREGATES.items():
        members = table.loc[table[column] == 1, "dataset"]
        if set(members) <= set(top1):
            found.append(_mean_row(name, [top1[member] for member in members]))
    return found


def _mean_row(name: str, rows: Sequence[Row]) -> Row:
    value, chance = (float(np.mean([row[what] for row in rows])) for what in ("value", "chance"))
    se = float(np.sqrt(np.sum([row["se"] ** 2 for row in rows])) / len(rows))
    return {
        "task": name, "metric": "top1", "n_items": sum(row["n_items"] for row in rows),
        "n_clusters": sum(row["n_clusters"] for row in rows), "value": round(value, 7),
        "chance": round(chance, 7), "se": round(se, 7),
        "ci_low": round(value - 1.96 * se, 7), "ci_high": round(value + 1.96 * se, 7),
    }  # fmt: skip


def standard_name(task: str) -> str:
    """A data set's name as the published tables have it: folders write a slash as a dash.

    >>> standard_name("wds_vtab-cifar10"), standard_name("imagenet-r")
    ('vtab/cifar10', 'imagenet-r')
    """
    task = task.removeprefix("wds_")
    return "vtab/" + task.removeprefix("vtab-") if task.startswith("vtab-") else task


# -------------------------------------------------------------------------------- beside the published


def beside_published(rows: Iterable[Row], published: pd.DataFrame) -> pd.DataFrame:
    """Our numbers beside published ones, for every data set and metric that both have.

    Args:
        rows: of a record.
        published: dataset, metric, value (a fraction), as the registry gives them.

    Returns:
        dataset, metric, ours, se, published, difference (ours - published), in the order of ``rows``.
    """
    known = {(row.dataset, row.metric): row.value for row in published.itertuples()}
    found = []
    for row in rows:
        key = published_key(row["task"], row["metric"])
        if key in known:
            found.append((*key, row["value"], row["se"], known[key], row["value"] - known[key]))
    columns = ["dataset", "metric", "ours", "se", "published", "difference"]
    return pd.DataFrame(found, columns=columns)


def published_key(task: str, metric: str) -> tuple[str, str]:
    """Data set and metric as the published tables name them.

    >>> published_key("wds_mscoco_captions-t2i", "recall_at_5")
    ('mscoco_captions', 'image_retrieval_recall_at_5')
    """
    for direction, what in (("-i2t", "text"), ("-t2i", "image")):
        if task.endswith(direction):
            return standard_name(task.removesuffix(direction)), f"{what}_retrieval_{metric}"
    return standard_name(task), metric


def record_line(row: Row) -> str:
    """A metric for people: value and interval in percent, chance, items."""
    if row["metric"] == "infonce":
        return f"{row['task']:24} {row['metric']:24} {row['value']:8.3f}  (guessing {row['chance']:.3f})"
    return (
        f"{row['task']:24} {row['metric']:24} {row['value']:7.2%}  "
        f"({row['ci_low']:.2%} to {row['ci_high']:.2%}; chance {row['chance']:.2%}; "
        f"{row['n_items']:,} items)"
    )


def table_of(record: Mapping[str, Any]) -> str:
    """The metrics of a record, a line each."""
    return "\n".join(record_line(row) for row in record["metrics"])


def dump(record: Mapping[str, Any]) -> str:
    """The record as JSON, for ``--json``."""
    return json.dumps(record, indent=1, sort_keys=True)
