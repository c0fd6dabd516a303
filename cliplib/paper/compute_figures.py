"""Figures and tables for readers of the chapter on compute: two laws, a cloud, an additive law."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib.figures import INK, PALETTE
from cliplib.laws import Allocation
from cliplib.paper.data_figures import HEADS
from cliplib.paper.grid import short
from cliplib.paper.task_figures import legend
from cliplib.paper.task_tables import span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHAPES = {
    "ViT-B-32": ("v", PALETTE[0]),
    "ViT-B-16": ("s", PALETTE[1]),
    "ViT-L-14": ("o", PALETTE[2]),
    "ViT-H-14": ("D", PALETTE[3]),
    "ViT-g-14": ("^", PALETTE[5]),
}
ROWS = {"from_compute": "law of C", "from_both": "law of N and D"}


# ------------------------------------------------------------------------------------------ figures


def cloud_panels(found: dict[str, pd.DataFrame]) -> Figure:
    """Distance from the two laws against the shape N / D: a row a law, a column a data set."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        2, len(found), sharex=True, sharey=True, figsize=(5.2, 5.4), layout="constrained"
    )
    for row, (column, law) in zip(axes, ROWS.items(), strict=True):
        for ax, (dataset, table) in zip(row, found.items(), strict=True):
            _cloud(ax, table, column)
            ax.set_title(f"{HEADS[dataset]}\n{law}", loc="left")
    label = "shape N/D (GMACs a pair for each billion samples)"
    fig.supxlabel(label, fontsize=10.5, color=INK)
    fig.supylabel("error above the law (%)", fontsize=10.5, color=INK)
    legend(fig, axes.flat, ncols=5)
    return fig


def _cloud(ax: Axes, table: pd.DataFrame, column: str) -> None:
    for arch, (marker, colour) in SHAPES.items():
        for data, filled in (("LAION-2B", True), ("LAION-400M", False)):
            some = table[(table["arch"] == arch) & (table["data"] == data)]
            ax.scatter(
                some["shape"], some[column], s=30, marker=marker, edgecolors=colour,
                facecolors=colour if filled else "none", linewidths=1.3,
                label=short(arch) if filled else None,
            )  # fmt: skip
    ax.axhline(0, color=INK, lw=1, linestyle=(0, (1, 2)))
    ax.set(xscale="log")
    ax.set_xticks([0.3, 1, 3, 10, 30], ["0.3", "1", "3", "10", "30"])
    ax.minorticks_off()
    ax.grid(True, which="major")


def floor_panels(curves: dict[str, pd.DataFrame]) -> Figure:
    """The profile of the additive law's floor, a panel a data set."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(curves), sharey=True, figsize=(5.2, 3.3), layout="constrained")
    for ax, (dataset, curve) in zip(axes.flat, curves.items(), strict=True):
        near = curve[curve["height"] < 6]
        ax.plot(near["floor"], near["height"], color=PALETTE[0], label="misfit with this floor")
        ax.axhline(1, color=INK, lw=1, linestyle=(0, (1, 2)), label="95% interval: below")
        ax.set(ylim=(-0.05, 3), xlim=(0, None))
        ax.locator_params(axis="x", nbins=4)
        ax.set_title(HEADS[dataset], loc="left")
        ax.grid(True)
    fig.supxlabel("floor E held at this value (a fraction)", fontsize=10.5, color=INK)
    fig.supylabel("misfit above the best (limit = 1)", fontsize=10.5, color=INK)
    legend(fig, axes.flat, ncols=2)
    return fig


def allocation_panels(curves: dict[str, pd.DataFrame], C: float) -> Figure:
    """Predicted error at compute C (GMAC, a power of ten) over size; thick where runs exist."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    fig, axes = plt.subplots(1, len(curves), figsize=(5.2, 3.6), layout="constrained")
    for ax, (dataset, curve) in zip(axes.flat, curves.items(), strict=True):
        inside = curve[curve["inside"] == 1]
        for i, (law, dashes) in enumerate({"multiplicative": "-", "additive": "--"}.items()):
            colour = PALETTE[i]
            ax.plot(curve["N"], curve[law], color=colour, linestyle=dashes, lw=1.1)
            ax.plot(inside["N"], inside[law], color=colour, linestyle=dashes, lw=3, label=law)
            best = curve.iloc[int(np.argmin(curve[law]))]
            if curve["N"].min() < best["N"] < curve["N"].max():
                ax.scatter([best["N"]], [best[law]], s=50, marker="D", color=colour, zorder=3)
        ax.set(xscale="log", yscale="log")
        ax.set_xticks([3, 10, 30, 100, 300], ["3", "10", "30", "100", "300"])
        ticks = _ticks(curve)
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.minorticks_off()
        ax.set_title(HEADS[dataset], loc="left")
        ax.grid(True, which="major")
    fig.supxlabel("model size N (GMACs a pair)", fontsize=10.5, color=INK)
    label = f"predicted error at $10^{{{np.log10(C):.0f}}}$ GMAC"
    fig.supylabel(label, fontsize=10.5, color=INK)
    legend(fig, axes.flat, ncols=2)
    return fig


def _ticks(curve: pd.DataFrame) -> list[float]:
    both = curve[["multiplicative", "additive"]]
    low, high = float(both.to_numpy().min()), float(both.to_numpy().max())
    return [t for t in np.arange(0.2, 0.7, 0.02).round(2).tolist() if low <= t <= high]


# ------------------------------------------------------------------------------- tables for readers


def laws_table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`paper_compute.laws_of` of several data sets, for readers."""
    table = pd.concat([t.assign(dataset=HEADS[name]) for name, t in found.items()])
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "law of": table["law"],
            "exponent of size": table["size"].map("{:.3f}".format),
            "95% interval": span(table, "size_low", "size_high"),
            "exponent of samples": table["samples"].map("{:.3f}".format),
            "its 95% interval": span(table, "samples_low", "samples_high"),
            "scatter (% of E)": (100 * table["scatter"]).map("{:.1f}".format),
            "AIC": table["aic"].map("{:.1f}".format),
        }
    )


def pairs_table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`paper_compute.equal_compute` of several data sets, one row a pair."""
    first = next(iter(found.values()))
    table = pd.DataFrame(
        {
            "larger model": first["larger"].map(short),
            "longer training": first["smaller"].map(short),
            "compute, ratio": first["compute_ratio"].map("{:.2f}".format),
        }
    )
    for name, pairs in found.items():
        table[f"{HEADS[name]}: errors (%)"] = [
            f"{100 * a:.1f} and {100 * b:.1f}"
            for a, b in zip(pairs["error_larger"], pairs["error_smaller"], strict=True)
        ]
        table[f"{HEADS[name]}: ratio"] = pairs["ratio"].map("{:.3f}".format)
        table[f"{HEADS[name]}: by the law"] = pairs["predicted"].map("{:.3f}".format)
    return table


def additive_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_compute.additive_table` for readers."""
    what = {"E": "floor E", "alpha": "exponent of size", "beta": "exponent of samples"}
    return pd.DataFrame(
        {
            "data set": found["dataset"].map(HEADS),
            "parameter": found["param"].map(what),
            "best value": found["value"].map("{:.3f}".format),
            "95% profile interval": span(found, "low", "high"),
        }
    )


def allocation_table(found: dict[str, Allocation]) -> pd.DataFrame:
    """Best N and D by the additive law, for readers."""
    parts = []
    for name, best in found.items():
        table = best.table
        samples = table.assign(**{c: table[c] / 1e9 for c in ("D", "D_low", "D_high")})
        parts.append(
            pd.DataFrame(
                {
                    "data set": HEADS[name],
                    "compute (GMAC)": table["C"].map("{:.0e}".format),
                    "best N (GMACs a pair)": table["N"].map("{:.0f}".format),
                    "95% interval": span(table, "N_low", "N_high", 0),
                    "best D (billions of samples)": samples["D"].map("{:.1f}".format),
                    "its 95% interval": span(samples, "D_low", "D_high", 1),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
