"""Samples of webdataset shards in order, one by one, at full size; what cannot be used is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cliplib.data.decode import metadata, on_white, opened, text
from cliplib.data.faults import BAD_IMAGE, NO_CAPTION, Fault
from cliplib.data.remote import open_shard
from cliplib.data.tar import Group, groups


def samples(urls: Sequence[str], bad: Counter[str]) -> Iterator[dict[str, Any]]:
    """Stream decoded samples of webdataset shards in order (local paths, http, s3, ``pipe:``).

    Yields ``{"key", "image" (height, width, 3) uint8, "text", "json"}``. A sample or shard that cannot
    be used is counted in ``bad`` by kind (:mod:`cliplib.data.faults`); the rest of it is served.
    """
    for url in urls:
        try:
            with open_shard(url) as stream:
                for group in groups(stream):
                    sample = _sample(group, bad)
                    if sample is not None:
                        yield sample
        except Fault as fault:
            bad[fault.kind] += 1


def _sample(group: Group, bad: Counter[str]) -> dict[str, Any] | None:
    kind = group.fault if group.fault or "txt" in group.parts else NO_CAPTION
    if kind is None:
        try:
            about, caption = metadata(group.parts), text(group.parts)
            return {
                "key": group.key, "image": _pixels(group), "text": caption, "json": about,
            }  # fmt: skip
        except Fault as fault:
            kind = fault.kind
    bad[kind] += 1
    return None


def _pixels(group: Group) -> np.ndarray:
    image = opened(group.parts)
    try:
        return np.asarray(on_white(image))
    except Exception as error:  # a damaged picture raises whatever its bytes lead to
        raise Fault(BAD_IMAGE, str(error)) from None
