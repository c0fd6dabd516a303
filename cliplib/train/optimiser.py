"""AdamW and its learning rate: a linear warm-up, then a cosine to zero."""

from __future__ import annotations

import math

import torch
from torch import nn

from cliplib.ladder import RunSpec

BETAS = (0.9, 0.98)
EPS = 1e-6


def adamw(clip: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (0.9, 0.98) that decays matrices only: no biases, gains, or temperature."""
    parameters = list(clip.parameters())
    matrices, others = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    return adamw_of(matrices, others, lr, weight_decay)


def adamw_of(
    decayed: list[nn.Parameter], plain: list[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (0.9, 0.98) on parameters that are decayed and parameters that are not."""
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, fused=True)


def lr_at(run: RunSpec, step: int, steps: int) -> float:
    """Learning rate of a step (from 0): linear warm-up over the run's fraction, then a cosine to zero.

    Both are fitted to this run's own length, as in the paper (section 3.1): a shorter run is a run of
    its own, never a longer one cut off.
    """
    warmup = max(1, round(run.warmup_fraction * steps))
    if step < warmup:
        return run.lr * (step + 1) / warmup
    return run.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
