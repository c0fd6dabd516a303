"""Captions of the icon corpus as token ids, tokenized once, and the draw of one a pair."""

from __future__ import annotations

import io

import numpy as np

from cliplib import model, records
from cliplib.data import Corpus, Pairs, caption_choice, decoded_file, load_split


class Captions:
    """Token ids of all captions of the training pairs, and the draw of one a pair."""

    def __init__(self, corpus: Corpus, pairs: Pairs, context_length: int) -> None:
        flat, counts = caption_tokens(corpus, context_length)
        first = np.cumsum(counts) - counts
        self.flat, self.counts, self.first = flat, counts[pairs.rows], first[pairs.rows]

    def of(self, indices: np.ndarray, seed: int, step: int) -> np.ndarray:
        """Token ids (batch, context) of one caption a pair, drawn anew at each step."""
        return self.flat[self.first[indices] + caption_choice(self.counts[indices], seed, step)]

    def vocabulary(self) -> np.ndarray:
        """Ids of the tokens that can occur, ascending; padding is one of them."""
        return np.union1d(self.flat, 0).astype(np.int64)


def caption_tokens(corpus: Corpus, context_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Captions of the whole training split as token ids, tokenized once and kept beside the shards.

    Returns:
        (captions, context_length) int16, in shard order; and (pairs,) how many captions each has.
    """
    made_by = records.digest((model.TOKENIZER / model.TOKENIZER_FILES[0]).read_bytes())
    path = decoded_file(corpus, "train", f"tokens-{context_length}-{made_by}.npz")
    if not path.exists():
        captions = load_split(corpus, "train").captions
        flat = model.tokenize([c for several in captions for c in several], context_length)
        buffer = io.BytesIO()
        np.savez(buffer, flat=flat, counts=np.array([len(several) for several in captions]))
        records.write_atomic(path, buffer.getvalue())
    with np.load(path) as arrays:
        return arrays["flat"], arrays["counts"]
