"""Images in a fixed order, made ready for a model when they are asked for.

A data set need not fit into memory: what is kept is where its images lie. Both kinds give the same
pixels for the same image and model, whatever the batch.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from cliplib import InputError
from cliplib.records import digest

if TYPE_CHECKING:
    from PIL import Image

PNG, RGB_8 = b"\x89PNG\r\n\x1a\n", b"\x08\x02"  # how one begins; bit depth and colour type of most
Geometry = Callable[["Image.Image"], "Image.Image"]


class Images(Protocol):
    """What a task asks of its images."""

    def __len__(self) -> int:
        """How many there are."""

    def pixels(self, places: np.ndarray, geometry: Geometry) -> np.ndarray:
        """The images at these places, resized and cropped: (len(places), px, px, 3) uint8.

        Raises:
            InputError: an image cannot be read; the message names file and key.
        """

    @property
    def content_hash(self) -> str:
        """Identity of the images and their order."""


# ------------------------------------------------------------------------------------------ decoded


@dataclass(frozen=True)
class StoredPixels:
    """Images decoded already, all of one size: (n, px, px, 3) uint8, such as a memory map."""

    array: np.ndarray
    content_hash: str

    def __len__(self) -> int:
        return len(self.array)

    def pixels(self, places: np.ndarray, geometry: Geometry) -> np.ndarray:
        """As `Images.pixels`; a model that takes this very size gets the rows as they are."""
        rows = self.array[places]
        return (
            rows if keeps(geometry, rows.shape[1:]) else np.stack([fit(r, geometry) for r in rows])
        )


@lru_cache(64)
def keeps(geometry: Geometry, shape: tuple[int, ...]) -> bool:
    """Whether the geometry changes no pixel of an image (height, width, 3): asked of noise."""
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return np.array_equal(fit(noise, geometry), noise)


def fit(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """An image (height, width, 3) uint8 through the geometry."""
    from PIL import Image

    return np.asarray(geometry(Image.fromarray(image)))


# -------------------------------------------------------------------------------------- still packed


@dataclass(frozen=True)
class Packed:
    """Where one encoded image lies: a file, and the bytes of it."""

    file: int
    offset: int
    size: int
    key: str


@dataclass(frozen=True)
class PackedImages:
    """Encoded images inside tar files, decoded when asked for."""

    files: tuple[Path, ...]
    members: Sequence[Packed]

    def __len__(self) -> int:
        return len(self.members)

    def _bytes(self, member: Packed) -> bytes:
        if hasattr(os, "pread"):  # one system call, and no file position that threads would share
            return os.pread(self._opened[member.file].fileno(), member.size, member.offset)
        with self.files[member.file].open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    @cached_property
    def _opened(self) -> list[io.FileIO]:
        return [io.FileIO(path) for path in self.files]

    @cached_property
    def content_hash(self) -> str:
        """Over the bytes of the files, read once when it is asked for."""
        sha = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
        return sha.hexdigest()[:16]

    def pixels(self, places: np.ndarray, geometry: Geometry) -> np.ndarray:
        """As `Images.pixels`."""
        images = [self.image(int(place)) for place in places]
        return np.stack([i if keeps(geometry, i.shape) else fit(i, geometry) for i in images])

    def image(self, place: int) -> np.ndarray:
        """One image as RGB, (height, width, 3) uint8, as Pillow decodes it.

        Raises:
            InputError: its bytes are no image.
        """
        from PIL import Image

        member = self.members[place]
        data = self._bytes(member)
        pixels = _plain_png(data)
        if pixels is not None:
            return pixels
        try:
            image = Image.open(io.BytesIO(data))
            image.load()  # here, as numpy would hide what goes wrong
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        except Exception as error:  # a damaged image raises whatever its bytes lead to
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{self.files[member.file]}: image {member.key} cannot be read ({reason}); "
                "fetch or write the data set again"
            ) from None


def _plain_png(data: bytes) -> np.ndarray | None:
    """A PNG of 8-bit RGB by OpenCV, whose pixels are Pillow's; None for all else, and where it fails.

    Icons are so small that Pillow's steps in Python cost more than their decoding, and hold up the
    other threads.
    """
    if not data.startswith(PNG) or data[24:26] != RGB_8 or not _is_sound(data):
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # beyond its bounds
        return None


def _is_sound(data: bytes) -> bool:
    """Whether every chunk of a PNG is as it was written, by its checksum: libpng prints what it meets."""
    at = len(PNG)
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if zlib.crc32(data[at + 4 : end]).to_bytes(4) != data[end : end + 4]:
            return False
        at = end + 4
    return data[-8:-4] == b"IEND"


# ---------------------------------------------------------------------------------------- a choice


@dataclass(frozen=True)
class Chosen:
    """Some images of others, in a chosen order."""

    images: Images
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def pixels(self, places: np.ndarray, geometry: Geometry) -> np.ndarray:
        """As `Images.pixels`."""
        return self.images.pixels(self.places[places], geometry)

    @property
    def content_hash(self) -> str:
        """Of the images and the choice."""
        return digest(self.images.content_hash, self.places.astype(np.int64).tobytes())
