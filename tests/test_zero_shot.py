"""Zero-shot: ranks from scores, ties, twin names, several classes an image, own classifiers."""

from dataclasses import replace

import numpy as np
import pytest
from evaluate_things import classification, small_model

from cliplib import InputError
from cliplib.evaluate.metrics import metric_rows, task_rows
from cliplib.evaluate.outcomes import pack, unpack
from cliplib.evaluate.zero_shot import classify, ranked, scores


def value(rows, metric):
    return next(row["value"] for row in rows if row["metric"] == metric)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model"))


def test_ranks_are_those_of_the_sorted_scores(opened):
    task = classification(classes=[f"thing {i}" for i in range(25)], n=60)
    found = scores(opened, task)
    order = np.argsort(-found, axis=1)
    expected = np.argmax(order == task.labels[:, None], axis=1) + 1
    assert np.array_equal(classify(opened, task).rank, expected)


def test_a_tie_counts_against_the_model():
    task = classification(n=6)
    assert ranked(task, np.zeros((6, 3), np.float32)).rank.tolist() == [3] * 6


def test_of_two_classes_of_one_name_the_first_wins_as_with_an_arg_max():
    task = classification(n=6, classes=("crane", "sun", "crane"))
    found = ranked(task, np.array([[0.9, 0.1]] * 6, np.float32))  # crane, sun
    assert found.rank.tolist() == [1, 3, 2] * 2 and found.candidates == 3
    lost = ranked(task, np.array([[0.1, 0.9]] * 6, np.float32))
    assert lost.rank.tolist() == [2, 1, 3] * 2


def test_synonyms_are_taken_where_the_task_has_them():
    task = classification(n=6, synonyms={0: (2,)})
    found = ranked(task, np.array([[0.2, 0.1, 0.9]] * 6, np.float32))
    assert found.rank.tolist() == [2, 3, 1] * 2 and found.tolerant.tolist() == [1, 3, 1] * 2
    metrics = {row["metric"] for row in task_rows("t", found)}
    assert "top1_synonyms" in metrics
    plain = ranked(replace(task, synonyms=None), np.zeros((6, 3), np.float32))
    assert "top1_synonyms" not in {row["metric"] for row in task_rows("t", plain)}


def test_mean_per_class_recall_gives_every_class_the_same_weight():
    labels = np.array([0] * 8 + [1] * 2 + [2] * 2)
    task = classification(n=12, labels=labels)
    right = np.eye(3, dtype=np.float32)[[0] * 8 + [0, 1] + [1, 1]]  # recalls 1, 1/2, 0
    rows = task_rows("t", ranked(task, right))
    assert value(rows, "top1") == pytest.approx(9 / 12)
    assert value(rows, "mean_per_class_recall") == pytest.approx(0.5)


def test_average_precision_from_ranks_equals_its_definition():
    rng = np.random.default_rng(0)
    labels = rng.random((40, 3)) < 0.3
    found = rng.random((40, 3)).astype(np.float32)
    row = task_rows("t", ranked(classification(n=40, labels=labels), found))[0]
    precisions = []
    for own, score in zip(labels.T, found.T):
        hits = own[np.argsort(-score)]
        precisions.append((np.cumsum(hits) / np.arange(1, 41))[hits].mean())
    assert row["metric"] == "mean_average_precision"
    assert row["value"] == pytest.approx(np.mean(precisions))
    assert row["chance"] == pytest.approx(labels.mean(), abs=1e-6)


def test_every_number_follows_from_the_stored_ranks(opened, tmp_path):
    labels = np.random.default_rng(1).random((30, 3)) < 0.5
    outcome = {
        "single": classify(opened, classification(synonyms={0: (1,)})),
        "several": classify(opened, classification(labels=labels)),
    }
    (tmp_path / "ranks.npz").write_bytes(pack(outcome))
    assert metric_rows(unpack(tmp_path / "ranks.npz")) == metric_rows(outcome)


def test_a_fine_tuned_tower_is_scored_by_its_own_classifier():
    from cliplib.pretrained.opening import open_model

    tower = open_model("timm:vit_tiny_patch16_224", random=True)
    assert tower.classes == 1000
    with pytest.raises(InputError, match="1000 classes, task noise has 3"):
        classify(tower, classification())
    three = replace(tower, classes=3)  # as if it had been fine-tuned for the three
    three.model.head = three.model.head.__class__(192, 3)
    found = classify(three, classification(n=6))
    assert found.candidates == 3 and set(found.rank) <= {1, 2, 3}
