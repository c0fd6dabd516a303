"""Planted studies: what classic mistakes of scaling-law code do to an answer that is known.

Tables only, for the chapters on how the fits are made. Every function takes a seed and repeats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from cliplib.laws import Recipe, bootstrap, fit, frontier
from cliplib.laws.coverage import wilson
from cliplib.laws.coverage_designs import designs


def planted(name: str, seed: int = 0) -> tuple[pd.DataFrame, dict[str, float]]:
    """One simulated study of a design of the coverage study, and its planted parameters."""
    design = designs()[name]
    return design.simulate(np.random.default_rng(seed)), design.truth


def wrong_response(
    settings: Sequence[tuple[float, float]] = ((0.02, 4), (0.05, 4), (0.05, 2)),
    n_sims: int = 40,
    seed: int = 0,
) -> pd.DataFrame:
    """Offsets of planted saturating studies, 32 runs each, by two objectives.

    settings: (sd of ln E, decades of C). right: squares of ln E - ln predicted. wrong: squares of
    ln(E - a) - (ln b - d ln C), the same law, but a response that moves with a. Columns sd,
    decades, truth, then for both the median offset and the share of studies that end at a = 0.
    """
    truth, rows = designs()["saturating"].truth, []
    for sd, decades in settings:
        C = np.geomspace(1, 10**decades, 32)
        clean = truth["a"] + truth["b"] * C ** -truth["d"]
        rng = np.random.default_rng(seed)
        studies = clean * np.exp(sd * rng.standard_normal((n_sims, len(C))))
        right = np.array([fit("saturating", C, E).params["a"] for E in studies])
        wrong = np.array([_moving_response(C, E) for E in studies])
        rows.append(
            {"sd": sd, "decades": decades, "truth": truth["a"],
             "right": np.median(right), "right at 0": np.mean(right == 0),
             "wrong": np.median(wrong), "wrong at 0": np.mean(wrong == 0)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _moving_response(C: np.ndarray, E: np.ndarray) -> float:
    """The a that minimises the squares of ln(E - a) about a line, on a fine grid."""
    x = np.log(C)
    offsets = np.linspace(0, E.min() * 0.999, 400)
    y = np.log(E - offsets[:, None])
    dx, dy = x - x.mean(), y - y.mean(1, keepdims=True)
    squares = (dy**2).sum(1) - (dy @ dx) ** 2 / (dx @ dx)
    return float(offsets[squares.argmin()])


def points_or_runs(n_sims: int = 100, n_draws: int = 400, seed: int = 0) -> pd.DataFrame:
    """Planted studies like the paper's, and two bootstraps of the paper's recipe on each.

    Columns: study, way (``runs`` or ``points``), estimate, low, high, truth. ``points`` resamples
    the five minima as if they were five independent runs.
    """
    design, recipe = designs()["paper half-normal"], Recipe("power", "bins")
    rows = []
    for i in range(n_sims):
        runs = design.simulate(np.random.default_rng([seed, i]))
        draws = bootstrap(recipe, runs, n_draws, seed=i)
        span, estimate = draws.ci()["alpha"], recipe(runs)["alpha"]
        minima = frontier(runs["compute"], runs["error"], "bins")
        low, high = _resampled_points(np.log(minima.C), np.log(minima.E), n_draws, i)
        truth = design.truth["alpha"]
        rows.append((i, "runs", estimate, span.low, span.high, truth))
        rows.append((i, "points", estimate, low, high, truth))
    return pd.DataFrame(rows, columns=["study", "way", "estimate", "low", "high", "truth"])


def _resampled_points(x: np.ndarray, y: np.ndarray, n: int, seed: int) -> tuple[float, float]:
    m = len(x)
    counts = np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), size=n)
    counts = counts[(counts > 0).sum(1) > 1].astype(float)
    dx = x - (counts @ x / m)[:, None]
    slopes = (counts * dx * y).sum(1) / (counts * dx**2).sum(1)
    low, high = np.quantile(slopes, [0.025, 0.975])
    return float(low), float(high)


def covered(table: pd.DataFrame) -> pd.DataFrame:
    """How often the truth is inside, by way of `points_or_runs`: coverage and its 95% interval.

    narrow, wide: a tenth of the intervals are narrower, a tenth wider.
    """
    inside = (table["low"] <= table["truth"]) & (table["truth"] <= table["high"])
    found = table.assign(inside=inside, width=table["high"] - table["low"]).groupby("way")
    hits, n = found["inside"].sum(), found.size()
    spans = [wilson(int(k), int(m)) for k, m in zip(hits, n, strict=True)]
    return pd.DataFrame(
        {"coverage": hits / n, "low": [s[0] for s in spans], "high": [s[1] for s in spans],
         "narrow": found["width"].quantile(0.1), "wide": found["width"].quantile(0.9),
         "studies": n}
    ).reset_index()  # fmt: skip


def logged_quantile(dof: int, level: float = 0.95) -> float:
    """What a band of ln(t) standard errors covers, instead of t: a share, exactly."""
    quantile = float(stdtrit(dof, (1 + level) / 2))
    return 2 * float(stdtr(dof, np.log(quantile))) - 1


def inverted_weights(n_sims: int = 200, seed: int = 0) -> dict[str, float]:
    """RMSE of a slope with weights 1/sd^2, none, and sd^2 (inverted), on uneven planted studies."""
    design = designs()["grid 20 uneven"]
    sd = np.geomspace(0.12, 0.02, len(design.runs))
    ways = {"right": sd**-2, "none": np.ones_like(sd), "inverted": sd**2}
    misses: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(n_sims):
        runs = design.simulate(np.random.default_rng([seed, i]))
        for name, w in ways.items():
            found = fit("power", runs["compute"], runs["error"], weights=w / w.mean())
            misses[name].append(found.params["alpha"] - design.truth["alpha"])
    return {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in misses.items()}


TRAPS = (
    (
        "the quantile of a band is logged: ln(t) standard errors instead of t",
        "a published band is far too narrow",
        "tests/laws/test_coverage.py::test_the_t_interval_covers_as_often_as_it_says",
    ),
    (
        "weights turned over: noisy runs count most",
        "the optimiser is led away, or never leaves its start",
        "tests/test_method_figures.py::test_inverted_weights_are_worse_than_none",
    ),
    (
        "squares of ln(E - a) with a free",
        "the response moves with a; the term of the change of variable is missing",
        "tests/test_method_figures.py::test_a_response_that_moves_with_the_offset_loses_it",
    ),
    (
        "the best start is chosen by another objective than the one minimised",
        "the reported optimum is not the optimum of anything",
        "tests/laws/test_forms.py::test_no_random_search_ends_below_the_starts",
    ),
    (
        "the points of a frontier are resampled",
        "five points are no sample: the width of the interval is luck",
        "tests/test_method_figures.py::test_resampled_minima_give_erratic_intervals",
    ),
    (
        "the error is scored on the runs that were fitted",
        "a law with more parameters always wins",
        "tests/laws/test_choice.py::test_the_true_form_is_ranked_first_and_the_wrong_one_is_called_worse",
    ),
    (
        "the minimum of a bin is moved to the bin's centre",
        "an exact law comes back bent",
        "tests/laws/test_laws.py::test_the_bin_centre_recipe_bends_a_perfect_law",
    ),
)


def traps_table() -> pd.DataFrame:
    """The mistakes, what they do, and the test of ours that catches each."""
    rows = [
        {"mistake": what, "what it does": effect, "caught by": test.rpartition("::")[2],
         "in": test.partition("::")[0]}
        for what, effect, test in TRAPS
    ]  # fmt: skip
    return pd.DataFrame(rows)
