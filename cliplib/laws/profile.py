"""Profile likelihood: how far one parameter can go while the others give way.

The parameter is pinned to a value, the rest is fitted again, and the interval holds every value
whose best fit is nearly as good as the best of all. Unlike a standard error it sees a flat valley:
an end that is never reached is infinite, or the limit of what the parameter can be.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import erf, fdtri

from cliplib import InputError
from cliplib.laws.fitting import Fit, problem_of
from cliplib.laws.inputs import Array
from cliplib.laws.loss import Loss, loss_of
from cliplib.laws.search import search_rows
from cliplib.laws.solve import Problem

REACH = np.geomspace(0.5, 2e3, 36)  # steps outwards, in standard errors
FARTHEST = 40.0  # of a logged parameter: a factor of e^40 either way
PACE = 6  # values solved together on the way out
ROUNDS, CUTS = 2, 4  # each round looks at so many places between the last in and the first out
SEVERAL = 1  # starts of the law's own, besides the optimum


@dataclass(frozen=True)
class Profile:
    """The interval of one parameter; kind says how it was made.

    low, high: reported units; an infinite end (or 0 for a factor, an offset or an exponent that
    cannot be negative) was never excluded. values, objective: the curve, sorted by value.
    """

    param: str
    low: float
    high: float
    level: float
    kind: str
    values: Array
    objective: Array


def profile(fitted: Fit, param: str, level: float = 0.95) -> Profile:
    """The profile-likelihood interval of one parameter of a fit.

    One likelihood for every loss: the density of a residual is proportional to exp(-rho(r)/s), with
    s the value that suits it best (least squares: normal; least deviations: Laplace). Least squares
    is calibrated by F(1, n - p), so that for a law linear in its parameters this is Student's t
    interval; the others by chi-squared with one degree of freedom.
    InputError for an unknown parameter or a level outside (0, 1).

    >>> from cliplib.laws import fit
    >>> line = fit("power", [1, 10, 100, 1000], [0.5, 0.24, 0.13, 0.06])
    >>> found = profile(line, "alpha")
    >>> round(found.low, 3), round(found.high, 3)
    (-0.342, -0.264)
    """
    if param not in fitted.params:
        raise InputError(
            f"the {fitted.law} law has no parameter {param}; it has {', '.join(fitted.params)}"
        )
    if not 0 < level < 1:
        raise InputError(f"a level lies between 0 and 1, got {level:g}")
    trace = _Trace(fitted, param, level)
    low, high = (trace.end(side) for side in (-1, 1))
    values, objective = trace.curve()
    return Profile(param, low, high, level, trace.kind, values, objective)


class _Trace:
    """The profile as far as it was asked for."""

    def __init__(self, fitted: Fit, param: str, level: float) -> None:
        self.fitted, self.loss = fitted, loss_of(fitted.loss)
        self.index = list(fitted.params).index(param)
        self.problem, offset = problem_of(fitted, moved=param)
        self.best = fitted.form.shift(fitted.theta, -offset)
        self.logged = param in fitted.form.logged
        own = fitted.form.starts(self.problem.x, self.problem.y, self.problem.w[0])
        self.starts = np.concatenate([self.best[None], own[:SEVERAL]])
        self.level = level
        self.limit = _threshold(self.loss, fitted, level)
        how = f"F(1, {fitted.dof})" if self.loss.name == "l2" else "chi-squared(1)"
        self.kind = f"profile likelihood, {self.loss.text}, {how}"
        self.path = [self.best]
        self.seen: dict[float, float] = {float(self.best[self.index]): fitted.objective}

    def end(self, side: int) -> float:
        """Where the profile first leaves the interval on this side, in reported units."""
        centre = float(self.best[self.index])
        edge = self._edge(side)
        if (edge - centre) * side <= 0:
            return self._reported(edge, side)
        outwards = centre + side * self._step() * REACH
        outwards = outwards[(edge - outwards) * side > 0]
        inside, outside = centre, None
        for first in range(0, len(outwards), PACE):
            values = outwards[first : first + PACE]
            out = np.flatnonzero(self._excess(values) > self.limit)
            if out.size:
                outside = float(values[out[0]])
                inside = float(values[out[0] - 1]) if out[0] else inside
                break
            inside = float(values[-1])
        if outside is None:
            if not np.isfinite(edge) or not self._excess(np.array([edge]))[0] > self.limit:
                return self._reported(edge, side)
            outside = edge
        for _ in range(ROUNDS):
            cuts = np.sort(
                np.append(np.linspace(inside, outside, CUTS), self._aim(inside, outside))
            )
            cuts = cuts[:: 1 if outside > inside else -1]
            first = int(np.argmax(np.append(self._excess(cuts)[1:] > self.limit, True)))
            inside, outside = cuts[first], cuts[first + 1]
        return float(self._natural(self._crossing(inside, outside)))

    def _aim(self, inside: float, outside: float) -> Array:
        """Two values close about where the root of the excess, nearly a line, meets the limit."""
        guess, width = self._crossing(inside, outside), 1e-3 * (outside - inside)
        low, high = sorted((inside, outside))
        return np.clip(np.array([guess - width, guess + width]), low, high)

    def curve(self) -> tuple[Array, Array]:
        theta = np.array(sorted(self.seen))
        return self._natural(theta), np.array([self.seen[t] for t in theta])

    def _crossing(self, inside: float, outside: float) -> float:
        low, high = np.sqrt(np.maximum(self._excess(np.array([inside, outside])), 0.0))
        if not low < high < np.inf:
            return outside
        return inside + (outside - inside) * float((np.sqrt(self.limit) - low) / (high - low))

    def _excess(self, theta: Array) -> Array:
        """Fall of twice the log-likelihood (l2: the F statistic) at pinned values."""
        new = np.array([t for t in theta if float(t) not in self.seen])
        if new.size:
            self._solve(new)
        objective = np.array([self.seen[float(t)] for t in theta])
        return _excess(self.loss, self.fitted, objective)

    def _solve(self, theta: Array) -> None:
        lower = np.repeat(self.problem.lower, len(theta), axis=0)
        upper = np.repeat(self.problem.upper, len(theta), axis=0)
        lower[:, self.index] = upper[:, self.index] = theta
        w = np.repeat(self.problem.w, len(theta), axis=0)
        pinned = Problem(self.problem.form, self.problem.x, self.problem.y, w, lower, upper)
        near = min(self.path, key=lambda path: abs(path[self.index] - theta[0]))
        starts = np.concatenate([near[None], self.starts[1:]])
        found = search_rows(pinned, np.repeat(starts[None], len(theta), axis=0), self.loss)
        self.path += list(found.theta)
        self.seen |= dict(zip(map(float, theta), map(float, found.objective), strict=True))

    def _step(self) -> float:
        """A standard error of theta where there is one, else a tenth of the parameter."""
        value, slope = (v[self.index] for v in self.fitted.form.natural(self.best))
        sd = np.sqrt(self.fitted.cov[self.index, self.index]) / abs(slope or 1.0)
        if np.isfinite(sd) and 0 < sd < (2.0 if self.logged else np.inf):
            return float(sd)
        return 0.3 if self.logged else 0.1 * (abs(float(value)) or float(np.min(self.fitted.y)))

    def _edge(self, side: int) -> float:
        edge = (self.problem.lower if side < 0 else self.problem.upper)[0, self.index]
        if np.isinf(edge) and self.logged:
            edge = self.best[self.index] + side * FARTHEST
        return float(edge)

    def _reported(self, edge: float, side: int) -> float:
        """An end that was never excluded: 0 below, no limit above, unless the user set it."""
        name = list(self.fitted.params)[self.index]
        if name in self.fitted.bounds and self.fitted.bounds[name][(side + 1) // 2] is not None:
            return float(self._natural(edge))
        if side > 0:
            return 0.0 if edge == 0 else np.inf
        return 0.0 if self.logged or edge == 0 else -np.inf

    def _natural(self, theta: float | Array) -> Array:
        return np.exp(theta) if self.logged else np.asarray(theta, dtype=float)


def _threshold(loss: Loss, fitted: Fit, level: float) -> float:
    degrees = fitted.dof if loss.name == "l2" else 1e12  # F(1, infinity) is chi-squared(1)
    return float(fdtri(1, degrees, level))


def _excess(loss: Loss, fitted: Fit, objective: Array) -> Array:
    total, best = float(fitted.weights.sum()), fitted.objective
    if best <= 0:  # the points lie on the law: every other value is excluded
        return np.where(objective > 0, np.inf, 0.0)
    if loss.name == "l2":
        return (objective - best) / best * fitted.dof
    if loss.name == "lad":
        return 2 * total * np.log(objective / best)
    return 2 * (
        np.array([_huber_deviance(o, total, loss.delta) for o in objective])
        - _huber_deviance(best, total, loss.delta)
    )


def _huber_deviance(objective: float, total: float, delta: float) -> float:
    """Minus the log-likelihood of residuals of this objective, at the best scale s."""
    from scipy.optimize import minimize_scalar

    def deviance(log_s: float) -> float:
        s = np.exp(log_s)
        inner = np.sqrt(2 * np.pi * s) * erf(delta / np.sqrt(2 * s))
        return float(
            objective / s + total * np.log(inner + 2 * s / delta * np.exp(-(delta**2) / (2 * s)))
        )

    guess = np.log(objective / total)
    return float(
        minimize_scalar(
            deviance, bounds=(guess - 3, guess + 3), method="bounded", options={"xatol": 1e-10}
        ).fun
    )
