"""The coverage study: planted truth, honest counting, resuming without loss."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cliplib.laws import coverage
from cliplib.laws.coverage import COLUMNS, Job, jobs, run, study, wilson
from cliplib.laws.coverage_designs import designs

DESIGNS = designs()
PAPER, GRID = DESIGNS["paper normal"], DESIGNS["grid 10"]


@pytest.mark.parametrize("name", DESIGNS)
def test_without_noise_the_recipe_returns_the_planted_truth(name):
    design = DESIGNS[name]
    quiet = replace(design, noise=lambda rng: np.zeros(len(design.runs)))
    found = design.recipe(quiet.simulate(np.random.default_rng(0)))
    assert found == pytest.approx(design.truth, rel=1e-5)


def test_the_papers_designs_have_its_29_runs_and_5_architectures():
    assert len(PAPER.runs) == 29 and PAPER.runs["arch"].nunique() == 6 - 1
    one_sided = DESIGNS["paper half-normal"].noise(np.random.default_rng(0))
    assert one_sided.min() > -0.06 and one_sided.mean() > 0.05


def test_the_t_interval_covers_as_often_as_it_says():
    (row,) = study(Job(PAPER, "t"), 300)
    assert set(row) == set(COLUMNS)
    assert 0.93 <= row["coverage"] <= 0.97
    assert abs(row["bias"]) < 0.003 and row["refused"] == 0
    assert row["n_sims"] == 300 and row["n_runs"] == 29


def test_few_runs_make_the_percentile_interval_short_and_the_expanded_one_right():
    percentile, expanded = study(Job(GRID, "run", n_draws=400), 200)
    assert percentile["interval"] == "run, percentile"
    assert percentile["coverage"] < 0.94 < expanded["coverage"] <= 0.98
    assert percentile["mean_width"] < expanded["mean_width"]


def test_a_wrong_truth_is_not_covered():
    wrong = replace(PAPER, truth={**PAPER.truth, "alpha": -0.2})
    shifted = replace(
        PAPER, noise=lambda rng: PAPER.noise(rng) + 0.09 * np.log(PAPER.runs["compute"])
    )
    (row,) = study(Job(replace(shifted, truth=PAPER.truth), "t"), 40)
    assert row["coverage"] == 0 and row["bias"] == pytest.approx(0.09, abs=0.01)
    assert study(Job(wrong, "t"), 40)[0]["coverage"] > 0.8  # its data are as steep as it says


def test_shared_scatter_fools_the_t_interval_and_not_the_bootstrap_of_clusters():
    design = DESIGNS["paper clusters"]
    (t,) = study(Job(design, "t"), 100)
    wild = study(Job(design, "wild by cluster", n_draws=500), 100)
    assert t["coverage"] < 0.8 < wild[0]["coverage"] <= wild[1]["coverage"]


def test_a_new_run_lies_in_its_prediction_interval():
    rows = study(Job(GRID, "predict", parameters=(coverage.LARGEST,), n_draws=200), 100)
    assert [row["interval"] for row in rows] == [
        "predict, t",
        "predict, run bootstrap and residuals",
    ]
    assert 0.90 <= rows[0]["coverage"] <= 0.99
    assert rows[0]["truth"] == 0


def test_ways_of_one_design_see_the_same_studies():
    a, b = study(Job(PAPER, "t"), 5), study(Job(PAPER, "run", n_draws=50), 5)
    assert a[0]["bias"] == b[0]["bias"] and a[0]["rmse"] == b[0]["rmse"]
    assert study(Job(PAPER, "t"), 5) == a
    assert study(Job(PAPER, "t"), 5, seed=1) != a


def test_studies_that_a_recipe_refuses_are_counted():
    tiny = replace(GRID, runs=GRID.runs.iloc[:6], noise=lambda rng: 0.3 * rng.standard_normal(6))
    row = study(Job(tiny, "run", "hull", n_draws=50), 20)
    assert not row or row[0]["refused"] + row[0]["n_sims"] == 20
    refused = 20 if not row else row[0]["refused"]
    assert refused > 0


@pytest.mark.parametrize(("hits", "n"), [(1900, 2000), (0, 50), (50, 50)])
def test_wilsons_interval_is_statsmodels(hits, n):
    from statsmodels.stats.proportion import proportion_confint

    theirs = proportion_confint(hits, n, method="wilson")
    assert wilson(hits, n) == pytest.approx(theirs, abs=1e-6)


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    todo = [Job(PAPER, "t"), Job(GRID, "run", n_draws=20), Job(GRID, "t")]
    run(todo, 4, tmp_path / "whole.csv")
    done = []

    def interrupted(job, n_sims):
        if job == todo[1] and done == [todo[0]]:
            done.append("stop")
            raise KeyboardInterrupt
        done.append(job)
        return study(job, n_sims)

    monkeypatch.setattr(coverage, "study", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(todo, 4, tmp_path / "parts.csv")
    assert not (tmp_path / "parts.csv").exists()
    run(todo, 4, tmp_path / "parts.csv")
    assert done == [todo[0], "stop", todo[1], todo[2]]
    assert not (tmp_path / "parts.part.csv").exists()
    whole, parts = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("whole", "parts"))
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-5)


def test_the_published_study_asks_for_each_row_once():
    todo = jobs()
    keys = [(job.design.name, job.how, job.way) for job in todo]
    assert len(set(keys)) == len(keys)
    assert {job.how for job in todo} == {"all", *coverage.FRONTIERS}


def test_the_command_writes_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coverage, "jobs", lambda: [Job(PAPER, "t")])
    coverage.main(["--n", "3", "--out", str(tmp_path / "c.csv")])
    assert list(pd.read_csv(tmp_path / "c.csv").columns) == list(COLUMNS)
    assert "[1/1] paper normal, all, t" in capsys.readouterr().err
