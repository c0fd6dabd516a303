"""Slopes and levels of groups, tasks, joint claims and crossovers: published numbers and refusals."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliplib import InputError, published
from cliplib.laws import Recipe, frontier
from cliplib.laws.compare import compare_slopes
from cliplib.laws.crossover import crossover
from cliplib.laws.joint import mixed
from cliplib.laws.lines import lines
from cliplib.laws.tables import with_error
from cliplib.laws.tasks import tasks

ERRORS = {name: published.errors(name) for name in ("imagenet1k", "mscoco_captions")}
LARGE = {name: runs[runs["data"] != "LAION-80M"] for name, runs in ERRORS.items()}


def p_of(comparison, test="classical"):
    return float(comparison.tests.set_index("test").loc[test, "p"])


def papers_construction(runs):
    """Five bin minima of OpenCLIP beside OpenAI's three runs."""
    openclip = runs[runs["family"] == "OpenCLIP"]
    points = frontier(openclip["compute"], openclip["error"], "bins")
    bins = pd.DataFrame({"compute": points.C, "error": points.E, "family": "OpenCLIP"})
    return pd.concat([bins, runs.loc[runs["family"] == "OpenAI", bins.columns]])


def matched_13b(name, data=("LAION-400M", "LAION-2B")):
    runs = LARGE[name]
    return runs[(runs["samples_seen_label"] == "13B") & runs["data"].isin([*data, "WIT-400M"])]


# The numbers that the study rests on


@pytest.mark.parametrize(
    ("dataset", "bins", "all_20", "matched", "only_400m"),
    [("imagenet1k", 0.17, 0.045, 0.020, 0.10), ("mscoco_captions", 0.26, 0.22, 0.12, 0.20)],
)
def test_openai_against_openclip_by_four_constructions(dataset, bins, all_20, matched, only_400m):
    runs = LARGE[dataset]
    found = [
        compare_slopes(papers_construction(runs), "family", permutations=0),
        compare_slopes(runs, "family", permutations=0),
        compare_slopes(matched_13b(dataset), "family", match=["arch"], permutations=0),
        compare_slopes(
            matched_13b(dataset, ["LAION-400M"]), "family", match=["arch"], permutations=0
        ),
    ]
    expected = [bins, all_20, matched, only_400m]
    assert [p_of(each) for each in found] == pytest.approx(expected, abs=0.0051)
    assert [int(each.differences["dof"][0]) for each in found] == [4, 19, 5, 2]


def test_slopes_and_levels_at_matched_runs():
    imagenet = compare_slopes(matched_13b("imagenet1k"), "family", match=["arch"], permutations=0)
    slopes = imagenet.slopes.set_index("group")
    assert slopes.loc["OpenAI", "slope"] == pytest.approx(-0.164, abs=5e-4)
    assert slopes.loc["OpenCLIP", "slope"] == pytest.approx(-0.130, abs=5e-4)
    assert slopes.loc["OpenAI", ["low", "high"]].tolist() == pytest.approx(
        [-0.277, -0.050], abs=5e-4
    )
    coco = compare_slopes(matched_13b("mscoco_captions"), "family", match=["arch"], permutations=0)
    level = coco.levels.set_index("slopes").loc["common"]
    assert level["percent"] == pytest.approx(19, abs=0.5)
    assert level["p"] == pytest.approx(1e-4, rel=0.3)
    everything = compare_slopes(LARGE["mscoco_captions"], "family", permutations=0).levels
    assert everything["p"].max() == pytest.approx(1e-7, rel=0.1)


def test_equality_of_six_distributions_is_one_f_test():
    """Slopes by model size at about 12.8 billion samples, three architectures a distribution."""
    study = ERRORS["imagenet1k"].query("samples_seen_label == '13B' and data != 'LAION-80M'")
    later = published.later_models()
    tags = ["metaclip_400m", "metaclip_fullcc", "datacomp_xl_s13b_b90k"]
    later = later[later["pretrained_tag"].isin(tags)]
    later = later.assign(
        arch=later["model"].str.removesuffix("-quickgelu"), error=1 - later["in1k_top1"]
    )
    runs = pd.concat([study, later])
    runs = runs[runs["arch"].isin(["ViT-B-32", "ViT-B-16", "ViT-L-14"])]
    found = compare_slopes(runs, "data", x="gmacs_per_sample", permutations=0)
    row = found.tests.set_index("test").loc["classical"]
    assert row["statistic"] == "F" and (row["df1"], row["df2"]) == (5, 6)
    assert row["value"] == pytest.approx(3.9, abs=0.05) and row["p"] == pytest.approx(
        0.063, abs=5e-4
    )
    expected = {
        "WIT-400M": -0.164, "LAION-400M": -0.127, "LAION-2B": -0.133,
        "metaclip_400m": -0.149, "metaclip_fullcc": -0.179, "datacomp_xl": -0.160,
    }  # fmt: skip
    slopes = found.slopes.set_index("group")["slope"]
    assert slopes.to_dict() == pytest.approx(expected, abs=5.1e-4)


def test_hc3_is_refused_where_one_run_makes_the_line():
    refused = compare_slopes(LARGE["imagenet1k"], "family", permutations=0).tests.set_index("test")
    assert "refused: a run has leverage 0.89" in refused.loc["HC3", "note"]
    assert np.isnan(refused.loc["HC3", "p"])
    openclip = LARGE["imagenet1k"].query("family == 'OpenCLIP'")
    assert p_of(compare_slopes(openclip, "data", permutations=0), "HC3") < 1


# Against another library


@pytest.mark.parametrize("groups", [2, 3])
def test_tests_equal_statsmodels(groups):
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(groups)
    x = np.repeat(np.linspace(-4, 4, 24 // groups), groups) + rng.uniform(0, 0.3, 24)
    x += np.tile(np.arange(groups), 24 // groups) * 1.5  # groups at other x: levels need the slope
    runs = pd.DataFrame({"compute": np.exp(x), "g": list("abc"[:groups]) * (24 // groups)})
    runs["error"] = np.exp(-0.1 * np.log(runs["compute"]) + 0.1 * rng.normal(size=24))
    found = compare_slopes(runs, "g", permutations=0)
    table = runs.assign(x=np.log(runs["compute"]), y=np.log(runs["error"]))
    full, parallel = (smf.ols(f"y ~ x {sign} C(g)", table).fit() for sign in "*+")
    f = anova_lm(parallel, full)
    assert p_of(found) == pytest.approx(f["Pr(>F)"].iloc[1], rel=1e-9)
    robust = full.get_robustcov_results("HC3")
    wald = robust.f_test(np.eye(2 * groups)[-(groups - 1) :])
    assert p_of(found, "HC3") == pytest.approx(float(wald.pvalue), rel=1e-9)
    interval = full.conf_int().loc["x:C(g)[T.b]"]
    assert found.differences.loc[0, ["low", "high"]].tolist() == pytest.approx(interval.tolist())
    at_mean = table.assign(x=table["x"] - table["x"].mean())
    own = smf.ols("y ~ x * C(g)", at_mean).fit()
    for slopes, model in (("common", parallel), ("own", own)):
        level = found.levels[
            (found.levels["slopes"] == slopes) & (found.levels["group"] == "b")
        ].iloc[0]
        name = "C(g)[T.b]"
        expected = [model.params[name], *model.conf_int().loc[name]]
        assert np.log1p(level[["percent", "low", "high"]].to_numpy(float) / 100) == pytest.approx(
            expected
        )
        assert level["p"] == pytest.approx(model.pvalues[name])
    leverage = full.get_influence().hat_matrix_diag
    ours = lines(table["x"].to_numpy(), table["y"].to_numpy(), pd.factorize(table["g"])[0])
    assert ours.leverage == pytest.approx(leverage)


@settings(max_examples=25, deadline=None)
@given(unit=st.floats(1e-6, 1e6), factor=st.floats(1e-3, 0.999), seed=st.integers(0, 1000))
def test_units_and_order_change_nothing_but_names(unit, factor, seed):
    runs = LARGE["imagenet1k"]
    order = np.argsort(np.random.default_rng(seed).random(len(runs)))
    other = runs.iloc[order].assign(compute=lambda t: t["compute"] * unit)
    other = other.assign(error=other["error"] * factor)
    a, b = (compare_slopes(table, "family", permutations=0) for table in (runs, other))
    assert p_of(b) == pytest.approx(p_of(a), rel=1e-6)
    slopes = [each.slopes.set_index("group")["slope"].sort_index() for each in (a, b)]
    assert np.allclose(*slopes, atol=1e-9)


# Shuffles


def test_the_permutation_test_agrees_with_t_where_t_is_right_and_repeats_by_seed():
    runs = LARGE["imagenet1k"]
    one, again, other = (compare_slopes(runs, "family", seed=seed) for seed in (1, 1, 2))
    assert p_of(one, "permutation") == p_of(again, "permutation") != p_of(other, "permutation")
    assert p_of(one, "permutation") == pytest.approx(p_of(one), abs=0.015)
    none_as_extreme = crossing((-0.1, -0.5), noise=0.01)
    assert p_of(compare_slopes(none_as_extreme, "source", permutations=19), "permutation") == 1 / 20


def test_shuffling_residuals_rejects_equal_slopes_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    x = np.log(LARGE["imagenet1k"]["compute"].to_numpy())
    runs = LARGE["imagenet1k"][["compute", "family"]]
    shift = 0.3 * (runs["family"] == "OpenAI").to_numpy()
    for study in range(120):
        noise = rng.standard_t(3, len(x)) * 0.05
        table = runs.assign(error=np.exp(-0.1 * x + shift + noise))
        found = compare_slopes(table, "family", permutations=199, seed=study)
        hits += p_of(found, "permutation") <= 0.1
    assert 4 <= hits <= 22  # 10% of 120 is 12


def test_shuffling_labels_stays_within_cells_and_tests_the_level_too():
    runs = matched_13b("mscoco_captions")
    found = compare_slopes(runs, "family", match=["arch"], scheme="labels", permutations=2000)
    note = found.tests.set_index("test").loc["permutation", "note"]
    assert "within 3 cells, 27 of them distinct" in note and "level included" in note
    assert p_of(found, "permutation") == pytest.approx(1 / 27, abs=0.015)


def test_matching_keeps_the_cells_that_every_group_has():
    runs = LARGE["imagenet1k"]
    found = compare_slopes(runs, "family", match=["arch", "samples_seen_label"], permutations=0)
    assert found.n == 9 and "9 of 23 runs lie in cells that every group has" in found.notes
    assert found.slopes.set_index("group")["n"].to_dict() == {"OpenCLIP": 6, "OpenAI": 3}


def test_two_runs_a_group_have_a_slope_but_no_interval_of_their_own():
    runs = LARGE["imagenet1k"].query("family == 'OpenAI'")
    pair = pd.concat([runs.iloc[:2].assign(family="two"), LARGE["imagenet1k"]])
    found = compare_slopes(pair, "family", permutations=0)
    row = found.slopes.set_index("group").loc["two"]
    assert np.isfinite(row["slope"]) and np.isnan(row["low"]) and row["dof"] == 0
    assert any("two has 2 runs, so no interval of its own" in note for note in found.notes)
    assert json.loads(json.dumps(found.to_dict()))["slopes"][0]["low"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: compare_slopes(r, "size"), "no column size in the runs"),
        (lambda r: compare_slopes(r[r["family"] == "OpenAI"], "family"), "names 1 group"),
        (lambda r: compare_slopes(r, "run_id"), "group .* has 1 runs at one compute"),
        (lambda r: compare_slopes(r, "family", match=["data"]), "no combination of data"),
        (lambda r: compare_slopes(r, "family", scheme="all"), "unknown scheme 'all'"),
        (lambda r: compare_slopes(r.assign(error=0.0), "family"), "column error, row 0: 0 is not"),
        (
            lambda r: compare_slopes(pd.concat([r[:2].assign(g=1), r[2:4].assign(g=2)]), "g"),
            "4 runs in 2 groups leave no degree of freedom",
        ),
        (lambda r: compare_slopes(r.assign(family=None), "family"), "23 rows have no group"),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(LARGE["imagenet1k"])


# Tasks


@pytest.fixture(scope="module")
def all_tasks():
    names = [*published.downstream_datasets()["dataset"], "vtab", "vtab+", "imagenet_robustness"]
    table = pd.concat([published.errors(name).assign(task=name) for name in names])
    return table[table["data"] != "LAION-80M"]


@pytest.fixture(scope="module")
def matched_tasks(all_tasks):
    archs = ["ViT-B-32", "ViT-B-16", "ViT-L-14"]
    return all_tasks[(all_tasks["samples_seen_label"] == "13B") & all_tasks["arch"].isin(archs)]


def test_slopes_of_38_tasks(all_tasks):
    openclip = all_tasks[all_tasks["family"] == "OpenCLIP"]
    robust, classical = tasks(openclip, errors="HC3").slopes, tasks(openclip).slopes
    assert robust["verdict"].value_counts().to_dict() == {"falls": 29, "flat": 8, "rises": 1}
    assert classical["verdict"].value_counts().to_dict() == {"falls": 28, "flat": 9, "rises": 1}
    worse = robust[robust["verdict"] == "rises"].iloc[0]
    assert worse["task"] == "vtab/kitti_closest_vehicle_distance"
    assert worse["slope"] == pytest.approx(0.036, abs=5e-4)
    ordered = robust[["p", "p_bh", "p_holm"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= -1e-12).all()


def test_contrasts_of_38_tasks_under_both_adjustments(matched_tasks):
    table = tasks(matched_tasks, by="family", own_slopes=True).contrasts
    assert [
        int((table[name] < 0.05).sum()) for name in ("slope_p", "slope_p_bh", "slope_p_holm")
    ] == [9, 5, 3]
    named = {"imagenet-a", "imagenet-r", "imagenetv2", "objectnet", "country211"}
    assert set(table.loc[table["slope_p_bh"] < 0.05, "task"]) == named
    level = table[table["level_p_bh"] < 0.05]
    assert len(level) == 14 and int((level["level_percent"] < 0).sum()) == 8


def test_contrasts_have_one_sign_whatever_the_order_of_rows(matched_tasks):
    turned = matched_tasks.groupby("task", group_keys=False)[matched_tasks.columns].apply(
        lambda rows: rows[::-1] if rows["task"].iloc[0] == "gtsrb" else rows
    )
    a, b = (
        tasks(table, by="family").contrasts.set_index("task")["slope_difference"]
        for table in (matched_tasks, turned)
    )
    assert np.allclose(a, b[a.index])


def test_averages_are_left_out_unless_asked_for(all_tasks):
    openclip = all_tasks[all_tasks["family"] == "OpenCLIP"]
    assert len(tasks(openclip).slopes) == 38
    assert len(tasks(openclip, exclude=()).slopes) == 41
    assert "left out as averages: imagenet_robustness, vtab, vtab+" in tasks(openclip).notes[0]


@pytest.fixture(scope="module")
def joint(matched_tasks):
    return mixed(matched_tasks, "family")


def test_the_joint_claim_is_weaker_than_the_mixed_model_says(joint):
    rows = joint.estimates.set_index("method")
    assert rows["difference"].to_numpy() == pytest.approx(np.full(4, -0.0492), abs=1e-4)
    published_interval = rows.loc["mixed", ["low", "high"]].tolist()
    assert published_interval == pytest.approx([-0.072, -0.026], abs=6e-4)
    runs = rows.loc["runs"]
    assert runs["dof"] == 5 and (runs["low"], runs["high"]) == pytest.approx(
        (-0.1019, 0.0034), abs=1e-4
    )
    assert rows.loc["mixed", "p"] < 1e-4 < 0.05 < runs["p"]
    assert rows.loc["bootstrap", "low"] < rows.loc["mixed", "low"]
    assert any("too short" in note for note in joint.notes)


def test_residuals_of_tasks_correlate_over_runs(all_tasks):
    report = mixed(all_tasks, "family", n=50)
    assert report.correlation == pytest.approx(0.36, abs=0.01)
    assert report.first_component == pytest.approx(0.42, abs=0.005)


def test_a_mixed_model_that_fails_says_so_beside_the_others(matched_tasks, monkeypatch):
    def fails(self, **options):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr("statsmodels.regression.mixed_linear_model.MixedLM.fit", fails)
    report = mixed(matched_tasks, "family", n=20)
    rows = report.estimates.set_index("method")
    assert rows.loc["mixed", "note"].endswith("not fitted: Singular matrix")
    assert np.isfinite(rows.loc["runs", ["low", "high", "p"]].astype(float)).all()
    assert json.loads(json.dumps(report.to_dict()))["estimates"][0]["low"] is None


def test_the_mean_of_slopes_is_the_slope_of_the_mean(matched_tasks, joint):
    table = tasks(matched_tasks, by="family").contrasts
    assert joint.estimates["difference"][2] == pytest.approx(table["slope_difference"].mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[(t["task"] != "cars") | (t["family"] != "OpenAI")], "lacks task cars"),
        (lambda t: pd.concat([t, t[:1]]), "has task cars twice"),
        (lambda t: t.assign(family="one"), "has 1 groups; a contrast needs two"),
        (lambda t: t[t["task"] == "cars"], "needs two or more, got 1"),
    ],
)
def test_a_joint_claim_needs_every_task_of_every_run(matched_tasks, change, message):
    with pytest.raises(InputError, match=message):
        mixed(change(matched_tasks), "family", n=10)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"adjust": ["fdr"]}, "unknown adjustment 'fdr'; known: bh, holm"),
        ({"errors": "HC0"}, "unknown kind of standard error 'HC0'"),
        ({"by": "family", "errors": "HC3"}, "task cars: a run has leverage 0.89"),
        ({"by": "data"}, "task cars has 3 groups of data"),
        ({"task": "name"}, "no column name in the runs"),
    ],
)
def test_task_tables_that_cannot_be_made_are_refused(matched_tasks, ask, message):
    with pytest.raises(InputError, match=message):
        tasks(matched_tasks, **ask)


# Crossovers


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


# Long tables


def test_error_of_a_long_table_is_one_minus_the_metric_or_the_share_of_guessing():
    table = pd.DataFrame(
        {"metric": ["top1", "infonce"], "value": [0.2, 3.0], "chance": [0.05, 6.0]}
    )
    assert with_error(table)["error"].tolist() == [0.8, 0.5]
    assert with_error(table.drop(columns="metric")).equals(table.drop(columns="metric"))
