"""Patching: between the tower before and after fine-tuning, as far as a control task allows.

Ilharco et al. 2022, as in the paper's section 4.4: theta = (1 - a) theta_before + a theta_after, where
a is the one with the best mean validation accuracy of the tasks among those at which the control task
loses no more than is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cliplib.evaluate.ranks import Estimate
from cliplib.finetune.recipe import STANDARD_ERROR


@dataclass(frozen=True)
class Point:
    """The curve at one place between the two towers.

    Attributes:
        alpha: 0 before, 1 after fine-tuning.
        val: validation accuracy of each task.
        control: accuracy on the control task.
    """

    alpha: float
    val: Mapping[str, float]
    control: float

    @property
    def mean_val(self) -> float:
        """Of the tasks, each counting the same."""
        return sum(self.val.values()) / len(self.val)


def interpolate(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 - alpha) x before + alpha x after, by name; at 0 and 1 one of the two, bit for bit.

    What is no floating-point number, such as a counter, stays as before.
    """
    return {
        name: (1 - alpha) * value + alpha * after[name] if value.is_floating_point() else value
        for name, value in before.items()
    }


def allowed_loss(tolerance: float | str, control_before: Estimate) -> float:
    """What the control's accuracy may lose: the share given, or one clustered standard error."""
    return control_before.se if tolerance == STANDARD_ERROR else float(tolerance)


def choose(curve: Sequence[Point], allowed: float) -> Point:
    """The point to keep.

    Args:
        curve: with a point at alpha 0.
        allowed: what the control's accuracy may lose from there.

    Returns:
        The best mean validation accuracy within the allowance, of equals the nearest to alpha 0; the
        point at 0 itself loses nothing, so there always is one.

    >>> curve = [Point(0.0, {"a": 0.4}, 0.50), Point(0.5, {"a": 0.6}, 0.49), Point(1.0, {"a": 0.9}, 0.30)]
    >>> choose(curve, allowed=0.01).alpha, choose(curve, allowed=0.005).alpha
    (0.5, 0.0)
    """
    before = next(point for point in curve if point.alpha == 0)
    floor = before.control - allowed - 1e-12  # rounding of a difference is no loss
    within = [point for point in curve if point.control >= floor]
    return max(within, key=lambda point: (point.mean_val, -point.alpha))
