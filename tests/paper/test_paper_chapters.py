"""The chapters on the question, the bill and the learning curves: what they compute and draw."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.text import Text

from cliplib import InputError, figures, ladder, laws, published
from cliplib.paper import bill as paper_bill
from cliplib.paper import curves as paper_curves
from cliplib.paper import grid as paper_grid
from cliplib.paper import spikes as paper_spikes


@pytest.fixture(scope="module")
def runs():
    return published.errors("imagenet1k")


@pytest.fixture(scope="module")
def openclip():
    return published.openclip_runs("imagenet1k")


@pytest.fixture(scope="module")
def settings():
    return published.pretraining_runs().query("family == 'OpenCLIP'")


@pytest.fixture(scope="module")
def architectures():
    return published.architectures()


@pytest.fixture(scope="module")
def curves(settings):
    return paper_curves.curves(published.learning_curves(), settings)


# ------------------------------------------------------------------------------------ the grid


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("ViT-B-32", "B/32"),
        ("ViT-B-16-plus-240", "B/16-plus-240"),
        ("LAION-400M", "400M"),
        ("openclip/g-14/LAION-2B/13B", "g/14 2B 13B"),
        ("RN50", "RN50"),
    ],
)
def test_names_are_short(name, printed):
    assert paper_grid.short(name) == printed


def test_the_grid_has_a_tile_a_model_with_its_error_and_stronger_is_better(runs):
    fig = paper_grid.grid(runs)
    tiles = [tile for ax in fig.axes for tile in ax.patches]
    assert len(tiles) == len(runs) == 32
    printed = [t.get_text() for ax in fig.axes for t in ax.texts if t.get_text() != "–"]
    assert sorted(printed) == sorted(f"{100 * error:.1f}" for error in runs["error"])
    shades = sorted((tile.get_alpha() for tile in tiles), reverse=True)
    assert len(set(shades)) == len(runs)
    best = fig.axes[2].patches[[t.get_alpha() for t in fig.axes[2].patches].index(shades[0])]
    assert best.get_y() == pytest.approx(paper_grid.ARCHS.index("ViT-H-14") - 0.47)
    plt.close(fig)


def test_the_table_of_the_grid_is_in_the_order_of_the_picture(runs):
    table = paper_grid.grid_table(runs.sample(frac=1, random_state=0))
    assert len(table) == 32
    assert list(table["data set"].unique()) == list(paper_grid.DATA)
    assert list(table["samples label"].head(3)) == ["3B", "13B", "34B"]


def planted_grid(archs=paper_grid.ARCHS[:3], size=0.9, length=0.8, data=0.7):
    """A full grid whose errors are a product of one factor a step along each axis."""
    rows = [
        (a, s, d, 10.0 ** (i + j), 0.5 * size**i * length**j * data**k)
        for i, a in enumerate(archs)
        for j, s in enumerate(paper_grid.LABELS)
        for k, d in enumerate(paper_grid.DATA[:3])
    ]
    return pd.DataFrame(rows, columns=["arch", "samples_seen_label", "data", "compute", "error"])


def test_a_step_gives_back_the_factor_planted_in_it():
    steps = paper_grid.steps(planted_grid())
    assert set(steps["pairs"]) == {9}
    expected = {"arch": 0.9, "samples_seen_label": 0.8, "data": 0.7}
    for row in steps.itertuples():
        assert row.error_ratio == pytest.approx(expected[row.axis])
        assert (row.low, row.high) == pytest.approx((row.error_ratio, row.error_ratio))
        assert row.compute_ratio == pytest.approx(1 if row.axis == "data" else 10)


def test_one_pair_has_no_interval():
    grid = planted_grid(archs=paper_grid.ARCHS[:2]).query("arch == 'ViT-B-32' or error > 0.4")
    first = paper_grid.steps(grid).iloc[0]
    assert (first["axis"], first["pairs"]) == ("arch", 1)
    assert np.isnan(first["low"])
    assert paper_grid.steps_table(paper_grid.steps(grid))["95% interval"].iloc[0] == "one pair"


def test_the_published_steps(openclip):
    steps = paper_grid.steps(openclip).set_index(["axis", "before"])
    assert steps.loc[("data", "LAION-80M"), "high"] < 1
    second = steps.loc[("data", "LAION-400M")]
    assert second["low"] < 1 < second["high"]
    assert steps["pairs"].to_list() == [9, 9, 1, 9, 9, 9, 9]


def test_the_published_steps_by_hand(openclip):
    errors = openclip.set_index(["arch", "data", "samples_seen_label"])["error"]
    ratio = errors["ViT-B-16"] / errors["ViT-B-32"]
    first = paper_grid.steps(openclip).iloc[0]
    assert first["error_ratio"] == pytest.approx(np.exp(np.log(ratio).mean()))
    assert (first["lowest"], first["highest"]) == pytest.approx((ratio.min(), ratio.max()))


def test_each_decade_multiplies_the_error_by_the_same_factor(runs):
    law = laws.paper_law(runs)
    stairs = paper_grid.decades(law, 1e10, n=4)
    assert np.isnan(stairs["ratio"].iloc[0])
    assert stairs["ratio"].iloc[1:].to_numpy() == pytest.approx(10 ** law.params["alpha"])


def test_two_runs_of_the_same_compute_have_no_slope():
    run = pd.Series({"compute": 1e10, "error": 0.4})
    with pytest.raises(InputError, match="same compute"):
        paper_grid.exponent_between(run, run)


# ------------------------------------------------------------------------- the ladder, the bill


def test_every_published_count_follows_from_the_formula_within_rounding(architectures):
    compared = paper_bill.compare(architectures)
    assert len(compared) == 28 * 6
    assert compared["difference"].abs().max() <= paper_bill.ROUNDING + 1e-5


def test_a_slip_of_the_pen_in_a_published_count_is_found(architectures):
    slipped = architectures.copy()
    slipped.loc[slipped["arch"] == "ViT-L-14", "text_gmacs"] += 0.1
    worst = paper_bill.largest_differences(paper_bill.compare(slipped)).set_index("quantity")
    assert worst.loc["text tower, GMAC", "largest difference at"] == "L/14"
    assert float(worst.loc["text tower, GMAC", "difference"]) == pytest.approx(-0.1, abs=0.006)


def test_the_ladder_table_shows_print_and_formula_of_every_architecture(architectures):
    table = paper_bill.ladder_table(architectures)
    assert len(table) == 28
    assert table.columns.name is None
    row = table.set_index("model").loc["H/14"]
    assert row["both towers, GMAC"] == "190.97 / 190.97"


def test_openclips_profile_is_our_count_without_norms(architectures):
    listed = architectures.dropna(subset=["openclip_gflops", "patch_px"])
    assert len(listed) >= 20
    for row in listed.itertuples():
        without = 2 * (ladder.gmacs(row.arch) - paper_bill.norm_gmacs(row.arch))
        assert without == pytest.approx(row.openclip_gflops, abs=paper_bill.ROUNDING + 1e-6)


def test_attention_by_hand():
    image, text = 2 * 12 * 50**2 * 768, 2 * 12 * 77**2 * 512
    assert paper_bill.attention_gmacs("ViT-B-32") == pytest.approx((image + text) / 1e9)
    with pytest.raises(InputError, match="RN50"):
        paper_bill.attention_gmacs("RN50")


def test_a_constant_factor_moves_beta_and_leaves_the_exponent(openclip):
    table = paper_bill.conventions(openclip).set_index("convention")
    paper = table.iloc[0]
    assert paper["alpha"] == pytest.approx(-0.11138, abs=1e-4)
    for name, factor in (("FLOPs, forward", 2), ("FLOPs, forward and backward", 6)):
        row = table.loc[name]
        assert (row["factor_low"], row["factor_high"]) == pytest.approx((factor, factor))
        assert row["alpha"] == pytest.approx(paper["alpha"], rel=1e-9)
        assert row["alpha_all"] == pytest.approx(paper["alpha_all"], rel=1e-9)
        assert row["beta"] == pytest.approx(paper["beta"] * factor ** -paper["alpha"], rel=1e-9)
        assert row["dearest"] == pytest.approx(factor * paper["dearest"])


def test_every_convention_stays_inside_the_interval_of_the_paper_s_exponent(openclip):
    table = paper_bill.conventions(openclip)
    span = laws.bootstrap(laws.Recipe("power", "bins"), openclip, n=500, seed=0).ci()["alpha"]
    assert table[["alpha", "alpha_all"]].to_numpy().min() > span.low
    assert table[["alpha", "alpha_all"]].to_numpy().max() < span.high


def test_the_bill_of_the_paper(settings):
    bill = paper_bill.cost(settings)
    assert round(bill["gpu_hours"].sum()) == 1_058_318
    assert round(bill["mwh"].sum(), 2) == 370.41
    printed = settings.set_index("run_id").loc[bill["run_id"]]
    assert np.allclose(bill["hours"], printed["hours"], atol=6e-4)
    assert np.allclose(bill["gpu_hours"], printed["gpu_hours"], atol=6e-3)
    assert np.allclose(bill["mwh"], printed["energy_mwh_at_350w"], atol=6e-5)
    assert np.allclose(bill["tflops"], printed["train_tflops_per_gpu"], atol=6e-3)


def test_the_bill_runs_up_from_the_cheapest(settings):
    bill = paper_bill.cost(settings)
    assert bill["gpu_hours"].is_monotonic_increasing
    assert bill["running"].iloc[-1] == pytest.approx(1)
    assert bill["running"].iloc[13] < 0.07
    assert paper_bill.cost(settings, watts=700)["mwh"].sum() == pytest.approx(2 * bill["mwh"].sum())


def test_the_bill_by_architecture_adds_up(settings):
    table = paper_bill.bill_table(paper_bill.cost(settings))
    assert list(table["model"]) == ["B/32", "B/16", "L/14", "H/14", "g/14", "all"]
    assert table["runs"].iloc[:-1].sum() == table["runs"].iloc[-1] == 29
    assert table["GPU hours"].iloc[-1] == "1,058,318"


def test_the_throughputs_that_were_copied(settings):
    copied = paper_bill.copied_rates(settings)
    assert len(copied) == 3
    assert set(copied["arch"]) == {"ViT-B-32"}
    distinct = settings.drop_duplicates("samples_per_s")
    assert paper_bill.copied_rates(distinct).empty


def test_throughput_differs_within_an_architecture(settings):
    pace = paper_bill.speeds(settings).set_index("arch")
    assert pace.loc["ViT-B-32", "factor"] == pytest.approx(3.73, abs=0.01)
    assert pace.loc["ViT-L-14", "factor"] == pytest.approx(2.68, abs=0.01)
    bill = paper_bill.cost(settings)
    assert bill.sort_values("tflops")["run_id"].iloc[-1] == "openclip/L-14/LAION-80M/13B"


def test_repricing_changes_nothing_where_all_went_alike(settings):
    alike = settings.assign(samples_per_s_per_gpu=100.0, samples_per_s=100.0 * settings["gpus"])
    total = paper_bill.cost(alike)["gpu_hours"].sum()
    assert paper_bill.repriced(alike, "median") == pytest.approx(total)
    assert paper_bill.repriced(settings, "max") < paper_bill.repriced(settings, "median")


# ------------------------------------------------------------------------------------- curves


def planted(run="a", accuracy=(0.1, 0.2, 0.3), epochs=None, **changes):
    """The curve of one run with a point an epoch of 100 samples."""
    epochs = epochs or len(accuracy)
    table = pd.DataFrame({"run_id": run, "epoch": range(1, len(accuracy) + 1), "top1": accuracy})
    run_settings = {"arch": "ViT-B-32", "data": "LAION-2B", "samples_seen_label": "3B", "lr": 1e-3}
    run_settings |= {"warmup_steps": 1, "global_batch": 10, "gmacs_per_sample": 2.0}
    run_settings |= {"virtual_epochs": epochs, "virtual_epoch_samples": 100}
    run_settings |= {"samples_seen_training": 100 * epochs}
    runs = pd.DataFrame([{"run_id": run} | run_settings | changes])
    samples = table["epoch"] * runs["virtual_epoch_samples"].iloc[0]
    return paper_curves.curves(table.assign(samples_seen=samples), runs)


def test_the_points_that_were_released(curves):
    assert len(curves) == 3359
    assert curves["run_id"].nunique() == 29
    assert curves.groupby("run_id")["samples_seen"].is_monotonic_increasing.all()
    assert curves["progress"].between(0, 1 + 1e-9).all()
    assert curves["fall"].isna().sum() == 29


def test_the_points_that_are_missing(curves):
    missing = paper_curves.missing_points(curves).set_index("run_id")
    assert missing["missing"].to_dict() == {
        "openclip/B-32/LAION-2B/34B": 1,
        "openclip/H-14/LAION-2B/34B": 6,
        "openclip/L-14/LAION-2B/34B": 27,
        "openclip/g-14/LAION-2B/13B": 2,
    }
    assert missing.loc["openclip/H-14/LAION-2B/34B", "which"] == "14, 36, 47, 78, 120-121"


def test_a_planted_hole_is_named():
    curve = planted(accuracy=np.linspace(0.1, 0.5, 9))
    holed = curve[~curve["epoch"].isin([3, 4, 7])]
    assert paper_curves.missing_points(holed)["which"].to_list() == ["3-4, 7"]
    assert paper_curves.missing_points(curve).empty


def test_curves_end_at_the_published_scores(curves, openclip):
    ends = paper_curves.finished(curves).set_index("run_id")
    assert (ends["progress"] == 1).all()
    published_error = openclip.set_index("run_id")["error"]
    assert (ends["error"] - published_error).abs().max() < 0.0013


def two_lengths(ratio):
    """A short run that ends at 0.4, and a longer one that is worse by `ratio` at that point."""
    short = planted("s", [0.3, 0.6], samples_seen_label="3B")
    halfway = 1 - 0.4 * ratio
    # epochs of 150: the short run's end, at 200, falls between two points of the long one
    long = planted(
        "l", [halfway - 0.01, halfway + 0.02, 0.8], samples_seen_label="13B",
        virtual_epoch_samples=150, samples_seen_training=450,
    )  # fmt: skip
    return pd.concat([short, long], ignore_index=True)


def test_an_unfinished_run_is_read_at_the_samples_of_the_finished_one():
    (pair,) = paper_curves.on_the_way(two_lengths(1.25)).itertuples()
    assert (pair.short, pair.long, pair.samples_seen) == ("3B", "13B", 200)
    assert pair.finished == pytest.approx(0.4)
    assert pair.ratio == pytest.approx(1.25)
    assert pair.same_recipe


def test_a_pair_with_another_recipe_is_marked():
    table = two_lengths(1.25)
    table.loc[table["run_id"] == "l", "global_batch"] = 30
    assert not paper_curves.on_the_way(table)["same_recipe"].any()


def test_every_unfinished_run_of_the_grid_is_worse(curves):
    pairs = paper_curves.on_the_way(curves)
    assert len(pairs) == 27
    assert (pairs["ratio"] > 1.05).all()
    assert paper_curves.mean_ratio(pairs)["ratio"] == pytest.approx(1.197, abs=0.002)


def test_slopes_of_planted_power_laws():
    lengths = {"3B": 4, "13B": 16, "34B": 64}
    ends = {label: 0.9 * n**-0.1 for label, n in lengths.items()}
    parts = []
    for label, n in lengths.items():
        # along the way the error falls twice as fast, to the same end
        error = ends[label] * (np.arange(1, n + 1) / n) ** -0.2
        parts.append(planted(label, 1 - error, samples_seen_label=label))
    (row,) = paper_curves.slopes(pd.concat(parts)).itertuples()
    assert row.finished == pytest.approx(-0.1)
    assert row.along == pytest.approx(-0.2)


def test_points_on_the_way_enter_the_fit_and_move_it(curves):
    table = paper_curves.laws_with_points(curves, n=30).set_index(["rows", "how"])
    ends = paper_curves.finished(curves)
    for how in ("bins", "all"):
        finished = table.loc[("finished runs", how)]
        assert finished["unfinished"] == 0
        assert finished["alpha"] == pytest.approx(laws.Recipe("power", how)(ends)["alpha"])
    every = table.loc[("every point", "bins")]
    assert every["unfinished"] > 0
    assert every["alpha"] < table.loc[("finished runs", "bins"), "alpha"] - 0.01
    assert (table["runs"] == 29).all()
    assert len(paper_curves.laws_table(table.reset_index())) == 6


# ------------------------------------------------------------------------------------- spikes

SMOOTH = [0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.62]
DIPPED = [0.1, 0.2, 0.3, 0.4, 0.25, 0.35, 0.6, 0.62]


def test_a_planted_fall_is_found_with_its_depth_and_the_way_back():
    (spike,) = paper_spikes.spikes(planted(accuracy=DIPPED)).itertuples()
    assert spike.epoch == 5
    assert spike.fall == pytest.approx(0.15)
    assert spike.back_after == 300  # from epoch 4 to epoch 7, of 100 samples each
    assert paper_spikes.spikes(planted(accuracy=SMOOTH)).empty


def test_a_fall_that_never_heals_is_infinite():
    found = paper_spikes.spikes(planted(accuracy=[0.1, 0.5, 0.4, 0.45]))
    assert found["back_after"].to_list() == [np.inf]


def test_a_fall_is_one_by_more_than_the_threshold_only():
    curve = planted(accuracy=[0.1, 0.5, 0.48, 0.6])
    assert len(paper_spikes.spikes(curve, fall=0.019)) == 1
    assert len(paper_spikes.spikes(curve, fall=0.021)) == 0


def test_from_one_run_to_the_next_nothing_falls():
    both = pd.concat([planted("a", SMOOTH), planted("b", SMOOTH)], ignore_index=True)
    assert paper_spikes.spikes(both).empty


def test_the_spikes_of_the_study(curves):
    counts = paper_spikes.spike_counts(curves)
    assert counts["spikes"].sum() == len(paper_spikes.spikes(curves)) == 38
    assert (counts["spikes"] > 0).sum() == 14
    assert counts["small_batch"].sum() == 6
    assert not (counts["small_batch"] & (counts["spikes"] > 0)).any()
    assert counts["points"].sum() == len(curves)


def test_the_fall_of_the_dearest_run_ends_a_climb(curves):
    curve = curves[curves["run_id"] == "openclip/H-14/LAION-2B/34B"].set_index("epoch")["top1"]
    assert curve[119] - curve[113] > 0.045
    assert curve[122] == pytest.approx(curve[113], abs=0.002)
    assert not {120, 121} & set(curve.index)


def test_a_thinned_curve_hides_what_heals_in_between():
    curve = planted(accuracy=DIPPED)
    kept = [paper_spikes.thinned(curve, spacing=400, phase=phase) for phase in range(4)]
    assert sorted(pd.concat(kept).index) == list(curve.index)
    assert kept[0]["epoch"].to_list() == [4, 8]
    assert sum(len(paper_spikes.spikes(each)) for each in kept) == 0
    assert len(paper_spikes.spikes(paper_spikes.thinned(curve, spacing=100))) == 1


def test_at_one_spacing_fewer_runs_show_a_spike_and_the_batch_is_not_told_apart(curves):
    for phase in range(5):
        coarse = paper_spikes.spike_counts(paper_spikes.thinned(curves, phase=phase))
        assert 5 < (coarse["spikes"] > 0).sum() < 9
        assert paper_spikes.fisher(coarse, "small_batch") > 0.1


def test_the_noise_of_the_test_is_far_below_the_rule():
    assert paper_spikes.noise_of_fall(0.5) == pytest.approx(0.00316, abs=1e-5)
    assert 4 * paper_spikes.noise_of_fall(0.5) < paper_spikes.FALL


def test_intervals_of_shares_are_exact():
    low, high = paper_spikes.share(0, 6)
    assert (low, high) == pytest.approx((0, 1 - 0.025 ** (1 / 6)))
    assert paper_spikes.share(6, 6) == pytest.approx((0.025 ** (1 / 6), 1))


def test_fishers_p_by_hand_and_refused_without_two_groups():
    counts = pd.DataFrame({"g": [True] * 2 + [False] * 2, "spikes": [0, 0, 1, 1]})
    assert paper_spikes.fisher(counts, "g") == pytest.approx(2 / 6)
    with pytest.raises(InputError, match="column g"):
        paper_spikes.fisher(counts[counts["g"]], "g")


def test_the_groups_of_one_setting_hold_every_run_once(curves):
    counts = paper_spikes.spike_counts(curves)
    table = paper_spikes.group_table(counts, counts)
    runs = table.groupby(table["setting"].str.partition(":")[0])["runs"].sum()
    assert set(runs) == {29}
    assert list(table["with a spike"]) == list(table["with a spike, thinned"])


def test_the_rate_warms_up_and_falls_to_zero():
    run = pd.Series(
        {"lr": 2e-3, "warmup_steps": 10, "global_batch": 10, "samples_seen_training": 1000}
    )
    rate = paper_spikes.learning_rate(np.array([0, 0.05, 0.1, 0.55, 1]), run)
    assert rate == pytest.approx([0, 1e-3, 2e-3, 1e-3, 0], abs=1e-12)


def test_the_recipes_hold_every_run_once(settings):
    table = paper_spikes.recipes(settings)
    assert table["runs"].sum() == 29
    (single,) = table.loc[table["models"] == "H/14", "batch"]
    assert single == "79,104"


def test_the_two_control_runs(runs):
    extra = published.extra_control_runs().query("dataset == 'imagenet1k' and metric == 'top1'")
    table = paper_spikes.controls(runs, extra).set_index("run")["difference"]
    assert table.to_dict() == pytest.approx({"B/32 2B 3B": 0.00036, "B/32 400M 3B": 0.0104})


# ------------------------------------------------------------------------------------ figures


FIGURES = {
    "grid": lambda d: paper_grid.grid(d["runs"]),
    "staircase": lambda d: paper_grid.staircase(d["openclip"], laws.paper_law(d["runs"])),
    "ladder": lambda d: paper_bill.ladder_picture(d["architectures"].head(6)),
    "bill": lambda d: paper_bill.bill_picture(d["bill"]),
    "speed": lambda d: paper_bill.speed_picture(d["bill"], paper_bill.copied_rates(d["settings"])),
    "curves": lambda d: paper_curves.small_multiples(d["curves"]),
    "some": lambda d: paper_curves.small_multiples(d["curves"].query("arch == 'ViT-B-16'")),
    "crowd": lambda d: paper_curves.crowd(d["curves"], laws.paper_law(d["runs"])),
    "ratios": lambda d: paper_curves.ratio_picture(paper_curves.on_the_way(d["curves"])),
    "one": lambda d: paper_spikes.one_curve(d["curves"].query("run_id == @d['one']")),
    "when": lambda d: paper_spikes.when(paper_spikes.spikes(d["curves"])),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_legible_named_and_drawn(name, runs, openclip, architectures, settings, curves):
    data = {"runs": runs, "openclip": openclip, "architectures": architectures}
    data |= {"settings": settings, "curves": curves, "bill": paper_bill.cost(settings)}
    data["one"] = "openclip/B-16/LAION-2B/34B"
    with mpl.rc_context():
        figures.style()
        fig = FIGURES[name](data)
        svg = figures.svg_markup(fig, "a figure")
        words = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
        assert min(t.get_fontsize() for t in words) >= 10
        assert fig.get_figwidth() <= 5.2
        named = [ax.get_xlabel() for ax in fig.axes] + [fig.get_supxlabel()]
        assert any(named)
        assert any([ax.get_ylabel() for ax in fig.axes] + [fig.get_supylabel()])
        assert "currentColor" in svg
        plt.close(fig)


def test_alt_text_of_the_grid_names_best_and_worst(runs):
    text = paper_grid.describe_grid(runs)
    assert "48.1% (B/32 80M 3B)" in text
    assert "22.0% (H/14 2B 34B)" in text
