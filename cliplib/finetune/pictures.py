"""Pictures for training: decoded once where they fit into memory, in a known order, a little shifted.

Which pictures make a batch and where they are shifted follows from seed, epoch and batch alone, so a
run that goes on meets the same batches. Shapes: b images of px x px.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cliplib.evaluate.blocks import blocks_of
from cliplib.evaluate.images import Geometry, Images

if TYPE_CHECKING:
    from cliplib.evaluate.tasks import Classification
    from cliplib.pretrained.opened import Opened

IN_MEMORY = 2 * 10**9  # bytes of decoded pictures that are kept
DECODED_AT_ONCE = 64
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Pictures:
    """The pictures and labels of one part of a task.

    Attributes:
        images: where they come from.
        labels: (n,) class of each.
        geometry: the model's resizing and cropping.
        pixels: (n, px, px, 3) uint8 of all; None: decoded when they are asked for.
        pool: threads that decode.
    """

    images: Images
    labels: np.ndarray
    geometry: Geometry
    pixels: np.ndarray | None
    pool: ThreadPoolExecutor

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, places: np.ndarray) -> np.ndarray:
        """(b, px, px, 3) uint8.

        Raises:
            InputError: an image cannot be read.
        """
        if self.pixels is not None:
            return self.pixels[places]
        parts = [places[rows] for rows in blocks_of(len(places), DECODED_AT_ONCE)]
        return np.concatenate(list(self.pool.map(self._decode, parts)))

    def _decode(self, places: np.ndarray) -> np.ndarray:
        return self.images.pixels(places, self.geometry)

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The pixels of each lot of places; where they must be decoded, some lots ahead."""
        if self.pixels is not None:
            yield from map(self.read, places)
            return
        with ThreadPoolExecutor(1) as reader:
            waiting: list[Future[np.ndarray]] = []
            try:
                for lot in places:
                    waiting.append(reader.submit(self.read, lot))
                    if len(waiting) > BATCHES_AHEAD:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()


class Album:
    """The pictures of several tasks for one model; those are kept that fit, in the order asked for.

    Args:
        opened: the model whose geometry is used.
        in_memory: bytes of decoded pictures that may be kept.
    """

    def __init__(self, opened: Opened, in_memory: int = IN_MEMORY) -> None:
        self.opened, self.left = opened, in_memory
        self.pool = ThreadPoolExecutor(os.cpu_count())
        self.opened_parts: dict[str, Pictures] = {}

    def of(self, part: Classification) -> Pictures:
        """The pictures of a part of a task."""
        name = part.hashes["data_hash"]
        if name not in self.opened_parts:
            self.opened_parts[name] = self._open(part)
        return self.opened_parts[name]

    def _open(self, part: Classification) -> Pictures:
        px, geometry = self.opened.image_px, self.opened.geometry
        packed = Pictures(part.images, part.labels, geometry, None, self.pool)
        size = len(part.images) * px * px * 3
        if size > self.left:
            return packed
        self.left -= size
        pixels = packed.read(np.arange(len(part.images)))
        return Pictures(part.images, part.labels, geometry, pixels, self.pool)


# ------------------------------------------------------------------------------------------ batches


def batches_of_epoch(
    images: int, batch_size: int, seed: int, epoch: int, task: int = 0
) -> list[np.ndarray]:
    """The places of the images of each batch of an epoch; the last may be smaller."""
    order = np.random.default_rng((seed, task, epoch)).permutation(images)
    return [order[rows] for rows in blocks_of(images, batch_size)]


def shifted(pixels: np.ndarray, share: float, seed: Sequence[int]) -> np.ndarray:
    """Each picture moved by a random number of pixels, its edge repeated where it left.

    Args:
        pixels: (b, px, px, 3) uint8.
        share: the farthest it moves, as a share of the side, in both directions.
        seed: decides the moves.

    Returns:
        The same shape.
    """
    px = pixels.shape[1]
    most = round(share * px)
    if not most:
        return pixels
    wide = np.pad(pixels, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    down, right = np.random.default_rng(seed).integers(0, 2 * most + 1, (2, len(pixels)))
    views = np.lib.stride_tricks.sliding_window_view(wide, (px, px), axis=(1, 2))
    return views[np.arange(len(pixels)), down, right].transpose(0, 2, 3, 1)  # (b, px, px, 3)
