"""Figures of the chapters on how the fits are made. Numbers come from `cliplib.methods.tables`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib.figures import INK, LINESTYLES, MARKERS, PALETTE
from cliplib.laws import Fit, Frontier, fit, law
from cliplib.laws.loss import loss_of
from cliplib.laws.prediction import Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPUTE = "compute (GMAC: GMACs a pair × samples seen)"
WIDTH = 5.2
SHAPES: Mapping[str, tuple[str, dict[str, float | None], dict[str, float]]] = {
    "power": ("power", {}, {"alpha": -0.2, "beta": 0.8}),
    "curved": ("curved", {"chance": 0.05}, {"alpha": -0.2, "c0": 3.0}),
    "saturating": ("saturating", {}, {"a": 0.1, "b": 0.7, "d": 0.3}),
    "shifted": ("shifted", {}, {"a": 0.05, "b": 1.7, "c": 10.0, "d": 0.4}),
    "broken": (
        "broken", {}, {"a": 0.0, "b": 0.5, "c0": 0.05, "c1": 0.35, "d1": 300.0, "f1": 0.3},
    ),
}  # fmt: skip


def losses(loss_names: Sequence[str], reach: float = 0.03) -> Figure:
    """What a residual costs under each loss, each scaled to 1 at ``reach`` (in ln E)."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(WIDTH, 3.2), layout="constrained")
    r = np.linspace(-reach, reach, 601)
    for i, name in enumerate(loss_names):
        loss = loss_of(name)
        cost = loss.rho(r) / loss.rho(np.array([reach]))
        ax.plot(r, cost, color=PALETTE[i], linestyle=LINESTYLES[i], label=name)
    ax.set(
        xlabel="residual of ln E (0.01: about 1% of the error)",
        ylabel="cost, scaled to 1 at the end",
    )
    ax.grid(True)
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def losses_behind(loss_names: Sequence[str], reach: float = 0.03) -> pd.DataFrame:
    """The numbers behind `losses`."""
    r = np.linspace(-reach, reach, 25)
    costs = {n: loss_of(n).rho(r) / loss_of(n).rho(np.array([reach])) for n in loss_names}
    return pd.DataFrame({"residual": r, **costs})


def shapes_behind() -> pd.DataFrame:
    """One made-up example of every law in one variable: C, and E by law."""
    C = np.geomspace(1, 1e5, 26)
    found = {"C": C}
    for label, (name, options, params) in SHAPES.items():
        form = law(name, **options)
        theta = form.internal(np.array([params[key] for key in form.params]))
        found[label] = np.exp(form.log_predict(theta, np.log(C)[None]))
    return pd.DataFrame(found)


def shapes(table: pd.DataFrame) -> Figure:
    """The laws in one variable on log axes (`shapes_behind`)."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(WIDTH, 3.7), layout="constrained")
    for i, name in enumerate(SHAPES):
        ax.plot(
            table["C"], table[name], color=PALETTE[i], linestyle=LINESTYLES[i], label=name,
            marker=MARKERS[i], markevery=(2 * i, 10), markersize=5,
        )  # fmt: skip
    _log_axes(ax)
    ax.set(xlabel="compute C (any unit)", ylabel="error E")
    fig.legend(loc="outside lower center", ncols=3)
    return fig


def effective_data(repeats: Sequence[float] = (5, 22, 100), most: float = 100) -> pd.DataFrame:
    """Passes over the unique data, and what they are worth in passes of new data, by R."""
    passes = np.geomspace(1, most, 40)
    worth = {f"R = {R:g}": 1 - R * np.expm1(-(passes - 1) / R) for R in repeats}
    return pd.DataFrame({"passes": passes, **worth, "all new": passes})


def effective(table: pd.DataFrame) -> Figure:
    """Effective data against passes (`effective_data`)."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(WIDTH, 3.2), layout="constrained")
    for i, name in enumerate(table.columns[1:]):
        ax.plot(table["passes"], table[name], color=PALETTE[i], linestyle=LINESTYLES[i], label=name)
    ax.set(xscale="log", yscale="log", xlabel="passes over the data, D / U", ylabel="worth, D' / U")
    ax.grid(True)
    fig.legend(loc="outside lower center", ncols=4)
    return fig


def valley(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Profiles of the number of repeats R, one a choice of runs; below the line is inside."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(WIDTH, 3.7), layout="constrained")
    for i, (name, curve) in enumerate(curves.items()):
        ax.plot(curve["R"], curve["excess"], color=PALETTE[i], linestyle=LINESTYLES[i], label=name)
    ax.axhline(1, color=INK, lw=0.9, linestyle=(0, (1, 2)))
    ax.annotate("95% limit", (1, 1), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                textcoords="offset points", ha="right", fontsize=10)  # fmt: skip
    ax.set(xscale="log", ylim=(-0.15, 4), xlabel="R, repeats after which data are nearly used up",
           ylabel="excess of the objective\n(1: the 95% limit)")  # fmt: skip
    ax.grid(True)
    fig.legend(loc="outside lower center", ncols=1)
    return fig


def frontiers(runs: pd.DataFrame, reduced: Mapping[str, Frontier], quantity: str) -> Figure:
    """The same runs under each frontier, a panel each, with the line that follows from it."""
    import matplotlib.pyplot as plt

    rows = -(-len(reduced) // 2)
    fig, axes = plt.subplots(
        rows, 2, figsize=(WIDTH, 1.9 * rows + 0.5), sharex=True, sharey=True, layout="constrained"
    )
    for ax, (how, points) in zip(axes.flat, reduced.items(), strict=False):
        ax.scatter(runs["compute"], runs["error"], s=14, color=INK, alpha=0.35, linewidths=0)
        if points.line is None:
            ax.scatter(points.C, points.E, s=26, facecolors="none", edgecolors=PALETTE[0], lw=1.3)
        C = np.geomspace(runs["compute"].min(), runs["compute"].max(), 2)
        alpha, beta = points.line or tuple(fit("power", points.C, points.E).params.values())
        ax.plot(C, beta * C**alpha, color=PALETTE[1])
        ax.set_title(f"{how}: {alpha:.3f}", loc="left", fontsize=10.5)
        _log_axes(ax)
    for ax in axes.flat[len(reduced) :]:
        ax.set_visible(False)
    fig.supxlabel(COMPUTE, fontsize=11, color=INK)
    fig.supylabel(quantity, fontsize=11, color=INK)
    return fig


def caterpillar(table: pd.DataFrame, studies: int = 25) -> Figure:
    """Intervals of the first planted studies, by resampling runs and by resampling minima."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        1, 2, figsize=(WIDTH, 4.2), sharex=True, sharey=True, layout="constrained"
    )
    names = {"runs": "runs resampled", "points": "five minima resampled"}
    for ax, (way, title) in zip(axes, names.items(), strict=True):
        rows = table[(table["way"] == way) & (table["study"] < studies)]
        hit = (rows["low"] <= rows["truth"]) & (rows["truth"] <= rows["high"])
        for held, colour, dashes, width in (
            (True, PALETTE[0], "-", 1.4),
            (False, PALETTE[5], "--", 2),
        ):
            part = rows[hit == held]
            ax.hlines(
                part["study"], part["low"], part["high"], color=colour, linestyle=dashes, lw=width
            )
        ax.scatter(rows["estimate"], rows["study"], s=9, color=INK, zorder=3)
        ax.axvline(rows["truth"].iloc[0], color=INK, lw=0.9, linestyle=(0, (1, 2)))
        ax.set_title(title, loc="left", fontsize=10.5)
        ax.set_yticks([])
    low, high = table["low"].quantile(0.01), table["high"].quantile(0.99)
    axes[0].set(ylabel="simulated studies", xlim=(low, high))
    fig.supxlabel("exponent; dotted: the planted one", fontsize=11, color=INK)
    return fig


def forest(
    table: pd.DataFrame, label: str, value: str, unit: str, line: float | None = None
) -> Figure:
    """A row a line of the table: value (a dot) with low and high; `line` is drawn dotted."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(WIDTH, 0.29 * len(table) + 0.9), layout="constrained")
    place = np.arange(len(table))[::-1]
    ax.hlines(place, table["low"], table["high"], color=PALETTE[0], lw=1.6)
    ax.scatter(table[value], place, s=22, color=PALETTE[0], zorder=3)
    if line is not None:
        ax.axvline(line, color=INK, lw=0.9, linestyle=(0, (1, 2)))
    ax.set_yticks(place, table[label])
    ax.set_xlabel(unit)
    ax.grid(True, axis="x")
    return fig


def coverage(table: pd.DataFrame, right: tuple[float, float]) -> Figure:
    """Coverage of every kind of interval, a mark a design; the band is where 95% means 95%."""
    import matplotlib.pyplot as plt

    ways = list((table["interval"] + " · " + table["frontier"]).unique())
    fig, ax = plt.subplots(figsize=(WIDTH, 0.27 * len(ways) + 1.3), layout="constrained")
    ax.axvspan(*right, color=PALETTE[2], alpha=0.18, lw=0)
    looks = {
        "right": ("o", PALETTE[2]),
        "too short": ("<", PALETTE[5]),
        "too long": (">", PALETTE[0]),
    }
    place = (table["interval"] + " · " + table["frontier"]).map({w: -i for i, w in enumerate(ways)})
    for verdict, (marker, colour) in looks.items():
        rows = table["verdict"] == verdict
        ax.scatter(table.loc[rows, "coverage"], place[rows], s=26, marker=marker, color=colour,
                   label=verdict, zorder=3)  # fmt: skip
    ax.set_yticks([-i for i in range(len(ways))], ways)
    ax.set_xlabel("share of studies whose interval holds the truth")
    ax.grid(True, axis="x")
    fig.legend(loc="outside lower center", ncols=3)
    return fig


def prediction(
    runs: pd.DataFrame, law: Fit, mean: Prediction, new: Prediction, quantity: str
) -> Figure:
    """Runs, law, and two bands: where the law lies, and where a new run will lie."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    ax.scatter(
        runs["compute"], runs["error"], s=16, color=INK, alpha=0.5, label="run", linewidths=0
    )
    ax.plot(mean.X, law.predict(mean.X), color=PALETTE[0], label="law")
    ax.fill_between(
        mean.X, mean.low, mean.high, color=PALETTE[0], alpha=0.25, lw=0, label="95%, the law"
    )
    for end in (new.low, new.high):
        label = "95%, a new run" if end is new.low else None
        ax.plot(new.X, end, color=PALETTE[1], linestyle="--", label=label)
    ax.axvline(runs["compute"].max(), color=INK, lw=0.9, linestyle=(0, (1, 2)))
    _log_axes(ax)
    ax.set(xlabel=COMPUTE, ylabel=quantity)
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def plan(before: float, runs: pd.DataFrame) -> Figure:
    """How the interval of the exponent narrows, run by run, against the hours spent."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(WIDTH, 3.2), layout="constrained")
    hours = np.append(0.0, runs["hours_total"])
    ax.step(hours, np.append(before, runs["half_width"]), where="post", color=INK, lw=1, alpha=0.6)
    for i, (rung, rows) in enumerate(runs.groupby("rung", sort=False)):
        ax.scatter(rows["hours_total"], rows["half_width"], s=30, marker=MARKERS[i],
                   color=PALETTE[i], label=rung, zorder=3)  # fmt: skip
    ax.set(
        xlabel="hours of training, all runs so far",
        ylabel="half width of the 95%\ninterval of the exponent",
        ylim=(0, None),
    )
    ax.grid(True)
    fig.legend(loc="outside lower center", ncols=3)
    return fig


def _log_axes(ax: Axes) -> None:
    """Log-log, with plain numbers on an error axis that spans less than a decade or two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set(xscale="log", yscale="log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, which="major")
