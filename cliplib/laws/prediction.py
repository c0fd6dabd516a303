"""What the next run will score: an interval of the law, or of a new run about it.

The two differ by the scatter of single runs, often most of the width. An extrapolation that
promises the score of one run needs the second.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from cliplib import InputError
from cliplib.laws.fitting import Fit
from cliplib.laws.inputs import Array, design
from cliplib.laws.uncertainty import Draws

KINDS = ("mean", "new")


@dataclass(frozen=True)
class Prediction:
    """Predicted errors. X as (m,) or (m, k); value, low, high of shape (m,); kind in words."""

    X: Array
    value: Array
    low: Array
    high: Array
    level: float
    kind: str


def predict(
    fitted: Fit,
    X: ArrayLike,
    draws: Draws | None = None,
    kind: str = "mean",
    level: float = 0.95,
) -> Prediction:
    """The law's error at X with an interval, made on ln E.

    X: (m,), (m, k), or a table with the law's variables, positive. kind: ``mean``, where the law
    lies; ``new``, where a new run will lie (after a frontier: a new point of the frontier).
    draws: a bootstrap of this law; its parameters give the spread of the law, and for ``new``
    every one of them is joined with every residual, these enlarged by sqrt(n / (n - p)). Without
    draws: the delta method with Student's t, for laws fitted by least squares.
    InputError: an unknown kind, draws of other parameters, or no draws for another loss.

    >>> from cliplib.laws import fit
    >>> law = fit("power", [1, 10, 100, 1000], [0.80, 0.42, 0.19, 0.10])
    >>> at = predict(law, [1e4], kind="new")
    >>> [round(float(v[0]), 3) for v in (at.low, at.value, at.high)]
    [0.035, 0.049, 0.067]
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of prediction '{kind}'; known: {', '.join(KINDS)}")
    table = design(X, fitted.form.variables)
    x = np.log(table).T
    centre = fitted.form.log_predict(fitted.theta, x)
    if draws is None:
        low, high, how = _delta(fitted, x, centre, kind, level)
    else:
        low, high, how = _mixture(fitted, x, draws, kind, level)
    words = "mean of the law" if kind == "mean" else "a new run"
    shown = table[:, 0] if table.shape[1] == 1 else table
    return Prediction(shown, np.exp(centre), np.exp(low), np.exp(high), level, f"{words}, {how}")


def _delta(
    fitted: Fit, x: Array, centre: Array, kind: str, level: float
) -> tuple[Array, Array, str]:
    if fitted.loss != "l2":
        raise InputError(
            f"a law fitted by {fitted.loss} has no t interval for predictions; give bootstrap draws"
        )
    _, slope = fitted.form.natural(fitted.theta)
    J = fitted.form.jac(fitted.theta, x) / slope[:, None]  # by the reported parameters, (p, m)
    variance = np.einsum("pm,pq,qm->m", J, fitted.cov, J)
    if kind == "new":
        variance = variance + fitted.residual_sd**2
    half = stdtrit(fitted.dof, (1 + level) / 2) * np.sqrt(variance)
    return centre - half, centre + half, f"delta method, t with {fitted.dof} degrees of freedom"


def _mixture(
    fitted: Fit, x: Array, draws: Draws, kind: str, level: float
) -> tuple[Array, Array, str]:
    missing = [name for name in fitted.params if name not in draws.names]
    if missing:
        raise InputError(
            f"the draws have no parameter {missing[0]} of the {fitted.law} law; "
            f"they have {', '.join(draws.names)}"
        )
    values = draws.values[:, [draws.names.index(name) for name in fitted.params]]
    spread = fitted.form.log_predict(fitted.form.internal(values), x)  # (B, m)
    tails = [(1 - level) / 2, (1 + level) / 2]
    if kind == "mean":
        low, high = np.quantile(spread, tails, axis=0)
        return low, high, draws.kind
    scatter = fitted.residuals * np.sqrt(fitted.n / fitted.dof)
    joined = [np.quantile(np.add.outer(column, scatter), tails) for column in spread.T]
    low, high = np.array(joined).T
    return low, high, f"{draws.kind}, joined with {fitted.n} residuals"
