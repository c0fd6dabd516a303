"""The study's grid of runs as a picture, what one step along it buys, a power law in steps.

For the chapter that opens the part on the paper. Tables in, tables and figures out; the runs come
from `cliplib.published.errors`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from cliplib import InputError
from cliplib.figures import INK, PALETTE
from cliplib.laws import Fit
from cliplib.paper.figure1 import MARKERS as DATA_MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARCHS = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-g-14")
LABELS = ("3B", "13B", "34B")
DATA = ("LAION-80M", "LAION-400M", "LAION-2B", "WIT-400M")
AXES: Mapping[str, tuple[str, ...]] = {
    "arch": ARCHS,
    "samples_seen_label": LABELS,
    "data": DATA[:3],
}
AXIS_NAMES = {"arch": "architecture", "samples_seen_label": "samples seen", "data": "data set"}
STRONGEST_SHADE = 0.5  # of a tile; text in the page's ink stays readable on it in both themes


# --------------------------------------------------------------------------------------- names


def short(name: str) -> str:
    """An architecture, data set or run as figures print it; other texts unchanged.

    >>> short("ViT-B-32"), short("LAION-400M"), short("openclip/B-32/LAION-80M/3B")
    ('B/32', '400M', 'B/32 80M 3B')
    """
    if "/" in name:
        _, arch, data, label = name.split("/")
        return f"{arch.replace('-', '/', 1)} {short(data)} {label}"
    if name.startswith("ViT-"):
        return name.removeprefix("ViT-").replace("-", "/", 1)
    return name.removeprefix("LAION-")


# ------------------------------------------------------------------------------------ the grid


def grid_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in the order of the picture, with readable columns; error in percent.

    runs: data, arch, samples_seen_label, samples_seen, compute (GMAC), error (fraction).
    """
    order = {name: i for names in (DATA, ARCHS, LABELS) for i, name in enumerate(names)}
    keys = ["data", "arch", "samples_seen_label"]
    rows = runs.sort_values(keys, key=lambda column: column.map(order))
    return pd.DataFrame(
        {
            "data set": rows["data"],
            "model": rows["arch"].map(short),
            "samples label": rows["samples_seen_label"],
            "samples seen (billions)": (rows["samples_seen"] / 1e9).map("{:.3f}".format),
            "compute (GMAC)": rows["compute"].map("{:.2e}".format),
            "error (%)": (100 * rows["error"]).map("{:.2f}".format),
        }
    )


def grid(runs: pd.DataFrame) -> Figure:
    """One panel a data set, architecture against samples seen; a tile a run, stronger is better.

    runs: columns as for `grid_table`. The number on a tile is the error in percent.
    """
    import matplotlib.pyplot as plt

    present = [name for name in DATA if name in set(runs["data"])]
    columns = {name: _labels(runs, name) for name in present}
    widths = [len(labels) for labels in columns.values()]
    fig, axes = plt.subplots(
        1, len(present), sharey=True, figsize=(5.2, 3.3),
        gridspec_kw={"width_ratios": widths}, squeeze=False,
    )  # fmt: skip
    fig.set_layout_engine("constrained", wspace=0.03)
    span = runs["error"].min(), runs["error"].max()
    for ax, (data, labels) in zip(axes[0], columns.items(), strict=True):
        _tiles(ax, runs[runs["data"] == data], labels, span)
        source, _, size = data.partition("-")
        ax.set_title(f"{source}\n{size}", fontsize=10.5)
    axes[0, 0].set_yticks(range(len(ARCHS)), [short(arch) for arch in ARCHS])
    axes[0, 0].set_ylabel("architecture (cheap to dear)")
    fig.supxlabel("samples seen, nominal (B: billions)", fontsize=11, color=INK)
    return fig


def _labels(runs: pd.DataFrame, data: str) -> list[str]:
    some = set(runs.loc[runs["data"] == data, "samples_seen_label"])
    return [label for label in LABELS if label in some]


def _tiles(ax: Axes, runs: pd.DataFrame, labels: list[str], span: tuple[float, float]) -> None:
    """Tiles of one data set; a cross where the grid has no run."""
    from matplotlib.patches import Rectangle

    errors = {
        (label, arch): float(error)
        for label, arch, error in zip(
            runs["samples_seen_label"], runs["arch"], runs["error"], strict=True
        )
    }
    for x, label in enumerate(labels):
        for y, arch in enumerate(ARCHS):
            if (label, arch) not in errors:
                ax.text(x, y, "–", ha="center", va="center", alpha=0.5, fontsize=10)
                continue
            error = errors[label, arch]
            shade = STRONGEST_SHADE * (span[1] - error) / (span[1] - span[0])
            tile = Rectangle(
                (x - 0.47, y - 0.47), 0.94, 0.94, facecolor=PALETTE[0], alpha=0.03 + shade, lw=0
            )
            ax.add_patch(tile)
            ax.text(x, y, f"{100 * error:.1f}", ha="center", va="center", fontsize=10)
    ax.set(xlim=(-0.55, len(labels) - 0.45), ylim=(-0.55, len(ARCHS) - 0.45))
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)


def describe_grid(runs: pd.DataFrame) -> str:
    """The alt text of `grid`."""
    order = runs.sort_values("error")
    best, worst = order.iloc[0], order.iloc[-1]
    return (
        f"Error of {len(runs)} models as tiles: one panel a data set, architectures upwards, "
        f"samples seen to the right. Error falls upwards in every panel, and to the right, but "
        f"hardly so on LAION-80M. Highest: {100 * worst['error']:.1f}% "
        f"({short(worst['run_id'])}); lowest: {100 * best['error']:.1f}% "
        f"({short(best['run_id'])}). H/14 and g/14 have one tile each, on LAION-2B."
    )


# ------------------------------------------------------------------------ one step of the grid


def steps(runs: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """What one step along one axis of the grid does to the error, all else equal by label.

    Each row pairs the runs that differ in that step only. Columns: axis, before, after, pairs,
    compute_ratio and error_ratio (geometric means of after / before), low and high (Student's t
    on the log ratios, empty for fewer than two pairs), lowest and highest (of the ratios).
    """
    rows = []
    for axis, names in AXES.items():
        for before, after in itertools.pairwise(names):
            pairs = _pairs(runs, axis, before, after)
            if len(pairs):
                rows.append({"axis": axis, "before": before, "after": after} | _ratio(pairs, level))
    return pd.DataFrame(rows)


def _pairs(runs: pd.DataFrame, axis: str, before: str, after: str) -> pd.DataFrame:
    keys = [name for name in AXES if name != axis]
    old, new = (runs[runs[axis] == name] for name in (before, after))
    return old.merge(new, on=keys, suffixes=("_old", "_new"), validate="1:1")


def _ratio(pairs: pd.DataFrame, level: float) -> dict[str, float]:
    x = np.log((pairs["error_new"] / pairs["error_old"]).to_numpy())
    half = np.nan
    if len(x) > 1:
        half = float(stdtrit(len(x) - 1, (1 + level) / 2)) * x.std(ddof=1) / np.sqrt(len(x))
    compute = np.log(pairs["compute_new"] / pairs["compute_old"]).mean()
    values = np.exp([compute, x.mean(), x.mean() - half, x.mean() + half, x.min(), x.max()])
    names = ("compute_ratio", "error_ratio", "low", "high", "lowest", "highest")
    return {"pairs": len(x)} | dict(zip(names, map(float, values), strict=True))


def steps_table(table: pd.DataFrame) -> pd.DataFrame:
    """`steps` for readers."""
    several = table["pairs"] > 1
    spans = [
        f"{low:.3f} to {high:.3f}" for low, high in zip(table["low"], table["high"], strict=True)
    ]
    arrows = [
        f"{short(a)} → {short(b)}" for a, b in zip(table["before"], table["after"], strict=True)
    ]
    return pd.DataFrame(
        {
            "axis": table["axis"].map(AXIS_NAMES),
            "step": arrows,
            "pairs of runs": table["pairs"],
            "compute ×": table["compute_ratio"].map("{:.2f}".format),
            "error ×": table["error_ratio"].map("{:.3f}".format),
            "95% interval": pd.Series(spans, index=table.index).where(several, "one pair"),
        }
    )


# ----------------------------------------------------------------------- a power law in steps


def exponent_between(one: pd.Series, other: pd.Series) -> float:
    """The exponent of the one power law through two runs (compute and error of each).

    >>> halved = pd.Series({"compute": 10.0, "error": 0.4})
    >>> exponent_between(pd.Series({"compute": 1.0, "error": 0.8}), halved)
    -0.3010299956639812
    """
    if one["compute"] == other["compute"]:
        raise InputError("the two runs have the same compute: no slope between them")
    rise = np.log10(other["error"] / one["error"])
    return float(rise / np.log10(other["compute"] / one["compute"]))


def decades(law: Fit, first: float, n: int = 3) -> pd.DataFrame:
    """The law's error (fraction) at `first` GMAC, ten times that, and so on: n rows.

    Columns: compute (GMAC), error, ratio (to the row before; the same in every row).
    """
    compute = first * 10.0 ** np.arange(n)
    error = pd.Series(law.predict(compute))
    return pd.DataFrame({"compute": compute, "error": error, "ratio": error / error.shift()})


def staircase(runs: pd.DataFrame, law: Fit, first: float = 1e11) -> Figure:
    """Error against compute with the law's line as stairs of one decade of compute each."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    fig, ax = plt.subplots(figsize=(5.2, 3.7), layout="constrained")
    for data, marker in DATA_MARKERS.items():
        some = runs[runs["data"] == data]
        if len(some):
            ax.scatter(
                some["compute"], some["error"], s=24, marker=marker, color=PALETTE[0], alpha=0.8,
                label=data,
            )  # fmt: skip
    span = np.array([runs["compute"].min() / 1.3, runs["compute"].max() * 1.6])
    ax.plot(span, law.predict(span), color=PALETTE[1], linestyle="--", label="law")
    for low, high in zip(*_edges(decades(law, first)), strict=True):
        _stair(ax, low, high)
    ax.set(xscale="log", yscale="log", ylim=(0.188, 0.52))
    ax.set(xlabel="compute (GMAC: GMACs a pair × samples seen)", ylabel="zero-shot error, ImageNet")
    ax.yaxis.set_major_locator(FixedLocator([0.2, 0.25, 0.3, 0.35, 0.4, 0.5]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, which="major")
    fig.legend(loc="outside lower center", ncols=4, handletextpad=0.3, columnspacing=1.2)
    return fig


def _edges(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    points = table[["compute", "error"]].to_numpy()
    return points[:-1], points[1:]


def _stair(ax: Axes, low: np.ndarray, high: np.ndarray) -> None:
    """One stair under the line: down by the law's ratio, then to the right by ten, each named."""
    ax.plot([low[0], low[0], high[0]], [low[1], high[1], high[1]], color=INK, lw=1.1, ls="-")
    text = f"error × {high[1] / low[1]:.2f}"
    side = low[0], np.sqrt(low[1] * high[1])
    ax.annotate(text, side, (-5, 0), textcoords="offset points", ha="right", va="center")
    middle = np.sqrt(low[0] * high[0]), high[1]
    ax.annotate("compute × 10", middle, (0, -5), textcoords="offset points", ha="center", va="top")
