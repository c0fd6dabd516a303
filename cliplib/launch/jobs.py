"""From a placed run to what starts it: its configuration, its torchrun command, its SLURM job."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliplib import InputError
from cliplib.ladder import RunSpec, params
from cliplib.launch.placement import Placement

TORCHRUN = "torchrun"
ENDPOINT = "$HEAD_NODE:29500"  # where several nodes meet; the port is torchrun's own default
WORKERS = 8  # loader processes a GPU, at most
LANES = 32  # streams of shards, at least; machines with a divisor of it see the same batches
CORES_PER_GPU = WORKERS + 2  # the training process and its copies to the GPU
MEMORY_MB_PER_CORE = 4000
CHECKPOINTS = 20  # by steps, in a run; long runs also by time
CHECKPOINT_SECONDS = 600.0
RECOMPUTE_FROM = 300e6  # parameters; larger models trade a second forward pass for activations
LOSS_BYTES = 2**30  # of similarities on a GPU at once; beyond, the loss goes through them in chunks
JOB_HOURS = 24.0  # the longest job that most clusters take; a longer run goes on in the next
WEB_CORPORA = ("laion", "shards")  # not the embedded icons: `--shards` says where they are

Shards = dict[str, list[str]]  # URLs by data scale


# -------------------------------------------------------------------------------------------- shards


def on_shards(run: RunSpec) -> bool:
    """Whether a run is trained on image-text shards of the user's, not on the embedded icons."""
    return run.corpus in WEB_CORPORA


def shards(words: Iterable[str], runs: Iterable[RunSpec]) -> Shards:
    """The URLs of every data scale in ``runs``, from ``URL`` (for all) and ``80M=URL`` (for one).

    >>> from cliplib.ladder import scale
    >>> shards(["s3://mine/{0000..0100}.tar"], scale("gpu"))
    {'all': ['s3://mine/{0000..0100}.tar']}

    Raises:
        InputError: an unknown data scale, an empty URL, or a data scale that is left without shards.
    """
    wanted = sorted({run.data_scale for run in runs})
    found: Shards = {name: [] for name in wanted}
    for word in words:
        named = re.fullmatch(r"(\w+)=(.*)", word)
        name, url = named.groups() if named else ("", word)
        if named and name not in found:
            raise InputError(
                f"--shards {word}: unknown data scale {name!r}; known: {', '.join(wanted)} "
                f"(a folder of that name: ./{word})"
            )
        if not url.strip():
            raise InputError(f"--shards {word}: no URL; give --shards URL or DATA_SCALE=URL")
        for key in [name] if named else wanted:
            found[key].append(url)
    if empty := [name for name in wanted if not found[name]]:
        raise InputError(
            f"no shards for data scale {', '.join(empty)}; give --shards URL, or one for each as in "
            f"--shards {empty[0]}=URL"
        )
    return found


# ----------------------------------------------------------------------------- configuration, command


def config(placed: Placement, source: Mapping[str, Any]) -> dict[str, Any]:
    """What ``train --config`` reads: the run, and how it is trained on this machine.

    ``source`` is the object ``data`` of the configuration: of `shard_source` or ``{"corpus": FOLDER}``.

    Raises:
        InputError: what ``train --config`` refuses.
    """
    from cliplib.train.config import TrainConfig

    run = placed.run
    steps = run.samples_seen // run.batch_size
    found = {
        **run.to_dict(),
        "data": dict(source),
        "engine": _engine(placed),
        "checkpoint": {
            "every_seconds": CHECKPOINT_SECONDS, "every_steps": max(1, steps // CHECKPOINTS), "keep": 2,
        },
    }  # fmt: skip
    TrainConfig.from_dict(found)
    return found


def _engine(placed: Placement) -> dict[str, Any]:
    """The switches for GPUs; on the icons the hardware decides."""
    run, rows = placed.run, LOSS_BYTES // (4 * placed.run.batch_size)
    engine: dict[str, Any] = {"accumulate": placed.accumulate}
    if placed.batch_per_gpu > rows:  # the similarities of a GPU's pairs with the whole batch
        engine |= {"loss_chunk": max(1, rows)}
    if on_shards(run):
        recompute = params(run.rung) >= RECOMPUTE_FROM
        engine |= {"precision": "bf16", "attention": "fused", "tf32": True}
        engine |= {"gradient_checkpointing": recompute}
    return engine


def absolute(urls: Shards) -> Shards:
    """The same with local paths made absolute: a job runs in a folder of its own."""
    from cliplib.data.urls import PIPE, is_local

    def one(url: str) -> str:
        if url.startswith(PIPE):
            return url
        parts = url.split("::")
        return "::".join(str(Path(p).absolute()) if is_local(p) else p for p in parts)

    return {name: [one(url) for url in some] for name, some in urls.items()}


def shard_source(placed: Placement, urls: Shards) -> dict[str, Any]:
    """Where a run's pairs come from and in which order.

    LAION-2B is sampled with replacement, as in the paper; smaller sets go through whole epochs. The
    published runs did not keep equal captions out of a batch.
    """
    run = placed.run
    replacement = (run.corpus, run.data_scale) == ("laion", "2B")
    workers = max(n for n in range(1, WORKERS + 1) if placed.batch_per_gpu % n == 0)
    serving = placed.gpus * workers  # each serves as many lanes, and each lane as many pairs
    return {
        "shards": urls[run.data_scale],
        "sampler": "replacement" if replacement else "epoch",
        "workers": workers,
        "lanes": serving if LANES % serving else LANES,
        "unique_captions": run.corpus != "laion",
    }


def source(placed: Placement, urls: Shards | None, corpus: Path) -> dict[str, object]:
    """The object ``data`` of a run's configuration: its shards, or the folder of icons.

    Raises:
        InputError: the run is trained on shards and none were given.
    """
    if not on_shards(placed.run):
        return {"corpus": str(corpus)}
    if urls is None:
        raise InputError(
            f"scale {placed.run.scale} trains on your own image-text shards; give --shards URL "
            "(webdataset: a folder, a brace range, http, s3 or pipe:)"
        )
    return shard_source(placed, urls)


def shards_hashes(placed: Iterable[Placement], urls: Shards) -> dict[str, str]:
    """By run, the identity of its data that its training record will have."""
    from cliplib.train.config import TrainConfig
    from cliplib.train.feeds import data_hash

    def one(each: Placement) -> str:
        read = TrainConfig.from_dict(config(each, shard_source(each, urls)))
        return data_hash(each.run, None, read.settings.data)

    return {each.run.run_id: one(each) for each in placed}


def torchrun(
    placed: Placement, config_file: Path, folder: Path, *,
    program: str = TORCHRUN, endpoint: str = ENDPOINT,
) -> str:  # fmt: skip
    """The one command that trains a run; with several nodes it is started once on each of them.

    There ``HEAD_NODE`` is the name of any one of the nodes, the same in all.
    """
    meeting = "--standalone"
    if placed.nodes > 1:
        meeting = f"--nnodes={placed.nodes} --rdzv-backend=c10d --rdzv-endpoint={endpoint}"
        meeting += f" --rdzv-id={placed.run.run_id}"
    words = [f"--nproc-per-node={placed.gpus_per_node}", "-m", "cliplib", "train"]
    words += ["--config", str(config_file), "--out", str(folder)]
    return f"{program} {meeting} {shlex.join(words)}"


# --------------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """One job of the grid: a shell command and what it needs, in snakemake's words.

    Attributes:
        run_id: the run's folder.
        command: what is started.
        threads: cores that it keeps busy.
        resources: memory, time and so on.
        retries: None: as the profile says.
        part: "train", or what is done with the trained run.
        after: the job waits for the run's training, which is in the same grid.
    """

    run_id: str
    command: str
    threads: int
    resources: dict[str, int | str]
    retries: int | None = None
    part: str = "train"
    after: bool = False


def job(
    placed: Placement, config_file: Path, folder: Path, *,
    job_hours: float = JOB_HOURS, evaluate_on: Path | None = None,
) -> Job:  # fmt: skip
    """The job that trains a placed run, and evaluates it on the icons in ``evaluate_on`` if given.

    A run that takes longer than ``job_hours`` is ended by the cluster, tried again and goes on from
    its checkpoint: it gets as many tries as that takes, and two for failures.
    """
    gpus = on_shards(placed.run)
    cores = placed.gpus_per_node * (CORES_PER_GPU if gpus else 1)
    command = _command(placed, config_file, folder, cores)
    if evaluate_on:
        checkpoint, record = folder / "checkpoint", folder / "eval.json"
        words = [sys.executable, "-m", "cliplib", "evaluate", str(checkpoint)]
        command += f" && {shlex.join([*words, '--data', str(evaluate_on), '--out', str(record)])}"
    estimate = placed.wall_hours * 1.25 + 0.5 if placed.rate else job_hours
    resources: dict[str, int | str] = {
        "runtime": math.ceil(60 * min(estimate, job_hours)),
        "cpus_per_task": cores,
        "mem_mb_per_cpu": MEMORY_MB_PER_CORE,
        "nodes": placed.nodes,
    }
    if gpus:
        resources |= {"gres": f"gpu:{placed.gpus_per_node}"}
    if placed.nodes > 1:
        # One task a node: torchrun starts the processes. `mpi` leaves srun to the command, and 0
        # keeps the executor from asking for tasks a GPU.
        resources |= {"mpi": "srun", "tasks": placed.nodes, "tasks_per_gpu": 0}
    tries = 2 + (math.ceil(estimate / job_hours) - 1)
    return Job(placed.run.run_id, command, cores, resources, tries)


def _command(placed: Placement, config_file: Path, folder: Path, cores: int) -> str:
    """The torchrun command as the job runs it; threads are the loader's processes, not OpenMP's."""
    program = f"OMP_NUM_THREADS=1 {shlex.quote(sys.executable)} -m torch.distributed.run"
    if placed.nodes == 1:
        return torchrun(placed, config_file, folder, program=program)
    head = 'HEAD_NODE="$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1)"'
    # a port of the job's own: two jobs may share a node
    endpoint = "$HEAD_NODE:$((20000 + SLURM_JOB_ID % 10000))"
    command = torchrun(placed, config_file, folder, program=program, endpoint=endpoint)
    srun = [f"--nodes={placed.nodes}", f"--ntasks={placed.nodes}", "--ntasks-per-node=1"]
    srun += [f"--cpus-per-task={cores}"]
    if on_shards(placed.run):
        srun += [f"--gres=gpu:{placed.gpus_per_node}"]
    return shlex.join(["srun", *srun, "bash", "-c", f"{head}; {command}"])
