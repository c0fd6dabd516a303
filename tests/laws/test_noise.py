"""Noise of test sets and seeds, and what share of an error bar it explains."""

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError, published
from cliplib.laws.noise import (
    SeedNoise,
    binomial_se,
    decomposition,
    log10_variance,
    seed_noise,
)
from cliplib.laws.recipe import Recipe
from cliplib.laws.uncertainty import bootstrap

IMAGENET = published.openclip_runs("imagenet1k")


def test_the_standard_error_is_that_of_simulated_test_sets():
    wrong = np.random.default_rng(0).binomial(50_000, 0.22, 20_000) / 50_000
    assert binomial_se(0.22, 50_000) == pytest.approx(wrong.std(), rel=0.02)
    assert log10_variance(0.22, 50_000) == pytest.approx(np.log10(wrong).var(), rel=0.04)
    assert np.allclose(binomial_se([0.1, 0.5], [100, 400]), [0.03, 0.025])


def test_seed_noise_is_pooled_over_the_cells_that_repeat():
    rng = np.random.default_rng(1)
    runs = pd.DataFrame({"rung": np.repeat(range(300), 3), "budget": 1.0})
    runs["error"] = np.exp(0.001 * runs["rung"] - 1 + 0.03 * rng.standard_normal(900))
    found = seed_noise(runs, by=["rung", "budget"])
    assert found.sd == pytest.approx(0.03, rel=0.1)
    assert (found.dof, found.cells) == (600, 300)
    lone = pd.concat([runs, runs.iloc[:1].assign(rung=999)])
    assert seed_noise(lone, by=["rung", "budget"]) == found


def test_without_repeats_seed_noise_is_refused():
    with pytest.raises(InputError, match="seeds were not repeated"):
        seed_noise(IMAGENET, by=["run_id"])
    with pytest.raises(InputError, match="no column rung"):
        seed_noise(IMAGENET, by=["rung"])


def test_the_test_set_explains_a_small_share_of_the_papers_error_bar():
    table = decomposition(IMAGENET, Recipe("power", "bins"), 50_000, n=4000).set_index("source")
    # known from an earlier computation: 1.7%
    assert table.loc["test set", "share"] == pytest.approx(0.017, abs=0.003)
    assert table["share"].iloc[:-1].sum() == pytest.approx(1)
    total = bootstrap(Recipe("power", "bins"), IMAGENET, n=4000).se()["alpha"]
    assert table.loc["bootstrap of runs", "sd"] == pytest.approx(total)


def test_the_test_sets_share_of_a_plain_line_is_what_the_formula_gives():
    """For least squares on all runs: sum of (dx / sxx)^2 times the variance of each ln E."""
    table = decomposition(IMAGENET, Recipe(), 2000, n=20_000).set_index("source")
    x, E = np.log(IMAGENET["compute"].to_numpy()), IMAGENET["error"].to_numpy()
    pull = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    variance = (pull**2 * log10_variance(E, 2000)).sum() * np.log(10) ** 2
    assert table.loc["test set", "sd"] == pytest.approx(np.sqrt(variance), rel=0.03)


def test_seeds_get_their_own_row_and_items_may_differ_by_run():
    runs = IMAGENET.assign(items=50_000)
    quiet = decomposition(runs, Recipe(), "items", seeds=SeedNoise(0.0, 5, 5), n=200)
    loud = decomposition(runs, Recipe(), "items", seeds=SeedNoise(0.05, 5, 5), n=200)
    share = [table.set_index("source").loc["seeds", "share"] for table in (quiet, loud)]
    assert share[0] == pytest.approx(0, abs=1e-20) and share[1] > 0.02
    assert list(quiet["source"]) == [
        "test set", "seeds", "which runs, lack of fit, frontier", "bootstrap of runs",
    ]  # fmt: skip
    fixed = decomposition(runs, Recipe(), 50_000, seeds=SeedNoise(0.0, 5, 5), n=200)
    pd.testing.assert_frame_equal(fixed, quiet)


def test_a_test_set_without_errors_does_not_break_the_logarithm():
    runs = pd.DataFrame({"compute": np.geomspace(1, 100, 8), "error": np.geomspace(0.5, 0.01, 8)})
    table = decomposition(runs, Recipe(), 40, n=100)
    assert np.isfinite(table["sd"]).all()


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match="no parameter d in this recipe; there are alpha, beta"):
        decomposition(IMAGENET, Recipe(), 100, parameter="d")
    with pytest.raises(InputError, match=r"column error, row 0: 36\.772 is no error rate below 1"):
        percent = IMAGENET.assign(error=100 * IMAGENET["error"])
        decomposition(percent.reset_index(drop=True), Recipe(), 100)
