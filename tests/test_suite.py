"""Whole evaluations on data sets of any origin, from the command line too."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from evaluate_things import classification, pixels, retrieval, small_model

from cliplib import InputError, records
from cliplib.__main__ import main
from cliplib.evaluate.blocks import Workers
from cliplib.evaluate.suite import (
    aggregate_rows,
    beside_published,
    evaluate_tasks,
    refuse_change,
    standard_name,
)
from cliplib.evaluate.wds import write_task
from cliplib.published import downstream_datasets

SILENT = Workers(say=lambda line: None)


def cliplib(*words):
    command = [sys.executable, "-m", "cliplib", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return [
        write_task(classification(), root / "wds_noise"),
        write_task(retrieval(), root / "wds_pool"),
    ]


def test_a_record_names_everything_that_its_numbers_depend_on(opened, tmp_path):
    record = evaluate_tasks(opened, [classification(), retrieval()], tmp_path, "m", workers=SILENT)
    assert record == records.read_record(tmp_path / "eval.json")
    noise = record["tasks"]["noise"]
    assert noise["images"] == 30 and noise["classes"] == 3 and noise["templates"] == 2
    assert {"prompt_hash", "class_hash", "data_hash", "split"} <= set(noise)
    assert {"activation", "preprocess", "precision", "weights_hash"} <= set(record["model"])
    assert {row["task"] for row in record["metrics"]} == {"noise", "pool-i2t", "pool-t2i"}


def test_two_tasks_of_one_name_are_refused(opened, tmp_path):
    with pytest.raises(InputError, match="same name"):
        evaluate_tasks(opened, [classification(), classification()], tmp_path, "m", workers=SILENT)
    assert not list(tmp_path.iterdir())


def test_templates_changed_under_a_recorded_hash_are_refused_and_the_record_stays(opened, tmp_path):
    evaluate_tasks(opened, [classification()], tmp_path, "m", workers=SILENT)
    before = (tmp_path / "eval.json").read_bytes()
    for change, what in (({"templates": ("{c}.",)}, "prompt templates"),
                         ({"classes": ("cat", "dog", "moon")}, "class names")):  # fmt: skip
        with pytest.raises(InputError, match=f"{what} of noise have changed"):
            evaluate_tasks(opened, [classification(**change)], tmp_path, "m", workers=SILENT)
    assert (tmp_path / "eval.json").read_bytes() == before


def test_the_same_weights_with_another_activation_are_refused(opened, tmp_path):
    from dataclasses import replace

    evaluate_tasks(opened, [classification()], tmp_path, "m", workers=SILENT)
    with pytest.raises(InputError, match="tested with gelu, now with quick_gelu"):
        refuse_change(tmp_path / "eval.json", replace(opened, activation="quick_gelu"), {})


# ------------------------------------------------------------------------------- means and comparison


def row(task, value, metric="top1"):
    return {
        "task": task, "metric": metric, "value": value, "chance": 0.001, "se": 0.01, "n_items": 100,
        "n_clusters": 100, "ci_low": value, "ci_high": value,
    }  # fmt: skip


def test_the_papers_means_appear_once_all_their_members_are_there():
    table = downstream_datasets()
    members = table.loc[table["in_robustness5"] == 1, "dataset"].tolist()
    rows = [row(f"wds_{name}", 0.1 * place) for place, name in enumerate(members)]
    assert aggregate_rows(rows[:-1]) == []
    (mean,) = aggregate_rows(rows)
    assert mean["task"] == "imagenet_robustness" and mean["value"] == pytest.approx(0.2)
    assert mean["se"] == pytest.approx(0.01 / np.sqrt(5), abs=1e-6)
    everything = table.loc[table["in_vtab_plus35"] == 1, "dataset"]
    found = aggregate_rows([row(name.replace("/", "-"), 0.5) for name in everything])
    assert {mean["task"] for mean in found} == {"imagenet_robustness", "vtab", "vtab+"}


def test_names_of_folders_become_those_of_the_published_tables():
    known = set(downstream_datasets()["dataset"])
    assert {standard_name("wds_" + name.replace("/", "-")) for name in known} == known


def test_ours_stand_beside_the_published():
    published = pd.DataFrame(
        [("imagenet1k", "top1", 0.66), ("mscoco_captions", "image_retrieval_recall_at_5", 0.5)],
        columns=["dataset", "metric", "value"],
    )
    rows = [row("wds_imagenet1k", 0.65), row("mscoco_captions-t2i", 0.52, "recall_at_5"),
            row("other", 0.1)]  # fmt: skip
    table = beside_published(rows, published)
    assert table["difference"].round(3).tolist() == [-0.01, 0.02]


# --------------------------------------------------------------------------------------- command line


def test_a_checkpoint_saved_by_plain_open_clip_is_evaluated_by_name(folders, tmp_path):
    """ViT-B-32 with random weights, saved as open_clip's users save it, through the whole suite."""
    import open_clip

    torch.manual_seed(0)
    plain = open_clip.create_model("ViT-B-32")
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    out = tmp_path / "out" / "eval.json"
    words = [word for folder in folders for word in ("--task", folder)]
    done = cliplib(
        "evaluate", "--model", "ViT-B-32", "--weights", tmp_path / "plain.pt", *words, "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert "noise" in done.stdout and "recall_at_10" in done.stdout and done.stderr == ""
    record = records.read_record(out)
    assert record["model"]["image_px"] == 224 and record["model"]["activation"] == "gelu"
    assert (tmp_path / "out" / "ranks.npz").exists()


def test_a_checkpoint_of_ours_in_json_and_with_other_prompts(opened, folders, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("this is {c}\n")
    out = tmp_path / "eval.json"
    words = ("--templates", prompts, "--json", "--out", out, "--batch-size", 5)
    assert main(["evaluate", opened.name, "--task", str(folders[0]), *map(str, words)]) == 0
    text = capsys.readouterr().out
    assert json.loads(text[text.index("{") :])["tasks"]["noise"]["templates"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--out", "x/eval.json"], "name one model"),
        (["evaluate", "{model}", "--model", "ViT-B-32", "--out", "x/eval.json"], "name one model"),
        (["evaluate", "{model}", "--out", "x/other.json"], "must end in eval.json"),
        (["evaluate", "{model}", "--split", "val", "--out", "eval.json"], "belong to --task"),
        (["evaluate", "{model}", "--task", "{task}", "--split", "val", "--out", "eval.json"],
         "no split 'val'"),
        (["evaluate", "{model}", "--task", "nowhere", "--out", "eval.json"], "no such folder"),
        (["evaluate", "{model}", "--batch-size", "-3", "--out", "eval.json"], "--batch-size -3"),
        (["probe", "{model}", "--shots", "ten", "--out", "probe.json"], "--shots 'ten'"),
        (["probe", "{model}", "--draws", "0", "--out", "probe.json"], "--draws 0"),
        (["probe", "{model}", "--task", "{task}", "--out", "probe.json"], "no split 'train'"),
        (["export", "--task", "cats", "--out", "x"], "unknown icon task 'cats'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(
    words, message, opened, folders, tmp_path, corpus, monkeypatch, capsys
):
    places = {"{model}": opened.name, "{task}": folders[0]}
    words = [str(places.get(word, word)) for word in words]
    if words[0] == "export":
        words += ["--data", str(corpus.folder.resolve())]
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_probe_on_a_data_set_of_anyones(opened, tmp_path, capsys):
    for split, n in (("train", 90), ("test", 30)):
        write_task(classification(n, images=pixels(n, seed=n), split=split), tmp_path / "wds_noise")
    out = tmp_path / "probe.json"
    words = ("--task", tmp_path / "wds_noise", "--shots", "5,full", "--draws", 2, "--out", out)
    assert main(["probe", opened.name, *map(str, words)]) == 0
    assert "probe_5_shot_top1" in capsys.readouterr().out
    metrics = {row["metric"] for row in records.read_record(out)["metrics"]}
    assert {"probe_5_shot_top1", "probe_full_top1_chosen_on_test"} <= metrics


def test_icon_tasks_are_exported_and_evaluate_as_they_do_here(corpus, opened, tmp_path):
    words = ("--data", corpus.folder, "--out", tmp_path / "tasks", "--task", "healthicons")
    assert main(["export", *map(str, words)]) == 0
    out = tmp_path / "eval.json"
    words = ("--task", tmp_path / "tasks" / "wds_healthicons", "--precision", "fp32", "--out", out)
    assert main(["evaluate", opened.name, *map(str, words)]) == 0
    from cliplib.evaluate.icon_tasks import held_out_task
    from cliplib.evaluate.outcomes import unpack
    from cliplib.evaluate.zero_shot import classify

    here = classify(opened, held_out_task(corpus, "healthicons"))
    assert np.array_equal(unpack(tmp_path / "ranks.npz")["healthicons"].rank, here.rank)
