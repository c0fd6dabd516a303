"""What a fit does not know, in plain words."""

import numpy as np

from cliplib.laws.covariance import Covariance
from cliplib.laws.form import Law
from cliplib.laws.inputs import Array
from cliplib.laws.loss import Loss
from cliplib.laws.points import Points
from cliplib.laws.search import Optimum

FLAT = 1e3  # condition above which parameters trade off
CARRIED = 3  # points inside Huber's delta for each parameter, below which they carry too much
EXACT = 1e-9  # residuals of points that lie on the law
HARDLY = 0.5  # standard error of the log of a factor
UNKNOWN_BOUND = "read it as 'at least' or 'at most'"
BOUND = {  # of parameters at zero
    "E": "no irreducible loss is seen, the law is a sum of powers",
    "a": "no floor is seen, the law is one without it",
    "c": "no shift is seen, the law is one without it",
}


def doubts(
    form: Law, given: Points, params: dict[str, float], loss: Loss, spread: Covariance,
    on_bound: tuple[str, ...], at_start: bool, optimum: Optimum, residuals: Array,
) -> list[str]:  # fmt: skip
    """Every reason to distrust this fit, one line each; an empty list where none is seen."""
    n, p = given.n, len(params)
    found = _size(form, given.X, n, p)
    if form.name == "power" and params["alpha"] >= 0:
        found.append("the error does not fall with C: alpha is not negative")
    if form.name == "curved":
        found += _curved(given.X[:, 0], params)
    found += [_bound(name, params[name]) for name in on_bound]
    if at_start:
        found.append("the optimiser ended where it started although the slope is not zero there")
    elif not optimum.converged:
        found.append("the optimum is not proved: the solver stopped before its slope was zero")
    if len(optimum.ends) > 1 and optimum.n_at_best < 2:
        some = f"only {optimum.n_at_best}" if optimum.n_at_best else "none"
        found.append(f"{some} of {len(optimum.ends)} starts reached this optimum")
    if loss.name == "huber" and spread.inliers < CARRIED * p:
        found.append(
            f"only {spread.inliers} of {n} points lie inside delta = {loss.delta:g}: this is nearly "
            "least absolute deviations, and standard errors from derivatives mean little"
        )
    return found + _identified(form, params, spread, residuals)


def _size(form: Law, table: Array, n: int, p: int) -> list[str]:
    found = []
    if n - p < 3:
        found.append(
            f"{n} points for {p} parameters leave {n - p} degree{'s' if n - p != 1 else ''} of "
            "freedom: the fit can hardly be wrong, which is not evidence that it is right"
        )
    for name, decades in zip(form.variables, np.ptp(np.log10(table), axis=0), strict=True):
        if decades < 1 and name != "U":
            found.append(
                f"{name} spans a factor of {10**decades:.2g} only; an exponent wants 10 or more"
            )
    return found


def _curved(C: Array, params: dict[str, float]) -> list[str]:
    if params["c0"] > C.max() / 3:
        return [
            "the data end in the take-off (c0 is near or above the largest C): alpha is a guess"
        ]
    if params["c0"] < C.min() / 30:
        return ["c0 lies far below the data: no take-off seen, this is the power law"]
    return []


def _bound(name: str, value: float) -> str:
    meaning = BOUND.get(name) if value == 0 else None
    return f"{name} sits on a bound ({value:g}): {meaning or UNKNOWN_BOUND}"


def _identified(
    form: Law, params: dict[str, float], spread: Covariance, residuals: Array
) -> list[str]:
    if form.name != "power" and not spread.condition < FLAT:
        share = np.abs(spread.weakest)
        names = [form.params[i] for i in np.argsort(-share) if share[i] > 0.3 * share.max()]
        if len(names) == 1:
            return [f"the data say almost nothing about {names[0]}: a flat valley, not a point"]
        return [
            "the data do not tell the parameters apart: a flat valley, not a point; "
            f"{', '.join(names[:-1])} and {names[-1]} trade off"
        ]
    if np.abs(residuals).max() < EXACT:
        return []
    sd = dict(zip(form.params, np.sqrt(np.diag(spread.theta)), strict=True))
    return [
        _vague(name, value, sd[name], name in form.logged)
        for name, value in params.items()
        if sd[name] > (HARDLY if name in form.logged else abs(value))
    ]


def _vague(name: str, value: float, sd: float, logged: bool) -> str:
    if not logged:
        return f"{name} is smaller than its standard error"
    return f"{name} is hardly known: one standard error is a factor of {np.exp(sd):.2g}; see its profile"
