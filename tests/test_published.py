"""The published tables: whole, sourced, and giving the paper's own numbers back."""

import inspect

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError, published
from cliplib.laws import (
    HOW,
    Recipe,
    bootstrap,
    compare_alphas,
    fit_paper,
    frontier,
    mean_absolute_error,
    paper_law,
    predictions,
    t_interval,
)

TABLES = sorted(path.stem for path in published.FOLDER.glob("*.csv"))


def test_one_function_for_every_table_and_the_other_way_round():
    public = {
        name
        for name, value in vars(published).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert public - {"errors", "openclip_runs", "credit"} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_names_a_known_source(name):
    table = getattr(published, name)()
    known = set(published.sources()["source"])
    assert len(table) > 0
    assert {part for cell in table["source"] for part in cell.split("+")} <= known


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_lists_every_table_with_its_number_of_rows(name):
    readme = (published.FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"`{name}.csv`" in readme
    if name not in ("sources", "linear_probe", "few_shot", "vtab_probe"):
        (line,) = [row for row in readme.splitlines() if row.startswith(f"| `{name}.csv`")]
        assert f"| {len(getattr(published, name)()):,} |" in line


def test_no_unconfirmed_value_is_published():
    later = published.later_models()
    unknown = later["samples_seen_source"].isin(["not confirmed", "not documented"])
    assert later.loc[unknown, ["samples_seen", "gmacs_total"]].isna().all(axis=None)
    assert (later.loc[unknown, "compute_comparable"] == 0).all()
    assert later.loc[~unknown, "samples_seen"].notna().all()
    for path in published.FOLDER.glob("*.csv"):
        assert "UNCONFIRMED" not in path.read_text(encoding="utf-8").upper()


def test_metrics_are_fractions_and_compute_is_macs_times_samples():
    assert published.zero_shot()["value"].between(0, 1).all()
    runs = published.pretraining_runs()
    expected = runs["gmacs_per_sample"] * runs["samples_seen_evaltable"]
    assert np.allclose(runs["gmacs_total_evaltable"], expected, rtol=1e-9)
    assert runs["run_id"].is_unique
    assert runs["family"].value_counts().to_dict() == {"OpenCLIP": 29, "OpenAI": 3}


@pytest.mark.parametrize("dataset", published.FIGURE1_DATASETS)
def test_figure1_is_the_join_of_runs_and_scores(dataset):
    flat = published.figure1().query("dataset == @dataset").reset_index(drop=True)
    joined = published.errors(dataset)
    assert list(flat["run_id"]) == list(joined["run_id"])
    assert np.allclose(flat["compute"], joined["compute"], rtol=1e-12)
    assert np.allclose(flat["error"], joined["error"], atol=1e-9)


def test_averages_are_the_means_of_their_parts():
    scores = published.zero_shot().query("metric == 'top1'")
    wide = scores.pivot(index="run_id", columns="dataset", values="value")
    sets = published.downstream_datasets().set_index("dataset")
    for column, average in {
        "in_robustness5": "imagenet_robustness",
        "in_vtab_plus35": "vtab+",
    }.items():
        parts = list(sets.index[sets[column] == 1])
        assert np.allclose(wide[parts].mean(axis=1), wide[average], atol=1e-8)


def test_errors_takes_the_metric_that_the_paper_fits_and_refuses_others():
    coco = published.errors("mscoco_captions")
    text = published.errors("mscoco_captions", "text_retrieval_recall_at_5")
    assert len(coco) == 32 and not np.allclose(coco["error"], text["error"])
    assert len(published.openclip_runs("imagenet1k")) == 29
    with pytest.raises(InputError, match="unknown data set 'imagenet'"):
        published.errors("imagenet")
    with pytest.raises(InputError, match="no metric 'top1' for flickr30k; published: image_"):
        published.errors("flickr30k", "top1")


def test_a_missing_table_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    with pytest.raises(
        InputError, match=r"pretraining_runs\.csv is missing: run from a full clone"
    ):
        published.pretraining_runs()


def test_a_credit_names_who_where_and_under_what_licence():
    line = published.credit("clip-benchmark")
    assert "Mehdi Cherti" in line and "commit 48de38c" in line and "(MIT)" in line
    with pytest.raises(InputError, match="unknown source 'clip'; known: scaling-laws-openclip"):
        published.credit("clip")


def test_the_eight_printed_exponents():
    table = compare_alphas(published.paper_alphas(), fit_paper(published.figure1()))
    assert len(table) == 8
    assert list(table["ours"].round(2)) == list(table["printed"])
    assert (table["difference"].abs() <= 0.005).all()


@pytest.mark.parametrize("family", ["OpenCLIP", "OpenAI"])
def test_exponents_and_factors_agree_with_the_independent_recomputation(family):
    fits = fit_paper(published.figure1()).query("family == @family").set_index("dataset")
    stored = published.paper_alphas().set_index("dataset").loc[fits.index]
    assert np.allclose(fits["alpha"], stored[f"alpha_{family.lower()}_recomputed"], atol=1e-6)
    assert np.allclose(fits["beta"], stored[f"beta_{family.lower()}_recomputed"], atol=1e-5)


def _gmacs() -> dict[str, float]:
    used = published.architectures().query("used_in_predictions == 1")
    return dict(zip(used["arch"], used["gmacs_per_sample"], strict=True))


def test_the_predictions_table():
    stored = published.paper_predictions()
    ours = pd.concat(
        predictions(published.errors(name), _gmacs()).assign(dataset=name)
        for name in stored["dataset"].unique()
    )
    table = stored.merge(ours, on=["dataset", "arch", "samples_label"], validate="1:1")
    assert len(table) == len(stored)
    assert np.allclose(table["pct"], table["recomputed_pct"], atol=1e-6)
    # 75.10 for H/14 on COCO is a slip of the paper: its own gain of 1.60 gives 75.03
    slip = (table["arch"] == "ViT-H-14") & (table["dataset"] == "mscoco_captions")
    assert (table.loc[~slip, "pct"] - table.loc[~slip, "paper_pct"]).abs().max() < 0.01
    assert table.loc[slip, "pct"].item() == pytest.approx(75.03, abs=0.005)


@pytest.mark.parametrize(
    ("dataset", "expected"), [("imagenet1k", 0.8743712), ("mscoco_captions", 0.5884336)]
)
def test_the_two_mean_absolute_errors(dataset, expected):
    assert mean_absolute_error(published.errors(dataset)) == pytest.approx(expected, abs=1e-6)
    stored = published.paper_errors().set_index("dataset")
    assert stored.loc[dataset, "mae_points"] == expected


# What the chapter on Figure 1 says in words


@pytest.mark.parametrize("dataset", published.FIGURE1_DATASETS)
def test_no_openai_interval_excludes_openclips_exponent(dataset):
    runs = published.errors(dataset)
    low, high, *_ = t_interval(paper_law(runs, "OpenAI"))["alpha"]
    assert low < paper_law(runs).params["alpha"] < high


@pytest.mark.parametrize("dataset", published.FIGURE1_DATASETS)
def test_openais_line_is_steeper_in_classification_and_flatter_in_retrieval(dataset):
    runs = published.errors(dataset)
    steeper = paper_law(runs, "OpenAI").params["alpha"] < paper_law(runs).params["alpha"]
    assert steeper == dataset.startswith("imagenet")


@pytest.mark.parametrize("dataset", ["mscoco_captions", "flickr30k"])
def test_openai_makes_more_retrieval_errors_than_like_runs_on_the_larger_laion_sets(dataset):
    runs = published.errors(dataset)
    larger = runs[runs["data"].isin(["LAION-400M", "LAION-2B"])]
    for _, model in runs[runs["family"] == "OpenAI"].iterrows():
        like = larger[(larger["compute"] / model["compute"]).between(1 / 1.2, 1.2)]
        assert len(like) >= 2 and (like["error"] < model["error"]).all()


def test_every_frontier_agrees_in_sign_and_stays_inside_the_interval_on_imagenet():
    imagenet = published.openclip_runs("imagenet1k")
    low, high, *_ = bootstrap(Recipe("power", "bins"), imagenet, n=300).ci()["alpha"]
    for how in HOW:
        assert low < Recipe("power", how)(imagenet)["alpha"] < high < 0


def test_the_cheapest_run_sets_no_minimum_and_still_moves_the_exponent_most():
    imagenet = published.openclip_runs("imagenet1k")
    recipe = Recipe("power", "bins")
    runs = imagenet["run_id"]
    moved = [
        abs(recipe(imagenet[runs != run])["alpha"] - recipe(imagenet)["alpha"]) for run in runs
    ]
    cheapest = int(np.argmin(imagenet["compute"]))
    assert int(np.argmax(moved)) == cheapest
    assert cheapest not in frontier(imagenet["compute"], imagenet["error"]).index
