"""Retrieval: true exponents beside the notebook's, counts of items, levels, and the chapter's words."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cliplib import published
from cliplib.laws import fit
from cliplib.paper import retrieval as pr
from cliplib.paper import retrieval_figures as figures


@pytest.fixture(scope="module")
def runs():
    return pr.retrieval_runs()


@pytest.fixture(scope="module")
def found(runs):
    return pr.exponents(runs, n=200).set_index(["task", "family"])


def test_the_true_exponents_of_both_directions(found):
    expected = {
        ("mscoco_captions image", "OpenCLIP"): -0.0794,
        ("mscoco_captions image", "OpenAI"): -0.0508,
        ("mscoco_captions text", "OpenCLIP"): -0.1023,
        ("mscoco_captions text", "OpenAI"): -0.0767,
        ("flickr30k image", "OpenCLIP"): -0.1892,
        ("flickr30k image", "OpenAI"): -0.1028,
        ("flickr30k text", "OpenCLIP"): -0.3821,
        ("flickr30k text", "OpenAI"): -0.2705,
    }
    assert found["alpha"].round(4).to_dict() == expected
    assert ((found["low"] < found["alpha"]) & (found["alpha"] < found["high"])).all()


def test_the_notebooks_text_column_is_the_image_column(runs, found):
    slip = pr.as_in_the_notebook(runs)
    for dataset in pr.DATASETS:
        both = [slip.loc[slip["task"] == f"{dataset} {way}", "error"] for way in pr.METRICS]
        assert np.array_equal(*map(np.asarray, both))
        for family in pr.FAMILIES:
            image = found.loc[(f"{dataset} image", family)]
            text = found.loc[(f"{dataset} text", family)]
            assert image["notebook"] == image["alpha"] == text["notebook"] != text["alpha"]


def test_items_are_captions_in_one_direction_and_pictures_in_the_other(runs):
    table = pr.items(runs).set_index("task")
    assert list(table["items"]) == [25_010, 5_000, 5_000, 1_000]
    assert table.loc["flickr30k text", "wrong"] == 7
    assert table.loc["flickr30k image", "wrong"] == 295
    text = table[table["items"] == table["images"]]
    assert (text["low"] == text["low_images"]).all() and len(text) == 2
    assert (table["low_images"] <= table["low"]).all()
    assert table["share"].idxmax() == "flickr30k text"
    assert table["share"].max() < 1


def test_wilsons_interval_by_its_formula():
    low, high = pr.wilson(0.007, 1000)
    z, p, n = 1.959964, 0.007, 1000
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (low, high) == (
        pytest.approx(centre - half, abs=1e-6),
        pytest.approx(centre + half, abs=1e-6),
    )


def test_a_doubling_gains_less_than_two_pictures_on_flickr_text(runs):
    fits, _ = pr.laws_and_draws(runs, n=20)
    wrong = pr.items(runs).set_index("task").loc["flickr30k text", "wrong"]
    assert (1 - 2 ** fits["flickr30k text", "OpenCLIP"].params["alpha"]) * wrong < 2


def test_levels_match_like_runs_and_every_coco_pair_agrees(runs):
    table = pr.levels(runs)
    assert set(table["matched"]) == {6, 9}
    both = table[table["matched"] == 9].set_index("task")
    coco = both.loc["mscoco_captions image"]
    assert coco["percent"] == pytest.approx(19.4, abs=0.05)
    assert 10 < coco["low"] < coco["high"] < 30 and coco["p"] < 0.001
    assert coco["least"] > 1.1
    assert (both["slope_p"] > 0.05).all()
    alone = table[table["data"] == "LAION-400M"]
    assert int((alone["slope_p"] < 0.05).sum()) == 2


def test_openais_lines_are_flatter_in_all_four(found):
    openai, openclip = found["alpha"].xs("OpenAI", level=1), found["alpha"].xs("OpenCLIP", level=1)
    assert (openai > openclip).all()


def test_pairs_are_of_the_same_architecture(runs):
    one = runs[runs["task"] == "mscoco_captions image"]
    table = pr.pairs(one)
    assert len(table) == 6 and set(table["arch"]) == {"ViT-B-32", "ViT-B-16", "ViT-L-14"}
    by = one.set_index("run_id")["error"]
    expected = by["openai/L-14/WIT-400M/13B"] / by["openclip/L-14/LAION-2B/13B"]
    row = table[(table["arch"] == "ViT-L-14") & (table["data"] == "LAION-2B")]
    assert row["ratio"].item() == pytest.approx(expected)


def test_no_bend_by_compute_and_a_clear_one_by_data(runs):
    table = pr.local_exponents(runs)
    by = table.set_index(["task", "part"])["alpha"].unstack()
    assert (by["dearer half"] < by["cheaper half"]).all()
    assert (by["LAION-80M"] > by["LAION-400M"]).all()
    assert (by["LAION-400M"] > by["LAION-2B"]).all()
    assert (table.loc[table["split"] == "compute", "p"] > 0.5).all()
    assert (table.loc[table["split"] == "data", "p"] < 0.05).all()
    halves = table[table["split"] == "compute"]
    assert (halves.groupby("task")["n"].sum() == 20).all()


def test_later_models_stay_below_the_law_on_coco_by_more_than_its_own_bias(runs):
    table = pr.later(runs).set_index(["task", "model"])
    coco = table.loc["mscoco_captions image"]
    assert coco.loc["ViT-g-14", "miss"] == pytest.approx(-1.13, abs=0.02)
    assert coco.loc["ViT-bigG-14", "miss"] == pytest.approx(-1.03, abs=0.02)
    assert coco["own_miss"].iloc[0] == pytest.approx(-0.44, abs=0.01)
    assert (coco["miss"] < 2 * coco["own_miss"]).all()
    assert coco["plain"].to_dict() == {"ViT-g-14": 1, "ViT-bigG-14": 0}


def test_a_line_fitted_while_pairs_are_fresh_promises_too_much():
    coco = published.openclip_runs("mscoco_captions")
    miss = {}
    for data, table in coco.groupby("data"):
        largest = table["compute"].idxmax()
        rest = table.drop(index=largest)
        law = fit("power", rest["compute"], rest["error"])
        miss[data] = table.loc[largest, "error"] - law.predict([table.loc[largest, "compute"]])[0]
    assert miss["LAION-80M"] > miss["LAION-400M"] > 0.01 > abs(miss["LAION-2B"])


def test_figures_draw_every_task_and_tables_every_row(runs, found):
    fits, draws = pr.laws_and_draws(runs, n=50)
    levels, local = pr.levels(runs), pr.local_exponents(runs)
    fig = figures.panels(runs, fits, draws)
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == [name for *_, name in pr.TASKS.values()]
    spans = [np.divide(*ax.get_ylim()[::-1]) for ax in fig.axes]
    assert np.allclose(spans, spans[0])
    second, third = figures.levels_figure(levels, runs), figures.local_figure(local)
    assert len(third.axes) == 4
    for drawn in (fig, second, third):
        plt.close(drawn)
    assert len(figures.exponents_table(found.reset_index())) == 8
    assert len(figures.items_table(pr.items(runs))) == 4
    assert len(figures.levels_table(levels)) == 12
    assert len(figures.later_table(pr.later(runs))) == 8
