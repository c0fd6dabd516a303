"""Checks of what a user hands to a fit: every refusal names the column, the row and the reason."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cliplib import InputError

Array = NDArray[np.float64]


def positive(values: ArrayLike, name: str, rows: ArrayLike | None = None) -> Array:
    """The values as a 1-d float array, all finite and above zero.

    ``rows`` are the labels used in messages (by default 0, 1, ...).
    Raises InputError naming the column, the first bad row and what is wrong with it.
    """
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"column {name} is not numeric: {error}") from error
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"column {name} must be a non-empty list of numbers, got {array.shape}")
    bad = ~(np.isfinite(array) & (array > 0))
    if bad.any():
        first = int(np.argmax(bad))
        label = np.asarray(rows)[first] if rows is not None else first
        raise InputError(f"column {name}, row {label}: {_fault(array[first])}")
    return array


def _fault(value: float) -> str:
    if np.isnan(value):
        return "value is missing; drop the row or fill it"
    if np.isinf(value):
        return "value is infinite"
    return f"{value:g} is not above zero, so it has no logarithm"


def pair(C: ArrayLike, E: ArrayLike) -> tuple[Array, Array]:
    """Compute and error as two positive arrays of one length, with two distinct C or more."""
    C, E = positive(C, "C"), positive(E, "E")
    if C.size != E.size:
        raise InputError(f"columns C and E differ in length: {C.size} and {E.size}")
    distinct(C, "C")
    return C, E


def design(X: ArrayLike | Mapping[str, Any] | pd.DataFrame, names: Sequence[str]) -> Array:
    """The variables of a law as one positive array of shape (n, k), in the order of ``names``.

    X: (n,) for one variable, (n, k), or a mapping or table with a column for each name.
    InputError names the missing column, or the column, row and fault of a bad value.
    """
    if isinstance(X, (Mapping, pd.DataFrame)):
        missing = [name for name in names if name not in X]
        if missing:
            raise InputError(
                f"no column {missing[0]}: the law needs {', '.join(names)}, "
                f"there are {', '.join(map(str, X))}"
            )
        columns = [np.asarray(X[name]) for name in names]
    else:
        table = np.asarray(X)
        table = table[:, None] if table.ndim == 1 else table
        if table.ndim != 2 or table.shape[1] != len(names):
            raise InputError(
                f"the law has {len(names)} variable{'s' if len(names) > 1 else ''} "
                f"({', '.join(names)}): give one column for each, got shape {np.shape(X)}"
            )
        columns = list(table.T)
    return np.column_stack(
        [positive(values, name) for name, values in zip(names, columns, strict=True)]
    )


def distinct(values: Array, name: str) -> None:
    """InputError unless there are two distinct values or more."""
    if np.ptp(np.log(values)) == 0:
        raise InputError(
            f"column {name}: all {values.size} rows have the same value {values[0]:g}; "
            "a law needs two distinct values or more"
        )
