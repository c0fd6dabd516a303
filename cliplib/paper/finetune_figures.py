"""Figures and tables for readers of the chapter on fine-tuning; the numbers are `paper_finetune`'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib.figures import INK, LINESTYLES, MARKERS, PALETTE
from cliplib.laws import Fit
from cliplib.paper.finetune import FAMILIES, METRICS, ROUTES
from cliplib.paper.probe_figures import draw, interval, log_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GMACS = "GMACs a picture, image tower at its resolution"
ERRORS = {
    "error": "ImageNet error",
    "robust_error": "error, mean of four sets",
}


# --------------------------------------------------------------------------------- Figure 4 again


def figure4(towers: pd.DataFrame, fits: Mapping[str, pd.DataFrame]) -> Figure:
    """Error against the GMACs of the fine-tuned tower: ImageNet above, robustness sets below.

    towers: `paper_finetune.towers`; fits: `paper_finetune.exponents` by a key of `ERRORS`. Filled:
    ImageNet-1k only; hollow: with ImageNet-12k in between. Lines: OpenCLIP's ViT.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, sharex=True, figsize=(5.2, 6.4), layout="constrained")
    for ax, (y, label) in zip(axes, ERRORS.items(), strict=True):
        for i, family in enumerate(FAMILIES):
            for k, route in ROUTES.items():
                some = towers[(towers["family"] == family) & (towers["extra_ft_in12k"] == k)]
                _marks(
                    ax, some["infer_gmacs"], some[y], i, hollow=k == 1, label=f"{family}, {route}"
                )
        _lines(ax, fits[y])
        ax.set_ylabel(label)
        log_axes(ax)
    axes[-1].set_xlabel(GMACS)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return fig


def _marks(ax: Axes, x: pd.Series, y: pd.Series, i: int, hollow: bool, label: str | None) -> None:
    ax.scatter(
        x, y, s=30, marker=MARKERS[i], facecolors="none" if hollow else PALETTE[i],
        edgecolors=PALETTE[i], linewidths=1.2, label=label,
    )  # fmt: skip


def _lines(ax: Axes, fits: pd.DataFrame) -> None:
    """The two lines of OpenCLIP's ViT."""
    rows = fits[fits["family"] == FAMILIES[0]]
    for k, (route, line) in enumerate(zip(rows["route"], rows["fit"], strict=True)):
        label = f"line: {FAMILIES[0]}, {route}"
        draw(ax, line, color=PALETTE[0], linestyle=LINESTYLES[k], label=label)


# -------------------------------------------------------------------------------------- the steps


def step_dots(pairs: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Points of accuracy that a step changes, one line a test set: every pair, and the mean.

    pairs, means: of `paper_finetune`.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 4.3), layout="constrained")
    for i, family in enumerate(FAMILIES):
        some = pairs[pairs["family"] == family]
        for row, metric in enumerate(METRICS):
            y = pd.Series(row + 0.12 + 0.13 * i, index=some.index)
            _marks(ax, some[metric], y, i, hollow=True, label=family if row == 0 else None)
    around = [means["mean"] - means["low"], means["high"] - means["mean"]]
    ax.errorbar(
        means["mean"], np.arange(len(means)) - 0.16, xerr=around, color=INK, marker="|", ms=9,
        linestyle="none", elinewidth=1.4, capsize=3, label="mean over towers, 95% interval",
    )  # fmt: skip
    ax.axvline(0, color=INK, lw=0.8)
    ax.set_yticks(
        range(len(METRICS)), [name.replace(" of ", " of\n", 1) for name in METRICS.values()]
    )
    ax.invert_yaxis()
    ax.set_xlabel("change of accuracy (points)")
    ax.grid(True, axis="x")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def resolution_paths(towers: pd.DataFrame, size_line: Fit) -> Figure:
    """ImageNet error against GMACs: a line joins one tower's resolutions; the dashes join sizes.

    size_line: the law of OpenCLIP's ViT at 224 pixels, directly fine-tuned.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
    for i, family in enumerate(FAMILIES):
        some = towers[towers["family"] == family]
        for hollow, rows in some.groupby("extra_ft_in12k"):
            label = None if hollow else family
            _marks(ax, rows["infer_gmacs"], rows["error"], i, bool(hollow), label)
        for _, rows in some.groupby(["body", "recipe", "route"]):
            path = rows.sort_values("infer_gmacs")
            ax.plot(path["infer_gmacs"], path["error"], color=PALETTE[i], lw=1, linestyle="-")
    draw(ax, size_line, color=INK, linestyle="--", lw=1.4, label="size, at 224 px")
    log_axes(ax)
    ax.set(xlabel=GMACS, ylabel=ERRORS["error"])
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def before_and_after(table: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """ImageNet error against pre-training compute: zero-shot, and fine-tuned at 224 pixels.

    table: stage, family, compute (GMAC), error; fits: stage, family, fit.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
    stages = list(pd.unique(table["stage"]))
    for (stage, family), rows in table.groupby(["stage", "family"], sort=False):
        i = stages.index(stage)
        hollow = family == FAMILIES[1]
        _marks(ax, rows["compute"], rows["error"], i, hollow, label=f"{stage}, {family}")
    for stage, family, line in zip(fits["stage"], fits["family"], fits["fit"], strict=True):
        dashes = "--" if family == FAMILIES[1] else "-"
        draw(ax, line, color=PALETTE[stages.index(stage)], linestyle=dashes)
    log_axes(ax)
    ax.set(
        xlabel="pre-training compute (GMAC: GMACs a pair × samples seen)", ylabel=ERRORS["error"]
    )
    fig.legend(loc="outside lower center", ncols=1)
    return fig


# --------------------------------------------------------------------------------- tables for readers


def exponents_table(fits: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`paper_finetune.exponents` of both errors for readers."""
    first = fits["error"]
    table = pd.DataFrame(
        {"towers": first["family"], "fine-tuned on": first["route"], "rows": first["n"]}
    )
    for y, found in fits.items():
        label = {"error": "ImageNet", "robust_error": "robustness"}[y]
        table[f"{label}: α"] = found["alpha"].map("{:.3f}".format)
        table[f"{label}: 95% interval, t"] = interval(found)
    return table


def stages_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_finetune.exponents` of `paper_finetune.before_and_after` for readers."""
    return pd.DataFrame(
        {
            "stage": found["stage"],
            "towers": found["family"],
            "sizes": found["n"],
            "α": found["alpha"].map("{:.3f}".format),
            "95% interval, t": interval(found),
        }
    )


def pairs_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Paired differences for readers, in points, second less first."""
    body = pairs["body"].str.replace("_", " ")
    tower = pairs["family"].str.split().str[0] + " " + pairs["scale"].fillna(body)
    table = {"tower": tower, "px": pairs["img_px"]}
    if "extra_ft_in12k" in pairs:
        table["fine-tuned on"] = pairs["extra_ft_in12k"].map(ROUTES)
    table |= {label: pairs[metric].map("{:+.2f}".format) for metric, label in METRICS.items()}
    return pd.DataFrame(table)


def means_table(by_pair: pd.DataFrame, by_tower: pd.DataFrame) -> pd.DataFrame:
    """`paper_finetune.mean_differences` for readers: pairs as independent, and averaged by tower."""
    return pd.DataFrame(
        {
            "test set": by_pair["metric"].map(METRICS),
            "pairs that rise": [f"{u} of {n}" for u, n in zip(by_pair["up"], by_pair["n"])],
            "mean of pairs": by_pair["mean"].map("{:+.2f}".format),
            "95% interval": interval(by_pair, 2),
            "towers": by_tower["n"],
            "mean of towers": by_tower["mean"].map("{:+.2f}".format),
            "its 95% interval": interval(by_tower, 2),
        }
    )


def slides_table(slides: pd.DataFrame) -> pd.DataFrame:
    """`paper_finetune.slides` for readers."""
    return pd.DataFrame(
        {
            "model": slides["scale"],
            "fine-tuned on": slides["route"],
            "authors' slides (%)": slides["slide"].map("{:.2f}".format),
            "timm (%)": slides["timm"].map("{:.3f}".format),
            "difference (points)": slides["difference"].map("{:+.3f}".format),
            "timm row's resolution (px)": slides["img_px"],
        }
    )


def hparams_table(hparams: pd.DataFrame) -> pd.DataFrame:
    """`published.finetune_hparams` on its side, one column a model; empty cells say so."""
    settings = hparams.drop(columns=["model", "source"]).astype(object)
    names = [short(model) for model in hparams["model"]]
    wide = settings.where(settings.notna(), "not published").T
    wide.columns = pd.Index(names)
    return wide.rename_axis("setting").reset_index().astype(str)


def short(model: str) -> str:
    """A timm model's name for a table's head.

    >>> short("vit_base_patch32_clip_224.laion2b_ft_in1k")
    'base/32, 224 px, laion2b_ft_in1k'
    """
    trunk, tag = model.split(".")
    _, size, patch, _, pixels = trunk.split("_")
    return f"{size}/{patch.removeprefix('patch')}, {pixels} px, {tag}"
