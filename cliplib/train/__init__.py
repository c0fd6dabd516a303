"""Train one run: open_clip's model and InfoNCE, our loop. One process, or many under torchrun."""

from cliplib.train.loop import train

__all__ = ["train"]
