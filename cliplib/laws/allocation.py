"""How to spend compute: the model size N and the samples D of least error where k N D = C.

Hoffmann et al. 2022, section 3.3: for E + A N^-alpha + B D^-beta the optimum is in closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib import InputError
from cliplib.laws.fitting import Fit
from cliplib.laws.inputs import Array, positive
from cliplib.laws.tables import markdown, records
from cliplib.laws.uncertainty import Draws

GRID = 2001
COLUMNS = ("N", "D", "error")


@dataclass(frozen=True)
class Allocation:
    """The best N and D at each C.

    table: C, N, D, error, and with draws each with _low and _high. exponents: N_opt = G (C/k)^a
    and D_opt = (C/k)^b / G for the additive law, empty for others; their intervals where draws
    were given. notes: assumptions, and in words why there is no optimum where there is none.
    """

    table: pd.DataFrame
    exponents: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        spans = {name: list(span) for name, span in self.intervals.items()}
        return {
            "allocation": records(self.table), "exponents": self.exponents,
            "intervals": spans, "notes": list(self.notes),
        }  # fmt: skip

    def to_markdown(self) -> str:
        """A table for people, the exponents, the notes."""
        lines = [
            f"- {name} = {value:.4g}{self._span(name)}" for name, value in self.exponents.items()
        ]
        return f"{markdown(self.table)}\n\n" + "\n".join([*lines, *(f"- {n}" for n in self.notes)])

    def _span(self, name: str) -> str:
        if name not in self.intervals:
            return ""
        low, high = self.intervals[name]
        return f" ({low:.4g} to {high:.4g})"


def optimal_allocation(
    fit: Fit,
    C: ArrayLike,
    flops_per: float = 6.0,
    draws: Draws | None = None,
    level: float = 0.95,
    unique: float | None = None,
    N_range: tuple[float, float] | None = None,
    D_range: tuple[float, float] | None = None,
) -> Allocation:
    """N and D of least predicted error at compute C, where C = flops_per N D.

    fit: a law in N and D (and U, then ``unique`` is the number of unique samples). flops_per: 6
    for C in FLOPs of training and N in parameters; 1 for C in GMAC and N in GMAC a sample. draws:
    a bootstrap of the law; intervals are percentiles over them.

    The multiplicative law has no interior optimum: along k N D = C its error is a power of N, so
    the larger exponent takes everything. For it the answer is the end of N_range and D_range, by
    default the ranges of the runs. InputError: a law in other variables, a bad C, no U.

    >>> from cliplib.laws import fit
    >>> N, D = [1e6, 1e6, 1e7, 1e7, 1e8, 1e8, 1e9], [1e9, 1e8, 1e9, 1e10, 1e10, 1e9, 1e10]
    >>> loss = [1.7 + 400 * n**-0.34 + 410 * d**-0.28 for n, d in zip(N, D)]
    >>> law = fit("chinchilla", {"N": N, "D": D}, loss)
    >>> round(optimal_allocation(law, [1e20]).exponents["a"], 3)
    0.452
    """
    variables = tuple(fit.form.variables)
    if variables not in (("N", "D"), ("N", "D", "U")):
        raise InputError(f"an allocation needs a law in N and D; {fit.law} is in {variables}")
    if "U" in variables and unique is None:
        raise InputError(f"the {fit.law} law counts unique samples: say how many there are")
    budgets = positive(np.atleast_1d(np.asarray(C, dtype=float)), "C")
    if not 0 < flops_per < np.inf:
        raise InputError(f"flops_per must be above zero, got {flops_per:g}")
    if fit.law == "nd_multiplicative":
        return _corner(fit, budgets, flops_per, draws, N_range, D_range)
    solve = _closed if fit.law == "chinchilla" else _numeric
    best = solve(fit, fit.theta, budgets / flops_per, unique)  # (3, m)
    table = pd.DataFrame({"C": budgets, **dict(zip(COLUMNS, best, strict=True))})
    notes = [f"C = {flops_per:g} N D"]
    if "U" in variables:
        notes.append(f"{unique:g} unique samples, repeated where D is larger")
    if np.isnan(best).any():
        notes.append("an empty cell: the least error is at an end of the grid, N or D of 1")
    intervals = {}
    if draws is not None:
        theta = fit.form.internal(draws.values)
        table, lost = _with_intervals(table, fit, solve, theta, budgets / flops_per, unique, level)
        notes.append(f"{100 * level:g}% intervals: percentile, {draws.kind}")
        notes += [f"{lost} draws without an interior optimum are not in them"] if lost else []
        intervals = _exponent_intervals(fit, draws, level)
    return Allocation(table, _exponents(fit, fit.params), intervals, notes)


def _closed(fit: Fit, theta: Array, budget: Array, unique: float | None) -> Array:
    """N, D, error of the additive law in closed form, (..., 3, m); theta (..., p)."""
    A, B, _, alpha, beta = np.moveaxis(fit.form.natural(theta)[0], -1, 0)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):  # an exponent of 0 has no optimum
        G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
        N = G * budget ** (beta / (alpha + beta))
        inside = np.isfinite(N) & (N > 0) & (alpha > 0) & (beta > 0)
    N = np.where(inside, N, np.nan)
    return _with_error(fit, theta, N, budget / N, unique)


def _with_error(fit: Fit, theta: Array, N: Array, D: Array, unique: float | None) -> Array:
    columns = [N, D] if unique is None else [N, D, np.full_like(N, unique)]
    error = np.exp(fit.form.log_predict(theta, np.log(np.stack(columns, axis=-2))))
    return np.stack([N, D, error], axis=-2)


def _numeric(fit: Fit, theta: Array, budget: Array, unique: float | None) -> Array:
    """N, D, error by search over ln N with N, D >= 1, (..., 3, m); nan where an end is best."""
    columns = [_search(fit, theta, float(b), unique) for b in budget]
    N = np.stack(columns, axis=-1)
    return _with_error(fit, theta, N, budget / N, unique)


def _search(fit: Fit, theta: Array, budget: float, unique: float | None) -> Array:
    """The best N for N D = budget, shape (...): a grid, then the same grid between its neighbours."""
    low, high = np.zeros(theta.shape[:-1]), np.full(theta.shape[:-1], np.log(budget))
    edge = np.zeros(theta.shape[:-1], bool)
    for zoom in range(4):
        grid = np.linspace(low, high, GRID, axis=-1)  # ln N, (..., GRID)
        x = [grid, np.log(budget) - grid]
        x += [] if unique is None else [np.full_like(grid, np.log(unique))]
        best = fit.form.log_predict(theta, np.stack(x, axis=-2)).argmin(-1)
        if zoom == 0:
            edge = (best == 0) | (best == GRID - 1)
        step = (high - low) / (GRID - 1)
        low, high = low + step * (best - 1), low + step * (best + 1)
    return np.where(edge, np.nan, np.exp((low + high) / 2))


def _with_intervals(
    table: pd.DataFrame,
    fit: Fit,
    solve: Any,
    theta: Array,
    budget: Array,
    unique: float | None,
    level: float,
) -> tuple[pd.DataFrame, int]:
    """The table with _low and _high, and how many draws had no interior optimum at some C."""
    found = np.concatenate([solve(fit, part, budget, unique) for part in _parts(theta)])
    good = np.isfinite(found).all((1, 2))
    if not good.any():
        raise InputError("no draw of the bootstrap has an interior optimum")
    ends = np.quantile(found[good], [(1 - level) / 2, (1 + level) / 2], axis=0)
    for i, name in enumerate(COLUMNS):
        table[f"{name}_low"], table[f"{name}_high"] = ends[0, i], ends[1, i]
    order = ["C", *(f"{name}{end}" for name in COLUMNS for end in ("", "_low", "_high"))]
    return table[order], int((~good).sum())


def _parts(theta: Array) -> list[Array]:
    """Draws in blocks, so that a search over a grid keeps to some tens of megabytes."""
    return np.array_split(theta, max(1, len(theta) // 250))


def _exponents(fit: Fit, params: dict[str, float]) -> dict[str, float]:
    """Exponents of the additive law's optimum: N_opt = G (C/k)^a, D_opt = (C/k)^b / G."""
    alpha, beta = params["alpha"], params["beta"]
    if fit.law != "chinchilla" or min(alpha, beta) <= 0:
        return {}
    total = alpha + beta
    G = (alpha * params["A"] / (beta * params["B"])) ** (1 / total)
    return {"a": beta / total, "b": alpha / total, "G": G}


def _exponent_intervals(fit: Fit, draws: Draws, level: float) -> dict[str, tuple[float, float]]:
    rows = [_exponents(fit, dict(zip(draws.names, row, strict=True))) for row in draws.values]
    table = pd.DataFrame([row for row in rows if row])
    if table.empty:
        return {}
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = {str(name): np.quantile(column, tails) for name, column in table.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _corner(
    fit: Fit,
    budgets: Array,
    flops_per: float,
    draws: Draws | None,
    N_range: tuple[float, float] | None,
    D_range: tuple[float, float] | None,
) -> Allocation:
    """The multiplicative law: as far towards the larger exponent as the ranges allow."""
    alpha, beta = fit.params["alpha"], fit.params["beta"]
    budget = budgets / flops_per
    N_low, N_high = N_range or _seen(fit, 0)
    D_low, D_high = D_range or _seen(fit, 1)
    least, most = np.maximum(N_low, budget / D_high), np.minimum(N_high, budget / D_low)
    N = np.where(least <= most, most if alpha > beta else least, np.nan)
    best = _with_error(fit, fit.theta, N, budget / N, None)
    side, other = ("N", "D") if alpha > beta else ("D", "N")
    notes = [
        f"C = {flops_per:g} N D",
        f"no interior optimum: along this line the error is a power of N, N^{beta - alpha:.3g}; "
        f"alpha {alpha:.3g} against beta {beta:.3g} gives everything to {side}",
        f"so this is an end of the ranges, N {N_low:.3g} to {N_high:.3g} and D {D_low:.3g} to "
        f"{D_high:.3g}: as little {other} as they allow",
    ]
    if np.isnan(N).any():
        notes.append("an empty cell: no N and D in these ranges spend that C")
    if draws is not None:
        values = dict(zip(draws.names, draws.values.T, strict=True))
        same = ((values["alpha"] > values["beta"]) == (alpha > beta)).mean()
        notes.append(f"{100 * same:.3g}% of the draws prefer {side} too ({draws.kind})")
    table = pd.DataFrame({"C": budgets, **dict(zip(COLUMNS, best, strict=True))})
    return Allocation(table, {}, {}, notes)


def _seen(fit: Fit, variable: int) -> tuple[float, float]:
    """The range of a variable in the runs that were fitted."""
    column = np.asarray(fit.X)[:, variable]
    return float(column.min()), float(column.max())
