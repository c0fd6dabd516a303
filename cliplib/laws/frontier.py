"""The frontier: which runs stand for "the best error that this much compute buys".

A minimum over few runs is not a regular statistic; bootstrap the runs, never these points.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cliplib import InputError
from cliplib.laws.frontier_lines import quantile_line, sfa_line
from cliplib.laws.inputs import Array, pair

HOW = ("all", "bins", "bins_own", "pareto", "hull")  # runs -> points, for any law
LINES = ("quantile", "sfa")  # runs -> a line, so for the power law only


@dataclass(frozen=True)
class Frontier:
    """Points of a frontier in order of compute.

    C, E: the points to fit, shape (m,). index: for each, the run that set it (row of the input).
    edges: bin edges in log10 C, shape (nbins + 1,), only for the two binned ways.
    line: (alpha, beta) of E = beta C^alpha, only for the ways in `LINES`; their points are all
    the runs.
    """

    how: str
    C: Array
    E: Array
    index: np.ndarray
    edges: Array | None = None
    line: tuple[float, float] | None = None


def frontier(
    C: ArrayLike,
    E: ArrayLike,
    how: str = "bins",
    nbins: int = 5,
    margin: float = 0.1,
    tau: float = 0.1,
) -> Frontier:
    """Reduce runs to their frontier.

    - ``all``: no reduction.
    - ``bins``: the paper's recipe. ``nbins`` equal bins of log10 C over [min, max + margin]
      (margin in decades), the lowest error of each bin, placed at the bin's *centre*.
    - ``bins_own``: the same minima, each at the compute of the run that reached it.
    - ``pareto``: runs that no run with at most their compute equals or beats.
    - ``hull``: the lower convex hull, in log-log, of the Pareto set.
    - ``quantile``: the line below which a share ``tau`` of the runs lies (quantile regression of
      ln E on ln C; Koenker and Bassett 1978).
    - ``sfa``: the stochastic frontier ln E = alpha ln C + ln beta + v + u, v normal, u half-normal
      and never below 0, by maximum likelihood (Aigner, Lovell and Schmidt 1977).

    C and E positive, shape (n,). InputError for an unknown way, impossible bins, a tau outside
    (0, 1), or a stochastic frontier without noise or without inefficiency.
    """
    C, E = pair(C, E)
    check_way(how, nbins, margin, tau)
    if how in ("bins", "bins_own"):
        return _binned(C, E, how, nbins, margin)
    order = np.lexsort((E, C))
    line = None
    if how == "pareto":
        order = _pareto(E, order)
    elif how == "hull":
        order = _hull(np.log(C), np.log(E), _pareto(E, order))
    elif how == "quantile":
        line = quantile_line(C, E, tau)
    elif how == "sfa":
        line = sfa_line(C, E)
    return Frontier(how, C[order], E[order], order, line=line)


def check_way(how: str, nbins: int, margin: float, tau: float) -> None:
    """InputError for an unknown frontier or impossible settings of it."""
    if how not in HOW + LINES:
        raise InputError(f"unknown frontier '{how}'; known: {', '.join(HOW + LINES)}")
    if nbins < 2 or not 0 <= margin < np.inf:
        raise InputError(f"need 2 or more bins and a margin >= 0, got {nbins} and {margin:g}")
    if not 0 < tau < 1:
        raise InputError(f"tau is a share of the runs, above 0 and below 1, got {tau:g}")


def _binned(C: Array, E: Array, how: str, nbins: int, margin: float) -> Frontier:
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
