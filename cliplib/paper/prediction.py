"""How far to trust the law where nothing was trained: in-sample errors, hold-outs, later models.

Errors of prediction are in points: actual accuracy (or recall) less predicted, so a negative one
means that the law was too hopeful. Runs come from `cliplib.published.errors`, later models from
`cliplib.published.later_models`. `cliplib.paper.prediction_figures` draws the tables made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cliplib import InputError, laws, published
from cliplib.laws.choice import leave_top_out, predicted_errors
from cliplib.laws.prediction import predict
from cliplib.paper.tasks import LARGER

# data set of the runs -> the same score in `published.later_models`
SCORES = {
    "imagenet1k": "in1k_top1",
    "imagenet_robustness": "robust5_mean",
    "mscoco_captions": "coco_image_r5",
    "flickr30k": "flickr_image_r5",
}
SMALL = ("ViT-B-32", "ViT-B-16", "ViT-L-14")  # the full grid; H/14 and g/14 are held out
KEYS = ("ViT-g-14", "laion2b_s34b_b88k"), ("ViT-bigG-14", "laion2b_s39b_b160k")
RECIPE = laws.Recipe("power", "bins")  # the paper's


# ------------------------------------------------------------------------------------- in-sample


def in_sample(dataset: str) -> pd.DataFrame:
    """The law on runs that it has seen, over several choices of runs: one row a choice.

    Columns: over, n, mean_abs, bias (mean of actual - predicted), worst (largest miss, signed),
    all in points. The paper's figure is the mean absolute error over the first choice.
    """
    runs = published.openclip_runs(dataset)
    law, fitted = RECIPE.fit(runs), runs.iloc[RECIPE.frontier(runs).index]
    cells, larger = laws.best_cells(runs), runs[runs["data"].isin(LARGER)]
    own = runs.loc[runs.groupby(["arch", "samples_seen_label"])["error"].idxmin()]
    choices = {
        "best run of each cell, nominal samples (the paper's)": cells,
        "the same runs, their own samples": own,
        "the runs that set the line": fitted,
        "the other best runs": own[~own["run_id"].isin(fitted["run_id"])],
        "runs on LAION-400M and LAION-2B": larger,
        "all runs": runs,
    }
    return pd.DataFrame(
        [{"over": name} | _summary(misses(law, some)) for name, some in choices.items()]
    )


def misses(law: laws.Fit, runs: pd.DataFrame) -> pd.Series:
    """Actual less predicted accuracy in points; runs: compute (GMAC), error (fraction)."""
    return 100 * (law.predict(runs["compute"].to_numpy()) - runs["error"])


def _summary(miss: pd.Series) -> dict[str, float]:
    worst = float(miss.iloc[int(miss.abs().argmax())])
    return {"n": len(miss), "mean_abs": miss.abs().mean(), "bias": miss.mean(), "worst": worst}


def cell_misses(dataset: str) -> pd.DataFrame:
    """The paper's cells with their misses: arch, samples_seen_label, compute, error, miss."""
    runs = published.openclip_runs(dataset)
    cells = laws.best_cells(runs)
    return cells.assign(miss=misses(RECIPE.fit(runs), cells))


# ---------------------------------------------------------------------------------- later models


@dataclass(frozen=True)
class Phase:
    """A part of bigG/14's training: samples (billions), share of the patches it saw."""

    samples: float
    patches: float


# OpenCLIP's bigG/14: half of the patches dropped; then three runs from there on whole pictures,
# whose weights were averaged (published.later_models, note). Top-1 before the average: LAION's
# blog "giant-openclip", 24 January 2023.
MASKED = Phase(32.0, 0.5)
BIGG = {
    "first phase alone": ((MASKED,), 79.07),
    "best single run": ((MASKED, Phase(4.0, 1.0)), 79.45),
    "average of three": ((MASKED, Phase(2.0, 1.0), Phase(4.0, 1.0), Phase(0.7, 1.0)), None),
}


def bigg_compute(phases: Sequence[Phase], nominal: bool) -> float:
    """Compute of bigG/14 (GMAC), as if it saw whole pictures (nominal), or as it did.

    The adjusted count takes the image tower as linear in its patches: attention costs less than
    that when masked, the class token is kept.
    """
    row = published.architectures().query("arch == 'ViT-G-14'").iloc[0]
    image, text = row["image_gmacs"], row["gmacs_per_sample"] - row["image_gmacs"]
    return sum(1e9 * p.samples * (text + image * (1.0 if nominal else p.patches)) for p in phases)


def bigg() -> pd.DataFrame:
    """bigG/14 on ImageNet in its phases, by both counts of compute.

    Columns: phase, actual (percent), nominal, adjusted (GMAC), predicted_nominal,
    predicted_adjusted (percent), miss_nominal, miss_adjusted (points).
    """
    law = RECIPE.fit(published.openclip_runs("imagenet1k"))
    rows = []
    for phase, (parts, stated) in BIGG.items():
        actual = stated or 100 * later_row(*KEYS[1])["in1k_top1"]
        row: dict[str, object] = {"phase": phase, "actual": actual}
        for count in ("nominal", "adjusted"):
            C = bigg_compute(parts, count == "nominal")
            value = 100 * (1 - float(law.predict([C])[0]))
            row |= {count: C, f"predicted_{count}": value, f"miss_{count}": actual - value}
        rows.append(row)
    return pd.DataFrame(rows)


def later_row(model: str, tag: str) -> dict[str, Any]:
    """One row of `published.later_models`."""
    table = published.later_models().query("model == @model and pretrained_tag == @tag")
    return dict(table.iloc[0])


def later(dataset: str, draws: laws.Draws, level: float = 0.95) -> pd.DataFrame:
    """The law on the two later, larger ViT of LAION-2B, and on bigG/14 with adjusted compute.

    draws: bootstrap of the law on this data set. Columns: model, compute (GMAC), beyond (times the
    dearest run), predicted, actual (percent), miss (points), low, high (percent, interval of a
    new point of the frontier), mean_low, mean_high (of the law).
    """
    runs = published.openclip_runs(dataset)
    law = RECIPE.fit(runs)
    g, big = (later_row(*key) for key in KEYS)
    points = [
        ("g/14, 34B", float(g["gmacs_total"]), g),
        ("bigG/14, 39B, nominal", float(big["gmacs_total"]), big),
        ("bigG/14, 39B, adjusted", bigg_compute(BIGG["average of three"][0], False), big),
    ]
    C = np.array([compute for _, compute, _ in points])
    new, mean = (predict(law, C, draws, kind, level) for kind in ("new", "mean"))
    actual = np.array([100 * float(row[SCORES[dataset]]) for *_, row in points])
    return pd.DataFrame(
        {
            "model": [name for name, *_ in points],
            "compute": C,
            "beyond": C / runs["compute"].max(),
            "predicted": 100 * (1 - new.value),
            "actual": actual,
            "miss": actual - 100 * (1 - new.value),
            "low": 100 * (1 - new.high),
            "high": 100 * (1 - new.low),
            "mean_low": 100 * (1 - mean.high),
            "mean_high": 100 * (1 - mean.low),
        }
    )


# -------------------------------------------------------------------------------------- hold-outs


@dataclass(frozen=True)
class Form:
    """A way to predict: a recipe, and whether it leaves out LAION-80M."""

    recipe: laws.Recipe
    larger_only: bool = False

    def train(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The runs that it is fitted to."""
        return runs[runs["data"].isin(LARGER)] if self.larger_only else runs


_ND = ("gmacs_per_sample", "samples_seen")
FORMS: Mapping[str, Form] = {
    "power, 5 bins (the paper)": Form(laws.Recipe("power", "bins")),
    "power, Pareto set": Form(laws.Recipe("power", "pareto")),
    "power, all runs on 400M and 2B": Form(laws.Recipe("power"), larger_only=True),
    "saturating, Pareto set": Form(laws.Recipe("saturating", "pareto")),
    "saturating and shifted, Pareto set": Form(laws.Recipe("shifted", "pareto")),
    "size and samples, 400M and 2B": Form(laws.Recipe("nd_multiplicative", x=_ND), True),
    "size, samples, repeated data": Form(laws.Recipe("nd_effective", x=(*_ND, "pairs"))),
}


def grid(dataset: str) -> pd.DataFrame:
    """OpenCLIP's runs with the number of pairs in their data set, for laws in several variables."""
    pairs = published.pretraining_runs().set_index("run_id")["data_pairs_nominal"]
    runs = published.openclip_runs(dataset)
    return runs.assign(pairs=runs["run_id"].map(pairs).astype(float))


def held_out(dataset: str) -> pd.DataFrame:
    """The two dearest models of the study and the two later ones: the columns of `grid`."""
    runs = grid(dataset)
    own = runs[~runs["arch"].isin(SMALL)]
    rows = []
    for model, tag in KEYS:
        row = later_row(model, tag)
        rows.append(
            {"run_id": f"{model}, {tag}", "arch": model, "data": "LAION-2B"}
            | {name: float(row[name]) for name in ("samples_seen", "gmacs_per_sample")}
            | {"compute": float(row["gmacs_total"]), "error": 1 - float(row[SCORES[dataset]])}
        )
    return pd.concat([own, pd.DataFrame(rows).assign(pairs=own["pairs"].max())], ignore_index=True)


def holdout(dataset: str, forms: Mapping[str, Form] = FORMS) -> pd.DataFrame:
    """Fit every form to the 27 runs of B/32, B/16 and L/14, predict four larger models.

    Columns: form, n_train, run, actual, predicted (percent), miss (points).
    """
    runs, held = grid(dataset), held_out(dataset)
    tables = []
    for name, form in forms.items():
        train = form.train(runs[runs["arch"].isin(SMALL)])
        guess = predicted_errors(form.recipe, train, held)
        values = {"run": held["run_id"], "actual": 100 * (1 - held["error"])}
        table = pd.DataFrame(values).assign(predicted=100 * (1 - guess))
        tables.append(table.assign(form=name, n_train=len(train)))
    found = pd.concat(tables, ignore_index=True)
    return found.assign(miss=found["actual"] - found["predicted"])


def rmse(table: pd.DataFrame) -> pd.Series:
    """Root mean square of `holdout` by form, in points, in the order of the forms."""
    squares = (table["miss"] ** 2).groupby(table["form"], sort=False)
    return np.sqrt(squares.mean()).rename("rmse")


def top_out(dataset: str, cutoffs: Sequence[float], forms: Mapping[str, Form]) -> pd.DataFrame:
    """`laws.choice.leave_top_out` for forms; held-out runs are those on the Pareto set of all.

    A form that leaves out LAION-80M does so in training; no such run is on the Pareto set.
    """
    runs = grid(dataset)
    tables = []
    for larger_only in (False, True):
        some = {n: f.recipe for n, f in forms.items() if f.larger_only == larger_only}
        if some:
            kept = runs[runs["data"].isin(LARGER)] if larger_only else runs
            tables.append(leave_top_out(kept, some, cutoffs, target="frontier"))
    return pd.concat(tables, ignore_index=True)


# ------------------------------------------------------------------------- how often intervals hold


def coverage(dataset: str, levels: Sequence[float] = (0.5, 0.8, 0.95)) -> pd.DataFrame:
    """How many later LAION-2B models the intervals of a new run hold: one row a model and level.

    The line goes through all runs on LAION-400M and LAION-2B: they are single runs. Columns: model,
    tag, family, compute, actual, predicted, low, high (percent), level, inside (bool), z (miss on
    ln E in residual standard deviations).
    """
    runs = published.openclip_runs(dataset)
    law = laws.fit("power", *_xy(runs[runs["data"].isin(LARGER)]))
    models = single_models(("LAION-2B",))
    C, error = models["gmacs_total"].to_numpy(), 1 - models[SCORES[dataset]].to_numpy()
    names, tables = models[["model", "pretrained_tag", "family"]], []
    for level in levels:
        at = predict(law, C, kind="new", level=level)
        values = {"compute": C, "actual": 100 * (1 - error), "predicted": 100 * (1 - at.value)}
        values |= {"low": 100 * (1 - at.high), "high": 100 * (1 - at.low)}
        inside = (at.low <= error) & (error <= at.high)
        z = np.log(error / at.value) / law.residual_sd
        tables.append(names.assign(**values, level=level, inside=inside, z=z))
    return pd.concat(tables, ignore_index=True)


def leave_one_out(dataset: str, level: float = 0.95) -> pd.DataFrame:
    """Each run on LAION-400M and LAION-2B beside the interval of a line through the others.

    Columns: run_id, inside (bool), z (miss on ln E in residual standard deviations).
    """
    runs = published.openclip_runs(dataset)
    runs = runs[runs["data"].isin(LARGER)]
    rows = []
    for run in runs["run_id"]:
        one, others = runs[runs["run_id"] == run], runs[runs["run_id"] != run]
        law = laws.fit("power", *_xy(others))
        at = predict(law, one["compute"].to_numpy(), kind="new", level=level)
        error = float(one["error"].iloc[0])
        z = np.log(error / at.value[0]) / law.residual_sd
        rows.append((run, bool(at.low[0] <= error <= at.high[0]), float(z)))
    return pd.DataFrame(rows, columns=["run_id", "inside", "z"])


def _xy(runs: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    return runs["compute"], runs["error"]


def single_models(data: Sequence[str]) -> pd.DataFrame:
    """Later models on these data whose compute can be compared: plain, finished, single runs."""
    table = published.later_models()
    kept = table["data"].isin(data) & (table["outside_paper"] == 1)
    found = table[kept & (table["compute_comparable"] == 1)]
    if found.empty:
        raise InputError(f"no comparable later model on {', '.join(data)}")
    return found.reset_index(drop=True)


# --------------------------------------------------------------------------- elsewhere and far below

# Pools of data with published samples seen: name, how the pairs were chosen.
POOLS = {
    "datacomp": "DataComp",
    "commonpool_{}_clip": "CommonPool, CLIP score",
    "commonpool_{}_laion": "CommonPool, LAION's filter",
    "commonpool_{}": "CommonPool, unfiltered",
}


def elsewhere(scales: Sequence[str], datasets: Sequence[str] = tuple(SCORES)) -> pd.DataFrame:
    """The law of the LAION runs on models of other data, by pool and scale of DataComp.

    scales: of ``s``, ``m``, ``l``, ``xl`` (by samples seen). Columns: pool, scale, arch, samples
    (billions), compute (GMAC), dataset, predicted, actual (percent), miss (points), below (how many
    times less compute than the cheapest run; under 1 inside).
    """
    table = published.later_models()
    table = table[table["compute_comparable"] == 1]
    rows = []
    for dataset in datasets:
        runs = published.openclip_runs(dataset)
        law, least = RECIPE.fit(runs), runs["compute"].min()
        for scale in scales:
            for pattern, pool in POOLS.items():
                name = pattern.format(scale) if "{}" in pattern else f"{pattern}_{scale}"
                for row in table[table["data"] == name].to_dict("records"):
                    if "_s34b_" in row["pretrained_tag"]:
                        continue  # another resolution and length than DataComp's own models
                    C, actual = row["gmacs_total"], 100 * row[SCORES[dataset]]
                    predicted = 100 * (1 - float(law.predict([C])[0]))
                    rows.append(
                        (pool, scale, row["model"], row["samples_seen"] / 1e9, C, dataset,
                         predicted, actual, actual - predicted, least / C)
                    )  # fmt: skip
    columns = ["pool", "scale", "arch", "samples", "compute", "dataset", "predicted", "actual"]
    return pd.DataFrame(rows, columns=[*columns, "miss", "below"])
