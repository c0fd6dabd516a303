"""Evaluation: every number comes from stored ranks, with items, chance and interval."""

import numpy as np
import pytest

from cliplib import InputError, evaluate, model, records
from cliplib.evaluate.blocks import Workers
from cliplib.ladder import rung

SILENT = Workers(say=lambda line: None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    model.save(model.create(rung("XXS"), 0), rung("XXS"), folder)
    return folder


@pytest.fixture(scope="module")
def outcome(corpus, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return folder, evaluate.evaluate(checkpoint, corpus, folder, "untrained", workers=SILENT)


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
    assert found >= {"validation-names", "robustness"}
    assert (
        rows(outcome[1])["phosphor", "top1"]["n_clusters"]
        < rows(outcome[1])["phosphor", "top1"]["n_items"]
    )


def test_metrics_can_be_recomputed_from_the_stored_ranks(outcome, corpus):
    folder, record = outcome
    again = evaluate.icon_rows(evaluate.unpack(folder / "ranks.npz"), corpus)
    assert again == record["metrics"]


def test_the_synonym_tolerant_top_1_is_never_below_the_strict(outcome, corpus):
    for task in corpus.manifest["tasks"]:
        assert (
            rows(outcome[1])[task, "top1_synonyms"]["value"]
            >= rows(outcome[1])[task, "top1"]["value"]
        )


def test_the_same_checkpoint_gives_the_same_record(outcome, corpus, checkpoint, tmp_path):
    again = evaluate.evaluate(checkpoint, corpus, tmp_path, "untrained", workers=SILENT)
    assert records.results(again) == records.results(outcome[1])
    assert (tmp_path / "ranks.npz").read_bytes() == (outcome[0] / "ranks.npz").read_bytes()


def test_pools_have_distinct_concepts_and_their_fixed_size(corpus):
    for pool in (evaluate.retrieval_pool(corpus), evaluate.validation_pool(corpus)):
        assert len(pool.images) == len(set(pool.clusters)) == evaluate.POOL


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
    with pytest.raises(InputError, match="no model or folder"):
        evaluate.evaluate(tmp_path / "none", corpus, tmp_path / "out", "x")
    assert not (tmp_path / "out").exists()


def test_damaged_ranks_are_one_line(tmp_path):
    (tmp_path / "ranks.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match="no readable ranks"):
        evaluate.unpack(tmp_path / "ranks.npz")


def test_templates_keep_a_place_for_the_class_name():
    from cliplib.evaluate.icon_tasks import templates

    for kind in ("icons", "styles"):
        assert len(set(templates(kind))) == len(templates(kind))
        assert all(template.count("{c}") == 1 for template in templates(kind))


def test_the_record_pins_the_circumstances(outcome):
    model_ = outcome[1]["model"]
    assert model_["activation"] == "gelu" and model_["image_px"] == 32
    assert model_["training_mode"] is False and len(outcome[1]["prompt_hash"]) == 16
    assert outcome[1]["checkpoint_hash"] == model_["weights_hash"]


def test_validation_names_are_in_distribution_and_whole_groups(corpus):
    from cliplib.evaluate.icon_tasks import validation_task

    task = validation_task(corpus)
    rows = corpus.pairs.iloc[task.items]
    assert set(rows["split"]) == {"val"} and len(task.classes) > 500
    assert [task.classes[label] for label in task.labels] == rows["concept"].tolist()
    trained = corpus.pairs[corpus.pairs["split"] == "train"]
    sets = trained.groupby("concept")["set"].nunique()
    assert sets[list(task.classes)].min() >= 2
    assert not set(rows["group"]) & set(trained["group"])


def test_robustness_weighs_artists_not_pictures(outcome):
    from cliplib.evaluate.robustness import ARTISTS

    found = rows(outcome[1])
    levels = [
        np.mean([found[task, "accuracy_20_way"]["value"] for task in tasks])
        for tasks in ARTISTS.values()
    ]
    assert found["robustness", "accuracy_20_way"]["value"] == pytest.approx(
        np.mean(levels), abs=1e-6
    )
    assert not any("kameleon" in tasks for tasks in ARTISTS.values())  # small sets are only shown


def test_probe_tasks_are_split_by_concept_and_allow_25_shots(corpus):
    from cliplib.evaluate.icon_tasks import probe_tasks

    for splits in probe_tasks(corpus):
        parts = [splits.train, splits.val, splits.test]
        concepts = [set(part.clusters) for part in parts]
        assert not concepts[0] & concepts[1] and not concepts[0] & concepts[2]
        assert not concepts[1] & concepts[2]
        assert np.bincount(splits.train.labels).min() >= 25
        assert sum(len(part.images) for part in parts) > 1000


def test_fine_categories_are_many_and_their_parts_share_no_picture(corpus):
    from cliplib.evaluate.icon_tasks import fine_categories

    splits = fine_categories(corpus)
    items = [set(part.items) for part in (splits.train, splits.val, splits.test)]
    assert len(splits.train.classes) > 1000 and not items[0] & items[1] and not items[1] & items[2]
    assert set(corpus.pairs.iloc[splits.train.items]["split"]) == {"train"}
