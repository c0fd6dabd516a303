"""Worked examples of the chapter on certainty: comparisons, a ledger, a plan, seeds.

Tables only. Every example runs on a committed table through `cliplib.laws`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cliplib import InputError, published
from cliplib.laws import fit, frontier, t_interval
from cliplib.laws.allocation import Allocation
from cliplib.laws.compare import SlopeComparison, compare_slopes, matched
from cliplib.laws.forecast import Forecast
from cliplib.laws.joint import JointReport, mixed
from cliplib.laws.ledger import append, read
from cliplib.laws.lines import lines
from cliplib.laws.noise import seed_noise
from cliplib.laws.plan import Belief, Plan, candidates, plan, rates
from cliplib.laws.scoring import score
from cliplib.methods.tables import DATA, LARGER
from cliplib.paper import tasks as paper_tasks

ARCHS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")  # that both sources trained
OWN = ("phosphor", "accuracy_20_way")  # task and metric of this project's runs
MOST_ERROR = 0.9


# ------------------------------------------------------------------------------- comparisons


def constructions(dataset: str) -> pd.DataFrame:
    """OpenAI's slope against OpenCLIP's in four ways.

    Columns: construction, n, openclip, openai (slopes), difference, low, high, dof, p, shuffled
    (p by permutation), leverage (the largest), hc3 (its p or nan), level (percent), level_p.
    """
    runs = published.errors(dataset)
    runs = runs[runs["data"].isin([*LARGER, "WIT-400M"])]
    like = runs[runs["samples_seen_label"] == "13B"]
    tables = {
        "five bins of OpenCLIP, three points of OpenAI": _papers(published.errors(dataset)),
        "all runs on the larger sets": runs,
        "same architectures and samples": matched(like, "family", ["arch"]),
        "the same, LAION-400M only": matched(
            like[like["data"] != "LAION-2B"], "family", ["arch"]
        ),
    }  # fmt: skip
    return pd.DataFrame(
        [
            _construction(name, table, compare_slopes(table, "family", permutations=1999))
            for name, table in tables.items()
        ]
    )


def _papers(runs: pd.DataFrame) -> pd.DataFrame:
    """The paper's own points: OpenCLIP's five bin minima beside OpenAI's runs."""
    openclip = runs[runs["family"] == "OpenCLIP"]
    points = frontier(openclip["compute"], openclip["error"], "bins")
    bins = pd.DataFrame({"compute": points.C, "error": points.E, "family": "OpenCLIP"})
    return pd.concat([bins, runs.loc[runs["family"] == "OpenAI", bins.columns]])


def _construction(name: str, runs: pd.DataFrame, found: SlopeComparison) -> dict[str, object]:
    slopes = found.slopes.set_index("group")["slope"]
    difference, tests = found.differences.iloc[0], found.tests.set_index("test")
    level = found.levels.iloc[0]
    sign = 1.0 if difference["group"] == "OpenAI" else -1.0
    ends = sorted(sign * difference[end] for end in ("low", "high"))
    group = pd.factorize(runs["family"])[0]
    leverage = lines(np.log(runs["compute"].to_numpy()), np.log(runs["error"].to_numpy()), group)
    return {
        "construction": name, "n": found.n, "openclip": slopes["OpenCLIP"],
        "openai": slopes["OpenAI"], "difference": sign * difference["difference"],
        "low": ends[0], "high": ends[1], "dof": int(difference["dof"]), "p": difference["p"],
        "shuffled": tests.loc["permutation", "p"], "hc3": tests.loc["HC3", "p"],
        "leverage": float(leverage.leverage.max()), "level": level["percent"],
        "level_p": level["p"],
    }  # fmt: skip


def constructions_shown(table: pd.DataFrame) -> pd.DataFrame:
    """`constructions` for readers."""
    spans = [
        f"{d:+.3f} ({a:+.3f} to {b:+.3f})"
        for d, a, b in zip(table["difference"], table["low"], table["high"], strict=True)
    ]
    refused = [f"refused, leverage {v:.2f}" for v in table["leverage"]]
    hc3 = [why if np.isnan(p) else f"{p:.3f}" for p, why in zip(table["hc3"], refused, strict=True)]
    return pd.DataFrame(
        {
            "construction": table["construction"],
            "points": table["n"],
            "OpenCLIP": table["openclip"].map("{:.3f}".format),
            "OpenAI": table["openai"].map("{:.3f}".format),
            "difference (95%)": spans,
            "dof": table["dof"],
            "p, t": table["p"].map("{:.3f}".format),
            "p, shuffled": table["shuffled"].map("{:.3f}".format),
            "p, HC3": hc3,
        }
    )


def together() -> JointReport:
    """The mean difference of slopes over all classification sets, matched runs, four methods."""
    runs = paper_tasks.task_runs()
    runs = runs[runs["data"].isin([*LARGER, "WIT-400M"]) & runs["arch"].isin(ARCHS)]
    return mixed(runs[runs["samples_seen_label"] == "13B"], "family")


def together_shown(report: JointReport) -> pd.DataFrame:
    """`together` for readers."""
    table = report.estimates
    return pd.DataFrame(
        {
            "method": table["method"],
            "mean difference": table["difference"].map("{:+.3f}".format),
            "95% interval": [
                f"{a:+.3f} to {b:+.3f}" for a, b in zip(table["low"], table["high"], strict=True)
            ],
            "p": ["" if pd.isna(p) else f"{p:.2g}" for p in table["p"]],
            "independent units": ["run × task", "run × task", "run", "run"],
        }
    )


# ------------------------------------------------------------------- forecasts and the ledger


def forecast_shown(made: Forecast) -> pd.DataFrame:
    """The first forecast for readers, in percent of error."""
    row = 100 * made.table.iloc[0]
    spans = {
        "this recipe, a new point of its frontier": ("low", "high"),
        "this recipe, the law itself": ("mean_low", "mean_high"),
        "the values of all forms": ("form_low", "form_high"),
        "all forms together": ("all_low", "all_high"),
    }
    return pd.DataFrame(
        {
            "error (%)": list(spans),
            "value": [f"{row['value']:.1f}", f"{row['value']:.1f}", "", ""],
            "from": [f"{row[low]:.1f}" for low, _ in spans.values()],
            "to": [f"{row[high]:.1f}" for _, high in spans.values()],
        }
    )


def ledger_story(made: Forecast) -> pd.DataFrame:
    """What a ledger answers: to a run older than the forecast, to a later one, to a changed line.

    made: a forecast at one x. The later run is made up: finished in a far year, with the middle
    of the forecast's interval as its error.
    """
    at, y = made.table.iloc[0], made.y
    x = {name: [at[name]] * 2 for name in made.x}
    error = [float(at["value"]), float(np.sqrt(at["low"] * at["high"]))]
    times = ["2023-01-31T00:00:00+00:00", "2999-01-01T00:00:00+00:00"]
    runs = pd.DataFrame({"run_id": ["older", "later"], **x, y: error, "finished": times})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        for target in runs["run_id"]:
            append(path, made, target)
        rows = [
            (f"score against a run that finished in {run['finished'][:4]}", outcome)
            for run, outcome in zip(
                runs.to_dict("records"), score(read(path), runs).table["status"], strict=True
            )
        ]
        lines_ = path.read_text().splitlines(keepends=True)
        path.write_text(lines_[0].replace('"level": 0.95', '"level": 0.99') + lines_[1])
        rows.append(("read it after one number in it was changed", _refusal(path)))
    return pd.DataFrame(rows, columns=["asked to", "the ledger says"])


def _refusal(path: Path) -> str:
    try:
        read(path)
    except InputError as error:
        return str(error).replace(str(path), path.name)
    return "nothing"


# ---------------------------------------------------------------------------------- planning


def allocation_shown(best: Allocation) -> pd.DataFrame:
    """The best split of compute for readers, with its intervals."""
    table = best.table
    shown: dict[str, object] = {"compute C": table["C"].map("{:.0e}".format)}
    for name, label in {"N": "best N", "D": "best D", "error": "loss"}.items():
        shown[label] = [
            f"{value:.3g} ({low:.3g} to {high:.3g})"
            for value, low, high in zip(
                table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True
            )
        ]
    return pd.DataFrame(shown)


def own_runs(path: Path = DATA / "runs.csv", scale: str = "nano") -> pd.DataFrame:
    """This project's runs on their main task, with error and compute (GMAC); all of the data."""
    table = pd.read_csv(path)
    task, metric = OWN
    kept = table[(table["task"] == task) & (table["metric"] == metric)]
    kept = kept[(kept["scale"] == scale) & (kept["data_scale"] == "all")]
    return kept.assign(error=1 - kept["value"], compute=kept["compute_gmac"])


@dataclass(frozen=True)
class OwnPlan:
    """A plan for this project's runs. before: half width of alpha's interval now; existing: runs."""

    plan: Plan
    before: float
    existing: int


def own_plan(hours: float) -> OwnPlan:
    """Which nano runs to make next: the belief and the speeds are those of the runs so far."""
    runs = own_runs()
    runs = runs[runs["error"] <= MOST_ERROR]
    law = fit("power", runs["compute"], runs["error"])
    low, high, *_ = t_interval(law)["alpha"]
    found = plan(Belief.of(law), candidates(rates(runs)), hours, existing=runs["compute"].tolist())
    return OwnPlan(found, (high - low) / 2, len(runs))


def seeds_in_words() -> str:
    """The scatter between seeds of this project's runs, or why it is not known."""
    try:
        found = seed_noise(own_runs(), ["rung", "samples_seen"])
    except InputError as error:
        return str(error)
    return (
        f"seeds scatter by {100 * found.sd:.1f}% of the error ({found.cells} settings repeated, "
        f"{found.dof} degrees of freedom)"
    )
