"""What the study's runs cost: MACs by our own formula, conventions of counting, GPU hours, energy.

For the chapter on the ladder and the bill. Tables in, tables and figures out; the runs come from
`cliplib.published.pretraining_runs`, the architectures from `cliplib.published.architectures`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cliplib import InputError, ladder
from cliplib.figures import INK, MARKERS, PALETTE
from cliplib.laws import Recipe
from cliplib.paper.figure1 import MARKERS as DATA_MARKERS
from cliplib.paper.grid import ARCHS, short
from cliplib.rungs import LAYERNORM_OPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WATTS = 350.0  # a GPU, taken as constant: the paper's rule for energy
PEAK_TFLOPS = 312.0  # a second, dense 16-bit products on an A100 (NVIDIA's data sheet)
GPUS_IN_TEXT = 1520  # "up to 1520" A100 GPUs (paper, appendix B.2.3)
ROUNDING = 0.005  # half of the last printed digit of the published architectures

# quantity in `published.architectures` -> what it is, our formula for it
FORMULAS: dict[str, tuple[str, Callable[[str], float]]] = {
    "image_gmacs": ("image tower, GMAC", ladder.image_gmacs),
    "text_gmacs": ("text tower, GMAC", ladder.text_gmacs),
    "gmacs_per_sample": ("both towers, GMAC", ladder.gmacs),
    "image_params_m": ("image tower, M parameters", lambda arch: ladder.image_params(arch) / 1e6),
    "text_params_m": ("text tower, M parameters", lambda arch: ladder.text_params(arch) / 1e6),
    "params_m": ("all, M parameters", lambda arch: ladder.params(arch) / 1e6),
}


# ------------------------------------------------------------------------- the ladder, twice


def compare(architectures: pd.DataFrame) -> pd.DataFrame:
    """Published figures beside our formulas, long: arch, quantity, published, ours, difference.

    Units: GMAC for one pair, millions of parameters; difference is ours - published.
    """
    rows = [
        (arch, quantity, float(published), formula(arch))
        for quantity, (_, formula) in FORMULAS.items()
        for arch, published in zip(architectures["arch"], architectures[quantity], strict=True)
    ]
    table = pd.DataFrame(rows, columns=["arch", "quantity", "published", "ours"])
    return table.assign(difference=table["ours"] - table["published"])


def largest_differences(compared: pd.DataFrame) -> pd.DataFrame:
    """For readers: of each quantity the architecture where formula and print differ most."""
    worst = compared.loc[compared["difference"].abs().groupby(compared["quantity"]).idxmax()]
    worst = worst.set_index("quantity").loc[list(FORMULAS)].reset_index()
    return pd.DataFrame(
        {
            "quantity": worst["quantity"].map(lambda name: FORMULAS[name][0]),
            "largest difference at": worst["arch"].map(short),
            "published": worst["published"].map("{:.2f}".format),
            "ours": worst["ours"].map("{:.4f}".format),
            "difference": worst["difference"].map("{:+.4f}".format),
        }
    )


def ladder_table(architectures: pd.DataFrame) -> pd.DataFrame:
    """For readers: every architecture, published / ours, towers apart and together."""
    compared = compare(architectures)
    both = [
        f"{published:.2f} / {ours:.2f}"
        for published, ours in zip(compared["published"], compared["ours"], strict=True)
    ]
    wide = compared.assign(both=both).pivot(index="arch", columns="quantity", values="both")
    wide = wide.loc[list(architectures["arch"]), list(FORMULAS)].rename_axis(columns=None)
    wide = wide.reset_index()
    wide["arch"] = wide["arch"].map(short)
    return wide.rename(columns={"arch": "model"} | {k: what for k, (what, _) in FORMULAS.items()})


def ladder_picture(architectures: pd.DataFrame) -> Figure:
    """GMACs for one pair by tower: published as rings, our formula as filled marks inside."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 3.3), layout="constrained")
    y = np.arange(len(architectures))
    towers = {"image_gmacs": "image tower", "text_gmacs": "text tower"}
    for i, (quantity, label) in enumerate(towers.items()):
        ours = [FORMULAS[quantity][1](arch) for arch in architectures["arch"]]
        look: dict[str, Any] = {"color": PALETTE[i], "marker": MARKERS[i], "linestyle": "none"}
        ax.plot(ours, y, markersize=5, label=f"{label}, our formula", **look)
        look |= {"markersize": 11, "markerfacecolor": "none"}
        ax.plot(architectures[quantity], y, label=f"{label}, published", **look)
    ax.set_yticks(y, [short(arch) for arch in architectures["arch"]])
    ax.set(
        xscale="log", xlabel="GMACs for one image-text pair, forward pass", ylabel="architecture"
    )
    ax.grid(True, which="major")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


# --------------------------------------------------------------------- conventions of counting


@dataclass(frozen=True)
class Convention:
    """One way to count a run's operations: ``per_pair(arch)`` in 1e9 operations."""

    name: str
    per_pair: Callable[[str], float]


def _towers(arch: str) -> tuple[tuple[ladder.Tower, int], tuple[ladder.Tower, int]]:
    """Both transformers of an architecture, each with its number of tokens."""
    r = ladder.rung(arch)
    if not isinstance(r.vision, ladder.Tower):
        raise InputError(f"{arch} has no vision transformer")
    return (r.vision, (r.image_px // r.patch_px) ** 2 + 1), (r.text, r.context_length)


def attention_gmacs(arch: str) -> float:
    """1e9 MACs of the two attention products of both towers; vision transformers only."""
    return sum(2 * tower.layers * n**2 * tower.width for tower, n in _towers(arch)) / 1e9


def norm_gmacs(arch: str) -> float:
    """1e9 operations of every LayerNorm of both towers: two a block, one more over all tokens.

    The image tower has a last one over its class token. Vision transformers only.
    """
    towers = _towers(arch)
    elements = sum((2 * tower.layers + 1) * n * tower.width for tower, n in towers)
    return LAYERNORM_OPS * (elements + towers[0][0].width) / 1e9


def token_table_gmacs(arch: str) -> float:
    """1e9 MACs that looking up a text would cost as a product of one-hot words and the table."""
    r = ladder.rung(arch)
    return r.vocab_size * r.context_length * r.text.width / 1e9


CONVENTIONS = (
    Convention("MACs, forward (the paper's)", ladder.gmacs),
    Convention("FLOPs, forward", lambda arch: ladder.flops(arch, "forward") / 1e9),
    Convention("FLOPs, forward and backward", lambda arch: ladder.flops(arch, "training") / 1e9),
    Convention("MACs, no attention products", lambda a: ladder.gmacs(a) - attention_gmacs(a)),
    Convention("MACs, word look-up as a product", lambda a: ladder.gmacs(a) + token_table_gmacs(a)),
    Convention("MACs, image tower only", ladder.image_gmacs),
    Convention("one MAC a parameter", lambda arch: ladder.params(arch) / 1e9),
)


def under_convention(runs: pd.DataFrame, convention: Convention) -> pd.DataFrame:
    """The same runs with compute counted another way (1e9 operations)."""
    per_pair = {arch: convention.per_pair(arch) for arch in runs["arch"].unique()}
    return runs.assign(compute=runs["arch"].map(per_pair) * runs["samples_seen"])


def conventions(runs: pd.DataFrame) -> pd.DataFrame:
    """What each convention does to a run's compute and to the law's two numbers.

    runs: arch, samples_seen, compute, error of the OpenCLIP runs. Columns: convention,
    factor_low and factor_high (to the paper's count, over the architectures), dearest (1e9
    operations of the dearest run), alpha and beta (paper's recipe), alpha_all (line through all).
    """
    rows = []
    for convention in CONVENTIONS:
        counted = under_convention(runs, convention)
        factors = [convention.per_pair(arch) / ladder.gmacs(arch) for arch in runs["arch"].unique()]
        law = Recipe("power", "bins")(counted)
        row = {
            "convention": convention.name,
            "factor_low": min(factors),
            "factor_high": max(factors),
        }
        row |= {"dearest": counted["compute"].max(), "alpha": law["alpha"], "beta": law["beta"]}
        rows.append(row | {"alpha_all": Recipe("power", "all")(counted)["alpha"]})
    return pd.DataFrame(rows)


def conventions_table(table: pd.DataFrame) -> pd.DataFrame:
    """`conventions` for readers."""
    factors = [
        f"{low:.3g}" if np.isclose(low, high) else f"{low:.3g} to {high:.3g}"
        for low, high in zip(table["factor_low"], table["factor_high"], strict=True)
    ]
    return pd.DataFrame(
        {
            "what is counted": table["convention"],
            "× the paper's": factors,
            "dearest run (10⁹)": table["dearest"].map("{:.2e}".format),
            "β": table["beta"].map("{:.2f}".format),
            "α, paper's recipe": table["alpha"].map("{:.4f}".format),
            "α, all runs": table["alpha_all"].map("{:.4f}".format),
        }
    )


# ------------------------------------------------------------------------------------ the bill


def cost(runs: pd.DataFrame, watts: float = WATTS) -> pd.DataFrame:
    """Each run's bill from its samples, throughput and GPUs, cheapest first.

    runs: rows of `published.pretraining_runs` with a throughput. Columns: run_id, arch, data,
    gpus, hours, gpu_hours, mwh, share (of all GPU hours), running (share of this and all cheaper
    runs), compute (GMAC), tflops (10^12 operations a second and GPU, 6 a MAC).
    """
    hours = runs["samples_seen_training"] / runs["samples_per_s"] / 3600
    gpu_hours = hours * runs["gpus"]
    tflops = 6 * runs["gmacs_per_sample"] * runs["samples_per_s"] / runs["gpus"] / 1e3
    named = runs[["run_id", "arch", "data", "gpus"]]
    table = named.assign(hours=hours, gpu_hours=gpu_hours, mwh=gpu_hours * watts / 1e6)
    table = table.assign(
        share=gpu_hours / gpu_hours.sum(), compute=runs["gmacs_total_training"], tflops=tflops
    )
    table = table.sort_values("gpu_hours", ignore_index=True)
    return table.assign(running=table["share"].cumsum())


def bill_table(bill: pd.DataFrame) -> pd.DataFrame:
    """For readers: the bill by architecture, with its sum."""
    groups = bill.groupby("arch").agg(
        runs=("run_id", "size"), gpu_hours=("gpu_hours", "sum"), mwh=("mwh", "sum"),
        share=("share", "sum"), low=("gpu_hours", "min"), high=("gpu_hours", "max"),
    )  # fmt: skip
    groups = groups.loc[[arch for arch in ARCHS if arch in groups.index]]
    total = groups[["runs", "gpu_hours", "mwh", "share"]].sum()
    groups.loc["all"] = {**total, "low": bill["gpu_hours"].min(), "high": bill["gpu_hours"].max()}
    return pd.DataFrame(
        {
            "model": [short(arch) for arch in groups.index],
            "runs": groups["runs"].astype(int),
            "GPU hours": groups["gpu_hours"].map("{:,.0f}".format),
            "share": groups["share"].map("{:.1%}".format),
            "MWh": groups["mwh"].map("{:.2f}".format),
            "cheapest run": groups["low"].map("{:,.0f}".format),
            "dearest run": groups["high"].map("{:,.0f}".format),
        }
    )


def bill_picture(bill: pd.DataFrame) -> Figure:
    """GPU hours of every run, cheapest at the bottom, and the share that has been spent by then."""
    import matplotlib.pyplot as plt

    fig, (ax, total) = plt.subplots(
        1, 2, sharey=True, figsize=(5.2, 6.4), layout="constrained", width_ratios=(1.7, 1)
    )
    y = np.arange(len(bill))
    for i, (data, marker) in enumerate(DATA_MARKERS.items()):
        some = (bill["data"] == data).to_numpy()
        if some.any():
            x = bill["gpu_hours"][some]
            ax.plot(x, y[some], marker, color=PALETTE[i], markersize=6, label=data)
    ax.set(xscale="log", xlabel="GPU hours", ylim=(-0.7, len(bill) - 0.3))
    ax.set_yticks(y, [short(run) for run in bill["run_id"]])
    ax.set_ylabel("run: architecture, LAION data set, samples seen")
    total.barh(y, 100 * bill["running"], color=PALETTE[0], alpha=0.45, height=0.8, lw=0)
    total.set(xlabel="this and all\ncheaper runs (%)", xlim=(0, 105), xticks=(0, 50, 100))
    for each in (ax, total):
        each.grid(True, which="major", axis="x")
    fig.legend(loc="outside lower center", ncols=3, handletextpad=0.2, columnspacing=1.0)
    return fig


# ------------------------------------------------------------------------ how fast a GPU went


def speeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Throughput of one GPU by architecture: arch, runs, slowest, fastest (samples/s), factor."""
    groups = runs.groupby("arch")["samples_per_s_per_gpu"].agg(["size", "min", "max"])
    groups = groups.loc[[arch for arch in ARCHS if arch in groups.index]].reset_index()
    groups.columns = pd.Index(["arch", "runs", "slowest", "fastest"])
    return groups.assign(factor=groups["fastest"] / groups["slowest"])


def copied_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs that share a throughput with another run to the last published digit."""
    same = runs.duplicated("samples_per_s", keep=False)
    return runs[same].sort_values(["samples_per_s", "samples_seen_training"], ignore_index=True)


def repriced(runs: pd.DataFrame, how: Literal["median", "max"]) -> float:
    """GPU hours of all runs if each GPU went as the ``median`` or ``max`` of its architecture."""
    rate = runs.groupby("arch")["samples_per_s_per_gpu"].transform(how)
    return float((runs["samples_seen_training"] / rate).sum() / 3600)


def speed_picture(bill: pd.DataFrame, copied: pd.DataFrame) -> Figure:
    """Operations a second and GPU that each run implies, one row an architecture.

    bill: from `cost`; copied: from `copied_rates`, drawn with a ring.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    archs = [arch for arch in ARCHS if arch in set(bill["arch"])]
    for i, (data, marker) in enumerate(DATA_MARKERS.items()):
        some = bill[bill["data"] == data]
        if len(some):
            y = some["arch"].map(archs.index) + 0.2 * (i - 1)
            ax.plot(some["tflops"], y, marker, color=PALETTE[i], markersize=6, label=data)
    _rings(ax, bill[bill["run_id"].isin(copied["run_id"])], archs)
    fastest = bill.sort_values("tflops").iloc[-1]
    offset = 0.2 * (list(DATA_MARKERS).index(fastest["data"]) - 1)
    at = fastest["tflops"], archs.index(fastest["arch"]) + offset
    text = short(fastest["run_id"])
    ax.annotate(text, at, (-8, 0), textcoords="offset points", ha="right", va="center")
    ax.set_yticks(range(len(archs)), [short(arch) for arch in archs])
    ax.set(xlim=(0, None), ylim=(-0.6, len(archs) - 0.5), ylabel="architecture")
    ax.set_xlabel("10¹² operations a second and GPU (6 a MAC)")
    ax.grid(True, axis="x")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def _rings(ax: Axes, runs: pd.DataFrame, archs: list[str]) -> None:
    offsets = {data: 0.2 * (i - 1) for i, data in enumerate(DATA_MARKERS)}
    y = runs["arch"].map(archs.index) + runs["data"].map(offsets)
    ax.plot(
        runs["tflops"], y, "o", color=INK, markerfacecolor="none", markersize=13,
        label="the same throughput",
    )  # fmt: skip
