"""The laws: error as a function of compute, each with its gradient and structured starts.

A law works on an unconstrained vector theta and on ln E; `Law.natural` turns theta into the
parameters that people report. Nothing here looks at more than one fit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cliplib import InputError
from cliplib.laws.inputs import Array

TAKEOFF_GRID = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Law:
    """One functional form.

    log_predict(theta, C) -> ln E, shape (n,); jac(theta, C) -> its derivatives, shape (n, p);
    starts(C, E) -> starting points, shape (k, p); natural(theta) -> reported values and their
    derivatives by theta (each parameter depends on its own theta only), both shape (p,).
    """

    name: str
    formula: str
    params: tuple[str, ...]
    log_predict: Callable[[Array, Array], Array]
    jac: Callable[[Array, Array], Array]
    starts: Callable[[Array, Array], Array]
    natural: Callable[[Array], tuple[Array, Array]]
    fixed: dict[str, float] = field(default_factory=dict)
    bounds: tuple[Array, Array] | None = None


def power() -> Law:
    """E = beta C^alpha, a straight line in log-log (Cherti et al. 2023, footnote 5)."""
    return Law(
        name="power",
        formula="E = beta * C^alpha",
        params=("alpha", "beta"),
        log_predict=lambda theta, C: theta[1] + theta[0] * np.log(C),
        jac=lambda theta, C: np.column_stack([np.log(C), np.ones_like(C)]),
        starts=lambda C, E: _line(np.log(C), np.log(E))[None, :],
        natural=lambda theta: _natural(theta, logged=(1,)),
    )


def _line(x: Array, y: Array) -> Array:
    """Least-squares slope and intercept; x is centred so that 1e13 GMAC costs no digits."""
    dx = x - x.mean()
    slope = dx @ y / (dx @ dx)
    return np.array([slope, y.mean() - slope * x.mean()])


def _natural(theta: Array, logged: tuple[int, ...]) -> tuple[Array, Array]:
    values, slope = theta.astype(float).copy(), np.ones(len(theta))
    index = list(logged)
    values[index] = slope[index] = np.exp(theta[index])
    return values, slope


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
    log_upper = float(np.log1p(-chance))
    free = takeoff is None

    def sharpness(theta: Array) -> float:
        return float(np.exp(theta[2])) if takeoff is None else takeoff

    def log_predict(theta: Array, C: Array) -> Array:
        k = sharpness(theta)
        return log_upper + theta[0] * np.logaddexp(0, k * (np.log(C) - theta[1])) / k

    def jac(theta: Array, C: Array) -> Array:
        k, z = sharpness(theta), np.log(C) - theta[1]
        bend = np.logaddexp(0, k * z) / k
        above = np.exp(-np.logaddexp(0, -k * z))  # 0 far below c0, 1 far above
        columns = [bend, -theta[0] * above, theta[0] * (z * above - bend)]
        return np.column_stack(columns if free else columns[:2])

    fixed = {"chance": chance} | ({} if takeoff is None else {"takeoff": takeoff})
    low, high = np.array([-20.0, -np.inf, np.log(0.1)]), np.array([0.0, np.inf, np.log(50.0)])
    p = 3 if free else 2
    return Law(
        name="curved",
        formula="E = (1 - chance) * (1 + (C/c0)^takeoff)^(alpha/takeoff)",
        params=("alpha", "c0", "takeoff")[:p],
        log_predict=log_predict,
        jac=jac,
        starts=lambda C, E: _curved_starts(C, E, log_upper, takeoff),
        natural=lambda theta: _natural(theta, logged=(1, 2)[: p - 1]),
        fixed=fixed,
        bounds=(low[:p], high[:p]),
    )


def _curved_starts(C: Array, E: Array, log_upper: float, takeoff: float | None) -> Array:
    """Best cells of a grid over c0 (and takeoff): given these, alpha is linear least squares.

    The power law's own line, read as c0 far below the data, is always among them.
    """
    x, drop = np.log(C), np.log(E) - log_upper
    slope, intercept = _line(x, drop)
    far = x.min() - 10 if slope >= 0 else min(-intercept / slope, x.min())
    places = np.append(np.linspace(x.min() - 7, x.max() + 5, 25), far)
    cells = []
    for k in TAKEOFF_GRID if takeoff is None else (takeoff,):
        bend = np.logaddexp(0, k * (x - places[:, None])) / k  # (places, n)
        alpha = np.clip(bend @ drop / (bend**2).sum(1), -19.0, -1e-3)
        sse = ((alpha[:, None] * bend - drop) ** 2).sum(1)
        theta = np.column_stack([alpha, places, np.full_like(alpha, np.log(k))])
        cells += list(zip(sse, theta, strict=True))
    cells.sort(key=lambda cell: cell[0])
    best = np.array([theta for _, theta in cells[:6]])
    return best if takeoff is None else best[:, :2]


LAWS: dict[str, Callable[..., Law]] = {"power": power, "curved": curved}


def law(name: str, **options: float | None) -> Law:
    """The law of that name; options go to its factory. InputError lists the known names."""
    if name not in LAWS:
        raise InputError(f"unknown law '{name}'; known: {', '.join(sorted(LAWS))}")
    try:
        return LAWS[name](**options)
    except TypeError as error:
        raise InputError(f"law {name} does not take {', '.join(options)}") from error
