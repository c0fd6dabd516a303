"""Evaluate a checkpoint on the held-out icon families: zero-shot, retrieval, held-out InfoNCE.

Every protocol ends in ranks of the truth (``ranks.npz``); every number in ``eval.json`` is computed
from them, with the number of items behind it, its chance level and an interval clustered by concept.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cliplib import InputError, model, records
from cliplib.data import Corpus, Pairs, load_split
from cliplib.evaluate.features import class_embeddings, image_features, prompt_hash, text_features
from cliplib.evaluate.ranks import clustered_mean, k_way, ranks_of_truth, top_k

WAYS = 20
K_WAY = f"accuracy_{WAYS}_way"  # expected, from the ranks
SIMILARITY_EDGES = (0.0, 0.7, 0.8, 0.9, 1.0)  # cosine to the nearest training picture
STRICT = 0.9  # the corpus leaves out 0.95 and more; this is the stricter limit
POOL = 1000  # pairs in the retrieval and InfoNCE pools (MEASURE: fixed)
EMOJI = ("emoji-flat", "emoji-3d", "emoji-mono")


@dataclass(frozen=True)
class Ranked:
    """One task's outcome per item.

    Attributes:
        rank: (n,) rank of the truth, 1 = best.
        item: (n,) row of the item in the corpus's table of pairs.
        candidates: how many the truth competed with, itself included.
        truth: (n,) class index in the task, or the item's place in the pool.
        tolerant: (n,) best rank among the truth and its synonyms; equal to ``rank`` without synonyms.
        loss: (n,) InfoNCE of the item in the pool, for retrieval only.
    """

    rank: np.ndarray
    item: np.ndarray
    candidates: int
    truth: np.ndarray
    tolerant: np.ndarray
    loss: np.ndarray | None = None


# -------------------------------------------------------------------------------------- a checkpoint


def evaluate(
    checkpoint: Path, corpus: Corpus, folder: Path, run_id: str, *, precision: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a checkpoint folder and write ``ranks.npz`` and ``eval.json`` into ``folder``.

    Returns:
        The record, as in ``eval.json``.

    Raises:
        InputError: no usable checkpoint, or a shard is missing or damaged.
    """
    start = time.monotonic()
    how = model.numerics(precision)
    clip = model.load(checkpoint, how.attention).eval()
    if how.attention == "fused":
        clip = clip.cuda()
    ranked = rank_everything(clip, corpus, how)
    metrics = metric_rows(ranked, corpus)
    seconds = round(time.monotonic() - start, 2)
    record = {
        "schema_version": records.SCHEMA_VERSION, "run_id": run_id,
        "checkpoint_hash": records.digest((checkpoint / model.WEIGHTS).read_bytes()),
        "code_hash": records.code_hash(records.EVALUATE_CODE), "corpus_hash": corpus.hash,
        "commit": records.commit(), "versions": records.versions(), "hardware": records.hardware(),
        "seconds": seconds, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "prompt_hash": prompt_hash(), "precision": how.precision, "metrics": metrics,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    records.write_atomic(folder / "ranks.npz", pack(ranked))
    records.write_record(folder / "eval.json", record)
    say(
        f"{run_id}: evaluated {sum(len(r.rank) for r in ranked.values()):,} ranks in {seconds:.0f} s"
    )
    return record


def rank_everything(clip: Any, corpus: Corpus, how: model.Numerics) -> dict[str, Ranked]:
    """Ranks of every zero-shot task, of retrieval in both directions, and of the validation pool."""
    rows = dict(zip(corpus.pairs["key"], range(len(corpus.pairs))))
    ranked = {name: zero_shot(clip, corpus, name, rows, how) for name in corpus.manifest["tasks"]}
    ranked |= retrieval(clip, held_out_pool(corpus), rows, how, "retrieval")
    ranked |= retrieval(clip, validation_pool(corpus), rows, how, "validation")
    return ranked


# ------------------------------------------------------------------------------------------- tasks


def zero_shot(
    clip: Any, corpus: Corpus, task: str, rows: Mapping[str, int], how: model.Numerics
) -> Ranked:
    """Zero-shot classification of one task: images against class embeddings of prompt ensembles."""
    about = corpus.manifest["tasks"][task]
    pairs, truth = task_items(corpus, task)
    scores = (
        image_features(clip, pairs.images, how) @ class_embeddings(clip, about["classes"], how).T
    )
    rank = ranks_of_truth(scores, truth)
    tolerant = rank.copy()
    for name, others in about.get("synonyms", {}).items():
        own = np.flatnonzero(truth == int(name))
        for other in others:
            tolerant[own] = np.minimum(
                tolerant[own], ranks_of_truth(scores[own], np.full(len(own), other))
            )
    return Ranked(rank, np.array([rows[k] for k in pairs.keys]), scores.shape[1], truth, tolerant)


def task_items(corpus: Corpus, task: str) -> tuple[Pairs, np.ndarray]:
    """The pairs of a zero-shot task and the class index of each, in shard order."""
    about = corpus.manifest["tasks"][task]
    pairs = load_split(corpus, about["split"])
    place = dict(zip(corpus.pairs["key"], corpus.pairs["class"]))
    truth = np.array([place[key] for key in pairs.keys])
    inside = np.flatnonzero(truth >= 0)
    return pairs.take(inside), truth[inside]


def retrieval(
    clip: Any, pool: Pairs, rows: Mapping[str, int], how: model.Numerics, name: str
) -> dict[str, Ranked]:
    """Image-to-text and text-to-image ranks in a pool, with each item's InfoNCE at the learned scale."""
    image = image_features(clip, pool.images, how)
    text = text_features(clip, [captions[0] for captions in pool.captions], how)
    truth, item = np.arange(len(pool)), np.array([rows[key] for key in pool.keys])
    outcome = {}
    for direction, scores in (("i2t", image @ text.T), ("t2i", text @ image.T)):
        rank = ranks_of_truth(scores, truth)
        logits = scores.astype(np.float64) * clip.logit_scale.exp().item()
        top = logits.max(1, keepdims=True)
        loss = np.log(np.exp(logits - top).sum(1)) + top[:, 0] - np.diag(logits)
        outcome[f"{name}-{direction}"] = Ranked(
            rank, item, len(pool), truth, rank, loss.astype(np.float32)
        )
    return outcome


def held_out_pool(corpus: Corpus) -> Pairs:
    """The fixed pool of held-out pairs with distinct concepts, over all held-out families."""
    wanted = {key: place for place, key in enumerate(corpus.manifest["retrieval"])}
    found: dict[int, tuple[Pairs, int]] = {}
    for split in sorted({row["split"] for row in corpus.manifest["shards"]}):
        if split.startswith("test-"):
            pairs = load_split(corpus, split)
            found |= {wanted[key]: (pairs, i) for i, key in enumerate(pairs.keys) if key in wanted}
    if len(found) != len(wanted):
        raise InputError(
            f"{corpus.folder}: {len(wanted) - len(found)} pairs of the retrieval pool are missing"
        )
    return _gather([found[place] for place in range(len(wanted))])


def validation_pool(corpus: Corpus) -> Pairs:
    """The first :data:`POOL` validation pairs with distinct concepts: learning rates are chosen on it."""
    pairs = load_split(corpus, "val")
    first = {concept: i for i, concept in reversed(list(enumerate(pairs.concepts)))}
    return pairs.take(sorted(first.values())[:POOL])


def _gather(places: list[tuple[Pairs, int]]) -> Pairs:
    one = [pairs.take([i]) for pairs, i in places]
    return Pairs(
        images=np.concatenate([pairs.images for pairs in one]),
        captions=[pairs.captions[0] for pairs in one],
        concepts=[pairs.concepts[0] for pairs in one],
        keys=[pairs.keys[0] for pairs in one],
        labels=[pairs.labels[0] for pairs in one],
        rows=np.arange(len(one)),
    )


# ----------------------------------------------------------------------------------------- metrics


def metric_rows(ranked: Mapping[str, Ranked], corpus: Corpus) -> list[dict[str, Any]]:
    """Every metric of an evaluation, one row each, computed from the ranks alone.

    Columns: task, metric, value, chance, n_items, n_clusters, se, ci_low, ci_high. ``se`` and the 95%
    interval are clustered by concept.
    """
    concepts = concept_codes(corpus)
    rows = []
    for task, r in ranked.items():
        measures = retrieval_measures(r) if r.loss is not None else zero_shot_measures(r)
        rows += [
            _row(task, metric, values, chance, concepts[r.item])
            for metric, values, chance in measures
        ]
        if r.loss is None:
            rows += _covered(task, r, corpus, concepts)
            rows += _by_similarity(task, r, corpus, concepts)
    rows += _both_directions(ranked, concepts)
    if all(task in ranked for task in EMOJI):
        pooled = [ranked[task] for task in EMOJI]
        values = np.concatenate([k_way(r.rank, r.candidates, WAYS) for r in pooled])
        items = np.concatenate([r.item for r in pooled])
        rows.append(_row("emoji", K_WAY, values, 1 / WAYS, concepts[items]))
    return rows


def zero_shot_measures(r: Ranked) -> list[tuple[str, np.ndarray, float]]:
    """(metric, value per item, chance) of a classification task."""
    n = r.candidates
    return [
        ("top1", top_k(r.rank, 1), 1 / n),
        ("top5", top_k(r.rank, 5), min(1.0, 5 / n)),
        ("top1_synonyms", top_k(r.tolerant, 1), 1 / n),
        (K_WAY, k_way(r.rank, n, WAYS), 1 / WAYS),
    ]


def retrieval_measures(r: Ranked) -> list[tuple[str, np.ndarray, float]]:
    """(metric, value per item, chance) of one retrieval direction."""
    assert r.loss is not None
    recalls = [(f"recall_at_{k}", top_k(r.rank, k), k / r.candidates) for k in (1, 5, 10)]
    return [*recalls, ("infonce", r.loss, float(np.log(r.candidates)))]


def _covered(task: str, r: Ranked, corpus: Corpus, concepts: np.ndarray) -> list[dict[str, Any]]:
    """20-way accuracy on the classes whose name occurs in training at each smaller data scale."""
    parts = {
        f"{K_WAY}_covered_{scale}": np.isin(concepts[r.item], known)
        for scale, known in covered_concepts(corpus).items()
    }
    return _parts(task, r, parts, concepts)


def _by_similarity(
    task: str, r: Ranked, corpus: Corpus, concepts: np.ndarray
) -> list[dict[str, Any]]:
    """20-way accuracy by similarity to the nearest training picture, and below the stricter limit."""
    near = corpus.pairs["similarity"].to_numpy()[r.item].astype(float)
    parts = {f"{K_WAY}_similarity_below_{STRICT:.2f}": near < STRICT}
    for low, high in pairwise(SIMILARITY_EDGES):
        parts[f"{K_WAY}_similarity_{low:.2f}_to_{high:.2f}"] = (near >= low) & (near < high)
    return _parts(task, r, parts, concepts)


def _parts(
    task: str, r: Ranked, parts: Mapping[str, np.ndarray], concepts: np.ndarray
) -> list[dict[str, Any]]:
    """20-way accuracy on parts of a task's items; parts of fewer than two concepts are left out."""
    rows = []
    for metric, inside in parts.items():
        clusters = concepts[r.item[inside]]
        if len(np.unique(clusters)) > 1:
            values = k_way(r.rank[inside], r.candidates, WAYS)
            rows.append(_row(task, metric, values, 1 / WAYS, clusters))
    return rows


def concept_codes(corpus: Corpus) -> np.ndarray:
    """A number per concept, for every row of the table of pairs: what intervals cluster by."""
    return corpus.pairs["concept"].factorize()[0]


def covered_concepts(corpus: Corpus) -> dict[str, np.ndarray]:
    """Per data scale below the whole, the codes of the concepts that its training pairs name."""
    order = corpus.pairs["order"].to_numpy()
    train = (corpus.pairs["split"] == "train").to_numpy()
    scales = {
        name: size for name, size in corpus.manifest["data_scales"].items() if size < train.sum()
    }
    codes = concept_codes(corpus)
    return {name: np.unique(codes[train & (order < size)]) for name, size in scales.items()}


def _both_directions(ranked: Mapping[str, Ranked], concepts: np.ndarray) -> list[dict[str, Any]]:
    """Recall@5 and InfoNCE averaged over the two directions, item by item."""
    rows = []
    for pool in ("retrieval", "validation"):
        there, back = ranked[f"{pool}-i2t"], ranked[f"{pool}-t2i"]
        both = zip(retrieval_measures(there), retrieval_measures(back))
        rows += [
            _row(pool, m, (a + b) / 2, chance, concepts[there.item])
            for (m, a, chance), (_, b, _) in both
        ]
    return rows


def _row(
    task: str, metric: str, values: np.ndarray, chance: float, clusters: np.ndarray
) -> dict[str, Any]:
    e = clustered_mean(values, clusters)
    numbers = {
        "value": e.value,
        "chance": chance,
        "se": e.se,
        "ci_low": e.ci_low,
        "ci_high": e.ci_high,
    }
    return {
        "task": task, "metric": metric, "n_items": e.n_items, "n_clusters": e.n_clusters,
        **{name: round(float(number), 7) for name, number in numbers.items()},
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- files


def pack(ranked: Mapping[str, Ranked]) -> bytes:
    """The bytes of ``ranks.npz``: per task rank, item, truth, tolerant, candidates (and loss)."""
    arrays: dict[str, np.ndarray] = {}
    for task, r in ranked.items():
        for name in ("rank", "item", "truth", "tolerant"):
            arrays[f"{task}.{name}"] = getattr(r, name).astype(np.int32)
        arrays[f"{task}.candidates"] = np.array(r.candidates, np.int32)
        if r.loss is not None:
            arrays[f"{task}.loss"] = r.loss.astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(path: Path) -> dict[str, Ranked]:
    """Read ``ranks.npz`` back.

    Raises:
        InputError: no such file, or it is damaged.
    """
    try:
        with np.load(path) as arrays:
            tasks = [name.removesuffix(".rank") for name in arrays.files if name.endswith(".rank")]
            return {task: _unpacked(arrays, task) for task in tasks}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: no readable ranks ({error}); evaluate the run again") from None


def _unpacked(arrays: Any, task: str) -> Ranked:
    return Ranked(
        rank=arrays[f"{task}.rank"],
        item=arrays[f"{task}.item"],
        candidates=int(arrays[f"{task}.candidates"]),
        truth=arrays[f"{task}.truth"],
        tolerant=arrays[f"{task}.tolerant"],
        loss=arrays[f"{task}.loss"] if f"{task}.loss" in arrays.files else None,
    )
