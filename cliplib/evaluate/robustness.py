"""Robustness: the mean over shifted sets, and what of it is more than a better model would have.

The paper's robustness is the plain mean of the accuracies on five shifted ImageNets. Effective
robustness (Taori et al. 2020) asks how far that mean lies above what models of the same accuracy in
distribution have; both are compared as logits, where models of one kind lie on a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.evaluate.metrics import K_WAY, WAYS, Row, estimate_row
from cliplib.evaluate.outcomes import Ranked
from cliplib.evaluate.ranks import Estimate, clustered_mean, k_way, top_k

IN_DISTRIBUTION = "validation-names"
#: The shifted sets, by artist: three emoji sets are one artist's. Small sets are not averaged in.
ARTISTS = {
    "fluent emoji": ("emoji-flat", "emoji-3d", "emoji-mono"),
    "phosphor": ("phosphor",),
    "game icons": ("game-icons",),
    "health icons": ("healthicons",),
}
ROBUSTNESS = "robustness"
LEAST = 0.10  # an accuracy below this is not compared (fixed before the runs)


# ------------------------------------------------------------------------------ the mean over shifted sets


def mean_over(parts: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> Estimate:
    """A weighted mean of the means of several sets, with an interval clustered across them.

    Args:
        parts: of each set the values of its items, their clusters, and its weight.
    """
    values, clusters = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
    weights = np.concatenate([np.full(len(v), w / len(v)) for v, _, w in parts])
    centred = np.concatenate([v - v.mean() for v, _, _ in parts])
    spread = clustered_mean(centred, clusters, weights=weights)  # sets differ in level: not noise
    mean = float(np.sum(weights * values) / weights.sum())
    return Estimate(
        mean, spread.se, mean + spread.ci_low, mean + spread.ci_high, len(values), spread.n_clusters
    )


def robustness_rows(ranked: Mapping[str, Ranked]) -> list[Row]:
    """The mean over the held-out artists of top-1 and of 20-way accuracy; none if one is missing."""
    if not all(task in ranked for tasks in ARTISTS.values() for task in tasks):
        return []
    weighted = [
        (ranked[task], 1 / len(ARTISTS) / len(tasks))
        for tasks in ARTISTS.values()
        for task in tasks
    ]
    top1 = [(top_k(r.rank, 1), r.cluster, w) for r, w in weighted]
    ways = [(k_way(r.rank, r.candidates, WAYS), r.cluster, w) for r, w in weighted]
    guess = sum(w / r.candidates for r, w in weighted)
    return [
        estimate_row(ROBUSTNESS, "top1", mean_over(top1), guess),
        estimate_row(ROBUSTNESS, K_WAY, mean_over(ways), 1 / WAYS),
    ]


# ------------------------------------------------------------------------------------ effective robustness


@dataclass(frozen=True)
class Baseline:
    """The line logit(shifted) = intercept + slope logit(in distribution) of the models it was fitted to."""

    intercept: float
    slope: float
    n_models: int

    def expected(self, in_distribution: np.ndarray) -> np.ndarray:
        """The accuracy under shift that the line gives to accuracies in distribution."""
        z = self.intercept + self.slope * logit(in_distribution)
        return 1 / (1 + np.exp(-z))


def logit(accuracy: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of an accuracy between 0 and 1, both excluded."""
    p = np.asarray(accuracy, float)
    return np.log(p) - np.log1p(-p)


def baseline(in_distribution: np.ndarray, shifted: np.ndarray) -> Baseline:
    """Fit the line to models, by least squares in logits.

    Raises:
        InputError: an accuracy is at or below 10%, or is 1; or fewer than three models are left.
    """
    x, y = np.asarray(in_distribution, float), np.asarray(shifted, float)
    if (np.minimum(x, y) <= LEAST).any() or (np.maximum(x, y) >= 1).any():
        raise InputError(
            f"effective robustness: an accuracy is at most {LEAST:.0%} or is 1; leave such models out "
            "(`comparable` says which)"
        )
    if len(x) < 3:
        raise InputError(
            f"effective robustness: {len(x)} models have both accuracies above {LEAST:.0%}; a line "
            "needs three or more"
        )
    slope, intercept = np.polyfit(logit(x), logit(y), 1)
    return Baseline(float(intercept), float(slope), len(x))


def comparable(in_distribution: np.ndarray, shifted: np.ndarray) -> np.ndarray:
    """Which models may be compared: both accuracies above 10% and below 1."""
    low, high = np.minimum(in_distribution, shifted), np.maximum(in_distribution, shifted)
    return (low > LEAST) & (high < 1)


def effective_robustness(table: pd.DataFrame, metric: str = "top1") -> pd.DataFrame:
    """Every run's accuracy in distribution and under shift, and its distance from the common line.

    Args:
        table: rows of runs and metrics, as ``runs.csv``: run_id, task, metric, value, se.
        metric: the accuracy that is compared.

    Returns:
        One row a run: run_id, in_distribution, shifted, se (of shifted), compared, expected, effective
        (shifted - expected, as accuracy; positive: more robust than runs of its accuracy). The last two
        are empty where fewer than three runs can be compared, and for runs that cannot.
    """
    chosen = table[table["metric"] == metric].set_index("run_id")
    own = chosen[chosen["task"] == IN_DISTRIBUTION]["value"].rename("in_distribution")
    under = chosen[chosen["task"] == ROBUSTNESS][["value", "se"]]
    found = under.rename(columns={"value": "shifted"}).join(own, how="inner").reset_index()
    keep = comparable(found["in_distribution"].to_numpy(), found["shifted"].to_numpy())
    found = found.assign(compared=keep, expected=np.nan, effective=np.nan)
    if keep.sum() >= 3:
        x, y = (found.loc[keep, name].to_numpy() for name in ("in_distribution", "shifted"))
        found.loc[keep, "expected"] = baseline(x, y).expected(x)
        found["effective"] = found["shifted"] - found["expected"]
    columns = ["run_id", "in_distribution", "shifted", "se", "compared", "expected", "effective"]
    return found[columns].sort_values("in_distribution", ignore_index=True)
