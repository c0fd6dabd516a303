"""Where the error bar comes from: the test set, the seeds, or which runs there happened to be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib import InputError
from cliplib.laws.inputs import Array, positive
from cliplib.laws.recipe import Recipe
from cliplib.laws.resample import check_columns
from cliplib.laws.uncertainty import bootstrap


def binomial_se(error: ArrayLike, n_items: ArrayLike) -> Array:
    """Standard error of an error rate measured on n items: sqrt(E (1 - E) / n).

    The items are taken as independent: use the number of clusters where they are not.

    >>> round(float(binomial_se(0.25, 50_000)), 5)
    0.00194
    """
    E, n = np.asarray(error, dtype=float), np.asarray(n_items, dtype=float)
    return np.sqrt(E * (1 - E) / n)


def log10_variance(error: ArrayLike, n_items: ArrayLike) -> Array:
    """Variance of log10 E from the test set alone: (1 - E) / (E n) / (ln 10)^2."""
    E, n = np.asarray(error, dtype=float), np.asarray(n_items, dtype=float)
    return (1 - E) / (E * n) / np.log(10) ** 2


@dataclass(frozen=True)
class SeedNoise:
    """Scatter between repeats. sd: of ln E, pooled; dof: degrees of freedom; cells: repeated."""

    sd: float
    dof: int
    cells: int


def seed_noise(runs: pd.DataFrame, by: Sequence[str], y: str = "error") -> SeedNoise:
    """Pooled standard deviation of ln E among runs that agree in all columns of ``by``.

    InputError: an unknown column, a value without logarithm, or no two runs that agree.
    """
    check_columns(runs, *by, y)
    log_error = pd.Series(np.log(positive(runs[y], y)), index=runs.index)
    cells = log_error.groupby([runs[name] for name in by])
    dof = int((cells.size() - 1).sum())
    if dof == 0:
        raise InputError(
            f"no two runs agree in {', '.join(by)}: seeds were not repeated, so their noise is "
            "unknown"
        )
    spread = log_error - cells.transform("mean")
    repeated = int((cells.size() > 1).sum())
    return SeedNoise(float(np.sqrt((spread**2).sum() / dof)), dof, repeated)


def decomposition(
    runs: pd.DataFrame,
    recipe: Recipe,
    n_items: int | str,
    seeds: SeedNoise | None = None,
    parameter: str = "alpha",
    n: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of a parameter's bootstrap variance that each source of noise explains.

    The test set: each error is drawn anew as a binomial of n_items (a number, or the name of a
    column), then the whole recipe is repeated, n times. Seeds: the same with a normal of the
    seeds' standard deviation on ln E. The rest: which runs there happened to be, lack of fit of
    the law, the choice of the frontier. The errors at hand already contain one draw of every
    noise, so shares are estimates; noise that exceeds the bootstrap leaves a rest of 0.
    Returns source, sd (of the parameter) and share, the last row being the bootstrap of runs.
    InputError: an error of 1 or more, or no such parameter.
    """
    names = list(recipe(runs))
    if parameter not in names:
        raise InputError(f"no parameter {parameter} in this recipe; there are {', '.join(names)}")
    column = names.index(parameter)
    total = bootstrap(recipe, runs, n, seed).se()[parameter] ** 2
    rng = np.random.default_rng(seed)
    noises = {"test set": _test_sets(runs, recipe.y, n_items, n, rng)}
    if seeds is not None:
        E = positive(runs[recipe.y], recipe.y)
        noises["seeds"] = E * np.exp(seeds.sd * rng.standard_normal((n, len(runs))))
    every_run = np.ones((n, len(runs)))
    variance = {
        source: float(np.nanvar(recipe.batch(runs, every_run, E)[:, column], ddof=1))
        for source, E in noises.items()
    }
    variance["which runs, lack of fit, frontier"] = max(float(total - sum(variance.values())), 0.0)
    variance["bootstrap of runs"] = total
    table = pd.Series(variance, name="variance").rename_axis("source").reset_index()
    table["sd"], table["share"] = np.sqrt(table["variance"]), table["variance"] / total
    return table[["source", "sd", "share"]]


def _test_sets(
    runs: pd.DataFrame, y: str, n_items: int | str, n: int, rng: np.random.Generator
) -> Array:
    """Errors on n other test sets of the same size, shape (n, runs)."""
    E = positive(runs[y], y)
    if (E >= 1).any():
        row = int(np.argmax(E >= 1))
        raise InputError(f"column {y}, row {row}: {E[row]:g} is no error rate below 1")
    if isinstance(n_items, str):
        check_columns(runs, n_items)
        items = positive(runs[n_items], n_items).astype(int)
    else:
        items = np.full(len(runs), n_items)
    wrong = rng.binomial(items, E, size=(n, len(runs)))
    return np.maximum(wrong, 0.5) / items  # no error at all has no logarithm: half an item
