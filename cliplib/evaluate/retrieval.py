"""Retrieval in both directions, with one or several captions an image (paper, section 4.2)."""

from __future__ import annotations

import numpy as np

from cliplib.evaluate.blocks import ALONE, Workers
from cliplib.evaluate.features import device, image_features, scale, text_features
from cliplib.evaluate.outcomes import RETRIEVAL, Ranked
from cliplib.evaluate.similarity import Truth, ranks_among
from cliplib.evaluate.tasks import Retrieval
from cliplib.pretrained.opened import Opened


def retrieve(opened: Opened, task: Retrieval, workers: Workers = ALONE) -> dict[str, Ranked]:
    """Ranks of the right captions for each image (NAME-i2t), and of the image for each caption (NAME-t2i).

    An image with several captions is found if any of them is; each caption looks for its one image.

    Raises:
        InputError: the model has no text tower, or an image cannot be read.
    """
    counts = np.array([len(captions) for captions in task.captions])
    ends = np.cumsum(counts)
    image = image_features(opened, task.images, workers)
    text = text_features(opened, [text for texts in task.captions for text in texts], workers)
    clusters = np.arange(len(image)) if task.clusters is None else task.clusters
    items = np.arange(len(image)) if task.items is None else task.items
    whose = np.repeat(np.arange(len(image)), counts)
    options = {"scale": scale(opened), "device": device(opened), "workers": workers}
    found = {
        f"{task.name}-i2t": (
            image,
            text,
            Truth(ends - counts, ends),
            np.arange(len(image)),
            counts,
        ),
        f"{task.name}-t2i": (text, image, Truth(whose, whose + 1), whose, np.ones(len(text))),
    }
    outcome = {}
    for name, (asked, candidates, truth, of, right) in found.items():
        rank, loss = ranks_among(asked, candidates, truth, **options)  # type: ignore[arg-type]
        outcome[name] = Ranked(
            kind=RETRIEVAL, rank=rank, item=items[of], candidates=len(candidates), truth=of,
            cluster=clusters[of], right=right.astype(np.int32), loss=loss,
        )  # fmt: skip
    return outcome
