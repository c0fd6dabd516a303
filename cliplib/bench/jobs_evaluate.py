"""Evaluation beside CLIP_benchmark: zero-shot, retrieval and the grid of probes, on the same files.

Each side runs in a process of its own, on the same number of processors, and they take turns; what is
timed begins with the opening of the data and ends with the metrics (the model is loaded before). The peer
runs with and without mixed precision, its processors given to the model or to helpers of its loader; the
best of its ways counts, and what it does by default is told beside it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cliplib import model
from cliplib.bench import peers
from cliplib.bench.clip_benchmark_peer import Evaluated, Probed, command
from cliplib.bench.jobs_train import icons
from cliplib.bench.measure import Row, job, less_is_better
from cliplib.evaluate.icon_tasks import held_out_task, retrieval_pool
from cliplib.evaluate.linear_probe import GRID, Setting
from cliplib.evaluate.tasks import Task
from cliplib.evaluate.wds import write_task
from cliplib.ladder import rung

OURS = "cliplib.bench.our_evaluation"
#: Helpers of the loader, and mixed precision: what CLIP_benchmark's command line does unless told otherwise.
DEFAULT = (4, True)
Measured = dict[str, Any]


@job
def zero_shot(
    rungs: Sequence[str] = ("XXS", "XS", "S"), threads: Sequence[int] = (1, 2), rounds: int = 3,
    task: str = "phosphor", data: str | Path | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Zero-shot classification of an icon task, beside CLIP_benchmark's own."""
    yield from _compared("zero_shot", held_out_task(icons(data), task), rungs, threads, rounds)


@job
def retrieval(
    rungs: Sequence[str] = ("XXS", "XS", "S"), threads: Sequence[int] = (1, 2), rounds: int = 3,
    data: str | Path | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Retrieval in both directions among the study's thousand pairs, beside CLIP_benchmark's own."""
    yield from _compared("retrieval", retrieval_pool(icons(data)), rungs, threads, rounds)


def _compared(
    name: str, task: Task, rungs: Sequence[str], threads: Sequence[int], rounds: int
) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_task(task, root / f"wds_{task.name}")
        for one in rungs:
            checkpoint = root / one
            model.save(model.create(rung(one), 0), rung(one), checkpoint)
            case = f"{one}, {len(task.images):,} images of {task.name}"
            for count in threads:
                turns = [_turn(name, checkpoint, data, count) for _ in range(rounds)]
                yield from _rows(name, case, count, turns)
            yield _apart(name, case, turns[0])


def _turn(name: str, checkpoint: Path, data: Path, threads: int) -> dict[str, Measured]:
    """One turn of each side; of the peer's ways the quickest, and on several threads its defaults."""

    def peer(workers: int, amp: bool, model_threads: int) -> Measured:
        settings = Evaluated(str(checkpoint), str(data), workers=workers, amp=amp)
        asked = command((name, settings))
        way = f"{workers} workers, {'mixed precision' if amp else 'fp32'}"
        return peers.run_json(asked, model_threads, first=peers.overlay()) | {"way": way}

    turn = {"ours": _ours(name, checkpoint, data, threads), "exact": peer(0, False, threads)}
    found = [turn["exact"], peer(0, True, threads)]
    if threads > 1:
        turn["default"] = peer(*DEFAULT, threads)
        found += [turn["default"], peer(threads, False, 1), peer(threads, True, 1)]
    return turn | {"peer": min(found, key=lambda one: one["seconds"])}


def _ours(name: str, checkpoint: Path, data: Path, threads: int) -> Measured:
    """Ours, in the precision that the hardware asks for, and once more in fp32 for the numbers."""
    return peers.run_json(["-m", OURS, name, str(checkpoint), str(data)], threads)


def _rows(
    name: str, case: str, threads: int, turns: Sequence[Mapping[str, Measured]]
) -> Iterator[Row]:
    """Seconds and memory beside the peer's best way, and on several threads beside its defaults."""
    count = "1 thread" if threads == 1 else f"{threads} threads"
    ours = turns[0]["ours"]["precision"]
    for who, what in (("peer", "at best"), ("default", "by default")):
        if who in turns[0]:
            text = (
                f"{case}, {count}: CLIP_benchmark {what} ({turns[0][who]['way']}), ours in {ours}"
            )
            yield _seconds(name, f"{text}; median of {len(turns)} rounds", who, turns)
            its, own = (median(turn[side]["peak_mb"] for turn in turns) for side in (who, "ours"))
            yield less_is_better(name, f"{text}; peak memory of the process", its, own, "MiB")


def _seconds(name: str, case: str, who: str, turns: Sequence[Mapping[str, Measured]]) -> Row:
    """Medians, and that of the ratios within a turn."""
    ratio = median(turn[who]["seconds"] / turn["ours"]["seconds"] for turn in turns)
    theirs, ours = (median(turn[side]["seconds"] for turn in turns) for side in (who, "ours"))
    return Row(name, case, theirs, ours, "s", ratio)


def _apart(name: str, case: str, turn: Mapping[str, Measured]) -> Row:
    """The largest difference of a metric."""
    apart = difference(turn["exact"]["metrics"], turn["ours"]["metrics"])
    return Row(name, f"{case}: largest difference of a metric, both in fp32", None, apart, "", None)


#: Metrics of ours by the peer's names.
NAMES = {
    "acc1": "top1", "acc5": "top5", "mean_per_class_recall": "mean_per_class_recall",
    **{f"{long}_retrieval_recall@{k}": f"{short} recall_at_{k}"
       for long, short in (("image", "t2i"), ("text", "i2t")) for k in (1, 5, 10)},
}  # fmt: skip


def difference(theirs: Mapping[str, float], ours: Mapping[str, float]) -> float:
    """The largest difference between the two sides' metrics."""
    return max(abs(value - ours[NAMES[name]]) for name, value in theirs.items())


# --------------------------------------------------------------------------------------------- probes


@job
def probe_grid(
    cases: Sequence[tuple[int, int, int]] = ((64, 8, 2935), (96, 6, 5024), (512, 100, 5000)),
    settings: Sequence[Setting] = GRID, rounds: int = 1, threads: int = 1,
) -> Iterator[Row]:  # fmt: skip
    """The paper's nine settings on cached features of so many dimensions, classes and images.

    The peer trains one after the other, as its users do; nothing is scaled.
    """
    total = sum(setting.epochs for setting in settings)
    for width, classes, n in cases:
        with tempfile.TemporaryDirectory() as folder:
            features = Path(folder) / "features.npz"
            arrays = _clouds(width, classes, n)
            np.savez(features, x=arrays["x"], y=arrays["y"], tx=arrays["tx"], ty=arrays["ty"])
            turns = [_probe_turn(features, settings, threads) for _ in range(rounds)]
        theirs, ours = (median(turn[who]["seconds"] for turn in turns) for who in ("peer", "ours"))
        ratio = median(turn["peer"]["seconds"] / turn["ours"]["seconds"] for turn in turns)
        case = f"{n:,} features of {width}, {classes} classes: {len(settings)} settings, {total} epochs"
        yield Row(
            "probe_grid", f"{case} (its .cuda() made to stay on the CPU)", theirs, ours, "s", ratio
        )
        apart = np.subtract(turns[0]["ours"]["accuracy"], turns[0]["peer"]["accuracy"])
        text = f"{case}: mean difference of the accuracies, ours - CLIP_benchmark's"
        yield Row("probe_grid", text, None, float(apart.mean()), "", None)


def _clouds(width: int, classes: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, width))
    found: dict[str, np.ndarray] = {}
    for x, y, count in (("x", "y", n), ("tx", "ty", 500)):
        labels = np.arange(count) % classes
        points = centres[labels] + 2 * rng.normal(size=(count, width))
        found |= {x: (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)}
        found |= {y: labels}
    return found


def _probe_turn(features: Path, settings: Sequence[Setting], threads: int) -> dict[str, Measured]:
    """Both sides on the whole grid."""
    asked = Probed(str(features), settings=[(one.lr, one.epochs, 0) for one in settings])
    grid = json.dumps([(one.lr, one.epochs) for one in settings])
    return {
        "peer": peers.run_json(command(("probes", asked)), threads, first=peers.overlay()),
        "ours": peers.run_json(["-m", OURS, "probes", str(features), grid], threads),
    }


# -------------------------------------------------------------------------------- large pools, whole runs


@job
def large_retrieval(queries: int = 4000, pools: Sequence[int] = (16_000, 64_000)) -> Iterator[Row]:
    """Memory of ranking among ever more candidates: that of a tile, not of the matrix."""
    for pool in pools:
        found = peers.run_json(["-m", OURS, "pool", str(queries), str(pool)], 1)
        case = f"{queries:,} queries among {pool:,}: memory beyond the features; the matrix in fp32"
        yield less_is_better(
            "large_retrieval", case, 4 * queries * pool / 2**20, found["extra_mb"], "MiB"
        )
