"""Batches of pairs in memory: an epoch shuffle in which no concept occurs twice in a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cliplib import InputError


@dataclass(frozen=True)
class Batch:
    """Which pairs are in a batch: row ``indices`` (batch_size,), and how many deferrals so far."""

    indices: np.ndarray
    deferred: int


def batches(
    concepts: Sequence[str] | np.ndarray, batch_size: int, seed: int, distinct: bool = True
) -> Iterator[Batch]:
    """Endless batches of an epoch shuffle in which no concept occurs twice in a batch.

    Every epoch is a fresh permutation and no pair is dropped or repeated: one whose concept is already
    in the batch waits for the next batch that is free of it. Epochs follow each other without a gap,
    so a batch may end one and begin the next. The sequence depends on the arguments alone: to resume
    at step k, skip k batches. With ``distinct`` off, concepts may meet and nothing waits.

    Raises:
        InputError: some concept is so frequent that it cannot be spread over the batches of an epoch.
    """
    ids = np.unique(np.asarray(concepts), return_inverse=True)[1]
    if not distinct:
        ids = np.arange(len(ids))
    most = int(np.bincount(ids).max())
    if most * batch_size > len(ids):
        raise InputError(
            f"batch size {batch_size} is too large for {len(ids):,} pairs: one concept occurs {most} "
            f"times and may occur once a batch; use at most {len(ids) // most}"
        )
    stream, waiting, deferred = _epochs(len(ids), seed), deque[int](), 0
    while True:
        chosen: list[int] = []
        present: set[int] = set()
        still: deque[int] = deque()
        while len(chosen) < batch_size:
            index = waiting.popleft() if waiting else next(stream)
            if ids[index] in present:
                still.append(index)
            else:
                present.add(ids[index])
                chosen.append(index)
        deferred += len(still)
        still.extend(waiting)
        waiting = still
        yield Batch(np.asarray(chosen), deferred)


def _epochs(n: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from np.random.default_rng([seed, epoch]).permutation(n).tolist()
        epoch += 1


def caption_choice(counts: np.ndarray, seed: int, step: int) -> np.ndarray:
    """Which of its captions each pair of a batch shows at this step: (batch,) integers below ``counts``."""
    return (np.random.default_rng([seed, step, 1]).random(len(counts)) * counts).astype(np.int64)
