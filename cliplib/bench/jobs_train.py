"""Training: the whole step, and the loader alone, beside open_clip's own trainer.

Both sides get the same shards, model file, vocabulary, context, batch size and number of processor
threads, on the processor. Ours and the peer's short runs take turns, each in a process of its own,
so that a machine that slows down slows both; a ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cliplib import InputError, model
from cliplib.bench import our_feeds, peers
from cliplib.bench.measure import Row, job, more_is_better
from cliplib.bench.open_clip_peer import Settings
from cliplib.data import Corpus, open_corpus
from cliplib.rungs import CLIP_VOCAB_SIZE, VOCAB_SIZE

RUNGS = ("XXS", "XS", "S", "M", "L", "S-4", "M-4")
PEER_PRECISIONS = ("fp32", "amp_bf16")
SPEED, COST, MEMORY = "samples_per_s", "cpu_seconds_per_sample", "peak_mb"
PRIVATE = "private_mb"

Measured = dict[str, Any]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def icons(data: str | Path | None = None) -> Corpus:
    """The built icon corpus: ``data``, or CLIPLIB_CORPUS, or data/icons."""
    return open_corpus(Path(data or os.environ.get("CLIPLIB_CORPUS", "data/icons")).resolve())


# --------------------------------------------------------------------------------------- train_step


@dataclass(frozen=True)
class Case:
    """What is trained, and how long a measurement lasts."""

    rung: str
    vocab_size: int
    batch_size: int
    warmup: int
    seconds: float
    threads: int

    def __str__(self) -> str:
        threads = "thread" if self.threads == 1 else "threads"
        words = f"{self.vocab_size:,} words, batch {self.batch_size}, {self.threads} {threads}"
        return f"{self.rung}, {words}"


@job
def train_step(
    rungs: Sequence[str] = RUNGS,
    vocabularies: Sequence[int] = (VOCAB_SIZE, CLIP_VOCAB_SIZE),
    batch_size: int = 128,
    seconds: float = 6.0,
    rounds: int = 3,
    warmup: int = 10,
    workers: Sequence[int] = (0, 1, 2),
    threads: int | None = None,
    data: str | Path | None = None,
) -> Iterator[Row]:
    """Samples a second of whole training steps, ours against ``open_clip_train.main``.

    The peer runs in fp32 and in bf16; its better precision counts. So does its best number of
    loader processes, found anew for each rung. No concept is kept apart in a batch, on either side.
    """
    corpus = icons(data)
    for rung in rungs:
        best = None
        for vocab_size in vocabularies:
            case = Case(rung, vocab_size, batch_size, warmup, seconds, threads or cores())
            best = _best_workers(case, corpus, workers) if best is None else best
            found = [_round(case, corpus, best) for _ in range(rounds)]
            yield from rows_of(case, found, f"open_clip_train --workers {best}")


def _best_workers(case: Case, corpus: Corpus, workers: Sequence[int]) -> int:
    """The peer's quickest number of loader processes, in fp32."""
    if len(workers) == 1:
        return workers[0]
    return max(workers, key=lambda n: peer_train(case, corpus, "fp32", n)[SPEED])


def _round(case: Case, corpus: Corpus, workers: int) -> dict[str, Measured]:
    """One turn of each side: ours, then the peer in each precision."""
    turn = {"ours": our_train(case, corpus)}
    return turn | {how: peer_train(case, corpus, how, workers) for how in PEER_PRECISIONS}


def our_train(case: Case, corpus: Corpus) -> Measured:
    """Our loop's pace, in a process of its own."""
    command = ["-m", "cliplib.train.measure", case.rung, "--vocab", str(case.vocab_size)]
    command += ["--batch", str(case.batch_size), "--seconds", str(case.seconds)]
    command += ["--data", str(corpus.folder)]
    return peers.run_json(command, case.threads)


def peer_train(case: Case, corpus: Corpus, precision: str, workers: int) -> Measured:
    """The pace of open_clip's trainer, in a process of its own."""
    shown = peer_settings(
        corpus, case.rung, case.vocab_size,
        batch_size=case.batch_size, precision=precision, workers=workers,
        warmup=case.warmup, seconds=case.seconds,
    )  # fmt: skip
    return _peer("train", shown, case.threads)


def rows_of(case: Case, rounds: Sequence[Mapping[str, Measured]], who: str) -> Iterator[Row]:
    """Speed, processor time and memory of a case, against the peer's better precision."""
    better = max(PEER_PRECISIONS, key=lambda how: _middle(rounds, how, SPEED))
    ours = rounds[0]["ours"].get("precision", "its own precision")
    against = f"{case}: {who}, in {better} (its better), ours in {ours}"
    yield _row("train_step", f"{against}; median of {len(rounds)} rounds", rounds, better, SPEED)
    yield _row("train_step", f"{against}; processor time", rounds, better, COST)
    yield _row("train_step", f"{against}; peak memory of the process", rounds, better, MEMORY)
    yield _row("train_step", f"{against}; memory of all its processes", rounds, better, PRIVATE)


UNITS = {SPEED: "samples/s", COST: "CPU ms", MEMORY: "MiB", PRIVATE: "MiB"}  # CPU ms: a sample


def _row(
    name: str, case: str, rounds: Sequence[Mapping[str, Measured]], peer: str, what: str
) -> Row:
    """A row whose ratio is the median over rounds of ours to the peer's, above 1 where ours is better."""
    ratios = [turn["ours"][what] / turn[peer][what] for turn in rounds]
    ratio = median(ratios if what == SPEED else [1 / value for value in ratios])
    factor = 1000 if what == COST else 1
    theirs, ours = (factor * _middle(rounds, who, what) for who in (peer, "ours"))
    return Row(name, case, theirs, ours, UNITS[what], ratio)


def _middle(rounds: Sequence[Mapping[str, Measured]], who: str, what: str) -> float:
    return median(turn[who][what] for turn in rounds)


# ----------------------------------------------------------------------------------------- the peer


def peer_settings(corpus: Corpus, rung: str, vocab_size: int, **others: Any) -> Settings:
    """What open_clip is asked for: our tokenizer's folder with our vocabulary, else CLIP's own.

    Raises:
        InputError: a vocabulary that neither has.
    """
    if vocab_size not in (VOCAB_SIZE, CLIP_VOCAB_SIZE):
        known = f"{VOCAB_SIZE} (ours), {CLIP_VOCAB_SIZE} (CLIP's)"
        raise InputError(f"no tokenizer has a vocabulary of {vocab_size}; known: {known}")
    tokenizer = str(model.TOKENIZER) if vocab_size == VOCAB_SIZE else ""
    mean, std = list(model.MEAN), list(model.STD)
    return Settings(rung, vocab_size, tokenizer, brace_range(corpus), mean, std, **others)


def brace_range(corpus: Corpus) -> str:
    """The training shards as one pattern, as open_clip wants it: ``train-{000000..000023}.tar``.

    Raises:
        InputError: their names are not a range of numbers.
    """
    names = [row["path"] for row in corpus.shards("train")]
    first, last = names[0].removesuffix(".tar"), names[-1].removesuffix(".tar")
    stem, _, low = first.rpartition("-")
    high = last.rpartition("-")[2]
    if names != [f"{stem}-{n:0{len(low)}}.tar" for n in range(int(low), int(high) + 1)]:
        raise InputError(f"{corpus.folder}: the training shards are no range of numbers")
    return f"{corpus.folder}/{stem}-{{{low}..{high}}}.tar"


def _peer(task: str, settings: Settings, threads: int) -> Measured:
    command = ["-m", "cliplib.bench.open_clip_peer", task, json.dumps(asdict(settings))]
    return peers.run_json(command, threads, first=peers.overlay())


# ------------------------------------------------------------------------------------------- loader


@job
def loader(
    batch_size: int = 128,
    seconds: float = 5.0,
    rounds: int = 3,
    warmup: int = 10,
    shards: int = 4,
    data: str | Path | None = None,
) -> Iterator[Row]:
    """Batches alone: read, decode, transform, tokenize; one thread, one process or one worker."""
    corpus = icons(data)
    size = {"batch_size": batch_size, "warmup": warmup, "seconds": seconds}
    for workers, where in ((0, "in the process itself"), (1, "one worker")):
        found = [_loader_round(corpus, {**size, "workers": workers}) for _ in range(rounds)]
        case = f"open_clip's webdataset loader, our streaming feed, {where}, the same shards"
        yield _row("loader", case, found, "peer", SPEED)
        yield _row("loader", f"{case}; processor time", found, "peer", COST)
        yield _row("loader", f"{case}; peak memory of the process", found, "peer", MEMORY)
        if not workers:
            pairs = [{"ours": turn["memory"], "peer": turn["peer"]} for turn in found]
            case = "open_clip's webdataset loader, our feed of icons decoded once"
            yield _row("loader", case, pairs, "peer", SPEED)
            yield _row("loader", f"{case}; processor time", pairs, "peer", COST)
    settings = our_feeds.Settings(str(corpus.folder), shards=shards)
    once = _ours("decode", settings)
    case = f"the decoding that the icon feed does once, timed on {once['samples']:,} pairs"
    yield more_is_better("loader", case, None, once[SPEED], UNITS[SPEED])


def _loader_round(corpus: Corpus, size: Mapping[str, Any]) -> dict[str, Measured]:
    """One turn of each feed: ours, the peer's, and in one process our feed of decoded icons."""
    mine = our_feeds.Settings(str(corpus.folder), **size)
    turn = {"ours": _ours("stream", mine)}
    turn["peer"] = _peer("loader", peer_settings(corpus, "XXS", VOCAB_SIZE, **size), 1)
    if not mine.workers:
        turn["memory"] = _ours("memory", mine)
    return turn


def _ours(feed: str, settings: our_feeds.Settings) -> Measured:
    return peers.run_json(["-m", "cliplib.bench.our_feeds", feed, json.dumps(asdict(settings))], 1)


# ------------------------------------------------------------------------------------- matmul_share


@job
def matmul_share(
    rungs: Sequence[str] = RUNGS,
    batch_size: int = 128,
    seconds: float = 6.0,
    rounds: int = 3,
    threads: int | None = None,
    data: str | Path | None = None,
) -> Iterator[Row]:
    """How much of a step its matrix products would take alone: the share of the matmul peak."""
    corpus = icons(data)
    tokens = our_feeds.mean_tokens(corpus)  # padding is nothing that a step has to multiply
    for rung in rungs:
        case = Case(rung, VOCAB_SIZE, batch_size, 0, seconds, threads or cores())
        yield share_row(case, [_share_round(case, corpus, tokens) for _ in range(rounds)])


def _share_round(case: Case, corpus: Corpus, tokens: float) -> tuple[Measured, Measured]:
    """A turn of the step and a turn of its products alone, in the step's precision."""
    step = our_train(case, corpus)
    sizes = [case.rung, str(case.batch_size), f"{tokens:.2f}", step["precision"]]
    return step, peers.run_json(["-m", "cliplib.bench.matmuls", *sizes], case.threads)


def share_row(case: Case, rounds: Sequence[tuple[Measured, Measured]]) -> Row:
    """The median share of the step's time, with what was timed."""
    step = median(whole["step_ms"] for whole, _ in rounds)
    alone = median(products["ms"] for _, products in rounds)
    rate = median(products["gmac_per_s"] for _, products in rounds)
    share = median(products["ms"] / whole["step_ms"] for whole, products in rounds)
    how = f"{case}, {rounds[0][0]['precision']}"
    words = f"{how}: products alone {alone:.3g} ms ({rate:,.0f} GMAC/s), step {step:.3g} ms"
    return Row("matmul_share", words, None, share, "of peak", None)
