"""Joint fine-tuning on several tasks against frozen zero-shot heads, then patching (paper, section 4.4).

The class embeddings of the text tower are the heads, and only the image tower learns. So the tuned
model still is a CLIP: it can be asked about any other class, and about a control task that it was not
tuned for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cliplib import InputError, records
from cliplib.evaluate.features import scale
from cliplib.evaluate.outcomes import Ranked
from cliplib.evaluate.ranks import clustered_mean, top_k
from cliplib.evaluate.zero_shot import ranked
from cliplib.finetune import folders
from cliplib.finetune.course import Course, check_embeddings, joint_course
from cliplib.finetune.learner import Learner, ZeroShotHead
from cliplib.finetune.patching import Point, allowed_loss, choose, interpolate
from cliplib.finetune.recipe import JOINT, JointRecipe
from cliplib.finetune.stages import Outcomes, Result, best_of, common_identity, hashes_of
from cliplib.finetune.towers import tower_of
from cliplib.finetune.training import logits_of

if TYPE_CHECKING:
    from cliplib.evaluate.tasks import Classification, Splits
    from cliplib.finetune.workshop import Workshop
    from cliplib.pretrained.opened import Opened

ZERO_SHOT, PATCHED = "zero-shot", "patched"  # names of the towers at alpha 0 and at the one chosen


@dataclass(frozen=True)
class JointTasks:
    """What is learnt together, and what must not be lost.

    Attributes:
        tasks: learnt in turn.
        control: not learnt; how much of it is lost decides how far the weights move. The rule sees
            all of it, as the paper's sees ImageNet, so its accuracy after is a little flattered.
        embeddings: (C, E) class embeddings by name of the task, the control's too.
    """

    tasks: tuple[Splits, ...]
    control: Classification
    embeddings: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        names = [self.control.name, *(task.name for task in self.tasks)]
        if not self.tasks or len(set(names)) < len(names):
            raise InputError(
                f"joint fine-tuning: give one task or more beside the control, each once, not "
                f"{', '.join(names)}"
            )
        for part in (*(task.train for task in self.tasks), self.control):
            if part.name not in self.embeddings:
                raise InputError(
                    f"task {part.name}: joint fine-tuning needs its class embeddings; known: "
                    f"{', '.join(self.embeddings) or 'none'}"
                )
            check_embeddings(part, self.embeddings[part.name])

    @property
    def heads(self) -> list[np.ndarray]:
        """The class embeddings of the tasks, in order."""
        return [self.embeddings[task.train.name] for task in self.tasks]


@dataclass(frozen=True)
class Joint:
    """The stage: one training, then the curve between the two towers."""

    what: JointTasks
    recipe: JointRecipe
    lr: float
    name: str = JOINT

    def identity(self, opened: Opened) -> dict[str, Any]:
        """As `Stage.identity`."""
        vectors = [*self.what.heads, self.what.embeddings[self.what.control.name]]
        recipe = {**asdict(self.recipe), "lr": self.lr, "alphas": list(self.recipe.alphas)}
        return {
            **common_identity(opened), "tasks": [hashes_of(task) for task in self.what.tasks],
            "control": {"name": self.what.control.name, **self.what.control.hashes},
            "heads": [records.digest(v.astype(np.float32).tobytes()) for v in vectors],
            "recipe": recipe,
        }  # fmt: skip

    @property
    def cost(self) -> int:
        """As `Stage.cost`."""
        (course,) = self.first()
        tests = sum(len(task.test.images) for task in self.what.tasks)
        looks = sum(len(task.val.images) for task in self.what.tasks) + len(
            self.what.control.images
        )
        return course.cost + len(self.recipe.alphas) * looks + 3 * tests

    def first(self) -> list[Course]:
        """As `Stage.first`."""
        return [joint_course(self.name, self.what.tasks, self.what.heads, self.recipe, self.lr)]

    def then(self, outcomes: Outcomes, opened: Opened) -> list[Course]:
        """As `Stage.then`."""
        return []

    def end(self, shop: Workshop, first: Outcomes, then: Outcomes) -> Result:
        """As `Stage.end`."""
        tuned = best_of(first)
        way = _Way(shop, self.what, tower_of(shop.opened).state_dict(), tuned.tower())
        looks = dict(zip(self.recipe.alphas, way.along(self.recipe.alphas)))
        control = looks[0.0].control
        before = clustered_mean(top_k(control.rank, 1), control.cluster)
        allowed = allowed_loss(self.recipe.tolerance, before)
        best = choose([look.point for look in looks.values()], allowed)
        ends = {ZERO_SHOT: 0.0, JOINT: 1.0, PATCHED: best.alpha}
        found = way.tests(ends) | {
            f"{name}.{self.what.control.name}": looks[alpha].control for name, alpha in ends.items()
        }
        for name in (JOINT, PATCHED):
            folders.save(shop.opened, way.at(ends[name]), shop.out / name, None)
        record = {
            "training": {**asdict(tuned.course.setting), **tuned.result},
            "curve": [look.record for look in looks.values()], "alpha": best.alpha,
            "rule": self.recipe.tolerance, "allowed_loss": allowed,
            "control": {
                "task": self.what.control.name, "before": before.value, "after": best.control,
                "after_whole_way": looks[1.0].point.control,
            },
            "tasks": [task.name for task in self.what.tasks], "checkpoint": JOINT,
            "patched_checkpoint": PATCHED,
        }  # fmt: skip
        return Result(record, found)


@dataclass(frozen=True)
class Look:
    """One place between the towers: a point of the curve, with the ranks behind its control."""

    point: Point
    control: Ranked

    @property
    def record(self) -> dict[str, Any]:
        """The point as a row."""
        point = self.point
        return {
            "alpha": point.alpha, "mean_val": point.mean_val, "val": dict(point.val),
            "control": point.control,
        }  # fmt: skip


@dataclass(frozen=True)
class _Way:
    """From the tower before to the tower after."""

    shop: Workshop
    what: JointTasks
    before: dict[str, Tensor]
    after: dict[str, Tensor]

    def at(self, alpha: float) -> dict[str, Tensor]:
        """The tower's weights at a place."""
        return interpolate(self.before, _beside(self.after, self.before), alpha)

    def along(self, alphas: Sequence[float]) -> list[Look]:
        """Validation and control at every place."""
        return self.shop.together([partial(self._look, alpha) for alpha in alphas])

    def tests(self, ends: Mapping[str, float]) -> dict[str, Ranked]:
        """Ranks on the tasks' test parts, by name of the tower and of the task."""
        jobs = [partial(self._test, alpha) for alpha in ends.values()]
        return {
            f"{name}.{task}": found
            for name, tests in zip(ends, self.shop.together(jobs))
            for task, found in tests.items()
        }

    def _look(self, alpha: float) -> Look:
        vals = [task.val for task in self.what.tasks]
        *found, control = self._ranked(alpha, [*vals, self.what.control])
        val = {part.name: _accuracy(r) for part, r in zip(vals, found)}
        return Look(Point(alpha, val, _accuracy(control)), control)

    def _test(self, alpha: float) -> dict[str, Ranked]:
        tests = [task.test for task in self.what.tasks]
        return {part.name: r for part, r in zip(tests, self._ranked(alpha, tests))}

    def _ranked(self, alpha: float, parts: Sequence[Classification]) -> list[Ranked]:
        tower = tower_of(self.shop.opened)
        tower.load_state_dict(self.at(alpha))
        temperature = scale(self.shop.opened)
        heads = [ZeroShotHead(self.what.embeddings[part.name], temperature) for part in parts]
        learner = Learner(tower, heads).to(next(tower.parameters()).device)
        found = []
        for place, part in enumerate(parts):
            pictures = self.shop.album.of(part)
            found.append(ranked(part, logits_of(learner, place, pictures, self.shop.opened)))
            self.shop.progress.add(len(pictures), f"{JOINT}: at alpha {alpha:g}")
        return found


def _accuracy(r: Ranked) -> float:
    return float(top_k(r.rank, 1).mean())


def _beside(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors on the devices of others."""
    return {name: value.to(others[name].device) for name, value in tensors.items()}
