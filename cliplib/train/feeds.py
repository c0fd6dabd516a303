"""What a run is fed: this process's part of every batch, as pixels and token ids, from any step on.

Two feeds with one face. Icons lie decoded in memory, and their batches are a function of seed and
step. Shards of any size are streamed (`cliplib.data.stream`), and their place is kept in the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from cliplib import model, records
from cliplib.data import (
    Corpus,
    ShardFeed,
    StoredImages,
    batches,
    merge_counts,
    merge_states,
    training_rows,
)
from cliplib.data.states import digest
from cliplib.data.urls import expand
from cliplib.ladder import Rung, RunSpec
from cliplib.train.captions import training_captions
from cliplib.train.config import Data
from cliplib.train.world import World


@dataclass(frozen=True)
class Share:
    """One process's part of a batch of B pairs: b of them.

    Attributes:
        images: (b, px, px, 3) uint8.
        tokens: (b, context) token ids, padded.
        lengths: (b,) tokens of each caption, end of text included.
    """

    images: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray


class Feed(Protocol):
    """Batches in order, and what the record says of them."""

    @property
    def used(self) -> np.ndarray | None:
        """Ids of the tokens that can occur, ascending; None: all of the vocabulary."""

    def next(self) -> Share:
        """This process's part of the next batch."""

    def state(self) -> dict[str, Any]:
        """What it takes to go on after the last batch, of all processes (all must call it)."""

    def counts(self) -> dict[str, Any]:
        """Fields of the run's record, over all processes (all must call it)."""

    def close(self) -> None:
        """Stop what runs beside."""


def open_feed(
    run: RunSpec, rung: Rung, corpus: Corpus | None, data: Data, world: World,
    state: Mapping[str, Any] | None,
) -> Feed:  # fmt: skip
    """The feed of a run, from its beginning or from a checkpoint's state on."""
    if corpus is None:
        return ShardsFeed(run, rung, data, world, state)
    return IconFeed(run, rung, corpus, data.unique_captions is not False, world, state)


def data_hash(run: RunSpec, corpus: Corpus | None, data: Data) -> str:
    """Identity of the training data: the corpus's own, or a hash of the shards and how they are read.

    Shards count by their names without folders, as in the loader's own state: data may move.
    """
    if corpus is not None:
        return corpus.hash if data.unique_captions is not False else f"{corpus.hash}-repeats"
    source = data.source(run.seed)
    fields = (source.sampler, source.lanes, source.shuffle, source.unique, source.augment)
    return records.digest(digest(expand(source.urls)), *map(str, fields))


class IconFeed:
    """Pairs of the icon corpus, decoded in memory. Its state is the number of batches served."""

    def __init__(
        self, run: RunSpec, rung: Rung, corpus: Corpus, distinct: bool, world: World,
        state: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        self.seed, self.world = run.seed, world
        captions = training_captions(corpus, rung.context_length)
        self.rows = training_rows(corpus, captions.labels, run.data_scale, run.corpus)
        self.captions = captions.take(self.rows)
        self.images = StoredImages(corpus, "train")
        self.used = self.captions.vocabulary
        self.step = state["step"] if state else 0
        self.deferred = state["deferred"] if state else 0
        order = batches(self.captions.concepts, run.batch_size, run.seed, distinct)
        self.batches = islice(order, self.step, None)
        self.batch_size = run.batch_size

    def next(self) -> Share:
        """This process's part of the next batch."""
        batch = next(self.batches)
        tokens = self.captions.of(batch.indices, self.seed, self.step)
        self.step, self.deferred = self.step + 1, batch.deferred
        mine, tokens = self.world.share(batch.indices), self.world.share(tokens).astype(np.int64)
        return Share(self.images.take(self.rows[mine]), tokens, np.count_nonzero(tokens, axis=1))

    def state(self) -> dict[str, Any]:
        """How many batches were served, and how many pairs were deferred."""
        return {"step": self.step, "deferred": self.deferred}

    def counts(self) -> dict[str, Any]:
        """Deferrals, unusable samples, unique groups, epochs."""
        return {
            "deferred": self.deferred, "bad_samples": self.captions.bad,
            "unique_groups": len(self.rows),
            "epochs": self.step * self.batch_size / len(self.rows),
        }  # fmt: skip

    def close(self) -> None:
        """Nothing runs beside."""


class ShardsFeed:
    """Pairs streamed from webdataset shards."""

    used = None

    def __init__(
        self, run: RunSpec, rung: Rung, data: Data, world: World, state: Mapping[str, Any] | None
    ) -> None:
        self.rung, self.world = rung, world
        self.shards = ShardFeed(
            data.source(run.seed), rung.image_px, run.batch_size, world.rank, world.size,
            world.gather_objects, state,
        )  # fmt: skip

    def next(self) -> Share:
        """This process's part of the next batch."""
        batch = self.shards.next()
        tokens, lengths = model.tokens_for(self.rung, batch.captions)
        return Share(batch.images, tokens.astype(np.int64), lengths)

    def state(self) -> dict[str, Any]:
        """Where every lane is, of all processes."""
        return merge_states(self.world.gather_objects(self.shards.state()))

    def counts(self) -> dict[str, Any]:
        """Deferrals, faults by kind and by shard, whole epochs; unique groups are not known."""
        counts = merge_counts(self.world.gather_objects(self.shards.counts()))
        faults = counts["faults"]
        return {
            "deferred": counts["deferred"], "bad_samples": faults["kinds"],
            "bad_shards": faults["shards"], "unique_groups": None, "epochs": counts["epochs"],
        }  # fmt: skip

    def close(self) -> None:
        """End the workers."""
        self.shards.close()
