"""The verbs fit and paper: what they print, and every refusal in one line."""

import argparse
import json

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError, published
from cliplib.laws import cli

FIGURE1 = str(published.FOLDER / "figure1.csv")
IMAGENET = ["--where", "dataset=imagenet1k", "--where", "family=OpenCLIP"]


def fit(*argv):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    cli.run(parser.parse_args([str(arg) for arg in argv]))


def csv(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_json_of_the_papers_fit(capsys):
    fit(FIGURE1, *IMAGENET, "--frontier", "bins", "--json")
    out = json.loads(capsys.readouterr().out)
    assert out["law"] == "power" and out["n"] == 5 and out["n_runs"] == 29
    assert out["params"]["alpha"] == pytest.approx(-0.111388, abs=1e-6)
    assert out["converged"] is True and out["warnings"] == []
    assert out["objective"] > 0
    assert "ci" not in out and "se" not in out


def test_a_bootstrap_adds_se_and_ci_by_parameter_and_repeats_by_seed(capsys):
    ask = [FIGURE1, *IMAGENET, "--frontier", "bins", "--bootstrap", 50, "--json", "--seed"]
    fit(*ask, 7)
    first = json.loads(capsys.readouterr().out)
    fit(*ask, 7)
    assert json.loads(capsys.readouterr().out) == first
    fit(*ask, 8)
    assert json.loads(capsys.readouterr().out)["ci"] != first["ci"]
    low, high = first["ci"]["alpha"]
    assert low < first["params"]["alpha"] < high
    assert set(first["se"]) == {"alpha", "beta"}


@pytest.mark.parametrize("how", ["all", "bins", "bins_own", "pareto", "hull"])
def test_every_frontier_runs_on_the_published_table(capsys, how):
    fit(FIGURE1, *IMAGENET, "--frontier", how)
    out = capsys.readouterr().out
    assert f"(frontier: {how})" in out and "| alpha | -0.1" in out


def test_curved_law_with_chance_and_free_takeoff(capsys, tmp_path):
    rows = "".join(
        f"{c},{0.99 * (1 + c / 300) ** -0.4:.8f}\n" for c in (10, 50, 200, 900, 5000, 2e4)
    )
    path = csv(tmp_path, "C,E\n" + rows)
    ask = [path, "--x", "C", "--y", "E", "--law", "curved", "--chance", 0.01, "--json"]
    fit(*ask)
    out = json.loads(capsys.readouterr().out)
    assert out["params"]["alpha"] == pytest.approx(-0.4, abs=1e-4)
    assert out["fixed"] == {"chance": 0.01, "takeoff": 1.0}
    fit(*ask, "--takeoff", "free")
    out = json.loads(capsys.readouterr().out)
    assert out["params"]["takeoff"] == pytest.approx(1, abs=1e-3)


@pytest.fixture
def language_runs(tmp_path):
    """Losses over N and D about a known additive law; the first row is far off."""
    rng = np.random.default_rng(0)
    N, D = (
        np.exp(rng.uniform(np.log(low), np.log(high), 60))
        for low, high in ((5e7, 1e10), (1e9, 3e11))
    )
    loss = (1.8 + 480 / N**0.35 + 2000 / D**0.37) * np.exp(0.002 * rng.standard_normal(60))
    loss[0] = 9.0
    path = tmp_path / "language.csv"
    pd.DataFrame({"size": N, "tokens": D, "loss": loss}).to_csv(path, index=False)
    return [path, "--law", "chinchilla", "--x", "size,tokens", "--y", "loss", "--json"]


def test_an_additive_law_with_a_dropped_run_a_robust_loss_and_a_bootstrap(capsys, language_runs):
    fit(*language_runs, "--loss", "huber:1e-3", "--drop-largest-loss", 1, "--bootstrap", 40)
    out = json.loads(capsys.readouterr().out)
    assert (out["n"], out["n_runs"], out["loss"]) == (59, 59, "huber:0.001")
    assert [row["run"] for row in out["excluded"]] == ["line 2"]
    assert out["params"]["alpha"] == pytest.approx(0.35, abs=0.03)
    assert (
        set(out["params"]) == set(out["se"]) == set(out["ci"]) == {"A", "B", "E", "alpha", "beta"}
    )
    low, high = out["profile"]["E"]
    assert low < out["params"]["E"] < high and low < 1.8 < high
    assert [row["choice"] for row in out["sensitivity"]] == [
        "l2",
        "huber:0.01",
        "huber:0.001",
        "lad",
    ]
    assert len(out["x_range"]) == 2


def test_what_the_author_states_is_printed_and_the_rest_is_named_as_missing(capsys, language_runs):
    fit(*language_runs, "--state", "tuning=every rung swept")
    out = json.loads(capsys.readouterr().out)
    assert out["statements"] == {"tuning": "every rung swept"}
    assert out["not_stated"] == ["counting", "schedule"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--x", "size"], "law chinchilla needs 2 columns .N,D.: --x size names 1"),
        (["--x", "size,words"], "no column words in"),
        (["--x", "size,size"], "columns N and D move together"),
        (["--loss", "l1"], "unknown loss 'l1'"),
        (["--drop-largest-loss", 60], "--drop-largest-loss 60: there are 60 runs"),
        (["--frontier", "bins"], "the frontier 'bins' needs one x"),
        (["--state", "weather=fine"], "--state weather=fine: expected KEY=TEXT"),
    ],
)
def test_a_law_in_two_variables_refuses_in_words(language_runs, extra, message):
    with pytest.raises(InputError, match=message):
        fit(*language_runs, *extra)


def test_the_degenerate_stochastic_frontier_is_refused_and_the_quantile_is_not(capsys):
    fit(FIGURE1, *IMAGENET, "--frontier", "quantile", "--tau", 0.2, "--json")
    assert json.loads(capsys.readouterr().out)["loss"] == "quantile:0.2"
    with pytest.raises(InputError, match="the stochastic frontier is degenerate here"):
        fit(FIGURE1, *IMAGENET, "--frontier", "sfa")


def test_a_loss_may_exceed_one(capsys, tmp_path):
    path = csv(tmp_path, "D,loss\n1e6,4.1\n1e7,3.5\n1e8,3.0\n1e9,2.6\n")
    fit(path, "--x", "D", "--y", "loss", "--json")
    assert json.loads(capsys.readouterr().out)["params"]["alpha"] < 0


@pytest.mark.parametrize(
    ("text", "extra", "message"),
    [
        (
            "compute,error\n1,50\n2,40\n3,30\n",
            [],
            "row on line 2: 50 is above 1; .* not in percent",
        ),
        ("C,E\n1,.5\n2,4.5\n3,.3\n", ["--x", "C", "--y", "E"], "column E, row on line 3: 4.5 is"),
        ("compute,error\n1,.5\n2,.4\n", [], "2 points are too few"),
        ("compute,error\n1,.5\n0,.4\n3,.3\n", [], "column compute, row on line 3: 0 is not above"),
        ("compute,error\n1,.5\n2,\n3,.3\n", [], "column error, row on line 3: value is missing"),
        ("compute,error\n1,.5\n2,n/k\n3,.3\n", [], "column error, row on line 3: 'n/k' is not a"),
        (
            "compute,error\n2,.5\n2,.4\n2,.3\n",
            [],
            "column compute: all 3 rows have the same value 2",
        ),
        ("size,error\n1,.5\n2,.4\n3,.3\n", [], "no column compute in .*; it has size, error"),
        ("compute,error\n", [], "must be a non-empty list"),
        ("", [], "is not a readable CSV table"),
        ("compute,error\n1,.5\n2,.4\n3,.3\n", ["--law", "zipf"], "unknown law 'zipf'; known: "),
        ("compute,error\n1,.5\n2,.4\n3,.3\n", ["--frontier", "x"], "unknown frontier 'x'; known"),
        ("compute,error\n1,.5\n2,.4\n3,.3\n", ["--bootstrap", 9], "3 runs are too few to resample"),
        ("compute,error\n1,.5\n2,.4\n3,.3\n", ["--bootstrap", -1], "2 or more draws"),
        ("compute,error\n1,.5\n2,.4\n3,.3\n", ["--chance", 0.1], "--chance is for --law curved"),
        ("compute,error\n1,.5\n2,.4\n3,.3\n", ["--where", "a=1"], "expected COLUMN=VALUE"),
        ("compute,error\n1,.5\n2,.4\n3,.3\n", ["--where", "error=1"], "leaves no rows; error has"),
        (
            "compute,error\n1,.5\n2,.4\n3,.3\n",
            ["--law", "curved", "--takeoff", "x"],
            "--takeoff x: expected a number or 'free'",
        ),
    ],
)
def test_refusals_are_one_line_naming_column_row_and_reason(tmp_path, text, extra, message):
    with pytest.raises(InputError, match=message) as caught:
        fit(csv(tmp_path, text), *extra)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no file .*nothing\.csv"):
        fit(tmp_path / "nothing.csv")


def test_paper_prints_eight_exponents_beside_ours(capsys):
    parser = argparse.ArgumentParser()
    cli.add_paper_arguments(parser)
    cli.run_paper(parser.parse_args([]))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "Open" in line]
    assert len(rows) == 8
    for *_, printed, ours, difference in rows:
        assert round(float(ours), 2) == float(printed)
        assert float(difference) == pytest.approx(float(ours) - float(printed), abs=1e-4)
    cli.run_paper(parser.parse_args(["--json"]))
    assert len(json.loads(capsys.readouterr().out)) == 8
