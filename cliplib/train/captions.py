"""What training needs of the icons' captions: token ids, made once and kept beside the shards."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cliplib import model, records
from cliplib.data import Corpus, caption_choice, decoded_file, load_split


@dataclass(frozen=True)
class Captions:
    """Captions of pairs as token ids.

    Attributes:
        flat: (captions, context) int16 token ids of all captions of the split, in its order.
        first: (pairs,) the first caption of each pair.
        counts: (pairs,) how many captions each has.
        concepts: (pairs,) a number for its concept: the first pair of the split that has it.
        labels: (pairs,) its corpus label.
        bad: samples of the split that could not be used, by kind.
    """

    flat: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    concepts: np.ndarray
    labels: np.ndarray
    bad: dict[str, int]

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: np.ndarray) -> Captions:
        """Those of the pairs at ``rows``."""
        return Captions(
            self.flat, self.first[rows], self.counts[rows], self.concepts[rows], self.labels[rows],
            self.bad,
        )  # fmt: skip

    def of(self, indices: np.ndarray, seed: int, step: int) -> np.ndarray:
        """Token ids (batch, context) of one caption a pair, drawn anew at each step."""
        return self.flat[self.first[indices] + caption_choice(self.counts[indices], seed, step)]

    @cached_property
    def vocabulary(self) -> np.ndarray:
        """Ids of the tokens that can occur, ascending; padding is one of them."""
        return np.union1d(np.unique(self.flat), 0).astype(np.int64)


def training_captions(corpus: Corpus, context_length: int) -> Captions:
    """Captions of the whole training split; tokenized once, then read from a file."""
    made_by = records.digest((model.TOKENIZER / model.TOKENIZER_FILES[0]).read_bytes())
    path = decoded_file(corpus, "train", f"captions-{context_length}-{made_by}.npz")
    if not path.exists():
        records.write_atomic(path, _made(corpus, context_length))
    with np.load(path) as arrays:
        counts = arrays["counts"]
        return Captions(
            arrays["flat"], np.cumsum(counts) - counts, counts, arrays["concepts"], arrays["labels"],
            json.loads(str(arrays["bad"])),
        )  # fmt: skip


def _made(corpus: Corpus, context_length: int) -> bytes:
    pairs = load_split(corpus, "train")
    first: dict[str, int] = {}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        flat=model.tokenize([c for several in pairs.captions for c in several], context_length),
        counts=np.array([len(several) for several in pairs.captions]),
        concepts=np.array([first.setdefault(name, at) for at, name in enumerate(pairs.concepts)]),
        labels=np.array(pairs.labels),
        bad=json.dumps(pairs.bad),
    )
    return buffer.getvalue()
