"""What cannot be used: counted by kind and by shard, and when it is too much to go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from cliplib import InputError

# One sample cannot be used:
NO_IMAGE = "no image"
NO_CAPTION = "no caption"
EMPTY_CAPTION = "empty caption"
BAD_TEXT = "caption is no UTF-8"
BAD_JSON = "json is damaged"
BAD_IMAGE = "image cannot be decoded"
HTML = "web page instead of an image"
TOO_LARGE = "image too large"
FILE_TOO_LARGE = "file too large"
DUPLICATE_KEY = "duplicate key"
# A shard cannot be used, or not to its end:
MISSING_SHARD = "missing shard"
UNREADABLE_SHARD = "unreadable shard"
TRUNCATED_SHARD = "truncated shard"
EMPTY_SHARD = "empty shard"
CONNECTION_CUT = "connection cut"

SHARD_KINDS = frozenset(
    (MISSING_SHARD, UNREADABLE_SHARD, TRUNCATED_SHARD, EMPTY_SHARD, CONNECTION_CUT)
)
ENOUGH = 1_000  # samples read before a share of bad ones means anything


class Fault(Exception):
    """One sample or shard cannot be used: its kind, one of the names above, and what was seen."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class Faults:
    """Counts of faults by kind and by shard, and which shards were lost in part or whole."""

    def __init__(self, counts: Mapping[str, Any] | None = None) -> None:
        counts = counts or {}
        self.kinds: Counter[str] = Counter(counts.get("kinds", {}))
        self.shards: Counter[str] = Counter(counts.get("shards", {}))
        self.lost: set[str] = set(counts.get("lost", []))

    def add(self, kind: str, shard: str) -> None:
        """Count one fault of a shard."""
        self.kinds[kind] += 1
        self.shards[shard] += 1
        if kind in SHARD_KINDS:
            self.lost.add(shard)

    @property
    def total(self) -> int:
        """All faults."""
        return self.kinds.total()

    def to_dict(self) -> dict[str, Any]:
        """For records and states: ``{"kinds": {kind: n}, "shards": {shard: n}, "lost": [shard]}``."""
        return {
            "kinds": dict(sorted(self.kinds.items())),
            "shards": dict(sorted(self.shards.items())),
            "lost": sorted(self.lost),
        }

    def __str__(self) -> str:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in self.kinds.most_common())
        worst = ", ".join(f"{shard} ({n:,})" for shard, n in self.shards.most_common(5))
        return f"{kinds}; worst shards: {worst}"


def merged(parts: Iterable[Mapping[str, Any]]) -> Faults:
    """The sum of several counts (as from :meth:`Faults.to_dict`)."""
    total = Faults()
    for part in parts:
        other = Faults(part)
        total.kinds.update(other.kinds)
        total.shards.update(other.shards)
        total.lost |= other.lost
    return total


def too_many(
    read: int, bad: int, lost: int, shards: int, limit: float, whole_epoch: bool
) -> str | None:
    """Why a run should stop, or None: too many of its samples, or of its shards, cannot be used.

    Judged once 1,000 samples were read or every shard was seen. A lost shard counts as one bad sample
    only, so shards have a limit of their own: the same share, but one is always forgiven.

    Args:
        read: samples read, good and bad.
        bad: faults among them.
        lost: distinct shards missing, empty, cut or damaged.
        shards: how many shards there are.
        limit: the largest share that is tolerated, of samples and of shards.
        whole_epoch: whether every shard was seen once.
    """
    if read < ENOUGH and not whole_epoch:
        return None
    if bad > limit * read:
        return f"{bad:,} of {read:,} samples read cannot be used (limit {limit:.1%})"
    if lost > max(1, limit * shards):
        return f"{lost:,} of {shards:,} shards are missing, empty or damaged (limit {limit:.1%})"
    return None


def refusal(why: str, faults: Faults) -> InputError:
    """The error that stops a run: why, which kinds, which shards, what to do."""
    return InputError(
        f"{why}: {faults}; repair these shards or leave them out, or raise max_bad_share"
    )
