"""The frontier: which runs stand for "the best error that this much compute buys".

A minimum over few runs is not a regular statistic; bootstrap the runs, never these points.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cliplib import InputError
from cliplib.laws.inputs import Array, pair

HOW = ("all", "bins", "bins_own", "pareto", "hull")


@dataclass(frozen=True)
class Frontier:
    """Points of a frontier in order of compute.

    C, E: the points to fit, shape (m,). index: for each, the run that set it (row of the input).
    edges: bin edges in log10 C, shape (nbins + 1,), only for the two binned ways.
    """

    how: str
    C: Array
    E: Array
    index: np.ndarray
    edges: Array | None = None


def frontier(
    C: ArrayLike, E: ArrayLike, how: str = "bins", nbins: int = 5, margin: float = 0.1
) -> Frontier:
    """Reduce runs to their frontier.

    - ``all``: no reduction.
    - ``bins``: the paper's recipe. ``nbins`` equal bins of log10 C over [min, max + margin]
      (margin in decades), the lowest error of each bin, placed at the bin's *centre*.
    - ``bins_own``: the same minima, each at the compute of the run that reached it.
    - ``pareto``: runs that no run with at most their compute equals or beats.
    - ``hull``: the lower convex hull, in log-log, of the Pareto set.

    C and E positive, shape (n,). InputError for an unknown way or impossible bins.
    """
    C, E = pair(C, E)
    if how not in HOW:
        raise InputError(f"unknown frontier '{how}'; known: {', '.join(HOW)}")
    if how in ("bins", "bins_own"):
        return _binned(C, E, how, nbins, margin)
    order = np.lexsort((E, C))
    if how == "pareto":
        order = _pareto(E, order)
    elif how == "hull":
        order = _hull(np.log(C), np.log(E), _pareto(E, order))
    return Frontier(how, C[order], E[order], order)


def _binned(C: Array, E: Array, how: str, nbins: int, margin: float) -> Frontier:
    if nbins < 2 or not 0 <= margin < np.inf:
        raise InputError(f"need 2 or more bins and a margin >= 0, got {nbins} and {margin:g}")
    x = np.log10(C)
    edges = np.linspace(x.min(), x.max() + margin, nbins + 1)
    # an edge belongs to the bin above it, but the last edge to the last bin
    bin_of = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, nbins - 1)
    order = np.lexsort((C, E, bin_of))
    used, first = np.unique(bin_of[order], return_index=True)
    winners = order[first]
    centre = 10 ** ((edges[used] + edges[used + 1]) / 2)
    return Frontier(how, centre if how == "bins" else C[winners], E[winners], winners, edges)


def _pareto(E: Array, order: np.ndarray) -> np.ndarray:
    best_before = np.minimum.accumulate(np.append(np.inf, E[order][:-1]))
    return order[E[order] < best_before]


def _hull(x: Array, y: Array, order: np.ndarray) -> np.ndarray:
    """Lower convex hull by the monotone chain; x rises and y falls along a Pareto set."""
    kept: list[int] = []
    for i in order:
        while len(kept) > 1:
            a, b = kept[-2:]
            if (x[b] - x[a]) * (y[i] - y[a]) > (y[b] - y[a]) * (x[i] - x[a]):
                break
            kept.pop()
        kept.append(int(i))
    return np.array(kept)
