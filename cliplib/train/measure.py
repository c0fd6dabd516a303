"""How fast the loop is on this machine: whole steps of a rung on the icon corpus, nothing written.

``python -m cliplib.train.measure XS --seconds 10`` prints one JSON line. The bench runs it beside its
peer; the book's table of threads and processes comes from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cliplib import InputError, ladder
from cliplib.data import load_split, open_corpus
from cliplib.ladder import Rung, run_spec
from cliplib.pace import peak_mb, private_mb
from cliplib.rungs import CLIP_VOCAB_SIZE, VOCAB_SIZE
from cliplib.train import engines
from cliplib.train.config import Engine
from cliplib.train.feeds import Feed, IconFeed, Share
from cliplib.train.optimiser import lr_at
from cliplib.train.world import World

WARM_UP = 5
STEPS = 10_000  # of the schedule that the measured steps are the beginning of


def throughput(
    rung: str, vocab_size: int = VOCAB_SIZE, batch_size: int = 128, seconds: float = 10.0, *,
    engine: Engine | None = None, distinct: bool = False, data: Path = Path("data/icons"),
) -> dict[str, Any]:  # fmt: skip
    """Time whole steps: next batch, gradient, clipping, optimiser.

    Args:
        rung: architecture, by name.
        vocab_size: 4,096 (the icons' own) or 49,408 (CLIP's): the size of the token table.
        batch_size: pairs a step, over all processes.
        seconds: how long, after some steps that warm up.
        engine: switches, as in a configuration.
        distinct: whether no caption may come twice in a batch.
        data: the built icon corpus.

    Returns:
        samples_per_s, cpu_seconds_per_sample (all threads of this process), step_ms (median),
        peak_mb (of this process), private_mb (of it and its children, no mapped files), steps,
        processes, threads, path, precision.
    """
    switches = engine or Engine()
    world = World.join()
    model, feed, run = _prepare(rung, vocab_size, batch_size, switches, distinct, data, world)
    times: list[float] = []
    begin = cpu = 0.0
    for step in range(STEPS):
        if step == WARM_UP:
            begin, cpu = time.perf_counter(), time.process_time()
        start = time.perf_counter()
        model.gradient(feed.next())
        model.clip_gradient()
        model.step(lr_at(run, step, STEPS))
        now = time.perf_counter()
        if step >= WARM_UP:
            times.append(now - start)
            if world.any(now - begin > seconds):
                break
    wall, spent = now - begin, time.process_time() - cpu
    world.leave()
    return {
        "samples_per_s": round(len(times) * batch_size / wall, 1),
        "cpu_seconds_per_sample": spent * world.size / (len(times) * batch_size),
        "step_ms": round(1e3 * statistics.median(times), 3), "peak_mb": round(peak_mb(), 1),
        "private_mb": round(private_mb(), 1), "steps": len(times),
        "processes": world.size, "threads": torch.get_num_threads(),
        "path": engines.resolve(ladder.rung(rung), switches).path,
        "precision": engines.resolve(ladder.rung(rung), switches).precision,
    }  # fmt: skip


def _prepare(
    name: str, vocab_size: int, batch_size: int, switches: Engine, distinct: bool, data: Path,
    world: World,
) -> tuple[engines.Engine, Feed, ladder.RunSpec]:  # fmt: skip
    run = run_spec("nano", name, STEPS * batch_size, batch_size=batch_size)
    rung = ladder.rung(name)
    icons = IconFeed(run, rung, open_corpus(data), distinct, world, None)
    feed: Feed = icons
    if vocab_size == CLIP_VOCAB_SIZE:
        rung = dataclasses.replace(rung, vocab_size=vocab_size)
        pairs = load_split(open_corpus(data), "train")
        feed = _InClipsVocabulary(icons, rung, pairs.captions)
    elif vocab_size != VOCAB_SIZE:
        raise InputError(f"--vocab {vocab_size}: {VOCAB_SIZE} or {CLIP_VOCAB_SIZE}")
    how = engines.resolve(rung, switches)
    return engines.make(run, rung, how, switches, feed.used, world), feed, run


class _InClipsVocabulary:
    """The icon feed with captions in CLIP's own tokens, tokenized once."""

    def __init__(self, icons: IconFeed, rung: Rung, captions: list[list[str]]) -> None:
        import numpy as np

        from cliplib import model

        self.icons, self.world = icons, icons.world
        texts = [text for several in captions for text in several]
        ids, self.lengths = model.tokens_for(rung, texts)
        rows = np.arange(len(ids))[:, None]  # the feed now draws rows, not tokens
        icons.captions = dataclasses.replace(icons.captions, flat=rows)
        self.ids = ids.astype(np.int64)
        self.used = np.union1d(ids, 0).astype(np.int64)

    def next(self) -> Share:
        """The next batch, its captions looked up."""
        share = self.icons.next()
        rows = share.tokens[:, 0]
        return Share(share.images, self.ids[rows], self.lengths[rows])

    def state(self) -> dict[str, Any]:
        """As the icon feed's."""
        return self.icons.state()

    def counts(self) -> dict[str, Any]:
        """As the icon feed's."""
        return self.icons.counts()

    def close(self) -> None:
        """Nothing runs beside."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one rung and print the answer as JSON."""
    parser = argparse.ArgumentParser(
        prog="cliplib.train.measure", description=__doc__.split("\n", 1)[0],
        epilog="example: python -m cliplib.train.measure XS --seconds 10",
    )  # fmt: skip
    parser.add_argument("rung")
    parser.add_argument("--vocab", type=int, default=VOCAB_SIZE, help="4096 or 49408")
    parser.add_argument("--batch", type=int, default=128, help="pairs a step")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--path", choices=("fast", "torch"))
    parser.add_argument("--precision", choices=("bf16", "fp32"))
    parser.add_argument("--attention", choices=("plain", "fused"))
    parser.add_argument("--threads", type=int, help="of this process (default: torch's)")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--distinct", action="store_true", help="no caption twice in a batch")
    parser.add_argument("--data", type=Path, default=Path("data/icons"))
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    switches = Engine(
        path=args.path, precision=args.precision, attention=args.attention, compile=args.compile,
        threads=args.threads if args.path == "fast" else None,
    )  # fmt: skip
    try:
        answer = throughput(
            args.rung, args.vocab, args.batch, args.seconds,
            engine=switches, distinct=args.distinct, data=args.data,
        )  # fmt: skip
    except InputError as error:
        print(f"cliplib.train.measure: {error}", file=sys.stderr)
        return 2
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
