"""Fine-tuning from an opened model to a record: stages in two rounds of trainings."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cliplib import InputError
from cliplib.finetune import results
from cliplib.finetune.joint import Joint, JointTasks
from cliplib.finetune.pictures import IN_MEMORY, Album
from cliplib.finetune.recipe import (
    DIRECT,
    INTERMEDIATE,
    JOINT,
    STAGES,
    JointRecipe,
    Recipe,
    joint_lr,
    usual_settings,
)
from cliplib.finetune.stages import Direct, Intermediate, Result, Stage, settings_for, train_all
from cliplib.finetune.workshop import Progress, Say, Workshop
from cliplib.train.loop import locked
from cliplib.train.world import World

BETWEEN_EPOCHS = 4

if TYPE_CHECKING:
    from cliplib.evaluate.tasks import Splits
    from cliplib.finetune.course import Course
    from cliplib.finetune.training import Outcome
    from cliplib.pretrained.opened import Opened


def finetune(
    opened: Opened, target: Splits, folder: Path, *, stages: Sequence[str] = (DIRECT,),
    between: Splits | None = None, joint: JointTasks | None = None, recipe: Recipe | None = None,
    between_recipe: Recipe | None = None, joint_recipe: JointRecipe | None = None,
    in_memory: int = IN_MEMORY, say: Say = print,
) -> dict[str, Any]:  # fmt: skip
    """Fine-tune a model's image tower, test it, and write record, ranks and model folders.

    A stage that an earlier call finished in this folder is kept; a training that was cut off goes on
    from its last checkpoint and ends with the same weights.

    Args:
        opened: the model; it stays as it is.
        target: the task of the stages "direct" and "intermediate".
        folder: gets ``finetune.json``, ``finetune_ranks.npz`` and a folder of each tuned model.
        stages: of "direct", "intermediate" and "joint".
        between: the intermediate task.
        joint: the tasks of the stage "joint".
        recipe: for the target.
        between_recipe: for the intermediate task; None: `usual_between`.
        joint_recipe: for the stage "joint".
        in_memory: bytes of decoded pictures to keep; others are decoded each time.
        say: gets a line of progress every few seconds.

    Returns:
        The record, as in ``finetune.json``.

    Raises:
        InputError: an unknown stage, a task that a stage lacks or that does not fit, a folder that
            another process uses or that holds another fine-tuning.
        Diverged: the loss of every setting of a stage became no number.
        KeyboardInterrupt: interrupted; the state was saved first.
    """
    recipes = (recipe or Recipe(), between_recipe, joint_recipe or JointRecipe())
    chosen, about = _stages(opened, stages, target, between, joint, recipes)
    folder = Path(folder)
    with locked(folder, World()):
        found = results.found_before(folder, chosen, opened)
        todo = [stage for stage in chosen if stage.name not in found]
        if not todo:
            say(f"{folder}: fine-tuned already")
            return results.read(folder)
        progress = Progress("fine-tuning", sum(stage.cost for stage in todo), say)
        shop = Workshop(opened, Album(opened, in_memory), folder, progress)
        start = time.monotonic()
        found |= _ended(shop, todo)
        about |= {"seconds": round(time.monotonic() - start, 2), "target": target.name}
        about |= {"seed": recipes[0].seed, "recipes": _recorded(found)}
        record = results.write(folder, opened, _in_order(found), about)
        shutil.rmtree(shop.work, ignore_errors=True)
    say(f"{folder}: {', '.join(stage.name for stage in todo)} in {about['seconds']:.0f} s")
    return record


def usual_between(width: int, recipe: Recipe, epochs: int | None = None) -> Recipe:
    """For an intermediate task of many classes: four epochs, one setting, no layer-wise decay."""
    settings = (usual_settings(width)[-1],)
    return replace(recipe, epochs=epochs or BETWEEN_EPOCHS, batch_size=128, settings=settings)


# ------------------------------------------------------------------------------------------- stages


def _stages(
    opened: Opened, names: Sequence[str], target: Splits, between: Splits | None,
    joint: JointTasks | None, recipes: tuple[Recipe, Recipe | None, JointRecipe],
) -> tuple[list[Stage], dict[str, Any]]:  # fmt: skip
    """The stages in their order, and what the record says of the tower."""
    _check(opened, names, between, joint)
    recipe, between_recipe, joint_recipe = recipes
    settings, about = settings_for(opened, recipe.settings)
    found: list[Stage] = []
    if DIRECT in names:
        found.append(Direct(target, recipe, settings))
    if INTERMEDIATE in names and between:
        own = between_recipe or usual_between(about["width"], recipe)
        first = settings_for(opened, own.settings)[0]
        found.append(Intermediate(between, own, first, target, recipe, settings))
    if JOINT in names and joint:
        lr = joint_recipe.lr or joint_lr(about["width"])
        found.append(Joint(joint, joint_recipe, lr))
    return found, about


def _check(
    opened: Opened, names: Sequence[str], between: Splits | None, joint: JointTasks | None
) -> None:
    unknown = [name for name in names if name not in STAGES]
    if unknown or not names:
        raise InputError(
            f"unknown stage {unknown[0]!r}; known: {', '.join(STAGES)}"
            if unknown
            else f"no stage to do; known: {', '.join(STAGES)}"
        )
    if INTERMEDIATE in names and between is None:
        raise InputError(
            "stage intermediate: needs an intermediate task; give one, or leave it out"
        )
    if JOINT in names and opened.tokenize is None:
        raise InputError(
            f"stage joint: {opened.name} is an image tower without texts, and the text tower's class "
            "embeddings are its heads; leave out joint, or give a CLIP model"
        )
    if JOINT in names and joint is None:
        raise InputError("stage joint: needs tasks and a control; give them, or leave it out")


def _ended(shop: Workshop, stages: Sequence[Stage]) -> dict[str, Result]:
    """All trainings of all stages, a round at a time; then what each stage comes to."""
    opened = shop.opened
    first = _round(shop, {stage.name: stage.first() for stage in stages})
    then = _round(shop, {stage.name: stage.then(first[stage.name], opened) for stage in stages})
    found = {}
    for stage in stages:
        result = stage.end(shop, first[stage.name], then[stage.name])
        found[stage.name] = replace(
            result, record={**result.record, "identity": stage.identity(opened)}
        )
    return found


def _round(shop: Workshop, courses: Mapping[str, Sequence[Course]]) -> dict[str, list[Outcome]]:
    """The outcomes of the trainings of each stage."""
    whole = train_all(shop, [course for each in courses.values() for course in each])
    ends = np.cumsum([len(each) for each in courses.values()])
    return {name: whole[end - len(courses[name]) : end] for name, end in zip(courses, ends)}


def _in_order(found: Mapping[str, Result]) -> dict[str, Result]:
    return {name: found[name] for name in STAGES if name in found}


def _recorded(found: Mapping[str, Result]) -> dict[str, Any]:
    return {name: result.record["identity"]["recipe"] for name, result in found.items()}
