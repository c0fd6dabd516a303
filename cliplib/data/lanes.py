"""Lanes: the order in which samples are served, a function of the seed and nothing else.

The stream of shards is dealt to a fixed number of lanes. Each lane goes its own way for ever: it reads
its shards in turn, a block of samples at a time, and serves each block in a drawn order. Whichever
process or worker serves a lane, its samples are the same, and a :class:`Position` of four integers is
all that is needed to go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cliplib import InputError
from cliplib.data.decode import MAX_PIXELS, caption_hash, captions, draws, picture
from cliplib.data.faults import Fault
from cliplib.data.remote import open_shard
from cliplib.data.tar import Group, groups
from cliplib.data.urls import shard_name

MAX_BLOCK_BYTES = 512 << 20
_BARREN = 1_000  # unusable samples beyond the wanted ones after which a block ends


@dataclass(frozen=True)
class Plan:
    """What the order of samples is made from."""

    shards: tuple[str, ...]
    px: int
    sampler: str = "epoch"
    lanes: int = 8
    shuffle: int = 2_000
    seed: int = 0
    augment: bool = True
    max_pixels: int = MAX_PIXELS

    def visit(self, lane: int, number: int) -> tuple[int, int]:
        """The shard that a lane reads as its ``number``-th, and the epoch in which it does so.

        "epoch": all shards, shuffled anew each epoch, one after the other, are dealt to the lanes in
        turn; so each is read once an epoch, and no lane gets more than one shard ahead of another.
        "replacement": every draw is independent and an epoch of its own.
        """
        place = number * self.lanes + lane
        if self.sampler == "replacement":
            return _drawn(len(self.shards), self.seed, place), place
        epoch, place = divmod(place, len(self.shards))
        return int(_order(len(self.shards), self.seed, epoch)[place]), epoch

    def epoch(self, lane: int, number: int) -> int:
        """How many times as many shards as there are had been dealt before this visit."""
        return (number * self.lanes + lane) // len(self.shards)


@lru_cache(4)
def _order(shards: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 2]).permutation(shards)


@lru_cache(64)
def _drawn(shards: int, seed: int, place: int) -> int:
    return int(np.random.default_rng([seed, place, 3]).integers(shards))


class Position(NamedTuple):
    """Where a lane goes on.

    Its block begins at sample ``sample`` of visit ``visit``, is the lane's ``block``-th, and ``after``
    of its samples, in the drawn order, are behind us.
    """

    visit: int = 0
    sample: int = 0
    block: int = 0
    after: int = 0


class Item(NamedTuple):
    """A decoded sample of a lane, and what to remember when it is taken."""

    image: np.ndarray  # (px, px, 3) uint8
    caption: str
    hashed: int  # of the caption, 64 bits, signed
    key: str
    visit: int
    sample: int
    epoch: int
    then: Position  # where the lane goes on once this one is taken
    faults: list[tuple[str, str]]  # (kind, shard) met since the sample before


class _Raw(NamedTuple):
    visit: int
    shard: int
    epoch: int
    group: Group

    @property
    def sample(self) -> int:
        return self.group.place


class _Trouble(NamedTuple):
    visit: int
    sample: int
    epoch: int
    kind: str
    shard: str


@dataclass
class _Block:
    """A run of raw samples and the faults met among them."""

    start: Position
    end: Position  # where the next block starts
    raw: list[_Raw] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


class Lane:
    """One lane of a plan, from a position on."""

    def __init__(self, plan: Plan, number: int, start: Position = Position()) -> None:  # noqa: B008
        self.plan, self.number, self._start = plan, number, start
        self._events = self._read(start)
        self._held = deque[_Raw | _Trouble]()
        self._last_good = start.visit

    def __iter__(self) -> Iterator[Item | list[tuple[str, str]]]:
        """Endless items; or, where a block has nothing to serve, the faults met in it.

        Raises:
            InputError: as many shards as there are, one after the other, hold no usable sample.
        """
        start = self._start
        while True:
            block = self._block(start)
            yield from self._serve(block, start.after)
            start = block.end

    def find(self, visit: int, samples: set[int]) -> dict[int, Item]:
        """Single samples of a visit once more, by their place in the shard (to resume deferred ones)."""
        found: dict[int, Item] = {}
        for event in Lane(self.plan, self.number, Position(visit))._events:
            if event.visit != visit or len(found) == len(samples):
                break
            if isinstance(event, _Raw) and event.sample in samples:
                found[event.sample] = self._decoded(event, Position(), [])
        return found

    # ---- serving a block

    def _serve(self, block: _Block, after: int) -> Iterator[Item | list[tuple[str, str]]]:
        """The block's items from ``after`` on; each knows the faults between it and the next one."""
        order = self._shuffled(len(block.raw), block.start.block)
        met = [] if after else list(block.faults)  # at a later place they are counted already
        waiting: Item | None = None
        for place in range(after, len(order)):
            try:
                item = self._decoded(block.raw[order[place]], block.start, met)
            except Fault as fault:
                shard = self.plan.shards[block.raw[order[place]].shard]
                (waiting.faults if waiting else met).append((fault.kind, shard_name(shard)))
                continue
            if waiting:
                yield waiting._replace(then=block.start._replace(after=place))
            waiting, met = item, []
            self._last_good = item.visit
        if waiting:
            yield waiting._replace(then=block.end)
        else:
            yield met
            self._refuse_barren(block)

    def _shuffled(self, n: int, block: int) -> list[int]:
        if n < 2:
            return list(range(n))
        chance = np.random.default_rng([self.plan.seed, self.number, block, 4])
        return chance.permutation(n).tolist()

    def _decoded(self, raw: _Raw, then: Position, met: list[tuple[str, str]]) -> Item:
        plan, group = self.plan, raw.group
        chance = draws(plan.seed, raw.epoch, raw.shard, group.key)
        several = captions(group.parts)
        caption = several[int(chance.random() * len(several))]
        image = picture(group.parts, plan.px, chance if plan.augment else None, plan.max_pixels)
        return Item(
            image,
            caption,
            caption_hash(caption),
            group.key,
            raw.visit,
            group.place,
            raw.epoch,
            then,
            met,
        )

    def _refuse_barren(self, block: _Block) -> None:
        shards = len(self.plan.shards)
        if not block.raw and self._peek().visit - self._last_good > shards:
            kinds = sorted({kind for kind, _ in block.faults})
            raise InputError(
                f"{shards:,} shards in a row hold no usable sample (last seen: {', '.join(kinds)} in "
                f"{block.faults[-1][1]}); they need NAME.jpg, .png or .webp and NAME.txt or .json"
            )

    # ---- reading a block

    def _block(self, start: Position) -> _Block:
        """The next block: up to ``shuffle`` samples of one epoch, with the faults up to the next one."""
        size, held, first = self._size(start.block), 0, self._peek()
        block = _Block(start, start)
        while True:
            event = self._peek()
            if self._epoch_of(event) != self._epoch_of(first):
                break
            if isinstance(event, _Trouble):
                block.faults.append((event.kind, event.shard))
            elif len(block.raw) < size and held < MAX_BLOCK_BYTES:
                block.raw.append(event)
                held += sum(map(len, event.group.parts.values()))
            else:
                break
            self._held.popleft()
            if len(block.faults) >= _BARREN + size:
                break
        following = self._peek()
        block.end = Position(following.visit, following.sample, start.block + 1)
        return block

    def _size(self, block: int) -> int:
        """Samples of a block; the first blocks differ, so that not all lanes read at the same time."""
        plan = self.plan
        return plan.shuffle if block else -(-plan.shuffle * (self.number + 1) // plan.lanes)

    def _epoch_of(self, event: _Raw | _Trouble) -> int:
        """Epochs do not mix within a block; draws with replacement do."""
        return event.epoch if self.plan.sampler == "epoch" else 0

    def _peek(self) -> _Raw | _Trouble:
        if not self._held:
            self._held.append(next(self._events))
        return self._held[0]

    def _read(self, start: Position) -> Iterator[_Raw | _Trouble]:
        """Everything met in this lane's shards, for ever, from a place in one of them on."""
        visit, skip = start.visit, start.sample
        while True:
            for event in self._visit(visit):
                if event.sample >= skip:
                    yield event
            visit, skip = visit + 1, 0

    def _visit(self, visit: int) -> Iterator[_Raw | _Trouble]:
        shard, epoch = self.plan.visit(self.number, visit)
        url, count = self.plan.shards[shard], 0
        try:
            with open_shard(url) as stream:
                for group in groups(stream):
                    count = group.place + 1
                    if group.fault is None:
                        yield _Raw(visit, shard, epoch, group)
                    else:
                        yield _Trouble(visit, group.place, epoch, group.fault, shard_name(url))
        except Fault as fault:
            yield _Trouble(visit, count, epoch, fault.kind, shard_name(url))
