"""GMACs that the written-out towers multiply: counted as `cliplib.rungs` counts, over their own shapes."""

from __future__ import annotations

from cliplib.fast.tower import Rows
from cliplib.rungs import LAYERNORM_OPS, ResNet, Rung, Tower


def executed_gmacs(rung: Rung, images: Rows, texts: Rows) -> float:
    """1e9 MACs of the forward passes over these images and these packed captions."""
    assert not isinstance(rung.vision, ResNet)
    b, patches = images.n, images.n * (images.length - 1)
    stem = patches * 3 * rung.patch_px**2 * rung.vision.width
    before = LAYERNORM_OPS * images.n * images.length * rung.vision.width
    ends = sum(
        b * width * (LAYERNORM_OPS + rung.embed_dim)
        for width in (rung.vision.width, rung.text.width)
    )
    return (stem + before + ends + _tower(rung.vision, images) + _tower(rung.text, texts)) / 1e9


def _tower(tower: Tower, rows: Rows) -> int:
    width, mlp = tower.width, 2 * tower.width * tower.mlp_width
    tokens, picked = rows.n * rows.length, len(rows.picked)
    norm = LAYERNORM_OPS * width
    block = tokens * (4 * width**2 + mlp + 2 * norm + 2 * rows.length * width)
    last = tokens * (2 * width**2 + norm)
    last += picked * (2 * width**2 + mlp + norm + 2 * rows.length * width)
    return (tower.layers - 1) * block + last
