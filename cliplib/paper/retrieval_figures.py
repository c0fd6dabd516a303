"""Figures and tables for readers of the chapter on retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib.figures import INK, PALETTE
from cliplib.laws import Draws, Fit
from cliplib.paper.retrieval import TASKS, pairs
from cliplib.paper.task_figures import COMPUTE, log_axes, models, widest, window
from cliplib.paper.task_tables import span
from cliplib.paper.tasks import LARGER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILIES = {"OpenCLIP": (PALETTE[0], "-"), "OpenAI": (PALETTE[1], "--")}
_NAMES = {task: name for task, (*_, name) in TASKS.items()}


# ------------------------------------------------------------------------------------------ figures


def panels(runs: pd.DataFrame, fits: dict[tuple[str, str], Fit], draws: dict[str, Draws]) -> Figure:
    """Error against compute, a panel for each data set and direction, both families' lines."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 2, sharex=True, figsize=(5.2, 6.0), layout="constrained")
    factor = widest(runs)
    for ax, (task, (*_, name)) in zip(axes.flat, TASKS.items(), strict=True):
        table = runs[runs["task"] == task]
        models(ax, table)
        for family in FAMILIES:
            _line(ax, fits[task, family], family, draws[task])
        log_axes(ax, *window(table["error"], factor))
        ax.set_title(name, loc="left")
    fig.supxlabel(COMPUTE, fontsize=10.5, color=INK)
    fig.supylabel("zero-shot error, 1 - Recall@5", fontsize=10.5, color=INK)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=2)
    return fig


def _line(ax: Axes, law: Fit, family: str, draws: Draws) -> None:
    colour, dashes = FAMILIES[family]
    C = np.geomspace(*law.C_range, 40)
    if family == "OpenCLIP":
        errors = draws.values[:, 1, None] * C ** draws.values[:, :1]
        low, high = np.quantile(errors, [0.025, 0.975], axis=0)
        ax.fill_between(C, low, high, color=colour, alpha=0.14, lw=0, label="OpenCLIP, 95% band")
    ax.plot(C, law.predict(C), color=colour, linestyle=dashes, label=f"{family}, law")


def levels_figure(found: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """OpenAI's error against OpenCLIP's at equal compute: interval, and the single pairs."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    ax.axvline(0, color=INK, lw=1, linestyle=(0, (1, 2)))
    marks = {"LAION-400M": "s", "LAION-2B": "o"}
    both = found[found["data"] == " and ".join(LARGER)].reset_index(drop=True)
    y = np.arange(len(both))[::-1]
    for row, at in zip(both["task"], y, strict=True):
        single = pairs(runs[runs["task"] == row])
        for data, marker in marks.items():
            some = 100 * (single.loc[single["data"] == data, "ratio"] - 1)
            label = f"one pair, {data}" if at == y[0] else None
            ax.scatter(
                some, np.full(len(some), at - 0.22), s=22, marker=marker, facecolors="none",
                edgecolors=PALETTE[0], label=label,
            )  # fmt: skip
    bars = [both["percent"] - both["low"], both["high"] - both["percent"]]
    ax.errorbar(
        both["percent"], y, xerr=bars, fmt="D", color=PALETTE[1], ms=5, elinewidth=1.6,
        label="all 9 runs, 95% interval",
    )  # fmt: skip
    ax.set_yticks(y, [TASKS[task][2] for task in both["task"]])
    ax.set(ylim=(-0.6, len(both) - 0.5), xlabel="OpenAI's error against OpenCLIP's (%)")
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x")
    fig.legend(loc="outside lower center", ncols=1)
    return fig


def local_figure(found: pd.DataFrame) -> Figure:
    """Exponents of parts of the runs, a panel a task: flatter to the right."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 2, figsize=(5.2, 4.6), layout="constrained", sharey=True)
    looks = {"compute": (PALETTE[2], "D"), "data": (PALETTE[0], "o")}
    for ax, (task, (*_, name)) in zip(axes.flat, TASKS.items(), strict=True):
        table = found[found["task"] == task].reset_index(drop=True)
        y = np.arange(len(table))[::-1]
        for split, (colour, marker) in looks.items():
            some = (table["split"] == split).to_numpy()
            rows = table[some]
            bars = [rows["alpha"] - rows["low"], rows["high"] - rows["alpha"]]
            ax.errorbar(
                rows["alpha"], y[some], xerr=bars, fmt=marker, color=colour, ms=4.5, elinewidth=1.5
            )
        ax.axvline(0, color=INK, lw=1, linestyle=(0, (1, 2)))
        ax.set_yticks(
            y, [f"{part} ({n})" for part, n in zip(table["part"], table["n"], strict=True)]
        )
        ax.set_ylim(-0.6, len(table) - 0.4)
        ax.set_title(name, loc="left")
        ax.tick_params(axis="y", length=0)
        ax.locator_params(axis="x", nbins=4)
        ax.grid(True, axis="x")
    fig.supxlabel("exponent, 95% interval (in brackets: runs)", fontsize=10.5, color=INK)
    return fig


# ------------------------------------------------------------------------------- tables for readers


def exponents_table(found: pd.DataFrame) -> pd.DataFrame:
    """`exponents` for readers."""
    return pd.DataFrame(
        {
            "task": found["task"].map(_NAMES),
            "models": found["family"],
            "runs": found["runs"],
            "exponent": found["alpha"].map("{:.4f}".format),
            "95% interval": span(found, "low", "high"),
            "as the notebook computes it": found["notebook"].map("{:.4f}".format),
        }
    )


def items_table(found: pd.DataFrame) -> pd.DataFrame:
    """`items` for readers; percent."""
    percent = found.assign(**{c: 100 * found[c] for c in found.columns[3:] if c != "wrong"})
    return pd.DataFrame(
        {
            "task": found["task"].map(_NAMES),
            "items": found["items"].map("{:,}".format),
            "wrong, best run": found["wrong"].map("{:,}".format),
            "error (%)": percent["best"].map("{:.2f}".format),
            "95% interval, items independent": span(percent, "low", "high", 2),
            "by picture": span(percent, "low_images", "high_images", 2),
            "scatter about the line (% of E)": percent["scatter"].map("{:.1f}".format),
            "test-set noise (% of E)": percent["noise"].map("{:.1f}".format),
            "share of variance, at most": found["share"].map("{:.0%}".format),
        }
    )


def levels_table(found: pd.DataFrame) -> pd.DataFrame:
    """`levels` for readers."""
    return pd.DataFrame(
        {
            "task": found["task"].map(_NAMES),
            "against runs on": found["data"],
            "runs": found["matched"],
            "OpenAI's error (%)": found["percent"].map("{:+.1f}".format),
            "95% interval": span(found, "low", "high", 1),
            "p": found["p"].map("{:.2g}".format),
            "equal slopes: p": found["slope_p"].map("{:.2g}".format),
            "single pairs, ratio": span(found, "least", "most", 2),
        }
    )


def later_table(found: pd.DataFrame) -> pd.DataFrame:
    """`later` for readers."""
    return pd.DataFrame(
        {
            "task": found["task"].map(_NAMES),
            "model": found["model"],
            "compute / largest run": found["beyond"].map("{:.1f}".format),
            "law (%)": found["predicted"].map("{:.2f}".format),
            "actual (%)": found["actual"].map("{:.2f}".format),
            "miss (points)": found["miss"].map("{:+.2f}".format),
            "mean miss on the law's own runs": found["own_miss"].map("{:+.2f}".format),
            "its compute is": found["plain"].map({1: "plain", 0: "nominal"}),
        }
    )
