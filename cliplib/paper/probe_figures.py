"""Figures and tables for readers of the chapter on linear probes; the numbers are `paper_probes`'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cliplib.figures import INK, LINESTYLES, MARKERS, PALETTE
from cliplib.laws import Fit
from cliplib.paper.figure1 import FAMILIES
from cliplib.paper.figure1 import MARKERS as DATA_MARKERS
from cliplib.paper.probes import CHOICES, HIDDEN, NAMES, TASKS, openclip_compute, settings_of, task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPUTE = "pre-training compute (GMAC: GMACs a pair × samples seen)"
SHORT_COMPUTE = "compute (GMAC)"  # where two panels stand side by side


def title(dataset: str, shots: str) -> str:
    """A task as a panel's title or a table's cell prints it.

    >>> title("cifar100", "10"), title("vtab_mean19", "full")
    ('CIFAR-100, 10-shot', 'VTAB, full')
    """
    return f"{NAMES[dataset]}, {amount(shots)}"


def amount(shots: str) -> str:
    """Images a class in words."""
    return {"full": "full", "0": "zero-shot"}.get(shots, f"{shots}-shot")


# ---------------------------------------------------------------------------- Figures 2 and 3 again


def probe_panels(
    points: pd.DataFrame, exponents: pd.DataFrame, tasks: tuple[tuple[str, str], ...], columns: int
) -> Figure:
    """Probe error against pre-training compute, one panel a task, both families and their lines.

    points, exponents: of `paper_probes`. Panels fill column by column, so that a column shows one
    data set with more and more images a class.
    """
    import matplotlib.pyplot as plt

    rows = len(tasks) // columns
    fig, axes = plt.subplots(
        rows, columns, sharex=True, sharey="col", squeeze=False, layout="constrained",
        figsize=(5.2, 3.4 if rows == 1 else 2.05 * rows),
    )  # fmt: skip
    for ax, (dataset, shots) in zip(axes.T.flat, tasks, strict=True):
        _panel(ax, task(points, dataset, shots), task(exponents, dataset, shots))
        ax.set_title(title(dataset, shots), loc="left", fontsize=10.5)
    for ax in axes[-1]:
        ax.set_xlabel(COMPUTE if columns == 1 else SHORT_COMPUTE)
    fig.supylabel("probe error", fontsize=10.5, color=INK)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def _panel(ax: Axes, points: pd.DataFrame, lines: pd.DataFrame) -> None:
    for family, (colour, dashes) in FAMILIES.items():
        some = points[points["family"] == family]
        for data, marker in DATA_MARKERS.items():
            rows = some[some["data"] == data]
            if len(rows):
                face = colour if family == "OpenCLIP" else "none"
                ax.scatter(
                    rows["compute"], rows["error"], s=26, marker=marker, facecolors=face,
                    edgecolors=colour, linewidths=1.2, alpha=0.85, label=f"{family}, {data}",
                )  # fmt: skip
        (line,) = lines.loc[lines["family"] == family, "fit"]
        draw(ax, line, color=colour, linestyle=dashes, label=f"{family}, line")
    hidden = points[points["model_id"] == HIDDEN]
    ax.scatter(
        hidden["compute"], hidden["error"], s=95, facecolors="none", edgecolors=INK,
        linewidths=1.0, label="ringed: not drawn in the paper",
    )  # fmt: skip
    log_axes(ax)


def draw(ax: Axes, line: Fit, **look: Any) -> None:
    """A power law over the compute of its own points; a straight line on log axes."""
    low, high = line.C_range
    ends = np.array([low, high])
    ax.plot(ends, line.predict(ends), **look)


def log_axes(ax: Axes) -> None:
    """Log-log with plain numbers on an error axis that spans about a factor of two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    ax.set(xscale="log", yscale="log")
    ax.xaxis.set_major_locator(LogLocator(numticks=4))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(True, which="major")


# ----------------------------------------------------------------------------------- nine settings


def setting_lines(wide: pd.DataFrame, lines: dict[tuple[str, str], pd.DataFrame]) -> Figure:
    """OpenCLIP's error under each of the nine settings, one panel a task, and the best of them.

    wide: `paper_probes.settings`; lines: `paper_probes.by_setting` by (dataset, shots).
    """
    import matplotlib.pyplot as plt

    size = (5.2, 2.7 * len(lines))
    fig, axes = plt.subplots(
        len(lines), sharex=True, squeeze=False, layout="constrained", figsize=size
    )
    for ax, (key, table) in zip(axes.flat, lines.items(), strict=True):
        _settings_panel(ax, settings_of(wide, *key), table)
        ax.set_title(title(*key), loc="left")
    axes[-1, 0].set_xlabel(COMPUTE)
    fig.supylabel("probe error", fontsize=10.5, color=INK)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def _settings_panel(ax: Axes, errors: pd.DataFrame, lines: pd.DataFrame) -> None:
    """One colour, marker and line style a learning rate; three numbers of epochs each."""
    compute = openclip_compute()
    errors = errors.loc[compute.index]
    rates = errors.columns.get_level_values("lr")
    for i, (lr, rows) in enumerate(lines.groupby("lr")):
        look: dict[str, Any] = {"color": PALETTE[i], "linestyle": LINESTYLES[i], "lw": 1.1}
        ax.plot([], [], marker=MARKERS[i], ms=4, label=f"learning rate {lr:g}", **look)
        for line in rows["fit"]:
            draw(ax, line, **look)
        marks: dict[str, Any] = {
            "color": PALETTE[i],
            "linestyle": "none",
            "marker": MARKERS[i],
            "ms": 3.5,
        }
        ax.plot(compute, errors.loc[:, rates == lr].to_numpy(), alpha=0.7, **marks)
    ax.scatter(
        compute, errors.min(axis=1), s=60, facecolors="none", edgecolors=INK, linewidths=1.0,
        label="best of nine (published)",
    )  # fmt: skip
    log_axes(ax)


def choice_dots(exponents: pd.DataFrame) -> Figure:
    """OpenCLIP's exponent with its interval, by task and by the way the setting was chosen."""
    rows = exponents[exponents["family"] == "OpenCLIP"]
    return dots(
        rows.assign(
            row=[title(*key) for key in zip(rows["dataset"], rows["shots"])],
            group=rows["choice"].map(CHOICES),
        ),
        "exponent α of OpenCLIP's line, 95% interval",
    )


def dots(table: pd.DataFrame, xlabel: str, step: float = 0.15, row_height: float = 0.72) -> Figure:
    """Values with intervals, one line of the figure a `row`, one mark a `group`.

    table: row, group, alpha, low, high; rows and groups in the order of their first appearance.
    """
    import matplotlib.pyplot as plt

    labels, groups = list(pd.unique(table["row"])), list(pd.unique(table["group"]))
    fig, ax = plt.subplots(figsize=(5.2, 1.2 + row_height * len(labels)), layout="constrained")
    for i, group in enumerate(groups):
        rows = table[table["group"] == group]
        y = rows["row"].map(labels.index) + step * (i - (len(groups) - 1) / 2)
        around = [rows["alpha"] - rows["low"], rows["high"] - rows["alpha"]]
        ax.errorbar(
            rows["alpha"], y, xerr=around, label=group, linestyle="none", color=PALETTE[i],
            marker=MARKERS[i], markersize=4.5, elinewidth=1, markerfacecolor=None if i == 0 else "none",
        )  # fmt: skip
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.grid(True, axis="x")
    if table["high"].max() > 0:
        ax.axvline(0, color=INK, lw=0.8)
    fig.legend(loc="outside lower center", ncols=1 if max(map(len, groups)) > 24 else 2)
    return fig


# --------------------------------------------------------------------------------- tables for readers


def interval(table: pd.DataFrame, digits: int = 3) -> list[str]:
    """Columns low and high as "from to" texts."""
    return [f"{a:.{digits}f} to {b:.{digits}f}" for a, b in zip(table["low"], table["high"])]


def tasks_of(table: pd.DataFrame) -> list[str]:
    """Columns dataset and shots as titles."""
    return [title(*key) for key in zip(table["dataset"], table["shots"])]


def models_table(models: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """The probed checkpoints: what each is, where its run is, what the published figures do with it.

    best: `paper_probes.points` (ImageNet, full is shown).
    """
    top1 = task(best, "imagenet1k", "full").set_index("model_id")["error"]
    return pd.DataFrame(
        {
            "model": models["name"],
            "checkpoint": models["pretrained_tag"],
            "samples (billions)": (models["samples_seen"] / 1e9).map("{:.2f}".format),
            "compute (GMAC)": models["compute"].map("{:.2e}".format),
            "among the 29 + 3": models["in_scaling_grid"].map({1: "yes", 0: "no"}),
            "in Figures 2 and 3": models["role"],
            "ImageNet error, full": models["model_id"].map(top1).map("{:.4f}".format),
        }
    ).replace("nan", "")


def coefficients_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_probes.reproduced` for readers."""
    without = found["without_hidden"].map("{:.4f}".format)
    return pd.DataFrame(
        {
            "task": tasks_of(found),
            "models": found["family"],
            "points": found["n"],
            "notebook": found["printed"].map("{:.4f}".format),
            "ours": found["alpha"].map("{:.4f}".format),
            "without B/16+": without.replace("nan", ""),
            "95% interval, t": interval(found),
        }
    )


def choices_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_probes.by_choice` for readers, OpenCLIP only: exponent, and added error in brackets."""
    rows = found[found["family"] == "OpenCLIP"]
    cells = rows.assign(
        cell=[f"{a:.4f} ({c:+.2f})" for a, c in zip(rows["alpha"], rows["cost"])],
        task=tasks_of(rows),
    )
    order = [title(*key) for key in TASKS]
    wide = cells.pivot(index="task", columns="choice", values="cell").loc[order, list(CHOICES)]
    return wide.fillna("").rename(columns=CHOICES).rename_axis(columns=None).reset_index()


def differences_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_probes.shot_differences` for readers."""
    pairs = zip(found["shots"], found["reference"])
    return pd.DataFrame(
        {
            "data set": found["dataset"].map(NAMES),
            "models": found["family"],
            "difference of exponents": [f"{amount(a)} less {amount(b)}" for a, b in pairs],
            "points": found["n"],
            "estimate": found["alpha"].map("{:+.4f}".format),
            "95% interval, t": interval(found),
        }
    )


def contrasts_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_probes.family_contrasts` for readers; a column ``models`` names OpenCLIP's side."""
    return pd.DataFrame(
        {
            "OpenCLIP models": found["models"],
            "task": tasks_of(found),
            "points": found["n"],
            "OpenAI less OpenCLIP": found["difference"].map("{:+.3f}".format),
            "95% interval, t": interval(found),
            "p": found["p"].map("{:.3f}".format),
            "p, Holm over seven": found["p_holm"].map("{:.3f}".format),
        }
    )


def set_name(dataset: str) -> str:
    """A VTAB set's name for readers.

    >>> set_name("vtab/clevr_count_all")
    'clevr count all'
    """
    return dataset.removeprefix("vtab/").replace("_", " ")
