"""From ranks to the rows of a table: value, chance, items, clustered interval.

Columns: task, metric, value, chance, n_items, n_clusters, se, ci_low, ci_high. Nothing here needs the
model, so any number can be had later from the stored ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from cliplib.evaluate.outcomes import MULTILABEL, RETRIEVAL, Ranked
from cliplib.evaluate.ranks import Estimate, clustered_mean, k_way, top_k

WAYS = 20
K_WAY = f"accuracy_{WAYS}_way"  # expected, from the ranks
RECALLS = (1, 5, 10)

Row = dict[str, Any]


def metric_rows(ranked: Mapping[str, Ranked]) -> list[Row]:
    """The usual metrics of every task, in order."""
    return [row for task, r in ranked.items() for row in task_rows(task, r)]


def task_rows(task: str, r: Ranked) -> list[Row]:
    """The usual metrics of one task, by its kind."""
    if r.kind == MULTILABEL:
        return [_mean_average_precision(task, r)]
    rows = [
        metric_row(task, metric, values, chance, r.cluster)
        for metric, values, chance in measures(r)
    ]
    if r.kind == RETRIEVAL:
        return rows
    return [*rows, _mean_per_class_recall(task, r)]


def measures(r: Ranked) -> list[tuple[str, np.ndarray, float]]:
    """(metric, value per item, chance) of a classification task or of a retrieval direction."""
    if r.kind == RETRIEVAL:
        recalls = [(f"recall_at_{k}", top_k(r.rank, k), _chance_at(r, k)) for k in RECALLS]
        return [*recalls, ("infonce", r.loss, float(np.log(r.candidates)))]
    n = r.candidates
    found = [("top1", top_k(r.rank, 1), 1 / n), ("top5", top_k(r.rank, 5), min(1.0, 5 / n))]
    if len(r.tolerant):
        found.append(("top1_synonyms", top_k(r.tolerant, 1), 1 / n))
    if n >= WAYS:
        found.append((K_WAY, k_way(r.rank, n, WAYS), 1 / WAYS))
    return found


def _chance_at(r: Ranked, k: int) -> float:
    """Recall@k of random order: one minus the chance that none of the right ones is among k."""
    wrong, n = r.candidates - r.right.astype(float), float(r.candidates)
    none = np.where(
        wrong >= k,
        np.exp(
            special.gammaln(wrong + 1) - special.gammaln(np.maximum(wrong - k, 0) + 1)
            - special.gammaln(n + 1) + special.gammaln(max(n - k, 0) + 1)
        ),
        0.0,
    )  # fmt: skip
    return float(1 - none.mean())


def _mean_per_class_recall(task: str, r: Ranked) -> Row:
    """The mean over classes of the accuracy within each: every class counts the same."""
    counts = np.bincount(r.truth)
    weights = 1 / counts[r.truth]
    chance = 1 / r.candidates
    return metric_row(task, "mean_per_class_recall", top_k(r.rank, 1), chance, r.cluster, weights)


def _mean_average_precision(task: str, r: Ranked) -> Row:
    """Mean over classes of the average precision; chance is a class's share of the images.

    The precision at an image of the class is its place among the class's images, over its rank.
    """
    order = np.lexsort((r.rank, r.truth))
    truth, rank = r.truth[order], r.rank[order]
    counts = np.bincount(truth)
    first = np.cumsum(counts) - counts
    precision = (np.arange(len(rank)) - first[truth] + 1) / rank
    weights = 1 / counts[truth]
    chance = float((counts / r.candidates).mean())
    metric = "mean_average_precision"
    return metric_row(task, metric, precision, chance, r.cluster[order], weights)


def metric_row(
    task: str, metric: str, values: np.ndarray, chance: float, clusters: np.ndarray,
    weights: np.ndarray | None = None,
) -> Row:  # fmt: skip
    """A row of the table; ``se`` and the 95% interval are clustered."""
    return estimate_row(task, metric, clustered_mean(values, clusters, weights=weights), chance)


def estimate_row(task: str, metric: str, e: Estimate, chance: float) -> Row:
    """A row of the table from an estimate."""
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
