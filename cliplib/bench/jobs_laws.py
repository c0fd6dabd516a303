"""Law fitting: one global fit, its bootstrap, and the paper's recipe under resampling.

The peers are what published code does, written here plainly with numpy and scipy: Hoffmann et al.
(2022) and Besiroglu et al. (2024) start L-BFGS-B with finite differences from a grid of 4,500
points; a bootstrap starts once a replicate, at the optimum; the paper's recipe is a histogram and
a straight line.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np

from cliplib.bench.measure import Row, job, less_is_better, median_seconds, peak_megabytes, timed
from cliplib.laws.inputs import Array

Gradient = Callable[..., Array]

DELTA = 1e-3
REPEATS = 7
# Hoffmann et al.'s starts: alpha, beta, ln E, ln A, ln B
GRID = list(
    product(
        np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5), np.arange(-1, 1.5, 0.5),
        np.arange(0, 30, 5), np.arange(0, 30, 5),
    )
)  # fmt: skip
TRUTH = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}


def planted_runs(n: int = 240, seed: int = 0) -> tuple[Array, Array]:
    """X (n, 2) of N and D, and losses (n,): sizes at nine budgets of compute, as Chinchilla's.

    The scatter is half a per cent; one run in twenty scatters ten times as far, upwards.
    """
    rng = np.random.default_rng(seed)
    compute = np.geomspace(6e18, 3e21, 9)[np.arange(n) % 9]
    N = np.sqrt(compute / 120) * np.exp(rng.uniform(-1.6, 1.6, n))
    D = compute / (6 * N)
    noise = 0.005 * rng.standard_normal(n)
    noise = np.where(rng.random(n) < 0.05, 10 * np.abs(noise), noise)
    loss = TRUTH["E"] + TRUTH["A"] * N ** -TRUTH["alpha"] + TRUTH["B"] * D ** -TRUTH["beta"]
    return np.column_stack([N, D]), loss * np.exp(noise)


@job
def fit_global(starts: int = 4500, repeats: int = REPEATS) -> Iterator[Row]:
    """One global fit of the additive law: the grid of starts against ours."""
    from cliplib.laws import fit

    X, loss = planted_runs()
    ours = fit("chinchilla", X, loss, f"huber:{DELTA}")
    seconds = median_seconds(lambda: fit("chinchilla", X, loss, f"huber:{DELTA}"), repeats)
    chosen = np.random.default_rng(0).permutation(4500)[:starts]
    ends, peer_seconds = timed(lambda: [_grid_descent(X, loss, k) for k in chosen])
    share = "" if starts == 4500 else f", timed on {starts} and scaled"
    peer = f"4,500 starts of L-BFGS-B with finite differences{share}; 240 runs, Huber {DELTA:g}"
    yield less_is_better("fit_global", peer, peer_seconds * 4500 / starts, seconds, "CPU s")
    what = f"objective reached, lowest of {starts} starts"
    yield less_is_better("fit_global", what, min(ends), ours.objective, "objective")
    memory = peak_megabytes(lambda: fit("chinchilla", X, loss, f"huber:{DELTA}"))
    yield less_is_better("fit_global", "peak memory of one fit", None, memory, "MB")


def _grid_descent(X: Array, loss: Array, k: int) -> float:
    """The objective that the k-th start of Hoffmann et al.'s grid leads to."""
    from scipy.optimize import minimize

    alpha, beta, e, a, b = GRID[k]
    x, y = np.log(X).T, np.log(loss)
    found = minimize(_objective, [a, b, e, alpha, beta], args=(x, y, 1.0), method="L-BFGS-B")
    return float(found.fun)


def _objective(theta: Array, x: Array, y: Array, w: Array | float) -> float:
    r = np.abs(y - np.logaddexp.reduce(_terms(theta, x), axis=0))
    inner = np.minimum(r, DELTA)
    return float((w * inner * (r - inner / 2)).sum())


def _terms(theta: Array, x: Array) -> Array:
    a, b, e, alpha, beta = theta
    return np.stack([a - alpha * x[0], b - beta * x[1], np.full(x.shape[1], e)])


def _gradient(theta: Array, x: Array, y: Array, w: Array) -> Array:
    terms = _terms(theta, x)
    total = np.logaddexp.reduce(terms, axis=0)
    size, data, floor = np.exp(terms - total)
    pull = -w * np.clip(y - total, -DELTA, DELTA)
    return np.array([size, data, floor, -size * x[0], -data * x[1]]) @ pull


@job
def fit_bootstrap(replicates: int = 4000, peers: int = 400, repeats: int = 3) -> Iterator[Row]:
    """The bootstrap of that fit: one BFGS a replicate, started at the optimum, against ours.

    scipy's BFGS stops at a gradient of 1e-5 unless told otherwise, as in published code; the rows
    of objectives show what that leaves on the table.
    """
    from cliplib.laws import fit
    from cliplib.laws.fitting import fit_batch

    X, loss = planted_runs()
    best = fit("chinchilla", X, loss, f"huber:{DELTA}")
    n = len(loss)
    W = np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), size=replicates).astype(float)

    def ours() -> Array:
        params = list(best.params.values())
        return fit_batch(best.form, X, loss, W, f"huber:{DELTA}", starts=params).objective

    objective = ours()
    seconds = median_seconds(ours, repeats)
    few = min(peers, replicates)
    share = "" if few == replicates else f", timed on {few} and scaled"
    ways: dict[str, Gradient | None] = {"analytic gradient": _gradient, "finite differences": None}
    for how, gradient in ways.items():
        ends, spent = timed(partial(_warm_descents, best.theta, X, loss, W[:few], gradient))
        case = f"{replicates:,} replicates: one BFGS each, {how}{share}"
        spent *= replicates / few
        yield less_is_better("fit_bootstrap", case, spent, seconds, "CPU s")
        case = f"objective reached, mean of {few} replicates, {how}"
        mean = float(objective[:few].mean())
        yield less_is_better("fit_bootstrap", case, float(np.mean(ends)), mean, "objective")
        worst = float(np.max(objective[:few] / np.array(ends)) - 1)
        case = f"largest relative excess of our objective in {few} replicates (not above 0: none)"
        yield Row("fit_bootstrap", case, None, worst, "relative", None)
    memory = peak_megabytes(ours)
    yield less_is_better("fit_bootstrap", "peak memory", None, memory, "MB")


def _warm_descents(
    theta: Array, X: Array, loss: Array, W: Array, gradient: Gradient | None
) -> list[float]:
    """The objective that BFGS reaches in each replicate from the optimum of all runs."""
    from scipy.optimize import minimize

    start = theta.copy()
    start[2] = np.log(theta[2])  # the peer keeps E as a log too
    x, y = np.log(X).T, np.log(loss)
    ends = [minimize(_objective, start, (x, y, w), "BFGS", gradient) for w in W]
    return [float(end.fun) for end in ends]


@job
def fit_paper_bootstrap(draws: int = 10_000, peers: int = 500, repeats: int = 3) -> Iterator[Row]:
    """The paper's recipe, five bins and a line, under resampling of its 29 ImageNet runs."""
    from cliplib.laws import Recipe, bootstrap
    from cliplib.published import openclip_runs

    runs = openclip_runs("imagenet1k")
    recipe = Recipe("power", "bins")
    seconds = median_seconds(lambda: bootstrap(recipe, runs, draws), repeats)
    x, y = np.log10(runs["compute"].to_numpy()), np.log10(runs["error"].to_numpy())
    rows = np.random.default_rng(0).integers(len(x), size=(peers, len(x)))
    _, peer_seconds = timed(lambda: [_five_bins(x[i], y[i]) for i in rows])
    case = (
        f"{draws:,} draws of the paper's five-bin recipe over {len(x)} runs: histogram and lstsq "
        f"in a loop, timed on {peers} and scaled"
    )
    peer_seconds *= draws / peers
    yield less_is_better("fit_paper_bootstrap", case, peer_seconds, seconds, "CPU s")
    memory = peak_megabytes(lambda: bootstrap(recipe, runs, draws))
    yield less_is_better("fit_paper_bootstrap", "peak memory", None, memory, "MB")


def _five_bins(x: Array, y: Array) -> Array:
    """Slope and intercept through the lowest errors of five bins, at their centres."""
    _, edges = np.histogram(x, bins=5, range=(x.min(), x.max() + 0.1))
    bins = np.digitize(x, edges)
    used = np.unique(bins)
    centre = (edges[used - 1] + edges[used]) / 2
    lowest = np.array([y[bins == k].min() for k in used])
    return np.linalg.lstsq(np.column_stack([centre, np.ones(len(used))]), lowest)[0]
