"""States of the shards' feed: what identifies the data, and how those of all processes become one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cliplib import InputError
from cliplib.data import faults
from cliplib.data.lanes import Item, Lane, Plan
from cliplib.data.urls import shard_name


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One state of all processes' states, from which any number of processes can go on.

    Raises:
        InputError: they are of different data, or a lane is in none or in several.
    """
    lanes: dict[str, Any] = {}
    for state in states:
        refuse_other_data(state["data"], states[0]["data"])
        lanes |= state["lanes"]
    expected = states[0]["data"]["lanes"]
    if sorted(map(int, lanes)) != list(range(expected)) or expected != sum(
        len(state["lanes"]) for state in states
    ):
        raise InputError(
            f"{len(states)} states of the data have lanes {', '.join(sorted(lanes, key=int))}; "
            f"need each of the {expected} lanes once"
        )
    counts = merge_counts([state["totals"] for state in states])
    taken = sum(state["totals"]["taken"] for state in states)
    ordered = {lane: lanes[lane] for lane in sorted(lanes, key=int)}
    return {"data": dict(states[0]["data"]), "lanes": ordered, "totals": {**counts, "taken": taken}}


def merge_counts(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all processes together, as :meth:`ShardFeed.counts` gives them for one."""
    together: dict[str, Any] = {
        name: sum(part[name] for part in counts) for name in ("seen", "deferred")
    }
    together["faults"] = faults.merged(part["faults"] for part in counts).to_dict()
    if all("epochs" in part for part in counts):
        together["epochs"] = min(part["epochs"] for part in counts)
    return together


def digest(shards: Sequence[str]) -> str:
    """Identity of a list of shards: their names without folders, so that data may move."""
    names = "\n".join(shard_name(url).rpartition("/")[2] for url in shards)
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def identity(plan: Plan, unique: bool) -> dict[str, Any]:
    """What must be the same for a state to be of use."""
    return {
        "shards": digest(plan.shards), "sampler": plan.sampler, "lanes": plan.lanes,
        "shuffle": plan.shuffle, "seed": plan.seed, "augment": plan.augment,
        "max_pixels": plan.max_pixels, "unique_captions": unique,
    }  # fmt: skip


def refuse_other_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a state of other data.

    Raises:
        InputError: naming what differs.
    """
    differ = [
        f"{name} {saved.get(name)} (now {now[name]})"
        for name in now
        if saved.get(name) != now[name]
    ]
    if differ:
        raise InputError(f"the checkpoint's data had {', '.join(differ)}; restore these to go on")


def read_again(plan: Plan, lane: int, deferred: Sequence[Sequence[Any]]) -> Iterator[Item]:
    """Deferred samples ([visit, place, key] each) of a lane, read again from their shards.

    Raises:
        InputError: one is no longer where it was.
    """
    wanted: dict[int, set[int]] = {}
    for visit, sample, _ in deferred:
        wanted.setdefault(visit, set()).add(sample)
    again = {visit: Lane(plan, lane).find(visit, places) for visit, places in wanted.items()}
    for visit, sample, key in deferred:
        item = again[visit].get(sample)
        if item is None or item.key != key:
            shard = shard_name(plan.shards[plan.visit(lane, visit)[0]])
            raise InputError(f"{shard}: sample {key!r} of the checkpoint is no longer where it was")
        yield item
