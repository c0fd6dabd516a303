"""Figures of "Training, measured". Numbers come from `cliplib.training_pages.measured`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib.figures import INK, LINESTYLES, MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.2
TIMES = "times open_clip's samples a second"
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")


def pace(table: pd.DataFrame) -> Figure:
    """Samples a second of ours and of open_clip against GMACs a pair, a panel a vocabulary."""
    import matplotlib.pyplot as plt

    vocabularies = sorted(table["vocabulary"].unique())
    fig, axes = plt.subplots(
        len(vocabularies), 1, figsize=(WIDTH, 2.6 * len(vocabularies) + 0.4), sharex=True,
        sharey=True, layout="constrained", squeeze=False,
    )  # fmt: skip
    for ax, vocabulary in zip(axes[:, 0], vocabularies):
        rows = table[table["vocabulary"] == vocabulary]
        for i, (column, label) in enumerate((("our_speed", "ours"), ("peer_speed", "open_clip"))):
            _line(ax, rows["gmacs"], rows[column], i, label)
        for row in rows.itertuples():
            ax.annotate(
                str(row.rung), (row.gmacs, row.our_speed), ha="center", fontsize=9,
                xytext=(0, -13 if "-" in str(row.rung) else 6), textcoords="offset points",
            )  # fmt: skip
        ax.set(xscale="log", yscale="log", ylabel="samples a second")
        ax.set_title(f"{vocabulary:,} words", loc="left")
        ax.margins(y=0.15)
        ax.grid(True)
    axes[-1, 0].set_xlabel("GMACs of one pair, forward")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def ratios(table: pd.DataFrame) -> Figure:
    """Ratio of samples a second by rung, one marker a vocabulary."""
    import matplotlib.pyplot as plt

    rungs = list(table.drop_duplicates("rung").sort_values("gmacs")["rung"])
    fig, ax = plt.subplots(figsize=(WIDTH, 3.0), layout="constrained")
    for i, (vocabulary, rows) in enumerate(table.groupby("vocabulary")):
        at = [rungs.index(name) + 0.16 * (i - 0.5) for name in rows["rung"]]
        ax.plot(
            at, rows["ratio_speed"], MARKERS[i], color=PALETTE[i], label=f"{vocabulary:,} words"
        )
    ax.axhline(1, color=INK, lw=0.9, linestyle=(0, (1, 2)))
    ax.annotate("as fast as open_clip", (1, 1), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                textcoords="offset points", ha="right", fontsize=10)  # fmt: skip
    ax.set_xticks(range(len(rungs)), rungs)
    ax.set(
        ylim=(0, None), xlabel="rung, cheapest first", ylabel=TIMES.replace("samples", "\nsamples")
    )
    ax.grid(True, axis="y")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def parts(columns: dict[str, pd.Series]) -> Figure:
    """Milliseconds of one step by part, one row of bars a part; one colour and hatch a column."""
    import matplotlib.pyplot as plt

    table = pd.DataFrame(columns).fillna(0.0)
    table = table.loc[table.max(axis=1).sort_values().index]
    fig, ax = plt.subplots(figsize=(WIDTH, 0.42 * len(table) + 1.2), layout="constrained")
    height = 0.8 / len(table.columns)
    at = np.arange(len(table))
    for i, name in enumerate(table.columns):
        place = at + 0.4 - height * (i + 0.5)
        ax.barh(place, table[name], height, color=PALETTE[i], hatch=HATCHES[i], label=name,
                edgecolor="white", linewidth=0.5)  # fmt: skip
    ax.set_yticks(at, [_broken(name) for name in table.index])
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="milliseconds of one step")
    ax.grid(True, axis="x")
    fig.legend(loc="outside lower center", ncols=1)
    return fig


def bars(table: pd.DataFrame, xlabel: str = "samples a second") -> Figure:
    """Speeds of named ways (`measured.side_by_side`), a panel a rung."""
    import matplotlib.pyplot as plt

    rungs = list(dict.fromkeys(table["rung"]))
    names = list(dict.fromkeys(table["what"]))
    fig, axes = plt.subplots(
        len(rungs), 1, figsize=(WIDTH, (0.34 * len(names) + 0.9) * len(rungs)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for ax, rung in zip(axes[:, 0], rungs):
        rows = table[table["rung"] == rung].set_index("what").loc[names[::-1]]
        ax.barh(range(len(names)), rows["samples_per_s"], 0.62, color=PALETTE[0])
        for i, speed in enumerate(rows["samples_per_s"]):
            ax.annotate(f"{speed:,.0f}", (speed, i), xytext=(3, 0), textcoords="offset points",
                        va="center", fontsize=10)  # fmt: skip
        ax.set_yticks(range(len(names)), names[::-1])
        ax.tick_params(axis="y", length=0)
        ax.set_title(f"rung {rung}", loc="left")
        ax.margins(x=0.16)
        ax.set(xlim=(0, None))
    axes[-1, 0].set_xlabel(xlabel)
    return fig


def memory_of_the_loss(table: pd.DataFrame) -> Figure:
    """Peak memory of the loss against the batch on log axes; hollow where it was reckoned only."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(WIDTH, 3.4), layout="constrained")
    _line(ax, table["batch"], table["our_mb"], 0, "ours, in chunks")
    tried = table[table["peer_mb"].notna()]
    _line(ax, tried["batch"], tried["peer_mb"], 1, "open_clip's, whole matrix")
    untried = table[table["needed_mb"].notna()]
    if len(untried):
        ax.plot(untried["batch"], untried["needed_mb"], MARKERS[1], color=PALETTE[1],
                markerfacecolor="none", label="open_clip's, reckoned")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="pairs in the batch", ylabel="peak memory (MB)")
    ax.set_xscale("log", base=2)
    ax.set_xticks(table["batch"], [f"{b:,}" for b in table["batch"]])
    ax.grid(True)
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def _line(ax: Axes, x: pd.Series, y: pd.Series, i: int, label: str) -> None:
    ax.plot(x, y, color=PALETTE[i], marker=MARKERS[i], linestyle=LINESTYLES[i], label=label)


def _broken(name: str, most: int = 22) -> str:
    """A name in two lines where it is long."""
    if len(name) <= most:
        return name
    middle = min((i for i, c in enumerate(name) if c == " "), key=lambda i: abs(i - len(name) / 2))
    return f"{name[:middle]}\n{name[middle + 1 :]}"
