"""Zero-shot classification: images against class embeddings of prompt ensembles (paper, section 4.1).

Also classification by a fine-tuned tower's own classifier, which needs no prompts.
"""

from __future__ import annotations

import numpy as np
import torch

from cliplib import InputError
from cliplib.evaluate.blocks import ALONE, Workers, blocks_of, rows_in_blocks
from cliplib.evaluate.features import Known, class_embeddings, image_features, own_logits
from cliplib.evaluate.outcomes import MULTILABEL, ZERO_SHOT, Ranked
from cliplib.evaluate.tasks import Classification
from cliplib.pretrained.opened import Opened

ROWS = 512  # images whose scores are computed together


def classify(
    opened: Opened, task: Classification, workers: Workers = ALONE,
    known: Known | None = None,
) -> Ranked:  # fmt: skip
    """Rank of the true class of every image: zero-shot, or by the model's own classifier.

    ``known`` keeps the features of prompts for the tasks that follow.

    Raises:
        InputError: a classifier of another number of classes, or an image that cannot be read.
    """
    return ranked(task, scores(opened, task, workers, known))


def scores(
    opened: Opened, task: Classification, workers: Workers = ALONE,
    known: Known | None = None,
) -> np.ndarray:  # fmt: skip
    """(n, distinct class names) float32: cosines, or the logits of the model's own classifier."""
    if opened.classes:
        if opened.classes != len(task.classes):
            raise InputError(
                f"{opened.name} has a classifier of {opened.classes} classes, task {task.name} has "
                f"{len(task.classes)}: test it on the data it was fine-tuned for, or probe it"
            )
        return own_logits(opened, task.images, workers)
    names = list(dict.fromkeys(task.classes))
    classes = torch.from_numpy(class_embeddings(opened, names, task.templates, workers, known))
    images = image_features(opened, task.images, workers)

    def work(rows: np.ndarray) -> np.ndarray:
        return (torch.from_numpy(images[rows]) @ classes.T).numpy()

    return rows_in_blocks(blocks_of(len(images), ROWS), work)


def ranked(task: Classification, found: np.ndarray) -> Ranked:
    """Ranks from scores, (n, distinct class names) or (n, classes).

    A tie counts against the model. Classes of one name always tie; among them the first wins, as with
    an arg max.
    """
    distinct = list(dict.fromkeys(task.classes))
    if found.shape[1] == len(task.classes):
        column, shares = np.arange(len(task.classes)), np.ones(len(task.classes), np.int64)
    else:
        place = {name: at for at, name in enumerate(distinct)}
        column = np.array([place[name] for name in task.classes])
        shares = np.bincount(column)
    if task.multilabel:
        return _ranked_multilabel(task, found[:, column])
    later = _later_twins(column)
    rank = _rank(found, column[task.labels], shares) - later[task.labels]
    return Ranked(
        kind=ZERO_SHOT, rank=rank.astype(np.int32), item=_items(task), candidates=len(task.classes),
        truth=task.labels, cluster=_clusters(task),
        tolerant=_tolerant(task, found, column, shares, rank),
    )  # fmt: skip


def _rank(found: np.ndarray, columns: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(n,) classes that score at least as much as the one in each image's column, itself included."""
    own = np.take_along_axis(found, columns[:, None], axis=1)
    twins = np.flatnonzero(shares > 1)
    alike = (found[:, twins] >= own) @ (shares[twins] - 1)
    return np.count_nonzero(found >= own, axis=1) + alike


def _later_twins(column: np.ndarray) -> np.ndarray:
    """(classes,) how many later classes have the same name."""
    return np.array([(column[place + 1 :] == own).sum() for place, own in enumerate(column)])


def _tolerant(
    task: Classification, found: np.ndarray, column: np.ndarray, shares: np.ndarray, rank: np.ndarray
) -> np.ndarray:  # fmt: skip
    """The best rank among the truth and the classes whose names mean the same; empty without such."""
    if task.synonyms is None:
        return np.empty(0, np.int32)
    best = rank.astype(np.int32)
    for own, others in task.synonyms.items():
        rows = np.flatnonzero(task.labels == own)
        for other in others:
            columns = np.full(len(rows), column[other])
            best[rows] = np.minimum(best[rows], _rank(found[rows], columns, shares))
    return best


def _ranked_multilabel(task: Classification, found: np.ndarray) -> Ranked:
    """Per image and class of it: the image's rank among all images by that class's score."""
    image, label = np.nonzero(task.labels)
    order = np.argsort(-found, axis=0, kind="stable")  # (n, classes): images, best first
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(1, len(found) + 1)[:, None], axis=0)
    return Ranked(
        kind=MULTILABEL, rank=place[image, label].astype(np.int32), item=_items(task)[image],
        candidates=len(found), truth=label, cluster=_clusters(task)[image],
    )  # fmt: skip


def _items(task: Classification) -> np.ndarray:
    return np.arange(len(task.images)) if task.items is None else task.items


def _clusters(task: Classification) -> np.ndarray:
    return np.arange(len(task.images)) if task.clusters is None else task.clusters
