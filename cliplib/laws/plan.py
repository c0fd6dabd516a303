"""Which runs to make next: the ones that narrow an exponent most for the hours that they take.

For a straight line the variance of the slope is sd^2 / Sxx, known before any run is made: only the
places of the runs matter. A plan is a list of runs chosen greedily, each the largest gain in Sxx
per hour, and beside it what simpler plans would give and a simulation of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri

from cliplib import InputError
from cliplib.laws.compare import check_columns, t_quantile
from cliplib.laws.fitting import Fit
from cliplib.laws.inclusion import MAX_ERROR
from cliplib.laws.inputs import Array, positive
from cliplib.laws.tables import markdown, records

SAMPLES = (65_000, 4_000_000)
STEP = 2.0
REPEATS = 3
SURE = 0.9  # a run less sure than this to pass the inclusion rule is not planned
LEAST_GAIN = 0.01  # nor one that narrows the interval by less than this, relative


@dataclass(frozen=True)
class Belief:
    """What the plan believes: E = beta C^alpha, and the scatter sd of ln E about it."""

    alpha: float
    beta: float
    sd: float

    @classmethod
    def of(cls, fit: Fit) -> "Belief":
        """The belief of a fitted power law. InputError for another law."""
        if fit.law != "power":
            raise InputError(f"a plan for an exponent needs the power law, not {fit.law}")
        return cls(fit.params["alpha"], fit.params["beta"], fit.residual_sd)

    def log_error(self, x: Array) -> Array:
        """Ln E at ln C."""
        return np.asarray(np.log(self.beta) + self.alpha * x)


@dataclass(frozen=True)
class Plan:
    """Runs in the order in which to make them.

    runs: run (number), rung, samples_seen, seed (0, 1, ...), hours, hours_total, compute, error
    (predicted), se (of alpha after this run), half_width (of its interval), gain_per_hour (what
    the half width lost, per hour of this run). Empty cells: the runs so far fix no interval.
    comparison: plan, n, hours, se, half_width, simulated_se, simulated_bias, included, for this
    plan and the naive ones; the simulation drops runs with E above the rule's limit.
    """

    runs: pd.DataFrame
    comparison: pd.DataFrame
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        tables = {"runs": records(self.runs), "comparison": records(self.comparison)}
        return {**tables, "notes": self.notes}

    def to_markdown(self) -> str:
        """Tables for people, then the assumptions."""
        notes = "\n".join(f"- {note}" for note in self.notes)
        return (
            f"{markdown(self.runs)}\n\nThe same hours spent otherwise\n\n"
            f"{markdown(self.comparison)}\n\n{notes}"
        )


def rates(table: pd.DataFrame, processor: str | None = None) -> pd.DataFrame:
    """Measured speed of every rung: rung, gmacs_per_pair, samples_per_s (median), runs.

    table: columns rung, gmacs_per_pair, samples_per_s, and processor where one is asked for (any
    part of its name). InputError: a missing column, or no run on that processor.
    """
    check_columns(table, ["rung", "gmacs_per_pair", "samples_per_s"])
    if processor is not None:
        check_columns(table, ["processor"])
        fits = table["processor"].astype(str).str.contains(processor, regex=False)
        if not fits.any():
            known = ", ".join(sorted(table["processor"].astype(str).unique()))
            raise InputError(f"no run was timed on '{processor}'; there are {known}")
        table = table[fits]
    for name in ("gmacs_per_pair", "samples_per_s"):
        positive(table[name], name, [f"of rung {rung}" for rung in table["rung"]])
    found = table.groupby("rung", as_index=False).agg(
        gmacs_per_pair=("gmacs_per_pair", "first"),
        samples_per_s=("samples_per_s", "median"),
        runs=("samples_per_s", "size"),
    )
    return found.sort_values("gmacs_per_pair", ignore_index=True)


def candidates(
    speeds: pd.DataFrame, samples: tuple[float, float] = SAMPLES, step: float = STEP
) -> pd.DataFrame:
    """Runs to choose from: every timed rung at sample counts a factor of about ``step`` apart.

    Columns: rung, samples_seen, hours (of training), compute (GMAC). InputError: an empty range.
    """
    low, high = samples
    if not (0 < low <= high and step > 1):
        raise InputError(f"samples from {low:g} to {high:g} by factors of {step:g} are no range")
    counts = np.geomspace(low, high, max(1, round(np.log(high / low) / np.log(step))) + 1)
    grid = speeds.merge(pd.DataFrame({"samples_seen": np.round(counts).astype(int)}), how="cross")
    return pd.DataFrame(
        {
            "rung": grid["rung"],
            "samples_seen": grid["samples_seen"],
            "hours": grid["samples_seen"] / grid["samples_per_s"] / 3600,
            "compute": grid["samples_seen"] * grid["gmacs_per_pair"],
        }
    )


def plan(
    believed: Belief,
    offered: pd.DataFrame,
    hours: float,
    existing: ArrayLike = (),
    repeats: int = REPEATS,
    max_error: float = MAX_ERROR,
    sure: float = SURE,
    least_gain: float = LEAST_GAIN,
    level: float = 0.95,
    simulations: int = 2000,
    seed: int = 0,
) -> Plan:
    """Spend ``hours`` on the runs that narrow alpha most.

    offered: a table of `candidates`. existing: compute of the runs that are there already (their
    errors do not matter). repeats: how many seeds of one run may be planned. sure: a run must
    be this sure to have an error of at most ``max_error``; runs that the inclusion rule may drop
    bend the slope. least_gain: hours are left unspent rather than on a run that narrows se by a
    smaller share. InputError: no hours, nothing affordable, or not two distinct C in all.
    """
    if not hours > 0:
        raise InputError(f"a plan needs hours to spend, got {hours:g}")
    x = np.log(offered["compute"].to_numpy(dtype=float))
    fits = believed.log_error(x) + believed.sd * float(ndtri(sure)) <= np.log(max_error)
    pool = offered[fits].reset_index(drop=True)
    if pool.empty or pool["hours"].min() > hours:
        raise InputError(
            f"no run that costs at most {hours:g} hours is {100 * sure:g}% sure of an error of "
            f"{max_error:g} or less; give more hours or other sample counts"
        )
    have = np.log(positive(existing, "existing")) if np.size(existing) else np.zeros(0)
    chosen = _greedy(pool, hours, have, repeats, least_gain)
    others = {
        "largest runs first": _largest(pool, hours, repeats),
        "equal shares of the rungs": _shares(pool, hours, repeats),
    }
    plans = {"this plan": chosen, **others}
    rng = np.random.default_rng(seed)
    rows = [
        _judge(name, pool, picks, have, believed, max_error, level, simulations, rng)
        for name, picks in plans.items()
    ]
    return Plan(
        runs=_steps(pool, chosen, have, believed, level),
        comparison=pd.DataFrame(rows),
        notes=[
            *_assumptions(believed, len(have)),
            f"{int((~fits).sum())} of {len(offered)} runs offered are less than "
            f"{100 * sure:g}% sure of an error of {max_error:g} or less and left out",
            f"a run that narrows se by less than {100 * least_gain:g}% is left out",
            *_beaten(rows),
        ],
    )


def _beaten(rows: list[dict[str, Any]]) -> list[str]:
    """Greedy is not optimal: say where a naive plan does better."""
    own, *others = rows
    return [f"'{row['plan']}' does better here" for row in others if row["se"] < own["se"]]


def _assumptions(believed: Belief, existing: int) -> list[str]:
    return [
        f"believed: E = {believed.beta:.4g} C^{believed.alpha:.4g}, scatter of ln E "
        f"{believed.sd:.3g}, the same for every run and independent also between seeds",
        "alpha is of the law through all runs, not of a frontier; a law of the wrong form is not "
        "cured by more runs: se counts scatter only",
        "hours are training at the median speed measured for the rung, evaluation not counted; "
        "rungs that were never timed are not offered",
        f"{existing} runs are there already",
    ]


# ------------------------------------------------------------------------------------- choosing runs


def sum_of_squares(x: Array) -> float:
    """Sxx: sum of squares of ln C about its mean; the variance of a slope is sd^2 / Sxx."""
    return float(((x - x.mean()) ** 2).sum()) if len(x) else 0.0


def _greedy(
    pool: pd.DataFrame, hours: float, have: Array, repeats: int, least_gain: float
) -> list[int]:
    """Rows of the pool, each the most Sxx per hour; the first two together where none are there."""
    x, cost = np.log(pool["compute"].to_numpy(dtype=float)), pool["hours"].to_numpy(dtype=float)
    picks = list(_first_pair(x, cost, hours)) if sum_of_squares(have) == 0 else []
    enough = (1 - least_gain) ** -2 - 1  # of Sxx: se goes with its root
    while True:
        now = np.concatenate([have, x[picks]])
        gain = len(now) / (len(now) + 1) * (x - now.mean()) ** 2
        left = hours - cost[picks].sum()
        used = np.bincount(np.array(picks, dtype=int), minlength=len(x))
        allowed = (cost <= left * (1 + 1e-12)) & (used < repeats)
        allowed &= gain > enough * sum_of_squares(now)
        if not allowed.any():
            return picks
        picks.append(int(np.where(allowed, gain / cost, 0).argmax()))


def _first_pair(x: Array, cost: Array, hours: float) -> tuple[int, int]:
    both = cost[:, None] + cost
    worth = np.where(both <= hours, (x[:, None] - x) ** 2 / both, 0)
    if not worth.any():
        raise InputError(f"{hours:g} hours do not buy two runs of different compute")
    i, j = np.unravel_index(worth.argmax(), worth.shape)
    return int(i), int(j)


def _largest(pool: pd.DataFrame, hours: float, repeats: int) -> list[int]:
    """The runs of most compute first, each with all its seeds."""
    order = pool["compute"].sort_values(ascending=False, kind="stable").index
    return _fill([int(row) for row in order for _ in range(repeats)], pool["hours"], hours)


def _shares(pool: pd.DataFrame, hours: float, repeats: int) -> list[int]:
    """The same hours for every rung: each of its runs once from the cheapest on, then again."""
    rungs = [rows["hours"].sort_values().index for _, rows in pool.groupby("rung", sort=False)]
    each = hours / len(rungs)
    return [pick for rows in rungs for pick in _fill(list(rows) * repeats, pool["hours"], each)]


def _fill(order: Sequence[int], cost: pd.Series, hours: float) -> list[int]:
    """The rows of the order that the hours left still buy."""
    picks: list[int] = []
    for row in order:
        if cost[row] <= hours * (1 + 1e-12):
            picks.append(row)
            hours -= cost[row]
    return picks


# ------------------------------------------------------------------------------------ judging a plan


def _half_width(se: float, n: int, level: float) -> float:
    """Half the interval: an exponent's scatter is estimated too, so Student's t."""
    return t_quantile(n - 2, level) * se if n > 2 else float("nan")


def _steps(
    pool: pd.DataFrame, picks: list[int], have: Array, believed: Belief, level: float
) -> pd.DataFrame:
    table = pool.loc[picks].reset_index(drop=True)
    x = np.log(table["compute"].to_numpy(dtype=float))
    table["seed"] = table.groupby(["rung", "samples_seen"]).cumcount()
    table["hours_total"] = table["hours"].cumsum()
    table["error"] = np.exp(believed.log_error(x))
    so_far = [np.concatenate([have, x[: i + 1]]) for i in range(len(x))]
    table["se"] = [_se(part, believed.sd) for part in so_far]
    half = [_half_width(se, len(part), level) for se, part in zip(table["se"], so_far, strict=True)]
    before = [_half_width(_se(have, believed.sd), len(have), level), *half][: len(half)]
    table["half_width"] = half
    table["gain_per_hour"] = (np.array(before) - half) / table["hours"]
    table.insert(0, "run", np.arange(1, len(table) + 1))
    order = ["run", "rung", "samples_seen", "seed", "hours", "hours_total", "compute", "error"]
    return table[[*order, "se", "half_width", "gain_per_hour"]]


def _se(x: Array, sd: float) -> float:
    spread = sum_of_squares(x)
    return sd / float(np.sqrt(spread)) if spread > 0 else float("nan")


def _judge(
    name: str,
    pool: pd.DataFrame,
    picks: list[int],
    have: Array,
    believed: Belief,
    max_error: float,
    level: float,
    simulations: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    rows = pool.loc[picks]
    x = np.concatenate([have, np.log(rows["compute"].to_numpy(dtype=float))])
    se = _se(x, believed.sd)
    row = {"plan": name, "n": len(picks), "hours": rows["hours"].sum(), "se": se}
    row |= {"half_width": _half_width(se, len(x), level)}
    return row | simulate(x, believed, max_error, simulations, rng)


def simulate(
    x: Array, believed: Belief, max_error: float, n: int, rng: np.random.Generator
) -> dict[str, float]:
    """Make the runs n times over and fit those with E <= max_error, as the inclusion rule does.

    x: ln C of the runs, (m,). Returns simulated_se and simulated_bias of alpha, and the share of
    runs included. The rule drops the unlucky ones near its limit, which bends the slope.
    """
    y = believed.log_error(x) + believed.sd * rng.standard_normal((n, len(x)))
    kept = (y <= np.log(max_error)).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = kept.sum(1)
        dx = x - (kept @ x / total)[:, None]
        sxx = (kept * dx**2).sum(1)
        slope = np.where(sxx > 1e-12, (kept * dx * y).sum(1) / sxx, np.nan)
    slope = slope[np.isfinite(slope)]
    se = bias = float("nan")
    if len(slope) > 1:
        se, bias = float(slope.std(ddof=1)), float(slope.mean() - believed.alpha)
    return {"simulated_se": se, "simulated_bias": bias, "included": float(kept.mean())}
