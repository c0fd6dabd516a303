"""Evaluate a model on the held-out icon families: zero-shot, retrieval, held-out InfoNCE, robustness.

Every protocol ends in ranks of the truth (``ranks.npz``); every number in ``eval.json`` is computed
from them, with the number of items behind it, its chance level and an interval clustered by concept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cliplib import records
from cliplib.data import Corpus
from cliplib.evaluate.blocks import ALONE, Workers
from cliplib.evaluate.icon_tasks import (
    concept_codes,
    retrieval_pool,
    templates,
    validation_pool,
    zero_shot_tasks,
)
from cliplib.evaluate.metrics import K_WAY, WAYS, Row, measures, metric_row, metric_rows
from cliplib.evaluate.outcomes import RETRIEVAL, ZERO_SHOT, Ranked, pack
from cliplib.evaluate.ranks import k_way
from cliplib.evaluate.retrieval import retrieve
from cliplib.evaluate.robustness import robustness_rows
from cliplib.evaluate.zero_shot import classify
from cliplib.pretrained.opened import Opened
from cliplib.pretrained.opening import open_model

SIMILARITY_EDGES = (0.0, 0.7, 0.8, 0.9, 1.0)  # cosine to the nearest training picture
STRICT = 0.9  # the corpus leaves out 0.95 and more; this is the stricter limit
EMOJI = ("emoji-flat", "emoji-3d", "emoji-mono")


def evaluate(
    checkpoint: Path | Opened, corpus: Corpus, folder: Path, run_id: str, *,
    precision: str | None = None, workers: Workers = ALONE,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a checkpoint and write ``ranks.npz`` and ``eval.json`` into ``folder``.

    Args:
        checkpoint: a checkpoint's folder, or any model that `open_model` has opened.
        corpus: the built icons.
        folder: where the two files go.
        run_id: name of the run in the record.
        precision: "bf16" or "fp32"; None: by hardware.
        workers: the processes, of which the main one writes, and where progress is told.

    Returns:
        The record, as in ``eval.json``.

    Raises:
        InputError: no usable checkpoint, or a shard is missing or damaged.
    """
    start = time.monotonic()
    opened = (
        checkpoint
        if isinstance(checkpoint, Opened)
        else open_model(str(checkpoint), precision=precision)
    )
    ranked = rank_everything(opened, corpus, workers)
    metrics = icon_rows(ranked, corpus)
    seconds = round(time.monotonic() - start, 2)
    record = {
        "schema_version": records.SCHEMA_VERSION, "run_id": run_id,
        "checkpoint_hash": opened.weights_hash, "model": opened.circumstances(),
        "code_hash": records.code_hash(records.EVALUATE_CODE), "corpus_hash": corpus.hash,
        "commit": records.commit(), "versions": records.versions(), "hardware": records.hardware(),
        "seconds": seconds, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "prompt_hash": records.digest(*templates()), "precision": opened.numerics.precision,
        "metrics": metrics,
    }  # fmt: skip
    if workers.main:
        folder.mkdir(parents=True, exist_ok=True)
        records.write_atomic(folder / "ranks.npz", pack(ranked))
        records.write_record(folder / "eval.json", record)
        count = sum(len(r.rank) for r in ranked.values())
        workers.tell(f"{run_id}: evaluated {count:,} ranks in {seconds:.0f} s")
    return record


def rank_everything(
    opened: Opened, corpus: Corpus, workers: Workers = ALONE
) -> dict[str, Ranked]:  # fmt: skip
    """Ranks of every zero-shot task, of retrieval in both directions, and of the validation pool."""
    known: dict[str, np.ndarray] = {}
    ranked = {task.name: classify(opened, task, workers, known) for task in zero_shot_tasks(corpus)}
    for pool in (retrieval_pool(corpus), validation_pool(corpus)):
        ranked |= retrieve(opened, pool, workers)
    return ranked


# ----------------------------------------------------------------------------------------- metrics


def icon_rows(ranked: Mapping[str, Ranked], corpus: Corpus) -> list[Row]:
    """Every metric of an evaluation on icons, one row each, computed from the ranks alone."""
    rows = []
    known = covered_concepts(corpus)
    near = corpus.pairs["similarity"].to_numpy()
    for task, r in ranked.items():
        rows += metric_rows({task: r})
        if r.kind == ZERO_SHOT:
            rows += _covered(task, r, known) + _by_similarity(task, r, near)
    rows += _both_directions(ranked)
    if all(task in ranked for task in EMOJI):
        rows.append(_emoji([ranked[task] for task in EMOJI]))
    return rows + robustness_rows(ranked)


def _emoji(pooled: list[Ranked]) -> Row:
    """The three emoji sets as one task: 20-way accuracy over all their pictures."""
    values = np.concatenate([k_way(r.rank, r.candidates, WAYS) for r in pooled])
    return metric_row("emoji", K_WAY, values, 1 / WAYS, np.concatenate([r.cluster for r in pooled]))


def _covered(task: str, r: Ranked, known: Mapping[str, np.ndarray]) -> list[Row]:
    """20-way accuracy on the classes whose name occurs in training at each smaller data scale."""
    parts = {
        f"{K_WAY}_covered_{scale}": np.isin(r.cluster, named) for scale, named in known.items()
    }
    return _parts(task, r, parts)


def _by_similarity(task: str, r: Ranked, similarity: np.ndarray) -> list[Row]:
    """20-way accuracy by similarity to the nearest training picture, and below the stricter limit."""
    near = similarity[r.item].astype(float)
    parts = {f"{K_WAY}_similarity_below_{STRICT:.2f}": near < STRICT}
    for low, high in pairwise(SIMILARITY_EDGES):
        parts[f"{K_WAY}_similarity_{low:.2f}_to_{high:.2f}"] = (near >= low) & (near < high)
    return _parts(task, r, parts)


def _parts(task: str, r: Ranked, parts: Mapping[str, np.ndarray]) -> list[Row]:
    """20-way accuracy on parts of a task's items; parts of fewer than two concepts are left out."""
    values = k_way(r.rank, r.candidates, WAYS)
    return [
        metric_row(task, metric, values[inside], 1 / WAYS, r.cluster[inside])
        for metric, inside in parts.items()
        if len(np.unique(r.cluster[inside])) > 1
    ]


def covered_concepts(corpus: Corpus) -> dict[str, np.ndarray]:
    """Per data scale below the whole, the codes of the concepts that its training pairs name."""
    order = corpus.pairs["order"].to_numpy()
    train = (corpus.pairs["split"] == "train").to_numpy()
    scales = {
        name: size for name, size in corpus.manifest["data_scales"].items() if size < train.sum()
    }
    codes = concept_codes(corpus)
    return {name: np.unique(codes[train & (order < size)]) for name, size in scales.items()}


def _both_directions(ranked: Mapping[str, Ranked]) -> list[Row]:
    """Recall and InfoNCE averaged over the two directions, item by item."""
    rows = []
    pools = [task.removesuffix("-i2t") for task in ranked if ranked[task].kind == RETRIEVAL]
    for pool in (pool for pool in pools if f"{pool}-t2i" in ranked):
        there, back = ranked[f"{pool}-i2t"], ranked[f"{pool}-t2i"]
        both = zip(measures(there), measures(back))
        rows += [
            metric_row(pool, m, (a + b) / 2, chance, there.cluster)
            for (m, a, chance), (_, b, _) in both
        ]
    return rows
