"""What the law explorer is given: runs, tasks, looks; and its facts for readers without scripts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from cliplib import InputError, laws, published
from cliplib.figures import PALETTE
from cliplib.paper.figure1 import MARKERS
from cliplib.paper.grid import ARCHS, DATA, LABELS, short
from cliplib.paper.tasks import NAMES, groups

FAMILIES = ("OpenCLIP", "OpenAI")
DRAWS = 2000  # as in law.js
TITLES = NAMES | {"mscoco_captions": "MS-COCO", "flickr30k": "Flickr30K"}
# metric -> its name on the page; the two of retrieval are its directions
METRICS = {
    "top1": "top-1",
    "mean_average_precision": "mean average precision",
    "image_retrieval_recall_at_5": "image Recall@5",
    "text_retrieval_recall_at_5": "text Recall@5",
}
DIRECTIONS = ("image_retrieval_recall_at_5", "text_retrieval_recall_at_5")
# (task, metric) -> column of `published.later_models`
LATER_COLUMNS = {
    ("imagenet1k", "top1"): "in1k_top1",
    ("imagenet_robustness", "top1"): "robust5_mean",
    ("imagenetv2", "top1"): "inv2_top1",
    ("imagenet-r", "top1"): "inr_top1",
    ("imagenet_sketch", "top1"): "sketch_top1",
    ("objectnet", "top1"): "objectnet_top1",
    ("imagenet-a", "top1"): "ina_top1",
    ("mscoco_captions", DIRECTIONS[0]): "coco_image_r5",
    ("mscoco_captions", DIRECTIONS[1]): "coco_text_r5",
    ("flickr30k", DIRECTIONS[0]): "flickr_image_r5",
    ("flickr30k", DIRECTIONS[1]): "flickr_text_r5",
}
# Two larger models: name on the page, (model, pre-trained tag), samples of the nominal compute.
LATER = {
    "g": ("g/14 34B", ("ViT-g-14", "laion2b_s34b_b88k"), laws.NOMINAL_SAMPLES["34B"]),
    "G": ("bigG/14 39B", ("ViT-bigG-14", "laion2b_s39b_b160k"), 39_000_000_000),
}


def law_data() -> dict[str, Any]:
    """What the law explorer needs: runs, tasks with the metric of each run, looks, t quantiles.

    Metrics are fractions, in the order of the runs; compute C is in GMAC.
    """
    runs = all_runs()
    shown = pd.DataFrame(
        {
            "index": range(len(runs)),
            "name": runs["run_id"].map(short),
            "family": runs["family"],
            "arch": runs["arch"].map(short),
            "data": runs["data"],
            "C": runs["compute"],
        }
    )
    return {
        "runs": shown.to_dict("records"),
        "tasks": tasks(),
        "later": later_models(),
        "colours": {short(name): colour for name, colour in zip(ARCHS, PALETTE, strict=False)},
        "accent": PALETTE[len(ARCHS)],
        "markers": MARKERS,
        "draws": DRAWS,
        "t975": [0, *stdtrit(np.arange(1, len(runs)), 0.975).tolist()],  # by degrees of freedom
    }


def all_runs() -> pd.DataFrame:
    """The 32 runs: by architecture, then data, then samples."""
    order = {name: i for names in (ARCHS, DATA, LABELS) for i, name in enumerate(names)}
    keys = ["arch", "data", "samples_seen_label"]
    runs = published.errors("imagenet1k")
    return runs.sort_values(keys, key=lambda column: column.map(order), ignore_index=True)


def tasks() -> list[dict[str, Any]]:
    """Every task: id, title, group, and its metrics with the values of all runs.

    A metric has ``later`` (what larger models scored) and ``printed`` (exponents in the paper)
    where these were published.
    """
    wide = published.zero_shot().pivot(index="run_id", columns=["dataset", "metric"])["value"]
    scores = wide.loc[all_runs()["run_id"]]
    return [
        {
            "id": task,
            "title": TITLES[task],
            "group": group,
            "metrics": [
                _metric(task, metric, scores[task, metric]) for metric in metric_names(task)
            ],
        }
        for task, group in task_groups().items()
    ]


def task_groups() -> dict[str, str]:
    """The group of each task, in the order of the page."""
    found = dict.fromkeys(published.FIGURE1_DATASETS, "Figure 1 of the paper")
    found |= dict.fromkeys(("vtab", "vtab+"), "averages")
    for group, names in groups().items():
        found |= {name: group for name in names if name not in found}
    return found


def metric_names(task: str) -> tuple[str, ...]:
    """The metrics of a task: the one that the paper fits; for retrieval both directions."""
    fitted = published.downstream_datasets().set_index("dataset")["fit_metric"]
    metric = str(fitted.get(task, "top1"))  # the averages are top-1
    return DIRECTIONS if metric in DIRECTIONS else (metric,)


def _metric(task: str, metric: str, values: pd.Series) -> dict[str, Any]:
    entry: dict[str, Any] = {"label": METRICS[metric], "values": values.tolist()}
    entry["direction"] = metric.partition("_")[0] if metric in DIRECTIONS else ""
    if (task, metric) in LATER_COLUMNS:
        column = LATER_COLUMNS[task, metric]
        entry["later"] = {key: float(_later(model)[column]) for key, (_, model, _) in LATER.items()}
    if metric != DIRECTIONS[1]:  # the paper prints exponents of image retrieval only
        for row in published.paper_alphas().query("dataset == @task").to_dict("records"):
            entry["printed"] = {name: row[f"alpha_{name.lower()}_paper"] for name in FAMILIES}
    return entry


def later_models() -> list[dict[str, Any]]:
    """The larger models: key, name, nominal compute C (GMAC), and a note where it says little."""
    models = []
    for key, (name, model, samples) in LATER.items():
        row = _later(model)
        note = "" if row["compute_comparable"] else f"{name} is not like the runs: {row['note']}."
        C = float(row["gmacs_per_sample"]) * samples
        models.append({"key": key, "name": name, "C": C, "note": note})
    return models


def _later(model: tuple[str, str]) -> dict[str, Any]:
    table = published.later_models()
    (row,) = table[(table["model"] == model[0]) & (table["pretrained_tag"] == model[1])].index
    return table.loc[row].to_dict()


def forecast(runs: pd.DataFrame, metric: str = "in1k_top1", how: str = "bins") -> pd.DataFrame:
    """What a law of these runs says about the larger models, in percent of accuracy.

    metric: a column of `published.later_models`. Columns: model, predicted, low and high (95%, of
    the line), new_low and new_high (of a new point about it), published.
    """
    recipe = laws.Recipe("power", how)
    law, draws = recipe.fit(runs), laws.bootstrap(recipe, runs, DRAWS)
    rows = []
    for model in later_models():
        line, new = (laws.predict(law, [model["C"]], draws, kind) for kind in ("mean", "new"))
        errors = [line.value[0], line.high[0], line.low[0], new.high[0], new.low[0]]
        score = _later(LATER[model["key"]][1])[metric]
        rows.append((model["name"], *(100 * (1 - np.array(errors))), 100 * score))
    columns = ["model", "predicted", "low", "high", "new_low", "new_high", "published"]
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------------------------- the facts


def exponents() -> pd.DataFrame:
    """The exponent of every task and metric, OpenCLIP's by frontier, and OpenAI's by a plain line.

    Columns: task, metric, runs, one for each way of `laws.HOW`, low and high (95%, bootstrap of
    runs through the paper's bins), openai, openai_low and openai_high (Student's t). nan where
    there are too few points.
    """
    rows = []
    for task in task_groups():
        for metric in metric_names(task):
            runs = published.errors(task, metric)
            openclip = runs[runs["family"] == "OpenCLIP"]
            low, high = _bootstrap_bounds(openclip)
            plain = laws.Recipe("power", "all").fit(runs[runs["family"] == "OpenAI"])
            openai_low, openai_high, *_ = laws.t_interval(plain)["alpha"]
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "runs": len(openclip),
                    **{how: _alpha(openclip, how) for how in laws.HOW},
                    "low": low,
                    "high": high,
                    "openai": plain.params["alpha"],
                    "openai_low": openai_low,
                    "openai_high": openai_high,
                }
            )
    return pd.DataFrame(rows)


def _alpha(runs: pd.DataFrame, how: str) -> float:
    try:
        return laws.Recipe("power", how)(runs)["alpha"]
    except InputError:  # a frontier of fewer than three points
        return float("nan")


def _bootstrap_bounds(runs: pd.DataFrame) -> tuple[float, float]:
    try:
        interval = laws.bootstrap(laws.Recipe("power", "bins"), runs, DRAWS).ci()["alpha"]
    except InputError:
        return float("nan"), float("nan")
    return interval.low, interval.high


def exponents_table(facts: pd.DataFrame) -> pd.DataFrame:
    """`exponents` for readers."""
    table = pd.DataFrame(
        {
            "task": facts["task"].map(TITLES),
            "metric": facts["metric"].map(METRICS),
            "runs": facts["runs"],
        }
    )
    for how in laws.HOW:
        table[how] = facts[how].map(_three)
    table["95% interval (bins)"] = _span(facts["low"], facts["high"])
    table["OpenAI (all, 3 runs)"] = facts["openai"].map(_three)
    table["its 95% interval (t)"] = _span(facts["openai_low"], facts["openai_high"])
    return table


def _three(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "too few points"


def _span(low: pd.Series, high: pd.Series) -> list[str]:
    return [
        f"{a:.3f} to {b:.3f}" if np.isfinite(a) else "none" for a, b in zip(low, high, strict=True)
    ]
