"""A training from its start, or from where it was stopped, to its end.

What a step does depends on the course and the state before it alone. A training that is killed and
started again ends with the same weights, bit for bit on a CPU; it keeps to one thread, so how many
run at once changes nothing either.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliplib.evaluate.blocks import blocks_of
from cliplib.evaluate.features import SMALL_PX, device, network_input, scale
from cliplib.evaluate.ranks import ranks_of_truth
from cliplib.finetune.course import LEARNING, Course
from cliplib.finetune.learner import (
    Learner,
    ZeroShotHead,
    adamw,
    linear_head,
    parameter_groups,
    rate_at,
    set_rate,
)
from cliplib.finetune.pictures import Album, Pictures, batches_of_epoch, shifted
from cliplib.finetune.towers import tower_of, width_of
from cliplib.finetune.workshop import Progress
from cliplib.train import Diverged, checkpoint_file
from cliplib.train.checkpoints import Checkpoints
from cliplib.train.state import pack, unpack

if TYPE_CHECKING:
    from cliplib.pretrained.opened import Opened

FINISHED = "finished.safetensors"
AT_ONCE = {"small": 256, "large": 32}  # pictures evaluated together


class Stopped(Exception):
    """The training was asked to stop; its state is saved."""


@dataclass(frozen=True)
class Outcome:
    """A finished training.

    Attributes:
        course: which.
        result: val and val_loss per task (None if it diverged), curve, steps, seconds, stopped.
        file: where its weights are.
    """

    course: Course
    result: dict[str, Any]
    file: Path

    def tensors(self) -> dict[str, Tensor]:
        """Its weights, by name in `Learner`."""
        return checkpoint_file.read(self.file)[0]

    def tower(self) -> dict[str, Tensor]:
        """The tower's weights, by name in `ImageTower`."""
        return tower_weights(self.tensors())


def tower_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tower's among a learner's weights."""
    start = "tower."
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


# ------------------------------------------------------------------------------------ whole training


def finished(course: Course, opened: Opened, folder: Path) -> Outcome | None:
    """The outcome that an earlier call left in the folder; None if there is none of this course."""
    file = folder / FINISHED
    try:
        document = checkpoint_file.read(file)[1]
    except checkpoint_file.Damaged:
        return None
    if document["digest"] != course.digest(opened):
        return None
    return Outcome(course, document["result"], file)


def train(
    course: Course, opened: Opened, album: Album, folder: Path, progress: Progress,
    stop: threading.Event | None = None,
) -> Outcome:  # fmt: skip
    """Train to the end, from the last checkpoint in the folder if there is one.

    A loss or gradient that is no number ends the training before the optimiser steps; the outcome
    says so in ``result["stopped"]`` and has no weights.

    Args:
        course: what to train.
        opened: the model whose tower is trained; it stays as it is.
        album: where pictures are kept.
        folder: of this training alone.
        progress: is told of pictures that went through the tower, and how it goes.
        stop: once set, the state is saved and `Stopped` raised.

    Raises:
        InputError: an image cannot be read, or the folder cannot be written to.
        Stopped: on ``stop``.
    """
    done = finished(course, opened, folder)
    if done:
        progress.skip(course.cost, f"{course.label}: finished before")
        return done
    training = _Training(course, opened, album, folder, progress, stop or threading.Event())
    try:
        tensors, result = training.go()
    except Diverged as error:
        tensors, result = {}, training.result(stopped=str(error))
    document = {
        "digest": course.digest(opened),
        "identity": course.identity(opened),
        "result": result,
    }
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint_file.write(folder / FINISHED, tensors, document)
    training.checkpoints.clear()
    return Outcome(course, result, folder / FINISHED)


class _Training:
    def __init__(
        self, course: Course, opened: Opened, album: Album, folder: Path, progress: Progress,
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self.course, self.opened, self.progress, self.stop = course, opened, progress, stop
        self.train = [album.of(task.train) for task in course.tasks]
        self.val = [album.of(task.val) for task in course.tasks]
        self.learner = learner_of(course, opened)
        groups = parameter_groups(self.learner, course.setting, course.weight_decay)
        self.optimiser = adamw(groups, course.setting.lr)
        self.parameters = list(self.learner.parameters())
        self.checkpoints = Checkpoints(
            folder, course.identity(opened), every_steps=course.curve_every, say=lambda line: None
        )
        self.step, self.losses = 0, 0.0
        self.curve: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._resume()

    def go(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Take the steps that are left."""
        before, start = self.seconds, time.monotonic()
        for task, pixels, labels in self._batches():
            self._learn(task, pixels, labels)
            self.seconds = before + time.monotonic() - start
            if self.step % self.course.curve_every == 0 or self.step == self.course.steps:
                self._point()
            if self.stop.is_set() or self.checkpoints.due(self.step, time.monotonic()):
                self._save()
            if self.stop.is_set():
                raise Stopped
        return self.learner.state_dict(), self.result()

    def result(self, stopped: str = "") -> dict[str, Any]:
        """What the record keeps of it."""
        last = self.curve[-1] if self.curve and not stopped else {"val": None, "val_loss": None}
        return {
            "val": last["val"], "val_loss": last["val_loss"], "curve": self.curve,
            "steps": self.step, "seconds": round(self.seconds, 2), "stopped": stopped,
        }  # fmt: skip

    # ---- steps

    def _batches(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Task, pixels and labels of every step that is left; tasks take turns."""
        count = len(self.course.tasks)
        readers = [self._batches_of(task) for task in range(count)]
        for step in range(self.step, self.course.steps):
            yield (step % count, *next(readers[step % count]))

    def _batches_of(self, task: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of one task from where the training stands, epoch after epoch."""
        count, each = len(self.course.tasks), self.course.steps_an_epoch[task]
        done = len(range(task, self.step, count))
        left = len(range(task, self.course.steps, count)) - done
        epoch, first = divmod(done, each)
        while left > 0:
            lots = self._lots(task, epoch)[first : first + left]
            for place, pixels in enumerate(self.train[task].batches(lots), first):
                moved = shifted(pixels, self.course.shift, (self.course.seed, task, epoch, place))
                yield moved, self.train[task].labels[lots[place - first]]
            epoch, first, left = epoch + 1, 0, left - len(lots)

    def _lots(self, task: int, epoch: int) -> list[np.ndarray]:
        course = self.course
        return batches_of_epoch(len(self.train[task]), course.batch_size, course.seed, epoch, task)

    def _learn(self, task: int, pixels: np.ndarray, labels: np.ndarray) -> None:
        """One optimiser step.

        Raises:
            Diverged: loss or gradient is no number; the weights are those before.
        """
        course = self.course
        lr = rate_at(self.step, course.steps, course.setting.lr, course.warmup_fraction)
        set_rate(self.optimiser, lr)
        loss = self._loss(task, pixels, labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, course.clip_norm)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise Diverged(
                f"{course.label}: step {self.step + 1}: loss {value}, gradient norm {norm.item()} at "
                f"learning rate {lr:.1e}; lower the learning rate"
            )
        self.optimiser.step()
        self.step += 1
        self.losses += value
        self.progress.add(LEARNING * len(labels), self._how_it_goes())

    def _loss(self, task: int, pixels: np.ndarray, labels: np.ndarray) -> Tensor:
        x = network_input(self.opened, pixels)
        logits = self.learner(x, task, self.opened.numerics.dtype)
        truth = torch.from_numpy(labels.astype(np.int64)).to(x.device)
        return F.cross_entropy(logits, truth, label_smoothing=self.course.label_smoothing)

    # ---- looking on

    def _point(self) -> None:
        """A point of the curve: mean loss since the last, accuracy and loss on validation."""
        since = self.step - (self.curve[-1]["step"] if self.curve else 0)
        found = [
            accuracy_and_loss(logits_of(self.learner, task, pictures, self.opened), pictures.labels)
            for task, pictures in enumerate(self.val)
        ]
        self.curve.append({
            "step": self.step, "train_loss": round(self.losses / since, 5),
            "val": [accuracy for accuracy, _ in found], "val_loss": [loss for _, loss in found],
        })  # fmt: skip
        self.losses = 0.0
        self.progress.add(sum(map(len, self.val)), self._how_it_goes())

    def _how_it_goes(self) -> str:
        course = self.course
        val = f", val {np.mean(self.curve[-1]['val']):.1%}" if self.curve else ""
        return f"{course.label}: step {self.step:,} of {course.steps:,}{val}"

    # ---- stopping and going on

    def _save(self) -> None:
        state = {"losses": self.losses, "curve": self.curve, "seconds": self.seconds}
        self.checkpoints.save(self.step, pack(self.learner, self.optimiser), state)

    def _resume(self) -> None:
        saved = self.checkpoints.latest()
        if saved is None:
            return
        unpack(saved.tensors, self.learner, self.optimiser)
        self.step, self.losses = saved.step, saved.state["losses"]
        self.curve, self.seconds = saved.state["curve"], saved.state["seconds"]
        seen = self.course.cost * self.step // self.course.steps
        self.progress.skip(seen, f"{self.course.label}: resumed at step {self.step:,}")


# ------------------------------------------------------------------------------------------- pieces


def learner_of(course: Course, opened: Opened) -> Learner:
    """The tower that a course starts from, with its heads."""
    tower = tower_of(opened)
    if course.before:
        tower.load_state_dict(tower_weights(checkpoint_file.read(course.before.file)[0]))
    if course.embeddings is None:
        width = width_of(tower, opened)
        heads: list[nn.Module] = [linear_head(width, len(t.train.classes)) for t in course.tasks]
    else:
        heads = [ZeroShotHead(vectors, scale(opened)) for vectors in course.embeddings]
    return Learner(tower, heads).to(device(opened))


def logits_of(learner: Learner, task: int, pictures: Pictures, opened: Opened) -> np.ndarray:
    """Logits of all pictures of a part: (n, C) float32, in blocks that the data alone fixes."""
    size = AT_ONCE["small" if opened.image_px <= SMALL_PX else "large"]
    found = []
    for pixels in pictures.batches(blocks_of(len(pictures), size)):
        with torch.inference_mode():
            x = network_input(opened, pixels)
            found.append(learner(x, task, opened.numerics.dtype).cpu().numpy())
    return np.concatenate(found)


def accuracy_and_loss(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Share of images whose class is alone on top, and mean cross-entropy in nats."""
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels.astype(np.int64)))
    return float((ranks_of_truth(logits, labels) == 1).mean()), loss.item()
