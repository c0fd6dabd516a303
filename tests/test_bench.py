"""The bench: its format, its ratios, its refusals; tiny sizes and no clock."""

import json
import re
import types

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from cliplib import InputError
from cliplib.bench import __main__ as bench
from cliplib.bench import jobs_laws, measure
from cliplib.bench.measure import Row, all_jobs, less_is_better, more_is_better
from cliplib.laws.law import law

TINY = {
    "fit_global": {"starts": 2, "repeats": 1},
    "fit_bootstrap": {"replicates": 6, "peers": 2, "repeats": 1},
    "fit_paper_bootstrap": {"draws": 40, "peers": 10, "repeats": 1},
}


def test_ratios_say_how_many_times_better_we_are():
    assert less_is_better("j", "c", 10.0, 2.0, "s").ratio == 5
    assert more_is_better("j", "c", 10.0, 20.0, "images/s").ratio == 2
    assert less_is_better("j", "c", None, 2.0, "MB") == Row("j", "c", None, 2.0, "MB", None)


@pytest.mark.parametrize("name", TINY)
def test_every_law_job_runs_and_is_at_least_as_good_as_its_peer(name):
    rows = list(all_jobs()[name](**TINY[name]))
    assert {row.job for row in rows} == {name}
    for row in rows:
        if row.ratio is not None:
            assert row.ratio == pytest.approx(row.peer / row.ours)
        if row.unit == "objective":
            assert row.ours <= row.peer * (1 + 1e-9)
    seconds = [row for row in rows if row.unit == "CPU s"]
    assert seconds and all("scaled" in row.case for row in seconds)
    assert next(row for row in rows if row.unit == "MB").ours < 500


def test_the_peers_gradient_and_objective_are_the_laws_own():
    X, loss = jobs_laws.planted_runs(30)
    x, y, w = np.log(X).T, np.log(loss), np.linspace(0.5, 2, 30)
    theta = np.array([6.0, 7.5, 0.6, 0.34, 0.36])
    form, ours = law("chinchilla"), theta.copy()
    ours[2] = np.exp(theta[2])
    r = y - form.log_predict(ours, x)
    size = np.abs(r)
    by_hand = np.where(size <= 1e-3, r**2 / 2, 1e-3 * (size - 5e-4)) @ w
    assert jobs_laws._objective(theta, x, y, w) == pytest.approx(by_hand, rel=1e-12)
    numeric = approx_fprime(theta, lambda t: jobs_laws._objective(t, x, y, w), 1e-7)
    assert np.allclose(jobs_laws._gradient(theta, x, y, w), numeric, rtol=1e-3)


def test_the_report_is_complete_json_and_names_no_machine(tmp_path, monkeypatch, capsys):
    def quick():
        return [less_is_better("quick", "a case", 3.0, 1.5, "CPU s")]

    monkeypatch.setattr(bench, "all_jobs", lambda: {"quick": quick})
    out = tmp_path / "new" / "bench.json"
    assert bench.main(["quick", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert set(report) == {"machine", "commit", "date", "rows"}
    row = {
        "job": "quick",
        "case": "a case",
        "peer": 3.0,
        "ours": 1.5,
        "unit": "CPU s",
        "ratio": 2.0,
    }
    when = {"commit": report["commit"], "date": report["date"]}
    assert report["rows"] == [{**row, **when}]
    report["rows"] += [{**row, "job": "another"}, {**row, "ours": 99.0}]
    out.write_text(json.dumps(report))
    assert bench.main(["quick", "--out", str(out)]) == 0  # the rows of this job are replaced
    assert [r["job"] for r in json.loads(out.read_text())["rows"]] == ["another", "quick"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", report["date"])
    assert re.search(r"\d+ cores, \d+ GB memory", report["machine"])
    import platform

    assert platform.node() not in report["machine"] or not platform.node()
    assert "2 times" in capsys.readouterr().out


def test_a_job_that_fails_says_why_in_one_line_and_the_others_run(monkeypatch, capsys):
    def broken():
        raise RuntimeError("the disk is full")

    def fine():
        yield more_is_better("fine", "a case", 1.0, 4.0, "images/s")

    monkeypatch.setattr(bench, "all_jobs", lambda: {"broken": broken, "fine": fine})
    assert bench.main([]) == 1
    said = capsys.readouterr()
    assert said.err == "broken: failed: RuntimeError: the disk is full\n"
    assert "fine" in said.out


def test_an_unknown_job_is_refused_with_the_known_ones(capsys):
    with pytest.raises(InputError, match=r"unknown job 'nothing'; known: .*fit_global"):
        bench.run(["nothing"])
    assert bench.main(["nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_job_is_found_by_its_mark_in_any_jobs_module(monkeypatch):
    module = types.ModuleType("cliplib.bench.jobs_extra")

    @measure.job
    def extra():
        return []

    module.extra, module.helper = extra, lambda: None
    found = types.SimpleNamespace(name="jobs_extra")
    monkeypatch.setattr(measure.pkgutil, "iter_modules", lambda _: [found])
    monkeypatch.setattr(measure.importlib, "import_module", lambda _: module)
    assert all_jobs() == {"extra": extra}


def test_the_commit_is_unknown_without_git(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(measure.subprocess, "run", missing)
    assert measure.commit() == "unknown"
