"""Bottlenecks, and whether compute is enough: published exponents, confounded pairs, profiles."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import statsmodels.formula.api as smf

from cliplib.laws import profile
from cliplib.paper import bottlenecks as pb
from cliplib.paper import bottlenecks_figures as bottleneck_figures
from cliplib.paper import compute as pc
from cliplib.paper import compute_figures

BOTH = ("imagenet1k", "mscoco_captions")
FEW, MIDDLE, MANY = pb.SCALES


# ------------------------------------------------------------------------------------- bottlenecks


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [("imagenet1k", [-0.038, -0.068, -0.093]), ("mscoco_captions", [-0.024, -0.049, -0.072])],
)
def test_samples_are_worth_more_on_more_data(dataset, expected):
    found = pb.planes(dataset)
    assert list(found["samples"]) == pytest.approx(expected, abs=8e-4)
    assert list(found["n"]) == [9, 9, 11]
    assert (
        (found["samples_low"] < found["samples"]) & (found["samples"] < found["samples_high"])
    ).all()


def test_planes_and_intervals_are_those_of_a_regression():
    runs = pb.grid("imagenet1k").query("data == 'LAION-2B'")
    fitted = smf.ols("np.log(error) ~ np.log(gmacs_per_sample) + np.log(samples_seen)", runs).fit()
    row = pb.planes("imagenet1k").set_index("data").loc["LAION-2B"]
    spans = fitted.conf_int().to_numpy()
    assert row[["size", "samples"]].tolist() == pytest.approx(list(fitted.params.iloc[1:]))
    assert row[["size_low", "size_high"]].tolist() == pytest.approx(list(spans[1]), rel=1e-5)
    assert row[["samples_low", "samples_high"]].tolist() == pytest.approx(list(spans[2]), rel=1e-5)


@pytest.mark.parametrize(("dataset", "p"), [("imagenet1k", 4e-4), ("mscoco_captions", 5e-3)])
def test_exponents_of_samples_differ_also_with_one_recipe(dataset, p):
    found = pb.samples_test(dataset, MIDDLE, MANY)
    assert found["p"] == pytest.approx(p, rel=0.02)
    assert found["n"] == 20
    like = pb.samples_test(dataset, MIDDLE, MANY, like=True)
    assert like["n"] == 15
    assert like["p"] < 0.05


def test_steps_wear_out_with_passes():
    steps = pb.local_exponents("imagenet1k")
    assert len(steps) == 18  # H/14 and g/14 have one number of samples
    assert steps["exponent"].corr(np.log(steps["passes"]), method="spearman") > 0.8


def test_pairs_between_two_data_scales():
    parts = {d: pb.paired_parts(d, MIDDLE, MANY).set_index("part") for d in BOTH}
    imagenet, coco = (parts[d].loc["all"] for d in BOTH)
    assert imagenet[["n", "percent", "p"]].tolist() == pytest.approx([9, 1.65, 0.177], abs=0.01)
    assert coco[["n", "percent", "p"]].tolist() == pytest.approx([9, 3.89, 0.0088], abs=0.01)
    assert parts["imagenet1k"].loc["34B samples", "low"] > 0
    assert pb.paired(pb.pairs("imagenet1k", FEW, MANY))["percent"] == pytest.approx(24.7, abs=0.05)


def test_the_confounded_pairs_are_named():
    table = pb.pairs("imagenet1k", MIDDLE, MANY).set_index(["arch", "label"])
    assert set(table.index[table["like"] == 0]) == {
        ("ViT-B-32", "13B"), ("ViT-B-16", "13B"), ("ViT-B-32", "34B"),
    }  # fmt: skip
    early, late = table.loc[("ViT-B-32", "13B")], table.loc[("ViT-B-32", "34B")]
    assert early["lr_few"] == 2 * early["lr_many"] == late["lr_many"] == 2 * late["lr_few"]
    assert round(early["points"], 2) == -0.70
    assert round(late["points"], 2) == 2.41


def test_a_recipe_can_be_worth_a_point():
    table = pb.controls()
    assert table["imagenet1k"].round(2).tolist() == [-1.04, -0.04, 0.31, 0.32]
    assert table.set_index("run_id")["vtab+"].iloc[0] == pytest.approx(-2.87, abs=0.005)


def test_claims_of_the_text_in_points():
    step = pb.gains("ViT-L-14", (MIDDLE, "13B"), (MIDDLE, "34B"))
    assert {k: round(v, 2) for k, v in step.items()} == {
        "imagenet1k": 0.88, "imagenet_robustness": 1.41, "vtab+": 1.32, "mscoco_captions": 0.22,
    }  # fmt: skip
    assert pb.gains("ViT-B-16", (MIDDLE, "13B"), (MANY, "13B"))["imagenet1k"] == pytest.approx(
        1.13, abs=0.005
    )


@pytest.mark.parametrize(("dataset", "R"), [("imagenet1k", 22.5), ("mscoco_captions", 14.3)])
def test_the_worth_of_repeats_depends_on_the_runs(dataset, R):
    law = pb.effective(dataset)
    assert law.params["R"] == pytest.approx(R, abs=0.05)
    whole, part = profile(law, "R"), profile(pb.effective(dataset, scales=(MIDDLE, MANY)), "R")
    assert whole.low < R < whole.high < np.inf
    assert part.low > R
    if dataset == "imagenet1k":
        assert part.low > whole.high


def test_the_curve_reaches_its_limit_at_the_intervals_ends():
    law = pb.effective("imagenet1k")
    curve, found = pb.repeats_curve(law), profile(law, "R")
    inside = curve[(curve["R"] > found.low * 1.001) & (curve["R"] < found.high * 0.999)]
    assert (inside["height"] < 1).all()
    assert curve["height"].min() == 0
    outside = curve[(curve["R"] < found.low * 0.99) | (curve["R"] > found.high * 1.01)]
    assert (outside["height"] > 1).all()


def test_effective_share_is_one_for_fresh_data_and_falls():
    share = pb.effective_share(np.array([0.5, 1, 2, 32, 428, 1e6]), 20.0)
    assert share[:2].tolist() == [1, 1]
    assert (np.diff(share[1:]) < 0).all()
    assert share[-1] * 1e6 == pytest.approx(21)  # one fresh pass and R repeats


# --------------------------------------------------------------------------------- is compute enough


@pytest.mark.parametrize(
    ("dataset", "size", "samples", "p"),
    [("imagenet1k", -0.132, -0.081, 3e-7), ("mscoco_captions", -0.090, -0.061, 5e-3)],
)
def test_size_and_samples_weigh_differently(dataset, size, samples, p):
    found = pc.laws_of(dataset).set_index("law")
    both, one = found.loc["GMACs a pair, samples"], found.loc["compute"]
    assert [both["size"], both["samples"]] == pytest.approx([size, samples], abs=6e-4)
    assert both["p"] == pytest.approx(p, rel=0.15)
    assert both["aic"] < one["aic"] < found.loc["parameters, samples", "aic"]
    assert both["n"] == 20


def test_aic_gap_and_scatter_as_in_the_logs_of_ten():
    found = pc.laws_of("imagenet1k").set_index("law")
    both, one = found.loc["GMACs a pair, samples"], found.loc["compute"]
    assert one["aic"] - both["aic"] == pytest.approx(29.4, abs=0.1)
    assert [s / np.log(10) for s in (both["scatter"], one["scatter"])] == pytest.approx(
        [0.0091, 0.0193], abs=5e-5
    )


def test_equal_exponents_is_the_t_test_of_a_regression():
    runs = pc.grid("mscoco_captions")
    fitted = smf.ols("np.log(error) ~ np.log(compute) + np.log(samples_seen)", runs).fit()
    value, low, high, p = pc.equal_exponents(pc.two(runs))
    assert value == pytest.approx(fitted.params.iloc[2])
    assert [low, high] == pytest.approx(list(fitted.conf_int().iloc[2]), rel=1e-5)
    assert p == pytest.approx(fitted.pvalues.iloc[2], rel=1e-5)


@pytest.mark.parametrize("dataset", BOTH)
def test_shares_of_the_cloud_sum_to_one(dataset):
    parts = pc.explained(dataset)
    assert sum(parts.values()) == pytest.approx(1)
    assert min(parts.values()) > 0


@pytest.mark.parametrize("dataset", BOTH)
def test_at_equal_compute_the_larger_model_errs_less(dataset):
    pairs = pc.equal_compute(dataset)
    assert len(pairs) == 5
    assert (pairs["ratio"] < 1).all()
    assert pairs["compute_ratio"].between(0.8, 1.25).all()


@pytest.mark.parametrize("dataset", BOTH)
def test_the_floor_is_not_identified_and_the_plane_fits_better(dataset):
    law = pc.additive(dataset)
    assert law.params["E"] == 0 and "E" in law.on_bound
    floor = profile(law, "E")
    assert floor.low == 0
    assert floor.high > 0.1
    assert pc.aic(law) > pc.aic(pc.two(pc.grid(dataset)))
    assert pc.floor_curve(law)["height"].iloc[0] == 0


def test_the_product_has_no_best_size_and_the_sum_has_one():
    curve = pc.at_compute("imagenet1k", 1e12)
    assert (np.diff(curve["multiplicative"]) < 0).all()
    best = int(np.argmin(curve["additive"]))
    assert 0 < best < len(curve) - 1
    found = pc.allocation("imagenet1k", (1e12,), n=100)
    assert curve["N"][best - 1] < found.table["N"][0] < curve["N"][best + 1]
    low, high = found.intervals["a"]
    assert low < 0.5 < high


def test_figures_and_tables_are_drawn():
    from cliplib.figures import style

    style()
    grids = {d: pb.grid(d) for d in BOTH}
    pairs = {d: pb.pairs(d, MIDDLE, MANY) for d in BOTH}
    curves = {d: {"all": pb.repeats_curve(pb.effective(d))} for d in BOTH}
    drawn = [
        bottleneck_figures.grid_panels(grids),
        bottleneck_figures.repeats_panels({d: pb.local_exponents(d) for d in BOTH}),
        bottleneck_figures.pairs_panels(pairs),
        bottleneck_figures.profile_panels(curves),
        compute_figures.cloud_panels({d: pc.cloud(d) for d in BOTH}),
        compute_figures.floor_panels({d: pc.floor_curve(pc.additive(d)) for d in BOTH}),
        compute_figures.allocation_panels({d: pc.at_compute(d, 1e12) for d in BOTH}, 1e12),
    ]
    assert [len(fig.axes) for fig in drawn] == [6, 2, 2, 2, 4, 2, 2]
    for fig in drawn:
        assert fig.get_supxlabel()
        plt.close(fig)
    recipes = bottleneck_figures.pairs_table(pairs)
    assert recipes["lr, 400M → 2B"].str.contains("→").sum() == 3
    assert len(compute_figures.pairs_table({d: pc.equal_compute(d) for d in BOTH})) == 5
