"""How a tower is fine-tuned: everything that is chosen, and where the choice comes from.

>>> [setting.lr for setting in usual_settings(width=64)]
[0.001, 0.003, 0.01, 0.003]
>>> joint_lr(width=64), joint_lr(width=640)
(0.001, 1e-05)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from cliplib import InputError

DIRECT, INTERMEDIATE, JOINT = "direct", "intermediate", "joint"
STAGES = (DIRECT, INTERMEDIATE, JOINT)
ICON_TARGET = "emoji-groups"  # task of the corpus that stands for the paper's ImageNet

ALPHAS = tuple(round(k / 10, 1) for k in range(11))  # paper, section 4.4
STANDARD_ERROR = "se"

#: Learning rate of the middle setting at 64 features; others go with 1 / sqrt(width).
LR, LR_WIDTH = 3e-3, 64
#: The same for joint fine-tuning, with 1 / width squared: the paper's 1e-5 at the 512 to 768 features of
#: its models, 100 times that at the 64 of rung XS.
JOINT_LR = 1e-3
LAYER_DECAY = 0.65  # the paper's smallest model, ViT-B/32


@dataclass(frozen=True)
class Setting:
    """What is chosen on validation.

    Attributes:
        lr: peak learning rate of the head.
        layer_decay: a layer learns by so much slower than the one above it; 1: all alike.
    """

    lr: float
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.lr < math.inf):
            raise InputError(f"learning rate {self.lr}: give a number above 0")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer decay {self.layer_decay}: give a number above 0, up to 1")


@dataclass(frozen=True)
class Recipe:
    """Fine-tuning of a tower with a new linear head on one task.

    Unlike the paper's (50 epochs; its section 4.4 and the released models) without RandAugment,
    drop-path or average of weights, and without flip: "arrow left". The default is short so that trying
    is cheap: a model of rung XS, on emoji groups, one seed, had a validation accuracy of 0.58 after 8
    epochs, 0.60 after 10 and 0.61 after 20.

    Attributes:
        epochs: passes over the training part.
        batch_size: images a step; the last of an epoch may be smaller.
        settings: those tried; empty: `usual_settings` of the tower's width.
        weight_decay: of matrices; biases and gains have none.
        warmup_fraction: of the steps, with a rising learning rate; then a cosine to zero.
        label_smoothing: share of the target that is spread over all classes.
        clip_norm: the gradient is scaled down to this norm.
        shift: pictures move by up to this share of their side: 2 of 32 pixels.
        seed: of order and shifts.
    """

    epochs: int = 8
    batch_size: int = 64
    settings: tuple[Setting, ...] = ()
    weight_decay: float = 0.1
    warmup_fraction: float = 0.1
    label_smoothing: float = 0.1
    clip_norm: float = 1.0
    shift: float = 1 / 16
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least_one(epochs=self.epochs, batch_size=self.batch_size)
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label smoothing {self.label_smoothing}: give 0 or more, below 1")
        if not 0 <= self.shift < 0.5:
            raise InputError(f"shift {self.shift}: give a share of the side from 0 to below 0.5")


@dataclass(frozen=True)
class JointRecipe:
    """Fine-tuning of a tower on several tasks in turn, against frozen class embeddings.

    The paper: 2,000 iterations, batch 128, learning rate 1e-5, 200 steps of warm-up, weight decay 0.1.
    Fewer iterations here, so that all stages take about a minute at rung XS; twice as many at the same
    learning rate gained 6 points of mean validation accuracy and lost the control as fast.

    Attributes:
        iterations: steps; the tasks take turns.
        lr: peak learning rate; None: `joint_lr` of the tower's width.
        alphas: where between the tower before (0) and after (1) is tried.
        tolerance: what the control may lose: a share of all its items (paper: 0.01), or "se": one
            clustered standard error of its accuracy before.
    """

    iterations: int = 300
    batch_size: int = 128
    lr: float | None = None
    weight_decay: float = 0.1
    warmup_fraction: float = 0.1
    clip_norm: float = 1.0
    shift: float = 1 / 16
    seed: int = 0
    alphas: tuple[float, ...] = ALPHAS
    tolerance: float | str = STANDARD_ERROR

    def __post_init__(self) -> None:
        _at_least_one(iterations=self.iterations, batch_size=self.batch_size)
        if {0.0, 1.0} - set(self.alphas) or not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise InputError("alphas: give numbers from 0 to 1, both ends among them")
        if self.tolerance != STANDARD_ERROR and not _is_share(self.tolerance):
            raise InputError(
                f"tolerance {self.tolerance!r}: give a share from 0 to 1, such as 0.01, or "
                f"{STANDARD_ERROR!r}"
            )


def usual_settings(width: int) -> tuple[Setting, ...]:
    """Three learning rates half a decade apart, and the middle one without layer-wise decay.

    Args:
        width: features that the tower gives. At 512, of ViT-B/32, the middle learning rate is 1e-3,
            which is the paper's for that model.
    """
    middle = LR * math.sqrt(LR_WIDTH / width)
    rates = [_rounded(middle * factor) for factor in (1 / 3, 1, 10 / 3)]
    return (*(Setting(lr, LAYER_DECAY) for lr in rates), Setting(_rounded(middle)))


def settings_of(
    lrs: tuple[float, ...], layer_decays: tuple[float, ...], width: int
) -> tuple[Setting, ...]:
    """Every learning rate with every layer decay; where one is not given, the usual one."""
    usual = usual_settings(width)
    if not lrs and not layer_decays:
        return usual
    middle = usual[1]
    return tuple(
        Setting(lr, decay)
        for lr, decay in product(lrs or (middle.lr,), layer_decays or (middle.layer_decay,))
    )


def joint_lr(width: int) -> float:
    """The learning rate of joint fine-tuning at a tower's width."""
    return _rounded(JOINT_LR * (LR_WIDTH / width) ** 2)


def _rounded(value: float) -> float:
    """To two digits, as a person would write it."""
    return float(f"{value:.1e}")


def _is_share(value: float | str) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name.replace('_', ' ')} {count}: give at least 1")
