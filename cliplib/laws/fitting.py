"""Fit a law to runs, one fit or thousands, and say in words how far to trust the answer.

Reading order: `fit` (checks, search, description), `fit_batch` (the same law under many weights,
for a bootstrap), `Fit` (the answer).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib import InputError
from cliplib.laws.covariance import Covariance, covariance
from cliplib.laws.doubts import doubts
from cliplib.laws.form import Law
from cliplib.laws.inputs import Array, design
from cliplib.laws.law import law
from cliplib.laws.loss import Loss, loss_of
from cliplib.laws.points import Points, Variables, points
from cliplib.laws.search import (
    Optimum,
    closed_form,
    has_closed_form,
    linear_least_squares,
    search,
    search_rows,
)
from cliplib.laws.solve import Problem, Solved

NUMBERS = 1 << 20  # rows times points worked on together in a batch
POOLED = 2000  # points, at most, of the first fit of rows that each have their own


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    params: reported values by name (the power law: alpha, negative, and beta, the factor; laws
    in N and D: positive exponents). objective: see ``objective_formula``. residuals: ln E observed
    - predicted, shape (n,). cov: covariance of params, a check on the bootstrap and no more (see
    `cliplib.laws.covariance`). condition: of the scaled derivatives; large means that parameters
    trade off. on_bound: parameters on a bound. n_optima: distinct local optima met. fixed:
    constants of the form. X (n, k), y (n,), weights (n,): the points.
    """

    law: str
    formula: str
    variables: tuple[str, ...]
    params: dict[str, float]
    loss: str
    objective: float
    objective_formula: str
    n: int
    converged: bool
    warnings: list[str]
    residuals: Array
    cov: Array
    condition: float
    on_bound: tuple[str, ...]
    at_start: bool
    n_starts: int
    n_starts_at_best: int
    n_optima: int
    theta: Array
    form: Law = field(repr=False)
    X: Array = field(repr=False)
    y: Array = field(repr=False)
    weights: Array = field(repr=False)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fixed: dict[str, float] = field(default_factory=dict)

    @property
    def dof(self) -> int:
        """Degrees of freedom: points - free parameters."""
        return self.n - len(self.params)

    @property
    def residual_sd(self) -> float:
        """Standard deviation of ln E about the law (0.01 is about 1% of the error)."""
        return float(np.sqrt(self.weights @ self.residuals**2 / self.weights.mean() / self.dof))

    @property
    def C_range(self) -> tuple[float, float]:
        """Smallest and largest value of the first variable."""
        return float(self.X[:, 0].min()), float(self.X[:, 0].max())

    def predict(self, X: Variables) -> Array:
        """The law's error or loss at X, shape (m,), in the units of the fitted X: see `fit`."""
        return predict_values(self.form, self.theta, X)

    def refit(self, **changes: Any) -> "Fit":
        """The same fit with other choices: loss, bounds, weights, form, X, y."""
        asked: dict[str, Any] = {
            "form": self.form, "X": self.X, "y": self.y, "loss": self.loss,
            "weights": self.weights, "bounds": self.bounds, **changes,
        }  # fmt: skip
        return fit(**asked)


@dataclass(frozen=True)
class Batch:
    """Many fits of one law: theta (B, p), params (B, p) reported, objective and converged (B,)."""

    theta: Array
    params: Array
    objective: Array
    converged: np.ndarray


def predict_values(form: Law, theta: Array, X: Variables) -> Array:
    """The error of theta (..., p) at X, shape (..., m)."""
    if not isinstance(X, (Mapping, pd.DataFrame)):
        X = np.atleast_1d(np.asarray(X, dtype=float))
        if len(form.variables) > 1 and X.ndim == 1:
            X = X[None, :]
    return np.exp(form.log_predict(theta, np.log(design(X, form.variables)).T))


def fit(
    form: str | Law,
    X: Variables,
    y: ArrayLike,
    loss: str | Loss = "l2",
    *,
    weights: ArrayLike | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    starts: ArrayLike | None = None,
    **options: float | None,
) -> Fit:
    """Fit a law to the points (X, y); residuals are of ln y.

    form: a name in `LAWS` or a `Law`; options go to the named law's factory (``chance=1/837``).
    X: (n,) for a law in C; (n, k), or a mapping or table with the law's variables (N, D, U), in
    any unit. y: (n,), a fraction or a loss. loss: see `loss_of`. weights: (n,), >= 0.
    bounds: by parameter, as reported: ``{"E": (0, 1.5)}``. starts: (s, p) reported values to start
    from besides the law's own.
    InputError: fewer points than parameters + 1, one distinct value, variables that move together,
    a value without logarithm, an unknown law, loss, variable or parameter.

    >>> C = [1e2, 1e3, 1e4, 1e5]
    >>> round(fit("power", C, [0.8, 0.4, 0.2, 0.1]).params["alpha"], 4)
    -0.301
    """
    form = law(form, **options) if isinstance(form, str) else form
    loss = loss_of(loss)
    given = points(form, X, y, weights)
    x, offset = _centred(form, given.x, bounds or {})
    lower, upper = _box(form, bounds or {}, offset)
    problem = Problem(form, x, given.y, given.w[None], lower[None], upper[None])
    if has_closed_form(problem, loss):
        optimum = closed_form(problem)
    else:
        optimum = search(problem, _starts(form, problem, starts, offset), loss)
    return _describe(form, given, loss, problem, optimum, offset, bounds or {})


def fit_batch(
    form: Law,
    X: Array,
    y: Array,
    W: Array,
    loss: str | Loss = "l2",
    bounds: Mapping[str, tuple[float, float]] | None = None,
    starts: ArrayLike | None = None,
) -> Batch:
    """Fit a law under each row of weights W (B, n); a weight of zero leaves the point out.

    X: (n,) or (n, k) shared, or (B, n, k) by row; y: (n,) or (B, n); both positive and finite.
    starts: (p,) or (s, p) reported values, for instance of the fit to all points; without them
    that fit is made first. Nothing is checked: this is the inner loop of a bootstrap. A row that
    cannot be fitted has params nan or is not converged.
    """
    loss, bounds = loss_of(loss), bounds or {}
    X = X[..., None] if X.ndim == 1 else X
    logs = np.log(X).swapaxes(-1, -2)  # (..., k, n)
    centre = logs if logs.ndim == 2 else np.concatenate(list(logs), axis=-1)
    offset = _offset(form, centre, bounds)
    x = logs - offset[:, None]
    lower, upper = _box(form, bounds, offset)
    box = np.broadcast_to(lower, (len(W), lower.size)), np.broadcast_to(upper, (len(W), lower.size))
    problem = Problem(form, x, np.log(y), np.asarray(W, dtype=float), *box)
    found = _solve_rows(problem, starts, offset, loss)
    theta = form.shift(found.theta, offset)
    return Batch(theta, form.natural(theta)[0], found.objective, found.converged)


def _solve_rows(problem: Problem, starts: ArrayLike | None, offset: Array, loss: Loss) -> Solved:
    """All rows, in parts that keep memory small."""
    if has_closed_form(problem, loss):
        return linear_least_squares(problem)
    given = _shared_starts(problem, starts, offset, loss)
    rows, n = problem.w.shape
    parts = np.array_split(np.arange(rows), -(-rows * n // NUMBERS))
    found = [_solve_part(problem.rows(part), given, loss) for part in parts]
    return Solved(
        np.concatenate([part.theta for part in found]),
        np.concatenate([part.objective for part in found]),
        np.concatenate([part.converged for part in found]),
        np.concatenate([part.steps for part in found]),
    )


def _solve_part(problem: Problem, given: Array, loss: Loss) -> Solved:
    """Rows from the shared starts (s, p) and, where points are shared, from their own."""
    form, starts = problem.form, np.broadcast_to(given, (len(problem.w), *given.shape))
    if form.batch_starts is not None and problem.x.ndim == 2 and problem.y.ndim == 1:
        own = form.batch_starts(problem.x, problem.y, problem.w)
        starts = np.concatenate([starts, own], axis=1)
    return search_rows(problem, starts, loss)


def problem_of(fitted: Fit, moved: str | None = None) -> tuple[Problem, Array]:
    """The fit's problem, of one row, and the offset that its logs were centred at.

    moved: a parameter that will be pinned; one that a change of unit moves keeps the user's unit.
    """
    bounds = dict(fitted.bounds) | ({moved: (-np.inf, np.inf)} if moved else {})
    x, offset = _centred(fitted.form, np.log(fitted.X).T, bounds)
    lower, upper = _box(fitted.form, fitted.bounds, offset)
    w = fitted.weights[None]
    return Problem(fitted.form, x, np.log(fitted.y), w, lower[None], upper[None]), offset


def _shared_starts(problem: Problem, starts: ArrayLike | None, offset: Array, loss: Loss) -> Array:
    """Starts (s, p) that all rows share: the given ones, else the optimum of all points."""
    form = problem.form
    if starts is not None:
        return form.shift(form.internal(np.atleast_2d(np.asarray(starts, float))), -offset)
    one = _pooled(problem)
    return search(one, form.starts(one.x, one.y, one.w[0]), loss).theta[None]


def _pooled(problem: Problem) -> Problem:
    """One row with the points of all rows, each by its summed weight; of many rows, a sample."""
    lower, upper = problem.lower[:1], problem.upper[:1]
    if problem.x.ndim == 2 and problem.y.ndim == 1:
        w = problem.w.sum(axis=0)[None]
        return Problem(problem.form, problem.x, problem.y, w, lower, upper)
    rows = max(1, POOLED // problem.w.shape[1])
    if rows < len(problem.w):
        problem = problem.rows(np.linspace(0, len(problem.w) - 1, rows).astype(int))
    x = np.broadcast_to(problem.x, (len(problem.w), *problem.x.shape[-2:]))
    y = np.broadcast_to(problem.y, problem.w.shape)
    kept = problem.w > 0
    flat = x.swapaxes(-1, -2)[kept].T
    return Problem(problem.form, flat, y[kept], problem.w[kept][None], lower, upper)


def _centred(form: Law, x: Array, bounds: Mapping[str, Any]) -> tuple[Array, Array]:
    offset = _offset(form, x, bounds)
    return x - offset[:, None], offset


def _offset(form: Law, x: Array, bounds: Mapping[str, Any]) -> Array:
    """Where the logs are centred. Bounds on a factor hold in the user's units, so not there."""
    moved = {name for name in bounds if name in form.logged or name == "c"}
    return np.zeros(len(form.variables)) if moved else form.centre(x)


def _box(
    form: Law, bounds: Mapping[str, tuple[float, float]], offset: Array
) -> tuple[Array, Array]:
    lower, upper = form.lower.astype(float).copy(), form.upper.astype(float).copy()
    for name, (low, high) in bounds.items():
        if name not in form.params:
            raise InputError(
                f"bounds: the {form.name} law has no parameter {name}; it has "
                f"{', '.join(form.params)}"
            )
        if not low <= high:
            raise InputError(f"bounds of {name}: {low:g} is above {high:g}")
        i = form.params.index(name)
        values = np.clip([low, high], 0, None) if name in form.logged else np.array([low, high])
        one = np.ones((2, len(form.params)))
        one[:, i] = values
        lower[i], upper[i] = np.clip(form.internal(one)[:, i], lower[i], upper[i])
    return lower, upper


def _starts(form: Law, problem: Problem, given: ArrayLike | None, offset: Array) -> Array:
    own = form.starts(problem.x, problem.y, problem.w[0])
    if given is None:
        return own
    values = np.atleast_2d(np.asarray(given, dtype=float))
    if values.shape[1] != len(form.params):
        raise InputError(
            f"starts: expected {len(form.params)} values ({', '.join(form.params)}) each, "
            f"got {values.shape[1]}"
        )
    return np.concatenate([form.shift(form.internal(values), -offset), own])


def _describe(
    form: Law,
    given: Points,
    loss: Loss,
    problem: Problem,
    optimum: Optimum,
    offset: Array,
    bounds: Mapping[str, tuple[float, float]],
) -> Fit:
    theta = form.shift(optimum.theta, offset)
    values, slope = form.natural(theta)
    residuals = problem.residuals(optimum.theta[None])[0]
    spread = covariance(problem, optimum.theta, loss)
    params = dict(zip(form.params, map(float, values), strict=True))
    at_bound = np.isclose(optimum.theta, problem.lower[0], atol=1e-9, rtol=1e-9) | np.isclose(
        optimum.theta, problem.upper[0], atol=1e-9, rtol=1e-9
    )
    on_bound = tuple(name for name, here in zip(form.params, at_bound, strict=True) if here)
    at_start = not optimum.converged and bool(np.allclose(optimum.theta, optimum.start, rtol=1e-9))
    n_at_best = optimum.n_at_best
    warnings = doubts(form, given, params, loss, spread, on_bound, at_start, optimum, residuals)
    return Fit(
        law=form.name,
        formula=form.formula,
        variables=form.variables,
        params=params,
        loss=loss.text,
        objective=optimum.objective,
        objective_formula=loss.formula,
        n=given.n,
        converged=optimum.converged,
        warnings=warnings,
        residuals=residuals,
        cov=_reported(form, spread, theta, slope, offset),
        condition=spread.condition,
        on_bound=on_bound,
        at_start=at_start,
        n_starts=len(optimum.ends),
        n_starts_at_best=n_at_best,
        n_optima=len(optimum.others),
        theta=theta,
        form=form,
        X=given.X,
        y=given.E,
        weights=given.w,
        bounds=dict(bounds),
        fixed=dict(form.fixed),
    )


def _reported(form: Law, spread: Covariance, theta: Array, slope: Array, offset: Array) -> Array:
    """Covariance of the reported values: a change of unit is affine in theta, reporting is by slope."""
    p = len(theta)
    turn = (form.shift(np.eye(p), offset) - form.shift(np.zeros((p, p)), offset)).T
    with np.errstate(over="ignore", invalid="ignore"):  # a factor that may be anything
        return slope[:, None] * (turn @ spread.theta @ turn.T) * slope
