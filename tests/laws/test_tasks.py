"""Slopes and contrasts of 38 tasks, and one claim over all of them: published numbers, refusals."""

import json

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError, published
from cliplib.laws.joint import mixed
from cliplib.laws.tasks import tasks


@pytest.fixture(scope="module")
def all_tasks():
    names = [*published.downstream_datasets()["dataset"], "vtab", "vtab+", "imagenet_robustness"]
    table = pd.concat([published.errors(name).assign(task=name) for name in names])
    return table[table["data"] != "LAION-80M"]


@pytest.fixture(scope="module")
def matched_tasks(all_tasks):
    archs = ["ViT-B-32", "ViT-B-16", "ViT-L-14"]
    return all_tasks[(all_tasks["samples_seen_label"] == "13B") & all_tasks["arch"].isin(archs)]


def test_slopes_of_38_tasks(all_tasks):
    openclip = all_tasks[all_tasks["family"] == "OpenCLIP"]
    robust, classical = tasks(openclip, errors="HC3").slopes, tasks(openclip).slopes
    assert robust["verdict"].value_counts().to_dict() == {"falls": 29, "flat": 8, "rises": 1}
    assert classical["verdict"].value_counts().to_dict() == {"falls": 28, "flat": 9, "rises": 1}
    worse = robust[robust["verdict"] == "rises"].iloc[0]
    assert worse["task"] == "vtab/kitti_closest_vehicle_distance"
    assert worse["slope"] == pytest.approx(0.036, abs=5e-4)
    ordered = robust[["p", "p_bh", "p_holm"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= -1e-12).all()


def test_contrasts_of_38_tasks_under_both_adjustments(matched_tasks):
    table = tasks(matched_tasks, by="family", own_slopes=True).contrasts
    assert [
        int((table[name] < 0.05).sum()) for name in ("slope_p", "slope_p_bh", "slope_p_holm")
    ] == [9, 5, 3]
    named = {"imagenet-a", "imagenet-r", "imagenetv2", "objectnet", "country211"}
    assert set(table.loc[table["slope_p_bh"] < 0.05, "task"]) == named
    level = table[table["level_p_bh"] < 0.05]
    assert len(level) == 14 and int((level["level_percent"] < 0).sum()) == 8


def test_contrasts_have_one_sign_whatever_the_order_of_rows(matched_tasks):
    turned = matched_tasks.groupby("task", group_keys=False)[matched_tasks.columns].apply(
        lambda rows: rows[::-1] if rows["task"].iloc[0] == "gtsrb" else rows
    )
    a, b = (
        tasks(table, by="family").contrasts.set_index("task")["slope_difference"]
        for table in (matched_tasks, turned)
    )
    assert np.allclose(a, b[a.index])


def test_averages_are_left_out_unless_asked_for(all_tasks):
    openclip = all_tasks[all_tasks["family"] == "OpenCLIP"]
    assert len(tasks(openclip).slopes) == 38
    assert len(tasks(openclip, exclude=()).slopes) == 41
    assert "left out as averages: imagenet_robustness, vtab, vtab+" in tasks(openclip).notes[0]


@pytest.fixture(scope="module")
def joint(matched_tasks):
    return mixed(matched_tasks, "family")


def test_the_joint_claim_is_weaker_than_the_mixed_model_says(joint):
    rows = joint.estimates.set_index("method")
    assert rows["difference"].to_numpy() == pytest.approx(np.full(4, -0.0492), abs=1e-4)
    published_interval = rows.loc["mixed", ["low", "high"]].tolist()
    assert published_interval == pytest.approx([-0.072, -0.026], abs=6e-4)
    runs = rows.loc["runs"]
    assert runs["dof"] == 5 and (runs["low"], runs["high"]) == pytest.approx(
        (-0.1019, 0.0034), abs=1e-4
    )
    assert rows.loc["mixed", "p"] < 1e-4 < 0.05 < runs["p"]
    assert rows.loc["bootstrap", "low"] < rows.loc["mixed", "low"]
    assert any("too short" in note for note in joint.notes)


def test_residuals_of_tasks_correlate_over_runs(all_tasks):
    report = mixed(all_tasks, "family", n=50)
    assert report.correlation == pytest.approx(0.36, abs=0.01)
    assert report.first_component == pytest.approx(0.42, abs=0.005)


def test_a_mixed_model_that_fails_says_so_beside_the_others(matched_tasks, monkeypatch):
    def fails(self, **options):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr("statsmodels.regression.mixed_linear_model.MixedLM.fit", fails)
    report = mixed(matched_tasks, "family", n=20)
    rows = report.estimates.set_index("method")
    assert rows.loc["mixed", "note"].endswith("not fitted: Singular matrix")
    assert np.isfinite(rows.loc["runs", ["low", "high", "p"]].astype(float)).all()
    assert json.loads(json.dumps(report.to_dict()))["estimates"][0]["low"] is None


def test_the_mean_of_slopes_is_the_slope_of_the_mean(matched_tasks, joint):
    table = tasks(matched_tasks, by="family").contrasts
    assert joint.estimates["difference"][2] == pytest.approx(table["slope_difference"].mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[(t["task"] != "cars") | (t["family"] != "OpenAI")], "lacks task cars"),
        (lambda t: pd.concat([t, t[:1]]), "has task cars twice"),
        (lambda t: t.assign(family="one"), "has 1 groups; a contrast needs two"),
        (lambda t: t[t["task"] == "cars"], "needs two or more, got 1"),
    ],
)
def test_a_joint_claim_needs_every_task_of_every_run(matched_tasks, change, message):
    with pytest.raises(InputError, match=message):
        mixed(change(matched_tasks), "family", n=10)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"adjust": ["fdr"]}, "unknown adjustment 'fdr'; known: bh, holm"),
        ({"errors": "HC0"}, "unknown kind of standard error 'HC0'"),
        ({"by": "family", "errors": "HC3"}, "task cars: a run has leverage 0.89"),
        ({"by": "data"}, "task cars has 3 groups of data"),
        ({"task": "name"}, "no column name in the runs"),
    ],
)
def test_task_tables_that_cannot_be_made_are_refused(matched_tasks, ask, message):
    with pytest.raises(InputError, match=message):
        tasks(matched_tasks, **ask)
