"""Prediction and reckoning: in-sample errors, later models, hold-outs, coverage."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from cliplib import InputError, laws, published
from cliplib.paper import prediction as paper_prediction
from cliplib.paper import prediction_figures as figures

# ------------------------------------------------------------------------------------- in-sample


@pytest.mark.parametrize(
    ("dataset", "mae", "bias"),
    [("imagenet1k", 0.8743712, -0.636), ("mscoco_captions", 0.5884336, -0.443)],
)
def test_the_published_error_is_that_of_eleven_cells(dataset, mae, bias):
    table = paper_prediction.in_sample(dataset)
    first = table.iloc[0]
    assert (first["n"], len(published.openclip_runs(dataset))) == (11, 29)
    assert first["mean_abs"] == pytest.approx(mae, abs=1e-6)
    assert first["bias"] == pytest.approx(bias, abs=1e-3)
    assert table["n"].tolist()[2:] == [5, 6, 20, 29]
    assert table["mean_abs"].iloc[-1] > 3


def test_a_miss_below_zero_means_a_law_too_hopeful():
    law = laws.fit("power", [1, 10, 100], [0.4, 0.2, 0.1])
    worse = pd.DataFrame({"compute": [10.0], "error": [0.25]})
    assert paper_prediction.misses(law, worse).item() == pytest.approx(-5)


# ---------------------------------------------------------------------------------- later models


@pytest.fixture(scope="module")
def draws():
    runs = published.openclip_runs("imagenet1k")
    return laws.bootstrap(paper_prediction.RECIPE, runs, n=300, seed=0)


def test_whole_pictures_cost_their_nominal_compute():
    G = published.architectures().query("arch == 'ViT-G-14'").iloc[0]
    whole = (paper_prediction.Phase(2.0, 1.0),)
    for nominal in (True, False):
        found = paper_prediction.bigg_compute(whole, nominal)
        assert found == pytest.approx(2e9 * G["gmacs_per_sample"])


def test_dropped_patches_save_image_and_not_text():
    G = published.architectures().query("arch == 'ViT-G-14'").iloc[0]
    half = (paper_prediction.Phase(1.0, 0.5),)
    saved = paper_prediction.bigg_compute(half, True) - paper_prediction.bigg_compute(half, False)
    assert saved == pytest.approx(0.5e9 * G["image_gmacs"])


def test_bigg_in_its_phases_by_both_counts():
    table = paper_prediction.bigg().set_index("phase")
    first = table.loc["first phase alone"]
    assert first["nominal"] == pytest.approx(1.705e13, rel=1e-3)
    assert first["adjusted"] == pytest.approx(9.31e12, rel=1e-3)
    assert first["miss_nominal"] == pytest.approx(-1.26, abs=0.01)
    assert table.loc["average of three", "miss_adjusted"] == pytest.approx(0.39, abs=0.01)
    assert (table["adjusted"] < table["nominal"]).all()


def test_later_models_and_their_intervals(draws):
    table = paper_prediction.later("imagenet1k", draws).set_index("model")
    assert table.loc["g/14, 34B", "miss"] == pytest.approx(-0.62, abs=0.02)
    assert table.loc["bigG/14, 39B, nominal", "miss"] == pytest.approx(-0.67, abs=0.01)
    assert (table["beyond"] > 1).all()
    assert (table["low"] <= table["mean_low"]).all()
    assert (table["mean_high"] <= table["high"]).all()
    assert table["predicted"].between(table["low"], table["high"]).all()


# -------------------------------------------------------------------------------------- hold-outs


@pytest.fixture(scope="module")
def holdouts():
    return {name: paper_prediction.holdout(name) for name in ("imagenet1k", "mscoco_captions")}


def test_no_form_sees_a_held_out_model(holdouts):
    for table in holdouts.values():
        assert table["n_train"].max() == 27
        assert set(table.groupby("form").size()) == {4}
        assert table["run"].nunique() == 4


@pytest.mark.parametrize(
    ("form", "imagenet", "coco"),
    [
        ("power, 5 bins (the paper)", 0.35, 0.64),
        ("power, Pareto set", 0.44, 0.63),
        ("saturating, Pareto set", 0.94, 0.76),
        ("size and samples, 400M and 2B", 0.35, 0.64),
        ("size, samples, repeated data", 0.27, 0.48),
    ],
)
def test_root_mean_squares_of_the_forms(holdouts, form, imagenet, coco):
    for name, expected in (("imagenet1k", imagenet), ("mscoco_captions", coco)):
        assert paper_prediction.rmse(holdouts[name])[form] == pytest.approx(expected, abs=0.015)


def test_the_law_of_small_models_meets_the_large_ones_of_the_study(holdouts):
    table = holdouts["imagenet1k"].query("form == 'power, 5 bins (the paper)'").set_index("run")
    assert table.loc["openclip/H-14/LAION-2B/34B", "predicted"] == pytest.approx(78.06, abs=0.01)
    assert table.loc["openclip/g-14/LAION-2B/13B", "predicted"] == pytest.approx(76.56, abs=0.01)


def test_top_out_predicts_the_frontier_above_each_cutoff():
    forms = {
        k: paper_prediction.FORMS[k] for k in ("power, Pareto set", "size and samples, 400M and 2B")
    }
    table = paper_prediction.top_out("imagenet1k", (3e11, 1.2e12), forms)
    assert (table["x"] > table["cutoff"]).all()
    runs = published.openclip_runs("imagenet1k").set_index("run_id")
    assert "LAION-80M" not in set(runs.loc[table["run"], "data"])
    same = table.groupby(["cutoff", "recipe"])["run"].apply(frozenset).unstack()
    assert (same.nunique(axis=1) == 1).all()


# --------------------------------------------------------------------- coverage, other data, far below


def test_coverage_counts_models_of_one_source_whose_compute_is_known():
    table = paper_prediction.coverage("imagenet1k")
    size = table.groupby("level")["inside"].sum()
    assert size.is_monotonic_increasing
    g = table[(table["model"] == "ViT-g-14") & (table["level"] == 0.95)]
    assert g["inside"].item()
    assert table["model"].nunique() < len(table)
    with pytest.raises(InputError, match="no comparable"):
        paper_prediction.single_models(("no data",))


def test_leave_one_out_holds_about_as_many_as_it_says():
    table = paper_prediction.leave_one_out("imagenet1k")
    assert len(table) == 20
    assert 0.8 <= table["inside"].mean() <= 1
    half = paper_prediction.leave_one_out("imagenet1k", level=0.5)
    assert half["inside"].sum() < table["inside"].sum()


def test_the_law_breaks_far_below_its_range():
    table = paper_prediction.elsewhere(("s", "m", "xl"), ("imagenet1k",))
    small = table[table["scale"].isin(["s", "m"])]
    assert (small["below"] > 15).all()
    assert (small["miss"] < -10).all()
    assert (table.query("pool == 'DataComp' and scale == 'xl'")["miss"] > 4).all()


def test_misses_on_other_data():
    table = paper_prediction.elsewhere(("xl",)).set_index(["pool", "arch", "dataset"])["miss"]
    assert table["DataComp", "ViT-L-14", "imagenet1k"] == pytest.approx(5.85, abs=0.01)
    assert table["CommonPool, CLIP score", "ViT-L-14", "mscoco_captions"] == pytest.approx(
        -2.05, abs=0.01
    )


# ---------------------------------------------------------------------------------------- figures


def test_figures_draw_every_model_and_form(draws, holdouts):
    later = {"imagenet1k": paper_prediction.later("imagenet1k", draws)}
    own = {"imagenet1k": paper_prediction.cell_misses("imagenet1k")}
    runs = published.openclip_runs("imagenet1k")
    law = paper_prediction.RECIPE.fit(runs)
    covered = paper_prediction.coverage("imagenet1k", (0.95,))
    pools = paper_prediction.elsewhere(("s", "xl"), ("imagenet1k",))
    drawn = [
        figures.extrapolation({"imagenet1k": runs}, {"imagenet1k": (law, draws)}, later),
        figures.later_dots(later, own),
        figures.forms(holdouts),
        figures.coverage(covered),
        figures.far_below(runs, law, pools),
    ]
    names = [tick.get_text() for tick in drawn[2].axes[0].get_yticklabels()]
    assert names == list(paper_prediction.FORMS)
    assert len(drawn[3].axes[0].get_yticks()) == len(covered)
    assert all(ax.get_xlabel() or ax is not fig.axes[-1] for fig in drawn for ax in fig.axes)
    for fig in drawn:
        plt.close(fig)


def test_tables_for_readers_have_a_row_for_each(draws, holdouts):
    later = {"imagenet1k": paper_prediction.later("imagenet1k", draws)}
    assert len(figures.later_table(later)) == 3
    assert len(figures.bigg_table(paper_prediction.bigg())) == len(paper_prediction.BIGG)
    order = list(paper_prediction.FORMS)
    assert figures.forms_table(holdouts, order)["form"].tolist() == order
    found = {"imagenet1k": paper_prediction.in_sample("imagenet1k")}
    assert np.all(figures.in_sample_table(found)["runs"] > 0)
