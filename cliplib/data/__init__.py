"""Image-text pairs for training and evaluation, from webdataset shards.

Reading order: `corpus` (the built icon corpus, decoded once into memory maps), `batches` (its epoch
shuffle), `samples` (shards decoded one by one).
"""

from cliplib.data.batches import Batch, batches, caption_choice
from cliplib.data.corpus import (
    Corpus,
    Pairs,
    decoded_file,
    load_split,
    open_corpus,
    training_pairs,
)
from cliplib.data.samples import samples

__all__ = [
    "Batch",
    "Corpus",
    "Pairs",
    "batches",
    "caption_choice",
    "decoded_file",
    "load_split",
    "open_corpus",
    "samples",
    "training_pairs",
]
