"""The chapters on how fits are made: planted studies, traps, readings of tables, figures."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from cliplib import InputError, figures, laws
from cliplib.laws.forecast import forecast
from cliplib.laws.prediction import predict
from cliplib.laws.profile import profile
from cliplib.methods import examples as method_examples
from cliplib.methods import figures as method_figures
from cliplib.methods import tables as method_tables
from cliplib.methods import traps

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def clean_matplotlib():
    with mpl.rc_context():
        figures.style()
        yield
    plt.close("all")


def texts(fig):
    return " ".join(t.get_text() for t in fig.findobj(mpl.text.Text))


# ------------------------------------------------------------------------------- classic mistakes


def test_inverted_weights_are_worse_than_none():
    found = traps.inverted_weights(n_sims=30)
    assert found["right"] < found["none"] < found["inverted"]


def test_a_response_that_moves_with_the_offset_loses_it():
    easy, hard = traps.wrong_response([(0.01, 4), (0.1, 2)], n_sims=10).to_dict("records")
    assert easy["right"] == pytest.approx(easy["truth"], abs=0.005)
    assert easy["wrong"] == pytest.approx(easy["truth"], abs=0.005)
    assert hard["wrong at 0"] == 1 and hard["right at 0"] < 0.5


def test_resampled_minima_give_erratic_intervals():
    found = traps.covered(traps.points_or_runs(n_sims=40, n_draws=200)).set_index("way")
    ratio = found["wide"] / found["narrow"]
    assert ratio["points"] > 1.5 * ratio["runs"]
    assert (found["low"] < found["coverage"]).all() and (found["coverage"] <= found["high"]).all()


def test_a_logged_quantile_covers_half_of_what_it_says():
    """With many runs t is 1.96, and a normal lies within ln 1.96 standard errors at 50%."""
    assert traps.logged_quantile(10_000) == pytest.approx(0.499, abs=0.001)
    assert 0.4 < traps.logged_quantile(18) < 0.6


@pytest.mark.parametrize("trap", traps.TRAPS, ids=lambda trap: trap[0])
def test_every_trap_names_a_test_that_is_there(trap):
    path, _, name = trap[2].partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_planted_studies_repeat_by_seed():
    (first, truth), (second, _) = traps.planted("chinchilla", 1), traps.planted("chinchilla", 1)
    pd.testing.assert_frame_equal(first, second)
    assert not first.equals(traps.planted("chinchilla", 2)[0])
    assert set(truth) == {"A", "B", "E", "alpha", "beta"}


# ---------------------------------------------------------------------------------------- tables


def test_runs_have_size_samples_and_unique_pairs():
    runs = method_tables.clip_runs()
    assert len(runs) == 29 and len(method_tables.clip_runs(data=method_tables.LARGER)) == 20
    assert runs["U"].nunique() == 3
    np.testing.assert_allclose(runs["N"] * runs["D"], runs["compute"], rtol=0.02)


def test_a_softer_loss_counts_fewer_residuals_as_squares():
    table = method_tables.losses(
        "nd_multiplicative", method_tables.clip_runs(data=method_tables.LARGER)
    )
    square, wide, narrow, none = table["inside"]
    assert 1 == square > wide > narrow > 0 and np.isnan(none)


def test_effective_data_are_new_data_once_and_never_more_than_they_are():
    D, U = pd.Series([1.0, 10.0, 20.0, 1e9]), pd.Series([10.0] * 4)
    worth = method_tables.effective(D, U, 5.0)
    assert worth[:2].tolist() == [1.0, 10.0]
    assert 10 < worth[2] < 20 and worth[3] == pytest.approx(10 * (1 + 5))
    np.testing.assert_allclose(method_tables.effective(D[:3], U[:3], 1e9), D[:3], rtol=1e-6)


def test_a_profile_is_closed_where_repeats_are_many_and_open_where_they_are_few():
    R = np.geomspace(1, 1e4, 41)
    everything = method_tables.profile_of_repeats(method_tables.clip_runs(), R)
    low, high = method_tables.ends(everything)
    assert low < 22 < high < 40  # the best R of the 29 runs is 22
    assert everything["excess"].min() == 0
    few = method_tables.profile_of_repeats(method_tables.clip_runs(data=("LAION-2B",)), R)
    low, high = method_tables.ends(few)
    assert 10 < low < 30 and high == np.inf


def test_the_profile_ends_where_the_law_with_a_free_R_does():
    runs = method_tables.clip_runs()
    found = laws.fit("nd_effective", runs[["N", "D", "U"]], runs["error"])
    curve = method_tables.profile_of_repeats(runs, np.array([found.params["R"], 5.0]))
    assert curve["objective"][0] == pytest.approx(found.objective, rel=1e-9)
    assert curve["objective"][1] > curve["objective"][0]
    span = profile(found, "R")
    fine = method_tables.profile_of_repeats(runs, np.geomspace(10, 50, 81))
    assert method_tables.ends(fine) == pytest.approx((span.low, span.high), rel=0.03)


def test_an_offset_at_zero_has_an_upper_end_and_few_repeats_have_none():
    runs = method_tables.clip_runs()
    alone = runs[runs["D"] / runs["U"] <= 20]
    floor = laws.fit("saturating", runs["compute"], runs["error"])
    repeats = laws.fit("nd_effective", alone[["N", "D", "U"]], alone["error"])
    table = method_tables.profiled({"a": (floor, "a"), "R": (repeats, "R")})
    first, second = table["95% profile interval"]
    assert first.startswith("0 to 0.") and second.endswith("no upper limit")


def test_every_law_has_a_use():
    assert method_tables.laws_table()["law"].tolist() == list(laws.LAWS)
    assert set(method_tables.USES) == set(laws.LAWS)


def test_frontiers_agree_with_the_paper_and_one_is_refused():
    table = method_tables.frontiers(method_tables.clip_runs(), n=200).set_index("frontier")
    assert table.loc["bins", "alpha"] == pytest.approx(-0.1114, abs=5e-5)
    assert "degenerate" in table.loc["sfa", "note"]
    assert ((table["low"] < table["alpha"]) & (table["alpha"] < table["high"])).sum() == 6


def test_all_kinds_of_interval_hold_the_estimate():
    table = method_tables.intervals(method_tables.clip_runs(), n=500)
    assert ((table["low"] < table["alpha"]) & (table["alpha"] < table["high"])).all()
    assert set(table["units"]) == {29, 5}


def coverage_file(tmp_path, shares):
    rows = [
        {
            "design": f"d{i}",
            "frontier": "all",
            "interval": name,
            "parameter": "alpha",
            "coverage": c,
        }
        for i, (name, c) in enumerate(shares)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "coverage.csv", index=False)
    return method_tables.coverage(tmp_path / "coverage.csv")


def test_coverage_is_read_as_right_short_or_long(tmp_path):
    table = coverage_file(tmp_path, [("t", 0.95), ("t", 0.93), ("run", 0.929), ("run", 0.99)])
    assert table["verdict"].tolist() == ["right", "right", "too short", "too long"]
    ways = method_tables.by_way(table)
    assert method_tables.always(ways, "right") == "t (all)"
    assert method_tables.always(ways, "too long") == "none"
    assert ways.set_index("interval").loc["run", ["rows", "right", "too short"]].tolist() == [
        2,
        0,
        1,
    ]
    assert "'d3' covers 99%" in method_tables.worst(table)
    words = method_tables.coverage_in_words(table)
    assert "2 marks inside, 1 to the left of it, 1 to the right" in words


def test_missing_measurements_say_how_to_make_them(tmp_path):
    with pytest.raises(InputError, match="cliplib bench"):
        method_tables.bench(tmp_path / "bench.json")
    with pytest.raises(InputError, match="make coverage"):
        method_tables.coverage(tmp_path / "coverage.csv")


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_bench_file_may_be_rows_or_hold_them(tmp_path, wrapped):
    import json

    rows = [{"job": "fit_global", "case": "c", "peer": 2.0, "ours": 1.0, "unit": "s", "ratio": 2.0}]
    (tmp_path / "bench.json").write_text(json.dumps({"rows": rows} if wrapped else rows))
    assert method_tables.bench(tmp_path / "bench.json")["ratio"].tolist() == [2.0]


# ---------------------------------------------------------------------------------------- examples


def test_four_constructions_give_the_known_p_and_hc3_is_refused_in_all():
    table = method_examples.constructions("imagenet1k")
    assert table["p"].tolist() == pytest.approx([0.17, 0.045, 0.020, 0.10], abs=0.0051)
    assert table["dof"].tolist() == [4, 19, 5, 2]
    assert table["hc3"].isna().all() and (table["leverage"] > 0.5).all()
    assert (table["difference"] < 0).all()
    shown = method_examples.constructions_shown(table)
    assert shown["p, HC3"].str.startswith("refused").all()


def test_the_ledger_refuses_what_came_late_and_what_was_changed():
    made = forecast(method_tables.clip_runs(), laws.Recipe("power", "bins"), [2e13], n=100)
    late, scored, changed = method_examples.ledger_story(made)["the ledger says"]
    assert late.startswith("refused: made after the run started (2023")
    assert scored == "scored"
    assert "line 1 was changed" in changed and "/" not in changed


def test_a_plan_of_our_own_narrows_what_is_there():
    found = method_examples.own_plan(hours=2.0)
    assert found.plan.runs["half_width"].iloc[-1] < found.before
    assert found.plan.runs["hours_total"].iloc[-1] <= 2.0
    assert found.existing == (method_examples.own_runs()["error"] <= 0.9).sum()


def test_seeds_are_told_of_or_said_to_be_unknown():
    assert "seeds" in method_examples.seeds_in_words()


# ----------------------------------------------------------------------------------------- figures


def test_figures_name_their_axes_and_what_they_show(tmp_path):
    runs = method_tables.clip_runs()
    line = laws.fit("power", runs["compute"], runs["error"])
    C = np.geomspace(1e10, 1e13, 5)
    trial = traps.points_or_runs(n_sims=6, n_draws=50)
    profile = method_tables.profile_of_repeats(runs, np.geomspace(5, 100, 7))
    reduced = {
        how: laws.Recipe("power", how).frontier(runs) for how in ("bins", "hull", "quantile")
    }
    mean, new = predict(line, C), predict(line, C, kind="new")
    covered = coverage_file(tmp_path, [("t", 0.95), ("run", 0.8)])
    steps = method_examples.own_plan(hours=1.0)
    made = {
        "huber:0.01": method_figures.losses(("l2", "huber:0.01")),
        "saturating": method_figures.shapes(method_figures.shapes_behind()),
        "R = 22": method_figures.effective(method_figures.effective_data()),
        "95% limit": method_figures.valley({"29 runs": profile}),
        "bins: -0.111": method_figures.frontiers(runs, reduced, "error"),
        "five minima resampled": method_figures.caterpillar(trial),
        "runs": method_figures.forest(trial.head(4), "way", "estimate", "exponent"),
        "too short": method_figures.coverage(covered, (0.93, 0.97)),
        "95%, a new run": method_figures.prediction(runs, line, mean, new, "error"),
        "hours of training": method_figures.plan(steps.before, steps.plan.runs),
    }
    for text, fig in made.items():
        assert text in texts(fig)
        fig.canvas.draw()
        labelled = texts(fig)
        assert len(labelled) > 20


def test_examples_of_laws_start_alike_and_end_as_they_should():
    table = method_figures.shapes_behind()
    logs = np.log(table)
    slope = {name: np.diff(logs[name]) / np.diff(logs["C"]) for name in table.columns[1:]}
    np.testing.assert_allclose(slope["power"], -0.2)
    assert slope["saturating"][-1] > slope["saturating"][0]
    assert slope["broken"][-1] < slope["broken"][0]
    assert table["curved"].max() < 0.95


def test_losses_are_drawn_between_square_and_absolute_value():
    table = method_figures.losses_behind(("l2", "huber:0.01", "lad"))
    assert (table["l2"] <= table["huber:0.01"] + 1e-12).all()
    assert (table["huber:0.01"] <= table["lad"] + 1e-12).all()
