"""Starting points: a grid over the few parameters that are hard, the others solved in every cell.

A grid over the exponents alone, with factors and offset solved in all cells at once, finds every
valley that the grid can see. The best cells then walk down, by squares of ln E and by absolute
deviations, so that starts are at hand for the losses that ignore outliers too.
"""

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from cliplib.laws.form import Total
from cliplib.laws.inputs import Array
from cliplib.laws.projection import (
    Points,
    columns,
    descend,
    eliminate,
    fill,
    fit_columns,
    nonnegative,
    normal,
    robust,
)

STEEPEST = 20.0  # an exponent beyond it is a wall, not a law
ROUNDS = 4  # of reweighting
CHUNK = 1 << 18  # numbers in one array of cells by points


@dataclass(frozen=True)
class Grid:
    """Cells of the hard parameters: theta (G, p), zero elsewhere; ``shape`` says who neighbours."""

    theta: Array
    shape: tuple[int, ...]


def grid(p: int, axes: dict[int, Array]) -> Grid:
    """Every combination of values; axes[place in theta] holds the values of one parameter."""
    values = np.meshgrid(*axes.values(), indexing="ij")
    theta = np.zeros((values[0].size, p))
    for place, value in zip(axes, values, strict=True):
        theta[:, place] = value.ravel()
    return Grid(theta, values[0].shape)


def exponents(x: Array, count: int) -> Array:
    """Exponents for data over ln X (n,): from a fall of a tenth over its range to one of e^20."""
    return np.minimum(np.geomspace(0.1, 20.0, count) / max(float(np.ptp(x)), 1e-3), STEEPEST)


def sum_starts(
    total: Total, cells: Grid, box: Array, x: Array, y: Array, w: Array, count: int = 12
) -> Array:
    """Starts (s, p) for a sum of terms: the best cells by squares and by absolute deviations.

    With an offset, the best cells without one are among them: the optimum may sit at zero.
    box (2, p): bounds on theta.
    """
    ranked: list[Array] = []
    for offset in (True, False) if total.offset is not None else (False,):
        size = max(1, CHUNK // (len(total.terms) + 1) // y.size)
        slices = [cells.theta[i : i + size] for i in range(0, len(cells.theta), size)]
        parts = [_fit_cells(total, theta, x, y, w, offset) for theta in slices]
        for kind in zip(*parts, strict=True):  # by squares, then by absolute deviations
            theta, score = map(np.concatenate, zip(*kind, strict=True))
            best = leaders(score, cells.shape, count if offset or total.offset is None else 4)
            ranked.append(theta[best])
    absolute = [np.full(len(theta), i % 2) for i, theta in enumerate(ranked)]
    points = Points(total, box, x, y, w)
    return descend(points, _interleave(ranked), _interleave(absolute) > 0)


def _interleave(ranked: list[Array]) -> Array:
    """The first of each list, the second of each, and so on: best first."""
    return np.array([row for rank in zip_longest(*ranked) for row in rank if row is not None])


def _fit_cells(
    total: Total, theta: Array, x: Array, y: Array, w: Array, offset: bool
) -> list[tuple[Array, Array]]:
    """The filled theta and its score for every cell, by squares and by absolute residuals."""
    P, peak = columns(total, theta, x, y, offset)
    c, r = fit_columns(P, np.broadcast_to(w, (len(P), y.size)))
    found = [(fill(total, theta, c, peak, offset), (w * r**2).sum(-1))]
    for _ in range(ROUNDS):
        c, r = fit_columns(P, w * robust(r))
    return [*found, (fill(total, theta, c, peak, offset), (w * np.abs(r)).sum(-1))]


def leaders(score: Array, shape: tuple[int, ...], count: int) -> Array:
    """Places of the lowest cells: local minima of the grid first, then winners of its regions.

    Each axis is cut in three; a region's winner is a second way into a valley, and a way into a
    valley that the grid is too coarse to show.
    """
    field, lowest = score.reshape(shape), np.ones(shape, dtype=bool)
    region = np.zeros(shape, dtype=int)
    for axis, size in enumerate(shape):
        ahead = np.diff(field, axis=axis)
        edge = np.ones_like(np.take(field, [0], axis=axis), dtype=bool)
        lowest &= np.concatenate([ahead >= 0, edge], axis) & np.concatenate([edge, ahead < 0], axis)
        third = (3 * np.arange(size)) // size
        region = 3 * region + np.expand_dims(third, [k for k in range(len(shape)) if k != axis])
    order = np.argsort(score, kind="stable")
    minima = order[lowest.ravel()[order]]
    winners = order[np.sort(np.unique(region.ravel()[order], return_index=True)[1])]
    return np.concatenate([minima, winners[~np.isin(winners, minima)]])[:count]


def sum_batch_starts(total: Total, cells: Grid, x: Array, y: Array, W: Array) -> Array:
    """Two starts for each row of weights W (B, n), shape (B, 2, p).

    One is the best cell by squares, one by squares that the residuals of all points together
    reweight to absolute deviations. The normal equations of every row of weights in every cell
    are one product of matrices.
    """
    offset = total.offset is not None
    P, peak = columns(total, cells.theta, x, y, offset)
    everything = W.sum(axis=0)
    (_, _), (theta, score) = _fit_cells(total, cells.theta, x, y, everything, offset)
    middle = robust(y - total.log_predict(theta[score.argmin()], x))
    found = []
    for weights in (W, W * middle):
        c, cell = _best_cells(P, weights)
        found.append(fill(total, cells.theta[cell], c, peak[cell], offset))
    return np.stack(found, axis=1)


def _best_cells(P: Array, W: Array, chunk: int = 256) -> tuple[Array, Array]:
    """Coefficients (B, m) and the cell (B,) that bring P (G, m, n) closest to 1 under each row."""
    m = range(P.shape[1])
    coefficients, cells = [], []
    for V in (W[i : i + chunk] for i in range(0, len(W), chunk)):
        A = [[V @ (P[:, i] * P[:, j]).T for j in range(i + 1)] for i in m]
        square = [[A[max(i, j)][min(i, j)] for j in m] for i in m]
        c, gain = nonnegative(square, [V @ P[:, i].T for i in m])
        best = gain.argmax(axis=1)
        coefficients.append(c[np.arange(len(V)), best])
        cells.append(best)
    return np.concatenate(coefficients), np.concatenate(cells)


def log_linear_starts(
    total: Total, cells: Grid, easy: tuple[int, ...], box: Array, x: Array, y: Array, w: Array
) -> Array:
    """Starts (s, p) for one term without offset: ln E is linear in the places ``easy``.

    These are solved by least squares on ln E, then by absolute deviations; one start where no
    parameter is hard.
    """
    J, r = _linear_part(total, cells, easy, x, y)
    c = np.zeros(J.shape[:2])
    for _ in range(2):  # twice: the second removes what the ridge of the first left
        c, r = _add_step(J, c, r, np.broadcast_to(w, r.shape))
    ranked = [_best_linear(cells, easy, box, c, (w * r**2).sum(-1))]
    if len(easy) == total.p:
        return ranked[0]
    for _ in range(ROUNDS):
        c, r = _add_step(J, c, r, w * robust(r))
    ranked.append(_best_linear(cells, easy, box, c, (w * np.abs(r)).sum(-1)))
    absolute = [np.full(len(theta), i) for i, theta in enumerate(ranked)]
    points = Points(total, box, x, y, w, log_linear=easy)
    return descend(points, _interleave(ranked), _interleave(absolute) > 0)


def _best_linear(
    cells: Grid, easy: tuple[int, ...], box: Array, c: Array, score: Array, count: int = 12
) -> Array:
    theta = cells.theta.copy()
    theta[:, easy] = c
    return np.clip(theta[leaders(score, cells.shape, count)], *box)


def _linear_part(
    total: Total, cells: Grid, easy: tuple[int, ...], x: Array, y: Array
) -> tuple[Array, Array]:
    """Columns (G, m, n) of the linear parameters, and what they have to bring about, (G, n)."""
    return total.jac(cells.theta, x)[:, easy], y - total.log_predict(cells.theta, x)


def log_linear_batch_starts(
    total: Total, cells: Grid, easy: tuple[int, ...], box: Array, x: Array, y: Array, W: Array
) -> Array:
    """The best cell by squares of ln E for each row of weights W (B, n), shape (B, 1, p)."""
    J, target = _linear_part(total, cells, easy, x, y)
    m = range(len(easy))
    A = [[W @ (J[:, i] * J[:, j]).T for j in m] for i in m]
    h = [W @ (J[:, i] * target).T for i in m]
    c = np.stack(eliminate(A, h), axis=-1)
    gain = np.vecdot(c, np.stack(h, axis=-1)) - W @ (target**2).T
    best = gain.argmax(axis=1)
    theta = cells.theta[best]
    theta[:, easy] = c[np.arange(len(W)), best]
    return np.clip(theta, *box)[:, None]


def _add_step(J: Array, c: Array, r: Array, weights: Array) -> tuple[Array, Array]:
    """One weighted least-squares step from coefficients c (G, m), and the new residuals (G, n)."""
    step = np.stack(eliminate(*normal(J, r, weights)), axis=-1)
    return c + step, r - np.matvec(J.swapaxes(-1, -2), step)
