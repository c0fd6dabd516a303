"""Batches from any webdataset shards: the same ones for any number of processes and workers.

Slot ``s`` of a global batch of B is served by lane ``s // (B / lanes)``, and each process serves a
contiguous run of lanes, so its slots are its contiguous share of the batch. What a lane serves depends
on the seed alone (:mod:`cliplib.data.lanes`); which captions meet in a batch is decided by all processes
together, in the order of the slots.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cliplib import InputError
from cliplib.data import faults as kinds
from cliplib.data.bundles import Bundle, bundles
from cliplib.data.faults import Faults
from cliplib.data.lanes import Item, Plan, Position
from cliplib.data.preflight import check_counts, check_reachable
from cliplib.data.source import ShardSource
from cliplib.data.states import (
    digest,
    identity,
    merge_counts,
    merge_states,
    read_again,
    refuse_other_data,
)
from cliplib.data.urls import expand

__all__ = ["ShardBatch", "ShardFeed", "ShardSource", "merge_counts", "merge_states"]

Gather = Callable[[Any], list[Any]]
SPARE_DEFERRALS = 256  # that a lane may have waiting, besides those of four batches


@dataclass(frozen=True)
class ShardBatch:
    """One process's part of a global batch of b samples, in slot order.

    Attributes:
        images: (b, px, px, 3) uint8.
        captions: one a sample, drawn among its captions.
        slots: (b,) place in the global batch.
        keys: names in the shards.
        epochs: (b,) the epoch each sample belongs to.
    """

    images: np.ndarray
    captions: list[str]
    slots: np.ndarray
    keys: list[str]
    epochs: np.ndarray


@dataclass
class _LaneQueue:
    """A lane as the batches see it: what is decoded, what was deferred, and where to resume."""

    position: Position
    ready: deque[Item | Bundle] = field(default_factory=deque)  # a bundle: for what has no sample
    unowned: list[tuple[str, str]] = field(default_factory=list)  # faults before the next sample
    deferred: deque[Item] = field(default_factory=deque)  # from earlier batches: served first
    refused: deque[Item] = field(default_factory=deque)  # by the batch being filled

    def refuse(self, item: Item) -> None:
        """This batch has its caption already; the copy frees the bundle that the image is part of."""
        self.refused.append(item._replace(image=item.image.copy()))

    def close_batch(self) -> None:
        """What this batch refused waits with the others."""
        self.refused.extend(self.deferred)
        self.deferred, self.refused = self.refused, deque()


@dataclass(frozen=True)
class _Offer:
    """What a process tells the others when a batch is filled."""

    hashes: np.ndarray  # of the candidates for its open slots, int64
    read: int
    bad: int
    lost: frozenset[str]
    whole_epoch: bool
    stuck: str  # the commonest caption among too many deferred ones
    error: str


class ShardFeed:
    """One process's part of every batch, in order, from a state on.

    Args:
        source: which shards, and how.
        px: side of the pictures in pixels.
        batch_size: of the global batch; a multiple of the lanes.
        rank, size: this process, and how many there are.
        gather: gives every process the list of what each of them passed in, in rank order.
        state: as :meth:`state` gave it, or :func:`merge_states` of all processes' states, of a run
            with any number of processes.

    Raises:
        InputError: numbers that do not fit, shards that are not there, or a state of other data.
    """

    def __init__(
        self, source: ShardSource, px: int, batch_size: int, rank: int = 0, size: int = 1,
        gather: Gather = lambda value: [value], state: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.source, self.batch_size, self.rank, self._gather = source, batch_size, rank, gather
        shards = _checked(source, batch_size, rank, size, gather)
        self.plan = Plan(
            shards, px, source.sampler, source.lanes, source.shuffle, source.seed, source.augment,
            source.max_pixels,
        )  # fmt: skip
        mine = source.lanes // size
        self._part = batch_size // size
        self._first_slot = rank * self._part
        self._queues = {
            lane: _LaneQueue(Position()) for lane in range(rank * mine, (rank + 1) * mine)
        }
        self._slot_lane = np.repeat(list(self._queues), batch_size // source.lanes).tolist()
        self._seen = self._taken = self._deferred = 0
        self._faults = Faults()
        if state is not None:
            self._restore(state)
        starts = {lane: queue.position for lane, queue in self._queues.items()}
        self._bundles = bundles(self.plan, starts, source.workers)

    def next(self) -> ShardBatch:
        """This process's part of the next batch.

        Raises:
            InputError: too much cannot be used, a caption is too frequent to be spread over the
                batches, a worker died, or another process met one of these. Raised on all processes.
        """
        slots: list[Item | None] = [None] * self._part
        present: set[int] = set()
        still_free = self.batch_size
        while still_free:
            free = [slot for slot, item in enumerate(slots) if item is None]
            candidates, offers = self._candidates(free)
            self._refuse(offers)
            admitted = self._admitted(offers, present)
            still_free -= sum(map(sum, admitted))
            for slot, item, good in zip(free, candidates, admitted[self.rank]):
                if good:
                    slots[slot] = item
                else:
                    self._deferred += 1
                    self._queues[self._slot_lane[slot]].refuse(item)
        for queue in self._queues.values():
            queue.close_batch()
        return self._batch([item for item in slots if item is not None])

    def state(self) -> dict[str, Any]:
        """What it takes to go on after the last batch: plain JSON, a few numbers a lane."""
        lanes = {
            str(lane): {
                "position": list(queue.position),
                "deferred": [[item.visit, item.sample, item.key] for item in queue.deferred],
            }
            for lane, queue in self._queues.items()
        }
        totals = {
            "seen": self._seen, "taken": self._taken, "deferred": self._deferred,
            "faults": self._faults.to_dict(),
        }  # fmt: skip
        return {"data": identity(self.plan, self.source.unique), "lanes": lanes, "totals": totals}

    def counts(self) -> dict[str, Any]:
        """Samples delivered, deferrals, faults, and whole epochs behind us, of this process.

        Sums of earlier sessions are in the counts of the process that serves the first lane of the
        state that was resumed; so :func:`merge_counts` is exact whatever the number of processes.
        """
        return {
            "seen": self._seen, "deferred": self._deferred, "faults": self._faults.to_dict(),
            "epochs": self._epochs(),
        }  # fmt: skip

    def close(self) -> None:
        """End the workers and close the shards."""
        self._bundles.close()

    # ---- filling a batch

    def _candidates(self, free: Sequence[int]) -> tuple[list[Item], list[_Offer]]:
        """A candidate for each free slot of ours, and what every process offers."""
        found: list[Item] = []
        error = ""
        try:
            found = [self._take(self._slot_lane[slot]) for slot in free]
        except InputError as refused:
            error = str(refused)
        offer = _Offer(
            np.array([item.hashed for item in found], np.int64), self._read(), self._faults.total,
            frozenset(self._faults.lost), self._epochs() > 0, self._stuck(), error,
        )  # fmt: skip
        return found, self._gather(offer)

    def _take(self, lane: int) -> Item:
        """The next sample of a lane: one deferred by an earlier batch, else a new one."""
        queue = self._queues[lane]
        if queue.deferred:
            return queue.deferred.popleft()
        while True:
            while not queue.ready:
                self._receive(next(self._bundles))
            item = queue.ready.popleft()
            if isinstance(item, Item):
                break
            self._endure(queue, item)
        queue.position = item.then
        for kind, shard in (*queue.unowned, *item.faults):
            self._faults.add(kind, shard)
        queue.unowned.clear()
        self._taken += 1
        return item

    def _receive(self, bundle: Bundle) -> None:
        """Put samples where those of their lane wait, and after them what has no sample."""
        ready = self._queues[bundle.lane].ready
        ready.extend(bundle.items)
        if bundle.error or bundle.faults:
            ready.append(bundle)

    def _endure(self, queue: _LaneQueue, bundle: Bundle) -> None:
        """Faults with no sample among them wait for the next sample, unless they are too many.

        Raises:
            InputError: they are, or the lane cannot go on.
        """
        queue.unowned += bundle.faults
        if bundle.error:
            raise InputError(bundle.error)
        ahead = kinds.merged([self._faults.to_dict()])
        for kind, shard in queue.unowned:
            ahead.add(kind, shard)
        why = kinds.too_many(
            self._read() + len(queue.unowned), ahead.total, 0, len(self.plan.shards),
            self.source.max_bad_share, whole_epoch=False,
        )  # fmt: skip
        if why:
            raise kinds.refusal(why, ahead)

    def _admitted(self, offers: Sequence[_Offer], present: set[int]) -> list[list[bool]]:
        """For each process's candidates, whether their captions are new to the batch, in slot order."""
        if not self.source.unique:
            return [[True] * len(offer.hashes) for offer in offers]
        admitted: list[list[bool]] = []
        for offer in offers:
            admitted.append([])
            for hashed in offer.hashes.tolist():
                admitted[-1].append(hashed not in present)
                present.add(hashed)
        return admitted

    def _refuse(self, offers: Sequence[_Offer]) -> None:
        """Stop all processes if one of them must, or if all of them together must.

        Raises:
            InputError: the same on each.
        """
        for offer in offers:
            if offer.error:
                raise InputError(offer.error)
            if offer.stuck:
                raise InputError(
                    f"caption {offer.stuck!r} is too frequent to come once a batch of "
                    f"{self.batch_size}; use a smaller batch_size or set unique_captions to false"
                )
        lost = frozenset[str]().union(*(offer.lost for offer in offers))
        why = kinds.too_many(
            sum(offer.read for offer in offers), sum(offer.bad for offer in offers), len(lost),
            len(self.plan.shards), self.source.max_bad_share,
            all(offer.whole_epoch for offer in offers),
        )  # fmt: skip
        if why:
            raise kinds.refusal(why, kinds.merged(self._gather(self._faults.to_dict())))

    def _stuck(self) -> str:
        """The commonest caption of a lane that had to defer too many; "" if none had to."""
        limit = SPARE_DEFERRALS + 4 * self.batch_size // self.source.lanes
        for queue in self._queues.values():
            if len(queue.refused) + len(queue.deferred) > limit:
                return Counter(item.caption for item in queue.refused).most_common(1)[0][0]
        return ""

    def _batch(self, items: Sequence[Item]) -> ShardBatch:
        self._seen += len(items)
        return ShardBatch(
            np.stack([item.image for item in items]),
            [item.caption for item in items],
            self._first_slot + np.arange(len(items)),
            [item.key for item in items],
            np.array([item.epoch for item in items]),
        )

    # ---- counts and states

    def _read(self) -> int:
        """Samples read so far, good and bad; a lost shard counts as one."""
        return self._taken + self._faults.total

    def _epochs(self) -> int:
        return min(self.plan.epoch(lane, q.position.visit) for lane, q in self._queues.items())

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state.

        Raises:
            InputError: it belongs to other data, or lacks our lanes.
        """
        refuse_other_data(state["data"], identity(self.plan, self.source.unique))
        missing = [lane for lane in self._queues if str(lane) not in state["lanes"]]
        if missing:
            raise InputError(
                f"the state of the data has no lane {missing[0]}; merge the states of all processes"
            )
        for lane, queue in self._queues.items():
            saved = state["lanes"][str(lane)]
            queue.position = Position(*saved["position"])
            queue.deferred = deque(read_again(self.plan, lane, saved["deferred"]))
        if min(map(int, state["lanes"])) in self._queues:  # sums are kept in one place
            totals = state["totals"]
            self._seen, self._taken = totals["seen"], totals["taken"]
            self._deferred, self._faults = totals["deferred"], Faults(totals["faults"])


def _checked(
    source: ShardSource, batch_size: int, rank: int, size: int, gather: Gather
) -> tuple[str, ...]:
    """The shards, after a look at whether they are there, enough, and the same for all processes."""
    shards: tuple[str, ...] = ()
    wrong = ""
    try:
        shards = expand(source.urls)
        check_counts(
            shards, source.lanes, batch_size, size, source.workers, source.sampler == "epoch"
        )
        if rank == 0:
            check_reachable(shards)
    except InputError as error:
        wrong = str(error)
    answers = gather((wrong, digest(shards)))
    for other, _ in answers:
        if other:
            raise InputError(other)
    if len({digest for _, digest in answers}) > 1:
        raise InputError("the processes see different shards; give all of them the same list")
    return shards
