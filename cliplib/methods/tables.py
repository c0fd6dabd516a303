"""Tables of the chapters on how the fits are made, from the published runs and measured files.

Tables only; `cliplib.methods.figures` draws them, `cliplib.methods.traps` plants studies. Reading
order: the runs, losses, what a fit says of itself, frontiers, intervals, the coverage table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import fdtri

from cliplib import InputError, published
from cliplib.laws import LAWS, Fit, Recipe, bootstrap, fit, t_interval
from cliplib.laws.frontier import HOW, LINES
from cliplib.laws.loss import loss_of
from cliplib.laws.profile import profile
from cliplib.laws.sensitivity import LOSSES

DATA = Path(published.FOLDER).parent
LARGER = ("LAION-400M", "LAION-2B")  # the sets that do not run out
ND = ("N", "D")
RIGHT = (0.93, 0.97)  # the coverage that counts as 95% kept
LOSS_NAMES = {
    "l2": "least squares",
    "huber:0.01": "Huber, delta 0.01",
    "huber:0.001": "Huber, delta 0.001",
    "lad": "least absolute deviations",
}
USES = {
    "power": "the paper's law; a range of compute without bend",
    "curved": "small compute, where errors near guessing bend the line",
    "saturating": "an error that nothing goes below",
    "shifted": "a floor and a bend at small compute",
    "broken": "two regimes, also a rise and a fall",
    "chinchilla": "size and samples apart, with an irreducible part",
    "nd_multiplicative": "size and samples apart, small range, no floor",
    "nd_effective": "the same where data repeat",
    "chinchilla_effective": "size, samples, irreducible part, repeated data",
}


# ------------------------------------------------------------------------------------- the runs


def clip_runs(dataset: str = "imagenet1k", data: Sequence[str] | None = None) -> pd.DataFrame:
    """OpenCLIP's runs with N (GMAC a sample), D (samples seen), U (pairs in the set, nominal).

    data: names of the training sets to keep, by default all three.
    """
    runs = published.openclip_runs(dataset)
    pairs = published.pretraining_runs().drop_duplicates("data").set_index("data")
    runs = runs.assign(
        N=runs["gmacs_per_sample"],
        D=runs["samples_seen"],
        U=runs["data"].map(pairs["data_pairs_nominal"]),
    )
    return runs if data is None else runs[runs["data"].isin(data)].reset_index(drop=True)


def with_later_models(dataset: str, column: str) -> pd.DataFrame:
    """The 29 runs, and beside them OpenCLIP's g/14 and bigG/14 of the years after.

    column: their metric in `published.later_models` (``in1k_top1``, ``coco_image_r5``).
    """
    later = published.later_models()
    tags = ["laion2b_s34b_b88k", "laion2b_s39b_b160k"]
    later = later[
        later["pretrained_tag"].isin(tags) & later["model"].isin(["ViT-g-14", "ViT-bigG-14"])
    ]
    extra = later[["gmacs_per_sample", "samples_seen", "data"]].assign(
        run_id=later["model"], compute=later["gmacs_total"], error=1 - later[column],
        N=later["gmacs_per_sample"], D=later["samples_seen"],
    )  # fmt: skip
    return pd.concat([clip_runs(dataset), extra], ignore_index=True)


# --------------------------------------------------------------------------- losses


def losses(law: str, runs: pd.DataFrame, truth: Mapping[str, float] | None = None) -> pd.DataFrame:
    """The law's parameters under four losses, the split a = beta / (alpha + beta), and the truth.

    inside: share of residuals within delta, where Huber's loss is a square; nan without a delta.
    """
    rows = [_loss_row(law, runs, loss) for loss in LOSSES]
    if truth is not None:
        split = truth["beta"] / (truth["alpha"] + truth["beta"])
        rows.append({"loss": "planted", **truth, "a": split, "inside": np.nan})
    return pd.DataFrame(rows)


def _loss_row(law: str, runs: pd.DataFrame, loss: str) -> dict[str, object]:
    found = fit(law, runs[[*ND]], runs["error"], loss=loss)
    delta = loss_of(loss).delta
    inside = float(np.mean(np.abs(found.residuals) <= delta)) if delta else np.nan
    split = found.params["beta"] / (found.params["alpha"] + found.params["beta"])
    return {"loss": LOSS_NAMES[loss], **found.params, "a": split, "inside": inside}


def losses_shown(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """`losses` for readers: the named parameters, the split, the share inside delta."""
    shown = table[["loss", *names, "a"]].round(4)
    inside = ["" if np.isnan(v) else f"{100 * v:.0f}%" for v in table["inside"]]
    return shown.rename(columns={"a": "beta / (alpha + beta)"}).assign(**{"within delta": inside})


# --------------------------------------------------------------- what a fit says of itself


def laws_table() -> pd.DataFrame:
    """Every law: formula, variables, free parameters and what it is for."""
    forms = {name: factory() for name, factory in LAWS.items()}
    return pd.DataFrame(
        {
            "law": list(forms),
            "formula": [form.formula for form in forms.values()],
            "variables": [", ".join(form.variables) for form in forms.values()],
            "free": [", ".join(form.params) for form in forms.values()],
            "for": [USES[name] for name in forms],
        }
    )


def bench(path: Path = DATA / "bench.json") -> pd.DataFrame:
    """Measured speeds for readers: rows of job, case, peer, ours, unit, ratio."""
    if not path.is_file():
        raise InputError(f"no {path}: run `python -m cliplib bench` to measure it")
    found = json.loads(path.read_text())
    rows = pd.DataFrame(found["rows"] if isinstance(found, dict) else found)
    return rows[["job", "case", "peer", "ours", "unit", "ratio"]]


def effective(D: pd.Series, U: pd.Series, R: float) -> pd.Series:
    """Effective data: D up to one pass over U unique samples, then ever less, at most U (1 + R)."""
    repeats = np.maximum(D / U - 1, 0.0)
    return D.where(D <= U, U - U * R * np.expm1(-repeats / R))


def profile_of_repeats(runs: pd.DataFrame, R: np.ndarray) -> pd.DataFrame:
    """Hold R, fit the rest, for each R: excess of the objective in units of its 95% limit.

    Columns R, objective, excess; below 1 is inside. The limit is F with 1 and n - 4 degrees of
    freedom, times the variance about the best fit.
    """
    objective = [
        fit("nd_multiplicative", {"N": runs["N"], "D": effective(runs["D"], runs["U"], r)},
            runs["error"]).objective
        for r in R
    ]  # fmt: skip
    found = pd.DataFrame({"R": R, "objective": objective})
    least, dof = found["objective"].min(), len(runs) - 4
    limit = fdtri(1, dof, 0.95) * least / dof
    return found.assign(excess=(found["objective"] - least) / limit)


def ends(curve: pd.DataFrame) -> tuple[float, float]:
    """Lowest and highest R inside; 0 or inf where the curve stays inside to its end."""
    inside = np.flatnonzero(curve["excess"] <= 1)
    low = 0.0 if inside[0] == 0 else float(curve["R"].iloc[inside[0]])
    high = np.inf if inside[-1] == len(curve) - 1 else float(curve["R"].iloc[inside[-1]])
    return low, high


def own_words(fits: Mapping[str, Fit]) -> pd.DataFrame:
    """What each fit says of itself: starts, bounds, condition, warnings."""
    rows = [
        {
            "fit": name,
            "points": found.n,
            "starts at the best": f"{found.n_starts_at_best} of {found.n_starts}",
            "converged": "yes" if found.converged else "no",
            "on a bound": ", ".join(found.on_bound) or "none",
            "condition": f"{found.condition:.2g}",
            "warnings": "; ".join(found.warnings) or "none",
        }
        for name, found in fits.items()
    ]
    return pd.DataFrame(rows)


def profiled(asked: Mapping[str, tuple[Fit, str]]) -> pd.DataFrame:
    """Profile intervals for readers: by name a fit and one of its parameters."""
    rows = []
    for name, (found, param) in asked.items():
        span = profile(found, param)
        end = "no upper limit" if np.isinf(span.high) else f"{span.high:.3g}"
        value = found.params[param]
        rows.append(
            {"fit": name, "parameter": param, "fitted": f"{value:.3g}",
             "95% profile interval": f"{span.low:.3g} to {end}", "points": found.n}
        )  # fmt: skip
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------ frontiers


def frontiers(runs: pd.DataFrame, n: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every frontier of the same runs: points, alpha, its bootstrap interval, or the refusal."""
    return pd.DataFrame([_frontier_row(how, runs, n, seed) for how in HOW + LINES])


def _frontier_row(how: str, runs: pd.DataFrame, n: int, seed: int) -> dict[str, object]:
    recipe = Recipe("power", how)
    try:
        points = recipe.frontier(runs)
        span = bootstrap(recipe, runs, n, seed).ci()["alpha"]
    except InputError as error:
        return {"frontier": how, "points": 0, "note": str(error)}
    alpha = recipe(runs)["alpha"]
    return {
        "frontier": how, "points": len(points.C), "alpha": alpha, "low": span.low,
        "high": span.high, "note": "",
    }  # fmt: skip


# ------------------------------------------------------------------------------- intervals


def intervals(runs: pd.DataFrame, n: int = 4000, seed: int = 0) -> pd.DataFrame:
    """The exponent of all runs (no frontier) with every kind of interval: way, low, high, units."""
    recipe = Recipe()
    fitted = recipe.fit(runs)
    rows = [("Student's t", t_interval(fitted)["alpha"], len(runs))]
    asked: dict[str, dict[str, str]] = {
        "runs": {}, "runs, within data set": {"strata": "data"},
        "runs, wild": {"how": "wild"}, "architectures": {"cluster": "arch"},
        "architectures, wild": {"cluster": "arch", "how": "wild"},
    }  # fmt: skip
    for name, how in asked.items():
        draws = bootstrap(recipe, runs, n, seed, **how)
        methods = (
            ("percentile", "basic", "expanded") if name == "runs" else ("percentile", "expanded")
        )
        rows += [(f"{name}: {m}", draws.ci(method=m)["alpha"], draws.units) for m in methods]
    return pd.DataFrame(
        [
            {"way": name, "low": span.low, "high": span.high, "width": span.high - span.low,
             "units": units, "alpha": fitted.params["alpha"]}
            for name, span, units in rows
        ]
    )  # fmt: skip


# ------------------------------------------------------------------------- the coverage table


def coverage(path: Path = DATA / "coverage.csv") -> pd.DataFrame:
    """The coverage study with a verdict a row.

    right: 93 to 97% of the studies hold the truth; too short: fewer; too long: more.
    """
    if not path.is_file():
        raise InputError(f"no {path}: run `make coverage` (half an hour)")
    table = pd.read_csv(path)
    low, high = RIGHT
    verdict = np.where(table["coverage"] < low, "too short", "right")
    return table.assign(verdict=np.where(table["coverage"] > high, "too long", verdict))


def by_way(table: pd.DataFrame) -> pd.DataFrame:
    """`coverage` by kind of interval: rows, how many are right, least and largest coverage."""
    found = table.groupby(["interval", "frontier"], sort=False)
    counts = table.groupby(["interval", "frontier", "verdict"]).size().unstack(fill_value=0)
    shown = pd.DataFrame({"rows": found.size()})
    shown = shown.join(counts.reindex(columns=list(VERDICTS), fill_value=0))
    shown["least"], shown["largest"] = found["coverage"].min(), found["coverage"].max()
    return shown.reset_index().sort_values("right", ascending=False, ignore_index=True)


VERDICTS = ("right", "too short", "too long")


def always(ways: pd.DataFrame, verdict: str) -> str:
    """Kinds of interval with one verdict in every row (`by_way`), in words."""
    rows = ways[ways[verdict] == ways["rows"]]
    return "; ".join(f"{r.interval} ({r.frontier})" for r in rows.itertuples()) or "none"


def worst(table: pd.DataFrame) -> str:
    """The row whose coverage is furthest from 95%, in words."""
    row = table.iloc[int((table["coverage"] - 0.95).abs().to_numpy().argmax())]
    return (
        f"{row['interval']} ({row['frontier']}) of {row['parameter']} in '{row['design']}' covers "
        f"{100 * row['coverage']:.0f}%"
    )


def coverage_in_words(table: pd.DataFrame) -> str:
    """The alt text of the figure of `coverage`."""
    counts = table["verdict"].value_counts().reindex(list(VERDICTS), fill_value=0)
    return (
        "Coverage of every kind of interval, one mark a design and parameter, around a band at 93 to 97%: "
        f"{counts['right']} marks inside, {counts['too short']} to the left of it, "
        f"{counts['too long']} to the right. Furthest: {worst(table)}."
    )
