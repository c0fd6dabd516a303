"""CLIP_benchmark's webdataset layout, read and written: data sets prepared for one run with the other.

    FOLDER/classnames.txt                           a class name a line, by label
    FOLDER/zeroshot_classification_templates.txt    a prompt a line, with {c} for the class name
    FOLDER/dataset_type.txt                         "retrieval" or "multilabel"; absent: classification
    FOLDER/SPLIT/nshards.txt                        how many shards
    FOLDER/SPLIT/0.tar, 1.tar, ...                  KEY.webp|png|jpg|jpeg with KEY.cls|npy|txt

A folder that we wrote also has ``hashes.json``; prompts or class names changed under it are refused.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cliplib import InputError
from cliplib.evaluate.archives import members
from cliplib.evaluate.images import Packed, PackedImages
from cliplib.evaluate.mirror import is_remote, local_copy
from cliplib.evaluate.tasks import Classification, Retrieval, Splits, Task
from cliplib.records import digest, write_atomic

CLASSES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
KIND, SHARDS, HASHES = "dataset_type.txt", "nshards.txt", "hashes.json"
IMAGE_ENDINGS = ("webp", "png", "jpg", "jpeg")
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "png"},
    "webp": {"format": "webp", "lossless": True},
    "jpg": {"format": "jpeg", "quality": 95},
}


# ------------------------------------------------------------------------------------------- reading


def read_task(
    folder: Path | str,
    split: str = "test",
    *,
    name: str | None = None,
    templates: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Task:
    """Open a data set of this layout; only its index is read, images when they are asked for.

    Args:
        folder: the data set's folder, or its address on a web server, the hub or in a bucket, from
            where it is copied into the cache once.
        split: its part, such as "test" or "train".
        name: how to call it; None: the folder's name without "wds_".
        templates: prompts instead of the folder's.
        classes: class names instead of the folder's.

    Raises:
        InputError: what is missing or damaged, and where; a class without images; an empty split;
            an image without caption; prompts or class names that were changed under a recorded hash.
    """
    if is_remote(str(folder)):
        name, folder = name or task_name(str(folder)), local_copy(str(folder), split)
    folder = Path(folder)
    kind = _text(folder / KIND).strip().lower() if (folder / KIND).exists() else "classification"
    name = name or task_name(str(folder.resolve()))
    images, labels = _index(folder, split, _label_ending(folder, kind))
    if kind == "retrieval":
        captions = [label.decode("utf-8").splitlines() for label in labels]
        return Retrieval(name, images, captions, split=split)
    names = tuple(classes or lines(folder / CLASSES))
    prompts = tuple(templates or lines(folder / TEMPLATES))
    _check_hashes(folder, names, prompts, given=bool(classes or templates))
    return Classification(name, names, prompts, images, _labels(folder, labels, kind), split=split)


def task_name(place: str) -> str:
    """The name of a data set's folder or address, without "wds_".

    >>> task_name("https://hub/datasets/org/wds_cars/tree/main"), task_name("data/wds_cars/")
    ('cars', 'cars')
    """
    return re.sub(r"/tree/[^/]+/?$", "", place).rstrip("/").rpartition("/")[2].removeprefix("wds_")


def _label_ending(folder: Path, kind: str) -> str:
    endings = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}
    if kind not in endings:
        raise InputError(f"{folder / KIND}: {kind!r} is no known type; known: {', '.join(endings)}")
    return endings[kind]


def _index(folder: Path, split: str, ending: str) -> tuple[PackedImages, list[bytes]]:
    """Where every image of a split lies, and the content of its label."""
    files = _shards(folder, split)
    packed: list[Packed] = []
    labels: list[bytes] = []
    for number, file in enumerate(files):
        for image, label in _pairs(file, number, ending):
            packed.append(image)
            labels.append(label)
    if not packed:
        raise InputError(f"{folder}: split {split} is empty; there is nothing to test on")
    return PackedImages(tuple(files), packed), labels


def _shards(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; a data set is a folder with {SHARDS} in SPLIT/"
        )
    count = folder / split / SHARDS
    if not count.exists():
        known = sorted(path.parent.name for path in folder.glob(f"*/{SHARDS}"))
        raise InputError(
            f"{folder}: no split {split!r} (no {split}/{SHARDS}); there are: {', '.join(known) or 'none'}"
        )
    text = _text(count).strip()
    if not text.isdigit():
        raise InputError(f"{count}: {text!r} is no number of shards; write the data set again")
    files = [folder / split / f"{number}.tar" for number in range(int(text))]
    missing = [file for file in files if not file.exists()]
    if missing:
        raise InputError(
            f"{missing[0]}: missing, of {len(files)} shards that {count} counts; fetch it again"
        )
    return files


def _pairs(file: Path, number: int, ending: str) -> Iterator[tuple[Packed, bytes]]:
    """Image and label of each key of a shard, in order.

    Raises:
        InputError: the tar is damaged, or an image has no label or a label no image.
    """
    images: dict[str, Packed] = {}
    labels: dict[str, bytes] = {}
    try:
        with file.open("rb") as content:
            for member in members(file):
                key, _, suffix = member.name.rpartition("/")[2].partition(".")
                suffix = suffix.lower()
                if suffix in IMAGE_ENDINGS:
                    images[key] = Packed(number, member.offset, member.size, key)
                elif suffix == ending:
                    content.seek(member.offset)
                    labels[key] = content.read(member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{file}: damaged ({error}); fetch it again") from None
    _check_end(file)
    for key in (*images, *labels):
        if key not in labels or key not in images:
            what = f"label (.{ending})" if key not in labels else "image"
            raise InputError(f"{file}: {key} has no {what}; write the data set again")
    for key, image in images.items():
        yield image, labels[key]


def _check_end(file: Path) -> None:
    """A tar that was cut between two members reads like a shorter one: its end mark is missing."""
    with file.open("rb") as tar:
        size = file.stat().st_size
        tar.seek(max(0, size - tarfile.BLOCKSIZE))
        if size < tarfile.BLOCKSIZE or tar.read().strip(b"\0"):
            raise InputError(f"{file}: broken off (no end mark); fetch it again")


def _labels(folder: Path, labels: Sequence[bytes], kind: str) -> np.ndarray:
    try:
        if kind == "multilabel":
            rows = [np.load(io.BytesIO(label), allow_pickle=False) for label in labels]
            return np.stack(rows).astype(bool)
        return np.array([int(label) for label in labels], dtype=np.int64)
    except ValueError as error:
        raise InputError(f"{folder}: a label cannot be read ({error})") from None


def lines(path: Path) -> list[str]:
    """The entries of a text file, one a line.

    Raises:
        InputError: no such file, no entry, or no UTF-8.
    """
    found = [line for line in _text(path).splitlines() if line.strip()]
    if not found:
        raise InputError(f"{path}: empty; it needs one entry a line")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: missing; the data set is not complete") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: no UTF-8 text") from None


def _check_hashes(
    folder: Path, classes: Sequence[str], templates: Sequence[str], given: bool
) -> None:
    """Refuse prompts or class names that are not those the folder was written with."""
    if given or not (folder / HASHES).exists():
        return
    recorded = json.loads(_text(folder / HASHES))
    now = {"prompt_hash": digest(*templates), "class_hash": digest(*classes)}
    files = {"prompt_hash": TEMPLATES, "class_hash": CLASSES}
    for what, value in now.items():
        if recorded.get(what, value) != value:
            raise InputError(
                f"{folder / files[what]}: changed under a recorded hash ({value}, {HASHES} has "
                f"{recorded[what]}): numbers would not compare. Restore it, or give yours as an option "
                "(--templates, --class-names), which is recorded"
            )


def read_splits(folder: Path | str, *, val_share: float = 0.2) -> Splits:
    """A classification data set with its splits train, val and test, for probes and fine-tuning.

    Args:
        folder: the data set's folder.
        val_share: where there is no val, this share of every class of train is set aside, by lot.

    Raises:
        InputError: as `read_task`; retrieval or multilabel data; a share outside 0 to 1.
    """
    if not 0 < val_share < 1:
        raise InputError(f"share of train for validation: {val_share:g} is not between 0 and 1")
    train, test = (_single_label(read_task(folder, split)) for split in ("train", "test"))
    if not is_remote(str(folder)) and (Path(folder) / "val" / SHARDS).exists():
        return Splits(train, _single_label(read_task(folder, "val")), test)
    aside = set_aside(train.labels, val_share)
    return Splits(train.take(np.flatnonzero(~aside)), train.take(np.flatnonzero(aside)), test)


def _single_label(task: Task) -> Classification:
    if isinstance(task, Retrieval) or task.multilabel:
        raise InputError(
            f"task {task.name}: a probe needs one class an image; this data set has none"
        )
    return task


def set_aside(labels: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """(n,) bool: a share of every class, at least one image and never all of them, by lot."""
    order = np.random.default_rng(seed).permutation(len(labels))
    ranked = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    place = np.empty(len(labels), int)
    place[ranked] = np.arange(len(labels)) - first[labels[ranked]]
    wanted = np.clip(np.rint(counts * share), 1, np.maximum(counts - 1, 1))
    return place < wanted[labels]


# ------------------------------------------------------------------------------------------- writing


def write_task(
    task: Task, folder: Path, *, image_format: str = "png", shard_images: int = 10_000
) -> Path:
    """Write a task's split into a data set's folder, as CLIP_benchmark writes it.

    Equal tasks make equal bytes. Shards are written aside and renamed; nshards.txt comes last.

    Raises:
        InputError: unknown image format, or the folder holds another data set.
    """
    if image_format not in FORMATS:
        raise InputError(f"image format {image_format!r} is not known: use {', '.join(FORMATS)}")
    _write_about(task, folder)
    starts = range(0, len(task.images), shard_images)
    for number, start in enumerate(starts):
        places = range(start, min(start + shard_images, len(task.images)))
        write_atomic(folder / task.split / f"{number}.tar", _shard(task, places, image_format))
    write_atomic(folder / task.split / SHARDS, f"{len(starts)}\n")
    return folder


def _write_about(task: Task, folder: Path) -> None:
    texts = {}
    if isinstance(task, Retrieval):
        texts[KIND] = "retrieval\n"
    else:
        texts = {
            CLASSES: "".join(f"{name}\n" for name in task.classes),
            TEMPLATES: "".join(f"{template}\n" for template in task.templates),
            **({KIND: "multilabel\n"} if task.multilabel else {}),
        }
        hashes = {key: task.hashes[key] for key in ("prompt_hash", "class_hash")}
        texts[HASHES] = json.dumps(hashes, indent=1) + "\n"
    for name, text in texts.items():
        path = folder / name
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise InputError(f"{path}: the folder holds another data set; choose another folder")
        write_atomic(path, text)


def _shard(task: Task, places: range, image_format: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for place in places:
            key = f"s{place:07d}"
            for ending, data in (
                (image_format, _encoded(task, place, image_format)),
                _label(task, place),
            ):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size, member.mode, member.mtime = len(data), 0o644, 0
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _encoded(task: Task, place: int, image_format: str) -> bytes:
    from PIL import Image

    pixels = task.images.pixels(np.array([place]), lambda image: image)[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **FORMATS[image_format])
    return buffer.getvalue()


def _label(task: Task, place: int) -> tuple[str, bytes]:
    if isinstance(task, Retrieval):
        lines = [caption.replace("\n", r"\n") for caption in task.captions[place]]
        return "txt", "\n".join(lines).encode()
    if task.multilabel:
        buffer = io.BytesIO()
        np.save(buffer, task.labels[place].astype(np.int64))
        return "npy", buffer.getvalue()
    return "cls", str(int(task.labels[place])).encode()
