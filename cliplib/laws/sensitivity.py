"""What else the answer could have been: the same runs under other defensible choices."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.frontier import HOW, LINES
from cliplib.laws.law import LAWS
from cliplib.laws.recipe import Recipe

LOSSES = ("l2", "huber:0.01", "huber:0.001", "lad")
MOST_DROPPED = 5
EXPONENTS = ("alpha", "d", "c0")  # the parameter that a change is told of, by law

Choice = tuple[str, Recipe, pd.DataFrame]


def sensitivity(recipe: Recipe, runs: pd.DataFrame, over: str) -> pd.DataFrame:
    """Refit under other choices of one kind.

    over: ``delta``, other losses (Huber's delta and its two limits); ``dropped``, without the
    K = 0 to 5 largest errors; ``form``, other laws in the same variables; ``frontier``, other
    ways to reduce the runs; ``run``, without each run in turn, the one that moves the exponent
    most first (runs are named by their column run_id, or by their index).
    Returns choice, the parameters, points (fitted), change (of the exponent against the recipe
    itself, where both have one by that name) and note (why a choice was refused).
    InputError: an unknown kind, or runs that the recipe itself refuses.
    """
    if over not in _CHOICES:
        raise InputError(f"unknown sensitivity '{over}'; known: {', '.join(_CHOICES)}")
    base = recipe(runs)
    exponent = next(name for name in EXPONENTS if name in base)
    rows = [
        _row(choice, other, table, exponent, base[exponent])
        for choice, other, table in _CHOICES[over](recipe, runs)
    ]
    found = pd.DataFrame(rows)
    last = ["points", "change", "note"]
    found = found[[name for name in found if name not in last] + last]
    if over == "run":
        found = found.sort_values("change", key=abs, ascending=False, ignore_index=True)
    return found


def _row(
    choice: str, recipe: Recipe, runs: pd.DataFrame, exponent: str, base: float
) -> dict[str, object]:
    try:
        fitted = recipe.fit(runs)
    except InputError as error:
        return {"choice": choice, "points": 0, "change": float("nan"), "note": str(error)}
    change = fitted.params.get(exponent, float("nan")) - base
    return {
        "choice": choice, **fitted.params, "points": fitted.n, "change": change, "note": "",
    }  # fmt: skip


def _losses(recipe: Recipe, runs: pd.DataFrame) -> Iterator[Choice]:
    for loss in LOSSES:
        yield loss, replace(recipe, loss=loss), runs


def _dropped(recipe: Recipe, runs: pd.DataFrame) -> Iterator[Choice]:
    for k in range(MOST_DROPPED + 1):
        yield str(k), replace(recipe, drop_largest=k), runs


def _forms(recipe: Recipe, runs: pd.DataFrame) -> Iterator[Choice]:
    for name, factory in LAWS.items():
        if factory().variables == recipe.form.variables:
            options = recipe.options if recipe.form.name == name else {}
            yield name, replace(recipe, law=name, options=options), runs


def _frontiers(recipe: Recipe, runs: pd.DataFrame) -> Iterator[Choice]:
    for how in HOW + LINES:
        yield how, replace(recipe, how=how), runs


def _runs(recipe: Recipe, runs: pd.DataFrame) -> Iterator[Choice]:
    names = runs["run_id"] if "run_id" in runs.columns else runs.index
    for i, name in enumerate(names):
        yield str(name), recipe, runs[np.arange(len(runs)) != i]


_CHOICES: dict[str, Callable[[Recipe, pd.DataFrame], Iterator[Choice]]] = {
    "delta": _losses,
    "dropped": _dropped,
    "form": _forms,
    "frontier": _frontiers,
    "run": _runs,
}
