"""Which law to believe: fit the smaller runs, predict the larger, and score in points of error.

A form that fits better need not predict better. The score is of single held-out runs, few as a
rule; `ranking` says when they are too few to tell recipes apart.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.frontier import frontier
from cliplib.laws.inputs import Array, positive
from cliplib.laws.recipe import Recipe

TARGETS = ("runs", "frontier")
FEWEST_RUNS = 5
COLUMNS = [
    "recipe", "cutoff", "n_train", "run", "x", "predicted", "actual", "points", "ln", "reason",
]  # fmt: skip


def leave_top_out(
    runs: pd.DataFrame,
    recipes: Mapping[str, Recipe | str] | Sequence[Recipe | str],
    cutoffs: Sequence[float],
    x: str = "compute",
    y: str = "error",
    target: str = "runs",
) -> pd.DataFrame:
    """Rolling origin: at each cutoff fit the runs with x <= cutoff and predict those above it.

    recipes: `Recipe` objects or names of laws (through all runs), in a mapping if you name them.
    x: the column of the cutoffs; a recipe may read other columns. target: ``runs``, every held-out
    run, also for a recipe that fits a frontier; ``frontier``, only those that no run with at most
    their x equals or beats (the Pareto set of all runs).

    Returns one row a recipe, cutoff and held-out run: recipe, cutoff, n_train, run (run_id, or the
    row's label), x, predicted, actual, points (100 (predicted - actual); above zero: the run did
    better than predicted), ln (the same of logs), reason. A recipe that cannot be fitted below a
    cutoff has one row there with the reason and no numbers.
    InputError: a missing column, an unknown target, a cutoff with no run above it.
    """
    if target not in TARGETS:
        raise InputError(f"unknown target '{target}'; known: {', '.join(TARGETS)}")
    missing = [name for name in (x, y) if name not in runs.columns]
    if missing:
        raise InputError(f"no column {missing[0]} in the runs; there are {list(runs.columns)}")
    values, actual = positive(runs[x], x), positive(runs[y], y)
    wanted = np.ones(len(runs), bool)
    if target == "frontier":
        wanted[:] = False
        wanted[frontier(values, actual, "pareto").index] = True
    named = _named(recipes, x, y)
    tables = []
    for cutoff in cutoffs:
        train, held = runs[values <= cutoff], runs[(values > cutoff) & wanted]
        if held.empty:
            raise InputError(f"cutoff {cutoff:g}: no run has more {x}, nothing is left to predict")
        tables += [_held_out(name, recipe, train, held, cutoff, x, y) for name, recipe in named]
    return pd.concat(tables, ignore_index=True)


def _named(
    recipes: Mapping[str, Recipe | str] | Sequence[Recipe | str], x: str, y: str
) -> list[tuple[str, Recipe]]:
    if isinstance(recipes, Mapping):
        pairs = [(name, _recipe(recipe, x, y)) for name, recipe in recipes.items()]
    else:
        pairs = [(_label(r), r) for r in (_recipe(recipe, x, y) for recipe in recipes)]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two recipes are called '{twice}'; name them in a mapping")
    if not names:
        raise InputError("no recipe to choose from")
    return pairs


def _recipe(recipe: Recipe | str, x: str, y: str) -> Recipe:
    return Recipe(recipe, x=x, y=y) if isinstance(recipe, str) else recipe


def _label(recipe: Recipe) -> str:
    parts = [recipe.form.name]
    parts += [recipe.how] if recipe.how != "all" else []
    parts += [str(recipe.loss)] if recipe.loss != "l2" else []
    return ", ".join(parts)


def _held_out(
    name: str,
    recipe: Recipe,
    train: pd.DataFrame,
    held: pd.DataFrame,
    cutoff: float,
    x: str,
    y: str,
) -> pd.DataFrame:
    start = (name, float(cutoff), len(train))
    try:
        predicted = predicted_errors(recipe, train, held)
    except InputError as error:
        return pd.DataFrame([(*start, None, *[np.nan] * 5, str(error))], columns=COLUMNS)
    names = held.get("run_id", held.index)
    at, actual = held[x].to_numpy(dtype=float), held[y].to_numpy(dtype=float)
    rows = [
        (*start, run, where, guess, found, 100 * (guess - found), np.log(guess / found), "")
        for run, where, guess, found in zip(names, at, predicted, actual, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def predicted_errors(recipe: Recipe, train: pd.DataFrame, held: pd.DataFrame) -> Array:
    """Errors of the held-out runs by the recipe's law of the other runs, shape (len(held),)."""
    columns = recipe.x if isinstance(recipe.x, str) else list(recipe.x)
    return recipe.fit(train).predict(held[columns].to_numpy(dtype=float))


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `leave_top_out` by recipe and cutoff.

    Columns: recipe, cutoff, n_train, n (held-out runs), mean_abs, rmse, bias (points of error),
    rmse_ln, reason.
    """
    rows = []
    for (recipe, cutoff), group in table.groupby(["recipe", "cutoff"], sort=False):
        points, ln = group["points"].astype(float), group["ln"].astype(float)
        n = int(points.notna().sum())
        numbers = (points.abs().mean(), _rms(points), points.mean(), _rms(ln))
        rows.append(
            (recipe, cutoff, group["n_train"].iloc[0], n, *numbers, group["reason"].iloc[0])
        )
    columns = ["recipe", "cutoff", "n_train", "n", "mean_abs", "rmse", "bias", "rmse_ln", "reason"]
    return pd.DataFrame(rows, columns=columns)


def _rms(values: pd.Series) -> float:
    return float(np.sqrt((values**2).mean()))


def ranking(
    table: pd.DataFrame, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """The recipes of a `leave_top_out`, best first, and whether the order means anything.

    Columns: rank, recipe, n (held-out runs, each counted once), rmse, mean_abs, bias (points, over
    all cutoffs), behind (rmse minus the best's), low, high (its interval: held-out runs resampled,
    the same for both recipes, all cutoffs of a run together), verdict. Fewer than 5 held-out
    runs: no rank and no interval. A recipe that failed at a cutoff is not ranked and says why.
    """
    failed = table[table["reason"] != ""].drop_duplicates("recipe").set_index("recipe")["reason"]
    good = table[~table["recipe"].isin(failed.index)]
    rows = [_unranked(recipe, reason, table) for recipe, reason in failed.items()]
    if not good.empty:
        rows = [*_ranked(good, draws, seed, level), *rows]
    return pd.DataFrame(rows, columns=RANKING).astype({"rank": "Int64"})


RANKING = ["rank", "recipe", "n", "rmse", "mean_abs", "bias", "behind", "low", "high", "verdict"]


def _unranked(recipe: object, reason: str, table: pd.DataFrame) -> dict[str, object]:
    cutoff = table.loc[(table["recipe"] == recipe) & (table["reason"] != ""), "cutoff"].iloc[0]
    return {"recipe": recipe, "n": 0, "verdict": f"not ranked: at cutoff {cutoff:g}, {reason}"}


def _ranked(table: pd.DataFrame, draws: int, seed: int, level: float) -> list[dict[str, object]]:
    """Rows of the recipes that predicted every held-out run at every cutoff."""
    square = table.assign(square=table["points"].astype(float) ** 2)
    wide = square.pivot_table(index="run", columns="recipe", values="square", aggfunc="sum")
    times = square[square["recipe"] == wide.columns[0]].groupby("run").size()[wide.index].to_numpy()
    rmse = pd.Series(np.sqrt(wide.to_numpy().sum(0) / times.sum()), index=wide.columns)
    order, n = rmse.sort_values(kind="stable").index, len(wide)
    behind = _behind(wide[order].to_numpy(), times, draws, seed)
    tails = np.quantile(behind, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    rows: list[dict[str, object]] = []
    for place, (recipe, (low, high)) in enumerate(zip(order, tails, strict=True), start=1):
        own = table.loc[table["recipe"] == recipe, "points"].astype(float)
        row: dict[str, object] = {"recipe": recipe, "n": n, "rmse": rmse[recipe]}
        row |= {"mean_abs": own.abs().mean(), "bias": own.mean()}
        row |= {"behind": rmse[recipe] - rmse[order[0]]}
        if n < FEWEST_RUNS:
            row |= {"verdict": f"n = {n}: no ranking"}
        elif place == 1:
            row |= {"rank": 1, "verdict": "least error"}
        else:
            apart = "worse than the first" if low > 0 else "not told apart from the first"
            row |= {"rank": place, "low": low, "high": high, "verdict": apart}
        rows.append(row)
    return rows


def _behind(square: Array, times: np.ndarray, draws: int, seed: int) -> Array:
    """RMSE of every recipe minus the first's, over resampled runs, shape (draws, recipes).

    square: sums of squares by run and recipe; times: predictions in each, by run.
    """
    n = len(square)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    rmse = np.sqrt(counts @ square / (counts @ times)[:, None])
    return np.asarray(rmse - rmse[:, :1])
