"""Fine-tuning of image towers: directly, after an intermediate task, jointly with patching.

Reading order: `recipe` (what is chosen), `towers` and `learner` (what learns), `pictures` (from what),
`course` and `training` (one training), `stages`, `joint` and `patching` (what the paper does with them),
`workshop`, `run` and `results` (a whole call), `folders` (the tuned model), `icons` (the icon tasks).
"""

from cliplib.finetune.icons import finetune_everything
from cliplib.finetune.joint import JointTasks
from cliplib.finetune.recipe import STAGES, JointRecipe, Recipe, Setting
from cliplib.finetune.run import finetune

__all__ = [
    "STAGES", "JointRecipe", "JointTasks", "Recipe", "Setting", "finetune", "finetune_everything",
]  # fmt: skip
