"""Figures and tables for readers of the chapter on data: LAION, WIT and later distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib.figures import INK, PALETTE, look
from cliplib.laws import fit
from cliplib.paper.data import SIZES, WAYS, WIT
from cliplib.paper.figure1 import SHORT
from cliplib.paper.grid import short
from cliplib.paper.task_figures import COMPUTE, draw_law, legend, log_axes, models, window
from cliplib.paper.task_tables import span
from cliplib.paper.tasks import NAMES as TASK_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = TASK_NAMES | {"mscoco_captions": "MS-COCO", "flickr30k": "Flickr30K"}
HEADS = {"imagenet1k": "ImageNet", "mscoco_captions": "MS-COCO, image"}
FAMILIES = {"OpenCLIP": (PALETTE[0], "-"), "OpenAI": (PALETTE[1], "--")}


# ------------------------------------------------------------------------------------------ figures


def matched_panels(runs: dict[str, pd.DataFrame]) -> Figure:
    """Error against compute of the matched models, one panel a data set, one line a family."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(runs), figsize=(5.2, 3.7), layout="constrained")
    factor = 1.15 * max(t["error"].max() / t["error"].min() for t in runs.values())
    for ax, (dataset, table) in zip(axes.flat, runs.items(), strict=True):
        models(ax, table)
        for family, (colour, dashes) in FAMILIES.items():
            own = table[table["family"] == family]
            draw_law(ax, fit("power", own["compute"], own["error"]), colour, dashes, family)
        log_axes(ax, *window(table["error"], factor))
        ax.set_title(HEADS[dataset], loc="left")
    fig.supxlabel(COMPUTE, fontsize=10.5, color=INK)
    fig.supylabel("zero-shot error", fontsize=10.5, color=INK)
    legend(fig, axes.flat, ncols=3)
    return fig


def differences_figure(found: pd.DataFrame) -> Figure:
    """Difference of exponents with 95% intervals, a panel a data set, a row a way to compare."""
    import matplotlib.pyplot as plt

    datasets = list(pd.unique(found["dataset"]))
    size = (5.2, 1.5 * len(datasets) + 0.8)
    fig, axes = plt.subplots(len(datasets), sharex=True, figsize=size, layout="constrained")
    for ax, dataset in zip(axes, datasets, strict=True):
        rows = found[found["dataset"] == dataset]
        y = np.arange(len(rows))[::-1]
        ax.axvline(0, color=INK, lw=1, linestyle=(0, (1, 2)))
        for at, row in zip(y, rows.itertuples(), strict=True):
            sure = row.p < 0.05
            bars = [[row.difference - row.low], [row.high - row.difference]]
            ax.errorbar(
                [row.difference], [at], xerr=bars, fmt="o" if sure else "s", ms=5, elinewidth=1.6,
                color=PALETTE[0] if sure else PALETTE[4], mfc=PALETTE[0] if sure else "none",
                label="interval without zero" if sure else "interval with zero",
            )  # fmt: skip
        ax.set_yticks(y, [WAYS[way] for way in rows["way"]])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set_title(SHORT[dataset], loc="left")
        ax.tick_params(axis="y", length=0)
        ax.grid(True, axis="x")
    axes[-1].set_xlabel("exponent, OpenAI less OpenCLIP\n(left of zero: OpenAI falls faster)")
    legend(fig, axes)
    return fig


ENDS = (-0.42, 0.34), (-75.0, 155.0)  # intervals of three noisy tasks reach further and are cut


def tasks_figure(table: pd.DataFrame) -> Figure:
    """Every task: difference of exponents, and of levels, with 95% intervals."""
    import matplotlib.pyplot as plt

    table = table.sort_values("slope_difference", ascending=False, ignore_index=True)
    y = np.arange(len(table))
    size = (5.2, 0.235 * len(table) + 1.9)
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=size, layout="constrained")
    for ax, what, ends in zip(axes, ("slope", "level"), ENDS, strict=True):
        _forest(ax, table, what, y)
        ax.set_xlim(ends)
    axes[0].set_yticks(y, [NAMES[task] for task in table["task"]])
    axes[0].set(ylim=(-0.8, len(table) - 0.2), xlabel="difference of\nexponents")
    axes[1].set_xlabel("OpenAI's error at\nequal compute (%)")
    legend(fig, axes, ncols=1)
    return fig


def _forest(ax: Axes, table: pd.DataFrame, what: str, y: np.ndarray) -> None:
    value = table["slope_difference" if what == "slope" else "level_percent"]
    low, high = table[f"{what}_low"], table[f"{what}_high"]
    kinds = (
        ("passes Holm", table[f"{what}_p_holm"] < 0.05, PALETTE[5], "D", True),
        ("passes Benjamini-Hochberg", table[f"{what}_p_bh"] < 0.05, PALETTE[0], "o", True),
        ("p below one in twenty, alone", table[f"{what}_p"] < 0.05, PALETTE[1], "s", False),
        ("not shown to differ", table[f"{what}_p"] >= 0, PALETTE[4], "|", False),
    )
    ax.axvline(0, color=INK, lw=1, linestyle=(0, (1, 2)))
    done = np.zeros(len(table), bool)
    for label, holds, colour, marker, filled in kinds:
        some = holds.to_numpy() & ~done
        done |= some
        bars = [(value - low)[some], (high - value)[some]]
        ax.errorbar(
            value[some], y[some], xerr=bars, fmt=marker, color=colour, ms=4.5, elinewidth=1.4,
            mfc=colour if filled else "none", label=label,
        )  # fmt: skip
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(True, axis="x")


SHAPES = {"ViT-L-14": "o", "ViT-B-16": "s", "ViT-B-32": "v"}


def misses_figure(found: pd.DataFrame) -> Figure:
    """ImageNet accuracy against COCO recall, both above or below the paper's laws, in points."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 4.9), layout="constrained")
    ax.axhline(0, color=INK, lw=1, linestyle=(0, (1, 2)))
    ax.axvline(0, color=INK, lw=1, linestyle=(0, (1, 2)))
    many = found["samples_seen"] > 5e9
    for i, name in enumerate(pd.unique(found["distribution"])):
        for arch, marker in SHAPES.items():
            for filled, some in ((True, many), (False, ~many)):
                rows = found[some & (found["distribution"] == name) & (found["arch"] == arch)]
                ax.scatter(
                    rows["imagenet"], rows["coco"], s=48, marker=marker, edgecolors=PALETTE[i],
                    facecolors=PALETTE[i] if filled else "none", linewidths=1.4,
                )  # fmt: skip
    _names(ax, found)
    ax.margins(0.09)
    ax.set(
        xlabel="ImageNet accuracy above the law (points)",
        ylabel="MS-COCO Recall@5 above the law (points)",
    )
    for arch, marker in SHAPES.items():
        ax.scatter([], [], s=40, marker=marker, color=INK, label=short(arch))
    ax.scatter([], [], s=40, edgecolors=INK, facecolors="none", label="hollow: fewer samples")
    ax.grid(True)
    fig.legend(loc="outside lower center", ncols=4, handletextpad=0.2, columnspacing=1.0)
    return fig


_OFFSETS = {  # where a name stands beside its mark: points, and alignment
    ("DataComp", "many"): ((2, 9), "right"),
    ("CommonPool, CLIP filter", "many"): ((0, -15), "center"),
    ("CommonPool, LAION filter", "many"): ((4, 9), "right"),
    ("CommonPool, unfiltered", "many"): ((9, 0), "left"),
    (WIT, "many"): ((4, -15), "center"),
    ("DataComp", "few"): ((9, -4), "left"),
    ("CommonPool, CLIP filter", "few"): ((-8, -3), "right"),
    ("CommonPool, LAION filter", "few"): ((-8, -3), "right"),
    ("CommonPool, unfiltered", "few"): ((9, -3), "left"),
}


def _names(ax: Axes, found: pd.DataFrame) -> None:
    """Name each distribution beside its largest model, once for each number of samples."""
    scale = np.where(found["samples_seen"] > 5e9, "many", "few")
    first = found.assign(scale=scale).drop_duplicates(["distribution", "scale"])
    for row in first.itertuples():
        offset, side = _OFFSETS[str(row.distribution), str(row.scale)]
        ax.annotate(
            str(row.distribution), (row.imagenet, row.coco), xytext=offset,
            textcoords="offset points", ha=side, fontsize=10, color=INK,
        )  # fmt: skip


def size_panels(tables: dict[str, pd.DataFrame]) -> Figure:
    """Error against model size at one number of samples, one line a source, a panel a data set."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(tables), figsize=(5.2, 4.1), layout="constrained")
    factor = 1.15 * max(t["error"].max() / t["error"].min() for t in tables.values())
    for ax, (dataset, table) in zip(axes.flat, tables.items(), strict=True):
        for i, (source, rows) in enumerate(table.groupby("source", sort=False)):
            law = fit("power", rows["gmacs_per_sample"], rows["error"])
            style = look(i)
            ax.plot(
                rows["gmacs_per_sample"], law.predict(rows["gmacs_per_sample"]),
                color=style["color"], linestyle=style["linestyle"], lw=1.4,
            )  # fmt: skip
            ax.scatter(
                rows["gmacs_per_sample"], rows["error"], s=26, color=style["color"],
                marker=style["marker"],
            )  # fmt: skip
            ax.plot([], [], lw=1.4, ms=5, label=source, **style)
        log_axes(ax, *window(table["error"], factor))
        _size_ticks(ax, table)
        ax.set_title(HEADS[dataset], loc="left")
    fig.supxlabel("model size (GMACs a pair)", fontsize=10.5, color=INK)
    fig.supylabel("zero-shot error", fontsize=10.5, color=INK)
    legend(fig, axes.flat, ncols=2)
    return fig


def _size_ticks(ax: Axes, table: pd.DataFrame) -> None:
    sizes = table.drop_duplicates("arch").set_index("arch")["gmacs_per_sample"][list(SIZES)]
    ax.set_xticks(list(sizes), [f"{size:g}" for size in sizes.round(1)])
    ax.minorticks_off()


# ------------------------------------------------------------------------------- tables for readers


def comparisons_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_data.comparisons` for readers."""
    return pd.DataFrame(
        {
            "data set": found["dataset"].map(SHORT),
            "compared": found["way"].map(WAYS),
            "points": [
                f"{a} + {b}" for a, b in zip(found["openclip"], found["openai"], strict=True)
            ],
            "difference of exponents": found["difference"].map("{:+.3f}".format),
            "95% interval": span(found, "low", "high"),
            "p": found["p"].map("{:.2g}".format),
            "p, permutation": found["p_permutation"].map("{:.2g}".format),
            "OpenAI's error (%)": found["percent"].map("{:+.1f}".format),
            "its 95% interval": span(found, "percent_low", "percent_high", 1),
            "its p": found["percent_p"].map("{:.1g}".format),
        }
    )


def without_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_data.without_each` for readers."""
    columns = {
        "left out": found["left_out"].map(model_name),
        "difference of exponents": found["difference"].map("{:+.3f}".format),
        "95% interval": span(found, "low", "high"),
        "p": found["p"].map("{:.2g}".format),
    }
    return pd.DataFrame(columns)


def model_name(run_id: str) -> str:
    """A run's name with its family where that is OpenAI."""
    name = short(run_id)
    return f"{name} (OpenAI)" if run_id.startswith("openai/") else name


def kinds_table(slopes: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Slopes of OpenAI's two kinds of model, by data set (`laws.compare_slopes`), for readers."""
    table = pd.concat([t.assign(dataset=HEADS[name]) for name, t in slopes.items()])
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "OpenAI's": table["group"],
            "models": table["n"],
            "exponent": table["slope"].map("{:.3f}".format),
            "95% interval": span(table, "low", "high"),
            "degrees of freedom": table["dof"],
        }
    )


def claims_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_data.claims` for readers."""
    return found.rename(
        columns={
            "what": "difference of",
            "alone": "each test alone",
            "bh": "Benjamini-Hochberg",
            "holm": "Holm",
            "lower": "of Benjamini-Hochberg's: OpenAI steeper, or lower",
        }
    )


def contrasts_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_data.contrasts` for readers, by difference of exponents."""
    found = found.sort_values("slope_difference", ignore_index=True)
    return pd.DataFrame(
        {
            "task": found["task"].map(NAMES),
            "difference of exponents": found["slope_difference"].map("{:+.3f}".format),
            "95% interval": span(found, "slope_low", "slope_high"),
            "p": found["slope_p"].map("{:.2g}".format),
            "p (BH)": found["slope_p_bh"].map("{:.2g}".format),
            "p (Holm)": found["slope_p_holm"].map("{:.2g}".format),
            "level (%)": found["level_percent"].map("{:+.1f}".format),
            "its 95% interval": span(found, "level_low", "level_high", 1),
            "its p (BH)": found["level_p_bh"].map("{:.2g}".format),
        }
    )


_ASSUMED = {
    "mixed": "tasks of a run are independent; tasks share one difference",
    "mixed, random contrast": "tasks of a run are independent; tasks differ in their difference",
    "runs": "runs are independent, with one scatter; all tasks of a run are one number",
    "bootstrap": "runs are drawn within their family, all tasks of a run together",
}


def joint_table(estimates: pd.DataFrame) -> pd.DataFrame:
    """`laws.joint.mixed` for readers."""
    p = [f"{value:.2g}" if pd.notna(value) else "" for value in estimates["p"]]
    return pd.DataFrame(
        {
            "method": estimates["method"].replace({"runs": "t test on runs"}),
            "takes for granted": estimates["method"].map(_ASSUMED),
            "mean difference of exponents": estimates["difference"].map("{:+.3f}".format),
            "95% interval": span(estimates, "low", "high"),
            "p": p,
        }
    )


def misses_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_data.later_misses` for readers."""
    return pd.DataFrame(
        {
            "trained on": found["distribution"],
            "model": found["arch"].map(short),
            "samples seen (billions)": (found["samples_seen"] / 1e9).map("{:.2f}".format),
            "ImageNet (points)": (found["imagenet"].round(2) + 0.0).map("{:+.2f}".format),
            "MS-COCO Recall@5 (points)": (found["coco"].round(2) + 0.0).map("{:+.2f}".format),
        }
    )


def sizes_table(slopes: dict[str, pd.DataFrame], levels: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Size slopes of every source, and its level against the first source's, for both data sets."""
    columns: dict[str, object] = {}
    for dataset, table in slopes.items():
        columns.setdefault("source", table["source"])
        head = HEADS[dataset]
        columns[f"{head}: exponent"] = table["slope"].map("{:.3f}".format)
        columns[f"{head}: 95% interval"] = span(table, "low", "high")
        level = levels[dataset].query("slopes == 'common'").set_index("group")["percent"]
        columns[f"{head}: level (%)"] = [
            f"{level[source]:+.1f}" if source in level.index else "reference"
            for source in table["source"]
        ]
    return pd.DataFrame(columns)
