"""A tower with its heads, and the optimiser that teaches them.

Shapes: B images, E features, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliplib.finetune.recipe import Setting
from cliplib.finetune.towers import ImageTower, layer_scales, undecayed
from cliplib.train.optimiser import BETAS, EPS


class ZeroShotHead(nn.Module):
    """Cosines with frozen class embeddings, times the learned temperature: CLIP's own logits."""

    weight: Tensor

    def __init__(self, embeddings: np.ndarray, scale: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(np.array(embeddings, np.float32)))  # (C, E)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """(B, E) -> (B, C)."""
        return self.scale * F.normalize(features, dim=-1) @ self.weight.T


def linear_head(width: int, classes: int) -> nn.Linear:
    """(B, E) -> (B, C), at zero: every class equally likely, and no seed in it."""
    head = torch.nn.utils.skip_init(nn.Linear, width, classes)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


class Learner(nn.Module):
    """A tower and a head for each task."""

    def __init__(self, tower: ImageTower, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tower, self.heads = tower, nn.ModuleList(heads)

    def forward(self, x: Tensor, task: int, precision: torch.dtype) -> Tensor:
        """Network input (B, 3, px, px) -> logits (B, C) float32 of a task.

        The tower's matrix products are in ``precision``. The head's are not, so that no two classes
        tie by rounding.
        """
        low = precision != torch.float32
        with torch.autocast(x.device.type, precision, enabled=low, cache_enabled=False):
            features = self.tower(x)
        logits: Tensor = self.heads[task](features.float())
        return logits


# ---------------------------------------------------------------------------------------- optimiser


def parameter_groups(
    learner: Learner, setting: Setting, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameters by how fast they learn and whether they are decayed.

    Returns:
        Groups for an optimiser, each with ``lr_scale``: the head's is 1, a tower's as `layer_scales`
        says. Biases and gains have ``weight_decay`` 0, and so have what timm's towers name.
    """
    scales = layer_scales(learner.tower, setting.layer_decay) or {}
    free = undecayed(learner.tower)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in learner.named_parameters():
        inside = name.removeprefix("tower.")
        decay = weight_decay if parameter.ndim >= 2 and inside not in free else 0.0
        groups.setdefault((scales.get(inside, 1.0), decay), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def adamw(groups: list[dict[str, Any]], lr: float) -> torch.optim.AdamW:
    """AdamW as in training, on groups of parameters."""
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, fused=True)


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]


def rate_at(step: int, steps: int, lr: float, warmup_fraction: float) -> float:
    """Learning rate of a step (from 0): a linear warm-up, then a cosine to about zero.

    >>> [round(rate_at(step, 10, 1.0, 0.2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    warmup = max(1, round(warmup_fraction * steps))
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
