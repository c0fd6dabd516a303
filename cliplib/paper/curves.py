"""The study's learning curves: what is there, what is missing, why a point is not a run.

For the chapter on curves. A curve is the zero-shot accuracy on ImageNet at the end of each virtual
epoch of one run. Tables in, tables and figures out; see `curves` for the columns. Where a curve
falls is in `cliplib.paper.spikes`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cliplib.figures import INK, LINESTYLES, PALETTE
from cliplib.laws import Fit, Recipe, bootstrap, fit, frontier
from cliplib.paper.figure1 import MARKERS as DATA_MARKERS
from cliplib.paper.grid import ARCHS, DATA, LABELS, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# --------------------------------------------------------------------------------- the curves


def curves(points: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Every recorded point with what its run is, in the order of training.

    points: `published.learning_curves`; runs: `published.pretraining_runs`. Adds error (fraction),
    fall (top-1 of the point before minus this one, empty at a run's first), progress (share of the
    run's samples), compute (GMAC), lr (peak), warmup_steps, global_batch, arch, data, label.
    """
    kept = ["run_id", "arch", "data", "samples_seen_label", "lr", "warmup_steps", "global_batch"]
    kept += ["gmacs_per_sample", "virtual_epochs", "virtual_epoch_samples", "samples_seen_training"]
    table = points.sort_values(["run_id", "epoch"], ignore_index=True)
    table = table.merge(runs[kept], on="run_id", validate="m:1")
    return table.rename(columns={"samples_seen_label": "label"}).assign(
        error=1 - table["top1"],
        fall=-table.groupby("run_id")["top1"].diff(),
        progress=table["samples_seen"] / table["samples_seen_training"],
        compute=table["samples_seen"] * table["gmacs_per_sample"],
    )


def missing_points(table: pd.DataFrame) -> pd.DataFrame:
    """Runs whose curve lacks epochs: run_id, epochs, missing, which (such as ``21-47``)."""
    rows = []
    for run, curve in table.groupby("run_id", sort=False):
        epochs = int(curve["virtual_epochs"].iloc[0])
        absent = sorted(set(range(1, epochs + 1)) - set(curve["epoch"]))
        if absent:
            rows.append((run, epochs, len(absent), _ranges(absent)))
    return pd.DataFrame(rows, columns=["run_id", "epochs", "missing", "which"])


def _ranges(numbers: list[int]) -> str:
    """Consecutive numbers as ranges: ``14, 36, 120-121``."""
    groups = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in group] for _, group in groups]
    return ", ".join(str(s[0]) if len(s) == 1 else f"{s[0]}-{s[-1]}" for s in spans)


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The last point of every curve."""
    return table.groupby("run_id", sort=False).tail(1).reset_index(drop=True)


# ------------------------------------------------------------- a point on the way is not a run


def on_the_way(table: pd.DataFrame) -> pd.DataFrame:
    """Each finished run beside the longer runs of its kind, read at the same number of samples.

    Kind: architecture and data set. Columns: arch, data, short, long (labels), samples_seen,
    finished, unfinished (errors; the longer curve is interpolated between its two nearest points),
    ratio (unfinished / finished), same_recipe (peak rate, and batch within a tenth).
    """
    ends, rows = finished(table), []
    for (arch, data), kind in ends.groupby(["arch", "data"], sort=False):
        kind = kind.sort_values("samples_seen")
        for short_run, long_run in itertools.combinations(kind.to_dict("records"), 2):
            curve = table[table["run_id"] == long_run["run_id"]]
            seen = short_run["samples_seen"]
            error = float(np.interp(seen, curve["samples_seen"], curve["error"]))
            batches = short_run["global_batch"] / long_run["global_batch"]
            same = short_run["lr"] == long_run["lr"] and abs(np.log(batches)) < 0.1
            row = (arch, data, short_run["label"], long_run["label"], seen)
            rows.append((*row, short_run["error"], error, error / short_run["error"], same))
    names = ["arch", "data", "short", "long", "samples_seen", "finished", "unfinished", "ratio"]
    return pd.DataFrame(rows, columns=[*names, "same_recipe"])


def mean_ratio(pairs: pd.DataFrame) -> dict[str, float]:
    """Geometric mean of the ratios; the recipe that the bootstrap repeats."""
    return {"ratio": float(np.exp(np.log(pairs["ratio"]).mean()))}


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Exponents of samples seen in each kind of run that has three finished runs.

    Columns: arch, data, finished (line through the three ends), along (line through the longest
    run's own curve at the same three numbers of samples; its last is its end).
    """
    ends, rows = finished(table), []
    for (arch, data), kind in ends.groupby(["arch", "data"], sort=False):
        if len(kind) < 3:
            continue
        kind = kind.sort_values("samples_seen")
        curve = table[table["run_id"] == kind["run_id"].iloc[-1]]
        on_curve = np.interp(kind["samples_seen"], curve["samples_seen"], curve["error"])
        exponents = [
            fit("power", kind["samples_seen"], errors).params["alpha"]
            for errors in (kind["error"], on_curve)
        ]
        rows.append((arch, data, *exponents))
    return pd.DataFrame(rows, columns=["arch", "data", "finished", "along"])


def laws_with_points(table: pd.DataFrame, n: int = 500, seed: int = 0) -> pd.DataFrame:
    """The exponent of compute from finished runs, and with points on the way counted as runs.

    Resamples whole runs. Columns: rows, how (frontier), runs, fitted (points in the line),
    unfinished (of these), alpha, low, high.
    """
    ends = finished(table)
    choices = {
        "finished runs": ends,
        "every point, compute of finished runs": table[table["compute"] >= ends["compute"].min()],
        "every point": table,
    }
    rows = []
    for (name, points), how in itertools.product(choices.items(), ("bins", "all")):
        recipe = Recipe("power", how)
        chosen = points.iloc[frontier(points["compute"], points["error"], how).index]
        on_way = chosen["epoch"] < chosen["virtual_epochs"]
        alpha = recipe(points)["alpha"]
        interval = bootstrap(recipe, points, n, seed, cluster="run_id").ci()["alpha"]
        counts = points["run_id"].nunique(), len(chosen), int(on_way.sum())
        rows.append((name, how, *counts, alpha, interval.low, interval.high))
    columns = ["rows", "how", "runs", "fitted", "unfinished", "alpha", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def laws_table(table: pd.DataFrame) -> pd.DataFrame:
    """`laws_with_points` for readers."""
    spans = [
        f"{low:.3f} to {high:.3f}" for low, high in zip(table["low"], table["high"], strict=True)
    ]
    lines = table["how"].map({"bins": "five bin minima", "all": "all"})
    return pd.DataFrame(
        {
            "what enters": table["rows"],
            "line through": lines,
            "points": table["fitted"],
            "unfinished": table["unfinished"],
            "runs": table["runs"],
            "exponent": table["alpha"].map("{:.3f}".format),
            "95% interval": spans,
        }
    )


# ---------------------------------------------------------------------------------- pictures


def small_multiples(table: pd.DataFrame) -> Figure:
    """Error against samples seen, a panel for each architecture and data set, a line a run."""
    import matplotlib.pyplot as plt

    archs = [arch for arch in ARCHS[:4] if arch in set(table["arch"])]
    fig, axes = plt.subplots(
        len(archs), 3, sharex=True, sharey=True, figsize=(5.2, 1.5 * len(archs) + 0.6),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for row, arch in zip(axes, archs, strict=True):
        for ax, data in zip(row, DATA[:3] if arch in ARCHS[:3] else (), strict=False):
            here = (table["arch"] == arch) & (table["data"] == data)
            _panel(ax, table[here], f"{short(arch)} {short(data)}")
    if len(archs) == 4:  # H/14 and g/14 were trained on LAION-2B only and share a row
        _panel(axes[-1, 1], table[table["arch"] == "ViT-H-14"], "H/14 2B")
        _panel(axes[-1, 0], table[table["arch"] == "ViT-g-14"], "g/14 2B")
        axes[-1, 2].set_axis_off()
        axes[-2, 2].tick_params(labelbottom=True)
    fig.supxlabel("samples seen", fontsize=11, color=INK)
    fig.supylabel("zero-shot error, ImageNet", fontsize=11, color=INK)
    handles = {line.get_label(): line for ax in axes.flat for line in ax.get_lines()}
    named = [handles[label] for label in LABELS if label in handles]
    fig.legend(named, [f"{line.get_label()} run" for line in named], **_corner(len(archs)))
    return fig


def _corner(rows: int) -> dict[str, Any]:
    """Where the legend goes: the empty panel at the lower right of four rows, else below."""
    if rows == 4:
        return {"loc": "lower right", "bbox_to_anchor": (0.98, 0.09)}
    return {"loc": "outside lower center", "ncols": 3}


def _panel(ax: Axes, table: pd.DataFrame, title: str) -> None:
    """The runs of one kind, each ending in a mark."""
    for i, label in enumerate(LABELS):
        curve = table[table["label"] == label]
        if len(curve):
            end = [len(curve) - 1]
            ax.plot(
                curve["samples_seen"], curve["error"], color=PALETTE[i], linestyle=LINESTYLES[i],
                lw=1.2, marker="o", markevery=end, markersize=5, label=label,
            )  # fmt: skip
    ax.set_title(title, fontsize=10.5, loc="left", pad=2)
    _log_axes(ax)


def _log_axes(ax: Axes) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    ax.set(xscale="log", yscale="log")
    ax.yaxis.set_major_locator(FixedLocator([0.2, 0.3, 0.5, 1.0]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, which="major")


def crowd(table: pd.DataFrame, law: Fit) -> Figure:
    """Every curve against compute as a thin line, finished runs as marks, the law through them."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 4.0), layout="constrained")
    for k, (_, curve) in enumerate(table.groupby("run_id")):
        label = "curve of a run" if k == 0 else None
        ax.plot(
            curve["compute"], curve["error"], color=INK, ls="-", lw=0.7, alpha=0.35, label=label
        )
    ends = finished(table)
    for data, marker in DATA_MARKERS.items():
        some = ends[ends["data"] == data]
        if len(some):
            ax.plot(
                some["compute"], some["error"], marker, color=PALETTE[0], markersize=6,
                label=f"finished, {data}",
            )  # fmt: skip
    C = np.array([ends["compute"].min(), ends["compute"].max()])
    ax.plot(C, law.predict(C), color=PALETTE[1], ls="--", label="law of finished runs")
    _log_axes(ax)
    ax.set(ylim=(0.2, 1.02), xlabel="compute (GMAC: GMACs a pair × samples seen)")
    ax.set_ylabel("zero-shot error, ImageNet")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def ratio_picture(pairs: pd.DataFrame) -> Figure:
    """How much higher the error of an unfinished run is, one row an architecture and data set."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 3.9), layout="constrained")
    kinds = [f"{short(a)} {short(d)}" for a, d in zip(pairs["arch"], pairs["data"], strict=True)]
    order = [
        f"{short(a)} {short(d)}"
        for d in DATA[:3]
        for a in ARCHS
        if f"{short(a)} {short(d)}" in kinds
    ]
    at = pd.Series([order.index(kind) for kind in kinds], index=pairs.index)
    for i, ((early, late), some) in enumerate(pairs.groupby(["short", "long"], sort=False)):
        ax.plot(
            100 * (some["ratio"] - 1), at[some.index], ("o", "s", "^")[i], color=PALETTE[i],
            markersize=7, label=f"{late} run at {early}",
        )  # fmt: skip
    ax.set_yticks(range(len(order)), order)
    ax.set(xlim=(0, None), ylabel="architecture, LAION data set")
    ax.set_xlabel("error above the finished run's (%)")
    ax.grid(True, which="major")
    fig.legend(loc="outside lower center", ncols=3, handletextpad=0.2)
    return fig
