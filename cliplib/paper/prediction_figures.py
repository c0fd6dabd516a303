"""Figures and readers' tables of the chapter on prediction; numbers from `cliplib.paper.prediction`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cliplib.figures import INK, MARKERS, PALETTE
from cliplib.laws import Draws, Fit
from cliplib.laws.prediction import predict
from cliplib.paper.figure1 import SHORT, TITLES
from cliplib.paper.grid import short
from cliplib.paper.tasks import LARGER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPUTE = "compute (GMAC: GMACs a pair × samples seen)"
MISS = "actual − predicted (points)"
LATER_MARKS = {  # model -> marker, colour
    "g/14, 34B": ("s", PALETTE[1]),
    "bigG/14, 39B, nominal": ("D", PALETTE[5]),
    "bigG/14, 39B, adjusted": ("o", PALETTE[2]),
}


# --------------------------------------------------------------------------------- beyond the range


def extrapolation(
    runs: Mapping[str, pd.DataFrame],
    fits: Mapping[str, tuple[Fit, Draws]],
    later: Mapping[str, pd.DataFrame],
) -> Figure:
    """The dear end of the law with both intervals, and the models that came later; a panel each.

    runs: OpenCLIP's by data set; fits: law and bootstrap; later: from `paper_prediction.later`.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        len(runs), sharex=True, figsize=(5.2, 2.9 * len(runs)), layout="constrained"
    )
    C = np.geomspace(7e11, 3.3e13, 60)
    for ax, (dataset, table) in zip(np.atleast_1d(axes), runs.items(), strict=True):
        _bands(ax, *fits[dataset], C)
        dear = table[(table["compute"] >= C[0]) & table["data"].isin(LARGER)]
        ax.plot(
            dear["compute"],
            100 * (1 - dear["error"]),
            "^",
            color=INK,
            alpha=0.55,
            label="run, 400M or 2B",
        )
        for row in later[dataset].to_dict("records"):
            marker, colour = LATER_MARKS[row["model"]]
            ax.plot(
                row["compute"], row["actual"], marker, color=colour, markersize=8,
                markerfacecolor="none" if "adjusted" in row["model"] else colour, label=row["model"],
            )  # fmt: skip
        ax.axvline(table["compute"].max(), color=INK, lw=0.8, linestyle=(0, (1, 2)))
        ax.set(xscale="log", xlim=(C[0], C[-1]))
        ax.set_title(TITLES[dataset].replace(", top-1", ""), loc="left")
        ax.set_ylabel("top-1 (%)" if dataset.startswith("imagenet") else "Recall@5 (%)")
        ax.grid(True, which="major")
    np.atleast_1d(axes)[-1].set_xlabel(COMPUTE)
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2)
    return fig


def _bands(ax: Axes, law: Fit, draws: Draws, C: np.ndarray) -> None:
    colour = PALETTE[0]
    shades = {"new": (0.12, "95%, a new point"), "mean": (0.22, "95%, the law")}
    for kind, (alpha, label) in shades.items():
        at = predict(law, C, draws, kind)
        low, high = 100 * (1 - at.high), 100 * (1 - at.low)
        ax.fill_between(C, low, high, color=colour, alpha=alpha, lw=0, label=label)
    ax.plot(C, 100 * (1 - law.predict(C)), color=colour, label="law of the 29 runs")


def later_dots(later: Mapping[str, pd.DataFrame], own: Mapping[str, pd.DataFrame]) -> Figure:
    """Misses of the later models, one row a data set, beside the law's misses on its own cells.

    later: from `paper_prediction.later`; own: from `paper_prediction.cell_misses`.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    names = list(later)
    for y, name in enumerate(names):
        cells = own[name]["miss"]
        label = "own cells of the law" if y == 0 else None
        ax.plot(cells, np.full(len(cells), y - 0.22), "|", color=INK, markersize=9, label=label)
        label = "their mean" if y == 0 else None
        ax.plot(cells.mean(), y - 0.22, "P", color=INK, markersize=7, label=label)
        for k, row in enumerate(later[name].to_dict("records")):
            marker, colour = LATER_MARKS[row["model"]]
            face = "none" if "adjusted" in row["model"] else colour
            label = row["model"] if y == 0 else None
            ax.plot(
                row["miss"], y + 0.02 + 0.16 * k, marker, color=colour, markersize=8, markerfacecolor=face,
                label=label,
            )  # fmt: skip
    ax.axvline(0, color=INK, lw=0.8)
    ax.set_yticks(
        range(len(names)), [SHORT[n].replace(" Recall@5", "").replace(" ", "\n") for n in names]
    )
    ax.set(xlabel=MISS, ylim=(-0.6, len(names) - 0.4))
    ax.invert_yaxis()
    ax.grid(True, axis="x")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


# ------------------------------------------------------------------------------------- other forms


def forms(table: Mapping[str, pd.DataFrame]) -> Figure:
    """Misses of every form on the four held-out models; a panel a data set, a row a form.

    table: from `paper_prediction.holdout`, by data set.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(next(iter(table.values()))["form"]))
    size = (5.2, 0.7 + len(table) * (0.38 * len(names) + 0.55))
    fig, axes = plt.subplots(len(table), sharex=True, figsize=size, layout="constrained")
    for ax, (dataset, misses) in zip(np.atleast_1d(axes), table.items(), strict=True):
        for i, (run, some) in enumerate(misses.groupby("run", sort=False)):
            y = some["form"].map(names.index) + 0.13 * (i - 1.5)
            look: dict[str, Any] = {"color": PALETTE[i], "marker": MARKERS[i], "linestyle": "none"}
            ax.plot(some["miss"], y, markersize=7, alpha=0.85, label=_held_out_name(run), **look)
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_yticks(range(len(names)), names)
        ax.set_title(TITLES[dataset].replace(", top-1", ""), loc="left")
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(True, axis="x")
    np.atleast_1d(axes)[-1].set_xlabel(MISS)
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    fig.legend(
        handles, labels, loc="outside lower center", ncols=4, handletextpad=0.1, columnspacing=1
    )
    return fig


def _held_out_name(run: object) -> str:
    """A held-out model as figures print it: run of the grid, or later model."""
    text = str(run)
    if text.startswith("openclip/"):
        _, arch, _, label = text.split("/")
        return f"{arch.replace('-', '/')} {label}"
    model, _, tag = text.partition(", ")
    return f"{short(model)} {tag.split('_')[1][1:].upper()}"


def forms_table(table: Mapping[str, pd.DataFrame], order: list[str]) -> pd.DataFrame:
    """For readers: root mean square over the held-out models by form and data set, in points."""
    columns = {}
    for dataset, misses in table.items():
        square = (misses["miss"] ** 2).groupby(misses["form"]).mean()
        columns[SHORT[dataset]] = np.sqrt(square)[order].map("{:.2f}".format)
    n = next(iter(table.values())).groupby("form")["n_train"].first()[order]
    return pd.DataFrame({"fitted to (runs)": n} | columns).rename_axis("form").reset_index()


# --------------------------------------------------------------------------------------- intervals


def coverage(table: pd.DataFrame) -> Figure:
    """Later models beside the interval that the line gives a new run; table: one level, one set."""
    import matplotlib.pyplot as plt

    rows = table.sort_values("compute", ignore_index=True)
    fig, ax = plt.subplots(figsize=(5.2, 0.42 * len(rows) + 1.4), layout="constrained")
    y = np.arange(len(rows))
    ax.hlines(y, rows["low"], rows["high"], color=PALETTE[0], lw=6, alpha=0.3, label="95% interval")
    ax.plot(rows["predicted"], y, "|", color=PALETTE[0], markersize=13, label="predicted")
    for inside, marker, face in ((True, "o", PALETTE[2]), (False, "X", PALETTE[5])):
        some = rows[rows["inside"] == inside]
        label = "actual, inside" if inside else "actual, outside"
        if len(some):
            ax.plot(some["actual"], some.index, marker, color=face, markersize=8, label=label)
    ax.set_yticks(y, [_later_name(*row) for row in rows[["model", "pretrained_tag"]].to_numpy()])
    ax.set(xlabel="top-1, ImageNet (%)", ylim=(-0.6, len(rows) - 0.4))
    ax.grid(True, axis="x")
    fig.legend(loc="outside lower center", ncols=4, handletextpad=0.2, columnspacing=1)
    return fig


def _later_name(model: str, tag: str) -> str:
    name = short(model) if model.startswith("ViT-") else model
    name = name.replace("convnext", "ConvNeXt").replace("coca_ViT-", "CoCa ").replace("_", " ")
    samples = next(
        part[1:].upper() for part in tag.split("_") if part[0] == "s" and part[-1] == "b"
    )
    return f"{name.replace('L-14', 'L/14').replace('B-32', 'B/32')} {samples}" + (
        " augreg" if "augreg" in tag else ""
    )


# -------------------------------------------------------------------------------- elsewhere, far below


def far_below(runs: pd.DataFrame, law: Fit, pools: pd.DataFrame) -> Figure:
    """The law over six decades, its own runs, and models on other data at four scales."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    fig, ax = plt.subplots(figsize=(5.2, 4.0), layout="constrained")
    C = np.geomspace(pools["compute"].min() / 1.5, runs["compute"].max() * 1.5, 80)
    inside = runs["compute"].min() <= C
    ax.plot(C[inside], law.predict(C[inside]), color=PALETTE[0], ls="-", label="law, in its range")
    ax.plot(C[~inside], law.predict(C[~inside]), color=PALETTE[0], ls=":", label="law, below it")
    ax.scatter(
        runs["compute"], runs["error"], s=18, color=INK, alpha=0.35, label="run of the study"
    )
    for i, (pool, some) in enumerate(pools.groupby("pool", sort=False)):
        ax.plot(
            some["compute"], 1 - some["actual"] / 100, MARKERS[i + 1], color=PALETTE[i + 1],
            markersize=7, label=pool,
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", ylim=(0.18, 1.05), xlabel=COMPUTE)
    ax.set_ylabel("zero-shot error, ImageNet")
    ax.yaxis.set_major_locator(FixedLocator([0.2, 0.3, 0.4, 0.5, 0.7, 1.0]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, which="major")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


# ------------------------------------------------------------------------------------ readers' tables


def in_sample_table(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """For readers: mean absolute error and bias by choice of runs, a pair of columns a data set."""
    first = next(iter(found.values()))
    columns: dict[str, pd.Series] = {"over": first["over"], "runs": first["n"]}
    for dataset, table in found.items():
        columns[f"{SHORT[dataset]}: mean absolute"] = table["mean_abs"].map("{:.2f}".format)
        columns["mean, signed" if len(found) == 1 else f"{SHORT[dataset]}: mean, signed"] = table[
            "bias"
        ].map("{:+.2f}".format)
    return pd.DataFrame(columns)


def later_table(later: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """For readers: predicted and actual of the later models with the interval of a new point."""
    both = pd.concat(table.assign(dataset=name) for name, table in later.items())
    return pd.DataFrame(
        {
            "data set": both["dataset"].map(SHORT),
            "model": both["model"],
            "compute (GMAC)": both["compute"].map("{:.3g}".format),
            "predicted (%)": both["predicted"].map("{:.2f}".format),
            "95%, a new point": _span(both, "low", "high"),
            "actual (%)": both["actual"].map("{:.2f}".format),
            "difference": both["miss"].map("{:+.2f}".format),
        }
    )


def bigg_table(phases: pd.DataFrame) -> pd.DataFrame:
    """For readers: `paper_prediction.bigg`."""
    both = {"phase": phases["phase"], "actual (%)": phases["actual"].map("{:.2f}".format)}
    for count in ("nominal", "adjusted"):
        both[f"{count} compute (GMAC)"] = phases[count].map("{:.3g}".format)
        both[f"difference, {count}"] = phases[f"miss_{count}"].map("{:+.2f}".format)
    return pd.DataFrame(both)


def elsewhere_table(found: pd.DataFrame) -> pd.DataFrame:
    """For readers: misses by pool and model, one column a data set (points)."""
    wide = found.pivot_table(index=["pool", "arch"], columns="dataset", values="miss", sort=False)
    wide = wide.rename(columns=SHORT).map("{:+.2f}".format).reset_index()
    wide["arch"] = wide["arch"].map(short)
    return wide.rename(columns={"pool": "data", "arch": "model"}).rename_axis(columns=None)


def _span(table: pd.DataFrame, low: str, high: str) -> pd.Series:
    return table[low].map("{:.1f}".format) + " to " + table[high].map("{:.1f}".format)
