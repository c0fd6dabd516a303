"""Laws in one variable: error against compute, samples, or size alone."""

from math import inf

import numpy as np

from cliplib import InputError
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
from cliplib.laws.terms import Bounded, Broken, Product, Shifted

TAKEOFF_GRID = np.log([0.5, 1.0, 2.0, 4.0])


def power() -> Law:
    """E = beta C^alpha, a straight line in log-log (Cherti et al. 2023, footnote 5)."""
    total = Total(p=2, terms=(Product(factor=1, exponents=(0,), sign=1.0),))
    cell, box = grid(2, {0: np.zeros(1)}), np.array([[-inf, -inf], [inf, inf]])
    return Law(
        name="power",
        formula="E = beta * C^alpha",
        params=("alpha", "beta"),
        variables=("C",),
        logged=("beta",),
        total=total,
        starts=lambda x, y, w: log_linear_starts(total, cell, (1, 0), box, x, y, w),
        batch_starts=None,
        lower=box[0],
        upper=box[1],
        linear=True,
    )


def curved(chance: float = 0.0, takeoff: float | None = 1.0) -> Law:
    """E = (1 - chance) (1 + (C/c0)^takeoff)^(alpha/takeoff), alpha <= 0.

    A power law that cannot exceed the error of guessing. Far above c0 it is
    (1 - chance) (C/c0)^alpha. Far below c0 the accuracy gained over chance grows as C^takeoff.
    With takeoff = 1 it is the small-compute shift of Zhai et al. 2022, b (C + c0)^alpha, with b
    such that the error at C = 0 is that of guessing: two free parameters, as many as the power
    law has. takeoff = None fits it too, for data that show the take-off and the fall.
    """
    if not 0 <= chance < 1:
        raise InputError(f"chance must be in [0, 1), got {chance:g}")
    if takeoff is not None and takeoff <= 0:
        raise InputError(f"takeoff must be above zero, got {takeoff:g}")
    log_upper, p = float(np.log1p(-chance)), 3 if takeoff is None else 2
    total = Total(p=p, terms=(Bounded(log_upper, takeoff),))
    box = np.array([[-STEEPEST, -inf, np.log(0.1)], [0.0, inf, np.log(50.0)]])[:, :p]

    def cells(x: Array, y: Array) -> Grid:
        places = {1: _places_of_takeoff(x[0], y - log_upper)}
        return grid(p, places if takeoff is not None else {2: TAKEOFF_GRID, **places})

    return Law(
        name="curved",
        formula="E = (1 - chance) * (1 + (C/c0)^takeoff)^(alpha/takeoff)",
        params=("alpha", "c0", "takeoff")[:p],
        variables=("C",),
        logged=("c0", "takeoff")[: p - 1],
        total=total,
        starts=lambda x, y, w: log_linear_starts(total, cells(x, y), (0,), box, x, y, w),
        batch_starts=lambda x, y, W: log_linear_batch_starts(
            total, cells(x, y), (0,), box, x, y, W
        ),
        lower=box[0],
        upper=box[1],
        fixed={"chance": chance} | ({} if takeoff is None else {"takeoff": takeoff}),
    )


def _places_of_takeoff(x: Array, drop: Array) -> Array:
    """A grid of ln c0, and last the one far below the data that stands for the power law."""
    slope = np.cov(x, drop)[0, 1] / np.var(x, ddof=1)
    zero = x.mean() - drop.mean() / slope if slope < 0 else x.min() - 10
    return np.append(np.linspace(x.min() - 7, x.max() + 5, 25), min(zero, x.min()))


def saturating() -> Law:
    """E = a + b C^-d: a power law down to a floor a >= 0 that no amount of C goes below.

    The residual is that of ln E. Squares of ln(E - a) with a free compare different responses,
    and often have their minimum at a = 0 (the objective of Alabdulmohsin et al. 2022).
    """
    total = Total(p=3, terms=(Product(factor=1, exponents=(2,)),), offset=0)
    box = np.array([[0.0, -inf, 0.0], [inf, inf, STEEPEST]])

    def cells(x: Array) -> Grid:
        return grid(3, {2: exponents(x[0], 40)})

    return Law(
        name="saturating",
        formula="E = a + b * C^-d",
        params=("a", "b", "d"),
        variables=("C",),
        logged=("b",),
        total=total,
        starts=lambda x, y, w: sum_starts(total, cells(x), box, x, y, w),
        batch_starts=lambda x, y, W: sum_batch_starts(total, cells(x), x, y, W),
        lower=box[0],
        upper=box[1],
    )


def shifted() -> Law:
    """E = a + b (C + c)^-d: a floor a, and a shift c that flattens small C (Zhai et al. 2022).

    a and c are zero or above; c is in the unit of C.
    """
    total = Total(p=4, terms=(Shifted(factor=1, c=2, d=3),), offset=0)
    box = np.array([[0.0, -inf, 0.0, 0.0], [inf, inf, inf, STEEPEST]])
    return Law(
        name="shifted",
        formula="E = a + b * (C + c)^-d",
        params=("a", "b", "c", "d"),
        variables=("C",),
        logged=("b",),
        total=total,
        starts=lambda x, y, w: sum_starts(total, _shifted_cells(x[0], 15, 24), box, x, y, w),
        batch_starts=lambda x, y, W: sum_batch_starts(total, _shifted_cells(x[0], 12, 12), x, y, W),
        lower=box[0],
        upper=box[1],
    )


def _shifted_cells(x: Array, n_shifts: int, n_exponents: int) -> Grid:
    """Shifts c from zero, and two decades below the data, to one above; each with its own exponents.

    A large shift squeezes the range of ln(C + c), so that only larger exponents bend there.
    """
    logs = np.linspace(x.min() - np.log(100), x.max() + np.log(10), n_shifts - 1)
    shifts = np.append(0.0, np.exp(logs))
    theta = np.zeros((n_shifts, n_exponents, 4))
    for row, c in zip(theta, shifts, strict=True):
        row[:, 2], row[:, 3] = c, exponents(np.log(np.exp(x) + c), n_exponents)
    return Grid(theta.reshape(-1, 4), (n_shifts, n_exponents))


def broken() -> Law:
    """E = a + b C^-c0 (1 + (C/d1)^(1/f1))^(-c1 f1), one smooth break (Caballero et al. 2023).

    The exponent is c0 far below d1 and c0 + c1 far above; f1 is the width of the change in ln C.
    c0 and c1 may be negative, so that the error may rise on one side (double descent). f1 is held
    between 0.001, where the break is a corner, and 100, where it is wider than any data.
    """
    total = Total(p=6, terms=(Broken(factor=1, c0=2, c1=3, d1=4, f1=5),), offset=0)
    box = np.array(
        [
            [0.0, -inf, -STEEPEST, -STEEPEST, -inf, np.log(1e-3)],
            [inf, inf, STEEPEST, STEEPEST, inf, np.log(1e2)],
        ]
    )
    return Law(
        name="broken",
        formula="E = a + b * C^-c0 * (1 + (C/d1)^(1/f1))^(-c1 * f1)",
        params=("a", "b", "c0", "c1", "d1", "f1"),
        variables=("C",),
        logged=("b", "d1", "f1"),
        total=total,
        starts=lambda x, y, w: sum_starts(total, _broken_cells(x[0]), box, x, y, w, count=30),
        batch_starts=None,
        lower=box[0],
        upper=box[1],
    )


def _broken_cells(x: Array) -> Grid:
    """Exponents of both signs, breaks from just below to beyond the data, corners to wide bends."""
    width = float(np.ptp(x))
    change = np.geomspace(0.5, 32, 7) / width
    return grid(
        6,
        {
            2: np.clip(np.array([-20, -8, -3, -1, 0, 0.3, 1, 3, 8, 20]) / width, -15, 15),
            3: np.clip(np.concatenate([-change[::-1], change]), -19, 19),
            4: np.linspace(x.min() - 0.1 * width, x.max() + 0.3 * width, 12),
            5: np.log(np.clip(np.array([0.001, 0.01, 0.03, 0.1, 0.3, 1]) * width, 1e-3, 1e2)),
        },
    )
