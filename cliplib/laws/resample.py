"""Which runs a bootstrap draws: resampling units by stratum and cluster, and the draws themselves."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cliplib import InputError

FEWEST_RUNS = 5


@dataclass(frozen=True)
class Resamples:
    """B resamples. units: each an array of row numbers; drawn: their indices, shape (B, units)."""

    units: list[np.ndarray]
    drawn: np.ndarray

    def rows(self) -> Iterator[np.ndarray]:
        """The row numbers of each resample."""
        for index in self.drawn:
            yield np.concatenate([self.units[i] for i in index])

    def counts(self, n_rows: int) -> np.ndarray:
        """How often each row is in each resample, shape (B, n_rows)."""
        n = len(self.units)
        flat = self.drawn + n * np.arange(len(self.drawn))[:, None]
        often = np.bincount(flat.ravel(), minlength=n * len(self.drawn)).reshape(-1, n)
        unit_of = np.empty(n_rows, dtype=int)
        for i, rows in enumerate(self.units):
            unit_of[rows] = i
        return often[:, unit_of]


def resamples(strata: list[list[np.ndarray]], n: int, rng: np.random.Generator) -> Resamples:
    """Draw n resamples: from each stratum as many of its units, with replacement, as it has."""
    size = np.array([len(units) for units in strata])
    first = np.concatenate([[0], size.cumsum()[:-1]])
    high = np.tile(np.repeat(size, size), (n, 1))  # one draw a number, in the order of the loop
    drawn = rng.integers(high) + np.repeat(first, size)
    return Resamples([rows for units in strata for rows in units], drawn)


def check_columns(runs: pd.DataFrame, *columns: str | None) -> None:
    """InputError names the first of the columns that the runs do not have."""
    for column in columns:
        if column is not None and column not in runs.columns:
            raise InputError(f"no column {column} in the runs; there are {list(runs.columns)}")


def resampling_units(
    runs: pd.DataFrame, strata: str | None, cluster: str | None
) -> list[list[np.ndarray]]:
    """For each stratum its units, runs or clusters, each an array of row numbers.

    InputError: fewer than 5 units.
    """
    rows = np.arange(len(runs))
    label = runs[cluster].to_numpy() if cluster else rows
    layer = runs[strata].to_numpy() if strata else np.zeros(len(runs))
    units = [
        [rows[(layer == s) & (label == c)] for c in pd.unique(label[layer == s])]
        for s in pd.unique(layer)
    ]
    total = sum(map(len, units))
    if total < FEWEST_RUNS:
        what = "clusters" if cluster else "runs"
        raise InputError(
            f"{total} {what} are too few to resample (at least {FEWEST_RUNS}); "
            "for a straight line use t_interval"
        )
    return units
