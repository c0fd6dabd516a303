"""One training of a tower: on which tasks, from where, how long; and what makes two of them equal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cliplib import InputError, records
from cliplib.finetune.recipe import JointRecipe, Recipe, Setting

if TYPE_CHECKING:
    from cliplib.evaluate.tasks import Classification, Splits
    from cliplib.pretrained.opened import Opened

#: Code that decides the weights of a fine-tuned tower.
CODE = (
    *records.FEATURES_CODE, "train/state.py", "train/optimiser.py",
    *(f"finetune/{name}.py" for name in
      ("course", "learner", "pictures", "recipe", "towers", "training")),
)  # fmt: skip

JOINT_POINTS = 10  # of the curve of a joint training
LEARNING = 3  # forward passes that learning from a picture costs


@dataclass(frozen=True)
class Course:
    """One training.

    Attributes:
        name: for progress and the record, such as "direct".
        tasks: learnt in turn, a batch each; one has a new linear head.
        embeddings: (C, E) frozen class embeddings of each task; None: new linear heads.
        before: the finished training whose tower this one starts from; None: the opened model's.
        epochs: passes over the only task; None: ``iterations`` counts.
        iterations: steps; 0: ``epochs`` counts.
        setting: learning rate and layer-wise decay.

    The other fields are those of `Recipe`.
    """

    name: str
    tasks: tuple[Splits, ...]
    setting: Setting
    batch_size: int
    weight_decay: float
    warmup_fraction: float
    label_smoothing: float
    clip_norm: float
    shift: float
    seed: int
    epochs: int = 0
    iterations: int = 0
    embeddings: tuple[np.ndarray, ...] | None = None
    before: Before | None = None

    @property
    def label(self) -> str:
        """Name and setting."""
        decay = (
            f", layer decay {self.setting.layer_decay:g}" if self.setting.layer_decay < 1 else ""
        )
        return f"{self.name}, lr {self.setting.lr:g}{decay}"

    @property
    def steps_an_epoch(self) -> list[int]:
        """Batches that each task's training part makes."""
        return [-(-len(task.train.images) // self.batch_size) for task in self.tasks]

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.iterations or self.epochs * self.steps_an_epoch[0]

    @property
    def curve_every(self) -> int:
        """Steps between two points of the curve: an epoch, or a tenth of the iterations."""
        return max(1, self.steps // JOINT_POINTS) if self.iterations else self.steps_an_epoch[0]

    @property
    def cost(self) -> int:
        """Pictures through the tower, where learning from one counts as several."""
        points = -(-self.steps // self.curve_every)
        evaluated = points * sum(len(task.val.images) for task in self.tasks)
        sizes = [len(task.train.images) for task in self.tasks]
        if self.epochs:
            return LEARNING * self.epochs * sizes[0] + evaluated
        return LEARNING * self.iterations * min(self.batch_size, *sizes) + evaluated

    def identity(self, opened: Opened) -> dict[str, Any]:
        """Everything that the trained weights depend on, as JSON values."""
        how = {
            name: getattr(self, name)
            for name in (
                "batch_size", "weight_decay", "warmup_fraction", "label_smoothing", "clip_norm",
                "shift", "seed", "epochs", "iterations",
            )
        }  # fmt: skip
        heads = [records.digest(e.astype(np.float32).tobytes()) for e in self.embeddings or ()]
        return {
            **how, **asdict(self.setting), **origin(opened), "heads": heads,
            "tasks": [[part.hashes for part in (task.train, task.val)] for task in self.tasks],
            "before": self.before.digest if self.before else "",
            "code_hash": records.code_hash(CODE),
        }  # fmt: skip

    def digest(self, opened: Opened) -> str:
        """Of the identity: names the folder of the training."""
        return records.digest(json.dumps(self.identity(opened), sort_keys=True))


@dataclass(frozen=True)
class Before:
    """A finished training that another one starts from: its file, and the digest of its identity."""

    file: Path
    digest: str


def origin(opened: Opened) -> dict[str, Any]:
    """What all trainings of a model depend on."""
    return {
        "weights_hash": opened.weights_hash, "image_px": opened.image_px,
        "preprocess": opened.preprocess, "precision": opened.numerics.precision,
        "attention": opened.numerics.attention,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- making


def courses_of(
    name: str,
    task: Splits,
    recipe: Recipe,
    settings: Sequence[Setting],
    before: Before | None = None,
) -> list[Course]:
    """A training for each setting, with a new linear head on one task."""
    check_task(task)
    return [
        Course(
            name=name, tasks=(task,), setting=setting, batch_size=recipe.batch_size,
            weight_decay=recipe.weight_decay, warmup_fraction=recipe.warmup_fraction,
            label_smoothing=recipe.label_smoothing, clip_norm=recipe.clip_norm, shift=recipe.shift,
            seed=recipe.seed, epochs=recipe.epochs, before=before,
        )
        for setting in settings
    ]  # fmt: skip


def joint_course(
    name: str,
    tasks: Sequence[Splits],
    embeddings: Sequence[np.ndarray],
    recipe: JointRecipe,
    lr: float,
) -> Course:
    """A training on several tasks in turn, against frozen class embeddings (C, E) of each."""
    for task, vectors in zip(tasks, embeddings, strict=True):
        check_task(task)
        check_embeddings(task.train, vectors)
    return Course(
        name=name, tasks=tuple(tasks), setting=Setting(lr), batch_size=recipe.batch_size,
        weight_decay=recipe.weight_decay, warmup_fraction=recipe.warmup_fraction,
        label_smoothing=0.0, clip_norm=recipe.clip_norm, shift=recipe.shift, seed=recipe.seed,
        iterations=recipe.iterations, embeddings=tuple(embeddings),
    )  # fmt: skip


def check_task(task: Splits) -> None:
    """Whether a task can be learnt with one class an image.

    Raises:
        InputError: an image may have several classes.
    """
    if task.train.multilabel:
        raise InputError(
            f"task {task.name}: an image may have several classes; fine-tuning needs one class an "
            "image: choose another task"
        )


def check_embeddings(part: Classification, vectors: np.ndarray) -> None:
    """Whether there is one class embedding for each class.

    Raises:
        InputError: another number of them.
    """
    if vectors.ndim != 2 or len(vectors) != len(part.classes):
        raise InputError(
            f"task {part.name}: class embeddings of shape {vectors.shape} for {len(part.classes)} "
            "classes; give an array (classes, features)"
        )
