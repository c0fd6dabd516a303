"""A whole recipe, runs -> parameters: the unit that a bootstrap repeats."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from cliplib import InputError
from cliplib.laws.fitting import Fit, fit
from cliplib.laws.forms import Law
from cliplib.laws.frontier import Frontier, frontier


@dataclass(frozen=True)
class Recipe:
    """Frontier, then fit. Call it with a table of runs to get the parameters by name.

    law: a name or a `Law`; how: a frontier (see `frontier`); x, y: the columns of compute and
    error; options: constants of the law (``{"chance": 1 / 837}``).
    """

    law: str | Law = "power"
    how: str = "all"
    x: str = "compute"
    y: str = "error"
    options: dict[str, Any] = field(default_factory=dict)

    def frontier(self, runs: pd.DataFrame) -> Frontier:
        """The points that the law is fitted to."""
        missing = [name for name in (self.x, self.y) if name not in runs.columns]
        if missing:
            raise InputError(f"no column {missing[0]} in the runs; there are {list(runs.columns)}")
        return frontier(runs[self.x], runs[self.y], self.how)

    def fit(self, runs: pd.DataFrame) -> Fit:
        """The fitted law of these runs."""
        points = self.frontier(runs)
        return fit(self.law, points.C, points.E, **self.options)

    def __call__(self, runs: pd.DataFrame) -> dict[str, float]:
        """The parameters of these runs, by name."""
        return self.fit(runs).params
