"""Slopes and levels of groups: published numbers, another library, shuffles, refusals."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliplib import InputError, published
from cliplib.laws import frontier
from cliplib.laws.compare import compare_slopes
from cliplib.laws.lines import lines
from cliplib.laws.tables import with_error

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
    apart = runs.assign(error=runs["error"].where(runs["family"] == "OpenCLIP", runs["compute"]))
    assert p_of(compare_slopes(apart, "family", permutations=19), "permutation") == 1 / 20


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


# Long tables


def test_error_of_a_long_table_is_one_minus_the_metric_or_the_share_of_guessing():
    table = pd.DataFrame(
        {"metric": ["top1", "infonce"], "value": [0.2, 3.0], "chance": [0.05, 6.0]}
    )
    assert with_error(table)["error"].tolist() == [0.8, 0.5]
    assert with_error(table.drop(columns="metric")).equals(table.drop(columns="metric"))
