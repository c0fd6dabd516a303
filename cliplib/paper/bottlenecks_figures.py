"""Figures and tables for readers of the chapter on bottlenecks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib.figures import INK, PALETTE
from cliplib.paper.bottlenecks import LABELS, SCALES, SIZES, plane
from cliplib.paper.data_figures import HEADS
from cliplib.paper.grid import short
from cliplib.paper.task_figures import legend
from cliplib.paper.task_tables import span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {
    "LAION-80M": ("v", PALETTE[1], ":"),
    "LAION-400M": ("s", PALETTE[2], "--"),
    "LAION-2B": ("o", PALETTE[0], "-"),
}
SHAPES = {"ViT-B-32": "v", "ViT-B-16": "s", "ViT-L-14": "o"}


# ------------------------------------------------------------------------------------------ figures


def grid_panels(runs: dict[str, pd.DataFrame]) -> Figure:
    """Error against samples seen: a row a data set, a column an architecture, a line a data scale."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        len(runs), len(SIZES), figsize=(5.2, 5.2), sharex=True, sharey="row", layout="constrained"
    )
    for row, (dataset, table) in zip(axes, runs.items(), strict=True):
        planes = {data: plane(table[table["data"] == data]) for data in SCALES}
        for ax, arch in zip(row, SIZES, strict=True):
            for data, (marker, colour, dashes) in LOOKS.items():
                some = table[(table["data"] == data) & (table["arch"] == arch)]
                some = some.sort_values("samples_seen")
                x = some[["gmacs_per_sample", "samples_seen"]]
                ax.plot(
                    some["samples_seen"] / 1e9, planes[data].predict(x.to_numpy()), color=colour,
                    linestyle=dashes, lw=1.4,
                )  # fmt: skip
                ax.scatter(
                    some["samples_seen"] / 1e9, some["error"], s=22, marker=marker, color=colour
                )
                ax.plot([], [], color=colour, linestyle=dashes, marker=marker, ms=5, label=data)
            _axes(ax, [3, 10, 30])
            ax.set_title(short(arch), loc="left")
        row[0].set_ylabel(f"error, {HEADS[dataset]}")
    fig.supxlabel("samples seen (billions)", fontsize=10.5, color=INK)
    legend(fig, axes.flat, ncols=3)
    return fig


def _axes(ax: Axes, ticks: list[float]) -> None:
    """Log-log with plain numbers."""
    from matplotlib.ticker import (
        FixedLocator,
        FuncFormatter,
        LogLocator,
        NullFormatter,
        NullLocator,
    )

    ax.set(xscale="log", yscale="log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 2.5, 3, 4, 5, 6)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, which="major")


def repeats_panels(found: dict[str, pd.DataFrame]) -> Figure:
    """The exponent of samples over one step, against the passes over the data at its end."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(found), sharey=True, figsize=(5.2, 3.7), layout="constrained")
    for ax, (dataset, table) in zip(axes.flat, found.items(), strict=True):
        for data, (marker, colour, _) in LOOKS.items():
            some = table[table["data"] == data]
            ax.scatter(
                some["passes"], some["exponent"], s=30, marker=marker, color=colour, alpha=0.9,
                label=data,
            )  # fmt: skip
        ax.axhline(0, color=INK, lw=1, linestyle=(0, (1, 2)))
        ax.set(xscale="log", xlim=(4, 700))
        ax.set_xticks([5, 20, 100, 400], ["5", "20", "100", "400"])
        ax.minorticks_off()
        ax.set_title(HEADS[dataset], loc="left")
        ax.grid(True, which="major")
    fig.supxlabel("passes over the data at the end of the step", fontsize=10.5, color=INK)
    fig.supylabel("exponent of samples over the step", fontsize=10.5, color=INK)
    legend(fig, axes.flat, ncols=3)
    return fig


def pairs_panels(found: dict[str, pd.DataFrame]) -> Figure:
    """Error on LAION-400M against LAION-2B, in percent, pair by pair; hollow: recipes differ."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(found), sharey=True, figsize=(5.2, 3.9), layout="constrained")
    shift = dict(zip(SIZES, (-0.17, 0.0, 0.17), strict=True))
    for ax, (dataset, table) in zip(axes.flat, found.items(), strict=True):
        ax.axhline(0, color=INK, lw=1, linestyle=(0, (1, 2)))
        for i, (arch, marker) in enumerate(SHAPES.items()):
            for like in (1, 0):
                some = table[(table["arch"] == arch) & (table["like"] == like)]
                x = some["label"].map(LABELS.index) + shift[arch]
                ax.scatter(
                    x, 100 * (some["ratio"] - 1), s=44, marker=marker, edgecolors=PALETTE[i],
                    facecolors=PALETTE[i] if like else "none", linewidths=1.5,
                )  # fmt: skip
            ax.scatter([], [], s=40, marker=marker, color=PALETTE[i], label=short(arch))
        ax.scatter([], [], s=40, edgecolors=INK, facecolors="none", label="hollow: recipes differ")
        ax.set_xticks(range(len(LABELS)), LABELS)
        ax.set_xlim(-0.5, len(LABELS) - 0.5)
        ax.set_title(HEADS[dataset], loc="left")
        ax.grid(True, axis="y")
    fig.supxlabel("samples seen, nominal (B: billions)", fontsize=10.5, color=INK)
    fig.supylabel(
        "error on LAION-400M over\nerror on LAION-2B, less 1 (%)", fontsize=10.5, color=INK
    )
    legend(fig, axes.flat, ncols=4)
    return fig


def profile_panels(curves: dict[str, dict[str, pd.DataFrame]]) -> Figure:
    """The rise of the objective where R is held, a panel a data set, a line a choice of scales.

    curves: by data set and name of the choice, `repeats_curve`.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(curves), sharey=True, figsize=(5.2, 3.9), layout="constrained")
    for ax, (dataset, choices) in zip(axes.flat, curves.items(), strict=True):
        dashes = ("-", "--")
        for i, (name, curve) in enumerate(choices.items()):
            ax.plot(curve["R"], curve["height"], color=PALETTE[i], linestyle=dashes[i], label=name)
        ax.axhline(1, color=INK, lw=1, linestyle=(0, (1, 2)), label="95% interval: below")
        ax.set(xscale="log", ylim=(0, 4), xlim=(5, 300))
        ax.set_xticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
        ax.minorticks_off()
        ax.set_title(HEADS[dataset], loc="left")
        ax.grid(True, which="major")
    fig.supxlabel("R held at this value (repeats)", fontsize=10.5, color=INK)
    fig.supylabel("misfit above the best (limit = 1)", fontsize=10.5, color=INK)
    legend(fig, axes.flat, ncols=2)
    return fig


# ------------------------------------------------------------------------------- tables for readers


def planes_table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`paper_bottlenecks.planes` of several data sets, for readers."""
    table = pd.concat([t.assign(dataset=HEADS[name]) for name, t in found.items()])
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "trained on": table["data"],
            "runs": table["n"],
            "exponent of samples": table["samples"].map("{:.3f}".format),
            "95% interval": span(table, "samples_low", "samples_high"),
            "exponent of size": table["size"].map("{:.3f}".format),
            "its 95% interval": span(table, "size_low", "size_high"),
            "scatter (% of E)": (100 * table["scatter"]).map("{:.1f}".format),
        }
    )


def pairs_table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The recipes of each pair, and what it gains on both data sets (points)."""
    first = next(iter(found.values()))
    table = pd.DataFrame(
        {
            "model": first["arch"].map(short),
            "samples": first["label"],
            "lr, 400M → 2B": _change(first, "lr", "{:g}"),
            "batch, 400M → 2B": _change(first, "batch", "{:,.0f}"),
            "warm-up steps": _change(first, "warmup", "{:,.0f}"),
        }
    )
    for name, gained in found.items():
        table[f"gain, {HEADS[name]} (points)"] = gained["points"].map("{:+.2f}".format)
    return table


def _change(table: pd.DataFrame, name: str, form: str) -> list[str]:
    old, new = (table[f"{name}_{side}"].map(form.format) for side in ("few", "many"))
    return [a if a == b else f"{a} → {b}" for a, b in zip(old, new, strict=True)]


def parts_table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`paper_bottlenecks.paired_parts` of several data sets, for readers."""
    table = pd.concat([t.assign(dataset=HEADS[name]) for name, t in found.items()])
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "pairs": table["part"],
            "number": table["n"],
            "error on the smaller set (%)": table["percent"].map("{:+.1f}".format),
            "95% interval": span(table, "low", "high", 1),
            "p": table["p"].map("{:.2g}".format),
        }
    )


def controls_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_bottlenecks.controls` for readers."""
    names = {
        "imagenet1k": "ImageNet",
        "imagenet_robustness": "robustness",
        "vtab+": "VTAB+",
        "mscoco_captions": "MS-COCO",
    }
    points = {names[c]: found[c].map("{:+.2f}".format) for c in names}
    return pd.DataFrame(
        {"run of the grid": found["run_id"].map(short), "compared with": found["control"]} | points
    )


def gains_table(found: dict[str, tuple[dict[str, float], str]]) -> pd.DataFrame:
    """Points gained by claim: {what: (gains by data set, verdict)}."""
    rows = [
        {
            "step": what,
            "ImageNet": f"{points['imagenet1k']:+.2f}",
            "robustness": f"{points['imagenet_robustness']:+.2f}",
            "VTAB+": f"{points['vtab+']:+.2f}",
            "MS-COCO": f"{points['mscoco_captions']:+.2f}",
            "what can be said": verdict,
        }
        for what, (points, verdict) in found.items()
    ]
    return pd.DataFrame(rows)


def repeats_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_bottlenecks.repeats` for readers."""
    laws = {"nd_effective": "multiplicative", "chinchilla_effective": "additive"}
    high = ["no bound" if not np.isfinite(h) else f"{h:.0f}" for h in found["high"]]
    return pd.DataFrame(
        {
            "data set": found["dataset"].map(HEADS),
            "law": found["law"].map(laws),
            "data scales": found["scales"],
            "runs": found["n"],
            "R (repeats)": found["R"].map("{:.0f}".format),
            "95% profile interval": [
                f"{lo:.0f} to {hi}" for lo, hi in zip(found["low"], high, strict=True)
            ],
            "scatter (% of E)": (100 * found["scatter"]).map("{:.1f}".format),
        }
    )
