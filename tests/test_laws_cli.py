"""The verbs forecast, compare and plan: their printed examples, JSON, and refusals in one line."""

import json
import re
import shlex

import pandas as pd
import pytest

from cliplib.__main__ import main
from cliplib.laws import cli_compare, cli_forecast, cli_plan

FIGURE1 = "book/data/published/figure1.csv"
IMAGENET = ["--where", "dataset=imagenet1k", "--where", "family=OpenCLIP"]
RUNS = "book/data/runs.csv"


def call(capsys, *words):
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def as_json(capsys, *words):
    return json.loads(call(capsys, *words, "--json"))


def examples(module):
    import argparse

    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    text = parser.epilog.replace("\\\n", " ")
    found = re.findall(r"python -m cliplib (.*)", text)
    return [
        shlex.split(line) for line in found if "TABLE.csv" not in line and "--score" not in line
    ]


@pytest.mark.parametrize(
    "words",
    [words for module in (cli_forecast, cli_compare, cli_plan) for words in examples(module)],
)
def test_the_examples_of_the_help_run(capsys, words):
    assert "| --- |" in call(capsys, *words)
    assert as_json(capsys, *words)


@pytest.mark.parametrize("verb", ["forecast", "compare", "plan"])
def test_every_help_ends_with_an_example(capsys, verb):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"python -m cliplib {verb} " in capsys.readouterr().out.split("examples:")[1]


def test_a_forecast_in_json(capsys):
    ask = ["forecast", FIGURE1, *IMAGENET, "--at", "1e12,3e13", "--bootstrap", 100]
    out = as_json(capsys, *ask, "--seed", 3)
    assert [row["compute"] for row in out["forecasts"]] == [1e12, 3e13]
    assert out["n_runs"] == 29 and out["kind"] == "new" and out["recipe"]["law"] == "power"
    assert out == as_json(capsys, *ask, "--seed", 3) != as_json(capsys, *ask, "--seed", 4)
    forms = as_json(capsys, *ask, "--forms", "curved,power:pareto")
    assert {"form_low", "all_high"} <= set(forms["forecasts"][0])


def test_a_forecast_in_two_variables_takes_a_point_an_option(capsys):
    columns = "gmacs_per_sample,samples_seen"
    ask = ["forecast", FIGURE1, *IMAGENET, "--x", columns, "--law", "nd_multiplicative"]
    out = as_json(capsys, *ask, "--at", "290,3.4e10", "--at", "533,3.9e10", "--bootstrap", 50)
    assert [row["gmacs_per_sample"] for row in out["forecasts"]] == [290, 533]


def test_a_forecast_goes_through_the_ledger_to_its_score(capsys, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    ask = ["forecast", FIGURE1, *IMAGENET, "--bootstrap", 0, "--ledger", ledger]
    text = call(capsys, *ask, "--at", "1e13", "--target", "run_id=new")
    assert "written to" in text
    first = as_json(capsys, *ask, "--at", "1e13", "--target", "old")["entries"][0]
    assert first["target"] == "old"
    runs = tmp_path / "runs.csv"
    value = first["value"]
    rows = [("new", 1e13, value * 1.01, "2999-01-01"), ("old", 1e13, value, "2001-01-01")]
    pd.DataFrame(rows, columns=["run_id", "compute", "error", "date"]).to_csv(runs, index=False)
    score = ["forecast", "--score", ledger, "--runs", runs]
    out = as_json(capsys, *score, "--time", "date")
    assert [row["status"][:8] for row in out["entries"]] == ["scored", "refused:"]
    assert out["calibration"][0]["n"] == 1 and out["calibration"][0]["covered"] == 1
    assert "no column finished" in call(capsys, *score)


def test_records_of_runs_have_times_to_score_by(capsys, tmp_path, monkeypatch):
    from cliplib import collect, records

    folder = tmp_path / "runs"
    (folder / "nano-S").mkdir(parents=True)
    row = dict.fromkeys(collect.COLUMNS, "") | {
        "run_id": "nano-S", "compute_gmac": 500.0, "metric": "top1", "task": "phosphor",
        "value": 0.4, "chance": 0.01, "seconds": 10.0,
    }  # fmt: skip
    monkeypatch.setattr(collect, "collect", lambda runs: pd.DataFrame([row]))
    monkeypatch.setattr(records, "read_record", lambda path: {"finished": "2999-01-01T00:00:00Z"})
    ledger = tmp_path / "ledger.jsonl"
    table = tmp_path / "table.csv"
    table.write_text("compute_gmac,error\n10,.9\n20,.8\n50,.75\n100,.65\n")
    ask = ["forecast", table, "--x", "compute_gmac", "--bootstrap", 0, "--at", 500]
    call(capsys, *ask, "--ledger", ledger, "--target", "run_id=nano-S,task=phosphor,metric=top1")
    out = as_json(capsys, "forecast", "--score", ledger, "--runs", folder)
    assert out["entries"][0]["status"] == "scored" and out["entries"][0]["actual"] == 0.6


def test_compare_in_json(capsys):
    ask = [
        "compare",
        FIGURE1,
        "--by",
        "family",
        "--without",
        "data=LAION-80M",
        "--permutations",
        99,
    ]
    out = as_json(capsys, *ask, "--where", "dataset=imagenet1k", "--crossover", 0)
    classical = out["slopes"]["tests"][0]
    assert classical["p"] == pytest.approx(0.045, abs=5e-4) and classical["df2"] == 19
    assert out["crossover"]["groups"] == ["OpenCLIP", "OpenAI"]
    matched = ["--where", "samples_seen_label=13B", "--match", "arch"]
    out = as_json(capsys, *ask, "--task", "dataset", *matched)
    assert {row["task"] for row in out["tasks"]["slopes"]} == {
        "imagenet1k",
        "mscoco_captions",
        "flickr30k",
    }
    assert out["together"]["estimates"][2]["dof"] == 5


def test_a_plan_in_json_follows_its_options(capsys):
    out = as_json(capsys, "plan", RUNS, "--budget", "90min", "--samples", "65e3,1e6")
    assert sum(row["hours"] for row in out["runs"]) <= 1.5
    assert max(row["samples_seen"] for row in out["runs"]) <= 1e6
    fresh = as_json(capsys, "plan", RUNS, "--budget", "90min", "--fresh", "--repeats", 1)
    assert any("0 runs are there already" in note for note in fresh["notes"])
    assert {row["seed"] for row in fresh["runs"]} == {0}


def test_a_plan_without_enough_included_runs_says_so(capsys):
    assert main(["plan", RUNS, "--budget", "6h", "--metric", "top1"]) == 2
    assert "pass the inclusion rule" in capsys.readouterr().err


def test_the_best_split_of_compute(capsys, tmp_path):
    table = tmp_path / "runs.csv"
    rows = [
        (N, D, 1.69 + 406.4 * N**-0.34 + 410.7 * D**-0.28)
        for N in (1e7, 1e8, 1e9, 1e10)
        for D in (1e9, 1e10, 1e11)
    ]
    pd.DataFrame(rows, columns=["N", "D", "loss"]).to_csv(table, index=False)
    ask = ["plan", table, "--law", "chinchilla", "--x", "N,D", "--y", "loss", "--at", 5.76e23]
    out = as_json(capsys, *ask)
    assert out["exponents"]["a"] == pytest.approx(0.4516, abs=1e-3)
    assert 6 * out["allocation"][0]["N"] * out["allocation"][0]["D"] == pytest.approx(5.76e23)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["forecast", FIGURE1], "needs TABLE.csv and --at"),
        (
            ["forecast", FIGURE1, *IMAGENET, "--at", "ten"],
            "--at ten: 'ten' is not a positive number",
        ),
        (["forecast", FIGURE1, *IMAGENET, "--at", "-5"], "--at"),
        (["forecast", FIGURE1, *IMAGENET, "--at", "1", "--level", "95"], "--level 95"),
        (["forecast", FIGURE1, *IMAGENET, "--at", "1", "--target", "x"], "go together"),
        (["forecast", FIGURE1, *IMAGENET, "--at", "1", "--law", "zipf"], "unknown law 'zipf'"),
        (
            ["forecast", FIGURE1, *IMAGENET, "--at", "1", "--chance", "0.1"],
            "--chance is for --law curved",
        ),
        (["forecast", FIGURE1, *IMAGENET, "--at", "1", "--takeoff", "x"], "--takeoff x"),
        (["forecast", "none.csv", "--at", "1"], "no file none.csv"),
        (["forecast", "--score", "none.jsonl", "--runs", "x.csv"], "no ledger none.jsonl"),
        (["forecast", "--score", "none.jsonl"], "--score needs --runs"),
        (["compare", FIGURE1], "--by"),
        (["compare", FIGURE1, "--by", "size"], "no column size"),
        (["compare", FIGURE1, "--by", "family", "--without", "data"], "expected COLUMN=VALUE"),
        (["compare", FIGURE1, "--by", "family", "--without", "data=x"], "drops no row; data has"),
        (["compare", FIGURE1, "--by", "family", "--permutations", "-1"], "expected 0 or more"),
        (["compare", FIGURE1, "--by", "family", "--task", "dataset", "--adjust", "x"], "known: bh"),
        (["plan", RUNS], "give --budget"),
        (["plan", RUNS, "--budget", "6"], "expected a number with a unit"),
        (["plan", RUNS, "--budget", "sixh"], "'six' is not a positive number"),
        (["plan", RUNS, "--budget", "6h", "--samples", "5"], "expected LOW,HIGH"),
        (["plan", RUNS, "--budget", "6h", "--processor", "Z80"], "no run was timed on 'Z80'"),
        (["plan", "none.csv", "--budget", "6h"], "no file none.csv"),
        (["plan", FIGURE1, *IMAGENET, "--x", "compute", "--at", "1e12"], "needs a law in N and D"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, words, message):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_a_studys_long_table_is_read_by_task_and_metric(capsys):
    ask = ["forecast", RUNS, "--x", "compute_gmac", "--bootstrap", 0, "--at", 5000]
    chosen = ["--where", "task=phosphor", "--where", "metric=accuracy_20_way"]
    bent = as_json(capsys, *ask, *chosen, "--law", "curved", "--chance", 0.05, "--takeoff", 1)
    assert bent["recipe"]["options"] == {"chance": 0.05, "takeoff": 1.0}
    out = as_json(capsys, *ask, *chosen)
    assert out["n_runs"] == 10 and 0.2 < out["forecasts"][0]["value"] < 0.5
    assert main([str(word) for word in ask + chosen[:2]]) == 2
    assert "several values of metric" in capsys.readouterr().err
