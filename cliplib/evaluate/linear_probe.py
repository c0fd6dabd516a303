"""Linear probes: every setting of the grid in one run.

A probe is a linear layer on unit features, trained as the paper's are: cross-entropy, AdamW without
weight decay, a cosine to zero without warm-up, batches of 256. The settings of the grid see the same
batches and start from the same layer, so that they can be trained side by side: their layers are
stacked, and a step of all of them is one product forward and one back.

Shapes: n features of D, C classes, S settings, b features in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from cliplib import InputError

BATCH = 256
BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW, as torch has them


@dataclass(frozen=True)
class Setting:
    """One way to train a probe."""

    lr: float
    epochs: int


#: The paper's grid (section 4.3; CLIP_benchmark's probe_benchmark).
GRID = tuple(Setting(lr, epochs) for lr, epochs in product((0.1, 0.01, 0.001), (10, 20, 40)))


@dataclass(frozen=True)
class Probes:
    """Trained layers, one a setting: weight (S, C, D), bias (S, C)."""

    settings: tuple[Setting, ...]
    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray, setting: int) -> np.ndarray:
        """(n, D) -> (n, C), of one setting."""
        return features @ self.weight[setting].T + self.bias[setting]

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(S,) top-1 accuracy of every setting."""
        guesses = [self.logits(features, s).argmax(1) for s in range(len(self.settings))]
        return np.array([(guess == labels).mean() for guess in guesses])


def train_probes(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    settings: Sequence[Setting] = GRID,
    seed: int = 0,
    batch: int = BATCH,
) -> Probes:
    """Train a probe for every setting.

    Args:
        features: (n, D) unit vectors.
        labels: (n,) classes of 0 to ``classes`` - 1.
        classes: C.
        settings: learning rates and epochs.
        seed: of the first layer and of the order of the batches.
        batch: features a step; the last batch of an epoch is smaller.

    Raises:
        InputError: nothing to train on, or a loss that is not finite.
    """
    if not len(features):
        raise InputError("a linear probe needs training images; the split is empty")
    order = sorted(range(len(settings)), key=lambda s: -settings[s].epochs)
    layers = _Layers(features.shape[1], classes, [settings[s] for s in order], seed)
    x, y = torch.from_numpy(np.ascontiguousarray(features)), torch.from_numpy(labels)
    steps = math.ceil(len(x) / batch)
    shuffle = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        for epoch in range(max(setting.epochs for setting in settings)):
            active = sum(settings[s].epochs > epoch for s in order)  # the longest come first
            for at, rows in enumerate(torch.randperm(len(x), generator=shuffle).split(batch)):
                layers.step(x[rows], y[rows], active, epoch * steps + at, steps)
    back = np.argsort(order)
    return Probes(tuple(settings), layers.weight()[back], layers.bias()[back])


class _Layers:
    """The stacked layers (S C, D + 1), bias in the last column, and AdamW's two averages."""

    def __init__(self, width: int, classes: int, settings: Sequence[Setting], seed: int) -> None:
        self.settings, self.classes, self.width = settings, classes, width
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            first = torch.nn.Linear(width, classes)
        one = torch.cat([first.weight.detach(), first.bias.detach()[:, None]], 1)
        self.stack = one.repeat(len(settings), 1)
        self.mean, self.square = torch.zeros_like(self.stack), torch.zeros_like(self.stack)

    def weight(self) -> np.ndarray:
        """(S, C, D)."""
        return self._split()[..., :-1].copy()

    def bias(self) -> np.ndarray:
        """(S, C)."""
        return self._split()[..., -1].copy()

    def _split(self) -> np.ndarray:
        return self.stack.numpy().reshape(len(self.settings), self.classes, self.width + 1)

    def step(self, x: Tensor, y: Tensor, active: int, step: int, steps: int) -> None:
        """One step of the first ``active`` layers on a batch; ``steps`` make an epoch."""
        rows = active * self.classes
        stack, mean, square = self.stack[:rows], self.mean[:rows], self.square[:rows]
        ones = torch.cat([x, x.new_ones(len(x), 1)], 1)  # (b, D + 1)
        slope = torch.softmax((ones @ stack.T).view(len(x), active, self.classes), -1)
        slope[torch.arange(len(x)), :, y] -= 1  # of the cross-entropy by the logits
        gradient = slope.view(len(x), rows).T @ ones.div_(len(x))
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = square.sqrt().div_(math.sqrt(1 - BETAS[1] ** (step + 1))).add_(EPS)
        change = torch.div(mean, root, out=root).view(active, -1)
        change *= self._rates(active, step, steps)
        stack.view(active, -1).sub_(change.div_(1 - BETAS[0] ** (step + 1)))

    def _rates(self, active: int, step: int, steps: int) -> Tensor:
        """(active, 1) learning rates now: half a cosine over each setting's own length."""
        rates = [
            s.lr * 0.5 * (1 + math.cos(math.pi * step / (s.epochs * steps)))
            for s in self.settings[:active]
        ]
        return torch.tensor(rates)[:, None]
