"""The paper's retrieval results: both directions, the items behind an error, levels, bends.

Image retrieval asks for the picture of a caption and counts captions; text retrieval asks for a
caption of a picture and counts pictures. Both are Recall@5, the only recall published for the runs.
`cliplib.paper.retrieval_figures` draws the tables that are made here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cliplib import published
from cliplib.laws import (
    Draws,
    Fit,
    Recipe,
    best_cells,
    bootstrap,
    fit,
    paper_law,
    t_interval,
)
from cliplib.laws.compare import compare_slopes
from cliplib.laws.noise import binomial_se
from cliplib.paper.tasks import LARGER, at_equal_compute, item_counts, larger

METRICS = {"image": "image_retrieval_recall_at_5", "text": "text_retrieval_recall_at_5"}
DATASETS = {"mscoco_captions": "MS-COCO", "flickr30k": "Flickr30K"}
FAMILIES = ("OpenCLIP", "OpenAI")
# task -> (data set, metric, name); the order of tables and panels
TASKS = {
    f"{dataset} {way}": (dataset, METRICS[way], f"{name}, {way}")
    for dataset, name in DATASETS.items()
    for way in METRICS
}


# ------------------------------------------------------------------------------ runs and exponents


def retrieval_runs() -> pd.DataFrame:
    """All 32 models, both data sets and directions, long: `published.errors` with a column task."""
    return pd.concat(
        [
            published.errors(dataset, metric).assign(task=task)
            for task, (dataset, metric, _) in TASKS.items()
        ],
        ignore_index=True,
    )


def as_in_the_notebook(runs: pd.DataFrame) -> pd.DataFrame:
    """The same runs with text retrieval's error as the authors' notebook computes it.

    Its cell 3 sets ``text_retrieval_1minusrecall@5`` to 1 - ``image_retrieval_recall@5``.
    """
    image = {task: f"{dataset} image" for task, (dataset, *_) in TASKS.items()}
    keyed = runs.set_index(["task", "run_id"])["error"]
    at = list(zip(runs["task"].map(image), runs["run_id"], strict=True))
    return runs.assign(error=keyed.loc[at].to_numpy())


def laws_and_draws(
    runs: pd.DataFrame, n: int = 2000, seed: int = 0
) -> tuple[dict[tuple[str, str], Fit], dict[str, Draws]]:
    """The paper's law by (task, family), and the bootstrap of OpenCLIP's by task."""
    fits, draws = {}, {}
    for task, table in runs.groupby("task", sort=False):
        for family in FAMILIES:
            fits[str(task), family] = paper_law(table, family)
        openclip = table[table["family"] == "OpenCLIP"]
        draws[str(task)] = bootstrap(Recipe("power", "bins"), openclip, n, seed)
    return fits, draws


def exponents(runs: pd.DataFrame, n: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Exponents by task and family, beside what the notebook's column gives.

    Columns: task, family, runs, alpha, low, high (bootstrap, or t with one degree of freedom),
    notebook.
    """
    fits, draws = laws_and_draws(runs, n, seed)
    slip = as_in_the_notebook(runs)
    rows = []
    for (task, family), law in fits.items():
        own = draws[task].ci() if family == "OpenCLIP" else t_interval(law)
        theirs = paper_law(slip[slip["task"] == task], family).params["alpha"]
        count = int(((runs["task"] == task) & (runs["family"] == family)).sum())
        rows.append((task, family, count, law.params["alpha"], *own["alpha"][:2], theirs))
    columns = ["task", "family", "runs", "alpha", "low", "high", "notebook"]
    return pd.DataFrame(rows, columns=columns)


# ----------------------------------------------------------------------------- items behind an error


def items(runs: pd.DataFrame) -> pd.DataFrame:
    """How many items the best OpenCLIP run gets wrong, and what that leaves uncertain.

    Columns: task, items, images, best (error), wrong (items), low, high (95% interval of the
    error, Wilson; items independent), low_images, high_images (the captions of one image stand or
    fall together: as many independent items as images), scatter (of ln E about the line of the
    runs on the larger sets), noise (of ln E, items independent), share (of the variance, at most).
    """
    counted = item_counts(tuple(METRICS.values())).set_index(["task", "metric"])["items"]
    rows = []
    for task, (dataset, metric, _) in TASKS.items():
        n, images = int(counted[dataset, metric]), int(counted[dataset, METRICS["text"]])
        table = runs[runs["task"] == task]
        best = float(table.loc[table["family"] == "OpenCLIP", "error"].min())
        line = larger(table)
        E = line["error"].to_numpy()
        noise = float(np.sqrt(np.mean((binomial_se(E, n) / E) ** 2)))
        scatter = fit("power", line["compute"], E).residual_sd
        bounds = (*wilson(best, n), *wilson(best, images))
        share = noise**2 / scatter**2
        rows.append((task, n, images, best, round(best * n), *bounds, scatter, noise, share))
    columns = ["task", "items", "images", "best", "wrong", "low", "high", "low_images"]
    return pd.DataFrame(rows, columns=[*columns, "high_images", "scatter", "noise", "share"])


def wilson(error: float, n: int) -> tuple[float, float]:
    """95% interval of an error rate measured on n items (Wilson's score interval)."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(round(error * n), n, method="wilson")
    return float(low), float(high)


# ----------------------------------------------------------------------- level against OpenAI's models


def levels(runs: pd.DataFrame) -> pd.DataFrame:
    """OpenAI's error against OpenCLIP's at equal compute, with all six matched runs and by data.

    Columns: task, data, percent, low, high, p, dof, matched (runs), slope_p, least, most (ratio of
    the errors of single pairs of the same architecture).
    """
    rows = []
    for task, table in runs.groupby("task", sort=False):
        for data in (LARGER, LARGER[:1], LARGER[1:]):
            ratio = pairs(table, data)["ratio"]
            rows.append(
                {"task": task, "data": " and ".join(data), **at_equal_compute(table, data)}
                | {"least": ratio.min(), "most": ratio.max()}
            )
    return pd.DataFrame(rows)


def pairs(runs: pd.DataFrame, data: Sequence[str] = LARGER) -> pd.DataFrame:
    """Ratio of OpenAI's error to that of the run of the same architecture and samples label.

    runs: one task. Columns: arch, data, ratio.
    """
    keys = ["arch", "samples_seen_label"]
    openai = runs[runs["family"] == "OpenAI"].set_index(keys)["error"]
    like = runs[runs["data"].isin(data)].set_index(keys)
    like = like[like.index.isin(openai.index)]
    ratio = openai.loc[like.index].to_numpy() / like["error"].to_numpy()
    return pd.DataFrame(
        {"arch": like.index.get_level_values(0), "data": like["data"].to_numpy(), "ratio": ratio}
    )


# ------------------------------------------------------------------------------ does the line bend?


def local_exponents(runs: pd.DataFrame) -> pd.DataFrame:
    """Exponents of parts of the OpenCLIP runs: by half of the compute, and by data.

    Columns: task, split (compute|data), part, n, alpha, low, high (t), p (equal slopes over the
    parts of the split).
    """
    rows = []
    for task, table in runs[runs["family"] == "OpenCLIP"].groupby("task", sort=False):
        for split, labelled in _splits(table).items():
            p = compare_slopes(labelled, "part", permutations=0).tests["p"].iloc[0]
            for part, some in labelled.groupby("part", sort=False):
                law = fit("power", some["compute"], some["error"])
                low, high, *_ = t_interval(law)["alpha"]
                rows.append((task, split, part, law.n, law.params["alpha"], low, high, float(p)))
    columns = ["task", "split", "part", "n", "alpha", "low", "high", "p"]
    return pd.DataFrame(rows, columns=columns)


def _splits(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    line = larger(runs).sort_values("compute")
    half = np.where(line["compute"] <= line["compute"].median(), "cheaper half", "dearer half")
    order = ["LAION-80M", "LAION-400M", "LAION-2B"]
    by_data = runs.sort_values("data", key=lambda column: column.map(order.index))
    return {
        "compute": line.assign(part=half),
        "data": by_data.assign(part=by_data["data"]),
    }


_COLUMN = {  # of `published.later_models`
    "mscoco_captions image": "coco_image_r5",
    "mscoco_captions text": "coco_text_r5",
    "flickr30k image": "flickr_image_r5",
    "flickr30k text": "flickr_text_r5",
}
LATER = (("ViT-g-14", "laion2b_s34b_b88k"), ("ViT-bigG-14", "laion2b_s39b_b160k"))


def later(runs: pd.DataFrame) -> pd.DataFrame:
    """The paper's laws on two later, larger models on LAION-2B; recall in percent.

    Columns: task, model, compute (GMAC), beyond (times the largest run's), predicted, actual,
    miss (actual less predicted, points), own_miss (the same, mean over the law's 11 own cells),
    plain (1: compute comparable; 0: masked training and averaged weights).
    """
    table = published.later_models().set_index(["model", "pretrained_tag"])
    rows = []
    for task in TASKS:
        own_runs = runs[runs["task"] == task]
        law, cells = paper_law(own_runs), best_cells(own_runs)
        own = 100 * (law.predict(cells["compute"].to_numpy()) - cells["error"]).mean()
        largest = own_runs.loc[own_runs["family"] == "OpenCLIP", "compute"].max()
        for model, tag in LATER:
            found = table.loc[[(model, tag)]]
            C, actual = (
                float(found["gmacs_total"].iloc[0]),
                100 * float(found[_COLUMN[task]].iloc[0]),
            )
            predicted = 100 * (1 - float(law.predict([C])[0]))
            plain = int(found["compute_comparable"].iloc[0])
            miss = actual - predicted
            rows.append((task, model, C, C / largest, predicted, actual, miss, own, plain))
    columns = ["task", "model", "compute", "beyond", "predicted", "actual", "miss", "own_miss"]
    return pd.DataFrame(rows, columns=[*columns, "plain"])
