"""From many starts to one optimum: for a single fit, and for many replicates at once."""

from dataclasses import dataclass, replace

import numpy as np

from cliplib.laws.inputs import Array
from cliplib.laws.lad import corners
from cliplib.laws.lad import lad as least_deviations
from cliplib.laws.loss import Loss
from cliplib.laws.solve import LOOSE, MOST_STEPS, TIGHT, Problem, Solved, solve, solve_downhill

SAME_OPTIMUM = 1e-7  # relative difference of objectives below which two starts ended together
SMOOTH = 3.0  # times the median residual of the best start
PATIENCE = 2000  # steps for the one descent that matters, in a valley so flat that it creeps
HOPS = 8
HARD = 6  # parameters from which a law is hopped about with four times as often
ROUNDS = 10  # of hops, each from the best so far
VANISHING = 1e-12
CHUNK = 1024  # rows
EXACT = 1e-12  # |r| below which a point is met exactly


@dataclass(frozen=True)
class Optimum:
    """The best of many starts.

    theta (p,), objective, converged; start (p,): where it came from. ends (s,): the objective
    that each start led to (inf: none). others (m, p): the distinct optima found on the way, best
    first. floor: an objective that is zero to the last digit.
    """

    theta: Array
    objective: float
    converged: bool
    start: Array
    ends: Array
    others: Array
    floor: float

    @property
    def n_at_best(self) -> int:
        """How many starts led here."""
        here = self.ends <= self.objective * (1 + SAME_OPTIMUM) + self.floor
        return max(1, int(here.sum()))  # the last steps may go below where every start ended


def minimise(
    problem: Problem,
    theta: Array,
    loss: Loss,
    tolerance: float = TIGHT,
    most_steps: int = MOST_STEPS,
    near: bool = False,
) -> Solved:
    """Descend from theta (B, p), one start a row; the objective is the loss's own.

    With few residuals inside Huber's delta a descent may creep along an edge. Such rows go to the
    corner of least absolute deviations, which is near, and on from there.
    """
    if loss.name == "lad":
        return least_deviations(problem, theta)
    found = solve(problem, theta, loss.delta, tolerance, most_steps, near)
    if loss.name == "l2":  # the solver halves squares
        return replace(found, objective=2 * found.objective)
    stuck = np.flatnonzero(~found.converged)
    if stuck.size:
        part = problem.rows(stuck)
        corner = corners(part, found.theta[stuck]).theta
        _improve(found, stuck, solve(part, corner, loss.delta, tolerance, most_steps))
    return found


def _improve(found: Solved, rows: np.ndarray, other: Solved) -> None:
    """Put in what is better, or as good and converged, for these rows."""
    limit = found.objective[rows]
    better = (other.objective < limit) | (other.objective <= limit) & other.converged
    for name in ("theta", "objective", "converged"):
        getattr(found, name)[rows[better]] = getattr(other, name)[better]


def search(problem: Problem, starts: Array, loss: Loss) -> Optimum:
    """The best optimum of a problem of one row from starts (s, p).

    Starts that a smooth loss brings to one place go on as one.
    """
    starts = np.clip(starts, problem.lower, problem.upper)
    many = problem.rows(np.zeros(len(starts), dtype=int))
    smooth = solve(many, starts, _smooth_delta(many, starts, loss), LOOSE)
    first, group = _groups(smooth.objective)
    found = _sketch(many.rows(first), smooth.theta[first], loss)
    ends = np.where(np.isfinite(found.objective), found.objective, np.inf)
    leader = int(np.argmin(ends))
    best = minimise(problem, found.theta[[leader]], loss)
    _hop(problem, best, loss, starts)
    if not best.converged[0]:
        last = minimise(problem, best.theta, loss, most_steps=PATIENCE)
        _improve(best, np.zeros(1, dtype=int), last)
    return Optimum(
        theta=best.theta[0],
        objective=float(best.objective[0]),
        converged=bool(best.converged[0]),
        start=starts[first[leader]],
        ends=ends[group],
        others=found.theta[np.argsort(ends, kind="stable")],
        floor=float(loss.objective(np.full(problem.w.shape[1], EXACT), problem.w[0])),
    )


def _sketch(problem: Problem, theta: Array, loss: Loss) -> Solved:
    """Descents good enough to tell which leads lowest."""
    if loss.name == "lad":
        return corners(problem, theta)
    return minimise(problem, theta, loss, LOOSE)


def _smooth_delta(problem: Problem, starts: Array, loss: Loss) -> float:
    """A delta on the scale of the residuals, or the loss's own where that is larger.

    A small delta, or none, makes a rough landscape: few points lie inside it, and they change
    with every step.
    """
    with np.errstate(all="ignore"):
        typical = np.nanmedian(np.abs(problem.residuals(starts)), axis=1)
    return max(SMOOTH * float(np.nanmin(typical)), loss.delta, EXACT)


def _groups(objective: Array) -> tuple[np.ndarray, np.ndarray]:
    """Rows that ended together: one of each group (groups,), and the group of each row (B,)."""
    order = np.argsort(objective, kind="stable")
    ranked = objective[order]
    fresh = np.append(True, ~(np.diff(ranked) <= SAME_OPTIMUM * np.abs(ranked[:-1])))
    group = np.empty(len(order), dtype=int)
    group[order] = np.cumsum(fresh) - 1
    return order[fresh], group


def _hop(problem: Problem, best: Solved, loss: Loss, starts: Array) -> None:
    """Look for a lower optimum around the best, as far as theta is uncertain, and the starts."""
    p = starts.shape[1]
    count = HOPS * (1 if p < HARD else 4)
    rng, many = np.random.default_rng(0), problem.rows(np.zeros(2 * count, dtype=int))
    reach = starts.std(axis=0)
    for _ in range(ROUNDS):
        before = float(best.objective[0])
        away = rng.standard_normal((count, p)) @ _spread(problem, best.theta[0])
        near = best.theta + np.clip(away, -reach, reach)
        far = rng.choice([0.1, 1.0], size=(count, 1)) * rng.standard_normal((count, p))
        theta = np.concatenate([near, starts[rng.integers(len(starts), size=count)] + far])
        found = _sketch(many, theta, loss)
        leader = int(np.nanargmin(found.objective))
        if not found.objective[leader] < before * (1 - SAME_OPTIMUM):
            break
        _improve(best, np.zeros(1, dtype=int), minimise(problem, found.theta[[leader]], loss))


def _spread(problem: Problem, theta: Array) -> Array:
    """A root of the covariance of theta by least squares, shape (p, p)."""
    J, r = problem.form.jac(theta, problem.x), problem.residuals(theta[None])[0]
    unit = 1 / np.sqrt(J**2 @ problem.w[0] + VANISHING)
    J = J * unit[:, None]
    value, vector = np.linalg.eigh((J * problem.w[0]) @ J.T)
    sd = np.sqrt(problem.w[0] @ r**2 / problem.w.sum())
    return (vector * sd / np.sqrt(np.maximum(value, VANISHING))).T * unit


def search_rows(problem: Problem, starts: Array, loss: Loss) -> Solved:
    """The best optimum of every row from its own starts (B, s, p), the most promising first.

    A further start is followed only where it predicts something else than the optimum so far.
    """
    found = minimise(problem, starts[:, 0], loss, LOOSE, near=True)
    for k in range(1, starts.shape[1]):
        rows = np.flatnonzero(_apart(problem, found, starts[:, k]))
        other = _sketch(problem.rows(rows), starts[rows, k], loss)
        lower = other.objective < found.objective[rows] * (1 - SAME_OPTIMUM)
        _continue(problem, found, rows[lower], other.theta[lower], loss)
    left = np.flatnonzero(~found.converged)
    _continue(problem, found, left, found.theta[left], loss, PATIENCE)
    return found


def _continue(
    problem: Problem,
    found: Solved,
    rows: np.ndarray,
    theta: Array,
    loss: Loss,
    most_steps: int = MOST_STEPS,
) -> None:
    if rows.size:
        _improve(found, rows, minimise(problem.rows(rows), theta, loss, LOOSE, most_steps))


def _apart(problem: Problem, found: Solved, theta: Array) -> np.ndarray:
    """Whether theta (B, p) predicts otherwise than the optimum, by more than the scatter."""
    r = problem.residuals(found.theta)
    with np.errstate(all="ignore"):
        change = np.vecdot(problem.w, (problem.residuals(theta) - r) ** 2)
    return ~((change < np.vecdot(problem.w, r**2)) & found.converged)


def has_closed_form(problem: Problem, loss: Loss) -> bool:
    """Least squares of a law linear in theta, without a box."""
    boxed = np.isfinite(problem.lower).any() or np.isfinite(problem.upper).any()
    return problem.form.linear and loss.name == "l2" and not boxed


def closed_form(problem: Problem) -> Optimum:
    """The optimum of a problem of one row that has a closed form: no start can end elsewhere."""
    found = linear_least_squares(problem)
    floor = float(EXACT**2 * problem.w.sum())
    return Optimum(
        theta=found.theta[0],
        objective=float(found.objective[0]),
        converged=bool(found.converged[0]),
        start=found.theta[0],
        ends=found.objective,
        others=found.theta,
        floor=floor,
    )


def linear_least_squares(problem: Problem) -> Solved:
    """The exact optimum of every row by least squares, for a law linear in theta and without a box.

    A row whose points do not fix theta ends with nan, not converged.
    """
    theta = np.empty(problem.lower.shape)
    for first in range(0, len(theta), CHUNK):
        part = np.arange(first, min(first + CHUNK, len(theta)))
        theta[part] = _normal_equations(problem.rows(part))
    known = np.asarray(np.isfinite(theta).all(axis=1))
    objective = np.vecdot(problem.w, problem.residuals(theta) ** 2)
    return Solved(theta, objective, known, np.ones(len(theta), dtype=int))


def _normal_equations(problem: Problem) -> Array:
    theta, known = np.zeros(problem.lower.shape), np.ones(len(problem.w), dtype=bool)
    J = problem.form.jac(theta, problem.x)
    H = (J * problem.w[:, None]) @ J.swapaxes(-1, -2)
    unit = 1 / np.sqrt(np.einsum("bii->bi", H) + np.finfo(float).tiny)
    H = H * unit[:, :, None] * unit[:, None, :]
    for _ in range(2):  # the second takes off what rounding left
        b = np.matvec(J, problem.w * problem.residuals(theta)) * unit
        step, pivot = solve_downhill(H, b)
        theta, known = theta + step * unit, known & (pivot > VANISHING)
    return np.where(known[:, None], theta, np.nan)
