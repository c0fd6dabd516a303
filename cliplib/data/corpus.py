"""Webdataset shards to batches: read, checked, decoded once, and served without repeats in a batch.

Reading is webdataset's; every sample that cannot be used is counted by kind and named, never dropped
in silence. A split of the icon corpus is small (32 x 32 pixels), so it is decoded once into a memory
map beside the shards and every later run starts at once.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cliplib import InputError
from cliplib.data.samples import samples
from cliplib.records import write_atomic

MAX_BAD_SHARE = 0.01


# ------------------------------------------------------------------------------------------- corpus


@dataclass(frozen=True)
class Corpus:
    """A built corpus: a folder of shards and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def hash(self) -> str:
        """Identity of the content: a hash over the shards' own hashes."""
        return self.manifest["corpus_hash"]

    def shards(self, split: str) -> list[dict[str, Any]]:
        """Manifest rows of a split's shards, in order; each is present and has its recorded size.

        Raises:
            InputError: unknown split, or a shard is missing or has another size.
        """
        rows = [row for row in self.manifest["shards"] if row["split"] == split]
        if not rows:
            known = ", ".join(sorted({row["split"] for row in self.manifest["shards"]}))
            raise InputError(
                f"split {split!r} is not in {self.folder}/manifest.json (known: {known})"
            )
        for row in rows:
            path = self.folder / row["path"]
            size = path.stat().st_size if path.exists() else None
            if size != row["bytes"]:
                what = "is missing" if size is None else f"has {size} bytes, not {row['bytes']}"
                raise InputError(f"{path}: shard {what}; build the corpus again: make corpus")
        return rows

    @cached_property
    def pairs(self) -> Any:
        """The table of all pairs (pairs.csv.gz) as a DataFrame, one row a pair in shard order."""
        import pandas as pd

        path = self.folder / self.manifest["pairs"]["path"]
        if not path.exists():
            raise InputError(f"{path}: missing; build the corpus again: make corpus")
        return pd.read_csv(gzip.open(path, "rt"), keep_default_na=False)


def open_corpus(folder: Path | str) -> Corpus:
    """Open a built corpus.

    Raises:
        InputError: there is no readable manifest in ``folder``.
    """
    path = Path(folder) / "manifest.json"
    try:
        return Corpus(Path(folder), json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no corpus here (no manifest.json); build it: make corpus"
        ) from None
    except ValueError as error:
        raise InputError(
            f"{path}: damaged ({error}); build the corpus again: make corpus"
        ) from None


# --------------------------------------------------------------------------------- a split in memory


@dataclass(frozen=True)
class Pairs:
    """Image-text pairs in memory.

    Attributes:
        images: (n, px, px, 3) uint8, a memory map.
        captions: per pair, its captions; the first is the one in the shard's txt.
        concepts: per pair, the normalised name; two pairs of one concept never share a batch.
        keys: per pair, its key in the shards.
        labels: per pair, its corpus label ("colour" or "mono").
        rows: (n,) place of each pair in its split.
        bad: samples left out, by kind.
    """

    images: np.ndarray
    captions: list[list[str]]
    concepts: list[str]
    keys: list[str]
    labels: list[str]
    rows: np.ndarray
    bad: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int] | np.ndarray) -> Pairs:
        """The pairs at ``rows``, in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Pairs(
            images=self.images[: len(rows)] if _is_prefix(rows) else self.images[rows],
            captions=[self.captions[i] for i in rows],
            concepts=[self.concepts[i] for i in rows],
            keys=[self.keys[i] for i in rows],
            labels=[self.labels[i] for i in rows],
            rows=self.rows[rows],
            bad=self.bad,
        )


def _is_prefix(rows: np.ndarray) -> bool:
    """Whether the rows are the first ones in order: then a slice of the map serves, with no copy."""
    return bool(np.array_equal(rows, np.arange(len(rows))))


def load_split(corpus: Corpus, split: str) -> Pairs:
    """A whole split, decoded once into ``decoded/`` beside the shards and mapped from there.

    Raises:
        InputError: a shard is missing or damaged, or more than 1% of the samples cannot be used.
    """
    images, about = (decoded_file(corpus, split, name) for name in ("images.npy", "about.json"))
    if not (images.exists() and about.exists()):
        _decode_split(corpus, split, images, about)
    columns = json.loads(about.read_text())
    return Pairs(np.load(images, mmap_mode="r"), rows=np.arange(len(columns["keys"])), **columns)


def decoded_file(corpus: Corpus, split: str, name: str) -> Path:
    """Where something derived from a split is kept: its name holds a hash of the shards' content.

    Raises:
        InputError: unknown split, or a shard is missing or has another size.
    """
    content = "".join(row["sha256"] for row in corpus.shards(split))
    mark = hashlib.sha256(content.encode()).hexdigest()[:16]
    return corpus.folder / "decoded" / f"{split}-{mark}-{name}"


def _decode_split(corpus: Corpus, split: str, images: Path, about: Path) -> None:
    bad: Counter[str] = Counter()
    columns: dict[str, list[Any]] = {"captions": [], "concepts": [], "keys": [], "labels": []}
    pixels: list[np.ndarray] = []
    start = shown = time.monotonic()
    for row in corpus.shards(split):
        path = corpus.folder / row["path"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            raise InputError(
                f"{path}: shard is damaged (sha256 differs); build the corpus again: make corpus"
            )
        for sample in samples([str(path)], bad):
            meta = sample["json"]
            pixels.append(sample["image"])
            columns["captions"].append(
                list(dict.fromkeys([sample["text"], *meta.get("captions", [])]))
            )
            columns["concepts"].append(meta.get("concept", sample["text"]))
            columns["keys"].append(sample["key"])
            columns["labels"].append(meta.get("corpus", ""))
        if time.monotonic() - shown > 2:
            shown = time.monotonic()
            print(f"decoding {split}: {len(pixels):,} pairs, {shown - start:.0f} s", flush=True)
    _refuse_bad(bad, len(pixels), split)
    buffer = io.BytesIO()
    np.save(buffer, np.stack(pixels))
    write_atomic(images, buffer.getvalue())
    write_atomic(about, json.dumps({**columns, "bad": dict(bad)}))


def _refuse_bad(bad: Counter[str], good: int, split: str) -> None:
    if sum(bad.values()) > MAX_BAD_SHARE * (good + sum(bad.values())):
        kinds = ", ".join(f"{count} {kind}" for kind, count in bad.most_common())
        raise InputError(
            f"split {split!r}: over {MAX_BAD_SHARE:.0%} of the samples cannot be used ({kinds})"
        )


def training_pairs(corpus: Corpus, data_scale: str, label: str = "all") -> Pairs:
    """The training pairs of a data scale: the first groups, one style each, of the fixed permutation.

    Args:
        corpus: a built corpus.
        data_scale: a name of the manifest's ``data_scales`` ("2k", "8k", "32k", "all").
        label: "all", or only the "colour" or the "mono" sets (then the first groups among those).

    Raises:
        InputError: unknown data scale, or fewer groups of that label than the scale asks for.
    """
    pairs = load_split(corpus, "train")
    return pairs.take(training_rows(corpus, np.asarray(pairs.labels), data_scale, label))


def training_rows(
    corpus: Corpus, labels: np.ndarray, data_scale: str, label: str = "all"
) -> np.ndarray:
    """Places in the training split of the pairs of a data scale; ``labels`` are those of the split.

    Raises:
        InputError: as `training_pairs`.
    """
    scales = corpus.manifest["data_scales"]
    if data_scale not in scales:
        raise InputError(
            f"data scale {data_scale!r} is not in {corpus.folder}: known are {', '.join(scales)}"
        )
    rows = np.arange(len(labels))
    if label != "all":
        rows = rows[labels == label]
    wanted = len(rows) if data_scale == "all" else scales[data_scale]
    if len(rows) < wanted:
        raise InputError(
            f"data scale {data_scale} asks for {wanted:,} groups; corpus {label!r} has {len(rows):,}"
        )
    return rows[:wanted]


class StoredImages:
    """The decoded images of a split, read from the file row by row.

    A memory map would count every page of the file that was ever touched as this process's memory.
    """

    def __init__(self, corpus: Corpus, split: str) -> None:
        path = decoded_file(corpus, split, "images.npy")
        if not path.exists():
            load_split(corpus, split)
        self.file = path.open("rb", buffering=0)
        version = np.lib.format.read_magic(self.file)
        assert version == (1, 0)
        shape, _, _ = np.lib.format.read_array_header_1_0(self.file)
        self.start, self.shape = self.file.tell(), shape[1:]
        self.bytes = int(np.prod(self.shape))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The images at these places: (len(rows), px, px, 3) uint8."""
        found = np.empty((len(rows), self.bytes), np.uint8)
        for into, row in zip(found, rows.tolist()):
            self.file.seek(self.start + row * self.bytes)
            self.file.readinto(into)  # type: ignore[arg-type]
        return found.reshape(len(rows), *self.shape)
