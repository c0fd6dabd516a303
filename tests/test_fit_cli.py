"""The verbs fit and paper: what they print, and every refusal in one line."""

import argparse
import json

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
