"""Forecasts against what the runs scored: hits, errors in points, calibration."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from cliplib.laws.compare import check_columns
from cliplib.laws.ledger import Entry
from cliplib.laws.tables import markdown, records

X_TOLERANCE = 0.05
COLUMNS = [
    "id", "made_at", "target", "run", "kind", "level", "value", "low", "high", "actual", "points",
    "ln", "hit", "status",
]  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """Every entry with what became of it, and how often the intervals held.

    table: id, made_at, target, run, kind, level, value, low, high, actual, points (100 (value -
    actual)), ln, hit, status ("scored", or why not). calibration: kind, level, n, covered, share,
    low, high (its 95% binomial interval, Clopper and Pearson 1934).
    """

    table: pd.DataFrame
    calibration: pd.DataFrame
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        tables = {"entries": records(self.table), "calibration": records(self.calibration)}
        return {**tables, "notes": self.notes}

    def to_markdown(self) -> str:
        """Tables for people, then the notes."""
        shown = self.table.drop(columns=["ln", "level"])
        parts = [markdown(shown)]
        if not self.calibration.empty:
            parts.append(f"Share of intervals that held\n\n{markdown(self.calibration)}")
        return "\n\n".join([*parts, "\n".join(f"- {note}" for note in self.notes)])


def score(
    entries: Sequence[Entry],
    runs: pd.DataFrame,
    time: str = "finished",
    tolerance: float = X_TOLERANCE,
) -> Scores:
    """Match entries with runs and score those that were made before their run.

    runs: one row a run, with the forecasts' x and y columns, run_id where targets name it, and a
    column of UTC times, by default ``finished``, as records hold. The run starts ``seconds``
    before it where ``time`` begins with "finish" and that column is there; else at that time.
    tolerance: how far the run's x may lie from the forecast's, relative.

    An entry is not scored, and its status says so, when no run or more than one fits its target,
    when the run's x is another, when the run has no time, or when the entry was made after the
    run's start. InputError: the table lacks a forecast's y.
    """
    check_columns(runs, sorted({entry["y"] for entry in entries}))
    starts = _starts(runs, time)
    rows = [_outcome(entry, runs, starts, tolerance) for entry in entries]
    table = pd.DataFrame(rows, columns=COLUMNS)
    scored = table[table["status"] == "scored"]
    notes = [f"{len(scored)} of {len(table)} entries scored"]
    if (scored["kind"] == "mean").any():
        notes.append("an interval of the mean does not promise to hold a single run")
    if time not in runs.columns:
        notes.append(f"the runs have no column {time}: without a time no forecast can be scored")
    return Scores(table, _calibration(scored), notes)


def _starts(runs: pd.DataFrame, time: str) -> pd.Series:
    """When each run started (UTC); NaT where it is not known."""
    if time not in runs.columns:
        return pd.Series(pd.NaT, index=runs.index, dtype="datetime64[us, UTC]")
    at = pd.to_datetime(runs[time].astype("string"), utc=True, errors="coerce", format="ISO8601")
    if time.startswith("finish") and "seconds" in runs.columns:
        at = at - pd.to_timedelta(pd.to_numeric(runs["seconds"], errors="coerce"), unit="s")
    return at


def _outcome(
    entry: Entry, runs: pd.DataFrame, starts: pd.Series, tolerance: float
) -> dict[str, Any]:
    row: dict[str, Any] = {key: entry[key] for key in COLUMNS if key in entry}
    row["target"] = _words(entry["target"])
    where = np.flatnonzero(_matches(entry["target"], runs))
    row["status"] = _refusal(entry, runs, starts, where, tolerance)
    if len(where) == 1:
        row["run"] = runs.iloc[where[0]].get("run_id", runs.index[where[0]])
    if not row["status"]:
        actual, value = float(runs[entry["y"]].iloc[where[0]]), float(entry["value"])
        row |= {"actual": actual, "points": 100 * (value - actual), "ln": np.log(value / actual)}
        row |= {"hit": bool(entry["low"] <= actual <= entry["high"]), "status": "scored"}
    return row


def _words(target: Any) -> str:
    if isinstance(target, Mapping):
        return ", ".join(f"{key}={value}" for key, value in target.items())
    return str(target)


def _matches(target: Any, runs: pd.DataFrame) -> np.ndarray:
    """Which rows a target names: columns and values, or a pattern of run_id."""
    if isinstance(target, Mapping):
        named = np.ones(len(runs), bool)
        for column, value in target.items():
            same = runs[column].astype(str) == str(value) if column in runs.columns else False
            named &= np.asarray(same)
        return named
    names = runs["run_id"].astype(str) if "run_id" in runs.columns else runs.index.astype(str)
    return np.array([fnmatch.fnmatchcase(name, target) for name in names], dtype=bool)


def _refusal(
    entry: Entry, runs: pd.DataFrame, starts: pd.Series, where: np.ndarray, tolerance: float
) -> str:
    """Why the entry cannot be scored; empty if it can."""
    if len(where) != 1:
        return "no such run yet" if not len(where) else f"{len(where)} runs fit: name one"
    place = where[0]
    for name, value in entry["x"].items():
        if name not in runs.columns:
            return f"the runs have no column {name}"
        ratio = float(runs[name].iloc[place]) / value
        if not abs(ratio - 1) <= tolerance:
            return f"the run's {name} is {ratio:.3g} times the forecast's"
    start = starts.iloc[place]
    if pd.isna(start):
        return "the run has no time: whether it was forecast cannot be told"
    if pd.Timestamp(entry["made_at"]) > start:
        return f"refused: made after the run started ({start.isoformat(timespec='seconds')})"
    if not np.isfinite(runs[entry["y"]].iloc[place]):
        return f"the run has no {entry['y']}"
    return ""


def _calibration(scored: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (kind, level), group in scored.groupby(["kind", "level"]):
        n, k = len(group), int(group["hit"].sum())
        rows.append((kind, level, n, k, k / n, *binomial_interval(k, n)))
    columns = ["kind", "level", "n", "covered", "share", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def binomial_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share, k of n (Clopper and Pearson 1934).

    >>> [round(end, 3) for end in binomial_interval(9, 10)]
    [0.555, 0.997]
    """
    tail = (1 - level) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if k else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high
