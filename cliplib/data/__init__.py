"""Image-text pairs for training and evaluation, from webdataset shards.

Reading order: `corpus` (the built icon corpus, decoded once into memory maps) and `batches` (its
epoch shuffle); for shards of any size `source` (which, and how), `urls`, `tar`, `decode` and `faults`
(one sample), `lanes` (their order), `stream` (batches over processes and workers).
"""

from cliplib.data.batches import Batch, batches, caption_choice
from cliplib.data.corpus import (
    Corpus,
    Pairs,
    StoredImages,
    decoded_file,
    load_split,
    open_corpus,
    training_pairs,
    training_rows,
)
from cliplib.data.samples import samples
from cliplib.data.source import ShardSource
from cliplib.data.stream import ShardBatch, ShardFeed, merge_counts, merge_states

__all__ = [
    "Batch",
    "Corpus",
    "Pairs",
    "ShardBatch",
    "ShardFeed",
    "ShardSource",
    "StoredImages",
    "batches",
    "caption_choice",
    "decoded_file",
    "load_split",
    "merge_counts",
    "merge_states",
    "open_corpus",
    "samples",
    "training_pairs",
    "training_rows",
]
