"""Bytes of one sample -> a picture of the model's size and its captions, within bounds.

Nothing is decoded before its header says that it is small enough, and only formats that Pillow decodes
itself are tried, so that no file can start another program.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cliplib.data import faults
from cliplib.data.faults import Fault
from cliplib.data.tar import IMAGES

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # a .jpg from the web may be any of these
MAX_PIXELS = 50_000_000
AREA = (0.9, 1.0)  # of a training crop; open_clip's default
ASPECT = (3 / 4, 4 / 3)
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
_OPAQUE = frozenset(("RGB", "L", "1", "CMYK", "YCbCr"))


def draws(seed: int, epoch: int, shard: int, key: str) -> random.Random:
    """The chance of one sample in one epoch: its crop and its caption depend on nothing else."""
    return random.Random(f"{seed}/{epoch}/{shard}/{key}")


# ------------------------------------------------------------------------------------------- captions


def captions(parts: Mapping[str, bytes]) -> list[str]:
    """All captions of a sample: its txt, then those in the json's ``captions``; else its ``caption``.

    Raises:
        Fault: there is none, or it is empty, or no UTF-8, or the json is damaged.
    """
    about = metadata(parts)
    listed = about.get("captions")
    found = [text(parts)] if "txt" in parts else []
    if isinstance(listed, list):
        found += [caption for caption in listed if isinstance(caption, str)]
    if not found and isinstance(about.get("caption"), str):
        found = [about["caption"]]
    if not found:
        raise Fault(faults.NO_CAPTION)
    kept = list(dict.fromkeys(filter(None, map(str.strip, found))))
    if not kept:
        raise Fault(faults.EMPTY_CAPTION)
    return kept


def caption_hash(caption: str) -> int:
    """64 bits (signed) that are equal for captions equal up to case and spacing."""
    plain = " ".join(caption.split()).casefold().encode()
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "little", signed=True)


def text(parts: Mapping[str, bytes]) -> str:
    """The txt of a sample.

    Raises:
        Fault: it is no UTF-8.
    """
    try:
        return parts["txt"].decode("utf-8")
    except UnicodeDecodeError:
        raise Fault(faults.BAD_TEXT) from None


def metadata(parts: Mapping[str, bytes]) -> dict[str, Any]:
    """The json of a sample, {} if it has none.

    Raises:
        Fault: it is damaged.
    """
    try:
        about = json.loads(parts["json"]) if "json" in parts else {}
    except (ValueError, RecursionError):
        raise Fault(faults.BAD_JSON) from None
    if not isinstance(about, dict):
        raise Fault(faults.BAD_JSON, "not an object")
    return about


# ------------------------------------------------------------------------------------------- pictures


def picture(
    parts: Mapping[str, bytes],
    px: int,
    chance: random.Random | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """The picture of a sample in the model's size, (px, px, 3) uint8.

    Args:
        parts: files of the sample by suffix.
        px: side in pixels.
        chance: for training, draws a crop of 90-100% of the area; None: the shortest side becomes
            ``px`` and the centre is kept (a picture of that size is left untouched).
        max_pixels: a picture with more is refused before it is decoded.

    Raises:
        Fault: it cannot be used.
    """
    try:
        image = opened(parts, max_pixels)
        image.draft(
            "RGB", (2 * px, 2 * px)
        )  # a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size
        image = on_white(image)
        if chance is None and image.size == (px, px):
            return np.asarray(image)
        box = _centre_box(*image.size) if chance is None else _crop_box(*image.size, chance)
        return np.asarray(image.resize((px, px), _bicubic(), box=box))
    except Fault:
        raise
    except Exception as error:  # a damaged picture raises whatever its bytes lead to
        raise Fault(faults.BAD_IMAGE, str(error)) from None


def opened(parts: Mapping[str, bytes], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture of a sample with its header read and nothing decoded.

    Raises:
        Fault: its format is unknown, or it has more than ``max_pixels`` pixels.
    """
    from PIL import Image

    _quiet()
    data = next(parts[kind] for kind in IMAGES if kind in parts)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise Fault(faults.TOO_LARGE) from None
    except Exception as error:  # see above
        start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        kind = (
            faults.HTML if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")) else None
        )
        raise Fault(kind or faults.BAD_IMAGE, str(error)) from None
    if image.width * image.height > max_pixels:
        raise Fault(faults.TOO_LARGE, f"{image.width} x {image.height} pixels")
    return image


@lru_cache(1)
def _quiet() -> None:
    """Pillow warns of large pictures; ours are refused or were allowed by ``max_pixels``."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def on_white(image: Image.Image) -> Image.Image:
    """Any picture as RGB; transparency becomes white, as on a page; 16 bits become 8."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in _OPAQUE and "transparency" not in image.info:
        return image.convert("RGB")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    return Image.alpha_composite(_page(image.size), image).convert("RGB")


@lru_cache(1)
def _page(size: tuple[int, int]) -> Image.Image:
    from PIL import Image

    return Image.new("RGBA", size, "white")


def _bicubic() -> Image.Resampling:
    from PIL import Image

    return Image.Resampling.BICUBIC


def _centre_box(width: int, height: int) -> Box:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _crop_box(width: int, height: int, chance: random.Random) -> Box:
    """A box of 90-100% of the area and an aspect of 3:4 to 4:3; ten tries, then the largest centred."""
    for _ in range(10):
        area = width * height * chance.uniform(*AREA)
        aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** chance.random()  # uniform in its logarithm
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = chance.randint(0, width - w), chance.randint(0, height - h)
            return left, top, left + w, top + h
    wide, high = min(width, height * ASPECT[1]), min(height, width / ASPECT[0])
    return (width - wide) / 2, (height - high) / 2, (width + wide) / 2, (height + high) / 2
