"""Samples of webdataset shards, decoded one by one; what cannot be used is counted by kind."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


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


