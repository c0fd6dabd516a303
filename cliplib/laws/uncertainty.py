"""How sure: bootstrap of runs through a whole recipe, and Student's t for a plain line.

Resample the runs, not the frontier's points: those are minima, chosen from the runs, and each
carries the luck of that choice. How often the intervals cover is measured in ``coverage``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit

from cliplib import InputError
from cliplib.laws.fitting import Fit
from cliplib.laws.inputs import Array
from cliplib.laws.recipe import Recipe
from cliplib.laws.resample import check_columns, resamples, resampling_units
from cliplib.laws.wild import WANTED, wild_values

FEW_CLUSTERS = 10
MOST_FAILED = 0.1
METHODS = ("percentile", "expanded", "basic")


class Interval(NamedTuple):
    """An interval for a parameter; kind says in words how it was made."""

    low: float
    high: float
    level: float
    kind: str


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws: values has shape (n - failed, number of parameters), columns as names.

    estimate: the parameters of the runs themselves, shape as one row of values. units: how many
    runs or clusters were resampled. warnings: what to know before trusting an interval.
    """

    names: tuple[str, ...]
    values: Array
    kind: str
    seed: int
    failed: int = 0
    estimate: Array = field(default_factory=lambda: np.empty(0))
    units: int = 0
    warnings: tuple[str, ...] = ()

    def ci(self, level: float = 0.95, method: str = "percentile") -> dict[str, Interval]:
        """An interval for each parameter.

        - ``percentile``: the middle of the draws. Too short for few runs.
        - ``expanded``: the percentile interval with its tails moved out for few runs: the normal
          quantile z becomes t with m - 1 degrees of freedom times sqrt(m / (m - 1)), m runs or
          clusters (Hesterberg 2015, section 5.3). Wants many draws: 2000 or more.
        - ``basic``: the draws mirrored at the estimate.
        """
        if method not in METHODS:
            raise InputError(f"unknown interval '{method}'; known: {', '.join(METHODS)}")
        tail = (1 - level) / 2
        if method == "expanded":
            tail = _expanded(tail, self.units)
        bounds = np.quantile(self.values, [tail, 1 - tail], axis=0)
        if method == "basic":
            bounds = 2 * self.estimate - bounds[::-1]
        kind = f"{method}, {self.kind}"
        return {
            name: Interval(float(low), float(high), level, kind)
            for name, (low, high) in zip(self.names, bounds.T, strict=True)
        }

    def se(self) -> dict[str, float]:
        """Standard deviation of the draws of each parameter."""
        return dict(zip(self.names, map(float, self.values.std(0, ddof=1)), strict=True))


def _expanded(tail: float, units: int) -> float:
    return float(ndtr(np.sqrt(units / (units - 1)) * stdtrit(units - 1, tail)))


def bootstrap(
    recipe: Callable[[pd.DataFrame], Mapping[str, float]],
    runs: pd.DataFrame,
    n: int = 1000,
    seed: int = 0,
    strata: str | None = None,
    cluster: str | None = None,
    how: str = "run",
) -> Draws:
    """Put many samples of the runs through the whole recipe.

    recipe: any callable from a table of runs to parameters by name; for a `Recipe` all samples
    are fitted together, hundreds of times faster than one by one.
    how: ``run`` draws runs with replacement. ``wild`` keeps the runs and redraws their errors:
    the fitted law times its residuals with random signs and sizes (Webb's six weights); only for
    a `Recipe` without a frontier.
    strata: a column; each of its groups keeps its number of runs. cluster: a column; its groups
    are drawn whole, or share their sign if wild. A sample that the recipe refuses is drawn but
    not counted; their number is in ``failed``. Same seed, same draws.
    InputError: fewer than 5 runs or clusters, an unknown column or way, or more than a tenth of
    the samples refused.
    """
    if n < 2:
        raise InputError(f"a bootstrap needs 2 or more draws, got {n}")
    if how not in ("run", "wild"):
        raise InputError(f"unknown bootstrap '{how}'; known: run, wild")
    check_columns(runs, strata, cluster)
    units = resampling_units(runs, strata, cluster)
    total = sum(map(len, units))
    rng = np.random.default_rng(seed)
    estimate: Mapping[str, float]
    if how == "wild":
        if not isinstance(recipe, Recipe):
            raise InputError(WANTED)
        if strata is not None:
            raise InputError("the wild bootstrap draws no runs, so strata have no meaning there")
        flat = [rows for group in units for rows in group]
        estimate, values = wild_values(recipe, runs, flat, n, rng)
    else:
        estimate = recipe(runs)
        values = _run_values(recipe, runs, estimate, units, n, rng)
    done = np.isfinite(values).all(1)
    failed = int(n - done.sum())
    if failed > MOST_FAILED * n:
        raise InputError(
            f"{failed} of {n} bootstrap samples could not be fitted: too few runs for this recipe"
        )
    return Draws(
        tuple(estimate),
        values[done],
        _kind(how, n, strata, cluster, total),
        seed,
        failed,
        np.array(list(estimate.values())),
        total,
        _warnings(cluster, total),
    )


def _run_values(
    recipe: Callable[[pd.DataFrame], Mapping[str, float]],
    runs: pd.DataFrame,
    estimate: Mapping[str, float],
    units: list[list[np.ndarray]],
    n: int,
    rng: np.random.Generator,
) -> Array:
    """Parameters of each resample, shape (n, p); nan where the recipe refuses."""
    drawn = resamples(units, n, rng)
    if isinstance(recipe, Recipe):
        return recipe.batch(runs, drawn.counts(len(runs)), start=estimate)
    values = np.full((n, len(estimate)), np.nan)
    for i, rows in enumerate(drawn.rows()):
        try:
            params = recipe(runs.iloc[rows])
        except InputError:
            continue
        values[i] = [params[name] for name in estimate]
    return values


def _kind(how: str, n: int, strata: str | None, cluster: str | None, total: int) -> str:
    unit = f"{total} clusters by {cluster}" if cluster else "runs"
    within = f" within {strata}" if strata else ""
    wild = "wild " if how == "wild" else ""
    return f"{wild}bootstrap of {unit}{within}, {n} draws"


def _warnings(cluster: str | None, total: int) -> tuple[str, ...]:
    if cluster is None or total >= FEW_CLUSTERS:
        return ()
    return (
        f"only {total} clusters by {cluster}: the interval rests on {total} independent pieces; "
        "read it as rough (the expanded interval of the wild bootstrap covers best)",
    )


def t_interval(fitted: Fit, level: float = 0.95) -> dict[str, Interval]:
    """Student's t interval of a power law's alpha and beta, with n - 2 degrees of freedom.

    Takes the points as independent with equal scatter in ln E: honest for a line through all
    runs, too hopeful for the points of a frontier. InputError for any other law or loss.
    """
    if fitted.law != "power" or fitted.loss != "l2":
        what = fitted.law if fitted.law != "power" else fitted.loss
        raise InputError(f"t_interval is for the power law by l2, not for '{what}'; use bootstrap")
    half = float(stdtrit(fitted.dof, (1 + level) / 2)) * np.sqrt(np.diag(fitted.cov))
    alpha, beta = fitted.params["alpha"], fitted.params["beta"]
    factor = float(np.exp(half[1] / beta))  # the interval of ln beta, carried back
    kind = f"t, {fitted.dof} degree{'s' if fitted.dof > 1 else ''} of freedom"
    return {
        "alpha": Interval(alpha - float(half[0]), alpha + float(half[0]), level, kind),
        "beta": Interval(beta / factor, beta * factor, level, kind),
    }
