"""Rows computed in blocks: the same numbers for any batch, number of threads and processes.

The last bits of a matrix product depend on its shape, and a rank may hang on them. So what is computed
together is fixed by the data alone: block b holds rows b x size and on. How many blocks are worked on
at once, by which thread and in which process, changes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np
import torch

from cliplib.train.world import World

QUIET = 5.0  # seconds before the first line of progress, and between two

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Workers:
    """Who computes, and where progress is told. None of it changes a number.

    Attributes:
        world: the processes; each takes its share of the blocks.
        say: where lines of progress go, from the main process.
        batch: images in memory at once, in whole blocks; 0: two blocks a thread.
    """

    world: World = field(default_factory=World)
    say: Callable[[str], None] = print
    batch: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.world.main

    def tell(self, line: str) -> None:
        """Say a line, once for all processes."""
        if self.main:
            self.say(line)


ALONE = Workers()


def blocks_of(rows: int, size: int) -> list[np.ndarray]:
    """The rows of each block, in order; the last one is shorter."""
    return [np.arange(start, min(start + size, rows)) for start in range(0, rows, size)]


def rows_in_blocks(
    blocks: Sequence[np.ndarray],
    work: Callable[[np.ndarray], np.ndarray],
    workers: Workers = ALONE,
    what: str = "",
) -> np.ndarray:
    """``work`` on every block, each process its share: (n, ...), the same on all of them.

    Args:
        blocks: the rows of each, at least one block; together they are 0 to n - 1, each once.
        work: rows -> (len(rows), ...).
        workers: the processes, and where progress is told.
        what: what is done, for the lines of progress.
    """
    world = workers.world
    mine = blocks[world.rank :: world.size]
    progress = Progress(what, len(mine), workers.tell)
    parts = together([partial(work, rows) for rows in mine], workers.batch // len(blocks[0]))
    found = None
    for rows, part in zip(mine, parts):
        if found is None:
            found = _room(blocks, part)
        found[rows] = part
        progress.add()
    if found is None:  # more processes than blocks
        found = _room(blocks, work(blocks[0][:1]))
    if world.size > 1:
        found = world.sum(torch.from_numpy(found)).numpy()
    return found


def _room(blocks: Sequence[np.ndarray], like: np.ndarray) -> np.ndarray:
    """Zeros for the rows of all blocks."""
    return np.zeros((sum(map(len, blocks)), *like.shape[1:]), like.dtype)


def together(tasks: Sequence[Callable[[], Answer]], ahead: int = 0) -> Iterator[Answer]:
    """The answers in order; as many tasks at once as torch has threads, one thread each.

    ``ahead`` bounds how many answers wait to be taken; 0: two a thread.
    """
    threads = max(1, torch.get_num_threads())
    if threads == 1:
        yield from (task() for task in tasks)
        return
    ahead, pool = max(1, ahead or 2 * threads), _pool(threads, os.getpid())
    waiting = [pool.submit(task) for task in tasks[:ahead]]
    try:
        for place in range(len(tasks)):
            answer = waiting.pop(0).result()
            if place + ahead < len(tasks):
                waiting.append(pool.submit(tasks[place + ahead]))
            yield answer
    finally:
        wait([future for future in waiting if not future.cancel()])


@lru_cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """The threads of a process, kept: what a product of matrices prepares belongs to its thread."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


class Progress:
    """A line every few seconds: how far, and how long it will still take."""

    def __init__(self, what: str, total: int, say: Callable[[str], None]) -> None:
        self.what, self.total, self.say = what, total, say
        self.done, self.start = 0, time.monotonic()
        self.shown = self.start

    def add(self) -> None:
        """Count one more."""
        self.done += 1
        now = time.monotonic()
        if now - self.shown >= QUIET and self.done < self.total:
            self.shown = now
            left = (now - self.start) * (self.total - self.done) / self.done
            self.say(f"{self.what}: {self.done / self.total:.0%}, {left:.0f} s left")
