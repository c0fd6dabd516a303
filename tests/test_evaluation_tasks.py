"""What a model is tested on is checked before anything is computed."""

import numpy as np
import pytest
from evaluate_things import classification, pixels, retrieval

from cliplib import InputError
from cliplib.evaluate.tasks import Splits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": pixels(0), "labels": np.empty(0, int)}, "split test is empty"),
        ({"labels": np.zeros(29, int)}, "30 images but 29 labels"),
        ({"labels": np.arange(30) % 2}, r"1 classes have no image, first 'sun'"),
        ({"labels": np.arange(30) % 4}, "label 3 has no class name"),
        ({"templates": ("a picture",)}, r"needs \{c\}"),
        ({"templates": ()}, r"needs \{c\}"),
    ],
)
def test_a_classification_task_that_cannot_be_scored_is_refused(changes, message):
    with pytest.raises(InputError, match=message) as error:
        classification(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": pixels(0), "captions": []}, "split test is empty"),
        ({"captions": [("a",)] * 29}, "captions for 29 of 30 images"),
        ({"captions": [("a",)] * 31}, "captions for 31 images, but there are 30"),
        ({"captions": [("a",)] * 29 + [()]}, "1 images have no caption, first number 29"),
        ({"captions": [("a",)] * 29 + [(" ",)]}, "1 images have no caption"),
    ],
)
def test_a_retrieval_task_needs_a_caption_for_every_image(changes, message):
    with pytest.raises(InputError, match=message):
        retrieval(**changes)


def test_a_class_without_images_in_a_multilabel_task_is_refused():
    labels = np.ones((30, 3), bool)
    assert classification(labels=labels).multilabel
    labels[:, 1] = False
    with pytest.raises(InputError, match="first 'dog'"):
        classification(labels=labels)


def test_every_change_of_the_data_changes_its_hash():
    task = classification()
    assert classification(templates=("{c}",)).hashes["prompt_hash"] != task.hashes["prompt_hash"]
    assert (
        classification(classes=("cat", "dog", "son")).hashes["class_hash"]
        != task.hashes["class_hash"]
    )
    for other in (
        classification(labels=(np.arange(30) + 1) % 3),
        classification(images=pixels(30, seed=1)),
    ):
        assert other.hashes["data_hash"] != task.hashes["data_hash"]
    assert classification().hashes == task.hashes
    captions = [*retrieval().captions[:-1], ("another",)]
    assert retrieval(captions=captions).hashes != retrieval().hashes


def test_chosen_images_keep_their_labels_clusters_and_items():
    task = classification(clusters=np.arange(30) // 2, items=np.arange(30) + 100)
    some = task.take(np.array([4, 2, 9]))
    assert some.labels.tolist() == [1, 2, 0] and some.clusters.tolist() == [2, 1, 4]
    assert some.items.tolist() == [104, 102, 109]
    own = some.images.pixels(np.array([1]), lambda image: image)
    assert np.array_equal(own[0], task.images.array[2])


def test_splits_of_other_classes_do_not_belong_together():
    task = classification()
    with pytest.raises(InputError, match="classes of split test are not those of"):
        Splits(task, task, classification(classes=("cat", "dog", "moon")))


def test_stored_images_of_another_size_go_through_the_model_s_geometry():
    small = pixels(3, 16)
    grown = small.pixels(np.arange(3), lambda image: image.resize((32, 32)))
    assert grown.shape == (3, 32, 32, 3)
    same = small.pixels(np.arange(3), lambda image: image.resize((16, 16)))
    assert np.array_equal(same, small.array)
