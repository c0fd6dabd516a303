"""Fine-tuning on the icons: the one place that knows which of their tasks stand for which of the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cliplib import InputError
from cliplib.evaluate.features import class_embeddings
from cliplib.evaluate.icon_tasks import fine_categories, probe_tasks, validation_task
from cliplib.finetune.joint import JointTasks
from cliplib.finetune.recipe import ICON_TARGET, INTERMEDIATE, JOINT, STAGES, JointRecipe, Recipe
from cliplib.finetune.run import finetune
from cliplib.finetune.workshop import Say

if TYPE_CHECKING:
    from cliplib.data import Corpus
    from cliplib.evaluate.tasks import Splits
    from cliplib.pretrained.opened import Opened


def finetune_everything(
    opened: Opened, corpus: Corpus, folder: Path, *, target: str = ICON_TARGET,
    stages: Sequence[str] = STAGES, recipe: Recipe | None = None,
    between_recipe: Recipe | None = None, joint_recipe: JointRecipe | None = None, say: Say = print,
) -> dict[str, Any]:  # fmt: skip
    """Fine-tune on icons: directly, after the fine categories, and jointly on all three probe tasks.

    The fine categories stand for ImageNet-12k, the probe tasks for the paper's eight tasks, and the
    names of validation groups, which every model has in distribution, for the control ImageNet.
    About a minute for rung XS on two cores.

    Args:
        opened: the model; an image tower without texts can do all but the stage "joint".
        corpus: the built icons.
        folder: gets record, ranks and models, as `finetune` says.
        target: emoji-groups, health-categories or phosphor-styles.
        stages: of "direct", "intermediate" and "joint".
        recipe: for the target; the others for the intermediate task and for the stage "joint".
        between_recipe: as said.
        joint_recipe: as said.
        say: gets lines of progress.

    Returns:
        The record, as in ``finetune.json``.

    Raises:
        InputError: as `finetune`, and for an unknown target.
    """
    tasks = {task.name: task for task in probe_tasks(corpus)}
    if target not in tasks:
        raise InputError(f"unknown task {target!r}; known: {', '.join(tasks)}")
    return finetune(
        opened, tasks[target], folder, stages=stages,
        between=fine_categories(corpus) if INTERMEDIATE in stages else None,
        joint=_joint(opened, corpus, tasks) if JOINT in stages and opened.tokenize else None,
        recipe=recipe, between_recipe=between_recipe, joint_recipe=joint_recipe, say=say,
    )  # fmt: skip


def _joint(opened: Opened, corpus: Corpus, tasks: Mapping[str, Splits]) -> JointTasks:
    control = validation_task(corpus)
    parts = [*(task.train for task in tasks.values()), control]
    embeddings: dict[str, np.ndarray] = {
        part.name: class_embeddings(opened, part.classes, part.templates) for part in parts
    }
    return JointTasks(tuple(tasks.values()), control, embeddings)
