"""From the rank of the truth to every metric: accuracy, recall, k-way accuracy, clustered intervals.

A rank is 1 for the best score. Everything reported about a model is computed from the ranks that its
evaluation stores, so any metric can be had later without the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats


def ranks_of_truth(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank of the true candidate in each row.

    Args:
        scores: (n, candidates), higher is better.
        truth: (n,) column of the true candidate.

    Returns:
        (n,) int32, 1 = best. Ties count against the model, so a collapsed model ranks last, not first.
    """
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    return (scores >= own).sum(axis=1).astype(np.int32)


def top_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """Per item, 1.0 if the truth is among the best ``k`` (top-k accuracy, Recall@k), else 0.0."""
    return (ranks <= k).astype(float)


def k_way(ranks: np.ndarray, candidates: int, k: int) -> np.ndarray:
    """Per item, the expected accuracy if ``k - 1`` of the wrong candidates were drawn at random.

    With ``r - 1`` better among ``candidates - 1`` wrong ones, the truth wins when none of them is
    drawn: C(candidates - r, k - 1) / C(candidates - 1, k - 1). Chance is 1 / k.

    >>> k_way(np.array([1, 2, 3]), candidates=3, k=2)
    array([1. , 0.5, 0. ])
    """
    if not 2 <= k <= candidates:
        raise ValueError(f"k = {k} must be from 2 to the {candidates} candidates")

    def log_choose(n: np.ndarray | int, m: int) -> np.ndarray:
        return special.gammaln(n + 1.0) - special.gammaln(m + 1.0) - special.gammaln(n - m + 1.0)

    left = candidates - ranks  # wrong candidates that score lower
    possible = left >= k - 1
    log_share = log_choose(np.where(possible, left, k - 1), k - 1) - log_choose(
        candidates - 1, k - 1
    )
    return np.where(possible, np.exp(log_share), 0.0)


@dataclass(frozen=True)
class Estimate:
    """A mean over items with its clustered uncertainty."""

    value: float
    se: float
    ci_low: float
    ci_high: float
    n_items: int
    n_clusters: int


def clustered_mean(
    values: np.ndarray,
    clusters: np.ndarray,
    level: float = 0.95,
    weights: np.ndarray | None = None,
) -> Estimate:
    """Mean of ``values`` with a standard error and a t interval that treat each cluster as one draw.

    Six styles of one drawing are not six observations. The variance is that of the cluster totals of
    weighted deviations, with the usual G / (G - 1) correction (Liang and Zeger 1986).

    Args:
        values: (n,) one an item.
        clusters: (n,) which items belong together.
        level: of the interval.
        weights: (n,) of the mean; None: all equal.

    Raises:
        ValueError: fewer than two clusters.
    """
    _, ids = np.unique(clusters, return_inverse=True)
    count = int(ids.max()) + 1
    if count < 2:
        raise ValueError("an interval needs at least two clusters")
    shares = np.full(len(values), 1 / len(values)) if weights is None else weights / weights.sum()
    mean = float(np.sum(shares * values))
    totals = np.bincount(ids, weights=shares * (values - mean))
    se = float(np.sqrt(count / (count - 1) * np.sum(totals**2)))
    half = float(stats.t.ppf(0.5 + level / 2, count - 1)) * se
    return Estimate(mean, se, mean - half, mean + half, len(values), count)
