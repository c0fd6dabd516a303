"""Least absolute deviations to the last digit: the optimum is a corner, and a corner can be proved.

At the optimum of sum w |r| a law passes exactly through some of the points, in general as many as
it has free parameters. Each round takes the law as linear around theta, goes to the best corner of
that model (`corner`), and starts again from there: near the optimum this is Newton's method on
r = 0 at the touched points. The proof: multipliers with sum of w sign(r) J over the other points
+ sum of multiplier J over the touched ones = 0, and |multiplier| <= w. For a law linear in theta
that proves the global optimum, for a curved one a local optimum. A curved law may also rest on
fewer points than it has parameters, held by its curvature; rows like that go through linear
programs in a trust region and end with Newton's method on the touched points.
"""

from dataclasses import replace

import numpy as np

from cliplib.laws.corner import exchange, first_basis, lines
from cliplib.laws.inputs import Array
from cliplib.laws.solve import POOL, Problem, Solved

ROUNDS = 20
ZERO = 1e-11  # |r| of a point that the law passes through
STILL = 1e-10  # scaled step of a row that has arrived
BALANCED = 1e-9  # relative, of a gradient that is zero
PROGRAMS = 100
LEAST_RADIUS = 1e-9
NEAR = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # of the mean |r|: points that may be meant to be touched
NEWTON_STEPS = 20


def lad(problem: Problem, theta: Array) -> Solved:
    """Least absolute deviations of every row from its start theta (B, p).

    Returns a `Solved` whose objective is sum w |r| and whose ``converged`` says that the optimum
    is proved.
    """
    found = corners(problem, theta)
    with np.errstate(all="ignore"):
        for row in np.flatnonzero(~found.converged):
            one = problem.rows(np.array([row]))
            found.theta[row], found.converged[row] = _rescue(one, found.theta[row])
    return replace(found, objective=deviations(problem, found.theta))


def corners(problem: Problem, theta: Array) -> Solved:
    """As `lad`, but rows that do not settle at a corner are left where they are, not proved."""
    theta = np.clip(theta, problem.lower, problem.upper)
    proved, rounds = np.zeros(len(theta), dtype=bool), np.zeros(len(theta), dtype=int)
    with np.errstate(all="ignore"):
        for first in range(0, len(theta), POOL):
            part = np.arange(first, min(first + POOL, len(theta)))
            theta[part], proved[part], rounds[part] = _rounds(problem.rows(part), theta[part])
    return Solved(theta, deviations(problem, theta), proved, rounds)


def deviations(problem: Problem, theta: Array) -> Array:
    """Sum w |r| of every row, shape (B,)."""
    return np.vecdot(problem.w, np.abs(problem.residuals(theta)))


def touched(problem: Problem, theta: Array) -> np.ndarray:
    """Which points of weight the law of each row passes through, shape (B, n)."""
    return (np.abs(problem.residuals(theta)) < ZERO) & (problem.w > 0)


def _rounds(problem: Problem, theta: Array) -> tuple[Array, np.ndarray, np.ndarray]:
    """Theta, whether it is proved, and the rounds taken, for every row."""
    proved, rounds = np.zeros(len(theta), dtype=bool), np.zeros(len(theta), dtype=int)
    active = np.arange(len(theta))
    for _ in range(ROUNDS):
        part = problem.rows(active)
        step, arrived, valid = _corner_step(part, theta[active])
        theta[active], moved = _downhill(part, theta[active], step)
        rounds[active] += 1
        proved[active] = arrived & valid
        active = active[moved & ~arrived]
        if not active.size:
            break
    return theta, proved, rounds


def _corner_step(problem: Problem, theta: Array) -> tuple[Array, np.ndarray, np.ndarray]:
    """The step to the best corner of the linear model, whether it is none, and the proof there."""
    r, J = problem.residuals(theta), problem.form.jac(theta, problem.x)
    low, high = theta <= problem.lower, theta >= problem.upper
    size = np.sqrt(np.matvec(J**2, problem.w) + np.finfo(float).tiny)
    model = lines(J / size[:, :, None], r, problem.w, low | high)
    place = exchange(model, first_basis(model))
    on = np.take_along_axis(model.r, place.basis, 1)
    pull = np.zeros(theta.shape)  # the multipliers of held parameters, by parameter
    n, row = r.shape[1], np.arange(len(theta))[:, None]
    held = place.basis >= n
    pull[np.broadcast_to(row, held.shape)[held], place.basis[held] - n] = place.multiplier[held]
    inwards = np.any(low & ~high & (pull < 0), axis=1) | np.any(high & ~low & (pull > 0), axis=1)
    arrived = np.abs(place.step).max(axis=1) < STILL
    valid = place.optimal & ~inwards & np.all(np.abs(on) < ZERO, axis=1)
    return place.step / size, arrived, valid


def _downhill(problem: Problem, theta: Array, step: Array) -> tuple[Array, np.ndarray]:
    """The longest of a few fractions of the step that lowers sum w |r|, and who has moved."""
    before, moved = deviations(problem, theta), np.zeros(len(theta), dtype=bool)
    best = theta.copy()
    for part in (1.0, 0.3, 0.1, 0.03):
        trial = np.clip(theta + part * step, problem.lower, problem.upper)
        after = deviations(problem, trial)
        better = ~moved & (after <= before * (1 + 1e-15))
        best[better] = trial[better]
        moved |= better
    return best, moved


def _rescue(problem: Problem, theta: Array) -> tuple[Array, bool]:
    """One row through linear programs; its theta (p,), and whether it is proved."""
    theta = _programs(problem, theta)
    found = [theta, *(_newton(problem, theta, near) for near in NEAR)]
    values = deviations(_repeat(problem, len(found)), np.array(found))
    found = [t for t, value in zip(found, values) if value <= values[0] * (1 + 1e-12)]
    return next(((t, True) for t in found if _balanced(problem, t)), (theta, False))


def _repeat(problem: Problem, times: int) -> Problem:
    return problem.rows(np.zeros(times, dtype=int))


def _programs(problem: Problem, theta: Array) -> Array:
    """Linear programs in a trust region that grows and shrinks with their success."""
    radius, before = 1.0, float(deviations(problem, theta[None])[0])
    for _ in range(PROGRAMS):
        r = problem.residuals(theta[None])[0]
        J = problem.form.jac(theta[None], problem.x)[0]
        step = _program(problem, theta, J, r, radius)
        expected = before - float(problem.w[0] @ np.abs(r - step @ J))
        after = float(deviations(problem, (theta + step)[None])[0])
        if after < before:
            gain, theta, before = before - after, theta + step, after
            radius *= 4 if gain > 0.75 * expected else 1
        else:
            radius /= 4
        if radius < LEAST_RADIUS or expected <= 1e-15 * before:
            break
    return theta


def _program(problem: Problem, theta: Array, J: Array, r: Array, radius: float) -> Array:
    """The step (p,) in box and region that minimises sum w |r - J' step|: the dual, by simplex."""
    from scipy.optimize import linprog  # a third of a second, so only where used

    w, p = problem.w[0], len(theta)
    reach = radius * np.sqrt(w.sum() / (J**2 @ w + np.finfo(float).tiny))
    low = np.maximum(-reach, problem.lower[0] - theta)
    high = np.minimum(reach, problem.upper[0] - theta)
    found = linprog(
        np.concatenate([-r, high, -low]),
        A_eq=np.hstack([J, -np.eye(p), np.eye(p)]),
        b_eq=np.zeros(p),
        bounds=[*zip(-w, w, strict=True), *[(0.0, None)] * (2 * p)],
        method="highs-ds",
    )
    return np.clip(-found.eqlin.marginals, low, high) if found.success else np.zeros(p)


def _newton(problem: Problem, theta: Array, near: float) -> Array:
    """Newton on the touched points and the curvature: [H -J; J' 0] (step, multiplier) = (g, r)."""
    r = problem.residuals(theta[None])[0]
    on = (np.abs(r) < near * np.abs(r).mean()) & (problem.w[0] > 0)
    free = (theta > problem.lower[0]) & (theta < problem.upper[0])
    force, m = np.where(on, 0.0, problem.w[0] * np.sign(r)), int(on.sum())
    for _ in range(NEWTON_STEPS):
        J = problem.form.jac(theta[None], problem.x)[0]
        H = -problem.form.curvature(theta[None], problem.x, force[None])[0]
        edges = J[:, on][free]
        K = np.block([[H[np.ix_(free, free)], -edges], [edges.T, np.zeros((m, m))]])
        others = np.where(on, 0.0, problem.w[0] * np.sign(r))
        right = np.concatenate([(J @ others)[free], r[on]])
        if not (np.isfinite(K).all() and np.isfinite(right).all()):
            break
        solution = np.linalg.lstsq(K, right, rcond=1e-14)[0]
        theta = theta.copy()
        theta[free] += solution[: free.sum()]
        force = others.copy()
        force[on] = solution[free.sum() :]
        r = problem.residuals(theta[None])[0]
    return np.clip(theta, problem.lower[0], problem.upper[0])


def _balanced(problem: Problem, theta: Array) -> bool:
    """Whether any multipliers within the weights balance the pulls, whatever number of points."""
    from scipy.optimize import lsq_linear

    w, on = problem.w[0], touched(problem, theta[None])[0]
    J = problem.form.jac(theta[None], problem.x)[0]
    others = J @ (w * np.sign(problem.residuals(theta[None])[0]) * ~on)
    size = np.abs(J) @ w + np.finfo(float).tiny
    push = np.eye(len(theta))[:, theta <= problem.lower[0]]
    pull = -np.eye(len(theta))[:, theta >= problem.upper[0]]
    A = np.hstack([J[:, on] / size[:, None], push, pull])
    low = np.concatenate([-w[on], np.zeros(push.shape[1] + pull.shape[1])])
    high = np.concatenate([w[on], np.full(push.shape[1] + pull.shape[1], np.inf)])
    b = -others / size
    if A.shape[1]:
        b = b - A @ lsq_linear(A, b, (low, high), method="bvls", tol=1e-15).x
    return bool(np.all(np.abs(b) <= BALANCED))
