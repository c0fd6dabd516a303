"""Where the study's learning curves fall: a rule for a spike, counts, what goes with them.

For the chapter on curves; the curves come from `cliplib.paper.curves.curves`. A spike is a fall of
accuracy between two recorded points, so a run recorded seldom shows fewer: see `thinned`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.figures import INK, PALETTE
from cliplib.paper.curves import finished
from cliplib.paper.figure1 import MARKERS as DATA_MARKERS
from cliplib.paper.grid import ARCHS, DATA, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FALL = 0.015  # of top-1 (1.5 points) from one recorded point to the next: a spike by our rule
IMAGES = 50_000  # in the ImageNet validation set, for the noise of one score
SMALL_BATCH = 64_000  # six runs have at most this; all others 79,104 or more
FLOAT16_EPOCHS = {"openclip/H-14/LAION-2B/34B": 121}  # then bfloat16 (model card of H/14)
COARSEST = 407_332_084  # samples between two points of most runs on LAION-400M (else 413 M)


# ------------------------------------------------------------------------------------ the rule


def spikes(table: pd.DataFrame, fall: float = FALL) -> pd.DataFrame:
    """Points whose top-1 is more than `fall` below the point recorded before, worst first.

    Adds back_after: samples from the point before the fall until the curve is back at its height
    (infinite if it never is).
    """
    found = table[table["fall"] > fall]
    back = [
        _back_after(table[table["run_id"] == run], epoch)
        for run, epoch in zip(found["run_id"], found["epoch"], strict=True)
    ]
    return found.assign(back_after=back).sort_values("fall", ascending=False, ignore_index=True)


def _back_after(curve: pd.DataFrame, epoch: int) -> float:
    before = curve[curve["epoch"] < epoch].iloc[-1]
    above = curve[(curve["epoch"] >= epoch) & (curve["top1"] >= before["top1"])]
    return float(above["samples_seen"].min() - before["samples_seen"]) if len(above) else np.inf


def noise_of_fall(accuracy: float, images: int = IMAGES) -> float:
    """Standard error of the difference of two scores at this accuracy, as if independent.

    Too large for two scores on the same images, so a rule in units of it is on the safe side.
    """
    return float(np.sqrt(2 * accuracy * (1 - accuracy) / images))


def thinned(table: pd.DataFrame, spacing: float = COARSEST, phase: int = 0) -> pd.DataFrame:
    """The curves as if recorded every `spacing` samples, as nearly as whole epochs allow.

    phase: which of the possible sets of points is kept; 0 keeps the last point of each run. A fall
    that heals between two kept points is not seen.
    """
    step = (spacing / table["virtual_epoch_samples"]).round().clip(lower=1)
    kept = table[(table["virtual_epochs"] - table["epoch"]) % step == phase % step]
    return kept.assign(fall=-kept.groupby("run_id")["top1"].diff())


# --------------------------------------------------------------------------- counts and groups


def spike_counts(table: pd.DataFrame, fall: float = FALL) -> pd.DataFrame:
    """One row a run: its settings, samples, recorded points, spikes, small_batch (bool)."""
    runs = finished(table).set_index("run_id")
    found = spikes(table, fall).groupby("run_id").size()
    counts = runs[["arch", "data", "label", "lr", "warmup_steps", "global_batch"]].assign(
        samples=runs["samples_seen"],
        points=table.groupby("run_id").size(),
        spikes=found.reindex(runs.index, fill_value=0),
    )
    return counts.assign(small_batch=counts["global_batch"] <= SMALL_BATCH).reset_index()


def share(hits: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper and Pearson) interval of a share of runs."""
    from scipy.stats import binomtest

    low, high = binomtest(hits, runs).proportion_ci(level, method="exact")
    return float(low), float(high)


def fisher(counts: pd.DataFrame, split: str) -> float:
    """Fisher's exact p of runs with a spike being spread evenly over the two values of `split`.

    InputError where the column, or having a spike, does not split the runs in two.
    """
    from scipy.stats import fisher_exact

    cells = pd.crosstab(counts[split], counts["spikes"] > 0)
    if cells.shape != (2, 2):
        raise InputError(f"column {split} and spikes do not split these runs two by two")
    return float(fisher_exact(cells.to_numpy()).pvalue)


Rule = Callable[[pd.DataFrame], pd.Series]


def _equals(column: str, value: object) -> Rule:
    return lambda counts: counts[column] == value


GROUPS: dict[str, Rule] = {
    "batch: 64,000 or less": _equals("small_batch", True),
    "batch: 79,104 or more": _equals("small_batch", False),
    "peak rate: 0.0005": _equals("lr", 0.0005),
    "peak rate: 0.001": _equals("lr", 0.001),
    "warm-up: 2,000 steps": _equals("warmup_steps", 2000),
    "warm-up: 10,000 steps": _equals("warmup_steps", 10_000),
    **{f"data: {name}": _equals("data", name) for name in DATA[:3]},
    **{f"model: {short(name)}": _equals("arch", name) for name in ARCHS},
}


def group_table(counts: pd.DataFrame, coarse: pd.DataFrame) -> pd.DataFrame:
    """For readers: runs with a spike by setting; coarse: the counts of the thinned curves."""
    rows = []
    for name, rule in GROUPS.items():
        some, thin = counts[rule(counts)], coarse[rule(coarse)]
        hits = int((some["spikes"] > 0).sum())
        low, high = share(hits, len(some))
        rows.append(
            {
                "setting": name,
                "runs": len(some),
                "with a spike": hits,
                "95% interval of the share": f"{low:.0%} to {high:.0%}",
                "spikes": int(some["spikes"].sum()),
                "with a spike, thinned": int((thin["spikes"] > 0).sum()),
            }
        )
    return pd.DataFrame(rows)


def threshold_table(table: pd.DataFrame, falls: tuple[float, ...]) -> pd.DataFrame:
    """For readers: spikes and runs with one under other thresholds (fractions of top-1)."""
    counts = {fall: spike_counts(table, fall) for fall in falls}
    return pd.DataFrame(
        {
            "fall of more than (points)": [f"{100 * fall:g}" for fall in counts],
            "spikes": [int(each["spikes"].sum()) for each in counts.values()],
            "runs with one": [int((each["spikes"] > 0).sum()) for each in counts.values()],
            "of them at a small batch": [
                int(((each["spikes"] > 0) & each["small_batch"]).sum()) for each in counts.values()
            ],
        }
    )


def run_table(counts: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """For readers: the runs that have a spike, worst first."""
    worst = found.groupby("run_id").agg(fall=("fall", "max"), last=("progress", "max"))
    rows = counts.merge(worst, on="run_id").sort_values("fall", ascending=False)
    return pd.DataFrame(
        {
            "run": rows["run_id"].map(short),
            "batch": rows["global_batch"].map("{:,.0f}".format),
            "peak rate": rows["lr"],
            "points": rows["points"],
            "spikes": rows["spikes"],
            "worst (points)": (100 * rows["fall"]).map("{:.1f}".format),
            "last at": rows["last"].map("{:.0%} of the run".format),
        }
    )


# -------------------------------------------------------------------------------- the recipes


def learning_rate(progress: np.ndarray, run: pd.Series) -> np.ndarray:
    """The rate at each share of the run: linear warm-up, then half a cosine down to zero.

    run: lr, warmup_steps, global_batch, samples_seen_training. The paper names the cosine; that it
    ends at zero is OpenCLIP's default.
    """
    warm = run["warmup_steps"] * run["global_batch"] / run["samples_seen_training"]
    cosine = 0.5 * (1 + np.cos(np.pi * (progress - warm) / (1 - warm)))
    return run["lr"] * np.where(progress < warm, progress / warm, cosine)


def recipes(runs: pd.DataFrame) -> pd.DataFrame:
    """For readers: the training settings, one row a combination of rate, warm-up, batch group.

    runs: the OpenCLIP rows of `published.pretraining_runs`.
    """
    warm = runs["warmup_steps"] * runs["global_batch"] / runs["samples_seen_training"]
    table = runs.assign(warm=warm, small_batch=runs["global_batch"] <= SMALL_BATCH)
    rows = []
    for (lr, steps, _), some in table.groupby(["lr", "warmup_steps", "small_batch"]):
        batches, models = some["global_batch"], set(some["arch"])
        rows.append(
            {
                "peak rate": lr,
                "warm-up (steps)": f"{steps:,.0f}",
                "batch": _span(batches, ",.0f"),
                "runs": len(some),
                "models": ", ".join(short(arch) for arch in ARCHS if arch in models),
                "warm-up's share of the run": _span(some["warm"], ".1%"),
            }
        )
    return pd.DataFrame(rows)


def _span(values: pd.Series, spec: str) -> str:
    ends = dict.fromkeys((format(values.min(), spec), format(values.max(), spec)))
    return " to ".join(ends)


def controls(scores: pd.DataFrame, extra: pd.DataFrame) -> pd.DataFrame:
    """The two runs outside the 29 that repeat a run of the grid with another rate and batch.

    scores: `published.errors` of one data set; extra: `published.extra_control_runs`, the same
    data set and metric. Columns: run, grid, control (accuracies), difference (control - grid).
    """
    named = extra["model_id"].str.extract(r"Data-(\w+)_Samples-(\w+)_lr-5e-4_bs-32k")
    rows = extra.assign(data="LAION-" + named[0], samples_seen_label=named[1]).dropna()
    both = rows.merge(scores, on=["arch", "data", "samples_seen_label"], validate="1:1")
    grid = 1 - both["error"]
    run = both["run_id"].map(short)
    values = {"run": run, "grid": grid, "control": both["value"]}
    return pd.DataFrame(values).assign(difference=both["value"] - grid)


# ------------------------------------------------------------------------------------ pictures


def one_curve(curve: pd.DataFrame, fall: float = FALL, lowest: float | None = None) -> Figure:
    """One run: its accuracy with the spikes marked, and below it the learning rate.

    lowest: where the axis of accuracy begins, in percent; by default below the lowest point.
    """
    import matplotlib.pyplot as plt

    fig, (ax, rate) = plt.subplots(
        2, 1, sharex=True, figsize=(5.2, 4.6), layout="constrained", height_ratios=(2.4, 1)
    )
    seen = curve["samples_seen"] / 1e9
    ax.plot(seen, 100 * curve["top1"], color=PALETTE[0], ls="-", lw=1.4, label="top-1")
    found = spikes(curve, fall)
    ax.plot(
        found["samples_seen"] / 1e9, 100 * found["top1"], "v", color=PALETTE[1], markersize=8,
        label="spike by our rule",
    )  # fmt: skip
    ax.set(ylabel="top-1, ImageNet (%)", ylim=(lowest, None))
    ax.legend(loc="lower right")
    progress = np.linspace(0, 1, 200)
    run = curve.iloc[0]
    samples = progress * run["samples_seen_training"] / 1e9
    rate.plot(samples, 1000 * learning_rate(progress, run), color=PALETTE[2], ls="--")
    rate.set(xlabel="samples seen (billions)", ylabel="rate (10⁻³)", ylim=(0, None))
    for each in (ax, rate):
        each.grid(True, which="major")
    return fig


def when(found: pd.DataFrame) -> Figure:
    """Every spike: how far its run was, and how deep it fell."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    fig, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for i, (data, marker) in enumerate(DATA_MARKERS.items()):
        some = found[found["data"] == data]
        if len(some):
            x, y = 100 * some["progress"], 100 * some["fall"]
            ax.plot(x, y, marker, color=PALETTE[i], markersize=6, label=data)
    for _, worst in found.head(3).iterrows():
        at = 100 * worst["progress"], 100 * worst["fall"]
        text = short(worst["run_id"])
        ax.annotate(text, at, (7, 0), textcoords="offset points", va="center", color=INK)
    ax.set(yscale="log", xlim=(0, 100), xlabel="share of the run done (%)")
    ax.set_ylabel("fall of top-1 (points)")
    ax.yaxis.set_major_locator(FixedLocator([1.5, 3, 6, 12, 24]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, which="major")
    fig.legend(loc="outside lower center", ncols=3, handletextpad=0.2, columnspacing=1.2)
    return fig
