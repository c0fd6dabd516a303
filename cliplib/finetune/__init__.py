"""Fine-tuning of image towers: directly, after an intermediate task, jointly with patching.

Reading order: `recipe` (what is chosen), `towers` and `learner` (what learns), `pictures` (from what),
`course` and `training` (one training), `stages`, `joint` and `patching` (what the paper does with them),
`workshop`, `run` and `results` (a whole call), `folders` (the tuned model), `icons` (the icon tasks).
A call of one's own: `run.finetune` with a `recipe.Recipe`.
"""
