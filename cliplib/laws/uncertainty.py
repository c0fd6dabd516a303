"""How sure: bootstrap of runs through a whole recipe, and Student's t for a plain line.

Resample the runs, not the frontier's points: those are minima, chosen from the runs, and each
carries the luck of that choice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from cliplib import InputError
from cliplib.laws.fitting import Fit
from cliplib.laws.inputs import Array

FEWEST_RUNS = 5
MOST_FAILED = 0.1


class Interval(NamedTuple):
    """An interval for a parameter; kind says in words how it was made."""

    low: float
    high: float
    level: float
    kind: str


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws: values has shape (n - failed, number of parameters), columns as names."""

    names: tuple[str, ...]
    values: Array
    kind: str
    seed: int
    failed: int = 0

    def ci(self, level: float = 0.95) -> dict[str, Interval]:
        """Percentile interval of each parameter."""
        tail = (1 - level) / 2
        bounds = np.quantile(self.values, [tail, 1 - tail], axis=0).T
        kind = f"percentile, {self.kind}"
        return {
            name: Interval(float(low), float(high), level, kind)
            for name, (low, high) in zip(self.names, bounds, strict=True)
        }

    def se(self) -> dict[str, float]:
        """Standard deviation of the draws of each parameter."""
        return dict(zip(self.names, map(float, self.values.std(0, ddof=1)), strict=True))


def bootstrap(
    recipe: Callable[[pd.DataFrame], Mapping[str, float]],
    runs: pd.DataFrame,
    n: int = 1000,
    seed: int = 0,
    strata: str | None = None,
    cluster: str | None = None,
) -> Draws:
    """Resample runs with replacement and put each sample through the whole recipe.

    recipe: any callable from a table of runs to parameters by name (a `Recipe`, or your own).
    strata: a column; each of its groups keeps its number of runs. cluster: a column; its groups
    are drawn whole. A sample that the recipe refuses is drawn but not counted; their number is
    in ``failed``. Same seed, same draws. InputError: fewer than 5 runs or clusters, an unknown
    column, or more than a tenth of the samples refused.
    """
    if n < 2:
        raise InputError(f"a bootstrap needs 2 or more draws, got {n}")
    units = _units(runs, strata, cluster)
    names = tuple(recipe(runs))
    rng = np.random.default_rng(seed)
    values, failed = [], 0
    for _ in range(n):
        rows = np.concatenate(
            [group[i] for group in units for i in rng.integers(len(group), size=len(group))]
        )
        try:
            params = recipe(runs.iloc[rows])
        except InputError:
            failed += 1
            continue
        values.append([params[name] for name in names])
    if failed > MOST_FAILED * n:
        raise InputError(
            f"{failed} of {n} bootstrap samples could not be fitted: too few runs for this recipe"
        )
    return Draws(names, np.array(values), _kind(n, strata, cluster), seed, failed)


def _units(runs: pd.DataFrame, strata: str | None, cluster: str | None) -> list[list[np.ndarray]]:
    """For each stratum its resampling units, each an array of row numbers."""
    for column in (strata, cluster):
        if column is not None and column not in runs.columns:
            raise InputError(f"no column {column} in the runs; there are {list(runs.columns)}")
    rows = np.arange(len(runs))
    label = runs[cluster].to_numpy() if cluster else rows
    layer = runs[strata].to_numpy() if strata else np.zeros(len(runs))
    units = [
        [rows[(layer == s) & (label == c)] for c in pd.unique(label[layer == s])]
        for s in pd.unique(layer)
    ]
    total = sum(map(len, units))
    if total < FEWEST_RUNS:
        what = "clusters" if cluster else "runs"
        raise InputError(
            f"{total} {what} are too few to resample (at least {FEWEST_RUNS}); "
            "for a straight line use t_interval"
        )
    return units


def _kind(n: int, strata: str | None, cluster: str | None) -> str:
    unit = f"clusters by {cluster}" if cluster else "runs"
    within = f" within {strata}" if strata else ""
    return f"bootstrap of {unit}{within}, {n} draws"


def t_interval(fitted: Fit, level: float = 0.95) -> dict[str, Interval]:
    """Student's t interval of a power law's alpha and beta, with n - 2 degrees of freedom.

    Takes the points as independent with equal scatter in ln E: honest for a line through all
    runs, too hopeful for the points of a frontier. InputError for any other law.
    """
    if fitted.law != "power":
        raise InputError(f"t_interval is for the power law, not for '{fitted.law}'; use bootstrap")
    half = float(stdtrit(fitted.dof, (1 + level) / 2)) * np.sqrt(np.diag(fitted.cov))
    alpha, beta = fitted.params["alpha"], fitted.params["beta"]
    factor = float(np.exp(half[1] / beta))  # the interval of ln beta, carried back
    kind = f"t, {fitted.dof} degree{'s' if fitted.dof > 1 else ''} of freedom"
    return {
        "alpha": Interval(alpha - float(half[0]), alpha + float(half[0]), level, kind),
        "beta": Interval(beta / factor, beta * factor, level, kind),
    }
