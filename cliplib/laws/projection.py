"""Variable projection: the factors and the offset of a sum of terms solved for, given the rest.

Given its exponents, a sum of terms is linear in its factors and its offset. Solving for these
leaves a points in few parameters, without the narrow curved valleys along which a factor, an
offset and an exponent trade off (Golub and Pereyra 1973; for scaling laws arXiv 2603.22339).
"""

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from cliplib.laws.form import Total
from cliplib.laws.inputs import Array

RIDGE = 1e-12  # of the unit diagonal: two columns that the data cannot tell apart
SMALLEST_FACTOR = 1e-8  # of its share of E; ln 0 is no start
STEPS = 16
SETTLED = 1e-8  # gain / score
GIVE_UP = 1e6  # damping at which no step helps
MEETINGS = (3, 6, 10)  # steps after which rows in one valley go on as one
SAME_SCORE, SAME_PLACE = 1e-4, 1e-2  # relative


def eliminate(A: list[list[Array]], h: list[Array]) -> list[Array]:
    """Solutions of many small symmetric systems by elimination; A[i][j] and h[i] hold one each."""
    scale = [np.sqrt(np.maximum(A[i][i], np.finfo(float).tiny)) for i in range(len(h))]
    size = range(len(h))
    rows = [[A[i][j] / (scale[i] * scale[j]) for j in size] + [h[i] / scale[i]] for i in size]
    for k in size:
        rows[k][k] = np.maximum(rows[k][k], 0.0) + RIDGE
        for i in range(k + 1, len(h)):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    solution: list[Array] = [np.empty(0)] * len(h)
    for k in reversed(size):
        known = sum(rows[k][j] * solution[j] for j in range(k + 1, len(h)))
        solution[k] = (rows[k][-1] - known) / rows[k][k]
    return [c / s for c, s in zip(solution, scale, strict=True)]


def nonnegative(A: list[list[Array]], h: list[Array]) -> tuple[Array, Array]:
    """Non-negative least squares of many small systems, by trying the sets of active columns.

    A[i][j], h[i]: entries of the normal equations, each of shape (...). Returns the coefficients,
    shape (..., m), and what they take off the sum of squares, shape (...).
    """
    best = np.stack(eliminate(A, h), axis=-1)
    gain = np.vecdot(best, np.stack(h, axis=-1))
    mixed = (best < 0).any(axis=-1)
    if mixed.any():
        rows = [[entry[mixed] for entry in row] for row in A]
        best[mixed], gain[mixed] = _best_subset(rows, [entry[mixed] for entry in h])
    return best, gain


def _best_subset(A: list[list[Array]], h: list[Array]) -> tuple[Array, Array]:
    best, gain = np.zeros((h[0].size, len(h))), np.zeros(h[0].size)
    for size in range(len(h) - 1, 0, -1):
        for chosen in combinations(range(len(h)), size):
            c = eliminate([[A[i][j] for j in chosen] for i in chosen], [h[i] for i in chosen])
            taken = np.sum([x * h[i] for x, i in zip(c, chosen, strict=True)], axis=0)
            better = np.all([x >= 0 for x in c], axis=0) & (taken > gain)
            best[better] = 0.0
            for i, x in zip(chosen, c, strict=True):
                best[better, i] = x[better]
            gain[better] = taken[better]
    return best, gain


def normal(P: Array, target: Array, weights: Array) -> tuple[list[list[Array]], list[Array]]:
    """Normal equations of columns P (G, m, n), a target and weights (G, n), entry by entry."""
    m = range(P.shape[1])
    PW = P * weights[:, None]
    A, h = PW @ P.swapaxes(-1, -2), np.matvec(PW, target)
    return [[A[:, i, j] for j in m] for i in m], [h[:, i] for i in m]


def robust(r: Array) -> Array:
    """Weights that turn squares into absolute deviations, for residuals (..., n)."""
    size = np.abs(r)
    return 1 / np.maximum(size, 0.01 * size.mean(axis=-1, keepdims=True) + 1e-9)


def columns(total: Total, theta: Array, x: Array, y: Array, offset: bool) -> tuple[Array, Array]:
    """Terms of unit factor relative to E, (G, m, n), scaled to a peak of 1; ln of the peaks (G, m).

    The factors of theta (G, p) must be 0. The first column is the offset, if there is one.
    """
    logs = [term.value(theta, x) - y for term in total.terms]
    if offset:
        logs = [np.broadcast_to(-y, logs[0].shape), *logs]
    stacked = np.stack(logs, axis=1)
    peak = stacked.max(axis=-1)
    return np.exp(stacked - peak[..., None]), peak


def fit_columns(P: Array, weights: Array, rounds: int = 1) -> tuple[Array, Array]:
    """Coefficients (G, m) >= 0 that bring P (G, m, n) to 1, and the residuals of ln E, (G, n).

    One round minimises the squares of the relative error 1 - prediction / E, the next ones those
    of ln E.
    """
    sums, r = np.ones((len(P), P.shape[-1])), np.zeros((len(P), P.shape[-1]))
    for _ in range(rounds):
        c, _ = nonnegative(*normal(P / sums[:, None], 1 + r, weights))
        sums = np.maximum(np.matvec(P.swapaxes(-1, -2), c), SMALLEST_FACTOR)
        r = -np.log(sums)
    return c, r


def fill(total: Total, theta: Array, c: Array, peak: Array, offset: bool) -> Array:
    """Theta with the factors and the offset that the coefficients c stand for."""
    theta = theta.copy()
    logs = np.log(np.maximum(c, SMALLEST_FACTOR)) - peak
    for k, term in enumerate(total.terms, start=int(offset)):
        theta[..., term.rows[0]] = logs[..., k]
    if total.offset is not None:
        theta[..., total.offset] = c[..., 0] * np.exp(-peak[..., 0]) if offset else 0.0
    return theta


@dataclass(frozen=True)
class Points:
    """A law, its bounds (box (2, p)), and its points (x (k, n), y (n,), w (n,)).

    log_linear: the places in theta in which ln E is linear; without any, E is, in factors and
    offset.
    """

    total: Total
    box: Array
    x: Array
    y: Array
    w: Array
    log_linear: tuple[int, ...] = ()

    @property
    def easy(self) -> list[int]:
        """The places that need no damping."""
        return list(self.log_linear) or self.total.easy

    def residuals(self, theta: Array) -> Array:
        """Those of ln E, (s, n), for thetas (s, p)."""
        return self.y - self.total.log_predict(theta, self.x)

    def score(self, r: Array, absolute: np.ndarray) -> Array:
        """Weighted sum of squares or, where ``absolute`` (s,), of absolute residuals."""
        size = np.abs(r)
        return np.where(absolute, size @ self.w, size**2 @ self.w)


def descend(points: Points, theta: Array, absolute: np.ndarray) -> Array:
    """Follow the valleys in which the thetas (s, p) lie, by squares or by ``absolute`` deviations.

    A step is the Gauss-Newton step of all parameters together, damped in the hard ones; then the
    factors and the offset are solved for afresh (Ruhe and Wedin 1980). Where ln E is linear in
    the easy ones, the step has solved for them already.
    """
    theta, damping, active = theta.copy(), np.full(len(theta), 1e-2), np.arange(len(theta))
    leader = np.arange(len(theta))  # of the row whose valley this one is in
    r = points.residuals(theta)
    score = points.score(r, absolute)
    for step in range(STEPS):
        if step in MEETINGS:
            active = _merge(theta, score, absolute, active, leader)
        kind = absolute[active]
        weights = points.w * np.where(kind[:, None], robust(r[active]), 1.0)
        trial = _step(points, theta[active], r[active], weights, damping[active])
        r_trial = points.residuals(trial)
        after, before = points.score(r_trial, kind), score[active]
        better = after < before
        taken = active[better]
        theta[taken], r[taken], score[taken] = trial[better], r_trial[better], after[better]
        damping[active] *= np.where(better, 0.1, 10.0)
        settled = better & (after > before * (1 - SETTLED)) | (damping[active] > GIVE_UP)
        active = active[~settled]
        if not active.size:
            break
    return theta[leader]


def _merge(
    theta: Array, score: Array, absolute: np.ndarray, active: np.ndarray, leader: np.ndarray
) -> np.ndarray:
    """One active row for each valley: rows of one kind, score and place go on as one."""
    order = active[np.lexsort((score[active], absolute[active]))]
    for first, second in pairwise(order):
        near = abs(score[second] - score[first]) <= SAME_SCORE * score[second]
        together = near and np.allclose(theta[first], theta[second], rtol=SAME_PLACE, atol=0)
        if absolute[first] == absolute[second] and together:
            leader[leader == second] = leader[first]
    return active[leader[active] == active]


def _step(points: Points, theta: Array, r: Array, weights: Array, damping: Array) -> Array:
    total, box = points.total, points.box
    J = total.jac(theta, points.x)
    g = np.matvec(J, weights * r)
    held = ((theta <= box[0]) & (g <= 0)) | ((theta >= box[1]) & (g >= 0))
    A, h = normal(np.where(held[..., None], 0.0, J), r, weights)
    for k in set(range(total.p)) - set(points.easy):
        A[k][k] = A[k][k] * (1 + damping)
    theta = np.clip(theta + np.stack(eliminate(A, h), axis=-1), *box)
    return theta if points.log_linear else _project(points, theta, weights)


def _project(points: Points, theta: Array, weights: Array) -> Array:
    """Theta with the factors and the offset that suit the other parameters best."""
    theta, offset = theta.copy(), points.total.offset is not None
    theta[:, points.easy] = 0.0
    P, peak = columns(points.total, theta, points.x, points.y, offset)
    c, _ = fit_columns(P, weights, rounds=2)
    return fill(points.total, theta, c, peak, offset)
