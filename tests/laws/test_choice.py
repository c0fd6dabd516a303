"""Leave the largest runs out: published predictions, planted truth, and when not to rank."""

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError, published
from cliplib.laws import Recipe, frontier
from cliplib.laws.choice import leave_top_out, ranking, scores

C = np.geomspace(1e2, 1e6, 30)


def runs_of(law, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    error = law(C) * np.exp(noise * rng.normal(size=len(C)))
    names = [f"run {i}" for i in range(len(C))]
    return pd.DataFrame({"run_id": names, "compute": C, "error": error})


def with_later_models(dataset, column):
    """The 29 runs, and beside them g/14 and bigG/14 of the years after."""
    later = published.later_models()
    tags = ["laion2b_s34b_b88k", "laion2b_s39b_b160k"]
    chosen = later["pretrained_tag"].isin(tags) & later["model"].isin(["ViT-g-14", "ViT-bigG-14"])
    later = later[chosen]
    extra = later[["gmacs_per_sample", "samples_seen", "data"]].assign(
        run_id=later["model"], compute=later["gmacs_total"], error=1 - later[column]
    )
    return pd.concat([published.openclip_runs(dataset), extra], ignore_index=True)


@pytest.mark.parametrize(
    ("dataset", "column", "bins", "pareto"),
    [("imagenet1k", "in1k_top1", 0.36, 0.44), ("mscoco_captions", "coco_image_r5", 0.65, 0.64)],
)
def test_the_four_largest_models_from_the_27_smaller(dataset, column, bins, pareto):
    runs = with_later_models(dataset, column)
    recipes = [Recipe("power", "bins"), Recipe("power", "pareto")]
    table = leave_top_out(runs, recipes, [3.1e12])
    found = scores(table).set_index("recipe")
    assert found["n_train"].tolist() == [27, 27] and found["n"].tolist() == [4, 4]
    assert found.loc["power, bins", "rmse"] == pytest.approx(bins, abs=0.02)
    assert found.loc["power, pareto", "rmse"] == pytest.approx(pareto, abs=0.007)
    assert (ranking(table)["verdict"] == "n = 4: no ranking").all()
    assert ranking(table)["rank"].isna().all()


@pytest.mark.parametrize(
    ("dataset", "column", "saturating", "shifted", "sizes", "from_small"),
    [
        ("imagenet1k", "in1k_top1", 0.93, 0.93, 0.35, 0.55),
        ("mscoco_captions", "coco_image_r5", 0.76, 0.94, 0.64, 1.2),
    ],
)
def test_a_floor_does_not_predict_better_and_size_and_samples_apart_do(
    dataset, column, saturating, shifted, sizes, from_small
):
    runs = with_later_models(dataset, column)
    bent = [Recipe("saturating", "pareto"), Recipe("shifted", "pareto")]
    found = scores(leave_top_out(runs, bent, [3.1e12]))
    assert found["rmse"].tolist() == pytest.approx([saturating, shifted], abs=0.01)
    large = runs[runs["data"] != "LAION-80M"]
    apart = Recipe("nd_multiplicative", x=("gmacs_per_sample", "samples_seen"))
    found = scores(leave_top_out(large, [apart], [6e11, 3.1e12]))
    assert found["rmse"].tolist() == pytest.approx([from_small, sizes], abs=0.01)


def test_a_row_says_what_was_predicted_and_by_how_much_it_missed():
    runs = runs_of(lambda c: 2 * c**-0.2, noise=0.0)
    table = leave_top_out(runs, ["power"], [1e4, 1e5])
    assert list(table["cutoff"].unique()) == [1e4, 1e5]
    assert (table.groupby("cutoff")["run"].nunique() == [15, 8]).all()
    assert np.allclose(table["points"], 0, atol=1e-9) and np.allclose(table["ln"], 0, atol=1e-11)
    worse = runs.assign(error=runs["error"].where(C < 1e5, runs["error"] * 1.1))
    missed = leave_top_out(worse, ["power"], [9e4])
    assert np.allclose(missed["ln"], -np.log(1.1)) and (missed["points"] < 0).all()
    assert np.allclose(missed["points"], 100 * (missed["predicted"] - missed["actual"]))


def test_the_true_form_is_ranked_first_and_the_wrong_one_is_called_worse():
    runs = runs_of(lambda c: 0.95 * (1 + c / 1e3) ** -0.4, noise=0.005)
    curved = Recipe("curved", options={"chance": 0.05})
    table = leave_top_out(runs, {"straight": Recipe(), "bent": curved}, [1e4, 5e4])
    found = ranking(table)
    assert found["recipe"].tolist() == ["bent", "straight"] and found["rank"].tolist() == [1, 2]
    assert found["verdict"].tolist() == ["least error", "worse than the first"]
    assert found["n"].tolist() == [15, 15] and found["low"][1] > 0


def test_recipes_that_predict_alike_are_not_told_apart():
    runs = runs_of(lambda c: 2 * c**-0.2, noise=0.05, seed=4)
    found = ranking(leave_top_out(runs, [Recipe(), Recipe("power", "bins_own", nbins=8)], [1e5]))
    assert found["verdict"][1] == "not told apart from the first"
    assert found["low"][1] < 0 < found["high"][1]


def test_a_recipe_that_cannot_be_fitted_keeps_its_row_and_its_reason():
    runs = runs_of(lambda c: 2 * c**-0.2)
    table = leave_top_out(runs, [Recipe(), Recipe("power", "pareto")], [1.3 * C[1], 1e4])
    failed = table[table["reason"] != ""]
    assert set(failed["recipe"]) == {"power", "power, pareto"}
    assert "2 points are too few" in failed["reason"].iloc[0]
    assert failed["points"].isna().all() and (failed["n_train"] == 2).all()
    found = ranking(table)
    assert found["verdict"].str.startswith("not ranked: at cutoff").all()
    assert scores(table).groupby("recipe")["n"].sum().to_dict() == {
        "power": 15,
        "power, pareto": 15,
    }


def test_the_frontier_as_target_holds_only_runs_that_none_beats():
    runs = runs_of(lambda c: 2 * c**-0.2, noise=0.2, seed=1)
    table = leave_top_out(runs, ["power"], [1e4], target="frontier")
    points = frontier(runs["compute"], runs["error"], "pareto")
    wanted = [f"run {i}" for i in sorted(points.index) if C[i] > 1e4]
    assert sorted(table["run"], key=lambda name: int(name[4:])) == wanted
    assert len(wanted) < 15
    every = leave_top_out(runs, ["power"], [1e4])
    assert scores(table)["bias"][0] > scores(every)["bias"][0]


def test_the_order_of_runs_changes_nothing():
    runs = runs_of(lambda c: 2 * c**-0.2, noise=0.1)
    recipes = [Recipe(), Recipe("power", "bins")]
    a = scores(leave_top_out(runs, recipes, [1e4]))
    b = scores(leave_top_out(runs.sample(frac=1, random_state=3), recipes, [1e4]))
    pd.testing.assert_frame_equal(a, b)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"cutoffs": [1e6]}, "cutoff 1e[+]06: no run has more compute"),
        ({"cutoffs": [1e4], "target": "best"}, "unknown target 'best'; known: runs, frontier"),
        ({"cutoffs": [1e4], "x": "size"}, "no column size in the runs"),
        ({"cutoffs": [1e4], "recipes": ["power", "power"]}, "two recipes are called 'power'"),
        ({"cutoffs": [1e4], "recipes": []}, "no recipe to choose from"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(ask, message):
    runs = runs_of(lambda c: 2 * c**-0.2)
    with pytest.raises(InputError, match=message):
        leave_top_out(runs, ask.pop("recipes", ["power"]), **ask)
