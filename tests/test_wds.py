"""CLIP_benchmark's layout: written, read back, and what is wrong with a folder said in a line."""

import io
import json
import tarfile

import numpy as np
import pytest
from evaluate_things import classification, pixels, retrieval

from cliplib import InputError
from cliplib.evaluate.wds import read_splits, read_task, set_aside, write_task


def keep(image):
    return image


def same_images(one, other):
    places = np.arange(len(one))
    return np.array_equal(one.pixels(places, keep), other.pixels(places, keep))


@pytest.mark.parametrize("image_format", ["png", "webp"])
@pytest.mark.parametrize("shard_images", [7, 100])
def test_a_classification_task_comes_back_as_it_was(tmp_path, image_format, shard_images):
    task = classification()
    write_task(task, tmp_path / "wds_noise", image_format=image_format, shard_images=shard_images)
    back = read_task(tmp_path / "wds_noise")
    assert (back.name, back.classes, back.templates) == (task.name, task.classes, task.templates)
    assert np.array_equal(back.labels, task.labels) and same_images(task.images, back.images)
    assert {key: back.hashes[key] for key in ("prompt_hash", "class_hash")} == {
        key: task.hashes[key] for key in ("prompt_hash", "class_hash")
    }


def test_retrieval_and_multilabel_come_back_as_they_were(tmp_path):
    task = retrieval()
    back = read_task(write_task(task, tmp_path / "pool"))
    assert [tuple(texts) for texts in back.captions] == list(task.captions)
    assert same_images(task.images, back.images)
    labels = np.random.default_rng(0).random((30, 3)) < 0.5
    several = read_task(write_task(classification(labels=labels), tmp_path / "several"))
    assert several.multilabel and np.array_equal(several.labels, labels)


def test_equal_tasks_make_equal_bytes_and_nothing_is_left_aside(tmp_path):
    for name in ("a", "b"):
        write_task(classification(), tmp_path / name)
    files = [
        {str(p.relative_to(tmp_path / n)): p.read_bytes() for p in (tmp_path / n).rglob("*.*")}
        for n in ("a", "b")
    ]
    assert files[0] == files[1] and not any(name.endswith(".tmp") for name in files[0])


def test_a_second_split_goes_beside_and_another_data_set_is_refused(tmp_path):
    write_task(classification(), tmp_path / "d")
    write_task(classification(split="train"), tmp_path / "d")
    assert read_task(tmp_path / "d", "train").split == "train"
    with pytest.raises(InputError, match="holds another data set"):
        write_task(classification(classes=("a", "b", "c"), split="val"), tmp_path / "d")
    with pytest.raises(InputError, match="image format 'gif'"):
        write_task(classification(), tmp_path / "e", image_format="gif")


# ------------------------------------------------------------------------------------------ refusals


@pytest.fixture()
def folder(tmp_path):
    return write_task(classification(), tmp_path / "wds_noise", shard_images=10)


def refused(folder, message, split="test", **options):
    with pytest.raises(InputError, match=message) as error:
        read_task(folder, split, **options)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named(folder, tmp_path):
    refused(tmp_path / "nothing", "no such folder")
    refused(folder, "no split 'train'.*there are: test", split="train")
    (folder / "test" / "2.tar").unlink()
    refused(folder, r"2\.tar: missing, of 3 shards")
    (folder / "classnames.txt").unlink()
    (folder / "test" / "nshards.txt").write_text("2\n")
    refused(folder, r"classnames\.txt: missing")


def test_prompts_changed_under_a_recorded_hash_are_refused_unless_they_are_given(folder):
    templates = folder / "zeroshot_classification_templates.txt"
    templates.write_text("a photo of a {c}\n")
    refused(folder, "changed under a recorded hash.*--templates")
    assert read_task(folder, templates=["a photo of a {c}"]).templates == ("a photo of a {c}",)
    write_task_again = folder / "hashes.json"
    assert json.loads(write_task_again.read_text())["prompt_hash"]
    (folder / "classnames.txt").write_text("cat\ndog\nmoon\n")
    refused(folder, "changed under a recorded hash", templates=None)


def test_a_folder_of_others_without_hashes_is_taken_as_it_is(folder):
    (folder / "hashes.json").unlink()
    (folder / "zeroshot_classification_templates.txt").write_text("{c}!\n")
    assert read_task(folder).templates == ("{c}!",)


def rewrite(tar_path, change):
    with tarfile.open(tar_path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(tar_path, "w") as tar:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_an_image_without_label_and_a_label_without_image_are_refused(folder):
    path = folder / "test" / "0.tar"
    rewrite(path, lambda members: members[:-1])
    refused(folder, r"s0000009 has no label \(\.cls\)")
    rewrite(path, lambda members: [*members[:-1], ("s0000010.cls", b"1")])
    refused(folder, "s0000010 has no image")


def test_damage_is_found_and_named(folder):
    path = folder / "test" / "0.tar"
    whole = path.read_bytes()
    rewrite(path, lambda members: [(n, b"three" if n == "s0000002.cls" else d) for n, d in members])
    refused(folder, "a label cannot be read")
    with tarfile.open(path) as tar:
        between = [member.offset for member in tar][4]
    for length in (len(whole) // 2 - 700, between, 100, 0):  # cut within a member, or between two
        path.write_bytes(whole[:length])
        refused(folder, r"0\.tar: (damaged|broken off)")
    path.write_bytes(whole)
    rewrite(
        path, lambda members: [(n, b"<html>" if n == "s0000002.png" else d) for n, d in members]
    )
    with pytest.raises(InputError, match=r"0\.tar: image s0000002 cannot be read"):
        read_task(folder).images.pixels(np.arange(5), keep)


def test_the_hash_of_the_data_is_that_of_its_bytes(folder):
    before = read_task(folder).hashes["data_hash"]
    path = folder / "test" / "1.tar"
    rewrite(path, lambda members: list(reversed(members)))
    assert read_task(folder).hashes["data_hash"] != before


def test_an_empty_split_and_unknown_types_are_refused(folder):
    (folder / "dataset_type.txt").write_text("captioning\n")
    refused(folder, "'captioning' is no known type")
    (folder / "dataset_type.txt").unlink()
    (folder / "test" / "nshards.txt").write_text("0\n")
    refused(folder, "split test is empty")
    (folder / "test" / "nshards.txt").write_text("many\n")
    refused(folder, "no number of shards")


# -------------------------------------------------------------------------------------- three splits


def test_a_missing_validation_split_is_set_aside_from_train_by_class(tmp_path):
    write_task(classification(60, split="train", images=pixels(60)), tmp_path / "d")
    write_task(classification(), tmp_path / "d")
    splits = read_splits(tmp_path / "d", val_share=0.25)
    assert np.bincount(splits.val.labels).tolist() == [5, 5, 5]
    assert np.bincount(splits.train.labels).tolist() == [15, 15, 15]
    both = set(splits.train.images.places) | set(splits.val.images.places)
    assert len(both) == 60
    with pytest.raises(InputError, match="not between 0 and 1"):
        read_splits(tmp_path / "d", val_share=1.0)


def test_set_aside_never_empties_a_class():
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    aside = set_aside(labels, 0.9)
    assert [aside[labels == c].sum() for c in (0, 1)] == [1, 5]


def test_a_probe_needs_one_class_an_image(tmp_path):
    write_task(retrieval(split="train"), tmp_path / "r")
    write_task(retrieval(), tmp_path / "r")
    with pytest.raises(InputError, match="one class an image"):
        read_splits(tmp_path / "r")
