"""Where two laws meet, and how little that may be known.

A crossover is a ratio: a difference of levels over a difference of slopes. Where the slopes may be
equal its interval is unbounded, or everything *but* an interval, and is reported so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.compare import check_columns, t_quantile
from cliplib.laws.fitting import Fit
from cliplib.laws.inputs import Array
from cliplib.laws.lines import Lines, lines
from cliplib.laws.recipe import Recipe
from cliplib.laws.uncertainty import Draws, bootstrap

REACH = 1e6  # how far beyond the runs a crossover is looked for, as a factor of x
GRID = 801


@dataclass(frozen=True)
class Region:
    """Values of x at which the two laws may be equal: a union of intervals, or why there is none.

    A low of 0 or a high of inf is no bound (for a bootstrap: none within `REACH` of the runs).
    """

    method: str
    intervals: tuple[tuple[float, float], ...]
    level: float
    reason: str = ""

    @property
    def shape(self) -> str:
        """bounded, half-open, disjoint, everything, empty or none (no region could be made)."""
        if self.reason:
            return "none"
        if not self.intervals:
            return "empty"
        if len(self.intervals) > 1:
            return "disjoint"
        low, high = self.intervals[0]
        if low == 0 and high == np.inf:
            return "everything"
        return "bounded" if low > 0 and high < np.inf else "half-open"

    def words(self) -> str:
        """The region in a sentence."""
        head = f"{100 * self.level:g}% {self.method}: "
        if self.reason:
            return head + f"none, {self.reason}"
        if self.shape == "empty":
            return head + "the laws meet nowhere"
        if self.shape == "everything":
            return head + "any x: these runs do not tell where the laws meet, nor whether"
        return head + " or ".join(_span(low, high) for low, high in self.intervals)


def _span(low: float, high: float) -> str:
    if low == 0:
        return f"below {high:.3g}"
    return f"above {low:.3g}" if high == np.inf else f"{low:.3g} to {high:.3g}"


@dataclass(frozen=True)
class Crossover:
    """Where the laws of two groups meet. at: x of every crossing within `REACH`, in order.

    inside: the crossings in ``shared``, the range of x that both groups cover (None: they share
    none). regions: Fieller's (power laws through all runs) and the bootstrap's.
    """

    groups: tuple[str, str]
    at: tuple[float, ...]
    shared: tuple[float, float] | None
    regions: tuple[Region, ...]

    @property
    def inside(self) -> tuple[float, ...]:
        """The crossings in the range that both groups cover."""
        low, high = self.shared or (np.inf, -np.inf)
        return tuple(x for x in self.at if low <= x <= high)

    def words(self) -> list[str]:
        """What is known, in sentences."""
        first, second = self.groups
        found = ", ".join(f"{x:.3g}" for x in self.at)
        met = f"at {found}" if self.at else f"nowhere within a factor {REACH:g} of the runs"
        said = [f"the laws of {first} and {second} meet {met}"]
        if self.shared is None:
            said.append("the two groups share no range of x: any crossover is extrapolated")
        elif not self.inside:
            low, high = self.shared
            said.append(f"no crossover inside the range that both cover, {low:.3g} to {high:.3g}")
        return [*said, *(region.words() for region in self.regions)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an end without a bound is null."""
        regions = [
            {
                "method": region.method,
                "level": region.level,
                "shape": region.shape,
                "intervals": [[low or None, _finite(high)] for low, high in region.intervals],
                "reason": region.reason,
            }
            for region in self.regions
        ]
        places = {"at": list(self.at), "inside": list(self.inside), "shared": self.shared}
        return {"groups": list(self.groups), **places, "regions": regions}

    def to_markdown(self) -> str:
        """The sentences as a list, under a title."""
        return "Where the laws meet\n\n" + "\n".join(f"- {line}" for line in self.words())


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def crossover(
    runs: pd.DataFrame,
    by: str,
    recipe: Recipe | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Crossover:
    """The x at which the laws of two groups give the same y, with regions that may be unbounded.

    by: a column with two groups. recipe: how each group is fitted, in one variable (default: the
    power law through all runs). n: bootstrap samples of each group's runs, 0 for none.

    Fieller (1954): all x at which the difference of the two lines is within t standard errors of
    zero, scatter pooled. Bootstrap: all x at which the interval of that difference, over draws of
    both groups, contains zero; it suits any law and frontier.
    InputError: other than two groups, a law in several variables, a group that cannot be fitted.
    """
    recipe = recipe or Recipe()
    if not isinstance(recipe.x, str):
        raise InputError("a crossover needs a law in one variable")
    check_columns(runs, [by, recipe.x, recipe.y])
    codes, names = pd.factorize(runs[by])
    if len(names) != 2:
        raise InputError(f"column {by} has {len(names)} groups; a crossover is between two")
    groups = [runs[codes == code] for code in (0, 1)]
    fits = [recipe.fit(group) for group in groups]
    x = [np.log(group[recipe.x].to_numpy(dtype=float)) for group in groups]
    lowest, highest = min(map(np.min, x)), max(map(np.max, x))
    grid = np.linspace(lowest - np.log(REACH), highest + np.log(REACH), GRID)
    shared = max(map(np.min, x)), min(map(np.max, x))
    regions, plain = [], Recipe(x=recipe.x, y=recipe.y)
    if recipe.form.name == "power" and replace(recipe, law="power") == plain:
        regions.append(_fieller(np.concatenate(x), runs, recipe, codes, level))
    if n:
        regions.append(_bootstrapped(recipe, groups, fits, grid, n, seed, level))
    return Crossover(
        groups=(str(names[0]), str(names[1])),
        at=tuple(np.exp(_crossings(grid, _gap(fits, grid), fits)).tolist()),
        shared=(float(np.exp(shared[0])), float(np.exp(shared[1])))
        if shared[0] < shared[1]
        else None,
        regions=tuple(regions),
    )


def _gap(fits: Sequence[Fit], x: Array) -> Array:
    """Ln y of the second law minus that of the first, at ln x."""
    first, second = (np.log(fit.predict(np.exp(x))) for fit in fits)
    return np.asarray(second - first)


def _crossings(grid: Array, gap: Array, fits: Sequence[Fit]) -> Array:
    """Ln x of the sign changes of the gap, refined."""
    from scipy.optimize import brentq

    change = np.flatnonzero(np.sign(gap[:-1]) * np.sign(gap[1:]) < 0)
    return np.array(
        [brentq(lambda x: float(_gap(fits, np.array([x]))[0]), *grid[i : i + 2]) for i in change]
    )


def _fieller(
    x: Array, runs: pd.DataFrame, recipe: Recipe, codes: np.ndarray, level: float
) -> Region:
    order = np.argsort(codes, kind="stable")  # x comes group by group
    y = np.log(runs[recipe.y].to_numpy(dtype=float))[order]
    found = lines(x, y, codes[order])
    method = f"Fieller, {found.dof} degrees of freedom"
    intervals = _quadratic(found, level)
    return Region(method, tuple((_exp(low), _exp(high)) for low, high in intervals), level)


def _exp(x: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(x))


def _quadratic(found: Lines, level: float) -> list[tuple[float, float]]:
    """Ln x where |difference of the lines| <= t se: a quadratic inequality p x^2 + q x + r <= 0."""
    centre = float(found.mean_x.mean())
    m = found.mean_x - centre
    slope = found.slope[1] - found.slope[0]
    at_centre = found.mean_y[1] - found.mean_y[0] - found.slope[1] * m[1] + found.slope[0] * m[0]
    t2 = t_quantile(found.dof, level) ** 2 * found.sse / found.dof
    p = slope**2 - t2 * (1 / found.sxx).sum()
    q = 2 * (slope * at_centre + t2 * (m / found.sxx).sum())
    r = at_centre**2 - t2 * (1 / found.n + m**2 / found.sxx).sum()
    root = q**2 - 4 * p * r
    if root <= 0:  # then p < 0: at the crossing itself the difference is 0, so some x is allowed
        return [(-np.inf, np.inf)]
    low, high = sorted((-q + sign * np.sqrt(root)) / (2 * p) + centre for sign in (-1, 1))
    return [(low, high)] if p > 0 else [(-np.inf, low), (high, np.inf)]


def _bootstrapped(
    recipe: Recipe,
    groups: Sequence[pd.DataFrame],
    fits: Sequence[Fit],
    grid: Array,
    n: int,
    seed: int,
    level: float,
) -> Region:
    method = f"bootstrap of the runs of each group, {n} draws"
    curves = []
    for g, (group, fitted) in enumerate(zip(groups, fits, strict=True)):
        try:
            curves.append(_curves(bootstrap(recipe, group, n, seed + g), fitted, grid))
        except InputError as error:
            return Region(method, (), level, str(error))
    smallest = min(map(len, curves))
    gaps = curves[1][:smallest] - curves[0][:smallest]
    low, high = np.quantile(gaps, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Region(method, tuple(_runs_of((low <= 0) & (high >= 0), grid, low, high)), level)


def _curves(draws: Draws, fitted: Fit, grid: Array) -> Array:
    """Ln y of every draw at ln x of the grid, shape (draws, len(grid))."""
    theta = fitted.form.internal(draws.values)
    return np.asarray(fitted.form.log_predict(theta, grid[None, :]))


def _runs_of(
    allowed: np.ndarray, grid: Array, low: Array, high: Array
) -> list[tuple[float, float]]:
    """The stretches of the grid that are allowed, their ends interpolated, as x."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], allowed.astype(int), [0]])))
    spans = []
    for first, after in edges.reshape(-1, 2):
        start = 0.0 if first == 0 else np.exp(_zero(grid, low, high, first - 1))
        end = np.inf if after == len(grid) else np.exp(_zero(grid, low, high, after - 1))
        spans.append((float(start), float(end)))
    return spans


def _zero(grid: Array, low: Array, high: Array, i: int) -> float:
    """Ln x between points i and i + 1 at which the bound that changes sign is zero."""
    bound = low if (low[i] > 0) != (low[i + 1] > 0) else high
    step = bound[i] / (bound[i] - bound[i + 1])
    return float(grid[i] + step * (grid[i + 1] - grid[i]))
