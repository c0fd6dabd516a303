"""What "How the models are tested" shows: protocols, noise, choices of an evaluator, robustness, probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cliplib import published
from cliplib.evaluate.metrics import K_WAY
from cliplib.evaluate.outcomes import RETRIEVAL, Ranked, unpack
from cliplib.evaluate.ranks import clustered_mean, top_k
from cliplib.evaluate.robustness import ARTISTS, effective_robustness
from cliplib.evaluation_pages.differences import REFERENCE

#: (protocol, task, metric, what is asked), in the order of the page.
PROTOCOLS = (
    ("zero-shot", "phosphor", "top1", "the right name among all of the set"),
    ("zero-shot", "phosphor", "accuracy_20_way", "the right name among twenty"),
    ("zero-shot", "phosphor", "mean_per_class_recall", "the same, every class alike"),
    ("zero-shot", "emoji-flat", "top5", "the right name among the best five"),
    ("robustness", "robustness", "top1", "the mean over held-out artists"),
    ("in distribution", "validation-names", "top1", "names of validation groups"),
    ("retrieval", "retrieval-i2t", "recall_at_5", "the caption of an image, among five"),
    ("retrieval", "retrieval-t2i", "recall_at_5", "the image of a caption, among five"),
    ("few-shot", "emoji-groups", "probe_10_shot_top1", "a linear layer on 10 images a class"),
    ("few-shot", "emoji-groups", "probe_25_shot_top1", "a linear layer on 25 images a class"),
    ("linear probe", "emoji-groups", "probe_full_top1", "a linear layer on all images"),
    ("linear probe", "health-categories", "probe_full_top1", "categories of health icons"),
    ("linear probe", "phosphor-styles", "probe_full_top1", "how a drawing was drawn"),
    ("fine-tuning", "emoji-groups", "finetune_direct_top1", "all weights, the target at once"),
    ("fine-tuning", "emoji-groups", "finetune_intermediate_top1", "fine categories first"),
)


def largest(study: pd.DataFrame) -> str:
    """The run with the most compute; of equals the one with the better 20-way accuracy on Phosphor."""
    rows = study[(study["task"] == "phosphor") & (study["metric"] == "accuracy_20_way")]
    top = rows[rows["compute_gmac"] >= 0.9 * rows["compute_gmac"].max()]
    return str(top.sort_values("value")["run_id"].iloc[-1])


def protocols_table(study: pd.DataFrame, run: str) -> pd.DataFrame:
    """Every protocol with its number on one run, in percent: interval, chance, items, clusters."""
    own = study[study["run_id"] == run]
    rows = {(row["task"], row["metric"]): row for row in own.to_dict("records")}
    found = []
    for protocol, task, metric, asked in PROTOCOLS:
        if (task, metric) in rows:
            row = rows[task, metric]
            percent = {"%": "value", "from": "ci_low", "to": "ci_high", "chance": "chance"}
            numbers = {name: round(100 * row[column], 1) for name, column in percent.items()}
            counts = {"items": row["n_items"], "concepts": row["n_clusters"]}
            found.append(
                {"protocol": protocol, "data": task, "asked for": asked, **numbers, **counts}
            )
    return pd.DataFrame(found)


# ------------------------------------------------------------------------------------------- noise


def noise_floor(ranks: Path) -> pd.DataFrame:
    """Per task the standard error of top-1 (or Recall@1), counted by items and clustered by concept.

    Columns: task, value, by items, by concept (all in points), ratio, items, concepts.
    """
    found = []
    for task, r in unpack(ranks).items():
        right = top_k(r.rank, 1)
        clustered = clustered_mean(right, r.cluster)
        naive = clustered_mean(right, np.arange(len(right)))
        found.append(
            {
                "task": _plain(task, r), "value": 100 * naive.value, "by items": 100 * naive.se,
                "by concept": 100 * clustered.se, "ratio": clustered.se / naive.se,
                "items": naive.n_items, "concepts": clustered.n_clusters,
            }
        )  # fmt: skip
    return pd.DataFrame(found).round(3)


def _plain(task: str, r: Ranked) -> str:
    return f"{task}, Recall@1" if r.kind == RETRIEVAL else task


def noise_figure(noise: pd.DataFrame) -> Any:
    """Both standard errors of every task, a line each."""
    import matplotlib.pyplot as plt

    from cliplib.figures import look

    fig, ax = plt.subplots(figsize=(5.2, 0.34 * len(noise) + 1.2))
    place = np.arange(len(noise))[::-1]
    for i, column in enumerate(("by items", "by concept")):
        style = {**look(i), "linestyle": ""}
        ax.plot(noise[column], place, label=column, markersize=7, **style)
    ax.hlines(place, noise["by items"], noise["by concept"], color="0.6", linewidth=1, zorder=0)
    ax.set_yticks(place, noise["task"])
    ax.set(xlabel="standard error of the accuracy (points)", xlim=(0, None))
    ax.legend(loc="lower right")
    return fig


# --------------------------------------------------------------------------------- choices of an evaluator


def choices_table(path: Path, metric: str = "top1") -> pd.DataFrame:
    """The effect of each choice in points: value, difference, its standard error, items changed.

    ``verdict`` is MEASURE's rule: less than one clustered standard error is no difference seen.
    """
    rows = pd.read_csv(path)
    rows = rows[(rows["metric"] == metric) & (rows["choice"] != REFERENCE)]
    seen = rows["difference"].abs() > rows["se"]
    return pd.DataFrame(
        {
            "choice": rows["choice"], "accuracy": (100 * rows["value"]).round(1),
            "difference": (100 * rows["difference"]).round(2),
            "se": (100 * rows["se"]).round(2),
            "items changed (%)": (100 * rows["changed"]).round(1),
            "verdict": np.where(seen, "seen", "no difference seen"),
        }
    ).reset_index(drop=True)  # fmt: skip


def reference_value(path: Path, metric: str = "top1") -> float:
    """The accuracy that the choices are compared with, a fraction."""
    rows = pd.read_csv(path)
    return float(rows[(rows["metric"] == metric) & (rows["choice"] == REFERENCE)]["value"].iloc[0])


def choices_figure(table: pd.DataFrame) -> Any:
    """What each choice moves, with two standard errors."""
    import matplotlib.pyplot as plt

    from cliplib.figures import INK, look

    fig, ax = plt.subplots(figsize=(5.2, 0.36 * len(table) + 1.0))
    place = np.arange(len(table))[::-1]
    style = {**look(0), "linestyle": ""}
    ax.errorbar(table["difference"], place, xerr=2 * table["se"], capsize=3, **style)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(place, table["choice"])
    ax.set(xlabel="change of top-1 accuracy (points)")
    return fig


def swapped_activation() -> pd.DataFrame:
    """The same published weights with the wrong and the right activation, ImageNet top-1 in percent."""
    rows = published.later_models()
    rows = rows[rows["pretrained_tag"] == "laion400m_e32"]
    rows = rows[rows["model"].isin(["ViT-B-32", "ViT-B-32-quickgelu"])]
    return pd.DataFrame(
        {"model": rows["model"], "ImageNet top-1 (%)": (100 * rows["in1k_top1"]).round(2)}
    ).sort_values("model", ignore_index=True)


# ------------------------------------------------------------------------------------------ robustness


def robustness_table(study: pd.DataFrame, metric: str = K_WAY) -> pd.DataFrame:
    """Per run: accuracy in distribution and under shift, and the distance from the line, in points."""
    table = effective_robustness(study, metric)
    keep = ["run_id", "compared"]
    numbers = {
        name: (100 * table[name]).round(2)
        for name in ("in_distribution", "shifted", "se", "effective")
    }
    return pd.DataFrame({**{name: table[name] for name in keep}, **numbers})


def robustness_figure(study: pd.DataFrame) -> Any:
    """20-way accuracy under shift against that in distribution, both on a logit scale."""
    import matplotlib.pyplot as plt

    from cliplib.evaluate.robustness import baseline
    from cliplib.figures import INK, look

    table = effective_robustness(study, K_WAY).merge(study[["run_id", "rung"]].drop_duplicates())
    fig, ax = plt.subplots()
    for i, (name, rows) in enumerate(table.groupby("rung", sort=False)):
        style = {**look(i), "linestyle": ""}
        ax.errorbar(
            rows["in_distribution"],
            rows["shifted"],
            yerr=2 * rows["se"],
            label=name,
            capsize=3,
            **style,
        )
    used = table[table["compared"]]
    if len(used) >= 3:
        x, y = used["in_distribution"].to_numpy(), used["shifted"].to_numpy()
        grid = np.linspace(x.min(), x.max(), 30)
        ax.plot(
            grid, baseline(x, y).expected(grid), color=INK, linewidth=1.2, label="line of the runs"
        )
    ends = np.array(
        [table[["in_distribution", "shifted"]].min().min(), table["in_distribution"].max()]
    )
    ax.plot(ends, ends, color="0.6", linewidth=1, linestyle=":", label="equal accuracy")
    for axis in (ax.xaxis, ax.yaxis):
        axis.axes.set(xscale="logit", yscale="logit")
    ax.set(
        xlabel="20-way accuracy on validation names (logit scale)",
        ylabel="mean over held-out artists",
    )
    ticks = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(plt.FixedLocator(ticks))
        axis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:.0%}"))
        axis.set_minor_locator(plt.NullLocator())
    ax.legend(loc="upper left")
    return fig


def artists_text() -> str:
    """The shifted sets in words."""
    return "; ".join(f"{artist} ({', '.join(tasks)})" for artist, tasks in ARTISTS.items())


# ---------------------------------------------------------------------------------------------- probes


def probes(study: pd.DataFrame) -> pd.DataFrame:
    """Probe accuracies of every run: run_id, rung, compute_gmac, task, images, error, se, chance."""
    shown = {"probe_10_shot_top1": "10", "probe_25_shot_top1": "25", "probe_full_top1": "all"}
    rows = study[study["metric"].isin(list(shown))]
    return pd.DataFrame(
        {
            **{name: rows[name] for name in ("run_id", "rung", "compute_gmac", "task")},
            "images": rows["metric"].map(shown), "error": 1 - rows["value"], "se": rows["se"],
            "guessing": 1 - rows["chance"],
        }
    ).reset_index(drop=True)  # fmt: skip


def probes_figure(table: pd.DataFrame) -> Any:
    """Probe error against compute, a panel a data set, a line a number of images."""
    import matplotlib.pyplot as plt

    from cliplib.figures import INK, look

    tasks = list(dict.fromkeys(table["task"]))
    fig, axes = plt.subplots(len(tasks), 1, figsize=(5.2, 2.3 * len(tasks)), sharex=True)
    for ax, task in zip(np.atleast_1d(axes), tasks):
        own = table[table["task"] == task]
        for i, images in enumerate(("10", "25", "all")):
            rows = own[own["images"] == images].sort_values("compute_gmac")
            style = {**look(i), "linestyle": ""}
            at, se = (rows["compute_gmac"], rows["error"]), 2 * rows["se"]
            ax.errorbar(*at, yerr=se, label=f"{images} images a class", capsize=2, **style)
        ax.axhline(own["guessing"].iloc[0], color=INK, linewidth=0.8, linestyle=":")
        ax.set(xscale="log", yscale="log", title=task, ylabel="error")
        ax.yaxis.set_minor_formatter(plt.NullFormatter())
        ticks = [
            t for t in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9) if own["error"].min() * 0.9 < t
        ]
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.15), "ncols": 3}
    np.atleast_1d(axes)[0].legend(fontsize="small", **above)
    np.atleast_1d(axes)[-1].set(xlabel="compute of pre-training (GMAC)")
    return fig


def gain_of_choosing_on_test(study: pd.DataFrame) -> pd.DataFrame:
    """Mean over runs of what choosing on test adds, in points: task, images, mean, largest, runs."""
    rows = study[study["metric"].str.contains("gain_of_choosing_on_test", na=False)]
    images = rows["metric"].str.extract(r"probe_(\w+?)_(?:shot_)?gain")[0].replace("full", "all")
    table = rows.assign(images=images, points=100 * rows["value"])
    grouped = table.groupby(["task", "images"], sort=False)["points"]
    return grouped.agg(mean="mean", largest="max", runs="count").round(2).reset_index()


def grid_edges(settings: pd.DataFrame) -> pd.DataFrame:
    """How often each setting of the grid was chosen on all images: lr, epochs, chosen, edge."""
    counts = settings[settings["chosen"]].groupby(["lr", "epochs"]).size()
    table = settings[["lr", "epochs"]].drop_duplicates().sort_values(["lr", "epochs"])
    chosen = [int(counts.get((row.lr, row.epochs), 0)) for row in table.itertuples()]
    corner = (table["lr"] == table["lr"].max()) & (table["epochs"] == table["epochs"].max())
    return table.assign(chosen=chosen, edge=np.where(corner, "corner of the grid", "")).reset_index(
        drop=True
    )


# ------------------------------------------------------------------------------------------ fine-tuning

TOWERS = {  # metric of the study -> what was done
    "finetune_zero-shot_top1": "zero-shot, as it was",
    "probe_full_top1": "linear probe",
    "finetune_direct_top1": "fine-tuned directly",
    "finetune_intermediate_top1": "fine categories first",
}
TARGET = "emoji-groups"


def finetuned(study: pd.DataFrame) -> pd.DataFrame:
    """Per fine-tuned run top-1 on the target in percent: rung, what was done, value, interval."""
    runs = study[study["metric"] == "finetune_direct_top1"]["run_id"]
    rows = study[study["run_id"].isin(runs) & (study["task"] == TARGET)]
    rows = rows[rows["metric"].isin(list(TOWERS))]
    order = rows["metric"].map(list(TOWERS).index)
    table = rows.assign(order=order).sort_values(["compute_gmac", "rung", "order"])
    return pd.DataFrame(
        {
            "rung": table["rung"], "done": table["metric"].map(TOWERS),
            **{
                name: (100 * table[column]).round(1)
                for name, column in (("%", "value"), ("from", "ci_low"), ("to", "ci_high"))
            },
            "items": table["n_items"],
        }
    ).reset_index(drop=True)  # fmt: skip


def gains(study: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A paired gain of every fine-tuned run, in points: rung, task, gain, se, verdict."""
    rows = study[study["metric"] == metric]
    seen = rows["value"].abs() > rows["se"]
    return pd.DataFrame(
        {
            "rung": rows["rung"], "task": rows["task"], "gain": (100 * rows["value"]).round(1),
            "se": (100 * rows["se"]).round(1),
            "verdict": np.where(seen, "seen", "no difference seen"),
        }
    ).reset_index(drop=True)  # fmt: skip


def patching(path: Path, study: pd.DataFrame) -> pd.DataFrame:
    """The mixtures of every run that was patched, with its rung and samples in front."""
    runs = study.drop_duplicates("run_id").set_index("run_id")
    table = pd.read_csv(path)
    for place, column in enumerate(("rung", "samples_seen")):
        table.insert(place, column, table["run_id"].map(runs[column]))
    return table


def patching_figure(table: pd.DataFrame) -> Any:
    """Mean accuracy of the tuned tasks against that of the control, along the mixtures of a run."""
    import matplotlib.pyplot as plt

    from cliplib.figures import look

    fig, ax = plt.subplots()
    for i, (_, rows) in enumerate(table.groupby("run_id", sort=False)):
        name, samples = rows[["rung", "samples_seen"]].iloc[0]
        label = f"{name}, {samples:,} samples"
        ax.plot(100 * rows["control"], 100 * rows["mean_val"], label=label, **look(i))
        chosen = rows[rows["chosen"]]
        ax.plot(
            100 * chosen["control"], 100 * chosen["mean_val"], linestyle="", marker="o",
            markersize=13, fillstyle="none", color=look(i)["color"],
        )  # fmt: skip
    ax.set(
        xlabel="top-1 on the control, validation names (%)",
        ylabel="mean top-1 on the three tasks (%)",
    )
    ax.legend(loc="upper right", fontsize="small")
    return fig


# --------------------------------------------------------------------------------------- the other evaluator


#: What `make bench` measures beside CLIP_benchmark, and how many times faster we set out to be.
AIMS = {"zero_shot": 5, "retrieval": 5, "probe_grid": 20}


def speed_table(path: Path) -> pd.DataFrame:
    """Seconds of both sides by work and case, with how many times faster and what was aimed at."""
    rows = [row for row in _bench_rows(path) if row["unit"] == "s"]
    table = pd.DataFrame(rows, columns=["job", "case", "peer", "ours", "ratio"])
    table["its way"] = table["case"].str.extract(r"CLIP_benchmark (at best|by default)").fillna("")
    table["case"] = table["case"].str.replace(r": CLIP_benchmark.*| \(its .*", "", regex=True)
    table["aim"] = table["job"].map(AIMS)
    table = table.assign(job=table["job"].str.replace("_", " ")).round({"peer": 2, "ours": 2})
    titles = {"job": "work", "peer": "CLIP_benchmark (s)", "ours": "ours (s)"}
    return table.round({"ratio": 2}).rename(columns=titles | {"ratio": "times faster"})


def largest_difference(path: Path) -> float:
    """The largest difference of a zero-shot or retrieval metric between both sides in float32."""
    return max(
        row["ours"] for row in _bench_rows(path) if row["case"].endswith("metric, both in fp32")
    )


def _bench_rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in json.loads(path.read_text())["rows"] if row["job"] in AIMS]


# --------------------------------------------------------------------------------------------- the models


def models_table(checked: pd.DataFrame) -> pd.DataFrame:
    """The registry's models, counted and published; the runs of one architecture as one row."""
    name = checked["name"].str.replace(r"^(openclip/[^/]+)/.*", r"\1", regex=True)
    numbers = ["params_m", "published_params_m", "gmacs", "published_gmacs"]
    table = checked.assign(model=name).groupby("model", sort=False)
    found = table.agg(
        checkpoints=("name", "size"), **{column: (column, "first") for column in numbers}
    )
    titles = dict(zip(numbers, ("parameters (M)", "published", "GMACs", "published GMACs")))
    return found.round(2).reset_index().rename(columns=titles)
