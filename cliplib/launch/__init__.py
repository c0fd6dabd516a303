"""Bigger machines: where each run of a scale goes, its torchrun command, its hours and energy.

`placement` places a run on GPUs and says how long it takes, `jobs` turns it into the configuration,
the torchrun command and the SLURM job, `check` builds every model without memory and compares it with
the published figures, `dryrun` prints and writes all of it without starting anything.
"""

from cliplib.launch.check import ModelCheck, check_model
from cliplib.launch.jobs import Job, Shards, config, job, torchrun
from cliplib.launch.placement import Placement, place

__all__ = [
    "Job",
    "ModelCheck",
    "Placement",
    "Shards",
    "check_model",
    "config",
    "job",
    "place",
    "torchrun",
]
