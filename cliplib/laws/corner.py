"""Least absolute deviations of a linear model, many at once, by exchanging points of a corner.

At a corner the model passes exactly through a basis of p points. Their multipliers say how hard
the other points pull; one that exceeds its weight lets go, the model slides along the edge that
the remaining p - 1 points leave, and stops at the point where sum w |r| stops falling, which takes
its place (Barrodale and Roberts 1973). No multiplier in excess: the corner is the optimum.
A parameter that is held counts as a point that never lets go.
"""

from dataclasses import dataclass

import numpy as np

from cliplib.laws.inputs import Array

MOST_EXCHANGES = 100
CANDIDATES = 4  # times p: the points nearest to the model, of which the first basis is taken
SLACK = 1e-9  # relative, by which a multiplier may pass its weight


@dataclass(frozen=True)
class Lines:
    """Linear models with residuals r - step J: J (B, p, n + p), r (B, n + p), w (B, n + p).

    The last p columns are the parameters themselves, for those that are held.
    limit (B, n + p): the largest multiplier, w for a point and inf for a held parameter.
    """

    J: Array
    r: Array
    w: Array
    limit: Array

    def rows(self, index: np.ndarray) -> "Lines":
        """The models of these rows."""
        return Lines(self.J[index], self.r[index], self.w[index], self.limit[index])


@dataclass(frozen=True)
class Corner:
    """Where rows stand: basis, step, multiplier (B, p); optimal (B,)."""

    basis: np.ndarray
    step: Array
    multiplier: Array
    optimal: np.ndarray


def lines(J: Array, r: Array, w: Array, held: np.ndarray) -> Lines:
    """The models of gradients J (B, p, n), residuals r (B, n), weights w (B, n), held (B, p)."""
    B, p, _ = J.shape
    none = np.zeros((B, p))
    return Lines(
        np.concatenate([J, np.broadcast_to(np.eye(p), (B, p, p))], axis=2),
        np.concatenate([r, none], axis=1),
        np.concatenate([w, none], axis=1),
        np.concatenate([w, np.where(held, np.inf, 0.0)], axis=1),
    )


def first_basis(model: Lines) -> np.ndarray:
    """Columns (B, p) to begin with: what is held, then near points that differ most in J."""
    B, p, _ = model.J.shape
    distance = np.where(model.w > 0, np.abs(model.r), np.inf)
    distance[np.isinf(model.limit)] = -1.0
    near = np.argsort(distance, axis=1, kind="stable")[:, : (CANDIDATES + 1) * p]
    limit = np.take_along_axis(model.limit, near, 1)
    rank = np.where(np.isinf(limit), 1e9, np.sign(limit))  # held first, points without weight never
    left = np.take_along_axis(model.J, near[:, None, :], 2) * rank[:, None, :]
    basis = np.empty((B, p), dtype=int)
    for k in range(p):  # Gram-Schmidt, always with the longest column left
        longest = (left**2).sum(axis=1).argmax(axis=1)[:, None]
        basis[:, k] = np.take_along_axis(near, longest, 1)[:, 0]
        q = np.take_along_axis(left, longest[:, None, :], 2)[:, :, 0]
        q = q / np.sqrt(np.vecdot(q, q))[:, None]
        left = left - q[:, :, None] * np.vecmat(q, left)[:, None, :]
    return basis


def exchange(model: Lines, basis: np.ndarray) -> Corner:
    """Go from corner to corner until none is lower.

    A row that does not end optimal ran into a degenerate corner, or out of exchanges.
    """
    place = _stand(model, basis)
    active = np.flatnonzero(~place.optimal)
    for _ in range(MOST_EXCHANGES):
        if not active.size:
            break
        part = model.rows(active)
        moved = _stand(part, _exchanged(part, place.basis[active]))
        for name in ("basis", "step", "multiplier", "optimal"):
            getattr(place, name)[active] = getattr(moved, name)
        active = active[~moved.optimal]
    return place


def _stand(model: Lines, basis: np.ndarray) -> Corner:
    """The corner of these bases: the step to it, its multipliers, and whether it is the optimum."""
    inverse, r = _inverse(model, basis)
    step = np.vecmat(np.take_along_axis(model.r, basis, 1), inverse)
    multiplier = -np.matvec(inverse, np.matvec(model.J, model.w * np.sign(r)))
    limit = np.take_along_axis(model.limit, basis, 1)
    optimal = np.all(np.abs(multiplier) <= limit * (1 + SLACK), axis=1)
    return Corner(basis.copy(), step, multiplier, optimal)


def _inverse(model: Lines, basis: np.ndarray) -> tuple[Array, Array]:
    """The inverse of J on the basis (B, p, p), and all residuals at its corner (B, n + p)."""
    edges = np.take_along_axis(model.J, basis[:, None, :], 2)
    try:
        inverse = np.asarray(np.linalg.inv(edges), dtype=float)
    except np.linalg.LinAlgError:  # of one row; what comes of it is no corner and is not proved
        inverse = np.asarray(np.linalg.pinv(np.nan_to_num(edges)), dtype=float)
    step = np.vecmat(np.take_along_axis(model.r, basis, 1), inverse)
    r = model.r - np.vecmat(step, model.J)
    np.put_along_axis(r, basis, 0.0, 1)
    return inverse, r


def _exchanged(model: Lines, basis: np.ndarray) -> np.ndarray:
    """The bases after the point with the most excessive multiplier is replaced."""
    inverse, r = _inverse(model, basis)
    multiplier = -np.matvec(inverse, np.matvec(model.J, model.w * np.sign(r)))
    limit = np.take_along_axis(model.limit, basis, 1)
    leaving = (np.abs(multiplier) / limit).argmax(axis=1)
    row = np.arange(len(basis))
    excess, side = np.abs(multiplier) - limit, np.sign(multiplier)
    edge = -side[row, leaving, None] * inverse[row, leaving]
    q = np.vecmat(edge, model.J)
    ahead = (r * q > 0) & (model.w > 0)
    distance = np.where(ahead, r / q, np.inf)
    order = np.argsort(distance, axis=1)
    slope = np.take_along_axis(np.where(ahead, 2 * model.w * np.abs(q), 0.0), order, 1)
    reached = np.cumsum(slope, axis=1) >= excess[row, leaving, None]
    entering = np.take_along_axis(order, reached.argmax(axis=1)[:, None], 1)[:, 0]
    basis = basis.copy()
    basis[row, leaving] = np.where(reached.any(axis=1), entering, basis[row, leaving])
    return basis
