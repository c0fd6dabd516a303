"""The points of a fit, as logs, and every reason to refuse them."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib import InputError
from cliplib.laws.form import Law
from cliplib.laws.inputs import Array, design, distinct, positive

Variables = ArrayLike | Mapping[str, Any] | pd.DataFrame

TOGETHER = 1 - 1e-6  # correlation of logs at which two columns are one


@dataclass(frozen=True)
class Points:
    """X (n, k) and E (n,) as given, x (k, n) and y (n,) their logs, w (n,) the weights."""

    X: Array
    E: Array
    x: Array
    y: Array
    w: Array

    @property
    def n(self) -> int:
        """Number of points that have weight."""
        return int((self.w > 0).sum())


def points(form: Law, X: Variables, E: ArrayLike, weights: ArrayLike | None = None) -> Points:
    """Points that the law can be fitted to.

    InputError: a missing variable, a value without logarithm, columns of different lengths, too
    few points or too few distinct ones for the law's parameters, a column of one value, or two
    columns that move together.
    """
    X, E = design(X, form.variables), positive(E, "E")
    if len(X) != len(E):
        names = " and ".join((*form.variables, "E"))
        raise InputError(f"columns {names} differ in length: {len(X)} and {len(E)}")
    w = np.ones(len(E)) if weights is None else _weights(weights, len(E))
    _check_columns(form, X[w > 0])
    _check_number(form, X[w > 0])
    _check_together(form, np.log(X[w > 0]))
    _check_repeats(form, X[w > 0])
    return Points(X, E, np.log(X).T, np.log(E), w)


def _weights(weights: ArrayLike, n: int) -> Array:
    w = np.asarray(weights, dtype=float)
    if w.shape != (n,):
        raise InputError(f"weights must be one number for each of {n} points, got {w.shape}")
    bad = ~(np.isfinite(w) & (w >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"column weights, row {row}: {w[row]:g} is not a number of zero or above")
    if not w.any():
        raise InputError("all weights are zero: no point is left to fit")
    return w


def _check_columns(form: Law, X: Array) -> None:
    for name, column in zip(form.variables, X.T, strict=True):
        if name != "U":  # one data set may hold all runs: repeats of it show R
            distinct(column, name)


def _check_number(form: Law, X: Array) -> None:
    p, n = len(form.params), len(X)
    if n < p + 1:
        raise InputError(
            f"{n} points are too few: the {form.name} law has {p} free parameters "
            f"and needs at least {p + 1}"
        )
    different = len(np.unique(X, axis=0))
    if different < p:
        what = f"column {form.variables[0]} has" if X.shape[1] == 1 else _joined(form) + " have"
        raise InputError(
            f"{what} {different} distinct values, too few for the {p} parameters "
            f"of the {form.name} law"
        )


def _joined(form: Law) -> str:
    return f"columns {' and '.join(form.variables)} together"


def _check_together(form: Law, x: Array) -> None:
    """Two columns in a fixed proportion (of logs) are one column to a law that is a product."""
    for i, j in combinations(range(x.shape[1]), 2):
        if np.ptp(x[:, i]) == 0 or np.ptp(x[:, j]) == 0:
            continue
        correlation = float(np.corrcoef(x[:, i], x[:, j])[0, 1])
        if abs(correlation) > TOGETHER:
            first, second = form.variables[i], form.variables[j]
            raise InputError(
                f"columns {first} and {second} move together (correlation {correlation:.3f} of "
                "their logs): the law cannot tell them apart; add runs that vary one at a fixed "
                "other"
            )


def _check_repeats(form: Law, X: Array) -> None:
    """A law of repeated data needs a run that repeats some."""
    if "U" not in form.variables:
        return
    D, U = (X[:, form.variables.index(name)] for name in ("D", "U"))
    if not (D > U).any():
        raise InputError(
            "no row has D above U: no run repeats its data, so R cannot be seen; "
            "use the law in N and D"
        )
