"""The chapter "Going bigger": dry runs of the large scales, for readers.

Hours and energy come from `cliplib.launch`, so the chapter and the command line cannot disagree. What is
said there about data sets is in `cliplib.training_pages.links`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cliplib import InputError, ladder
from cliplib.figures import INK, MARKERS, PALETTE
from cliplib.launch import Placement, config, job, place
from cliplib.launch.dryrun import table
from cliplib.launch.jobs import shard_source
from cliplib.paper.bill import WATTS
from cliplib.paper.grid import ARCHS, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARDS = "shards/{00000..99999}.tar"  # stands for the reader's own
GIB, MIB = 2**30, 2**20


# ------------------------------------------------------------------------------------- the dry runs


def dry_run(scale: str) -> tuple[list[Placement], pd.DataFrame]:
    """Every run of a scale placed as the command line does, and the rows of ``--dry-run``.

    Raises:
        InputError: unknown scale.
    """
    placed = [place(run) for run in ladder.scale(scale)]
    return placed, table(placed, Path("runs"))


def settings(placed: Placement) -> dict[str, Any]:
    """The configuration that ``--dry-run --write`` would write for a run on image-text shards."""
    return config(placed, shard_source(placed, {placed.run.data_scale: [SHARDS]}))


def run_label(rung: str, data: str, samples_seen: int) -> str:
    """A run of the scale ``paper`` as figures and tables print it.

    >>> run_label("ViT-B-32", "laion 400M", 2_443_992_504)
    'B/32 400M 2.4 bn'
    """
    return f"{short(rung)} {data.split()[-1]} {samples_seen / 1e9:.1f} bn"


def evening_table(rows: pd.DataFrame, pairs: float) -> pd.DataFrame:
    """For readers: the runs of the scale ``gpu``, with passes over a set of that many pairs."""
    return pd.DataFrame(
        {
            "rung": rows["rung"],
            "parameters (M)": rows["rung"].map(lambda r: f"{ladder.params(r) / 1e6:.1f}"),
            "GMAC a pair": rows["rung"].map(lambda r: f"{ladder.gmacs(r):.3f}"),
            "samples seen (M)": (rows["samples_seen"] / 1e6).map("{:.1f}".format),
            "passes": (rows["samples_seen"] / pairs).map("{:.1f}".format),
            "compute (GMAC)": rows["compute_gmac"].map("{:.1e}".format),
            "minutes": (60 * rows["wall_hours"]).map("{:.0f}".format),
            "what sets the pace": rows["basis"].str.contains("loader").map(
                {True: "loader", False: "GPU"}
            ),
        }
    )  # fmt: skip


def plan_table(rows: pd.DataFrame) -> pd.DataFrame:
    """For readers: the runs of the scale ``paper`` with recipe, place, hours and energy."""
    return pd.DataFrame(
        {
            "run": _labels(rows),
            "nodes × GPUs": [f"{n} × {g}" for n, g in zip(rows["nodes"], rows["gpus_per_node"])],
            "batch": rows["batch_size"].map("{:,}".format),
            "lr": rows["lr"].map("{:g}".format),
            "warm-up": rows["warmup_steps"].map("{:,}".format),
            "hours": rows["wall_hours"].map("{:.1f}".format),
            "GPU hours": rows["gpu_hours"].map("{:,.0f}".format),
            "MWh": rows["mwh"].map("{:.2f}".format),
        }
    )


def _labels(rows: pd.DataFrame) -> pd.Series:
    found = [run_label(*row) for row in zip(rows["rung"], rows["data"], rows["samples_seen"])]
    return pd.Series(found, index=rows.index)


def cost_picture(paper: pd.DataFrame, gpu: pd.DataFrame | None = None) -> Figure:
    """GPU hours, and energy on the right, against compute, by architecture; scale ``gpu`` hollow."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 4.0), layout="constrained")
    if gpu is not None:
        hollow: dict[str, Any] = {"markerfacecolor": "none", "color": INK, "linestyle": "none"}
        ax.plot(gpu["compute_gmac"], gpu["gpu_hours"], "o", label="scale gpu (assumed)", **hollow)
    for i, arch in enumerate(ARCHS):
        rows = paper[paper["rung"] == arch]
        ax.plot(
            rows["compute_gmac"], rows["gpu_hours"], MARKERS[i], color=PALETTE[i],
            linestyle="none", label=short(arch),
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", ylabel="GPU hours")
    ax.set_xlabel("compute (GMAC: GMACs a pair × samples seen)")
    to_mwh = (lambda hours: hours * WATTS / 1e6, lambda mwh: mwh * 1e6 / WATTS)
    ax.secondary_yaxis("right", functions=to_mwh).set_ylabel(f"MWh at {WATTS:.0f} W a GPU")
    ax.grid(True, which="major")
    fig.legend(loc="outside lower center", ncols=3, handletextpad=0.2, columnspacing=1.0)
    return fig


# ---------------------------------------------------------------------- one run on other machines


def other_machines(run: ladder.RunSpec, gpus: Sequence[int]) -> pd.DataFrame:
    """The same run of the same global batch on other numbers of GPUs, in nodes of four.

    Columns: gpus, batch_per_gpu, accumulate, loss_chunk (rows; 0: the default), workers, lanes,
    wall_hours (at the same rate of a GPU, so accumulation's second forward pass is not in it).

    Raises:
        InputError: numbers that do not divide the batch.
    """
    rows = []
    for number in gpus:
        placed = place(run, gpus_per_node=min(4, number), gpus=number)
        found = settings(placed)
        rows.append(
            {
                "gpus": number, "batch_per_gpu": placed.batch_per_gpu,
                "accumulate": placed.accumulate, "loss_chunk": found["engine"].get("loss_chunk", 0),
                "workers": found["data"]["workers"], "lanes": found["data"]["lanes"],
                "wall_hours": placed.wall_hours,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def machines_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`other_machines` for readers."""
    return pd.DataFrame(
        {
            "GPUs": rows["gpus"],
            "pairs a GPU": rows["batch_per_gpu"].map("{:,}".format),
            "pieces (engine.accumulate)": rows["accumulate"],
            "engine.loss_chunk": rows["loss_chunk"].map(lambda n: f"{n:,}" if n else "default"),
            "lanes = fewest shards": rows["lanes"].map("{:,}".format),
            "days": (rows["wall_hours"] / 24).map("{:,.1f}".format),
        }
    )


def loss_memory(
    batch: int, processes: int, embed_dim: int, chunk: int | None = None
) -> dict[str, float]:
    """Bytes that InfoNCE needs on one process for similarities and gathered texts, in fp32.

    Keys: ``all`` (B x B on one machine), ``own`` (b x B: local loss, kept whole), ``chunk`` (what is
    held at once), ``texts`` (B x embed_dim, gathered). chunk: ``engine.loss_chunk``; None: the default.

    Raises:
        InputError: the processes do not share the batch evenly.
    """
    from cliplib.train.loss import default_chunk

    if processes < 1 or batch % processes:
        raise InputError(f"a batch of {batch} is not shared evenly by {processes} processes")
    own = batch // processes
    rows = min(own, chunk or default_chunk(own, batch) or own)
    sizes = {"all": batch * batch, "own": own * batch, "chunk": rows * batch}
    return {k: 4.0 * n for k, n in (sizes | {"texts": batch * embed_dim}).items()}


def memory_table(cases: Sequence[Placement]) -> pd.DataFrame:
    """For readers: `loss_memory` of placed runs."""
    found = [
        loss_memory(
            p.run.batch_size, p.gpus, ladder.rung(p.run.rung).embed_dim,
            settings(p)["engine"].get("loss_chunk"),
        )
        for p in cases
    ]  # fmt: skip
    return pd.DataFrame(
        {
            "model": [short(p.run.rung) for p in cases],
            "batch": [f"{p.run.batch_size:,}" for p in cases],
            "GPUs": [p.gpus for p in cases],
            "all similarities (GiB)": [f"{m['all'] / GIB:.2f}" for m in found],
            "a GPU's own rows (MiB)": [f"{m['own'] / MIB:.0f}" for m in found],
            "held at once (MiB)": [f"{m['chunk'] / MIB:.0f}" for m in found],
            "gathered texts (MiB)": [f"{m['texts'] / MIB:.0f}" for m in found],
        }
    )


def job_table(placed: Placement, hours: Sequence[float]) -> pd.DataFrame:
    """What SLURM is asked for by one run, for some limits on the length of a job."""
    jobs = [job(placed, Path("config.json"), Path("runs"), job_hours=limit) for limit in hours]
    return pd.DataFrame(
        {
            "longest job (hours)": [f"{limit:g}" for limit in hours],
            "nodes": [each.resources["nodes"] for each in jobs],
            "gres": [each.resources["gres"] for each in jobs],
            "CPUs a node": [each.threads for each in jobs],
            "minutes asked for": [f"{each.resources['runtime']:,}" for each in jobs],
            "tries": [each.retries for each in jobs],
        }
    )


def preflight_says(shards: int, placed: Placement) -> str:
    """The line with which training would refuse so few shards, before it starts; "" if it would not."""
    from cliplib.data.preflight import check_counts

    data = settings(placed)["data"]
    names = [f"{n:05}.tar" for n in range(shards)]
    try:
        check_counts(
            names, data["lanes"], placed.run.batch_size, placed.gpus, data["workers"],
            data["sampler"] == "epoch",
        )  # fmt: skip
    except InputError as error:
        return str(error)
    return ""


def never_drawn(passes: float) -> float:
    """Share of shards not yet drawn when as many were drawn, with replacement, as ``passes`` hold.

    (1 - 1/S)^(S passes) for many shards S: exp(-passes).

    >>> round(never_drawn(1), 3)
    0.368
    """
    return math.exp(-passes)


# -------------------------------------------------------------------------------------- switches

# key of the object "engine" -> what it does, what it costs, when to use it
SWITCHES: Mapping[str, tuple[str, str, str]] = {
    "path": ("our written-out step or open_clip's modules", "nothing", "leave it: GPUs take torch"),
    "precision": ("bf16 or fp32 products; weights stay fp32", "rounding", "bf16 on every GPU of today"),
    "attention": ("fused kernel or plain products", "nothing on a GPU", "fused on GPUs"),
    "threads": ("parts of a batch side by side on a CPU", "nothing", "CPU only"),
    "tf32": ("the fp32 products that are left may round", "rounding", "on, unless you compare to fp32"),
    "compile": ("one kernel where many were", "minutes at the start; texts padded", "long runs; try first"),
    "gradient_checkpointing": (
        "keeps few activations", "about one more forward pass", "the batch does not fit"),
    "accumulate": (
        "the batch in pieces, full-batch loss", "one more forward pass", "too few GPUs for the batch"),
    "loss_chunk": (
        "rows of similarities at once", "they are made again for the gradient", "leave it: by memory"),
}  # fmt: skip


def switch_table(placed: Sequence[Placement]) -> pd.DataFrame:
    """For readers: every switch, what it costs, and in how many of these runs it is set."""
    from cliplib.train.config import Engine

    usual = Engine()
    engines = [settings(each)["engine"] for each in placed]
    set_in = {
        name: sum(e.get(name, getattr(usual, name)) != getattr(usual, name) for e in engines)
        for name in SWITCHES
    }
    rows = [(f"engine.{name}", *words, set_in[name]) for name, words in SWITCHES.items()]
    return pd.DataFrame(rows, columns=["key", "what it does", "costs", "when", "runs that set it"])
