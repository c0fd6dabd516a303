"""Figures and tables for readers of the chapter on zero-shot classification.

Every panel of a figure spans the same factor of error, so equal slopes look equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib.figures import INK, PALETTE
from cliplib.laws import Fit, Frontier, fit
from cliplib.paper.tasks import CLASSES, NAMES, larger, mean_error

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LineStyle = str | tuple[int, tuple[int, ...]]
COMPUTE = "compute (GMAC: GMACs a pair × samples seen)"
# verdict -> colour, line style, marker: told apart also in grey
VERDICTS: dict[str, tuple[str, LineStyle, str]] = {
    "falls": (PALETTE[0], "-", "o"),
    "flat": (PALETTE[4], (0, (4, 2)), "s"),
    "rises": (PALETTE[5], "-.", "^"),
}
# data -> marker, colour, filled: hollow runs are in no line
DATA = {
    "LAION-2B": ("o", PALETTE[0], True),
    "LAION-400M": ("s", PALETTE[0], True),
    "LAION-80M": ("v", PALETTE[0], False),
    "WIT-400M": ("D", PALETTE[1], False),
}


# ---------------------------------------------------------------------------------- small multiples


def panels(runs: pd.DataFrame, verdicts: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Error against compute, one panel a task, with the line of the runs on the larger sets.

    runs: `task_runs`; verdicts: `slopes`, whose verdict and slope head each panel. The dotted line
    is the error of guessing, where `CLASSES` knows it.
    """
    import matplotlib.pyplot as plt

    heads = _heads(verdicts)
    rows = -(-len(tasks) // 2)
    size = (5.2, 1.75 * rows + 1.0)
    fig, axes = plt.subplots(rows, 2, sharex=True, figsize=size, layout="constrained")
    factor = widest(runs[runs["task"].isin(tasks)])
    for ax, task in zip(axes.flat, tasks, strict=False):
        verdict, slope = heads[task]
        _panel(ax, runs[runs["task"] == task], verdict, factor)
        ax.set_title(f"{NAMES[task]}\n{verdict}, {signed(slope)}", loc="left")
        if task in CLASSES:
            ax.axhline(1 - 1 / CLASSES[task], color=INK, lw=1, ls=(0, (1, 2)), label="guessing")
    for ax in axes.flat[len(tasks) :]:
        ax.axis("off")
    for ax in axes.flat[max(0, len(tasks) - 2) : len(tasks)]:
        ax.tick_params(labelbottom=True)
    fig.supxlabel(COMPUTE, fontsize=10.5, color=INK)
    fig.supylabel("zero-shot error", fontsize=10.5, color=INK)
    legend(fig, axes.flat[: len(tasks)])
    return fig


def _heads(verdicts: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """Verdict and slope by task."""
    pairs = zip(verdicts["verdict"], verdicts["slope"], strict=True)
    return dict(zip(verdicts["task"], pairs, strict=True))


def _panel(ax: Axes, runs: pd.DataFrame, verdict: str, factor: float) -> None:
    models(ax, runs)
    line = larger(runs)
    law = fit("power", line["compute"], line["error"])
    draw_law(ax, law, *VERDICTS[verdict][:2], label=f"line: {verdict}")
    log_axes(ax, *window(runs["error"], factor))


def widest(runs: pd.DataFrame) -> float:
    """The largest ratio of errors within any task, and a little room."""
    errors = runs.groupby("task")["error"]
    return float(1.2 * (errors.max() / errors.min()).max())


def window(errors: pd.Series, factor: float) -> tuple[float, float]:
    """Limits of an error axis around these errors that span a given factor and end near 1."""
    middle = float(np.sqrt(errors.min() * errors.max()))
    high = min(middle * factor**0.5, 1.03)
    return high / factor, high


def signed(value: float) -> str:
    """An exponent for a label, without a minus before zero."""
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0.000"


def models(ax: Axes, runs: pd.DataFrame) -> None:
    """The models of one task as points, by training data."""
    for data, (marker, colour, filled) in DATA.items():
        some = runs[runs["data"] == data]
        if some.empty:
            continue
        ax.scatter(
            some["compute"], some["error"], s=17, marker=marker, edgecolors=colour,
            facecolors=colour if filled else "none", linewidths=1, alpha=0.85, label=data,
        )  # fmt: skip


def draw_law(ax: Axes, law: Fit, colour: str, dashes: LineStyle, label: str) -> None:
    """A fitted law over its own range of compute."""
    C = np.geomspace(*law.C_range, 30)
    ax.plot(C, law.predict(C), color=colour, linestyle=dashes, lw=1.6, label=label)


def log_axes(ax: Axes, low: float, high: float) -> None:
    """Log-log between two errors, with a few plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    ax.set(xscale="log", yscale="log", ylim=(low, high))
    steps = np.array([1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9])
    ticks = np.concatenate([steps * 10.0**power for power in range(-3, 1)])
    inside = ticks[(ticks >= low) & (ticks <= high)]
    ax.yaxis.set_major_locator(FixedLocator(_thinned(list(inside))))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_major_locator(LogLocator(numticks=5))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(True, which="major")


def _thinned(ticks: list[float]) -> list[float]:
    """At most five ticks: none nearer to the last than a good fifth of the span, in logs."""
    kept = ticks[:1]
    for tick in ticks[1:]:
        if np.log(tick / kept[-1]) >= 0.22 * np.log(ticks[-1] / ticks[0]):
            kept.append(tick)
    return kept


def legend(fig: Figure, axes: Sequence[Axes], ncols: int = 2) -> None:
    """One legend above the panels, each entry of any panel once."""
    found: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    fig.legend(list(found.values()), list(found), loc="outside upper center", ncols=ncols)


def describe_panels(verdicts: pd.DataFrame, tasks: Sequence[str]) -> str:
    """Alt text of `panels`."""
    heads = _heads(verdicts)
    said = "; ".join(f"{NAMES[t]} {heads[t][0]} ({signed(heads[t][1])})" for t in tasks)
    return f"Zero-shot error against compute on log axes, {len(tasks)} panels. Slopes: {said}."


# ------------------------------------------------------------------------------------- forest plot


def forest(verdicts: pd.DataFrame, recipes: pd.DataFrame) -> Figure:
    """Exponents sorted, each with two intervals: the line of all runs, and the paper's recipe."""
    import matplotlib.pyplot as plt

    table = verdicts.merge(recipes, on="task", suffixes=("", "_recipe"))
    table = table.sort_values("slope", ascending=False, ignore_index=True)
    y = np.arange(len(table))
    fig, ax = plt.subplots(figsize=(5.2, 0.235 * len(table) + 1.7), layout="constrained")
    ax.axvline(0, color=INK, lw=1, ls=(0, (1, 2)))
    for verdict, (colour, _, marker) in VERDICTS.items():
        some = (table["verdict"] == verdict).to_numpy()
        rows, at = table[some], y[some] + 0.16
        bars = [rows["slope"] - rows["low"], rows["high"] - rows["slope"]]
        ax.errorbar(
            rows["slope"], at, xerr=bars, fmt=marker, color=colour, ms=4.5, elinewidth=1.6,
            label=f"line of all runs: {verdict}",
        )  # fmt: skip
    bars = [table["alpha"] - table["low_recipe"], table["high_recipe"] - table["alpha"]]
    ax.errorbar(
        table["alpha"], y - 0.2, xerr=bars, fmt="D", color=PALETTE[1], mfc="none", ms=3.6,
        elinewidth=0.9, label="the paper's recipe",
    )  # fmt: skip
    ax.set_yticks(y, [NAMES[task] for task in table["task"]])
    ax.set(ylim=(-0.8, len(table) - 0.2), xlabel="exponent (down the page: falls faster)")
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


# ------------------------------------------------------------------------------------ other figures


def average_split(runs: pd.DataFrame, falling: Sequence[str], others: Sequence[str]) -> Figure:
    """Mean error of the tasks that fall, of the others, and of all, against compute."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 3.9), layout="constrained")
    kinds: tuple[tuple[str, Sequence[str], str, str, LineStyle], ...] = (
        (f"the {len(others)} that do not fall", others, PALETTE[4], "s", (0, (4, 2))),
        (f"VTAB+, all {len(falling) + len(others)}", [*falling, *others], PALETTE[1], "D", "-."),
        (f"the {len(falling)} that fall", falling, PALETTE[0], "o", "-"),
    )
    for label, tasks, colour, marker, dashes in kinds:
        mean = larger(mean_error(runs, tasks)).sort_values("compute")
        law = fit("power", mean["compute"], mean["error"])
        ax.scatter(mean["compute"], mean["error"], s=22, marker=marker, color=colour, alpha=0.85)
        draw_law(ax, law, colour, dashes, f"_{label}")  # the underscore keeps it off the legend
        name = f"{label}: exponent {signed(law.params['alpha'])}"
        ax.plot([], [], color=colour, linestyle=dashes, marker=marker, ms=5, label=name)
    log_axes(ax, *ax.get_ylim())
    ax.set(xlabel=COMPUTE, ylabel="mean zero-shot error")
    fig.legend(loc="outside lower center")
    return fig


def recipe_and_line(runs: pd.DataFrame, points: Frontier, title: str) -> Figure:
    """One task on which the paper's recipe and the line of all runs disagree.

    runs: the OpenCLIP runs, in the order that `points` was made from; points: the recipe's bin
    minima at their centres, each joined to the run that it is.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 4.1), layout="constrained")
    models(ax, runs)
    recipe = fit("power", points.C, points.E)
    own = runs["compute"].to_numpy()[points.index]
    ax.hlines(points.E, own, points.C, color=PALETTE[5], lw=0.8)
    ax.scatter(points.C, points.E, s=44, marker="P", color=PALETTE[5], label="best of its bin")
    draw_law(ax, recipe, PALETTE[5], "-.", f"the paper's recipe: {signed(recipe.params['alpha'])}")
    line = larger(runs)
    law = fit("power", line["compute"], line["error"])
    label = f"line of {len(line)} runs: {signed(law.params['alpha'])}"
    draw_law(ax, law, PALETTE[4], (0, (4, 2)), label)
    log_axes(ax, runs["error"].min() / 1.1, min(1.03, runs["error"].max() * 1.1))
    ax.set(xlabel=COMPUTE, ylabel="zero-shot error")
    ax.set_title(title, loc="left")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def noise_figure(noise: pd.DataFrame, named: Mapping[str, tuple[float, float]]) -> Figure:
    """Scatter about each task's line against the noise of its test set, both in percent of E.

    noise: `item_noise` with a column verdict; named: tasks to name, each with the offset of
    its name in points.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 4.5), layout="constrained")
    x, y = 100 * noise["noise"], 100 * noise["scatter"]
    for verdict, (colour, _, marker) in VERDICTS.items():
        some = noise["verdict"] == verdict
        ax.scatter(x[some], y[some], s=30, marker=marker, color=colour, alpha=0.85, label=verdict)
    ends = np.array([x.min() / 1.5, x.max() * 1.6])
    for share, dashes in ((1.0, "-"), (0.1, "--"), (0.01, ":")):
        label = f"test set explains at most {100 * share:g}%"
        ax.plot(ends, ends / share**0.5, color=INK, lw=1, linestyle=dashes, label=label)
    for task, offset in named.items():
        i = noise.index[noise["task"] == task][0]
        ax.annotate(
            NAMES[task], (x[i], y[i]), xytext=offset, textcoords="offset points", fontsize=10,
            ha="left" if offset[0] > 0 else "right", va="center",
        )  # fmt: skip
    ax.set(
        xscale="log", yscale="log", xlim=ends, ylim=(y.min() / 1.6, y.max() * 1.6),
        xlabel="noise of the test set (% of the error)",
        ylabel="scatter about the line (% of the error)",
    )  # fmt: skip
    _plain_numbers(ax)
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def _plain_numbers(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    ax.grid(True, which="major")
