"""The losses: what a residual of ln E costs.

A residual is r = ln E observed - ln E predicted; w is its weight. Three losses, from trusting
every run alike to trusting the middle of them:

- ``l2``: sum w r^2, least squares.
- ``huber:DELTA``: sum w r^2/2 where |r| <= DELTA, w DELTA (|r| - DELTA/2) beyond. DELTA is a
  modelling choice: at the customary 0.001 (Hoffmann et al. 2022) nearly every run of a real study
  lies beyond it, so the fit is close to ``lad``.
- ``lad``: sum w |r|, least absolute deviations; half of the runs lie above the law, half below.
"""

from dataclasses import dataclass

import numpy as np

from cliplib import InputError
from cliplib.laws.inputs import Array

KNOWN = "l2, lad, huber, huber:DELTA"


@dataclass(frozen=True)
class Loss:
    """A loss by name; delta is where Huber's square turns into a line (inf: l2, 0: lad)."""

    name: str
    delta: float

    @property
    def text(self) -> str:
        """The loss as a user writes it: ``l2``, ``lad`` or ``huber:0.001``."""
        return f"huber:{self.delta:g}" if self.name == "huber" else self.name

    @property
    def formula(self) -> str:
        """The objective in symbols."""
        if self.name == "huber":
            return (
                "sum w h(r), r = ln E - ln predicted, "
                f"h = r^2/2 if |r| <= {self.delta:g} else {self.delta:g} (|r| - {self.delta / 2:g})"
            )
        return f"sum w {'r^2' if self.name == 'l2' else '|r|'}, r = ln E - ln predicted"

    def rho(self, r: Array) -> Array:
        """The cost of each residual, shape as r."""
        if self.name == "l2":
            return r**2
        return np.abs(r) if self.name == "lad" else huber(r, self.delta)

    def objective(self, r: Array, w: Array) -> Array:
        """The weighted sum over the last axis: r and w (..., n) -> (...)."""
        return (w * self.rho(r)).sum(-1)


def huber(r: Array, delta: float) -> Array:
    """r^2/2 up to delta, a line of slope delta beyond; delta = inf gives r^2/2."""
    size = np.abs(r)
    inner = np.minimum(size, delta)
    return inner * (size - inner / 2)


L2 = Loss("l2", np.inf)
LAD = Loss("lad", 0.0)


def Huber(delta: float = 1e-3) -> Loss:
    """Huber's loss; InputError unless delta is a positive number.

    >>> Huber(0.01).rho(np.array([0.001, 0.1])).round(7).tolist()
    [5e-07, 0.00095]
    """
    if not 0 < delta < np.inf:
        raise InputError(f"Huber's delta must be a positive number, got {delta:g}")
    return Loss("huber", float(delta))


def loss_of(loss: str | Loss) -> Loss:
    """The loss of that name (``l2``, ``lad``, ``huber``, ``huber:0.01``); a `Loss` is itself.

    >>> loss_of("huber").text
    'huber:0.001'
    """
    if isinstance(loss, Loss):
        return loss
    name, colon, delta = loss.partition(":")
    if not colon and name in ("l2", "lad"):
        return L2 if name == "l2" else LAD
    if name != "huber":
        raise InputError(f"unknown loss '{loss}'; known: {KNOWN}")
    try:
        return Huber(float(delta) if colon else 1e-3)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"loss {loss}: '{delta}' is not a number; write huber:0.001") from None
