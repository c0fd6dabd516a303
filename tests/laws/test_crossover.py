"""Where two laws meet: planted truth, Fieller against a search, regions without bounds."""

import json

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError, published
from cliplib.laws import Recipe
from cliplib.laws.crossover import crossover

LARGE = {name: published.errors(name) for name in ("imagenet1k", "mscoco_captions")}
LARGE = {name: runs[runs["data"] != "LAION-80M"] for name, runs in LARGE.items()}


def crossing(slopes, at=1e3, noise=0.02, seed=0, n=12, span=(1, 1e6)):
    rng, C = np.random.default_rng(seed), np.geomspace(*span, n)
    parts = [
        pd.DataFrame(
            {"compute": C, "error": 0.5 * (C / at) ** s * np.exp(noise * rng.normal(size=n))}
        )
        for s in slopes
    ]
    return pd.concat([part.assign(source=name) for part, name in zip(parts, "ab", strict=True)])


def test_a_planted_crossover_is_found_and_both_regions_hold_it():
    found = crossover(crossing((-0.1, -0.2)), "source", n=400)
    assert found.at[0] == pytest.approx(1e3, rel=0.3) and found.inside == found.at
    for region in found.regions:
        ((low, high),) = region.intervals
        assert region.shape == "bounded" and low < 1e3 < high < 100 * low
    fieller, boot = (np.log(region.intervals[0]) for region in found.regions)
    assert np.allclose(fieller, boot, atol=0.5)


def test_fieller_equals_a_search_over_the_t_test():
    """Every x in the region is one at which a t test of equal levels does not reject."""
    import statsmodels.formula.api as smf

    runs = crossing((-0.1, -0.13), noise=0.08, seed=3)
    runs = runs[(runs["source"] == "a") | (runs["compute"] > 30)]
    found = crossover(runs, "source", n=0)
    table = runs.assign(y=np.log(runs["error"]), b=(runs["source"] == "b").astype(float))
    for value in np.geomspace(1e-3, 1e9, 60):
        at = table.assign(x=np.log(runs["compute"] / value))
        p = smf.ols("y ~ x * b", at).fit().pvalues["b"]
        inside = any(low <= value <= high for low, high in found.regions[0].intervals)
        assert inside == (p >= 0.05)


def test_parallel_laws_have_an_unbounded_region_and_it_says_so():
    same = crossover(crossing((-0.1, -0.1), noise=0.05, seed=2), "source", n=200)
    assert [region.shape for region in same.regions] == ["everything", "everything"]
    assert "nor whether" in same.words()[-1]


def test_levels_that_differ_with_like_slopes_leave_two_ends():
    coco = crossover(LARGE["mscoco_captions"], "family", n=0)
    assert coco.regions[0].shape == "disjoint"
    assert "no crossover inside the range that both cover" in " ".join(coco.words())
    (start, low), (high, end) = coco.regions[0].intervals
    assert start == 0 and end == np.inf and low < 9.5e10 and high > 1.13e12


def test_groups_without_a_common_range_are_called_extrapolated():
    runs = crossing((-0.1, -0.2))
    runs = runs[(runs["source"] == "a") == (runs["compute"] < 2e3)]
    found = crossover(runs, "source", n=0)
    assert found.shared is None and found.inside == ()
    assert any("share no range" in line for line in found.words())


def test_a_group_too_small_to_resample_gives_the_reason_not_a_region():
    found = crossover(LARGE["imagenet1k"], "family", n=50)
    boot = found.regions[1]
    assert boot.shape == "none" and "3 runs are too few to resample" in boot.words()
    assert json.loads(json.dumps(found.to_dict()))["regions"][1]["intervals"] == []


def test_a_frontier_has_a_bootstrap_region_only():
    found = crossover(crossing((-0.1, -0.2), n=20), "source", Recipe("power", "pareto"), n=200)
    assert len(found.regions) == 1 and found.regions[0].method.startswith("bootstrap")
    assert found.regions[0].intervals[0][0] < 1e3 < found.regions[0].intervals[0][1]


def test_crossovers_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="has 3 groups; a crossover is between two"):
        crossover(LARGE["imagenet1k"], "data")
    with pytest.raises(InputError, match="needs a law in one variable"):
        crossover(LARGE["imagenet1k"], "family", Recipe("power", x=("gmacs", "samples")))
