"""Evaluation: every number comes from stored ranks, with items, chance and interval."""

import json

import numpy as np
import pytest

from cliplib import InputError, evaluate, model, records
from cliplib.ladder import rung


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    model.save(model.create(rung("XXS"), 0), rung("XXS"), folder)
    return folder


@pytest.fixture(scope="module")
def outcome(corpus, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return folder, evaluate.evaluate(checkpoint, corpus, folder, "untrained", say=lambda line: None)


def rows(record):
    return {(row["task"], row["metric"]): row for row in record["metrics"]}


def test_an_untrained_model_is_at_chance(outcome):
    for (task, metric), row in rows(outcome[1]).items():
        if metric in ("accuracy_20_way", "recall_at_5"):
            assert abs(row["value"] - row["chance"]) < 6 * row["se"] + 0.02, (task, metric)
        if metric == "infonce":
            assert (
                row["chance"] - 0.1 < row["value"] < row["chance"] + 1.5
            )  # no better than guessing


def test_every_metric_names_its_items_chance_and_interval(outcome):
    for row in outcome[1]["metrics"]:
        assert row["n_items"] >= row["n_clusters"] >= 2
        assert row["ci_low"] <= row["value"] <= row["ci_high"]


def test_the_tasks_of_the_corpus_are_all_there(outcome, corpus):
    found = {task for task, _ in rows(outcome[1])}
    assert found >= {*corpus.manifest["tasks"], "retrieval", "validation", "emoji"}
    assert (
        rows(outcome[1])["phosphor", "top1"]["n_clusters"]
        < rows(outcome[1])["phosphor", "top1"]["n_items"]
    )


def test_metrics_can_be_recomputed_from_the_stored_ranks(outcome, corpus):
    folder, record = outcome
    again = evaluate.metric_rows(evaluate.unpack(folder / "ranks.npz"), corpus)
    assert again == record["metrics"]


def test_the_synonym_tolerant_top_1_is_never_below_the_strict(outcome, corpus):
    for task in corpus.manifest["tasks"]:
        assert (
            rows(outcome[1])[task, "top1_synonyms"]["value"]
            >= rows(outcome[1])[task, "top1"]["value"]
        )


def test_the_same_checkpoint_gives_the_same_record(outcome, corpus, checkpoint, tmp_path):
    again = evaluate.evaluate(checkpoint, corpus, tmp_path, "untrained", say=lambda line: None)
    assert records.results(again) == records.results(outcome[1])
    assert (tmp_path / "ranks.npz").read_bytes() == (outcome[0] / "ranks.npz").read_bytes()


def test_features_do_not_depend_on_the_batch_size(corpus, checkpoint):
    from cliplib.data import load_split
    from cliplib.evaluate.features import image_features, text_features

    clip, how = model.load(checkpoint).eval(), model.numerics("fp32")
    pairs = load_split(corpus, "val").take(np.arange(70))
    texts = [captions[0] for captions in pairs.captions]
    assert np.allclose(
        image_features(clip, pairs.images, how, 7),
        image_features(clip, pairs.images, how, 64),
        atol=1e-6,
    )
    assert np.allclose(
        text_features(clip, texts, how, 7), text_features(clip, texts, how, 64), atol=1e-6
    )


def test_pools_have_distinct_concepts_and_their_fixed_size(corpus):
    for pool in (evaluate.held_out_pool(corpus), evaluate.validation_pool(corpus)):
        assert len(pool) == len(set(pool.concepts)) == evaluate.POOL


def test_coverage_grows_with_the_data_scale(corpus):
    known = evaluate.covered_concepts(corpus)
    sizes = [len(known[scale]) for scale in ("2k", "8k", "32k")]
    assert sizes == sorted(sizes) and set(known["2k"]) <= set(known["8k"]) <= set(known["32k"])


def test_similarity_parts_split_a_task_and_chance_stays(outcome, corpus):
    for task in corpus.manifest["tasks"]:
        parts = [
            row for row in outcome[1]["metrics"] if row["task"] == task and "_to_" in row["metric"]
        ]
        whole = rows(outcome[1])[task, "accuracy_20_way"]
        assert sum(row["n_items"] for row in parts) in (whole["n_items"], whole["n_items"] - 1)
        assert {row["chance"] for row in parts} == {0.05}


def test_no_checkpoint_leaves_nothing_half_written(corpus, tmp_path):
    with pytest.raises(InputError, match="no usable checkpoint"):
        evaluate.evaluate(tmp_path / "none", corpus, tmp_path / "out", "x")
    assert not (tmp_path / "out").exists()


def test_damaged_ranks_are_one_line(tmp_path):
    (tmp_path / "ranks.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match="no readable ranks"):
        evaluate.unpack(tmp_path / "ranks.npz")


def test_templates_keep_a_place_for_the_class_name():
    from cliplib.evaluate.features import TEMPLATES, prompt_hash, templates

    assert len(set(templates())) == len(json.loads(TEMPLATES.read_text())["icons"])
    assert all(template.count("{}") == 1 for template in templates()) and len(prompt_hash()) == 16
