"""Frontiers: the two that are lines, many at once, and the recipe around them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, linprog

from cliplib import InputError, published
from cliplib.laws import frontier_lines
from cliplib.laws.frontier import HOW, LINES, frontier
from cliplib.laws.frontier_batch import frontier_batch
from cliplib.laws.frontier_lines import quantile_line, quantile_lines, stochastic_frontier
from cliplib.laws.recipe import Recipe

IMAGENET = published.openclip_runs("imagenet1k")
C29, E29 = IMAGENET["compute"].to_numpy(), IMAGENET["error"].to_numpy()


def one_sided(n, seed, sigma_v=0.05, sigma_u=0.15):
    """Runs above a frontier 3 C^-0.11."""
    rng = np.random.default_rng(seed)
    C = np.exp(rng.uniform(0, 8, n))
    u, v = sigma_u * np.abs(rng.standard_normal(n)), sigma_v * rng.standard_normal(n)
    return C, 3 * C**-0.11 * np.exp(u + v)


def resampled(n, draws, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(draws)])


def check_loss(C, E, line, tau):
    r = np.log(E) - np.log(line[1]) - line[0] * np.log(C)
    return float((r * (tau - (r < 0))).sum())


# Many at once


def one_by_one(C, E, counts, how, **settings):
    """(C, E) of the points of each resample, each frontier made alone."""
    for row, e in zip(counts, np.broadcast_to(E, counts.shape), strict=True):
        rows = np.repeat(np.arange(len(C)), row)
        points = frontier(C[rows], e[rows], how, **settings)
        yield points.C, points.E


def assert_equal_one_by_one(C, E, counts, how, **settings):
    batch = frontier_batch(C, E, counts, how, **settings)
    where = np.broadcast_to(batch.C, batch.W.shape)
    errors = np.broadcast_to(batch.E, batch.W.shape)
    for b, (x, y) in enumerate(one_by_one(C, E, counts, how, **settings)):
        times = batch.W[b].astype(int)
        assert sorted(
            zip(np.repeat(where[b], times), np.repeat(errors[b], times), strict=True)
        ) == (sorted(zip(x, y, strict=True)))


@pytest.mark.parametrize("how", HOW)
def test_many_frontiers_are_bit_for_bit_those_made_one_by_one(how):
    assert_equal_one_by_one(C29, E29, resampled(29, 300), how)


@pytest.mark.parametrize("how", HOW)
def test_ties_in_compute_and_in_error_are_settled_alike(how):
    rng = np.random.default_rng(4)
    C, E = 10.0 ** rng.integers(0, 5, 30), rng.integers(1, 6, 30) / 10
    assert_equal_one_by_one(C, E, resampled(30, 200), how)


@pytest.mark.parametrize("how", HOW)
def test_each_resample_may_have_errors_of_its_own(how):
    noise = np.random.default_rng(5).standard_normal((100, 29))
    assert_equal_one_by_one(C29, E29 * np.exp(0.05 * noise), resampled(29, 100), how)


@settings(max_examples=30, deadline=None)
@given(
    nbins=st.integers(2, 12),
    margin=st.sampled_from([0.0, 0.01, 0.1, 1.0]),
    how=st.sampled_from(["bins", "bins_own"]),
    seed=st.integers(0, 10_000),
)
def test_any_bins_agree_too(nbins, margin, how, seed):
    counts = resampled(29, 20, seed)
    assert_equal_one_by_one(C29, E29, counts, how, nbins=nbins, margin=margin)


# Quantile regression


def test_the_quantile_line_is_the_optimum_of_its_linear_programme():
    for tau in (0.05, 0.1, 0.5, 0.9):
        C, E = one_sided(40, seed=1)
        n, x = len(C), np.log(C)
        A = np.column_stack([x, np.ones(n), np.eye(n), -np.eye(n)])
        cost = np.concatenate([[0, 0], np.full(n, tau), np.full(n, 1 - tau)])
        bounds = [(None, None)] * 2 + [(0, None)] * (2 * n)
        best = linprog(cost, A_eq=A, b_eq=np.log(E), bounds=bounds, method="highs")
        line = quantile_line(C, E, tau)
        assert check_loss(C, E, line, tau) == pytest.approx(best.fun, rel=1e-9)
        assert line[0] == pytest.approx(best.x[0], abs=1e-8)


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.5])
def test_the_quantile_line_agrees_with_statsmodels(tau):
    import statsmodels.api as sm

    theirs = sm.QuantReg(np.log(E29), sm.add_constant(np.log(C29))).fit(q=tau, max_iter=5000)
    alpha, beta = quantile_line(C29, E29, tau)
    assert alpha == pytest.approx(theirs.params[1], abs=1e-5)
    assert np.log(beta) == pytest.approx(theirs.params[0], abs=1e-4)
    reached = check_loss(C29, E29, (theirs.params[1], np.exp(theirs.params[0])), tau)
    assert check_loss(C29, E29, (alpha, beta), tau) <= reached + 1e-12


def test_a_share_tau_of_the_runs_lies_below_the_line():
    C, E = one_sided(100, seed=2)
    for tau in (0.1, 0.25, 0.5):
        alpha, beta = quantile_line(C, E, tau)
        gap = np.log(E) - np.log(beta) - alpha * np.log(C)
        assert (gap < -1e-9).mean() <= tau <= (gap < 1e-9).mean()


@pytest.mark.parametrize("seed", range(4))
def test_many_runs_take_another_road_to_the_same_line(seed, monkeypatch):
    C, E = one_sided(90, seed)
    counts = resampled(90, 8, seed)
    pairs = quantile_lines(C, E, counts, 0.1)
    monkeypatch.setattr(frontier_lines, "ALL_PAIRS", 10)
    descents = quantile_lines(C, E, counts, 0.1)
    assert np.allclose(pairs, descents, rtol=1e-9)


def test_many_quantile_lines_equal_those_made_one_by_one_and_repeats_count():
    counts = resampled(29, 40, seed=3)
    lines = quantile_lines(C29, E29, counts, 0.1)
    for row, line in zip(counts, lines, strict=True):
        rows = np.repeat(np.arange(29), row)
        assert tuple(line) == pytest.approx(quantile_line(C29[rows], E29[rows], 0.1), rel=1e-12)


def test_of_several_best_lines_the_choice_does_not_depend_on_order_or_unit():
    C = np.array([1.0, 1, 10, 10, 100, 100, 1000, 1000])
    E = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35])
    expected = quantile_line(C, E, 0.5)[0]
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(8)
        assert quantile_line(1e9 * C[order], E[order], 0.5)[0] == pytest.approx(expected, abs=1e-12)


# The stochastic frontier


def test_a_planted_stochastic_frontier_comes_back():
    found = [stochastic_frontier(*one_sided(400, seed)) for seed in range(5)]
    for name, planted, margin in (
        ("alpha", -0.11, 0.004), ("beta", 3.0, 0.06), ("sigma_v", 0.05, 0.01), ("sigma_u", 0.15, 0.02),
    ):  # fmt: skip
        assert np.mean([getattr(f, name) for f in found]) == pytest.approx(planted, abs=margin)


def test_the_stochastic_frontier_maximises_the_likelihood_that_scipy_computes():
    from scipy.optimize import minimize
    from scipy.stats import norm

    C, E = one_sided(80, seed=1)

    def log_likelihood(theta):
        slope, height, v, u = theta[0], theta[1], *np.exp(theta[2:])
        eps, sigma = np.log(E) - height - slope * np.log(C), np.hypot(u, v)
        return (np.log(2) + norm.logpdf(eps, 0, sigma) + norm.logcdf(u / v * eps / sigma)).sum()

    found = stochastic_frontier(C, E)
    theta = [found.alpha, np.log(found.beta), np.log(found.sigma_v), np.log(found.sigma_u)]
    assert found.log_likelihood == pytest.approx(log_likelihood(theta), rel=1e-9)
    starts = [theta, [-0.1, 1.0, -3.0, -2.0], [-0.2, 1.2, -2.0, -2.0]]
    options = {"maxiter": 4000, "xatol": 1e-8, "fatol": 1e-10}
    best = min(
        minimize(lambda t: -log_likelihood(t), s, method="Nelder-Mead", options=options).fun
        for s in starts
    )
    assert -found.log_likelihood <= best + 1e-7


def test_the_gradient_of_the_likelihood_equals_finite_differences():
    C, E = one_sided(30, seed=1)
    x, y = np.log(C) - np.log(C).mean(), np.log(E)
    for theta in ([-0.1, 0.6, -2.0, -1.5], [-0.2, 0.4, -1.0, -3.0]):
        gradient = frontier_lines._cost(np.array(theta), x, y)[1]
        numeric = approx_fprime(theta, lambda t: frontier_lines._cost(t, x, y)[0], 1e-7)
        assert np.allclose(gradient, numeric, rtol=1e-4, atol=1e-3)


def test_a_unit_of_compute_changes_the_factor_of_the_stochastic_frontier_only():
    C, E = one_sided(60, seed=3)
    a, b = stochastic_frontier(C, E), stochastic_frontier(1e9 * C, E)
    assert b.alpha == pytest.approx(a.alpha, abs=1e-6)
    assert b.sigma_u == pytest.approx(a.sigma_u, rel=1e-4)
    assert b.beta * 1e9**b.alpha == pytest.approx(a.beta, rel=1e-4)


def test_a_degenerate_stochastic_frontier_is_refused_in_words():
    with pytest.raises(InputError, match=r"degenerate here: its noise sigma_v goes to 0.*use hull"):
        frontier(C29, E29, "sfa")
    C, E = one_sided(60, seed=3)
    with pytest.raises(InputError, match="its inefficiency sigma_u goes to 0"):
        frontier(C, 1 / E, "sfa")  # turned over, the runs lie below their line
    with pytest.raises(InputError, match="the runs lie on one line"):
        frontier(C, 3 * C**-0.11, "sfa")


# Lines as frontiers


@pytest.mark.parametrize("how", LINES)
def test_a_frontier_that_is_a_line_gives_a_fit_of_the_power_law(how):
    C, E = one_sided(60, seed=3)
    points = frontier(C, E, how)
    assert len(points.C) == 60 and points.line is not None
    fitted = Recipe("power", how).fit(pd.DataFrame({"compute": C, "error": E}))
    assert tuple(fitted.params.values()) == points.line
    assert fitted.loss == {"quantile": "quantile:0.1", "sfa": "sfa"}[how]
    assert fitted.predict(C) == pytest.approx(points.line[1] * C ** points.line[0])
    assert np.allclose(fitted.residuals, np.log(points.E / fitted.predict(points.C)))
    assert fitted.params["alpha"] == pytest.approx(-0.11, abs=0.02)


def test_the_objective_of_a_quantile_fit_is_its_check_loss():
    fitted = Recipe("power", "quantile", tau=0.2).fit(IMAGENET)
    assert fitted.loss == "quantile:0.2"
    line = tuple(fitted.params.values())
    assert fitted.objective == pytest.approx(check_loss(C29, E29, line, 0.2), rel=1e-12)


def test_planted_frontiers_come_back_without_noise():
    E = 5.86 * C29**-0.11
    assert quantile_line(C29, E, 0.1) == pytest.approx((-0.11, 5.86), rel=1e-9)


# Recipes


def test_bins_margin_and_tau_reach_the_frontier():
    three = frontier(C29, E29, "bins", nbins=3, margin=0.5)
    fitted = Recipe("power", "bins", nbins=3, margin=0.5).fit(IMAGENET)
    x, y = np.log(three.C), np.log(three.E)
    assert fitted.params["alpha"] == pytest.approx(np.polyfit(x, y, 1)[0], abs=1e-10)
    low, high = (Recipe("power", "quantile", tau=t).fit(IMAGENET) for t in (0.1, 0.5))
    assert low.predict([1e12])[0] < high.predict([1e12])[0]


def test_the_largest_errors_are_dropped_before_anything_else():
    kept = IMAGENET.sort_values("error").iloc[:-3]
    for how in ("all", "bins", "quantile"):
        dropped = Recipe("power", how, drop_largest=3)(IMAGENET)
        assert dropped == pytest.approx(Recipe("power", how)(kept), rel=1e-12)
    index = Recipe("power", "bins", drop_largest=3).frontier(IMAGENET).index
    points = Recipe("power", "bins").frontier(kept)
    assert np.allclose(np.sort(E29[index]), np.sort(points.E))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("curved", "quantile"), "'quantile' is a line with its own objective"),
        (Recipe("power", "sfa", loss="huber"), "'sfa' is a line with its own objective"),
        (Recipe("power", "quantile", tau=1.0), "tau is a share of the runs"),
        (Recipe("power", "best"), "unknown frontier 'best'"),
        (Recipe("power", "bins", nbins=1), "need 2 or more bins"),
        (Recipe("power", drop_largest=27), "drop_largest = 27 leaves 2 of 29 runs"),
        (Recipe("power", drop_largest=-1), "drop_largest = -1 leaves 30 of 29 runs"),
        (Recipe("power", "bins", x=("gmacs_per_sample", "samples_seen")), "needs one x, compute"),
        (Recipe("power", x="flops"), "no column flops in the runs"),
    ],
)
def test_recipes_that_cannot_be_are_refused(recipe, message):
    with pytest.raises(InputError, match=message):
        recipe(IMAGENET)
    with pytest.raises(InputError, match=message):
        recipe.batch(IMAGENET, np.ones((2, 29)))


def test_a_line_has_no_points_to_share_out():
    with pytest.raises(InputError, match="'sfa' is a line"):
        frontier_batch(C29, E29, np.ones((2, 29)), "sfa")
