"""What a model is tested on: images with labels and class names, or images with captions.

Both are checked when they are made, so that a protocol never meets an empty split, a class without
images or an image without a caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cliplib import InputError
from cliplib.evaluate.images import Chosen, Images
from cliplib.records import digest

PLACE = "{c}"  # where a template has the class name, as CLIP_benchmark writes it


@dataclass(frozen=True)
class Classification:
    """A classification data set.

    Attributes:
        name: such as "imagenet1k" or "phosphor".
        classes: class names, by label; two classes may share a name.
        templates: prompts with ``{c}`` where the class name goes.
        images: n images.
        labels: (n,) class of each image; or, with several classes an image, (n, classes) of bool.
        clusters: (n,) images that count as one draw in an interval; None: each its own.
        items: (n,) number that the ranks give each image; None: its place.
        synonyms: per class, the other classes whose names mean the same.
        split: which part of the data set this is.
    """

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    images: Images
    labels: np.ndarray
    clusters: np.ndarray | None = None
    items: np.ndarray | None = None
    synonyms: Mapping[int, Sequence[int]] | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        _check_images(self)
        if len(self.labels) != len(self.images):
            raise InputError(
                f"task {self.name}: {len(self.images)} images but {len(self.labels)} labels; "
                "write the data set again"
            )
        if not self.templates or any(PLACE not in template for template in self.templates):
            raise InputError(
                f"task {self.name}: every prompt template needs {PLACE} for the class name"
            )
        if self.multilabel:
            self._check_classes(self.labels.shape[1] - 1, np.any(self.labels, axis=0))
        else:
            present = np.bincount(self.labels, minlength=len(self.classes)) > 0
            self._check_classes(int(self.labels.max()), present)

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes (VOC2007)."""
        return self.labels.ndim == 2

    @property
    def hashes(self) -> dict[str, str]:
        """What a number depends on beside the model: prompts, class names, images, labels."""
        return {
            "prompt_hash": digest(*self.templates),
            "class_hash": digest(*self.classes),
            "data_hash": digest(self.images.content_hash, np.ascontiguousarray(self.labels).tobytes()),
        }  # fmt: skip

    def take(self, places: np.ndarray) -> Classification:
        """The images at these places, in that order, with the same classes."""
        clusters, items = (
            None if numbers is None else numbers[places] for numbers in (self.clusters, self.items)
        )
        return replace(
            self, images=Chosen(self.images, places), labels=self.labels[places],
            clusters=clusters, items=items,
        )  # fmt: skip

    def _check_classes(self, highest: int, present: np.ndarray) -> None:
        if highest >= len(self.classes):
            raise InputError(
                f"task {self.name}: label {highest} has no class name ({len(self.classes)} names)"
            )
        absent = [name for name, there in zip(self.classes, present) if not there]
        if absent:
            raise InputError(
                f"task {self.name}, split {self.split}: {len(absent)} classes have no image, first "
                f"{absent[0]!r}; their recall would be undefined: remove the class or mend the split"
            )


@dataclass(frozen=True)
class Retrieval:
    """Images, each with one or several captions.

    Attributes:
        name: such as "mscoco_captions".
        images: n images.
        captions: n non-empty sequences.
        clusters: (n,) images that count as one draw in an interval; None: each its own.
        items: (n,) number that the ranks give each image; None: its place.
        split: which part of the data set this is.
    """

    name: str
    images: Images
    captions: Sequence[Sequence[str]]
    clusters: np.ndarray | None = None
    items: np.ndarray | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        _check_images(self)
        if len(self.captions) < len(self.images):
            raise InputError(
                f"task {self.name}: captions for {len(self.captions)} of {len(self.images)} images; "
                "every image needs one or more"
            )
        if len(self.captions) > len(self.images):
            raise InputError(
                f"task {self.name}: captions for {len(self.captions)} images, but there are "
                f"{len(self.images)}; write the data set again"
            )
        bare = [
            place for place, texts in enumerate(self.captions) if not any(map(str.strip, texts))
        ]
        if bare:
            raise InputError(
                f"task {self.name}: {len(bare)} images have no caption, first number {bare[0]}; "
                "every image needs one or more"
            )

    @property
    def hashes(self) -> dict[str, str]:
        """What a number depends on beside the model: images and captions."""
        captions = (text for texts in self.captions for text in (*texts, ""))
        return {"data_hash": digest(self.images.content_hash, *captions)}


Task = Classification | Retrieval


@dataclass(frozen=True)
class Splits:
    """One classification data set in three parts: settings are chosen on ``val``, never on ``test``."""

    train: Classification
    val: Classification
    test: Classification

    def __post_init__(self) -> None:
        for part in (self.val, self.test):
            if part.classes != self.train.classes:
                raise InputError(
                    f"task {part.name}: the classes of split {part.split} are not those of "
                    f"{self.train.split}"
                )

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.test.name


def _check_images(task: Task) -> None:
    if not len(task.images):
        raise InputError(
            f"task {task.name}: split {task.split} is empty; there is nothing to test on"
        )
