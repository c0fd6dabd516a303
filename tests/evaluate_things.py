"""A small model and small data sets that several tests of the evaluation share."""

import numpy as np

from cliplib import model
from cliplib.evaluate.images import StoredPixels
from cliplib.evaluate.tasks import Classification, Retrieval
from cliplib.ladder import rung
from cliplib.pretrained.opening import open_model


def small_model(folder, precision="fp32", seed=0):
    """An untrained rung XXS, as training saves it and `open_model` opens it."""
    model.save(model.create(rung("XXS"), seed), rung("XXS"), folder)
    return open_model(str(folder), precision=precision)


def pixels(n=30, px=32, seed=0):
    array = np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), np.uint8)
    return StoredPixels(array, f"noise {n} {px} {seed}")


def classification(n=30, classes=("cat", "dog", "sun"), **changes):
    fields = {
        "name": "noise", "classes": tuple(classes), "templates": ("a {c}", "{c}"),
        "images": pixels(n), "labels": np.arange(n) % len(classes),
    }  # fmt: skip
    return Classification(**{**fields, **changes})


def retrieval(n=30, **changes):
    captions = [tuple(f"picture {i} seen {k}" for k in range(1 + i % 3)) for i in range(n)]
    return Retrieval(**{"name": "pool", "images": pixels(n), "captions": captions, **changes})
