"""Many tasks, each on its own: slopes, contrasts of two sources, p adjusted for their number.

The scores of one run on many tasks share that run's luck: a claim over all tasks together is made
in ``joint``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.compare import MAX_LEVERAGE, check_columns, t_test
from cliplib.laws.inputs import Array, positive
from cliplib.laws.lines import Lines, level_difference, lines, slope_difference
from cliplib.laws.tables import markdown, records

#: Averages of other tasks: counting them again would count their members twice.
AVERAGES = ("vtab", "vtab+", "imagenet_robustness")
ADJUSTMENTS = {"bh": "fdr_bh", "holm": "holm"}
ERRORS = ("classical", "HC3")


@dataclass(frozen=True)
class TaskReport:
    """Every task's slopes and contrasts, tidy; p_bh and p_holm are adjusted over the tasks.

    slopes: task, group, n, slope, low, high, p, p_..., verdict (falls | rises | flat, by the
    first adjustment). contrasts (with two groups): task, slope_difference, its low, high, p,
    p_...; level_percent (group 1's error against group 0's at the mean x), low, high, p, p_...
    """

    slopes: pd.DataFrame
    contrasts: pd.DataFrame | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        contrasts = None if self.contrasts is None else records(self.contrasts)
        return {"slopes": records(self.slopes), "contrasts": contrasts, "notes": self.notes}

    def to_markdown(self) -> str:
        """Tables for people, then the notes."""
        parts = [f"Slopes by task\n\n{markdown(self.slopes)}"]
        if self.contrasts is not None:
            parts.append(f"Contrasts by task\n\n{markdown(self.contrasts)}")
        return "\n\n".join([*parts, "\n".join(f"- {note}" for note in self.notes)])


def tasks(
    runs: pd.DataFrame,
    x: str = "compute",
    y: str = "error",
    task: str = "task",
    by: str | None = None,
    exclude: Sequence[str] = AVERAGES,
    adjust: Sequence[str] = ("bh", "holm"),
    errors: str = "classical",
    own_slopes: bool = False,
    level: float = 0.95,
) -> TaskReport:
    """The slope of ln y on ln x in every task, and with ``by`` the contrasts of its two groups.

    runs: one row a run and task. exclude: tasks left out, by default the averages. adjust: ``bh``
    (Benjamini-Hochberg, the share of false claims) and ``holm`` (the chance of any). errors:
    ``classical`` t intervals of the slopes, or ``HC3`` where leverage allows it. own_slopes: level
    contrasts between the groups' own lines at the mean x, else between parallel lines.
    InputError: a missing column, other than two groups, a task that lacks a slope.
    """
    _check(adjust, ADJUSTMENTS, "adjustment")
    _check([errors], ERRORS, "kind of standard error")
    check_columns(runs, [x, y, task, *([by] if by else [])])
    kept = runs[~runs[task].isin(list(exclude))]
    groups = ["all"] if by is None else list(pd.unique(kept[by]))
    panels = [
        _panel(rows, x, y, by, groups, str(name)) for name, rows in kept.groupby(task, sort=False)
    ]
    if not panels:
        raise InputError(f"no task is left in column {task} after the exclusions")
    slopes = pd.concat([_slopes(panel, errors, level) for panel in panels], ignore_index=True)
    for _, rows in slopes.groupby("group"):  # each group's tasks are one family of tests
        for name in adjust:
            slopes.loc[rows.index, f"p_{name}"] = adjusted(rows["p"], name)
    slopes["verdict"] = _verdicts(slopes, f"p_{adjust[0]}" if adjust else "p", 1 - level)
    contrasts = _contrasts(panels, own_slopes, adjust, level) if by else None
    left_out = sorted(set(runs[task]) & set(exclude))
    notes = [f"{len(panels)} tasks; left out as averages: {', '.join(left_out) or 'none'}"]
    if adjust:
        notes.append(f"p adjusted over {len(panels)} tests: {', '.join(adjust)}")
    return TaskReport(slopes, contrasts, [*notes, TOGETHER])


TOGETHER = "tasks of one run share its luck: for one claim over all tasks use mixed"


def _check(given: Sequence[str], known: Any, what: str) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"unknown {what} '{name}'; known: {', '.join(known)}")


def adjusted(p: pd.Series, how: str) -> Array:
    """P adjusted for their number: ``bh`` or ``holm``."""
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p.to_numpy(), method=ADJUSTMENTS[how])[1])


@dataclass(frozen=True)
class _Panel:
    """One task: its lines, and the names of its groups."""

    task: str
    names: list[str]
    found: Lines


def _panel(
    runs: pd.DataFrame, x: str, y: str, by: str | None, groups: list[Any], task: str
) -> _Panel:
    rows = [f"of task {task}, {i}" for i in runs.index]
    log_x, log_y = np.log(positive(runs[x], x, rows)), np.log(positive(runs[y], y, rows))
    codes = np.zeros(len(runs), int) if by is None else np.array(list(map(groups.index, runs[by])))
    if by is not None and (len(groups) != 2 or len(set(codes)) != 2):
        raise InputError(f"task {task} has {len(set(codes))} groups of {by}; a contrast needs two")
    for code, name in enumerate(groups):
        if np.ptp(log_x[codes == code]) == 0:
            raise InputError(f"task {task}, group {name}: a slope needs two distinct {x}")
    found = lines(log_x, log_y, codes)
    if found.dof < 1:
        raise InputError(f"task {task} has {len(runs)} runs: no degree of freedom is left")
    return _Panel(task, list(map(str, groups)), found)


def _slopes(panel: _Panel, errors: str, level: float) -> pd.DataFrame:
    """One row a group; the scatter is pooled over the task's groups."""
    found = panel.found
    if errors == "HC3":
        if found.leverage.max() > MAX_LEVERAGE:
            raise InputError(
                f"task {panel.task}: a run has leverage {found.leverage.max():.2f}, above "
                f"{MAX_LEVERAGE:g}; HC3 needs runs that do not stand alone, use classical"
            )
        se = np.sqrt(found.hc3)
    else:
        se = np.sqrt(found.sse / found.dof / found.sxx)
    slope, low, high, p = t_test(found.slope, se, found.dof, level)
    return pd.DataFrame(
        {
            "task": panel.task, "group": panel.names, "n": found.n.astype(int),
            "slope": slope, "low": low, "high": high, "p": p,
        }
    )  # fmt: skip


def _verdicts(slopes: pd.DataFrame, p: str, alpha: float) -> Array:
    named = np.where(slopes["slope"] < 0, "falls", "rises")
    return np.where(slopes[p] < alpha, named, "flat")


def _contrasts(
    panels: list[_Panel], own: bool, adjust: Sequence[str], level: float
) -> pd.DataFrame:
    rows = []
    for panel in panels:
        _, other = panel.names
        slope = t_test(*slope_difference(panel.found, 1), level)
        *shift, p = t_test(*level_difference(panel.found, 1, own), level)
        percent = [100 * float(np.expm1(v)) for v in shift]
        rows.append((panel.task, other, *map(float, slope), *percent, float(p)))
    parts = [f"{what}{part}" for what in ("slope", "level") for part in PARTS]
    table = pd.DataFrame(rows, columns=["task", "group", *parts])
    table = table.rename(columns={"slope": "slope_difference", "level": "level_percent"})
    for what in ("slope", "level"):
        for name in adjust:
            table[f"{what}_p_{name}"] = adjusted(table[f"{what}_p"], name)
    return table


PARTS = ("", "_low", "_high", "_p")
