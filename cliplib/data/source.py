"""Which shards to train on, and how: the part of a run's configuration that is about data."""

from __future__ import annotations

from dataclasses import dataclass

from cliplib import InputError
from cliplib.data.decode import MAX_PIXELS

SAMPLERS = ("epoch", "replacement")


@dataclass(frozen=True)
class ShardSource:
    """Which shards to train on, and how.

    Attributes:
        urls: as :func:`cliplib.data.urls.expand` takes them.
        sampler: "epoch" (every sample once an epoch, shuffled) or "replacement" (shards drawn with
            replacement for ever, as the paper did for LAION-2B).
        lanes: streams that the shards are dealt to; processes x workers must divide it.
        workers: worker processes of each process; 0 reads within the process.
        shuffle: samples of a lane that are shuffled together, held in memory as files.
        max_bad_share: the largest share of unusable samples, or shards, that is tolerated.
        max_pixels: a larger picture is refused before it is decoded.
        unique_captions: whether no caption may come twice in a batch; None: for "epoch" only.
        augment: a random crop of 90-100% of the area; without it, the centre.
        seed: of everything.
    """

    urls: tuple[str, ...]
    sampler: str = "epoch"
    lanes: int = 8
    workers: int = 0
    shuffle: int = 2_000
    max_bad_share: float = 0.01
    max_pixels: int = MAX_PIXELS
    unique_captions: bool | None = None
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            InputError: naming the field.
        """
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler {self.sampler!r} is not known; use {' or '.join(SAMPLERS)}")
        for name, least in (("lanes", 1), ("workers", 0), ("shuffle", 1), ("max_pixels", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.max_bad_share <= 1:
            raise InputError(f"max_bad_share is {self.max_bad_share}; it is a share, from 0 to 1")

    @property
    def unique(self) -> bool:
        """Whether no caption may come twice in a batch."""
        return self.sampler == "epoch" if self.unique_captions is None else self.unique_captions
