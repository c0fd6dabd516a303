"""The miniature study as its chapter reads it: responses, the inclusion rule, two laws, sentences.

A response is an error for every run: 1 - metric for accuracies, and for InfoNCE the loss as a share
of the loss of guessing. Which runs enter which fit was fixed before they ran (`cliplib.laws.include`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.collect import collect, curves
from cliplib.ladder import gmacs
from cliplib.laws import Draws, Fit, Recipe, bootstrap, include
from cliplib.records import digest

MIN_RUNS = 5
GRID = 40  # points of a drawn curve
DRAWS = {"power": 1000, "curved": 200}  # bootstrap samples; the curved law is a slow fit


@dataclass(frozen=True)
class Response:
    """One way to score a run. title: axis label; guessing is the level of a model that guesses."""

    task: str
    metric: str
    title: str


RESPONSES = {
    "phosphor": Response("phosphor", "accuracy_20_way", "Phosphor, 20-way zero-shot error"),
    "retrieval": Response("retrieval", "recall_at_5", "retrieval error at 5 of 1,000"),
    "infonce": Response("retrieval", "infonce", "held-out InfoNCE / guessing"),
}


def read_runs(committed: Path, runs: Path, scale: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The committed study and the reader's own finished runs of `scale`; either may be empty.

    Only runs on all of the data of both corpora: the others answer other questions.
    """
    tables = [
        pd.read_csv(committed) if committed.exists() else collect(runs, wanted=()),
        collect(runs),
    ]
    wanted = "scale == @scale and data_scale == 'all' and corpus == 'all'"
    study, yours = (table.query(wanted, local_dict={"scale": scale}) for table in tables)
    return study, yours


def read_curves(committed: Path, runs: Path, study: pd.DataFrame) -> pd.DataFrame:
    """Learning curves of the runs of a study, with their rung: from the table, else the records."""
    table = pd.read_csv(committed) if committed.exists() else curves(runs)
    rungs = study[["run_id", "rung", "gmacs_per_pair"]].drop_duplicates()
    merged = table.merge(rungs, on="run_id", validate="many_to_one")
    return merged.sort_values("gmacs_per_pair", kind="stable", ignore_index=True)


def errors(table: pd.DataFrame, response: Response) -> pd.DataFrame:
    """One row a run: run_id, rung, compute_gmac, seconds, error with low and high, guessing, ...

    low, high: the 95% interval clustered by concept. guessing: the error of a model that guesses.
    included, reason: the inclusion rule's verdict. Ordered by compute.
    """
    rows = table[(table.task == response.task) & (table.metric == response.metric)]
    unit = rows.chance if response.metric == "infonce" else 1.0
    value, se = rows.value / unit, rows.se / unit
    low, high, chance = rows.ci_low / unit, rows.ci_high / unit, rows.chance / unit
    if response.metric != "infonce":
        value, low, high, chance = 1 - value, 1 - high, 1 - low, 1 - chance
    keep = ["run_id", "rung", "seed", "samples_seen", "compute_gmac", "seconds", "n_items"]
    out = rows[keep].assign(error=value, low=low, high=high, se=se, guessing=chance)
    verdict = include(np.clip(out.error, 0, 1), 1 - out.guessing, out.se) if len(out) else None
    out = out.assign(
        included=verdict.included.to_numpy() if verdict is not None else [],
        reason=verdict.reason.to_numpy() if verdict is not None else [],
    )
    return out.sort_values("compute_gmac", ignore_index=True)


@dataclass(frozen=True)
class StudyLaw:
    """A law of a response. curve: compute_gmac, error, low, high over the fitted range."""

    fit: Fit
    draws: Draws
    curve: pd.DataFrame

    @property
    def exponent(self) -> tuple[float, float, float]:
        """The exponent and its 95% interval from the bootstrap of runs."""
        interval = self.draws.ci()["alpha"]
        return self.fit.params["alpha"], interval.low, interval.high


def study_law(runs: pd.DataFrame, form: str) -> StudyLaw | str:
    """Fit `form` to runs (a table of `errors`): the power law to the included, the curved to all.

    The curved law starts at the error of guessing, so runs near chance inform it. Returns the
    reason, in words, where there are too few runs or the form does not fit.
    """
    used = runs[runs.included] if form == "power" else runs
    if len(used) < MIN_RUNS:
        return f"{len(used)} runs are too few to resample for an interval (at least {MIN_RUNS})"
    options = {"chance": 1 - float(runs.guessing.iloc[0])} if form == "curved" else {}
    recipe = Recipe(form, x="compute_gmac", y="error", options=options)
    try:
        fit = recipe.fit(used)
        C = np.geomspace(*fit.C_range, GRID)
        draws = bootstrap(lambda sample: _with_curve(recipe.fit(sample), C), used, DRAWS[form])
    except InputError as error:
        return str(error)
    low, high = np.quantile(draws.values[:, -GRID:], [0.025, 0.975], axis=0)
    curve = pd.DataFrame({"compute_gmac": C, "error": fit.predict(C), "low": low, "high": high})
    return StudyLaw(fit, draws, curve)


def _with_curve(fit: Fit, C: np.ndarray) -> dict[str, float]:
    """Parameters and predictions, so that one bootstrap gives the interval and the band."""
    return {**fit.params, **{f"at {i}": float(e) for i, e in enumerate(fit.predict(C))}}


def budget_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Error by budget and rung (runs: a table of `errors`); a budget is compute to two digits.

    The last column names the rung with the least error where a budget was spent on several.
    """
    budget = runs.compute_gmac.map(lambda C: float(f"{C:.1e}"))
    wide = runs.assign(budget=budget).pivot_table(index="budget", columns="rung", values="error")
    wide = wide[sorted(wide.columns, key=lambda name: gmacs(str(name)))]
    best = wide.idxmin(axis=1).where(wide.notna().sum(axis=1) > 1, "")
    table = wide.round(3).astype(object).where(wide.notna(), "").assign(least=best)
    named = table.reset_index().rename_axis(columns=None)
    return named.rename(columns={"budget": "compute (GMAC)", "least": "least error"})


def task_table(study: pd.DataFrame) -> pd.DataFrame:
    """Every zero-shot task of the run with the most compute: items, chance, strict and kinder scores.

    Accuracies in percent; with the interval of the 20-way accuracy, clustered by concept.
    """
    rows = _largest(study)
    wide = rows.pivot(index="task", columns="metric", values="value")
    whole = rows[rows.metric == "accuracy_20_way"].set_index("task")
    table = pd.DataFrame(
        {
            "items": rows[rows.metric == "top1"].set_index("task").n_items,
            "chance of top-1": _percent(rows[rows.metric == "top1"].set_index("task").chance),
            "top-1": _percent(wide.top1),
            "with synonyms": _percent(wide.top1_synonyms),
            "top-5": _percent(wide.top5),
            "20-way": _percent(wide.accuracy_20_way),
            "from": _percent(whole.ci_low),
            "to": _percent(whole.ci_high),
        }
    )
    return table.dropna().astype({"items": int}).reset_index(names="task")


def similarity_table(study: pd.DataFrame, task: str = "phosphor") -> pd.DataFrame:
    """20-way error of the run with the most compute, by similarity to the nearest training picture."""
    rows = _largest(study)
    found = rows[(rows.task == task) & rows.metric.str.contains("similarity")]
    labels = found.metric.str.split("similarity_").str[1].str.replace("_", " ")
    return pd.DataFrame(
        {
            "similarity": labels,
            "items": found.n_items,
            "error": (1 - found.value).round(3),
            "from": (1 - found.ci_high).round(3),
            "to": (1 - found.ci_low).round(3),
        }
    ).sort_values("similarity", ignore_index=True)


def _largest(study: pd.DataFrame) -> pd.DataFrame:
    return study[study.compute_gmac == study.compute_gmac.max()]


def _percent(values: pd.Series) -> pd.Series:
    return (100 * values).round(2)


def picture(committed: Path, scale: str) -> bytes:
    """A PNG of the committed study's first response with its laws; it names the table it shows.

    Raises:
        InputError: the table holds no finished run of that scale.
    """
    import matplotlib.pyplot as plt

    from cliplib.figures import error_against_compute, style

    study, _ = read_runs(committed, Path("no runs"), scale)
    if study.empty:
        raise InputError(f"{committed} has no runs of {scale}: make study, then cliplib publish")
    response = RESPONSES["phosphor"]
    runs = errors(study, response)
    laws = {f"{form} law": study_law(runs, form) for form in DRAWS}
    drawn = {label: law.curve for label, law in laws.items() if isinstance(law, StudyLaw)}
    style()
    figure = error_against_compute(runs, None, drawn, response.title)
    out = io.BytesIO()
    metadata = {"Source": digest(committed.read_bytes()), "Software": None}
    figure.savefig(out, dpi=130, bbox_inches="tight", facecolor="white", metadata=metadata)
    plt.close(figure)
    return out.getvalue()


# -------------------------------------------------------------------------------- in words


def summary(runs: pd.DataFrame, laws: Mapping[str, StudyLaw | str]) -> str:
    """What a response shows, as markdown: runs included, range, exponents, what is not claimed."""
    kept = int(runs.included.sum())
    span = runs.compute_gmac.max() / runs.compute_gmac.min()
    first, last = runs.iloc[0], runs.iloc[-1]
    lines = [
        f"- {len(runs)} runs over a factor of {span:.0f} in compute; {kept} pass the inclusion rule.",
        f"- From the least to the most compute the error goes from {_span(first)} to {_span(last)}; "
        f"guessing is {first.guessing:.3f}.",
    ]
    return "\n".join([*lines, *(_law_line(form, law) for form, law in laws.items())])


def _span(row: pd.Series) -> str:
    return f"{row.error:.3f} ({row.low:.3f} to {row.high:.3f})"


def _law_line(form: str, law: StudyLaw | str) -> str:
    if isinstance(law, str):
        return f"- No {form} law is fitted: {law}."
    alpha, low, high = law.exponent
    line = (
        f"- The {form} law has exponent {alpha:.3f}, 95% interval {low:.3f} to {high:.3f} "
        f"({law.draws.kind}; {law.fit.n} runs)."
    ).replace(" -", " \N{MINUS SIGN}")
    if low <= 0 <= high:
        line += " The interval contains zero: no fall is shown by this law."
    return line
