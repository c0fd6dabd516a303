"""The chapter on testing: one choice changed at a time, paired item by item."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from evaluate_things import small_model

from cliplib.evaluate.icon_tasks import held_out_task
from cliplib.evaluation_pages import differences, tested, tuning
from cliplib.finetune.recipe import Recipe, Setting

DATA = ROOT / "book" / "data"


@pytest.fixture(scope="module")
def rows(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    task = held_out_task(corpus, "kameleon")
    subject = differences.Subject(small_model(folder), task, corpus, str(folder))
    return pd.DataFrame(differences.table(subject))


def test_every_choice_is_compared_with_the_reference(rows):
    assert rows["choice"].nunique() >= 10 and len(rows) == 2 * rows["choice"].nunique()
    reference = rows[rows["choice"] == differences.REFERENCE]
    assert (reference["difference"] == 0).all() and (reference["changed"] == 0).all()
    assert (rows["n_items"] == 198).all()


def test_a_lower_case_tokenizer_sees_no_capitals(rows):
    capitals = rows[rows["choice"] == "class names in capitals"]
    assert (capitals["changed"] == 0).all() and (capitals["se"] == 0).all()


def test_alpha_dropped_is_another_picture(corpus, tmp_path):
    task = held_out_task(corpus, "kameleon")
    subject = differences.Subject(small_model(tmp_path / "m"), task, corpus, "")
    black = differences._on_black(subject).images.array
    white = task.images.pixels(np.arange(len(task.images)), lambda image: image)
    assert black.shape == white.shape and black.mean() < white.mean()


def test_bad_input_is_one_line(tmp_path, capsys):
    out = str(tmp_path / "t.csv")
    assert differences.main([str(tmp_path / "none"), "--out", out]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "t.csv").exists()
    assert tuning.main([str(tmp_path / "none" / "checkpoint"), "--out", out]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "t.csv").exists()


def test_settings_are_tried_on_validation_and_the_best_is_marked(corpus, tmp_path, capsys):
    small_model(tmp_path / "one" / "checkpoint")
    recipe = Recipe(epochs=1, settings=(Setting(1e-3, 0.65), Setting(1e-2)))
    given = (tmp_path / "one" / "checkpoint", corpus, tmp_path / "work", recipe)
    found = pd.DataFrame(tuning.rows(*given, tasks=("health-categories",)))
    assert list(found) == list(tuning.COLUMNS) and len(found) == 2
    assert found["run"].unique() == ["one"] and found["n_items"].unique() == [371]
    assert found["val_top1"][found["chosen"]].tolist() == [found["val_top1"].max()]
    assert "fine-tuned already" not in capsys.readouterr().out
    again = pd.DataFrame(tuning.rows(*given, tasks=("health-categories",)))
    assert "fine-tuned already" in capsys.readouterr().out
    pd.testing.assert_frame_equal(found, again)


# ------------------------------------------------------------------------------------ the page's tables


@pytest.fixture(scope="module")
def study():
    return pd.read_csv(DATA / "runs.csv").query("scale == 'nano'")


def test_the_protocols_are_all_in_the_committed_study(study):
    table = tested.protocols_table(study, tested.largest(study))
    assert set(table["protocol"]) >= {
        "zero-shot",
        "robustness",
        "retrieval",
        "few-shot",
        "linear probe",
    }
    assert ((table["from"] <= table["%"]) & (table["%"] <= table["to"])).all()
    assert (table["items"] >= table["concepts"]).all()


def test_the_largest_run_has_the_most_compute_to_a_tenth(study):
    run = study[study["run_id"] == tested.largest(study)]
    assert run["compute_gmac"].iloc[0] >= 0.9 * study["compute_gmac"].max()


def test_the_noise_follows_from_the_committed_ranks(study):
    run = tested.largest(study)
    noise = tested.noise_floor(DATA / "ranks" / f"{run}.npz").set_index("task")
    row = study[
        (study["run_id"] == run) & (study["task"] == "phosphor") & (study["metric"] == "top1")
    ]
    assert noise.loc["phosphor", "by concept"] == pytest.approx(100 * row["se"].item(), abs=1e-3)
    assert noise.loc["phosphor", "ratio"] > 1.3


def test_less_than_one_standard_error_is_no_difference_seen():
    table = tested.choices_table(DATA / "evaluators.csv").set_index("choice")
    assert table.loc["class names in capitals", "verdict"] == "no difference seen"
    assert table.loc["transparent pixels black", "verdict"] == "seen"
    seen = table["difference"].abs() > table["se"]
    assert (seen == (table["verdict"] == "seen")).all()


def test_swapped_activation_is_the_published_pair():
    table = tested.swapped_activation().set_index("model")["ImageNet top-1 (%)"]
    assert table["ViT-B-32-quickgelu"] - table["ViT-B-32"] > 2


def test_gain_of_choosing_on_test_is_never_negative(study):
    gain = tested.gain_of_choosing_on_test(study)
    assert set(gain["images"]) == {"10", "25", "all"} and (gain["mean"] >= 0).all()
    assert (gain["runs"] == study["run_id"].nunique()).all()


def test_the_settings_chosen_are_counted(study):
    settings = pd.read_csv(DATA / "probe_settings.csv")
    edges = tested.grid_edges(settings)
    assert len(edges) == 9 and edges["chosen"].sum() == settings["chosen"].sum()
    assert (edges["edge"] != "").sum() == 1


def test_the_29_runs_are_five_rows_of_the_models_table():
    from cliplib.pretrained.check import check

    table = tested.models_table(check())
    ours = table[table["model"].str.startswith("openclip/")]
    assert ours["checkpoints"].tolist() == [9, 9, 9, 1, 1]


@pytest.mark.parametrize("draw", ["noise", "choices", "robustness", "probes", "tuning", "patching"])
def test_figures_have_labels_with_units(study, draw):
    import matplotlib.pyplot as plt

    run = tested.largest(study)
    figure = {
        "noise": lambda: tested.noise_figure(tested.noise_floor(DATA / "ranks" / f"{run}.npz")),
        "choices": lambda: tested.choices_figure(tested.choices_table(DATA / "evaluators.csv")),
        "robustness": lambda: tested.robustness_figure(study),
        "probes": lambda: tested.probes_figure(tested.probes(study)),
        "tuning": lambda: tuning.figure(tuning.table(DATA / "finetune_settings.csv", study)),
        "patching": lambda: tested.patching_figure(tested.patching(DATA / "patching.csv", study)),
    }[draw]()
    axis = "y" if draw == "tuning" else "x"  # a learning rate has no unit
    labels = [getattr(ax, f"get_{axis}label")() for ax in figure.axes]
    assert any("(" in label for label in labels)
    plt.close(figure)


def test_the_speed_table_has_every_row_in_seconds_with_its_aim(tmp_path):
    row = {"peer": 10.0, "ours": 2.0, "unit": "s", "ratio": 5.04}
    rows = [
        row | {"job": "zero_shot", "case": "XS, 1 thread: CLIP_benchmark at best (fp32), ours"},
        row | {"job": "zero_shot", "case": "XS, 1 thread: memory", "unit": "MiB"},
        row | {"job": "retrieval", "case": "XS: a metric, both in fp32", "unit": "", "ours": 1e-9},
        row | {"job": "probe_grid", "case": "9 settings (its .cuda() made to stay)"},
        row | {"job": "loader", "case": "not of this page"},
    ]
    (tmp_path / "bench.json").write_text(json.dumps({"rows": rows}))
    table = tested.speed_table(tmp_path / "bench.json")
    assert table["work"].tolist() == ["zero shot", "probe grid"]
    assert table["case"].tolist() == ["XS, 1 thread", "9 settings"]
    assert table["its way"].tolist() == ["at best", ""]
    assert table["aim"].tolist() == [5, 20] and table["times faster"].tolist() == [5.04, 5.04]
    assert tested.largest_difference(tmp_path / "bench.json") == 1e-9
