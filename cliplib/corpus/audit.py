"""Measure the finished corpus from its shards alone: how near held-out pictures come to training."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cliplib.corpus.neardup import Features, features, nearest
from cliplib.corpus.render import CHUNK, on_white
from cliplib.corpus.shards import read_pngs

TRAINING = ("train", "variants")  # the splits a held-out picture may not be near to


def shard_features(path: Path) -> Features:
    """The near-duplicate features of a shard's pictures, in order: (n, 256)."""
    pngs = [png for _, png in read_pngs(path)]
    parts = [pngs[start : start + CHUNK] for start in range(0, len(pngs), CHUNK)]
    return np.concatenate([features(on_white(part)) for part in parts])


def split_features(
    folder: Path, manifest: dict[str, Any], splits: Sequence[str], processes: int = 2
) -> Features:
    """The features of all pictures of some splits, in the order of the manifest's shards."""
    paths = [folder / shard["path"] for shard in manifest["shards"] if shard["split"] in splits]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return np.concatenate(list(pool.map(shard_features, paths)))


def nearest_training(folder: Path, manifest: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Cosine of every held-out picture (validation, then test) with its nearest training picture.

    Whole against whole, from the stored PNGs; about a minute for the full corpus.
    """
    held = [split for split in manifest["splits"] if split not in TRAINING]
    few = split_features(folder, manifest, held)
    many = split_features(folder, manifest, TRAINING)
    return nearest(many, few)
