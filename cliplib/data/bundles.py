"""Decoded samples on their way from the lanes to the batches: in this process or from workers.

Lanes take turns, a bundle of samples each. A worker serves whole lanes, so the number of workers changes
who does the work and nothing else; it packs a bundle into a few arrays, which travel cheaply.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cliplib import InputError
from cliplib.data.lanes import Item, Lane, Plan, Position

SIZE = 64  # samples of a bundle
PREFETCH = 2  # bundles ready in each worker


@dataclass
class Bundle:
    """Samples of one lane in order, the faults met after the last of them, and why it ends, if it does."""

    lane: int
    items: list[Item]
    faults: list[tuple[str, str]] = field(default_factory=list)
    error: str = ""


def bundles(
    plan: Plan, starts: Mapping[int, Position], workers: int
) -> Generator[Bundle, None, None]:
    """Endless bundles of these lanes, each from its position on, lane after lane in turn.

    Raises:
        InputError: a worker process died.
    """
    if not workers:
        yield from _in_turn(plan, starts)
        return
    loader = DataLoader(
        _Lanes(plan, dict(starts)), batch_size=None, num_workers=workers,
        prefetch_factor=PREFETCH, multiprocessing_context=_context(),
    )  # fmt: skip
    try:
        for packed in loader:
            yield packed.unpacked()
    except (RuntimeError, OSError, EOFError) as error:
        if not _tells_of_a_death(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        traceback.clear_frames(error.__traceback__)  # they hold the loader, and with it other workers
        raise InputError(
            f"a data worker died ({reason}); if memory ran out, use fewer workers or a smaller shuffle"
        ) from None


def _tells_of_a_death(error: Exception) -> bool:
    """Whether a worker is gone: torch noticed, or memory that it had promised could not be fetched.

    What was raised inside a worker comes with its traceback, and is of another kind.
    """
    said = str(error)
    if "in DataLoader worker process" in said:
        return False
    return not isinstance(error, RuntimeError) or "worker" in said


def _context() -> Any:
    """Workers start from a clean process: they hold none of our locks, threads or devices."""
    if "forkserver" not in torch.multiprocessing.get_all_start_methods():
        return torch.multiprocessing.get_context("spawn")
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _Lanes(IterableDataset["_Packed"]):
    """The lanes of a process, dealt to its workers."""

    def __init__(self, plan: Plan, starts: dict[int, Position]) -> None:
        self.plan, self.starts = plan, starts

    def __iter__(self) -> Iterator[_Packed]:
        worker = get_worker_info()
        assert worker is not None
        mine = sorted(self.starts)[worker.id :: worker.num_workers]
        for bundle in _in_turn(self.plan, {lane: self.starts[lane] for lane in mine}):
            yield _Packed.of(bundle, self.plan.px)


def _in_turn(plan: Plan, starts: Mapping[int, Position]) -> Iterator[Bundle]:
    turns = [_lane_bundles(plan, lane, start) for lane, start in sorted(starts.items())]
    while True:
        for turn in turns:
            yield next(turn)


def _lane_bundles(plan: Plan, lane: int, start: Position) -> Iterator[Bundle]:
    stream = iter(Lane(plan, lane, start))
    while True:
        bundle = Bundle(lane, [])
        try:
            for got in islice(stream, SIZE):
                if isinstance(got, list):  # a block with nothing in it: let the reader know at once
                    bundle.faults = got
                    break
                bundle.items.append(got)
        except InputError as refused:
            bundle.error = str(refused)
        yield bundle


@dataclass
class _Packed:
    """A bundle of n samples as few objects: what costs little to send to another process."""

    lane: int
    images: torch.Tensor  # (n, px, px, 3) uint8
    words: list[tuple[str, str]]  # caption, key
    marks: torch.Tensor  # (n, 8) int64: caption hash, visit, sample, epoch, then the position after
    met: dict[int, list[tuple[str, str]]]  # row -> faults
    faults: list[tuple[str, str]]
    error: str

    @classmethod
    def of(cls, bundle: Bundle, px: int) -> _Packed:
        items = bundle.items
        images = np.empty((len(items), px, px, 3), np.uint8)
        for row, item in enumerate(items):
            images[row] = item.image
        marks = [(item.hashed, item.visit, item.sample, item.epoch, *item.then) for item in items]
        return cls(
            bundle.lane, torch.from_numpy(images), [(item.caption, item.key) for item in items],
            torch.tensor(marks, dtype=torch.int64).reshape(-1, 8),
            {row: item.faults for row, item in enumerate(items) if item.faults},
            bundle.faults, bundle.error,
        )  # fmt: skip

    def unpacked(self) -> Bundle:
        rows = enumerate(zip(self.images.numpy(), self.words, self.marks.tolist()))
        items = [
            Item(
                image, caption, hashed, key, visit, sample, epoch, Position(*then), self.met.get(row, []),
            )
            for row, (image, (caption, key), (hashed, visit, sample, epoch, *then)) in rows
        ]  # fmt: skip
        return Bundle(self.lane, items, self.faults, self.error)
