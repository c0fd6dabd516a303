"""Figures and tables of the chapter on the paper: its Figure 1, its recipe, its numbers and ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib.figures import INK, PALETTE
from cliplib.laws import Draws, Fit, Frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "imagenet1k": "ImageNet, top-1",
    "imagenet_robustness": "ImageNet robustness, mean of 5, top-1",
    "mscoco_captions": "MS-COCO, image retrieval, Recall@5",
    "flickr30k": "Flickr30K, image retrieval, Recall@5",
}
SHORT = {
    "imagenet1k": "ImageNet",
    "imagenet_robustness": "ImageNet robustness",
    "mscoco_captions": "MS-COCO Recall@5",
    "flickr30k": "Flickr30K Recall@5",
}
# family -> colour, line style; data -> marker. The two families differ in fill as well.
FAMILIES = {"OpenCLIP": (PALETTE[0], "-"), "OpenAI": (PALETTE[1], "--")}
MARKERS = {"LAION-80M": "v", "LAION-400M": "s", "LAION-2B": "o", "WIT-400M": "D"}


def figure1(
    runs: pd.DataFrame,
    fits: dict[tuple[str, str], Fit],
    draws: dict[str, Draws],
    datasets: tuple[str, ...],
) -> Figure:
    """Zero-shot error against compute, one panel a data set, both families and their lines.

    runs: `cliplib.published.figure1`; fits: by (dataset, family); draws: bootstrap of OpenCLIP's
    law by dataset, drawn as a 95% band of the mean.
    """
    import matplotlib.pyplot as plt

    size = (5.2, 2.75 * len(datasets))
    fig, axes = plt.subplots(len(datasets), sharex=True, figsize=size, layout="constrained")
    for ax, dataset in zip(np.atleast_1d(axes), datasets, strict=True):
        panel = runs[runs["dataset"] == dataset]
        C = np.geomspace(panel["compute"].min() / 1.3, panel["compute"].max() * 1.3, 60)
        _band(ax, draws[dataset], C, FAMILIES["OpenCLIP"][0])
        for family in FAMILIES:
            _points(ax, panel[panel["family"] == family], family)
            _line(ax, fits[dataset, family], family, C)
        ax.set_title(TITLES[dataset], loc="left")
        _log_axes(ax)
    np.atleast_1d(axes)[-1].set_xlabel("compute (GMAC: GMACs a pair × samples seen)")
    fig.supylabel("zero-shot error", fontsize=10.5, color=INK)
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2)
    return fig


def _points(ax: Axes, runs: pd.DataFrame, family: str) -> None:
    colour = FAMILIES[family][0]
    for data, marker in MARKERS.items():
        some = runs[runs["data"] == data]
        if len(some):
            face = colour if family == "OpenCLIP" else "none"
            ax.scatter(
                some["compute"], some["error"], s=26, marker=marker, facecolors=face,
                edgecolors=colour, linewidths=1.2, alpha=0.85, label=f"{family}, {data}",
            )  # fmt: skip


def _line(ax: Axes, law: Fit, family: str, C: np.ndarray) -> None:
    colour, dashes = FAMILIES[family]
    low, high = law.C_range
    inside = C if family == "OpenCLIP" else np.geomspace(low, high, 2)
    ax.plot(inside, law.predict(inside), color=colour, linestyle=dashes, label=f"{family}, law")


def _band(ax: Axes, draws: Draws, C: np.ndarray, colour: str) -> None:
    alpha, log_beta = draws.values[:, 0], np.log(draws.values[:, 1])
    errors = np.exp(log_beta[:, None] + alpha[:, None] * np.log(C))
    low, high = np.quantile(errors, [0.025, 0.975], axis=0)
    ax.fill_between(C, low, high, color=colour, alpha=0.14, lw=0, label="OpenCLIP, 95% band")


def recipe_steps(runs: pd.DataFrame, points: Frontier, law: Fit) -> Figure:
    """The paper's recipe on one data set: bins, the best run of each, its move to the centre.

    runs: compute and error of one family; points: `frontier(..., how="bins")`; law: its fit.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 4.0), layout="constrained")
    C, E = runs["compute"].to_numpy(), runs["error"].to_numpy()
    for edge in 10 ** np.asarray(points.edges):
        ax.axvline(edge, color=INK, lw=0.8, linestyle=(0, (1, 2)))
    ax.scatter(C, E, s=18, color=INK, alpha=0.35, label="run")
    best = points.index
    ax.scatter(
        C[best], E[best], s=44, facecolors="none", edgecolors=PALETTE[0], linewidths=1.5,
        label="lowest error of its bin",
    )  # fmt: skip
    for own, centre, error in zip(C[best], points.C, points.E, strict=True):
        ax.annotate(
            "", (centre, error), (own, error), arrowprops={"arrowstyle": "->", "color": PALETTE[1]}
        )
    ax.scatter(points.C, points.E, s=36, marker="D", color=PALETTE[1], label="moved to bin centre")
    span = 10 ** np.asarray(points.edges)[[0, -1]]
    ax.plot(span, law.predict(span), color=PALETTE[1], label="line through these")
    _log_axes(ax)
    ax.set(xlabel="compute (GMAC: GMACs a pair × samples seen)", ylabel="zero-shot error, ImageNet")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def _log_axes(ax: Axes) -> None:
    """Log-log, with plain numbers on an error axis that spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set(xscale="log", yscale="log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 7)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, which="major")


def describe(
    runs: pd.DataFrame, fits: dict[tuple[str, str], Fit], datasets: tuple[str, ...]
) -> str:
    """The alt text of `figure1`, with the slopes that it shows."""
    count = runs.groupby("family")["run_id"].nunique()
    slopes = "; ".join(
        f"{TITLES[name]}: "
        + ", ".join(f"{family} {fits[name, family].params['alpha']:.2f}" for family in FAMILIES)
        for name in datasets
    )
    return (
        f"Zero-shot error against compute on log axes for {count['OpenCLIP']} OpenCLIP and "
        f"{count['OpenAI']} OpenAI models, falling along straight lines. Slopes: {slopes}. "
        "Runs on LAION-80M stay above the lines and flatten."
    )


def exponents_table(comparison: pd.DataFrame, intervals: pd.DataFrame) -> pd.DataFrame:
    """Exponents for readers: `laws.compare_alphas` beside `laws.paper_intervals`."""
    table = comparison.merge(intervals, on=["dataset", "family"], validate="1:1")
    span = [
        f"{low:.3f} to {high:.3f}" for low, high in zip(table["low"], table["high"], strict=True)
    ]
    return pd.DataFrame(
        {
            "data set": table["dataset"].map(SHORT),
            "models": table["family"],
            "runs": table["n_runs"],
            "printed": table["printed"].map("{:.2f}".format),
            "ours": table["ours"].map("{:.4f}".format),
            "difference": table["difference"].map("{:+.4f}".format),
            "95% interval": span,
            "kind of interval": table["kind"].str.removeprefix("percentile, "),
        }
    )


def errors_table(scores: pd.DataFrame) -> pd.DataFrame:
    """In-sample errors for readers: dataset, cells, mae_points (the authors'), ours (points)."""
    return pd.DataFrame(
        {
            "data set": scores["dataset"].map(SHORT),
            "cells": scores["cells"],
            "authors' notebook (points)": scores["mae_points"].map("{:.7f}".format),
            "ours (points)": scores["ours"].map("{:.7f}".format),
        }
    )


def predictions_table(printed: pd.DataFrame) -> pd.DataFrame:
    """Predictions for readers: dataset, arch, samples_label, paper_pct, pct (ours, percent)."""
    difference = (printed["pct"] - printed["paper_pct"]).round(2) + 0.0  # no "-0.00"
    return pd.DataFrame(
        {
            "data set": printed["dataset"].map(SHORT),
            "model": printed["arch"],
            "samples": printed["samples_label"],
            "printed (%)": printed["paper_pct"].map("{:.2f}".format),
            "ours (%)": printed["pct"].map("{:.2f}".format),
            "difference": [f"{d:+.2f}" for d in difference],
        }
    )
