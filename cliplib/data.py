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
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cliplib import InputError
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


# ------------------------------------------------------------------------------------------ samples


def samples(urls: Sequence[str], bad: Counter[str]) -> Iterator[dict[str, Any]]:
    """Stream decoded samples of webdataset shards in order (local paths, http, ``pipe:`` commands).

    Yields ``{"key", "image" (px, px, 3) uint8, "text", "json"}``. A sample that cannot be used is
    counted in ``bad`` by kind; what is in it is left out.
    """
    import webdataset as wds

    def broken(error: Exception) -> bool:
        bad["unreadable shard"] += 1
        print(f"warning: {error}", file=sys.stderr)
        return True

    stream = wds.DataPipeline(
        wds.SimpleShardList(list(urls)), wds.tarfile_to_samples(handler=broken)
    )
    for raw in stream:
        decoded = _decode(raw, bad)
        if decoded is not None:
            yield decoded


def _decode(raw: dict[str, Any], bad: Counter[str]) -> dict[str, Any] | None:
    image_bytes = next((raw[kind] for kind in ("png", "jpg", "jpeg", "webp") if kind in raw), None)
    if image_bytes is None or "txt" not in raw:
        bad["no image" if image_bytes is None else "no caption"] += 1
        return None
    try:
        text = raw["txt"].decode()
        image = _on_white(image_bytes)
        about = json.loads(raw["json"]) if "json" in raw else {}
    except UnicodeDecodeError:
        bad["caption is no UTF-8"] += 1
    except json.JSONDecodeError:
        bad["json is damaged"] += 1
    except (OSError, ValueError, SyntaxError):
        bad["image cannot be decoded"] += 1
    else:
        return {"key": raw["__key__"], "image": image, "text": text, "json": about}
    return None


def _on_white(image_bytes: bytes) -> np.ndarray:
    """Image bytes -> (height, width, 3) uint8; transparency becomes white, as on a page."""
    from PIL import Image

    image = Image.open(io.BytesIO(image_bytes)).convert("RGBA")
    page = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(page, image).convert("RGB"))


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
    scales = corpus.manifest["data_scales"]
    if data_scale not in scales:
        raise InputError(
            f"data scale {data_scale!r} is not in {corpus.folder}: known are {', '.join(scales)}"
        )
    pairs = load_split(corpus, "train")
    rows = np.arange(len(pairs))
    if label != "all":
        rows = rows[np.asarray(pairs.labels) == label]
    wanted = len(rows) if data_scale == "all" else scales[data_scale]
    if len(rows) < wanted:
        raise InputError(
            f"data scale {data_scale} asks for {wanted:,} groups; corpus {label!r} has {len(rows):,}"
        )
    return pairs.take(rows[:wanted])


# ------------------------------------------------------------------------------------------ batches


@dataclass(frozen=True)
class Batch:
    """Which pairs are in a batch: row ``indices`` (batch_size,), and how many deferrals so far."""

    indices: np.ndarray
    deferred: int


def batches(concepts: Sequence[str], batch_size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of an epoch shuffle in which no concept occurs twice in a batch.

    Every epoch is a fresh permutation and no pair is dropped or repeated: one whose concept is already
    in the batch waits for the next batch that is free of it. Epochs follow each other without a gap,
    so a batch may end one and begin the next. The sequence depends on the arguments alone: to resume
    at step k, skip k batches.

    Raises:
        InputError: some concept is so frequent that it cannot be spread over the batches of an epoch.
    """
    names, ids = np.unique(np.asarray(concepts), return_inverse=True)
    most = np.bincount(ids)
    if most.max() * batch_size > len(ids):
        raise InputError(
            f"batch size {batch_size} is too large for {len(ids):,} pairs: {names[most.argmax()]!r} occurs "
            f"{most.max()} times and may occur once a batch; use at most {len(ids) // most.max()}"
        )
    stream, waiting, deferred = _epochs(len(ids), seed), deque[int](), 0
    while True:
        chosen: list[int] = []
        present: set[int] = set()
        still: deque[int] = deque()
        while len(chosen) < batch_size:
            index = waiting.popleft() if waiting else next(stream)
            if ids[index] in present:
                still.append(index)
            else:
                present.add(ids[index])
                chosen.append(index)
        deferred += len(still)
        still.extend(waiting)
        waiting = still
        yield Batch(np.asarray(chosen), deferred)


def _epochs(n: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from np.random.default_rng([seed, epoch]).permutation(n).tolist()
        epoch += 1


def caption_choice(counts: np.ndarray, seed: int, step: int) -> np.ndarray:
    """Which of its captions each pair of a batch shows at this step: (batch,) integers below ``counts``."""
    return (np.random.default_rng([seed, step, 1]).random(len(counts)) * counts).astype(np.int64)
