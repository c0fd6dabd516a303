"""Draw icons: SVG bodies to 32x32 PNG bytes, with their pixels' digest and near-duplicate feature.

One renderer for every published result: resvg. Two processes share the work, because resvg holds
Python's lock while it draws.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt

from cliplib.corpus.neardup import INK, features, ink

SIZE = 32  # pixels, both ways
CHUNK = 400  # icons a task: about 0.1 s
IN_FLIGHT = 6  # tasks waiting: bounds the memory of icons read but not yet drawn


@dataclass(frozen=True, slots=True)
class Drawn:
    """One drawn icon; `png` is empty if resvg could not draw it."""

    png: bytes
    digest: bytes  # of the pixels on white: equal drawings have equal digests
    blank: bool
    feature: npt.NDArray[np.int8]  # (256,)


def svg(icon: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The SVG text of an icon, its longer side filling a square, centred; currentColor is black.

    `defaults` is the set's record, which gives sizes that the icon leaves out (16 by the format).
    An icon that is not square is nested in a square, so that it is still clipped to its own box.
    """
    left, top, width, height = (
        icon.get(field, defaults.get(field, default))
        for field, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    box = f'viewBox="{left} {top} {width} {height}"'
    body = icon["body"]
    side = max(width, height)
    if width != height:
        place = f'x="{(side - width) / 2:g}" y="{(side - height) / 2:g}"'
        body = f'<svg {place} width="{width}" height="{height}" {box}>{body}</svg>'
        box = f'viewBox="0 0 {side} {side}"'
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} width="{side}" height="{side}" {box} color="#000">{body}</svg>'


def draw(svg_text: str) -> bytes:
    """PNG bytes (32x32, RGBA) of an SVG; empty if it cannot be drawn."""
    import resvg_py

    try:
        png = resvg_py.svg_to_bytes(
            svg_string=svg_text, width=SIZE, height=SIZE, skip_system_fonts=True
        )
    except ValueError:
        return b""
    return bytes(png)


def on_white(pngs: Iterable[bytes]) -> npt.NDArray[np.uint8]:
    """Decode 32x32 RGBA PNGs, lay them on white: (n, 32, 32, 3). Integer arithmetic, so exact."""
    from PIL import Image

    rgba = np.stack([np.asarray(Image.open(io.BytesIO(png), formats=["PNG"])) for png in pngs])
    alpha = rgba[..., 3:].astype(np.uint32)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def draw_chunk(svgs: list[str]) -> list[Drawn]:
    """Draw some icons; order kept."""
    pngs = [draw(text) for text in svgs]
    empty = draw('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>')
    pixels = on_white(png or empty for png in pngs)
    found = features(pixels)
    blank = ink(pixels).max(axis=(1, 2)) <= INK
    return [
        Drawn(
            png, hashlib.blake2b(rgb.tobytes(), digest_size=16).digest(), bool(blank[i]), found[i]
        )
        for i, (png, rgb) in enumerate(zip(pngs, pixels))
    ]


def draw_all(svgs: Iterable[str], processes: int = 2) -> Iterator[list[Drawn]]:
    """Draw icons in order, a chunk at a time, with a bounded number waiting."""
    pending: list[Future[list[Drawn]]] = []
    # spawn: safe in a notebook's kernel, whose threads a fork would copy half-way
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for chunk in _chunks(svgs):
            pending.append(pool.submit(draw_chunk, chunk))
            if len(pending) > IN_FLIGHT:
                yield pending.pop(0).result()
        for task in pending:
            yield task.result()


def _chunks(items: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
