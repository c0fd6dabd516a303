"""Our own feeds of training batches, timed alone: ``python -m cliplib.bench.our_feeds FEED SETTINGS``.

FEED is ``memory`` (icons decoded once, what icon runs use), ``stream`` (any webdataset shards, the
way for web-scale data) or ``decode`` (that one-off decoding). SETTINGS are the fields of `Settings`
as JSON. Each batch ends as what the model takes: a float32 tensor and token ids. Prints one JSON
object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cliplib import model
from cliplib.data import Corpus, load_split, open_corpus
from cliplib.ladder import CONTEXT_LENGTH, run_spec, rung
from cliplib.pace import Pace, through


@dataclass(frozen=True)
class Settings:
    """What is run. ``data`` is the folder of a built corpus; ``shards`` (of decode): how many."""

    data: str
    batch_size: int = 128
    workers: int = 0
    warmup: int = 10
    seconds: float = 8.0
    shards: int = 2


def main() -> int:
    """Run the feed that the command line names."""
    feed, settings = sys.argv[1], Settings(**json.loads(sys.argv[2]))
    corpus = open_corpus(settings.data)
    print(
        json.dumps({"memory": memory, "stream": stream, "decode": decode}[feed](corpus, settings))
    )
    return 0


def memory(corpus: Corpus, settings: Settings) -> dict[str, Any]:
    """The pace of the in-memory feed, no concept twice in a batch, as in the icon runs."""
    feed = _memory_batches(corpus, settings.batch_size)
    return through(feed, settings.batch_size, settings.warmup, settings.seconds)


def _memory_batches(corpus: Corpus, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    feed = icon_feed(corpus, batch_size)
    while True:
        share = feed.next()
        yield model.normalise(share.images), torch.from_numpy(share.tokens)


def icon_feed(corpus: Corpus, batch_size: int) -> Any:
    """The feed of an icon run on all training pairs."""
    from cliplib.train.feeds import IconFeed
    from cliplib.train.world import World

    run = run_spec("smoke", "XXS", batch_size, batch_size=batch_size)
    return IconFeed(run, rung("XXS"), corpus, True, World(), None)


def mean_tokens(corpus: Corpus, batch_size: int = 1024) -> float:
    """Tokens of a caption as the icon feed draws them, end of text included, a mean over a batch."""
    return float(icon_feed(corpus, batch_size).next().lengths.mean())


def stream(corpus: Corpus, settings: Settings) -> dict[str, Any]:
    """The pace of the streaming feed on the same shards: nothing is kept from an earlier run."""
    from cliplib.data.stream import ShardFeed, ShardSource

    urls = tuple(str(corpus.folder / row["path"]) for row in corpus.shards("train"))
    source = ShardSource(urls, workers=settings.workers, augment=False, unique_captions=False)
    feed = ShardFeed(
        source,
        rung("XXS").image_px,
        settings.batch_size,
        rank=0,
        size=1,
        gather=lambda mine: [mine],
    )
    try:
        return through(
            _stream_batches(feed), settings.batch_size, settings.warmup, settings.seconds
        )
    finally:
        feed.close()


def _stream_batches(feed: Any) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        batch = feed.next()
        tokens = model.tokenize(batch.captions, CONTEXT_LENGTH).astype(np.int64)
        yield model.normalise(batch.images), torch.from_numpy(tokens)


def decode(corpus: Corpus, settings: Settings) -> dict[str, Any]:
    """The one-off decoding that the in-memory feed rests on, of the first training shards."""
    rows = corpus.shards("train")[: settings.shards]
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            (Path(folder) / row["path"]).symlink_to((corpus.folder / row["path"]).resolve())
        part = replace(corpus, folder=Path(folder), manifest={**corpus.manifest, "shards": rows})
        pace = Pace(warmup=1, seconds=0)
        pace.step()
        n = len(load_split(part, "train"))
        pace.step()
    return {**pace.result(n), "samples": n}


if __name__ == "__main__":
    sys.exit(main())
