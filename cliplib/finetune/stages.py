"""Fine-tuning on one task: directly, or after an intermediate task (paper, section 4.4).

A stage says which trainings it needs, in two rounds, and makes of them a record and ranks on test.
The setting is the best on validation; test is looked at once, with the tower that was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cliplib import records
from cliplib.evaluate.zero_shot import ranked
from cliplib.finetune import folders
from cliplib.finetune.course import CODE, Before, Course, courses_of, origin
from cliplib.finetune.recipe import DIRECT, INTERMEDIATE, Recipe, Setting, usual_settings
from cliplib.finetune.towers import kind_of_layers, tower_of, width_of
from cliplib.finetune.training import Outcome, learner_of, logits_of, train
from cliplib.train import Diverged

if TYPE_CHECKING:
    from cliplib.evaluate.outcomes import Ranked
    from cliplib.evaluate.tasks import Classification, Splits
    from cliplib.finetune.workshop import Workshop
    from cliplib.pretrained.opened import Opened

#: Code that decides the numbers of a stage.
STAGE_CODE = (
    *CODE, "evaluate/zero_shot.py",
    *(f"finetune/{name}.py" for name in ("folders", "joint", "patching", "stages")),
)  # fmt: skip

Outcomes = Sequence[Outcome]


@dataclass(frozen=True)
class Result:
    """What a stage comes to.

    Attributes:
        record: as in ``finetune.json``.
        ranked: ranks on test, by name of the tower and of the task: "direct.emoji-groups".
    """

    record: dict[str, Any]
    ranked: dict[str, Ranked]


class Stage(Protocol):
    """What `cliplib.finetune.run` asks of a stage."""

    @property
    def name(self) -> str:
        """Of the stage."""

    def identity(self, opened: Opened) -> dict[str, Any]:
        """What its numbers depend on, as JSON values."""

    def first(self) -> list[Course]:
        """The trainings of the first round."""

    def then(self, outcomes: Outcomes, opened: Opened) -> list[Course]:
        """The trainings of the second round; none in most stages."""

    def end(self, shop: Workshop, first: Outcomes, then: Outcomes) -> Result:
        """Choose, test, and write the model's folder."""

    @property
    def cost(self) -> int:
        """Pictures through the tower that both rounds take."""


# ------------------------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Direct:
    """A new head on the task, and the whole tower learns."""

    target: Splits
    recipe: Recipe
    settings: tuple[Setting, ...]
    name: str = DIRECT

    def identity(self, opened: Opened) -> dict[str, Any]:
        """As `Stage.identity`."""
        return {
            **common_identity(opened), "target": hashes_of(self.target),
            "recipe": {**asdict(self.recipe), "settings": [asdict(s) for s in self.settings]},
        }  # fmt: skip

    @property
    def cost(self) -> int:
        """As `Stage.cost`."""
        return sum(course.cost for course in self.first()) + len(self.target.test.images)

    def first(self) -> list[Course]:
        """As `Stage.first`."""
        return courses_of(self.name, self.target, self.recipe, self.settings)

    def then(self, outcomes: Outcomes, opened: Opened) -> list[Course]:
        """As `Stage.then`."""
        return []

    def end(self, shop: Workshop, first: Outcomes, then: Outcomes) -> Result:
        """As `Stage.end`."""
        return tested(self.name, shop, first)


@dataclass(frozen=True)
class Intermediate:
    """First another task of many classes, as ImageNet-12k in the paper; then the task, with a new head."""

    between: Splits
    between_recipe: Recipe
    between_settings: tuple[Setting, ...]
    target: Splits
    recipe: Recipe
    settings: tuple[Setting, ...]
    name: str = INTERMEDIATE

    def identity(self, opened: Opened) -> dict[str, Any]:
        """As `Stage.identity`."""
        before = Direct(self.between, self.between_recipe, self.between_settings).identity(opened)
        after = Direct(self.target, self.recipe, self.settings).identity(opened)
        return {**after, "between": {name: before[name] for name in ("target", "recipe")}}

    @property
    def cost(self) -> int:
        """As `Stage.cost`."""
        after = Direct(self.target, self.recipe, self.settings)
        return sum(course.cost for course in self.first()) + after.cost

    def first(self) -> list[Course]:
        """As `Stage.first`."""
        name = f"{self.name} {self.between.name}"
        return courses_of(name, self.between, self.between_recipe, self.between_settings)

    def then(self, outcomes: Outcomes, opened: Opened) -> list[Course]:
        """As `Stage.then`."""
        best = best_of(outcomes)
        before = Before(best.file, best.course.digest(opened))
        return courses_of(self.name, self.target, self.recipe, self.settings, before)

    def end(self, shop: Workshop, first: Outcomes, then: Outcomes) -> Result:
        """As `Stage.end`."""
        result = tested(self.name, shop, then)
        between = {"task": self.between.name, **grid_of(first)}
        return Result({**result.record, "between": between}, result.ranked)


# ------------------------------------------------------------------------------------------ choosing


def best_of(outcomes: Outcomes) -> Outcome:
    """The best mean validation accuracy; of equals the lowest loss, then the first.

    Raises:
        Diverged: not one training ended.
    """
    ended = [outcome for outcome in outcomes if outcome.result["val"] is not None]
    if not ended:
        raise Diverged(f"no setting went through: {outcomes[0].result['stopped']}")
    return max(ended, key=lambda o: (sum(o.result["val"]), -sum(o.result["val_loss"])))


def grid_of(outcomes: Outcomes) -> dict[str, Any]:
    """For the record: every setting with its curve, which was chosen, and whether at the edge."""
    best = best_of(outcomes)
    rates = sorted({outcome.course.setting.lr for outcome in outcomes})
    return {
        "settings": [{**asdict(o.course.setting), **o.result} for o in outcomes],
        "chosen": asdict(best.course.setting),
        "lr_at_edge": len(rates) > 1 and best.course.setting.lr in (rates[0], rates[-1]),
    }


def settings_for(
    opened: Opened, chosen: Sequence[Setting]
) -> tuple[tuple[Setting, ...], dict[str, Any]]:
    """Settings that this model's tower can be trained with, and what the record says about it.

    Without a known order of layers there is no layer-wise decay, and settings that differ in nothing
    else are one.

    Args:
        opened: the model.
        chosen: what was asked for; nothing: the usual ones.
    """
    tower = tower_of(opened)
    width = width_of(tower, opened)
    kind = kind_of_layers(tower)
    settings = tuple(chosen) or usual_settings(width)
    if kind.startswith("none"):
        settings = tuple(dict.fromkeys(Setting(setting.lr) for setting in settings))
    return settings, {"width": width, "layers": kind}


# ------------------------------------------------------------------------------------------- shared


def tested(name: str, shop: Workshop, outcomes: Outcomes) -> Result:
    """Test the chosen tower and write its folder."""
    best = best_of(outcomes)
    task = best.course.tasks[0]
    (found,) = shop.together([lambda: test(shop, best, task.test)])
    tensors = best.tensors()
    head = folders.Head(tensors["heads.0.weight"], tensors["heads.0.bias"], task.train.classes)
    folders.save(shop.opened, best.tower(), shop.out / name, head)
    record = {**grid_of(outcomes), "checkpoint": name, "task": task.name}
    return Result(record, {f"{name}.{task.name}": found})


def test(shop: Workshop, outcome: Outcome, part: Classification) -> Ranked:
    """Ranks of the truth on a part of the only task of a training."""
    learner = learner_of(outcome.course, shop.opened)
    learner.load_state_dict(outcome.tensors())
    pictures = shop.album.of(part)
    found = ranked(part, logits_of(learner, 0, pictures, shop.opened))
    shop.progress.add(len(pictures), f"{outcome.course.label}: tested")
    return found


def train_all(shop: Workshop, courses: Sequence[Course]) -> list[Outcome]:
    """The outcomes of trainings, in order; the longest is begun first."""
    order = sorted(range(len(courses)), key=lambda place: -courses[place].cost)

    def job(course: Course) -> Outcome:
        folder = shop.work / f"{course.name.replace(' ', '-')}-{course.digest(shop.opened)}"
        return train(course, shop.opened, shop.album, folder, shop.progress, shop.stop)

    ended = shop.together([lambda c=courses[place]: job(c) for place in order])  # type: ignore[misc]
    return [ended[order.index(place)] for place in range(len(courses))]


def common_identity(opened: Opened) -> dict[str, Any]:
    """What every stage depends on."""
    return {**origin(opened), "code_hash": records.code_hash(STAGE_CODE)}


def hashes_of(task: Splits) -> dict[str, Any]:
    """Name and hashes of a task's parts."""
    parts = {"train": task.train, "val": task.val, "test": task.test}
    return {"name": task.name, **{name: part.hashes for name, part in parts.items()}}
