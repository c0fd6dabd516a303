"""Small tasks that can be learnt in seconds, for the tests of fine-tuning."""

from dataclasses import replace

import numpy as np

from cliplib.evaluate.images import StoredPixels
from cliplib.evaluate.tasks import Classification, Splits
from cliplib.finetune.recipe import Recipe, Setting

ONE = (Setting(3e-3, 0.65),)
SHORT = Recipe(epochs=2, batch_size=16, settings=ONE)
CLASSES = ("left", "right", "top")


def quiet(line):
    pass


def part(n, split, seed, name="halves", classes=CLASSES):
    """Noisy pictures with one dark half; two in a row are one cluster."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    array = rng.integers(180, 256, (n, 32, 32, 3)).astype(np.uint8)
    halves = [np.s_[:, :16], np.s_[:, 16:], np.s_[:16, :]]
    for row, label in zip(array, labels):
        row[halves[label % 3]] //= 6
    return Classification(
        name=name, classes=tuple(classes), templates=("a {c}",), labels=labels,
        images=StoredPixels(array, f"{name} {split} {seed}"), clusters=np.arange(n) // 2, split=split,
    )  # fmt: skip


def splits(name="halves", n=48, seed=0, classes=CLASSES):
    """Three parts: 48, 24 and 24 pictures."""
    sizes = {"train": n, "val": n // 2, "test": n // 2}
    return Splits(**{
        split: part(size, split, seed + place, name, classes)
        for place, (split, size) in enumerate(sizes.items())
    })  # fmt: skip


def with_test(task, **changes):
    return replace(task, test=replace(task.test, **changes))


def tuned_weights(folder):
    """Every tensor of the tuned models in a folder."""
    from safetensors.torch import load_file

    return {
        f"{file.parent.name}/{file.name}/{name}": value
        for file in sorted(folder.glob("*/*.safetensors"))
        for name, value in load_file(file).items()
    }


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert one
    assert all((one[name] == other[name]).all() for name in one)
