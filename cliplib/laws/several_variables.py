"""Laws in several variables: model size N, data seen D, unique data U (D and U in one unit)."""

from math import inf

import numpy as np

from cliplib.laws.form import Law, Total
from cliplib.laws.inputs import Array
from cliplib.laws.starts import (
    STEEPEST,
    Grid,
    exponents,
    grid,
    log_linear_batch_starts,
    log_linear_starts,
    sum_batch_starts,
    sum_starts,
)
from cliplib.laws.terms import Product, Repeated

# R in repeats. Below a thousandth no repeat is worth anything, above a million every one is worth
# new data, and the error no longer depends on R.
LOG_R = (np.log(1e-3), np.log(1e6))


def chinchilla() -> Law:
    """E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, equation 2): E is the irreducible error.

    Exponents are held between 0 and 20: data in which the error rises with N or D end at 0.
    """
    size, data = Product(0, (3,), (0,)), Product(1, (4,), (1,))
    total = Total(p=5, terms=(size, data), offset=2)
    box = np.array([[-inf, -inf, 0.0, 0.0, 0.0], [inf, inf, inf, STEEPEST, STEEPEST]])

    def cells(x: Array, count: int) -> Grid:
        return grid(5, {3: exponents(x[0], count), 4: exponents(x[1], count)})

    return Law(
        name="chinchilla",
        formula="E + A * N^-alpha + B * D^-beta",
        params=("A", "B", "E", "alpha", "beta"),
        variables=("N", "D"),
        logged=("A", "B"),
        total=total,
        starts=lambda x, y, w: sum_starts(total, cells(x, 14), box, x, y, w, count=8),
        batch_starts=lambda x, y, W: sum_batch_starts(total, cells(x, 10), x, y, W),
        lower=box[0],
        upper=box[1],
    )


def chinchilla_effective() -> Law:
    """E + A N^-alpha + B D'^-beta, D' the effective data of D samples of which U are unique.

    Only the data term saturates; Muennighoff et al. 2023 discount surplus model size too.
    """
    total = Total(p=6, terms=(Product(0, (3,), (0,)), Repeated(1, data=4, repeats=5)), offset=2)
    box = np.array(
        [[-inf, -inf, 0.0, 0.0, 0.0, LOG_R[0]], [inf, inf, inf, STEEPEST, STEEPEST, LOG_R[1]]]
    )

    def cells(x: Array, count: int) -> Grid:
        n, d = exponents(x[0], count), exponents(x[1], count)
        return grid(6, {3: n, 4: d, 5: _log_repeats(x, count * 2 // 3)})

    return Law(
        name="chinchilla_effective",
        formula="E + A * N^-alpha + B * D'^-beta, D' = U + U*R*(1 - exp(-(D/U - 1)/R))",
        params=("A", "B", "E", "alpha", "beta", "R"),
        variables=("N", "D", "U"),
        logged=("A", "B", "R"),
        total=total,
        starts=lambda x, y, w: sum_starts(total, cells(x, 14), box, x, y, w),
        batch_starts=lambda x, y, W: sum_batch_starts(total, cells(x, 8), x, y, W),
        lower=box[0],
        upper=box[1],
    )


def nd_multiplicative() -> Law:
    """A N^-alpha D^-beta: a plane in logs, without an irreducible part."""
    total = Total(p=3, terms=(Product(0, (1, 2), (0, 1)),))
    cell, box = grid(3, {1: np.zeros(1)}), np.array([[-inf] * 3, [inf] * 3])
    return Law(
        name="nd_multiplicative",
        formula="A * N^-alpha * D^-beta",
        params=("A", "alpha", "beta"),
        variables=("N", "D"),
        logged=("A",),
        total=total,
        starts=lambda x, y, w: log_linear_starts(total, cell, (0, 1, 2), box, x, y, w),
        batch_starts=None,
        lower=box[0],
        upper=box[1],
        linear=True,
    )


def nd_effective() -> Law:
    """A N^-alpha D'^-beta, D' the effective data of D samples of which U are unique.

    D' = U + U R (1 - exp(-(D/U - 1)/R)) for D > U, else D (Muennighoff et al. 2023): R is the
    number of repeats after which data are nearly used up. Data without repeats say nothing of R,
    and few repeats give no more than a lower bound; it is held between 0.001 and a million.
    """
    total = Total(p=4, terms=(Repeated(factor=0, data=2, repeats=3, size=1),))
    easy = (0, 1, 2)
    box = np.array([[-inf, -inf, -inf, LOG_R[0]], [inf, inf, inf, LOG_R[1]]])

    def cells(x: Array) -> Grid:
        return grid(4, {3: _log_repeats(x, 24)})

    return Law(
        name="nd_effective",
        formula="A * N^-alpha * D'^-beta, D' = U + U*R*(1 - exp(-(D/U - 1)/R))",
        params=("A", "alpha", "beta", "R"),
        variables=("N", "D", "U"),
        logged=("A", "R"),
        total=total,
        starts=lambda x, y, w: log_linear_starts(total, cells(x), easy, box, x, y, w),
        batch_starts=lambda x, y, W: log_linear_batch_starts(total, cells(x), easy, box, x, y, W),
        lower=box[0],
        upper=box[1],
    )


def _log_repeats(x: Array, count: int) -> Array:
    """Values of ln R from a tenth of the fewest repeats seen to a hundred times the most."""
    repeats = np.expm1(np.maximum(x[1] - x[2], 0.0))
    seen = repeats[repeats > 0] if (repeats > 0).any() else np.ones(1)
    low, high = np.clip(np.log([seen.min() / 10, seen.max() * 100]), LOG_R[0] + 1, LOG_R[1] - 1)
    return np.linspace(low, high, count)
