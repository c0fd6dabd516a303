"""Images in a fixed order, made ready for a model when they are asked for.

A data set need not fit into memory: what is kept is where its images lie. Both kinds give the same
pixels for the same image and model, whatever the batch.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cliplib import InputError
from cliplib.records import digest

if TYPE_CHECKING:
    from PIL import Image

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
        if self._kept_by(geometry):
            return rows
        from PIL import Image

        return np.stack([np.asarray(geometry(Image.fromarray(row))) for row in rows])

    def _kept_by(self, geometry: Geometry) -> bool:
        """Whether the geometry changes no pixel of an image of this size: asked of noise."""
        from PIL import Image

        noise = np.random.default_rng(0).integers(0, 256, self.array.shape[1:], np.uint8)
        return np.array_equal(np.asarray(geometry(Image.fromarray(noise))), noise)


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
        return np.stack([np.asarray(geometry(self.image(int(place)))) for place in places])

    def image(self, place: int) -> Image.Image:
        """One image as RGB, as the layout's other readers decode it.

        Raises:
            InputError: its bytes are no image.
        """
        from PIL import Image

        member = self.members[place]
        with self.files[member.file].open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        try:
            return Image.open(io.BytesIO(data)).convert("RGB")
        except Exception as error:  # a damaged image raises whatever its bytes lead to
            raise InputError(
                f"{self.files[member.file]}: image {member.key} cannot be read ({error}); "
                "fetch or write the data set again"
            ) from None


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
