"""The frontiers of many resamples of the same runs at once, equal to `frontier` one by one."""

from typing import NamedTuple

import numpy as np

from cliplib import InputError
from cliplib.laws.frontier import HOW, check_way
from cliplib.laws.inputs import Array


class Points(NamedTuple):
    """Points of B frontiers: C and E of shape (m,), shared, or (B, m); W (B, m), 0 for no point.

    C and E are positive also where W is 0, so that they have logarithms.
    """

    C: Array
    E: Array
    W: Array


def frontier_batch(
    C: Array, E: Array, counts: Array, how: str = "bins", nbins: int = 5, margin: float = 0.1
) -> Points:
    """The frontier of each resample, for the ways in `HOW`.

    C: compute, shape (n,). E: error, shape (n,), or (B, n) where each resample has its own.
    counts: how often each run is in each resample, shape (B, n). Nothing is drawn here.
    """
    check_way(how, nbins, margin, tau=0.5)
    if how not in HOW:
        raise InputError(f"the frontier '{how}' is a line, it has no points; see `Recipe.batch`")
    if how == "all":
        return Points(C, E, counts)
    order = np.lexsort((E, C)) if E.ndim == 1 else np.argsort(C, kind="stable")
    C, E = C[order], E[..., order]
    seen = np.where(counts[:, order] > 0, E, np.inf)
    if how in ("bins", "bins_own"):
        return _binned(C, E, seen, how, nbins, margin)
    if E.ndim == 2:  # the best at each distinct compute
        C, first = np.unique(C, return_index=True)
        seen = np.minimum.reduceat(seen, first, axis=1)
    kept = _pareto(seen)
    best = np.where(kept, seen, 1.0)
    if how == "hull":
        kept = _hull(np.log(C), np.log(best), kept)
    return Points(C, E if E.ndim == 1 else best, kept.astype(float))


def _binned(C: Array, E: Array, seen: Array, how: str, nbins: int, margin: float) -> Points:
    """C ascending, shape (n,); seen: the errors, shape (B, n), infinite where a run is absent."""
    x, present, rows = np.log10(C), np.isfinite(seen), np.arange(len(seen))[:, None]
    lowest = x[present.argmax(1)]
    highest = x[len(x) - 1 - present[:, ::-1].argmax(1)]
    edges = np.linspace(lowest, highest + margin, nbins + 1, axis=1)
    bin_of = (x >= edges[:, 1:-1, None]).sum(1)  # (B, n)
    # argmin takes the first of equals, so the cheapest: the tie rule of `frontier`
    in_bin = [np.where(bin_of == k, seen, np.inf).argmin(1) for k in range(nbins)]
    winners = np.stack(in_bin, axis=1)  # (B, nbins)
    best = seen[rows, winners]
    used = np.isfinite(best) & (bin_of[rows, winners] == np.arange(nbins))
    if how == "bins_own" and E.ndim == 1:
        W = np.zeros(seen.shape)
        np.add.at(W, (rows, winners), used)
        return Points(C, E, W)
    where = 10 ** ((edges[:, :-1] + edges[:, 1:]) / 2) if how == "bins" else C[winners]
    return Points(where, np.where(used, best, 1.0), used.astype(float))


def _pareto(E: Array) -> np.ndarray:
    """Which columns beat everything before them; columns in order of distinct compute."""
    best = np.minimum.accumulate(E, axis=1)
    before = np.concatenate([np.full((len(E), 1), np.inf), best[:, :-1]], axis=1)
    return before > E


def _hull(x: Array, y: Array, kept: np.ndarray) -> np.ndarray:
    """The monotone chain of `frontier`, one stack a row: x (m,), y and kept (B, m)."""
    stack, size = np.zeros(kept.shape, dtype=int), np.zeros(len(kept), dtype=int)
    for i in range(len(x)):
        rows = np.flatnonzero(kept[:, i])
        bent = rows[size[rows] > 1]
        while bent.size:
            a, b = stack[bent, size[bent] - 2], stack[bent, size[bent] - 1]
            rise = (x[b] - x[a]) * (y[bent, i] - y[bent, a])
            bent = bent[rise <= (y[bent, b] - y[bent, a]) * (x[i] - x[a])]
            size[bent] -= 1
            bent = bent[size[bent] > 1]
        stack[rows, size[rows]] = i
        size[rows] += 1
    hull = np.zeros(kept.shape, dtype=bool)
    row, place = np.nonzero(np.arange(len(x)) < size[:, None])
    hull[row, stack[row, place]] = True
    return hull
