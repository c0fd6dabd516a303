"""Where the time of one step goes, on one thread: phases, and kinds of operations in the gradient.

Phases are timed as they are. The gradient is then taken again under torch's profiler, whose own cost
falls on every operation alike, so it gives shares; milliseconds are shares of the time without it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from cliplib import ladder
from cliplib.data import open_corpus
from cliplib.ladder import run_spec
from cliplib.train import engines
from cliplib.train.config import Engine
from cliplib.train.feeds import IconFeed, Share
from cliplib.train.instruments import WARM_UP, Profile
from cliplib.train.world import World

BATCH = 128
STEPS = 8  # that are timed, and as many again under the profiler
LR = 1e-4
BETWEEN = "Python and waiting between operations"
OTHER = "views and all else"
#: Kinds of operations by parts of their torch names; the first that fits counts.
KINDS = (
    ("attention: its products and softmax", ("bmm", "softmax", "scaled_dot_product", "flash")),
    ("matrix products", ("aten::mm", "addmm", "matmul", "convolution", "mkldnn")),
    ("GELU", ("gelu",)),
    ("LayerNorm", ("layer_norm",)),
    ("autograd's own work", ("autograd::", "Backward", "AccumulateGrad")),
    ("token rows: looked up and added up", ("index", "embedding", "scatter", "gather")),
    ("copies and casts", ("copy", "clone", "empty", "fill", "zero", "cat", "contiguous")),
    ("sums, additions, scaling", ("add", "mul", "sub", "sum", "div", "norm", "mean")),
)


def main() -> int:
    """``... step_profile RUNG VOCABULARY fast|torch bf16|fp32 DATA``: JSON on stdout."""
    rung, vocabulary, path, precision, data = sys.argv[1:6]
    torch.set_num_threads(1)
    print(json.dumps({"rows": rows(rung, int(vocabulary), path, precision, Path(data))}))
    return 0


def rows(rung: str, vocabulary: int, path: str, precision: str, data: Path) -> list[dict[str, Any]]:
    """Rows {level, part, ms, share}: level "phase" is of the step, "kind" of the gradient's phase.

    The torch path is what open_clip's trainer computes: autograd, fused attention, in bf16 autocast.
    Captions are in the icons' own tokens; ``vocabulary`` is the number of rows of the token table.
    """
    attention = None if path == "fast" else "fused"
    switches = Engine(path=path, precision=precision, attention=attention)
    engine, feed = _prepared(rung, vocabulary, switches, data)
    phases = _phases(engine, feed)
    gradient = phases["gradient"]
    kinds = _kinds(engine, feed)
    return _shares("phase", phases, sum(phases.values())) + _shares("kind", kinds, gradient)


def _prepared(
    name: str, vocabulary: int, switches: Engine, data: Path
) -> tuple[engines.Engine, IconFeed]:
    run = run_spec("nano", name, 1_000 * BATCH, batch_size=BATCH)
    rung = ladder.rung(name)
    feed = IconFeed(run, rung, open_corpus(data), False, World(), None)
    rung = dataclasses.replace(rung, vocab_size=vocabulary)
    how = engines.resolve(rung, switches)
    engine = engines.make(run, rung, how, switches, feed.used, World())
    if isinstance(engine, engines.FastEngine):
        engine.fast.pool = Here()  # type: ignore[assignment]  # its profiler sees this thread only
    return engine, feed


class Here(Executor):
    """Does what it is given at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The finished work."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def _phases(engine: engines.Engine, feed: IconFeed) -> dict[str, float]:
    """Milliseconds of each phase of a step."""
    clock = Profile(STEPS, lambda table: None)
    for _ in range(WARM_UP + STEPS):
        with clock.phase("data"):
            share = feed.next()
        with clock.phase("gradient"):
            engine.gradient(share)
        with clock.phase("clipping"):
            engine.clip_gradient()
        with clock.phase("optimiser"):
            engine.step(LR)
        clock.end_step()
    return {name: 1e3 * spent / STEPS for name, spent in clock.seconds.items()}


def _kinds(engine: engines.Engine, feed: IconFeed) -> dict[str, float]:
    """Time of each kind of operation in the gradient, in any unit."""
    shares: list[Share] = [feed.next() for _ in range(STEPS)]
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        begin = time.perf_counter()
        for share in shares:
            engine.gradient(share)
        whole = 1e6 * (time.perf_counter() - begin)
    found: defaultdict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total
    found[BETWEEN] = max(0.0, whole - sum(found.values()))
    return found


def kind_of(operation: str) -> str:
    """The kind of an operation by its torch name.

    >>> kind_of("aten::addmm"), kind_of("aten::bmm")
    ('matrix products', 'attention: its products and softmax')
    """
    return next((kind for kind, parts in KINDS if any(p in operation for p in parts)), OTHER)


def _shares(level: str, spent: dict[str, float], ms: float) -> list[dict[str, Any]]:
    """The dearest first; ``ms`` is what all of them take together."""
    total = sum(spent.values())
    return [
        {"level": level, "part": part, "ms": round(ms * value / total, 4),
         "share": round(value / total, 5)}
        for part, value in sorted(spent.items(), key=lambda item: -item[1])
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
