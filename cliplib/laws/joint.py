"""One claim over many tasks: the mean difference of slopes between two sources.

The scores of one run on many tasks share that run's luck, so the tasks of a run stay together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.compare import check_columns, t_test
from cliplib.laws.inputs import Array, positive
from cliplib.laws.lines import lines, slope_difference
from cliplib.laws.tables import markdown, records
from cliplib.laws.tasks import AVERAGES


@dataclass(frozen=True)
class JointReport:
    """One number for all tasks: the mean difference of slopes of two groups.

    estimates: method, difference, low, high, p, dof, note; the methods differ in what they take
    as independent. correlation: mean absolute correlation of the residuals of two tasks over the
    runs. first_component: share of variance of the strongest direction among standardised tasks.
    """

    estimates: pd.DataFrame
    correlation: float
    first_component: float
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "estimates": records(self.estimates),
            "mean_abs_residual_correlation": self.correlation,
            "first_component": self.first_component,
            "notes": self.notes,
        }

    def to_markdown(self) -> str:
        """A table for people, then the notes."""
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"Mean difference of slopes over the tasks\n\n{markdown(self.estimates)}\n\n{notes}"


def mixed(
    runs: pd.DataFrame,
    by: str,
    x: str = "compute",
    y: str = "error",
    task: str = "task",
    run: str = "run_id",
    exclude: Sequence[str] = AVERAGES,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> JointReport:
    """The mean difference of slopes between two groups over all tasks, by four methods.

    ``mixed``: MixedLM with intercept, slope and level random over tasks; ``mixed, random
    contrast``: the difference itself random too. Both take the residuals of one run on two tasks
    as independent, which they are not. ``runs``: the mean of ln y over a run's tasks is one number
    a run; the difference of its slopes *is* the mean difference, and its t test has the runs'
    degrees of freedom. ``bootstrap``: runs drawn within their group, all tasks of a run together.
    InputError: a run that lacks a task, fewer than two tasks, other than two groups, too few runs.
    """
    check_columns(runs, [by, x, y, task, run])
    kept = runs[~runs[task].isin(list(exclude))]
    log_x, Y, group, names = _wide(kept, by, x, y, task, run)
    if len(Y) < 2:
        raise InputError(f"a claim over tasks needs two or more, got {len(Y)}")
    found = lines(log_x, Y, group)  # (tasks, runs)
    if found.dof < 1:
        raise InputError(f"{len(log_x)} runs in two groups leave no degree of freedom")
    rows = [
        _mixed_lm(log_x, Y, group, "x + g", "mixed", level),
        _mixed_lm(log_x, Y, group, "x * g", "mixed, random contrast", level),
        _runs_t(log_x, Y, group, level),
        _run_bootstrap(log_x, Y.mean(0), group, n, seed, level),
    ]
    correlation, first = _dependence(found.residuals)
    notes = [
        f"difference: slope of {names[1]} minus slope of {names[0]}; {len(Y)} tasks, "
        f"{len(log_x)} runs",
        f"residuals of two tasks over the runs correlate by {correlation:.2f} on average "
        f"(absolute), and one direction holds {100 * first:.0f}% of their variance: the mixed "
        "models count tasks as independent, so their intervals are too short and their p too small",
        "the tasks are taken as given: nothing here speaks about other tasks",
    ]
    return JointReport(pd.DataFrame(rows), correlation, first, notes)


def _wide(
    runs: pd.DataFrame, by: str, x: str, y: str, task: str, run: str
) -> tuple[Array, Array, np.ndarray, list[str]]:
    """Ln x (runs), ln y (tasks, runs), group (runs), and the two groups' names."""
    if runs.duplicated([run, task]).any():
        twice = runs[runs.duplicated([run, task])].iloc[0]
        raise InputError(f"run {twice[run]} has task {twice[task]} twice")
    table = runs.pivot(index=run, columns=task, values=y)
    if table.isna().to_numpy().any():
        where = table.isna().stack()
        short, absent = where.index[int(where.to_numpy().argmax())]
        raise InputError(f"run {short} lacks task {absent}: tasks must stay together in a run")
    one = runs.drop_duplicates(run).set_index(run)
    table = table.loc[one.index]
    group, names = pd.factorize(one[by])
    if len(names) != 2:
        raise InputError(f"column {by} has {len(names)} groups; a contrast needs two")
    log_y = np.log([positive(table[name], y) for name in table.columns])
    return np.log(positive(one[x], x)), log_y, group, list(map(str, names))


def _mixed_lm(
    x: Array, Y: Array, group: np.ndarray, random: str, name: str, level: float
) -> dict[str, Any]:
    import warnings

    import statsmodels.formula.api as smf

    T = len(Y)
    table = pd.DataFrame(
        {
            "y": Y.ravel(),
            "x": np.tile(x - x.mean(), T),  # centred: else intercepts and slopes are one valley
            "g": np.tile(group.astype(float), T),
            "task": np.repeat(np.arange(T), len(x)),
        }
    )
    note = f"random over tasks: {random}"
    with warnings.catch_warnings():  # statsmodels warns of a boundary; the row's note says so
        warnings.simplefilter("ignore")
        try:
            model = smf.mixedlm("y ~ x * g", table, groups="task", re_formula=f"~ {random}")
            fitted = model.fit(method=["bfgs", "powell"])  # the second where the first fails
        except (np.linalg.LinAlgError, ValueError) as error:
            none = float("nan")
            return _estimate(name, none, none, none, None, None, f"{note}; not fitted: {error}")
    low, high = fitted.conf_int(1 - level).loc["x:g"]
    if not fitted.converged:
        note += "; did not converge"
    return _estimate(name, fitted.params["x:g"], low, high, fitted.pvalues["x:g"], None, note)


def _estimate(
    method: str, value: float, low: float, high: float, p: float | None, dof: int | None, note: str
) -> dict[str, Any]:
    numbers = {"difference": float(value), "low": float(low), "high": float(high)}
    return {"method": method, **numbers, "p": p, "dof": dof, "note": note}


def _runs_t(x: Array, Y: Array, group: np.ndarray, level: float) -> dict[str, Any]:
    value, se, dof = slope_difference(lines(x, Y.mean(0), group), 1)
    difference, low, high, p = map(float, t_test(value, se, dof, level))
    note = "t test on the mean of ln y over each run's tasks"
    return _estimate("runs", difference, low, high, p, dof, note)


def _run_bootstrap(
    x: Array, y: Array, group: np.ndarray, n: int, seed: int, level: float
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    slopes = []
    for g in (0, 1):
        own = group == g
        counts = rng.multinomial(own.sum(), np.full(own.sum(), 1 / own.sum()), size=n)
        slopes.append(_weighted_slopes(x[own], y[own], counts))
    draws = slopes[1] - slopes[0]
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    value = float(lines(x, y, group).slope @ [-1, 1])
    note = f"{n} draws of runs within their group, {n - len(draws)} of them without a slope"
    smallest = int(np.bincount(group).min())
    if smallest < 5:
        note += f"; a group of {smallest} runs has few distinct samples: read it as rough"
    return _estimate("bootstrap", value, low, high, None, None, note)


def _weighted_slopes(x: Array, y: Array, counts: np.ndarray) -> Array:
    """Least-squares slope of each row of counts; nan where they leave one x."""
    total = counts.sum(1)
    dx = x - (counts @ x / total)[:, None]
    sxx = (counts * dx**2).sum(1)
    one_x = sxx <= 1e-12 * np.ptp(x) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(one_x, np.nan, (counts * dx * y).sum(1) / sxx)


def _dependence(residuals: Array) -> tuple[float, float]:
    """Mean absolute correlation of two tasks' residuals, and the share of the first component."""
    R = residuals / np.linalg.norm(residuals, axis=1, keepdims=True)
    correlations = (R @ R.T)[np.triu_indices(len(R), 1)]
    squares = np.linalg.svd(R, compute_uv=False) ** 2
    return float(np.abs(correlations).mean()), float(squares[0] / squares.sum())
