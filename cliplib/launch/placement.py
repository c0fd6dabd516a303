"""Where a run goes and what it costs: GPUs, nodes, pairs per GPU, hours, energy.

The 29 runs of the scale ``paper`` have published GPU counts and throughputs. The scale ``gpu`` rests
on an assumption that stands in ``ladder_table.toml``. The other scales have no estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from cliplib import InputError
from cliplib.ladder import RunSpec, flops, params
from cliplib.rungs import TABLE

STATE_BYTES = 16  # a parameter in fp32: the weight, its gradient, AdamW's two moments
#: GPUs a node where the user gives none: those of the paper's machine had four (its text on hardware).
GPUS_PER_NODE = {"paper": 4}


@dataclass(frozen=True)
class Placement:
    """A run on a machine.

    ``rate`` is in samples a second and GPU (None: no estimate) and ``basis`` says where it is from;
    ``accumulate`` is the number of pieces in which a GPU works off its part of the global batch;
    ``published_gpus`` is None where nothing is published.
    """

    run: RunSpec
    gpus: int
    gpus_per_node: int
    accumulate: int
    rate: float | None
    basis: str
    published_gpus: int | None = None

    @property
    def nodes(self) -> int:
        """Nodes, each of them full."""
        return self.gpus // self.gpus_per_node

    @property
    def batch_per_gpu(self) -> int:
        """Pairs of the global batch that one GPU holds."""
        return self.run.batch_size // self.gpus

    @property
    def warmup_steps(self) -> int:
        """Steps of the linear warm-up."""
        return round(self.run.warmup_fraction * self.run.samples_seen / self.run.batch_size)

    @property
    def gpu_hours(self) -> float:
        """Hours of one GPU that the samples take at ``rate``; nan without an estimate."""
        return math.nan if self.rate is None else self.run.samples_seen / self.rate / 3600

    @property
    def wall_hours(self) -> float:
        """Hours on the clock, from the first step to the last; nan without an estimate."""
        return self.gpu_hours / self.gpus

    @property
    def mwh(self) -> float:
        """Energy of the GPUs by the paper's rule of constant 350 W, in MWh."""
        from cliplib.paper.bill import WATTS

        return self.gpu_hours * WATTS / 1e6

    @property
    def state_gib(self) -> float:
        """Memory on every GPU before the first activation: 16 bytes a parameter."""
        return STATE_BYTES * params(self.run.rung) / 2**30


def place(run: RunSpec, gpus_per_node: int | None = None, gpus: int | None = None) -> Placement:
    """Place a run on nodes of ``gpus_per_node`` GPUs.

    Without ``gpus`` a published run gets its published number of GPUs, or where that does not fill
    nodes of this size the next larger number that fills them and divides its batch; any other run
    gets one node. The rate of one GPU is taken as the same on any number of them.

    Raises:
        InputError: ``gpus`` do not fill nodes or do not divide the batch of the run.
    """
    per_node = GPUS_PER_NODE.get(run.scale, 1) if gpus_per_node is None else gpus_per_node
    if per_node < 1 or (gpus is not None and gpus < 1):
        raise InputError("a node has at least one GPU, and a run too; give positive numbers")
    row = _published().get((run.rung, run.data_scale, run.samples_seen), {})
    row = row if run.scale == "paper" else {}
    if gpus is None:
        gpus = _next_fit(run, per_node, row.get("gpus", per_node))
    per_node = min(per_node, gpus)
    if run.batch_size % gpus or gpus % per_node:
        raise InputError(
            f"{run.run_id}: {gpus} GPUs in nodes of {per_node} do not divide its batch of "
            f"{run.batch_size:,} evenly; {_next_fit(run, per_node, gpus)} do"
        )
    pieces = _pieces(run.batch_size // gpus, row.get("local_batch"))
    rate, basis = _rate(run, row)
    return Placement(run, gpus, per_node, pieces, rate, basis, row.get("gpus"))


def _next_fit(run: RunSpec, per_node: int, least: int) -> int:
    """The smallest number of GPUs from ``least`` on that fills nodes and divides the batch."""
    for gpus in range(per_node * math.ceil(least / per_node), run.batch_size + 1, per_node):
        if run.batch_size % gpus == 0:
            return gpus
    raise InputError(
        f"{run.run_id}: no number of GPUs in nodes of {per_node} divides its batch of "
        f"{run.batch_size:,}; give another --gpus-per-node"
    )


def _pieces(batch_per_gpu: int, fits: int | None) -> int:
    """Least number of equal pieces of a GPU's batch none of which exceeds what is known to fit."""
    if fits is None:
        return 1
    return next(
        n
        for n in range(1, batch_per_gpu + 1)
        if batch_per_gpu / n <= fits and batch_per_gpu % n == 0
    )


# ------------------------------------------------------------------------------------ how fast


def _rate(run: RunSpec, row: dict[str, Any]) -> tuple[float | None, str]:
    """Samples a second and GPU, and where the number is from."""
    if run.scale == "paper":
        return _published_rate(run, row)
    if "estimate" in TABLE["scales"][run.scale]:
        return _assumed_rate(run, TABLE["scales"][run.scale]["estimate"])
    return None, "no estimate"


def _published_rate(run: RunSpec, row: dict[str, Any]) -> tuple[float | None, str]:
    """The run's published throughput, or the median of the architecture's other runs."""
    if row.get("rate"):
        return row["rate"], "published"
    others = sorted(
        other["rate"]
        for (rung, _, _), other in _published().items()
        if rung == run.rung and other["rate"]
    )
    if not others:
        return None, "not published"
    middle = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2
    return middle, f"not published; estimate: median of {len(others)} runs of {run.rung}"


def _assumed_rate(run: RunSpec, machine: dict[str, Any]) -> tuple[float, str]:
    """What the slower of GPU and loader does, by the assumption of the scale's table."""
    gpu = machine["peak_tflops"] * 1e12 * machine["utilisation"] / flops(run.rung, "training")
    loader = float(machine["loader_samples_per_s"])
    if loader < gpu:
        return loader, f"assumed: a loader of {loader:,.0f} samples/s"
    share, peak = machine["utilisation"], machine["peak_tflops"]
    return gpu, f"assumed: {share:.0%} of {peak} TFLOP/s ({machine['gpu']})"


@cache
def _published() -> dict[tuple[str, str, int], dict[str, Any]]:
    """GPUs, pairs a GPU and samples/s a GPU by (rung, LAION subset, samples seen)."""
    from cliplib.published import pretraining_runs

    table = pretraining_runs().query("family == 'OpenCLIP'")
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return {
        (row["arch"], row["data"].removeprefix("LAION-"), round(row["samples_seen_training"])): {
            "gpus": int(row["gpus"]),
            "local_batch": int(row["local_batch"]),
            # not the printed rate of one GPU, which is rounded
            "rate": None
            if math.isnan(row["samples_per_s"])
            else row["samples_per_s"] / row["gpus"],
        }
        for row in rows
    }
