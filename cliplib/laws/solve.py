"""Many weighted fits at once: a damped Newton method over rows of starts or bootstrap replicates.

A row is one fit: its parameters theta, its weights, its box. A step solves H step = -g, where g
and H belong to Huber's objective, sum w h(r) (least squares is delta = inf). H begins as that of
reweighted least squares, which always points downhill, and becomes the exact second derivative
(residuals inside delta, plus the law's own curvature) once the gain slows; that one converges to
the last digits. Levenberg-Marquardt damping, set row by row, shortens a step that does not help.
A parameter on its bound whose gradient pushes outwards stays there.
"""

from dataclasses import dataclass

import numpy as np

from cliplib.laws.form import Law
from cliplib.laws.inputs import Array
from cliplib.laws.loss import huber

POOL = 256  # rows in work together, as many as a processor's cache holds
MOST_STEPS = 100
TIGHT = 1e-20  # predicted decrease / objective: below a billionth of a standard error
LOOSE = 1e-11
SLOW = 0.03  # gain / objective of a reweighted step below which exact Newton takes over
DAMPING = 1e-3
HOPELESS = 1e14  # damping at which even a tiny step does not lower the objective
LEAST_DAMPING = 1e-6  # below it, none
FLAT = 1e-14  # of the diagonal: a direction that the objective does not feel
SADDLE = 1e-9
NOISE = 1e-15  # of one residual


@dataclass(frozen=True)
class Problem:
    """Fits of one law: x (k, n) or (B, k, n), y (n,) or (B, n), w (B, n), box (B, p)."""

    form: Law
    x: Array
    y: Array
    w: Array
    lower: Array
    upper: Array

    def rows(self, index: np.ndarray) -> "Problem":
        """The fits of these rows, repeats allowed."""
        return Problem(
            self.form,
            self.x[index] if self.x.ndim == 3 else self.x,
            self.y[index] if self.y.ndim == 2 else self.y,
            self.w[index],
            self.lower[index],
            self.upper[index],
        )

    def residuals(self, theta: Array) -> Array:
        """Observed - predicted ln E, shape (B, n)."""
        return self.y - self.form.log_predict(theta, self.x)


@dataclass(frozen=True)
class Solved:
    """Where the rows ended.

    theta (B, p). objective (B,): Huber's, so half the sum of squares at delta = inf.
    converged (B,): the gradient is zero as far as the arithmetic tells. steps (B,): steps taken.
    """

    theta: Array
    objective: Array
    converged: np.ndarray
    steps: np.ndarray


@dataclass
class _State:
    theta: Array
    r: Array
    objective: Array
    scale: Array
    damping: Array
    exact: np.ndarray
    converged: np.ndarray
    steps: np.ndarray


def solve(
    problem: Problem,
    theta: Array,
    delta: float,
    tolerance: float = TIGHT,
    most_steps: int = MOST_STEPS,
    near: bool = False,
) -> Solved:
    """Minimise every row from its own start theta (B, p).

    delta: Huber's; inf is least squares. tolerance: a row is done when its predicted decrease,
    over its objective, is below it; not converged if that takes more than most_steps. near: the
    starts are close to the optima, so begin with the exact second derivative and no damping.
    """
    with np.errstate(all="ignore"):  # an absurd trial gives inf or nan, and is refused
        state = _begin(problem, theta, delta, near)
        waiting = np.arange(len(theta))
        active, waiting = waiting[:POOL], waiting[POOL:]
        while active.size:
            done = _advance(problem.rows(active), state, active, delta, tolerance)
            active = active[~done & (state.steps[active] < most_steps)]
            room = POOL - active.size
            if waiting.size and room > POOL // 4:
                active, waiting = np.append(active, waiting[:room]), waiting[room:]
    return Solved(state.theta, state.objective, state.converged, state.steps)


def _begin(problem: Problem, theta: Array, delta: float, near: bool) -> _State:
    theta = np.clip(theta, problem.lower, problem.upper)
    rows = len(theta)
    r = np.empty(problem.w.shape)
    for first in range(0, rows, POOL):
        part = np.arange(first, min(first + POOL, rows))
        r[part] = problem.rows(part).residuals(theta[part])
    return _State(
        theta=theta,
        r=r,
        objective=np.vecdot(problem.w, huber(r, delta)),
        scale=np.zeros(theta.shape),
        damping=np.full(rows, 0.0 if near else DAMPING),
        exact=np.full(rows, near),
        converged=np.zeros(rows, dtype=bool),
        steps=np.zeros(rows, dtype=int),
    )


def _advance(
    problem: Problem, state: _State, active: np.ndarray, delta: float, tolerance: float
) -> np.ndarray:
    """One step of the active rows; returns which of them are done."""
    theta, before, damping = state.theta[active], state.objective[active], state.damping[active]
    exact = state.exact[active]
    g, H = derivatives(problem, theta, state.r[active], delta, exact)
    scale = state.scale[active]
    grown = np.maximum(scale, np.abs(np.einsum("bii->bi", H)))
    state.scale[active] = scale = np.where(exact[:, None] & (scale > 0), scale, grown)
    step, pivot = _step(problem, theta, g, H, scale, damping)
    expected = -np.vecdot(g, step) - np.vecdot(step, np.matvec(H, step)) / 2
    trial = theta + step
    r = problem.residuals(trial)
    after = np.vecdot(problem.w, huber(r, delta))
    total = problem.w.sum(axis=-1)
    noise = NOISE * np.sqrt(2 * before * total) + NOISE**2 * total  # of the objective, at most
    level = (np.abs(expected) <= 10 * noise) & (after <= before + noise)
    taken = (after < before) | level
    state.theta[active[taken]] = trial[taken]
    state.r[active[taken]] = r[taken]
    state.objective[active[taken]] = after[taken]
    state.steps[active] += 1
    gain = np.where(taken, before - after, 0.0)
    state.damping[active] = np.where(level, 0.0, _next_damping(damping, taken, gain, expected))
    state.exact[active] = np.where(exact, taken, ~taken | (gain < SLOW * before))
    still = np.abs(expected) <= tolerance * before + 10 * NOISE**2 * total
    settled = exact & (damping == 0) & still & (pivot > -SADDLE)
    state.converged[active] = settled
    return settled | (state.damping[active] > HOPELESS)


def _next_damping(damping: Array, taken: np.ndarray, gain: Array, expected: Array) -> Array:
    """Less after a step that gained what was expected, more after one that was refused.

    In between by a smooth rule (Nielsen 1999), so that a curved valley is not left and met again.
    """
    ratio = gain / np.maximum(expected, np.finfo(float).tiny)
    kept = damping * np.clip(1 - (2 * ratio - 1) ** 3, 0.1, 2.0)
    after = np.where(taken, kept, 5 * np.maximum(damping, 10 * LEAST_DAMPING))
    return np.where(after < LEAST_DAMPING, 0.0, after)


def derivatives(
    problem: Problem, theta: Array, r: Array, delta: float, exact: np.ndarray
) -> tuple[Array, Array]:
    """Gradient (B, p) and Hessian (B, p, p) of Huber's objective.

    Rows that are not ``exact`` get the Hessian of reweighted least squares instead.
    """
    form, J, size = problem.form, problem.form.jac(theta, problem.x), np.abs(r)
    psi = problem.w * np.clip(r, -delta, delta)
    outside = np.where(exact[:, None], 0.0, delta / size)
    weight = problem.w * np.where(size <= delta, 1.0, outside)
    rows = np.flatnonzero(exact)
    if rows.size and not form.linear:
        weight[rows] += psi[rows]
    H = (J * weight[:, None]) @ J.swapaxes(-1, -2)
    if rows.size and not form.linear:
        H[rows] -= _bends(form, theta[rows], problem.rows(rows).x, J[rows], psi[rows])
    return -np.matvec(J, psi), H


def _bends(form: Law, theta: Array, x: Array, J: Array, psi: Array) -> Array:
    """Sum of psi times share (dz dz' + d2z) over the terms: the law's curvature but for -J J'.

    J (B, p, n) holds share dz already, so this costs a fraction of `Law.curvature`.
    """
    total, pull = form.total, J * psi[:, None]
    alone = total.offset is None and len(total.terms) == 1
    M = np.zeros((*theta.shape, theta.shape[1]))
    for term in total.terms:
        first, second = term.first(theta, x), term.second(theta, x)
        share = psi if alone else pull[:, term.rows[0]]
        for i, row in enumerate(term.rows):
            for j, column in enumerate(term.rows[: i + 1]):
                entry = np.vecdot(pull[:, row], first[j])
                if (column, row) in second:
                    entry = entry + np.vecdot(share, second[column, row])
                M[:, row, column] += entry
                if row != column:
                    M[:, column, row] += entry
    return M


def _step(
    problem: Problem, theta: Array, g: Array, H: Array, scale: Array, damping: Array
) -> tuple[Array, Array]:
    """The damped step inside the box, and the smallest pivot of the scaled Hessian (B,).

    Parameters whose gradient, or whose step, leaves the box from its edge are held.
    """
    unit = 1 / np.sqrt(np.maximum(scale, np.finfo(float).tiny))
    H, g = H * unit[:, :, None] * unit[:, None, :], g * unit
    low, high = theta <= problem.lower, theta >= problem.upper
    held = (low & (g >= 0)) | (high & (g <= 0))
    step, pivot = _solve_held(H, g, held, damping)
    leaving = ~held & ((low & (step < 0)) | (high & (step > 0)))
    if leaving.any():
        step, pivot = _solve_held(H, g, held | leaving, damping)
    return np.clip(theta + step * unit, problem.lower, problem.upper) - theta, pivot


def _solve_held(H: Array, g: Array, held: np.ndarray, damping: Array) -> tuple[Array, Array]:
    H = np.where(held[:, :, None] | held[:, None, :], 0.0, H)
    diagonal = np.arange(g.shape[1])
    H[:, diagonal, diagonal] += damping[:, None] + held
    return solve_downhill(H, np.where(held, 0.0, -g))


def solve_downhill(H: Array, b: Array) -> tuple[Array, Array]:
    """Solve many small symmetric systems H (B, p, p) x = b (B, p), and their smallest pivots (B,).

    L D L' by loops over p, whole columns of B at a time. A negative pivot loses its sign, so that
    x goes downhill where H has a negative curvature; the least size of a pivot is `FLAT`.
    """
    H, x = np.ascontiguousarray(H.transpose(1, 2, 0)), b.T.copy()
    p, L = len(x), np.zeros_like(H)
    D, smallest = np.empty_like(x), np.full(x.shape[1], np.inf)
    for j in range(p):
        LD = L[j, :j] * D[:j]
        pivot = H[j, j] - (L[j, :j] * LD).sum(axis=0)
        smallest = np.minimum(smallest, pivot)
        D[j] = np.maximum(np.abs(pivot), FLAT)
        L[j + 1 :, j] = (H[j + 1 :, j] - (L[j + 1 :, :j] * LD).sum(axis=1)) / D[j]
    for i in range(1, p):
        x[i] -= (L[i, :i] * x[:i]).sum(axis=0)
    x /= D
    for i in range(p - 2, -1, -1):
        x[i] -= (L[i + 1 :, i] * x[i + 1 :]).sum(axis=0)
    return x.T, smallest
