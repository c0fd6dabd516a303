"""Two frontiers that are a line from the start: a low quantile, and a stochastic frontier."""

from dataclasses import dataclass

import numpy as np

from cliplib import InputError
from cliplib.laws.inputs import Array

ALL_PAIRS = 120  # up to this many runs every line through two of them is tried
CELLS = 4_000_000  # of one block of the table resamples x lines
TIE = 1e-10  # relative difference of two costs that counts as none
SMALLEST = 1e-5  # of a standard deviation in the search for a stochastic frontier
DEGENERATE = 0.01  # a standard deviation below this share of the other one is none
NO_GAIN = 1e-4  # in log-likelihood over a plain line


# Quantile regression


def quantile_line(C: Array, E: Array, tau: float) -> tuple[float, float]:
    """(alpha, beta) of the line that minimises sum rho_tau(ln E - ln beta - alpha ln C).

    rho_tau(r) = r (tau - [r < 0]). Exact: an optimum of this linear programme passes through two
    runs. Of several optima, the first in order of compute.
    """
    alpha, beta = quantile_lines(C, E, np.ones((1, len(C))), tau)[0]
    return float(alpha), float(beta)


def quantile_lines(C: Array, E: Array, counts: Array, tau: float) -> Array:
    """`quantile_line` of each resample, shape (B, 2); nan where it holds one distinct compute.

    C, E: shape (n,). counts: how often each run is in each resample, shape (B, n).
    """
    order = np.lexsort((E, C))
    x, y, W = np.log(C[order]), np.log(E[order]), counts[:, order].astype(float)
    centre = x.mean()
    x = x - centre
    found = _best_pairs(x, y, W, tau) if len(x) <= ALL_PAIRS else _descents(x, y, W, tau)
    slope, height = found.T
    return np.column_stack([slope, np.exp(height - slope * centre)])


def _best_pairs(x: Array, y: Array, W: Array, tau: float) -> Array:
    """Slope and intercept of each resample's best line among those through two of its runs."""
    i, j = np.triu_indices(len(x), 1)
    apart = x[j] > x[i]
    i, j = i[apart], j[apart]
    lines, cost = _lines(x, y, i, j, tau)
    found = np.full((len(W), 2), np.nan)
    block = max(1, CELLS // len(lines))
    for start in range(0, len(W), block):
        w = W[start : start + block]
        row, line = np.nonzero(_nearly_lowest(w @ cost.T))
        # no line beats the best one through two runs of the resample; at most it is as good
        held = (w[row, i[line]] > 0) & (w[row, j[line]] > 0)
        rows, first = np.unique(row[held], return_index=True)
        found[start + rows] = lines[line[held][first]]
    return found


def _lines(x: Array, y: Array, i: np.ndarray, j: np.ndarray, tau: float) -> tuple[Array, Array]:
    """Lines through runs i and j, shape (lines, 2), and each run's cost, shape (lines, n)."""
    slope = (y[j] - y[i]) / (x[j] - x[i])
    lines = np.column_stack([slope, y[i] - slope * x[i]])
    residuals = y - lines[:, 1:] - slope[:, None] * x
    return lines, residuals * (tau - (residuals < 0))


def _nearly_lowest(total: Array) -> np.ndarray:
    """Which totals are the lowest of their row, but for rounding."""
    lowest = total.min(axis=-1, keepdims=True)
    return total <= lowest + TIE * np.abs(lowest) + 1e-14


def _descents(x: Array, y: Array, W: Array, tau: float) -> Array:
    """The same for many runs, where all pairs would be too many: from line to better line."""
    found = np.full((len(W), 2), np.nan)
    for row, weights in enumerate(W):
        held = weights > 0
        if np.ptp(x[held]) > 0:
            found[row] = _descent(x[held], y[held], weights[held], tau)
    return found


def _descent(x: Array, y: Array, w: Array, tau: float) -> Array:
    """Try all lines through the runs on the best line so far, until none is better.

    The cost is convex and linear between such lines, so the last one is the optimum.
    """
    slope = np.polyfit(x, y, 1, w=np.sqrt(w))[0]
    height = y - slope * x
    anchors = np.argsort(height)[[int(tau * (len(x) - 1))]]
    best, line = np.inf, np.full(2, np.nan)
    while True:
        i, j = np.repeat(anchors, len(x)), np.tile(np.arange(len(x)), len(anchors))
        apart = x[i] != x[j]
        lines, cost = _lines(x, y, i[apart], j[apart], tau)
        total = cost @ w
        lowest = int(np.argmax(_nearly_lowest(total)))
        if total[lowest] >= best * (1 - TIE):
            return line
        best, line = float(total[lowest]), lines[lowest]
        anchors = np.flatnonzero(np.abs(y - line[1] - line[0] * x) < 1e-12)


# Stochastic frontier


@dataclass(frozen=True)
class StochasticFrontier:
    """ln E = alpha ln C + ln beta + v + u with v ~ N(0, sigma_v^2) and u ~ |N(0, sigma_u^2)|.

    The two sigmas are in ln E. u, never below 0, is how much worse a run is than the best error
    that its compute buys; v is noise. log_likelihood: at the maximum.
    """

    alpha: float
    beta: float
    sigma_v: float
    sigma_u: float
    log_likelihood: float


def sfa_line(C: Array, E: Array) -> tuple[float, float]:
    """(alpha, beta) of the stochastic frontier; InputError where it is degenerate."""
    found = stochastic_frontier(C, E)
    return found.alpha, found.beta


def stochastic_frontier(C: Array, E: Array) -> StochasticFrontier:
    """Normal and half-normal stochastic frontier by maximum likelihood (Aigner et al. 1977).

    C, E: positive, shape (n,). InputError where one of its two parts vanishes: without noise it
    is a hull that rests on a handful of runs, without inefficiency it is the mean line.
    """
    from scipy.optimize import minimize

    x, y = np.log(C), np.log(E)
    centre, width = x.mean(), x.std()
    z = (x - centre) / width
    plain = np.array([z @ y / len(z), y.mean()])
    sd = float(np.sqrt(np.mean((y - plain[1] - plain[0] * z) ** 2)))
    if sd < 1e-12:
        raise InputError(f"{_DEGENERATE}: the runs lie on one line; use all")
    bounds = [(None, None)] * 2 + [(np.log(SMALLEST), np.log(10.0))] * 2
    unit = (y - plain[1] - plain[0] * z) / sd
    results = [
        minimize(_cost, start, (z, unit), "L-BFGS-B", jac=True, bounds=bounds, options=_TIGHT)
        for start in _sfa_starts(unit)
    ]
    best = min(results, key=lambda result: float(result.fun))
    sigma_v, sigma_u = np.exp(best.x[2:])
    _refuse_degenerate(float(sigma_v), float(sigma_u), -float(best.fun), len(z))
    slope = (plain[0] + sd * best.x[0]) / width
    height = plain[1] + sd * best.x[1] - slope * centre
    found = (slope, np.exp(height), sd * sigma_v, sd * sigma_u, -best.fun - len(z) * np.log(sd))
    return StochasticFrontier(*map(float, found))


_DEGENERATE = "the stochastic frontier is degenerate here"
_TIGHT = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9}


def _sfa_starts(unit: Array) -> list[Array]:
    """Slope and height beside the mean line and both log sigmas; unit: its residuals, sd 1."""
    # for a half-normal u the third moment is sqrt(2/pi) (4/pi - 1) sigma_u^3
    skew = max(float(np.mean(unit**3)), 0.01)
    by_moments = min((skew / (np.sqrt(2 / np.pi) * (4 / np.pi - 1))) ** (1 / 3), 1.6)
    pairs = [(np.sqrt(max(1 - (1 - 2 / np.pi) * by_moments**2, 0.01)), by_moments)]
    pairs += [(0.3, 1.5), (0.05, 1.6), (0.9, 0.7)]
    mean_u = np.sqrt(2 / np.pi)
    return [np.array([0.0, -mean_u * u, np.log(v), np.log(u)]) for v, u in pairs]


def _cost(theta: Array, x: Array, y: Array) -> tuple[float, Array]:
    """Minus the log-likelihood and its gradient by (slope, height, ln sigma_v, ln sigma_u)."""
    from scipy.special import log_ndtr

    v, u = np.exp(theta[2:])
    total = v**2 + u**2
    sigma = np.sqrt(total)
    eps = y - theta[1] - theta[0] * x
    z = (u / v) * eps / sigma
    log_cdf = log_ndtr(z)
    mills = np.exp(-(z**2) / 2 - np.log(2 * np.pi) / 2 - log_cdf)
    log_like = np.log(2 / sigma) - np.log(2 * np.pi) / 2 - eps**2 / (2 * total) + log_cdf
    by_eps = -eps / total + mills * (u / v) / sigma
    spread, share_v, share_u = eps**2 / total - 1, v**2 / total, u**2 / total
    by_v = share_v * spread - mills * z * (1 + share_v)
    by_u = share_u * spread + mills * z * (1 - share_u)
    gradient = np.array([by_eps @ x, by_eps.sum(), -by_v.sum(), -by_u.sum()])
    return float(-log_like.sum()), gradient


def _refuse_degenerate(sigma_v: float, sigma_u: float, log_like: float, n: int) -> None:
    """Both sigmas in units of the scatter about the mean line."""
    plain = -n / 2 * (np.log(2 * np.pi) + 1)  # of a normal with standard deviation 1
    if sigma_v < DEGENERATE * sigma_u:
        raise InputError(
            f"{_DEGENERATE}: its noise sigma_v goes to 0, so it becomes a hull of a handful of "
            "runs without an error of its own; use hull or quantile"
        )
    if log_like - plain < NO_GAIN:
        raise InputError(
            f"{_DEGENERATE}: its inefficiency sigma_u goes to 0, as the runs do not lie more to "
            "one side of a line than to the other; use all or quantile"
        )
