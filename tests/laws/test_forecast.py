"""Forecasts, the ledger that keeps them, and the scores that come after."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError, published
from cliplib.laws import Recipe, ledger
from cliplib.laws.forecast import data_hash, forecast
from cliplib.laws.ledger import append, head, read
from cliplib.laws.scoring import binomial_interval, score

OPENCLIP = published.openclip_runs("imagenet1k")
C = np.geomspace(1e2, 1e5, 20)


def runs_of(seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    error = 2 * C**-0.2 * np.exp(noise * rng.normal(size=len(C)))
    return pd.DataFrame({"compute": C, "error": error})


# Forecasts


def test_a_forecast_is_the_laws_value_with_an_interval_for_a_new_run_wider_than_the_mean():
    runs, at = runs_of(), [1e3, 1e6]
    new, mean = (forecast(runs, "power", at, n=400, kind=kind) for kind in ("new", "mean"))
    assert new.table["value"].tolist() == pytest.approx(Recipe().fit(runs).predict(at).tolist())
    widths = [np.log(f.table["high"] / f.table["low"]).to_numpy() for f in (mean, new)]
    assert (widths[1] > 1.5 * widths[0]).all() and widths[0][1] > widths[0][0]
    assert new.table[["mean_low", "mean_high"]].equals(mean.table[["mean_low", "mean_high"]])
    assert new.ends == ("low", "high") and "new run" in new.how and "mean" in mean.how


def test_without_draws_the_interval_is_students_t():
    import statsmodels.api as sm

    runs = runs_of()
    found = forecast(runs, "power", [1e6], n=0)
    ols = sm.OLS(np.log(runs["error"]), sm.add_constant(np.log(runs["compute"]))).fit()
    predicted = ols.get_prediction([[1, np.log(1e6)]]).summary_frame()
    ends = np.exp(predicted[["obs_ci_lower", "obs_ci_upper"]].to_numpy()[0])
    assert found.table[["low", "high"]].to_numpy()[0] == pytest.approx(ends, rel=1e-6)


def test_intervals_of_new_runs_hold_about_as_many_as_they_say():
    rng, hits = np.random.default_rng(0), 0
    for study in range(60):
        made = forecast(runs_of(seed=study), "power", [1e6], n=150, level=0.9, seed=study)
        actual = 2 * 1e6**-0.2 * np.exp(0.05 * rng.normal())
        hits += made.table["low"][0] <= actual <= made.table["high"][0]
    assert 46 <= hits <= 60  # 90% of 60 is 54


def test_bigg_lies_in_the_interval_of_the_papers_recipe():
    made = forecast(OPENCLIP, Recipe("power", "bins"), [2.078e13], n=500, kind="mean")
    row = made.table.iloc[0]
    assert 100 * (1 - row["value"]) == pytest.approx(80.76, abs=0.05)
    assert row["low"] < 1 - 0.8009 < row["high"]


def test_bigg_by_a_line_through_all_runs_on_the_two_larger_sets():
    runs = OPENCLIP[OPENCLIP["data"] != "LAION-80M"]
    row = forecast(runs, "power", [532.92 * 3.9e10], n=0).table.iloc[0]
    accuracy = 100 * (1 - row[["value", "low", "high"]].to_numpy(dtype=float))
    assert accuracy == pytest.approx([79.91, 82.0, 77.6], abs=0.05)


def test_going_far_beyond_the_runs_is_said_with_its_factor():
    made = forecast(runs_of(), "power", [50.0, 1e4, 3e6], n=0)
    assert made.table["beyond"].tolist() == pytest.approx([2, 1, 30])
    assert "compute goes 30 times beyond the runs" in made.warnings[0]
    assert not any("beyond" in w for w in forecast(runs_of(), "power", [9e5], n=0).warnings)
    assert any("beyond" in w for w in forecast(runs_of(), "power", [9e5], n=0, far=5).warnings)


def test_a_frontier_forecasts_a_point_of_the_frontier_and_says_so():
    made = forecast(runs_of(), Recipe("power", "pareto"), [1e6], n=100)
    assert any("new point of the pareto frontier" in text for text in made.warnings)


def test_several_forms_are_reported_apart_and_in_an_interval_of_all():
    forms = [Recipe("curved", options={"chance": 0.05}), Recipe("power", "bins")]
    made = forecast(runs_of(), "power", [1e7], n=200, forms=forms)
    row = made.table.iloc[0]
    assert row["form_low"] < row["form_high"]
    assert row["form_low"] <= row["value"] <= row["form_high"]
    assert row["all_low"] < row["form_low"] and row["form_high"] < row["all_high"]
    assert made.ends == ("all_low", "all_high")
    assert made.recipe["forms"] == ["curved, all", "power, bins"]
    again = forecast(runs_of(), "power", [1e7], n=200, forms=forms)
    pd.testing.assert_frame_equal(made.table, again.table)


def test_a_form_alone_with_itself_adds_nothing():
    made = forecast(runs_of(), "power", [1e6], n=2000, forms=[Recipe()])
    row = made.table.iloc[0]
    assert (row["all_low"], row["all_high"]) == pytest.approx((row["low"], row["high"]), rel=0.01)


def test_a_form_that_cannot_be_fitted_is_named():
    few = runs_of()[:6]
    made = forecast(few, "power", [1e4], n=50, forms=[Recipe("power", "bins", nbins=2)])
    assert any("is not in the interval of all" in text for text in made.warnings)
    assert np.isfinite(made.table["all_low"][0])


def test_a_forecast_in_two_variables():
    runs = OPENCLIP[OPENCLIP["data"] != "LAION-80M"]
    recipe = Recipe("nd_multiplicative", x=("gmacs_per_sample", "samples_seen"))
    made = forecast(runs, recipe, [[290.74, 3.4e10], [532.9, 3.9e10]], n=200)
    assert list(made.table.columns[:3]) == ["gmacs_per_sample", "samples_seen", "value"]
    assert (made.table["low"] < made.table["value"]).all()
    assert 100 * made.table["value"][0] == pytest.approx(21.5, abs=0.6)


def test_the_data_hash_is_of_the_values_not_of_their_order():
    shuffled = runs_of().sample(frac=1, random_state=1)
    assert data_hash(shuffled, ["compute"], "error") == data_hash(runs_of(), ["compute"], "error")
    other = runs_of().assign(error=lambda t: t["error"] * (1 + 1e-15 * (t.index == 3) + 1e-12))
    assert data_hash(other, ["compute"], "error") != data_hash(runs_of(), ["compute"], "error")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"kind": "single"}, "unknown kind of forecast 'single'; known: mean, new"),
        ({"at": [-1.0]}, "column compute, row 0: -1 is not above zero"),
        ({"at": []}, "non-empty"),
        ({"n": 0, "forms": ["curved"]}, "give n > 0"),
        ({"forms": [Recipe(y="loss")]}, "all forms must read the same columns"),
        ({"recipe": "zipf"}, "unknown law 'zipf'"),
        ({"runs": runs_of()[:3]}, "3 runs are too few to resample"),
    ],
)
def test_forecasts_that_cannot_be_made_are_refused(ask, message):
    full = {"runs": runs_of(), "recipe": "power", "at": [1e6], "n": 50} | ask
    with pytest.raises(InputError, match=message):
        forecast(**full)


# The ledger


@pytest.fixture
def made():
    return forecast(runs_of(), "power", [1e6, 2e6], n=50)


@pytest.fixture
def book(tmp_path, made):
    path = tmp_path / "ledger.jsonl"
    for target in ("big", {"run_id": "bigger", "seed": 0}):
        append(path, made, target)
    return path


def test_an_entry_holds_what_it_rests_on(book, made):
    entries = read(book)
    assert len(entries) == 4 and len({entry["id"] for entry in entries}) == 4
    first, row = entries[0], made.table.iloc[0]
    assert set(ledger.FIELDS) == set(first)
    assert first["value"] == row["value"] and (first["low"], first["high"]) == (
        row["low"],
        row["high"],
    )
    assert first["x"] == {"compute": 1e6} and first["data_hash"] == made.data_hash
    assert first["recipe"]["law"] == "power" and first["n_runs"] == 20 and first["kind"] == "new"
    assert datetime.now(UTC) - datetime.fromisoformat(first["made_at"]) < timedelta(minutes=1)
    assert (
        entries[2]["target"] == {"run_id": "bigger", "seed": 0} and head(book) == entries[3]["id"]
    )


def edit(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def altered(line):
    entry = json.loads(line)
    return json.dumps(entry | {"low": entry["low"] * 0.5}, sort_keys=True)


def rewritten(line):
    """An edit by someone who also renames the entry: only the next line can tell."""
    entry = json.loads(altered(line))
    return json.dumps(entry | {"id": ledger._name(entry)}, sort_keys=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [altered(lines[0]), *lines[1:]], "line 1 was changed after it was written"),
        (lambda lines: [*lines[:3], altered(lines[3])], "line 4 was changed after it was written"),
        (lambda lines: [rewritten(lines[0]), *lines[1:]], "line 2 does not follow"),
        (lambda lines: [lines[0], *lines[2:]], "line 2 does not follow"),
        (lambda lines: lines[1:], "line 1 does not follow"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1 does not follow"),
        (lambda lines: [*lines, lines[0]], "line 5 does not follow"),
        (lambda lines: [*lines[:2], "{", *lines[3:]], "line 3 is not JSON"),
        (lambda lines: [*lines[:2], "", *lines[3:]], "line 3 is not JSON"),
        (lambda lines: ['{"id": 1}', *lines], "line 1 lacks made_at, target"),
        (lambda lines: ["[]", *lines], "line 1 lacks id"),
    ],
)
def test_any_change_of_history_shows_and_nothing_is_added_to_it(book, made, change, message):
    edit(book, change)
    before = book.read_bytes()
    for act in (lambda: read(book), lambda: append(book, made, "more")):
        with pytest.raises(InputError, match=message):
            act()
    assert book.read_bytes() == before and list(book.parent.iterdir()) == [book]


def test_a_line_cut_in_half_shows(book):
    book.write_bytes(book.read_bytes()[:-10])
    with pytest.raises(InputError, match="the last line is cut off"):
        read(book)


def test_lines_cut_off_the_end_change_the_head(book):
    published_head = head(book)
    edit(book, lambda lines: lines[:2])
    assert len(read(book)) == 2 and head(book) != published_head


def test_a_clock_that_runs_backwards_shows(book, made, monkeypatch):
    monkeypatch.setattr(ledger, "_now", lambda: datetime(2020, 1, 1, tzinfo=UTC))
    append(book, made, "late")
    with pytest.raises(InputError, match="line 5 was made before the line above it"):
        read(book)


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "ledger.jsonl"
    made = forecast(runs_of(), "power", [1e6], n=0)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(append, path, made, "all") for _ in range(40)]:
            done.result()
    assert len(read(path)) == 40 and list(tmp_path.iterdir()) == [path]


def test_a_forecast_without_a_finite_interval_is_not_written(tmp_path):
    made = forecast(runs_of(), "power", [1e6], n=0)
    made.table["high"] = np.inf
    with pytest.raises(InputError, match="without a finite value and interval"):
        append(tmp_path / "ledger.jsonl", made, "run")
    assert not list(tmp_path.iterdir())


def test_a_lock_left_behind_is_named(book, made, monkeypatch):
    monkeypatch.setattr(ledger, "PATIENCE_S", 0.05)
    lock = book.with_name("ledger.jsonl.lock")
    lock.touch()
    with pytest.raises(InputError, match=r"ledger.jsonl.lock is there: .* delete it"):
        append(book, made, "more")
    assert lock.exists() and len(read(book)) == 4


def test_a_ledger_needs_a_target_and_a_file(tmp_path, made):
    with pytest.raises(InputError, match="a forecast needs a target"):
        append(tmp_path / "new.jsonl", made, "")
    with pytest.raises(InputError, match="no ledger"):
        read(tmp_path / "none.jsonl")


# Scores


def entry(**changes):
    base = {
        "id": "a", "made_at": "2026-01-02T00:00:00+00:00", "target": "run 1", "x": {"compute": 1e6},
        "y": "error", "value": 0.13, "low": 0.12, "high": 0.14, "level": 0.95, "kind": "new",
    }  # fmt: skip
    return base | changes


def one_run(**changes):
    row = {
        "run_id": "run 1", "compute": 1.01e6, "error": 0.125, "seconds": 3600.0,
        "finished": "2026-01-02T02:00:00Z",
    }  # fmt: skip
    return pd.DataFrame([row | changes])


def test_a_forecast_made_before_the_run_is_scored():
    row = score([entry()], one_run()).table.iloc[0]
    assert row["status"] == "scored" and row["run"] == "run 1" and row["hit"]
    assert row["points"] == pytest.approx(0.5) and row["ln"] == pytest.approx(np.log(0.13 / 0.125))
    assert not score([entry()], one_run(error=0.2)).table["hit"][0]


@pytest.mark.parametrize(
    ("change", "run", "status"),
    [
        ({}, {"finished": "2026-01-02T00:30:00Z"}, "refused: made after the run started"),
        ({"made_at": "2026-01-02T01:00:01+00:00"}, {}, "refused: made after the run started"),
        ({"made_at": "2026-01-02T02:00:00+01:00"}, {}, "scored"),
        ({}, {"finished": None}, "the run has no time"),
        ({}, {"finished": "yesterday"}, "the run has no time"),
        ({}, {"seconds": np.nan}, "the run has no time"),
        ({}, {"compute": 2e6}, "the run's compute is 2 times the forecast's"),
        ({}, {"compute": np.nan}, "the run's compute is nan times"),
        ({}, {"error": np.nan}, "the run has no error"),
        ({"target": "run 2"}, {}, "no such run yet"),
        ({"target": {"run_id": "run 1", "rung": "S"}}, {}, "no such run yet"),
        ({"target": {"run_id": "run 1"}}, {}, "scored"),
        ({"target": "run*"}, {}, "scored"),
        ({"x": {"N": 1e6}}, {}, "the runs have no column N"),
    ],
)
def test_what_cannot_be_scored_says_why(change, run, status):
    row = score([entry(**change)], one_run(**run)).table.iloc[0]
    assert row["status"].startswith(status)
    assert (row["status"] == "scored") == (not pd.isna(row["points"]))


def test_runs_without_times_cannot_be_scored_and_a_date_column_may_be_named():
    runs = one_run().drop(columns=["finished", "seconds"])
    found = score([entry()], runs)
    assert "no column finished" in found.notes[-1] and found.calibration.empty
    dated = runs.assign(published="2026-01-03")
    assert score([entry()], dated, time="published").table["status"][0] == "scored"
    same_day = runs.assign(published="2026-01-02")
    late = entry(made_at="2026-01-02T10:00:00+00:00")
    assert score([late], same_day, time="published").table["status"][0].startswith("refused")


def test_a_target_that_fits_several_runs_is_not_scored():
    runs = pd.concat([one_run(), one_run(run_id="run 12")])
    assert score([entry(target="run 1*")], runs).table["status"][0] == "2 runs fit: name one"


def test_calibration_counts_the_intervals_that_held():
    entries = [entry(id=str(i), target=f"run {i}") for i in range(20)]
    rng = np.random.default_rng(0)
    errors = np.where(np.arange(20) < 18, rng.uniform(0.121, 0.139, 20), 0.2)
    runs = pd.concat([one_run(run_id=f"run {i}", error=errors[i]) for i in range(20)])
    row = score([*entries, entry(target="other")], runs).calibration.iloc[0]
    assert (row["n"], row["covered"], row["share"]) == (20, 18, 0.9)
    assert (row["low"], row["high"]) == pytest.approx((0.683, 0.988), abs=5e-4)


def test_the_binomial_interval_is_scipys():
    from scipy.stats import binomtest

    for k, n in [(0, 4), (4, 4), (7, 11), (1, 30)]:
        expected = binomtest(k, n).proportion_ci(method="exact")
        assert binomial_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_score_needs_the_response():
    with pytest.raises(InputError, match="no column error in the runs"):
        score([entry()], one_run().drop(columns="error"))
