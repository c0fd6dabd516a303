"""Anyone's checkpoints: opened with the circumstances that their numbers depend on.

`opening` reads ours, any open_clip model and any timm image tower; `registry` knows the paper's
models and what was published about them; `check` builds them without memory and counts.
"""
