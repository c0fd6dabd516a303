"""Fit one law to runs by least squares on ln E, and say in words how far to trust the answer."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from cliplib import InputError
from cliplib.laws.forms import Law, law
from cliplib.laws.inputs import Array, pair, positive

LOSSES = ("l2",)
SAME_OPTIMUM = 1e-7  # relative difference of objectives below which two starts ended together


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    params: reported values by name (for the power law alpha, negative, and beta, the factor).
    objective: sum of squared residuals of ln E. residuals: ln E observed - predicted, shape (n,).
    cov: covariance of params, from the curvature and the residual variance with n - p degrees of
    freedom; a check on the bootstrap, not a replacement. fixed: constants of the form.
    """

    law: str
    formula: str
    params: dict[str, float]
    objective: float
    n: int
    converged: bool
    warnings: list[str]
    residuals: Array
    cov: Array
    theta: Array
    form: Law = field(repr=False)
    C_range: tuple[float, float] = (0.0, 0.0)
    loss: str = "l2"
    n_starts: int = 1
    n_starts_at_best: int = 1
    fixed: dict[str, float] = field(default_factory=dict)

    @property
    def dof(self) -> int:
        """Degrees of freedom: points - free parameters."""
        return self.n - len(self.params)

    @property
    def residual_sd(self) -> float:
        """Standard deviation of ln E about the law (0.01 is about 1% of the error)."""
        return float(np.sqrt(self.objective / self.dof))

    def predict(self, C: ArrayLike) -> Array:
        """The law's error (a fraction) at compute C, in the units of the fitted C."""
        C = positive(np.atleast_1d(np.asarray(C, dtype=float)), "C")
        return np.exp(self.form.log_predict(self.theta, C))


def fit(
    form: str | Law, C: ArrayLike, E: ArrayLike, loss: str = "l2", **options: float | None
) -> Fit:
    """Fit a law to the points (C, E) by least squares on ln E.

    ``form`` is a name in `LAWS` or a `Law`; options go to the named law's factory
    (``chance=1/837``). C in any unit of compute, E a fraction or a loss, both positive, shape (n,).
    InputError: fewer points than parameters + 1, one distinct C, a value without logarithm,
    an unknown law or loss.

    >>> C = [1e2, 1e3, 1e4, 1e5]
    >>> round(fit("power", C, [0.8, 0.4, 0.2, 0.1]).params["alpha"], 4)
    -0.301
    """
    form = law(form, **options) if isinstance(form, str) else form
    if loss not in LOSSES:
        raise InputError(f"unknown loss '{loss}'; known: {', '.join(LOSSES)}")
    C, E = pair(C, E)
    need = len(form.params) + 1
    if C.size < need:
        raise InputError(
            f"{C.size} points are too few: the {form.name} law has {need - 1} free parameters "
            f"and needs at least {need}"
        )
    if np.unique(C).size < len(form.params):
        raise InputError(
            f"column C has {np.unique(C).size} distinct values, too few for the "
            f"{len(form.params)} parameters of the {form.name} law"
        )
    theta, starts, ends = _solve(form, C, E)
    return _describe(form, C, E, theta, starts, ends)


def _solve(form: Law, C: Array, E: Array) -> tuple[Array, Array, list[float]]:
    """The best theta, the starts, and the objective that each start ended in (nan: failed)."""
    starts = form.starts(C, E)
    if form.name == "power":  # its start is the exact least-squares line
        residuals = np.log(E) - form.log_predict(starts[0], C)
        return starts[0], starts, [float(residuals @ residuals)]
    from scipy.optimize import least_squares  # a third of a second, so only where used

    y = np.log(E)
    low, high = form.bounds or (-np.inf, np.inf)
    results = [
        least_squares(
            lambda theta: form.log_predict(theta, C) - y,
            np.clip(start, low, high),
            jac=lambda theta: form.jac(theta, C),
            bounds=(low, high),
            x_scale="jac",
            ftol=1e-14,
            xtol=1e-12,
            gtol=1e-14,
            max_nfev=400,
        )
        for start in starts
    ]
    best = min(results, key=lambda result: result.cost)
    return best.x, starts, [2 * r.cost if r.success else float("nan") for r in results]


def _describe(form: Law, C: Array, E: Array, theta: Array, starts: Array, ends: list[float]) -> Fit:
    residuals = np.log(E) - form.log_predict(theta, C)
    objective = float(residuals @ residuals)
    values, slope = form.natural(theta)
    cov, identified = _covariance(form.jac(theta, C), objective, C.size)
    params = dict(zip(form.params, map(float, values), strict=True))
    at_best = sum(bool(end <= objective * (1 + SAME_OPTIMUM) + 1e-24) for end in ends)
    warnings = _warnings(form, C, theta, params, objective, identified, cov)
    if len(ends) > 1 and at_best < 2:
        warnings.append(f"only {at_best} of {len(ends)} starts reached this optimum")
    return Fit(
        law=form.name,
        formula=form.formula,
        params=params,
        objective=objective,
        n=C.size,
        converged=at_best >= 1,
        warnings=warnings,
        residuals=residuals,
        cov=cov * np.outer(slope, slope),
        theta=theta,
        form=form,
        C_range=(float(C.min()), float(C.max())),
        n_starts=len(starts),
        n_starts_at_best=at_best,
        fixed=dict(form.fixed),
    )


def _covariance(J: Array, objective: float, n: int) -> tuple[Array, bool]:
    """Gauss-Newton covariance of theta, and whether the data tell the parameters apart."""
    scale = np.linalg.norm(J, axis=0)
    if (scale == 0).any():
        return np.full((J.shape[1],) * 2, np.inf), False
    unit = J / scale
    identified = bool(np.linalg.cond(unit) < 1e4)
    inverse = np.linalg.pinv(unit.T @ unit) / np.outer(scale, scale)
    return inverse * objective / (n - J.shape[1]), identified


def _warnings(
    form: Law,
    C: Array,
    theta: Array,
    params: dict[str, float],
    objective: float,
    identified: bool,
    cov: Array,
) -> list[str]:
    found = []
    dof, decades = C.size - len(theta), float(np.ptp(np.log10(C)))
    if dof < 3:
        left = "degree" if dof == 1 else "degrees"
        found.append(
            f"{C.size} points for {len(theta)} parameters leave {dof} {left} of freedom: "
            "the fit can hardly be wrong, which is not evidence that it is right"
        )
    if decades < 1:
        found.append(f"C spans a factor of {10**decades:.2g} only; an exponent wants 10 or more")
    if form.name == "power" and params["alpha"] >= 0:
        found.append("the error does not fall with C: alpha is not negative")
    if form.name == "curved":
        found += _curved_warnings(C, params)
    if form.bounds is not None and _on_bound(theta, form.bounds):
        found.append("the optimum sits on a bound: read it as 'at least' or 'at most'")
    if form.name != "power" and not identified:
        found.append("the data do not tell the parameters apart: a flat valley, not a point")
    elif objective > 0 and cov[0, 0] > params["alpha"] ** 2:
        found.append("alpha is smaller than its standard error")
    return found


def _curved_warnings(C: Array, params: dict[str, float]) -> list[str]:
    if params["c0"] > C.max() / 3:
        return [
            "the data end in the take-off (c0 is near or above the largest C): alpha is a guess"
        ]
    if params["c0"] < C.min() / 30:
        return ["c0 lies far below the data: no take-off seen, this is the power law"]
    return []


def _on_bound(theta: Array, bounds: tuple[Array, Array]) -> bool:
    low, high = bounds
    return bool((np.isclose(theta, low, atol=1e-6) | np.isclose(theta, high, atol=1e-6)).any())
