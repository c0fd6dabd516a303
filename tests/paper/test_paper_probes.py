"""The probes chapter: published coefficients returned, choices of a setting that keep their promises."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from cliplib import InputError, laws, published
from cliplib.figures import style
from cliplib.paper import probe_figures as paper_probe_figures
from cliplib.paper import probes as paper_probes

TASKS = paper_probes.TASKS


@pytest.fixture(scope="module")
def wide():
    return paper_probes.settings()


@pytest.fixture(scope="module")
def points(wide):
    return paper_probes.points(wide)


@pytest.fixture(autouse=True)
def plain_matplotlib():
    with mpl.rc_context():
        style()
        yield
    plt.close("all")


# -------------------------------------------------------------------------- what was published


def test_the_fourteen_coefficients_of_the_notebook(points):
    table = paper_probes.reproduced(points)
    assert len(table) == 14
    assert list(table["alpha"].round(4)) == list(table["printed"])
    assert table.groupby("family")["n"].unique().map(list).to_dict() == {
        "OpenAI": [3],
        "OpenCLIP": [8],
    }


@pytest.mark.parametrize(("dataset", "shots"), TASKS)
def test_the_published_tables_and_numpy_alone_give_the_same(points, dataset, shots):
    """From the published best of nine, one point for each architecture and data set."""
    tables = [published.linear_probe(), published.few_shot(), published.vtab_probe()]
    table = pd.concat(tables).astype({"shots": str}).merge(published.probe_models(), on="model_id")
    table = paper_probes.task(table, dataset, shots).sort_values("top1")
    table = table.drop_duplicates(["arch", "data"], keep="last")
    ours = paper_probes.task(paper_probes.exponents(points), dataset, shots)
    for family, place in (("OpenCLIP", 0), ("OpenAI", 1)):
        rows = table[table["family"] == family]
        slope = np.polyfit(np.log10(rows["gmacs_total"]), np.log10(1 - rows["top1"]), 1)[0]
        alpha = ours.set_index("family").loc[family, "alpha"]
        assert alpha == pytest.approx(slope, abs=1e-6)
        assert slope == pytest.approx(paper_probes.PRINTED[dataset, shots][place], abs=5.1e-5)


def test_the_hidden_point_is_in_the_fit_and_named(points):
    table = paper_probes.reproduced(points)
    full = paper_probes.task(table, "imagenet1k", "full").set_index("family")
    assert full.loc["OpenCLIP", "without_hidden"] == pytest.approx(-0.1231, abs=5e-5)
    assert table.query("family == 'OpenAI'")["without_hidden"].isna().all()
    roles = paper_probes.models().set_index("model_id")["role"]
    assert roles[paper_probes.HIDDEN] == "fitted, not drawn"
    assert (roles == "fitted and drawn").sum() == 10


def test_the_kept_b32_is_the_better_twin_on_every_task():
    grid = published.linear_probe_grid()
    twins = grid[grid["model_id"].isin([paper_probes.WEAKER_TWIN, "B-32/laion2b_s34b_b79k"])]
    best = twins.groupby(["dataset", "shots", "model_id"])["top1"].max().unstack()
    for name in ("imagenet1k", "cifar100"):
        rows = best.loc[name]
        assert (rows["B-32/laion2b_s34b_b79k"] >= rows[paper_probes.WEAKER_TWIN]).all()


@pytest.mark.parametrize("name", ["linear_probe", "few_shot", "vtab_probe"])
def test_the_best_of_nine_is_what_was_published(points, name):
    table = getattr(published, name)()
    table = table[table["model_id"] != paper_probes.WEAKER_TWIN].astype({"shots": str})
    keys = ["model_id", "dataset", "shots"]
    both = table.merge(points, on=keys, how="left", validate="1:1")
    assert np.allclose(1 - both["top1"], both["error"], atol=1e-7)


# -------------------------------------------------------------------------------- choosing a setting


def test_nine_settings_for_every_model_and_task(wide):
    assert wide.shape == (44 * 11, 9)
    assert wide.notna().all(axis=None)
    assert len(paper_probes.settings_of(wide, "imagenet1k", "full")) == 11
    assert list(paper_probes.openclip_compute()) == sorted(paper_probes.openclip_compute())


@pytest.mark.parametrize("how", [how for how in paper_probes.CHOICES if how != "luck removed"])
def test_every_choice_is_one_of_the_nine_and_none_beats_the_best(wide, how):
    chosen = paper_probes.choose(wide, how)
    assert (chosen >= wide.min(axis=1)).all()
    assert np.isclose(wide.to_numpy(), chosen.to_numpy()[:, None]).any(axis=1).all()


def test_one_setting_is_the_same_for_all_models_of_a_task(wide):
    chosen = paper_probes.choose(wide, "one setting")
    rows = paper_probes.settings_of(wide, "imagenet1k", "full")
    own = chosen.xs(("imagenet1k", "full"), level=("dataset", "shots"))
    assert sum(np.allclose(rows.iloc[:, i], own[rows.index]) for i in range(9)) == 1


def toy(errors):
    """Settings of two models on two tasks; errors: (dataset, model) -> nine values."""
    index = pd.MultiIndex.from_tuples(
        [(dataset, "10", model) for dataset, model in errors],
        names=["dataset", "shots", "model_id"],
    )
    columns = pd.MultiIndex.from_product([(1, 2, 3), (1, 2, 3)], names=["lr", "epochs"])
    return pd.DataFrame(list(errors.values()), index=index, columns=columns)


def good_at(*places):
    return [0.1 if i in places else 0.5 for i in range(9)]


def test_a_model_s_own_score_is_not_used_when_others_choose():
    table = toy({("x", "a"): good_at(0), ("x", "b"): good_at(4), ("x", "c"): good_at(4)})
    chosen = paper_probes.choose(table, "other models")
    assert chosen["x", "10", "a"] == 0.5
    moved = table.copy()
    moved.iloc[0] = good_at(8)
    assert paper_probes.choose(moved, "other models")["x", "10", "a"] == 0.5


def test_other_sets_choose_and_the_same_test_images_do_not():
    table = toy(
        {
            ("cifar100", "a"): good_at(0),
            ("vtab/cifar100", "a"): good_at(0),
            ("imagenet1k", "a"): good_at(5),
        }
    )
    chosen = paper_probes.choose(table, "other sets")
    assert chosen["cifar100", "10", "a"] == 0.5
    assert chosen["imagenet1k", "10", "a"] == 0.5
    both = toy({("x", "a"): good_at(0, 5), ("y", "a"): good_at(5), ("z", "a"): good_at(5)})
    assert (paper_probes.choose(both, "other sets") == 0.1).all()


def test_an_unknown_choice_is_refused(wide):
    with pytest.raises(InputError, match="unknown choice 'worst'; known: best, "):
        paper_probes.choose(wide, "worst")


def test_luck_is_that_of_the_lowest_of_nine_and_none_where_one_setting_stands_out():
    equal = toy({("imagenet1k", "a"): [0.2] * 9})
    sd = np.sqrt(0.2 * 0.8 / 50_000)
    luck = paper_probes.expected_luck(equal, draws=20_000).item()
    assert luck == pytest.approx(1.485 * sd, rel=0.02)  # mean of the largest of nine normals
    apart = toy({("imagenet1k", "a"): good_at(3)})
    assert abs(paper_probes.expected_luck(apart, draws=5_000).item()) < 0.05 * sd
    assert paper_probes.expected_luck(toy({("vtab/dtd", "a"): [0.2] * 9})).isna().all()


def test_luck_is_small_and_exponents_stay_where_they_are(wide):
    table = paper_probes.by_choice(wide).query("family == 'OpenCLIP'")
    alpha = table.pivot(index=["dataset", "shots"], columns="choice", values="alpha")
    assert len(alpha) == 7
    luck = table[table["choice"] == "luck removed"].set_index("dataset")["cost"]
    assert luck["imagenet1k"].between(0, 0.15).all()
    assert luck["cifar100"].between(0.1, 0.5).all()
    best = table[table["choice"] == "best"].set_index(["dataset", "shots"])
    half = ((best["high"] - best["low"]) / 2)[alpha.index]
    assert ((alpha["other models"] - alpha["best"]).abs() < 0.5 * half).all()
    assert alpha.loc[("imagenet1k", "full"), "other sets"] > -0.09


def test_the_setting_alone_moves_the_full_imagenet_exponent(wide):
    table = paper_probes.by_setting(wide, "imagenet1k", "full")
    assert len(table) == 9
    assert (table["n"] == 8).all()
    assert (table["alpha"].min(), table["alpha"].max()) == pytest.approx(
        (-0.1326, -0.0761), abs=5e-5
    )


# ------------------------------------------------------------------------- families, shots, VTAB


def test_contrasts_count_seven_tests_as_seven(points):
    table = paper_probes.family_contrasts(points)
    assert list(zip(table["dataset"], table["shots"])) == list(TASKS)
    assert (table["n"] == 11).all()
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(7 * table["p"].min())
    alpha = paper_probes.exponents(points).pivot(
        index=["dataset", "shots"], columns="family", values="alpha"
    )
    for row in table.itertuples():
        own = alpha.loc[(row.dataset, row.shots)]
        assert row.difference == pytest.approx(own["OpenAI"] - own["OpenCLIP"], abs=1e-9)


def test_like_for_like_keeps_models_with_about_as_many_samples(points):
    kept = paper_probes.like_for_like(points)
    samples = paper_probes.models().set_index("model_id")["samples_seen"]
    seen = samples[kept["model_id"].unique()]
    assert len(seen) == 7
    assert seen.max() / seen.min() < 1.02


def test_zero_shot_errors_are_those_of_the_same_checkpoints():
    found = paper_probes.zero_shot("imagenet1k")
    assert len(found) == 11
    assert found.notna().all()
    grid = published.errors("imagenet1k").set_index("run_id")["error"]
    assert found["H-14/laion2b_s32b_b79k"] == grid["openclip/H-14/LAION-2B/34B"]
    assert found["B-32/laion400m_e32"] == pytest.approx(1 - 0.62918, abs=1e-6)


def test_a_line_through_ratios_gives_the_difference_of_exponents(points):
    table = paper_probes.with_zero_shot(points)
    tasks = tuple((d, k) for d in paper_probes.TEST_IMAGES for k in ("0", "10", "25", "full"))
    alpha = paper_probes.exponents(table, tasks).set_index(["dataset", "family", "shots"])["alpha"]
    for row in paper_probes.shot_differences(table).itertuples():
        key = (row.dataset, row.family)
        expected = alpha[(*key, row.shots)] - alpha[(*key, row.reference)]
        assert row.alpha == pytest.approx(expected, abs=1e-9)
        assert row.low < row.alpha < row.high


def test_the_two_vtab_averages_share_eighteen_sets():
    table = paper_probes.vtab_definitions().set_index("model_id")
    vtab = published.errors("vtab").set_index("run_id")["error"]
    run = paper_probes.models().set_index("model_id")["matching_run_id"].dropna()
    for model, name in run.items():
        assert table.loc[model, "zero_shot"] == pytest.approx(vtab[name], abs=1e-9)
    gap = 100 * (table["zero_shot"] - table["probe"])
    assert gap.between(1.0, 2.0).all()


# ------------------------------------------------------------------------------------------ figures


def test_panels_hold_every_point_and_ring_the_hidden_one(points):
    fig = paper_probe_figures.probe_panels(points, paper_probes.exponents(points), TASKS[:6], 2)
    assert [ax.get_title(loc="left") for ax in fig.axes][:2] == [
        "ImageNet, 10-shot",
        "CIFAR-100, 10-shot",
    ]
    for ax in fig.axes:
        assert sum(len(c.get_offsets()) for c in ax.collections) == 11 + 1
    labels = {text.get_text() for text in fig.legends[0].get_texts()}
    assert "ringed: not drawn in the paper" in labels


def test_the_settings_figure_draws_nine_lines_and_the_best(wide):
    lines = {("imagenet1k", "full"): paper_probes.by_setting(wide, "imagenet1k", "full")}
    ax = paper_probe_figures.setting_lines(wide, lines).axes[0]
    dashed = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert len(dashed) == 9
    best = wide.loc[("imagenet1k", "full")].min(axis=1)[paper_probes.openclip_compute().index]
    assert np.allclose(ax.collections[0].get_offsets()[:, 1], best)


def test_tables_for_readers_cover_all_tasks(wide, points):
    choices = paper_probe_figures.choices_table(paper_probes.by_choice(wide))
    assert list(choices["task"]) == [paper_probe_figures.title(*key) for key in TASKS]
    assert choices.iloc[-1]["the same, less its expected luck"] == ""
    models = paper_probe_figures.models_table(paper_probes.models(), points)
    assert len(models) == 12
    assert (models["ImageNet error, full"] == "").sum() == 1
    assert laws.paper_law(published.errors("imagenet1k")).n == 5  # another recipe, five points
