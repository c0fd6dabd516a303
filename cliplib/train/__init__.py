"""Train one run: open_clip's model and InfoNCE, our loop. One process, or many under torchrun.

Reading order: `config` (what can be chosen), `loop` (the steps of a run), `feeds` (what a step is
fed), `engines` (how its gradient is computed), `loss`, `optimiser`, `world` (the processes),
`checkpoints`, `instruments`, `measure` (how fast it is).
"""

from cliplib.train.config import Settings, TrainConfig
from cliplib.train.loop import Diverged, train

__all__ = ["Diverged", "Settings", "TrainConfig", "train"]
