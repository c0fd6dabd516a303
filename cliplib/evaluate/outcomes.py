"""What a protocol leaves behind: ranks, an item each, in a file from which every number follows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cliplib import InputError

ZERO_SHOT, RETRIEVAL, MULTILABEL = "zero_shot", "retrieval", "multilabel"


@dataclass(frozen=True)
class Ranked:
    """One task's outcome per item.

    Attributes:
        kind: "zero_shot", "retrieval" or "multilabel".
        rank: (n,) rank of the truth among the candidates, 1 = best; with several right ones, of the
            best. Multilabel: an item is an image with one of its classes, and its rank is that of
            the image among all images, by the score of that class.
        item: (n,) number of the item: a row of the corpus's table of pairs, or its place in the task.
        candidates: how many there were to rank.
        truth: (n,) the class, or the place of the query in the pool.
        cluster: (n,) items that count as one draw in an interval.
        right: (n,) how many candidates were right (captions of one image).
        tolerant: (n,) best rank among the truth and its synonyms; empty where a task has none.
        loss: (n,) InfoNCE of the item in the pool, for retrieval only.
    """

    kind: str
    rank: np.ndarray
    item: np.ndarray
    candidates: int
    truth: np.ndarray
    cluster: np.ndarray
    right: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    tolerant: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    loss: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        if not len(self.right):
            object.__setattr__(self, "right", np.ones(len(self.rank), np.int32))


_WHOLE = ("rank", "item", "truth", "cluster", "right", "tolerant")


def pack(ranked: Mapping[str, Ranked]) -> bytes:
    """The bytes of ``ranks.npz``: per task the fields of `Ranked`, as TASK.FIELD."""
    arrays: dict[str, np.ndarray] = {}
    for task, r in ranked.items():
        for name in _WHOLE:
            arrays[f"{task}.{name}"] = getattr(r, name).astype(np.int32)
        arrays[f"{task}.candidates"] = np.array(r.candidates, np.int64)
        arrays[f"{task}.kind"] = np.array(r.kind)
        if r.kind == RETRIEVAL:
            arrays[f"{task}.loss"] = r.loss.astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(path: Path) -> dict[str, Ranked]:
    """Read ``ranks.npz`` back.

    Raises:
        InputError: no such file, or it is damaged.
    """
    try:
        with np.load(path) as arrays:
            tasks = [name.removesuffix(".rank") for name in arrays.files if name.endswith(".rank")]
            return {task: _unpacked(arrays, task) for task in tasks}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: no readable ranks ({error}); evaluate the run again") from None


def _unpacked(arrays: Any, task: str) -> Ranked:
    loss = arrays[f"{task}.loss"] if f"{task}.loss" in arrays.files else np.empty(0, np.float32)
    return Ranked(
        kind=str(arrays[f"{task}.kind"]),
        candidates=int(arrays[f"{task}.candidates"]),
        loss=loss,
        **{name: arrays[f"{task}.{name}"] for name in _WHOLE},
    )
