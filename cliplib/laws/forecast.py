"""What a run that has not been made will score: a value, an interval, and what it rests on.

An interval of one recipe holds the luck of the runs and the scatter of a new one, not the doubt
about the form. Give other recipes too, and their spread is reported apart and in an interval of
all of them together.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib import InputError
from cliplib.laws.fitting import Fit
from cliplib.laws.inputs import Array, design
from cliplib.laws.prediction import KINDS, predict
from cliplib.laws.recipe import Recipe
from cliplib.laws.tables import markdown, records
from cliplib.laws.uncertainty import Draws, bootstrap

FAR = 10.0  # a forecast this many times beyond the runs is called far


@dataclass(frozen=True)
class Forecast:
    """Forecasts at several x, with what they rest on.

    table: one row an x: the x columns; value; low, high (of the kind asked for); mean_low, mean_high
    (of the law itself); beyond (how many times outside the runs' range, 1 inside); with other
    forms also form_low, form_high (least and largest value over the forms) and all_low, all_high
    (the interval of all forms together).
    kind: new or mean; how: the interval in words. recipe: what was fitted, JSON-ready.
    data_hash: sha256 of the sorted x and y that were fitted, before any frontier.
    """

    table: pd.DataFrame
    x: tuple[str, ...]
    y: str
    kind: str
    level: float
    how: str
    recipe: dict[str, Any]
    n_runs: int
    data_hash: str
    warnings: list[str]

    @property
    def ends(self) -> tuple[str, str]:
        """The columns of the interval to stand by: of all forms where there are several."""
        return ("all_low", "all_high") if "all_low" in self.table else ("low", "high")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        names = ("y", "kind", "level", "how", "recipe", "n_runs", "data_hash", "warnings")
        return {"forecasts": records(self.table), **{name: getattr(self, name) for name in names}}

    def to_markdown(self) -> str:
        """A table for people, then what it rests on."""
        law = ", ".join(f"{key} {value}" for key, value in self.recipe.items() if value)
        lines = [
            f"- {self.n_runs} runs; {law}",
            f"- {100 * self.level:g}% interval: {self.how}",
            *(f"- warning: {text}" for text in self.warnings),
        ]
        return f"{markdown(self.table)}\n\n" + "\n".join(lines)


def forecast(
    runs: pd.DataFrame,
    recipe: Recipe | str,
    at: ArrayLike,
    level: float = 0.95,
    n: int = 1000,
    seed: int = 0,
    kind: str = "new",
    forms: Sequence[Recipe | str] = (),
    far: float = FAR,
) -> Forecast:
    """The recipe's prediction at each x with an interval.

    at: x values, shape (m,), or (m, k) for a law in k variables. n: bootstrap samples of the runs;
    0 takes the delta method with Student's t, for laws through all runs. kind: ``new``, a new
    run (after a frontier: a new point of the frontier); ``mean``, the law itself. forms: further
    recipes for the same y, each given equal weight in the interval of all; one that cannot be
    fitted is named in the warnings. far: warn beyond this factor outside the runs.
    InputError: an unknown kind, no x, a bad x, a recipe that cannot be fitted, forms with n = 0.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of forecast '{kind}'; known: {', '.join(KINDS)}")
    if forms and not n:
        raise InputError("an interval over several forms is made of bootstrap draws: give n > 0")
    recipe = Recipe(recipe) if isinstance(recipe, str) else recipe
    fitted, columns = recipe.fit(runs), x_columns(recipe)
    X = design(np.asarray(at, dtype=float), columns)
    draws = bootstrap(recipe, runs, n, seed) if n else None
    found = predict(fitted, X, draws, kind, level)
    table = pd.DataFrame(X, columns=list(columns))
    law = predict(fitted, X, draws, "mean", level)
    table = table.assign(value=found.value, low=found.low, high=found.high)
    table = table.assign(mean_low=law.low, mean_high=law.high)
    observed = runs[list(columns)].to_numpy(dtype=float)
    table["beyond"] = _beyond(X, observed)
    warnings = [*_far(X, observed, columns, far), *fitted.warnings]
    if kind == "new" and recipe.how != "all":
        warnings.append(f"a new run means a new point of the {recipe.how} frontier")
    if forms and draws is not None:
        others, refused = _others(forms, recipe, runs, X, n, seed, kind)
        table = _with_forms(table, [(fitted, draws), *others], X, kind, level, seed)
        warnings += refused
    return Forecast(
        table=table,
        x=columns,
        y=recipe.y,
        kind=kind,
        level=level,
        how=found.kind,
        recipe=description(recipe) | _form_names(forms),
        n_runs=len(runs),
        data_hash=data_hash(runs, columns, recipe.y),
        warnings=warnings,
    )


def x_columns(recipe: Recipe) -> tuple[str, ...]:
    """The columns that a recipe reads its variables from."""
    return (recipe.x,) if isinstance(recipe.x, str) else tuple(recipe.x)


def description(recipe: Recipe) -> dict[str, Any]:
    """What a recipe does, JSON-ready: law, frontier and its settings, loss, exclusions, constants."""
    found: dict[str, Any] = {"law": recipe.form.name, "frontier": recipe.how}
    if recipe.how.startswith("bins"):
        found |= {"nbins": recipe.nbins, "margin": recipe.margin}
    if recipe.how == "quantile":
        found["tau"] = recipe.tau
    found |= {"loss": str(recipe.loss), "drop_largest": recipe.drop_largest}
    return found | {"options": dict(recipe.options)}


def _form_names(forms: Sequence[Recipe | str]) -> dict[str, Any]:
    """The further forms of a forecast, by name."""
    names = [form if isinstance(form, str) else f"{form.form.name}, {form.how}" for form in forms]
    return {"forms": names} if names else {}


def data_hash(runs: pd.DataFrame, x: Sequence[str], y: str) -> str:
    """Sha256 of the rows (x, y), sorted, so that the order of the runs does not matter.

    >>> table = pd.DataFrame({"C": [1.0, 2.0], "E": [0.5, 0.4]})
    >>> data_hash(table, ["C"], "E") == data_hash(table[::-1], ["C"], "E")
    True
    """
    rows = sorted(map(tuple, runs[[*x, y]].to_numpy(dtype=float).tolist()))
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _beyond(X: Array, observed: Array) -> Array:
    """For each x the largest factor by which a variable leaves the range of the runs, 1 inside."""
    low, high = observed.min(0), observed.max(0)
    return np.asarray(np.maximum(np.maximum(X / high, low / X), 1.0).max(1))


def _far(X: Array, observed: Array, columns: Sequence[str], far: float) -> list[str]:
    """A warning for each variable that goes far beyond the runs."""
    found = []
    for i, name in enumerate(columns):
        factor = float(_beyond(X[:, [i]], observed[:, [i]]).max())
        if factor > far:
            found.append(
                f"{name} goes {factor:.3g} times beyond the runs: nothing here tests the law there"
            )
    return found


def _others(
    forms: Sequence[Recipe | str],
    main: Recipe,
    runs: pd.DataFrame,
    X: Array,
    n: int,
    seed: int,
    kind: str,
) -> tuple[list[tuple[Fit, Draws]], list[str]]:
    """The further forms with their draws, and a line for each that could not be fitted."""
    fitted, refused = [], []
    for form in forms:
        recipe = Recipe(form, x=main.x, y=main.y) if isinstance(form, str) else form
        if (recipe.x, recipe.y) != (main.x, main.y):
            raise InputError(f"all forms must read the same columns: {main.x} and {main.y}")
        try:
            fitted.append((recipe.fit(runs), bootstrap(recipe, runs, n, seed)))
        except InputError as error:
            refused.append(f"form {recipe.form.name} is not in the interval of all: {error}")
    return fitted, refused


def _with_forms(
    table: pd.DataFrame,
    fits: Sequence[tuple[Fit, Draws]],
    X: Array,
    kind: str,
    level: float,
    seed: int,
) -> pd.DataFrame:
    values = np.array([predict(fitted, X, draws, kind, level).value for fitted, draws in fits])
    rng = np.random.default_rng(seed)
    size = max(len(draws.values) for _, draws in fits)  # equal weight: as many samples of each form
    pool = np.concatenate([_samples(*each, X, kind, size, rng) for each in fits])
    low, high = np.exp(np.quantile(pool, [(1 - level) / 2, (1 + level) / 2], axis=0))
    return table.assign(form_low=values.min(0), form_high=values.max(0), all_low=low, all_high=high)


def _samples(
    fitted: Fit, draws: Draws, X: Array, kind: str, size: int, rng: np.random.Generator
) -> Array:
    """Samples of ln y at X, shape (size, m): draws of the law, for a new run with a residual."""
    rows = rng.permutation(np.arange(size) % len(draws.values))
    theta = fitted.form.internal(draws.values[rows])
    law = np.asarray(fitted.form.log_predict(theta, np.log(X).T))
    if kind == "mean":
        return law
    scatter = rng.choice(fitted.residuals, size=(size, 1)) * np.sqrt(fitted.n / fitted.dof)
    return law + scatter
