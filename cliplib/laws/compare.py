"""Do two sources scale alike? Slopes and levels of ln y on ln x by group, with honest degrees of freedom.

A group is a source: its data *and* its recipe. A difference between groups cannot say which of the
two made it. Slopes are tested with one scatter for all groups (analysis of covariance); a
permutation test stands beside it, and HC3 only where leverage allows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import fdtrc, gammaln, stdtr, stdtrit

from cliplib import InputError
from cliplib.laws.inputs import Array, positive
from cliplib.laws.lines import Lines, level_difference, lines, slope_difference
from cliplib.laws.tables import markdown, records

#: Above this leverage a residual says little about its run's error, and HC3 divides by almost 0.
#: Huber (1981, section 7.2): below 0.2 safe, up to 0.5 risky, above to be avoided.
MAX_LEVERAGE = 0.5
SCHEMES = ("residuals", "labels")


@dataclass(frozen=True)
class SlopeComparison:
    """What groups have in common and what not; every table is tidy.

    slopes: group, n, slope, low, high, dof, scatter. Each interval from the group's own scatter.
    differences: group, reference, difference (of slopes), low, high, dof, p; scatter pooled.
    levels: group, reference, slopes ("common" | "own"), percent, low, high, dof, p: how much
    larger y is at the mean x.
    tests: test, statistic, value, df1, df2, p, note; the null hypothesis is equal slopes.
    notes: what a reader must know. level: of the intervals.
    """

    slopes: pd.DataFrame
    differences: pd.DataFrame
    levels: pd.DataFrame
    tests: pd.DataFrame
    notes: list[str]
    n: int
    level: float = 0.95

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        tables = ("slopes", "differences", "levels", "tests")
        found = {name: records(getattr(self, name)) for name in tables}
        return {"n": self.n, "level": self.level, **found, "notes": self.notes}

    def to_markdown(self) -> str:
        """Tables for people, then the notes."""
        titles = {
            "slopes": "Slopes, each from its own scatter",
            "differences": "Differences of slopes, one scatter for all groups",
            "levels": "Levels at the mean x, in percent of y",
            "tests": "Are the slopes equal?",
        }
        parts = [f"{title}\n\n{markdown(getattr(self, name))}" for name, title in titles.items()]
        return "\n\n".join([*parts, "\n".join(f"- {note}" for note in self.notes)])


def compare_slopes(
    runs: pd.DataFrame,
    by: str,
    x: str = "compute",
    y: str = "error",
    match: Sequence[str] | None = None,
    permutations: int = 9999,
    seed: int = 0,
    scheme: str = "residuals",
    level: float = 0.95,
) -> SlopeComparison:
    """Slopes and levels of ln y on ln x by group, and whether they differ.

    by: the column that names the groups, the first row's is the reference. match: columns; only
    cells (their combinations) that every group has are kept. The classical test is OLS
    ``y ~ x * group``, t (two groups) or F (more) with its true degrees of freedom.

    scheme of the permutation test: ``residuals`` shuffles residuals about parallel lines
    (Freedman and Lane 1983), so levels may differ; ``labels`` shuffles the groups' names within
    the matched cells, which tests that groups do not matter at all, level included.
    InputError: a missing column, fewer than two groups, a group without two distinct x, no cell
    in common, no degree of freedom left.
    """
    if scheme not in SCHEMES:
        raise InputError(f"unknown scheme '{scheme}'; known: {', '.join(SCHEMES)}")
    kept = matched(runs, by, match) if match else runs
    names, log_x, log_y, group = _groups(kept, by, x, y)
    found = lines(log_x, log_y, group)
    cells = _cells(kept, match) if match else np.zeros(len(kept), int)
    tests = [_f_row("classical", found, float(found.f), "one scatter for all"), _hc3(found)]
    if permutations:
        tests.append(_permutation(log_x, log_y, found, cells, permutations, seed, scheme))
    notes = [SOURCE_NOTE]
    if match:
        notes.append(f"{len(kept)} of {len(runs)} runs lie in cells that every group has")
    if len(names) > 2:
        notes.append("p of single differences are not adjusted; the F test is one test for all")
    return SlopeComparison(
        slopes=_slopes(found, names, level),
        differences=_differences(found, names, level),
        levels=pd.concat([_levels(found, names, level, own) for own in (False, True)]),
        tests=pd.DataFrame(tests),
        notes=[*notes, *_small(found, names)],
        n=len(kept),
        level=level,
    )


SOURCE_NOTE = "a group names data and recipe together: a difference cannot say which made it"


def matched(runs: pd.DataFrame, by: str, match: Sequence[str]) -> pd.DataFrame:
    """The runs in cells (combinations of the columns ``match``) that every group of ``by`` has."""
    check_columns(runs, [by, *match])
    cells = _cells(runs, match)
    everywhere = runs[by].groupby(cells).nunique() == runs[by].nunique()
    kept = runs[everywhere[cells].to_numpy()]
    if kept.empty:
        raise InputError(f"no combination of {', '.join(match)} is in every group of {by}")
    return kept


def check_columns(runs: pd.DataFrame, wanted: Sequence[str]) -> None:
    """InputError naming the first of the wanted columns that the table lacks."""
    missing = [name for name in wanted if name not in runs.columns]
    if missing:
        raise InputError(f"no column {missing[0]} in the runs; there are {list(runs.columns)}")


def _cells(runs: pd.DataFrame, match: Sequence[str]) -> np.ndarray:
    return runs.groupby(list(match), sort=False, dropna=False).ngroup().to_numpy()


def _groups(
    runs: pd.DataFrame, by: str, x: str, y: str
) -> tuple[list[str], Array, Array, np.ndarray]:
    check_columns(runs, [by, x, y])
    codes, names = pd.factorize(runs[by])
    if (codes < 0).any():
        raise InputError(f"column {by}: {int((codes < 0).sum())} rows have no group; drop them")
    if len(names) < 2:
        raise InputError(f"column {by} names {len(names)} group; a comparison needs two or more")
    log_x, log_y = np.log(positive(runs[x], x)), np.log(positive(runs[y], y))
    for code, name in enumerate(names):
        if np.ptp(log_x[codes == code]) == 0:
            raise InputError(
                f"group {name} of {by} has {int((codes == code).sum())} runs at one {x}; "
                "a slope needs two distinct values"
            )
    if len(runs) <= 2 * len(names):
        raise InputError(
            f"{len(runs)} runs in {len(names)} groups leave no degree of freedom for the scatter"
        )
    return [str(name) for name in names], log_x, log_y, codes


# ------------------------------------------------------------------------------ tables of a comparison


def _slopes(found: Lines, names: list[str], level: float) -> pd.DataFrame:
    rows = []
    for g, name in enumerate(names):
        n, slope = int(found.n[g]), float(found.slope[g])
        dof, scatter, half = n - 2, float("nan"), float("nan")
        if dof:
            scatter = float(np.sqrt((found.residuals[found.group == g] ** 2).sum() / dof))
            half = t_quantile(dof, level) * scatter / float(np.sqrt(found.sxx[g]))
        rows.append((name, n, slope, slope - half, slope + half, dof, scatter))
    return pd.DataFrame(rows, columns=["group", "n", "slope", "low", "high", "dof", "scatter"])


def _differences(found: Lines, names: list[str], level: float) -> pd.DataFrame:
    rows = [
        (names[g], names[0], *map(float, t_test(*slope_difference(found, g), level)))
        for g in range(1, len(names))
    ]
    columns = ["group", "reference", "difference", "low", "high", "p"]
    return pd.DataFrame(rows, columns=columns).assign(dof=found.dof)


def _levels(found: Lines, names: list[str], level: float, own: bool) -> pd.DataFrame:
    rows = []
    for g in range(1, len(names)):
        value, se, dof = level_difference(found, g, own)
        *shifts, p = map(float, t_test(value, se, dof, level))
        percent = [100 * float(np.expm1(shift)) for shift in shifts]
        rows.append((names[g], names[0], "own" if own else "common", *percent, p, dof))
    columns = ["group", "reference", "slopes", "percent", "low", "high", "p", "dof"]
    return pd.DataFrame(rows, columns=columns)


def t_test(value: Array, se: Array, dof: int, level: float) -> tuple[Array, Array, Array, Array]:
    """The value, its interval's ends, and the two-sided p of Student's t."""
    half = t_quantile(dof, level) * se
    with np.errstate(divide="ignore"):
        p = 2 * stdtr(dof, -np.abs(value) / se)
    return value, value - half, value + half, p


def t_quantile(dof: int, level: float) -> float:
    """Half width of an interval, in standard errors."""
    return float(stdtrit(dof, (1 + level) / 2))


def _small(found: Lines, names: list[str]) -> list[str]:
    """A note for every group whose interval rests on fewer than three degrees of freedom."""
    own = {2: "no interval", 3: "1 degree of freedom", 4: "2 degrees of freedom"}
    return [
        f"{name} has {int(n)} runs, so {own[int(n)]} of its own; the tests borrow the scatter of "
        "the other groups"
        for name, n in zip(names, found.n, strict=True)
        if n in own
    ]


# ------------------------------------------------------------------------------- tests of equal slopes


def _row(test: str, p: float, note: str, **statistic: Any) -> dict[str, Any]:
    blank = {"statistic": None, "value": None, "df1": None, "df2": None}
    return {"test": test, **blank, **statistic, "p": p, "note": note}


def _f_row(test: str, found: Lines, f: float, note: str) -> dict[str, Any]:
    """A row for an F statistic; two groups give its root, t."""
    df1 = len(found.n) - 1
    name, value = ("t", float(np.sqrt(f))) if df1 == 1 else ("F", f)
    p = float(fdtrc(df1, found.dof, f))
    return _row(test, p, note, statistic=name, value=value, df1=df1, df2=found.dof)


def _hc3(found: Lines) -> dict[str, Any]:
    """Wald test with HC3 standard errors (MacKinnon and White 1985), or why there is none."""
    largest = float(found.leverage.max())
    if largest > MAX_LEVERAGE:
        note = (
            f"refused: a run has leverage {largest:.2f}, above {MAX_LEVERAGE:g}, so its residual "
            "says little about its error"
        )
        return _row("HC3", float("nan"), note)
    variance, apart = found.hc3, found.slope[1:] - found.slope[0]
    f = apart @ np.linalg.solve(np.diag(variance[1:]) + variance[0], apart) / len(apart)
    return _f_row("HC3", found, float(f), "scatter may differ from run to run")


def _permutation(
    x: Array, y: Array, found: Lines, cells: np.ndarray, n: int, seed: int, scheme: str
) -> dict[str, Any]:
    """Share of shuffles at least as extreme as what was seen: (1 + hits) / (1 + n)."""
    rng = np.random.default_rng(seed)
    if scheme == "residuals":
        shuffled = rng.permuted(np.broadcast_to(found.residuals_common, (n, len(x))), axis=1)
        less_extreme = lines(x, shuffled, found.group).f < found.f * (1 - 1e-9)
        note = f"{n} shuffles of residuals about parallel lines; levels may differ"
    else:  # with the labels' counts fixed, the F of "one line for all" falls with the own lines' sse
        sse = np.array([lines(x, y, _shuffle(found.group, cells, rng)).sse for _ in range(n)])
        less_extreme = sse > found.sse * (1 + 1e-9)
        note = (
            f"{n} shuffles of the groups' names within {cells.max() + 1} cells, "
            f"{_arrangements(found.group, cells):.4g} of them distinct; "
            "the null hypothesis is one line for all, level included"
        )
    hits = int((~less_extreme).sum())  # a shuffle that leaves a group at one x counts as a hit
    return _row("permutation", (1 + hits) / (1 + n), note)


def _shuffle(group: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The groups' labels in random order within each cell."""
    out = np.empty_like(group)
    out[np.argsort(cells, kind="stable")] = group[np.lexsort((rng.random(len(cells)), cells))]
    return out


def _arrangements(group: np.ndarray, cells: np.ndarray) -> float:
    """In how many ways the labels can be given within the cells."""
    counts = pd.crosstab(cells, group).to_numpy()
    return float(np.exp((gammaln(counts.sum(1) + 1) - gammaln(counts + 1).sum(1)).sum()))
