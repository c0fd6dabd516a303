"""The fine-tuning chapter: pairs that differ in one thing only, counts, and numbers read by hand."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.collections import PathCollection

from cliplib import published
from cliplib.figures import style
from cliplib.paper import finetune as paper_finetune
from cliplib.paper import finetune_figures as paper_finetune_figures

VIT, OPENAI, CONVNEXT = paper_finetune.FAMILIES
LARGE = "vit_large_patch14_clip_224.laion2b_ft_in12k_in1k"


@pytest.fixture(scope="module")
def towers():
    return paper_finetune.towers()


@pytest.fixture(autouse=True)
def plain_matplotlib():
    with mpl.rc_context():
        style()
        yield
    plt.close("all")


# ------------------------------------------------------------------------------------------ towers


def test_every_row_is_kept_and_errors_are_fractions(towers):
    assert len(towers) == 33
    assert towers["family"].value_counts().to_dict() == {VIT: 15, OPENAI: 9, CONVNEXT: 9}
    assert np.allclose(100 * (1 - towers["error"]), towers["in1k_top1"])
    four = towers[["inv2_top1", "ina_top1", "inr_top1", "sketch_top1"]].mean(axis=1)
    assert np.allclose(100 * (1 - towers["robust_error"]), four, atol=1e-3)


def test_pretraining_compute_is_that_of_the_paper_s_runs(towers):
    known = towers.set_index("model")["pretraining_compute"]
    runs = published.pretraining_runs().set_index("run_id")["gmacs_total_evaltable"]
    assert known[LARGE] == runs["openclip/L-14/LAION-2B/34B"]
    assert known["vit_base_patch32_clip_224.openai_ft_in1k"] == runs["openai/B-32/WIT-400M/13B"]
    assert towers.loc[towers["family"] == CONVNEXT, "pretraining_compute"].isna().all()
    assert towers.loc[towers["family"] != CONVNEXT, "pretraining_compute"].notna().all()


def test_a_line_by_numpy_alone_agrees(towers):
    found = paper_finetune.exponents(towers)
    row = found[(found["family"] == VIT) & (found["route"] == paper_finetune.ROUTES[0])].iloc[0]
    some = towers[(towers["family"] == VIT) & (towers["extra_ft_in12k"] == 0)]
    slope = np.polyfit(np.log(some["infer_gmacs"]), np.log(1 - some["in1k_top1"] / 100), 1)[0]
    assert row["alpha"] == pytest.approx(slope, rel=1e-9)
    assert row["n"] == 6
    assert row["low"] < row["alpha"] < row["high"] < 0
    assert found["n"].sum() == 33


def test_a_group_of_two_rows_gets_no_line(towers):
    at_224 = towers[(towers["img_px"] == 224) & (towers["family"] == OPENAI)]
    found = paper_finetune.exponents(at_224)
    assert list(found["route"]) == [paper_finetune.ROUTES[0]]


# -------------------------------------------------------------------------------------------- pairs


def test_pairs_of_routes_share_tower_pretraining_and_resolution(towers):
    step = paper_finetune.intermediate_step(towers)
    assert len(step) == 10
    assert step["family"].value_counts().to_dict() == {VIT: 6, OPENAI: 3, CONVNEXT: 1}
    for first, second in zip(step["model_first"], step["model"], strict=True):
        assert second == first.replace("ft_in1k", "ft_in12k_in1k")
    assert (step["gmacs_ratio"] == 1).all()


def test_the_large_tower_loses_on_renditions_and_drawings(towers):
    pair = paper_finetune.intermediate_step(towers).set_index("model").loc[LARGE]
    assert pair["inr_top1"] == pytest.approx(78.293 - 81.697)
    assert pair["sketch_top1"] == pytest.approx(62.062 - 64.827)
    assert pair["log_error_ratio"] == pytest.approx(np.log(12.1 / 12.712), abs=1e-9)


def test_the_mean_of_four_sets_hides_what_they_do(towers):
    step = paper_finetune.intermediate_step(towers)
    means = paper_finetune.mean_differences(step, cluster="body").set_index("metric")
    assert (means["n"] == 7).all()
    assert (means["pairs"] == 10).all()
    assert means.loc["in1k_top1", "low"] > 0
    assert means.loc["ina_top1", "low"] > 0
    assert means.loc["inr_top1", "high"] < 0
    assert means.loc["sketch_top1", "high"] < 0
    assert means.loc["robust4_mean", "low"] < 0 < means.loc["robust4_mean", "high"]


def test_pairs_that_share_a_tower_count_once():
    table = pd.DataFrame({"x": [1.0, 3.0, 5.0, 7.0], "body": list("aabc"), "recipe": "r"})
    free = paper_finetune.mean_differences(table, ["x"]).iloc[0]
    assert (free["n"], free["mean"], free["up"]) == (4, 4.0, 4)
    own = paper_finetune.mean_differences(table, ["x"], cluster="body").iloc[0]
    assert (own["n"], own["pairs"]) == (3, 4)
    assert own["mean"] == pytest.approx((2 + 5 + 7) / 3)
    half = 4.302653 * np.std([2, 5, 7], ddof=1) / np.sqrt(3)  # t, 2 degrees of freedom
    assert own["high"] - own["mean"] == pytest.approx(half, rel=1e-6)


def test_a_resolution_step_goes_to_the_next_one_of_the_same_tower(towers):
    steps = paper_finetune.resolution_step(towers)
    assert steps["model_first"].is_unique
    assert (steps["gmacs_ratio"] > 1).all()
    b32 = steps[steps["body"] == "vit_base_patch32"]
    assert sorted(zip(b32["from_px"], b32["to_px"], strict=True)) == [(224, 384), (384, 448)]
    recipe = [name.split(".")[1].split("_ft_")[0] for name in steps["model_first"]]
    assert recipe == list(steps["recipe"])


def test_sources_are_compared_at_one_size_resolution_and_route(towers):
    pairs = paper_finetune.source_step(towers)
    assert len(pairs) == 9
    for first, second in zip(pairs["model_first"], pairs["model"], strict=True):
        assert second == first.replace("openai", "laion2b")


# ------------------------------------------------------------------------ slides, stages, eight tasks


def test_slides_stand_beside_rows_of_their_size_and_route(towers):
    table = paper_finetune.slides(towers)
    assert len(table) == 8
    assert table["slide"].round(1).agg(["min", "max"]).tolist() == [82.6, 88.5]
    assert table["difference"].abs().max() < 0.3
    worst = table.loc[table["difference"].abs().idxmax()]
    assert (worst["scale"], worst["timm"]) == ("B/32", 85.398)


def test_before_and_after_are_the_same_models(towers):
    table = paper_finetune.before_and_after(towers)
    wide = table.pivot(index=["family", "scale"], columns="stage", values="error")
    assert len(wide) == 7
    assert (wide["zero-shot"] > wide["fine-tuned, ImageNet-1k only"]).all()
    compute = table.groupby(["family", "scale"])["compute"].nunique()
    assert (compute == 1).all()
    zero = published.errors("imagenet1k").set_index("run_id")["error"]
    assert wide.loc[(VIT, "H/14"), "zero-shot"] == zero["openclip/H-14/LAION-2B/34B"]


def test_the_eight_tasks_are_averaged_run_by_run():
    table = paper_finetune.eight_tasks()
    assert len(table) == 32
    scores = published.zero_shot().query("metric == 'top1'")
    own = scores[scores["run_id"] == table["run_id"].iloc[0]].set_index("dataset")["value"]
    mean = own[list(paper_finetune.EIGHT_TASKS)].mean()
    assert table["error"].iloc[0] == pytest.approx(1 - mean)


# ------------------------------------------------------------------------------- figures and tables


def test_figure_4_shows_every_row_in_both_panels(towers):
    fits = {y: paper_finetune.exponents(towers, y) for y in paper_finetune_figures.ERRORS}
    fig = paper_finetune_figures.figure4(towers, fits)
    for ax in fig.axes:
        assert sum(len(c.get_offsets()) for c in ax.collections) == 33
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert len(ax.lines) == 2
    assert "GMAC" in fig.axes[-1].get_xlabel()


def test_the_step_figure_shows_every_pair_on_every_set(towers):
    step = paper_finetune.intermediate_step(towers)
    means = paper_finetune.mean_differences(step, cluster="body")
    ax = paper_finetune_figures.step_dots(step, means).axes[0]
    marks = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert sum(len(c.get_offsets()) for c in marks) == 10 * len(paper_finetune.METRICS)


def test_the_settings_table_says_what_was_not_published():
    table = paper_finetune_figures.hparams_table(published.finetune_hparams())
    assert table.shape[1] == 6
    assert table.columns[1] == "base/32, 224 px, laion2b_ft_in1k"
    row = table.set_index("setting").loc["ema_decay"]
    assert (row == "not published").sum() == 2


def test_the_checkpoints_of_the_papers_page_are_found_and_two_end_at_imagenet_12k(towers):
    page = paper_finetune.paper_page(towers)
    unscored = page[page["in1k_top1"].isna()]["model"]
    assert len(page) == 9 and list(unscored.str.endswith("ft_in12k")) == [True, True]
    assert page["in1k_top1"].max() == pytest.approx(88.634)
