"""Features of images and texts, and class embeddings from prompt ensembles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from cliplib import model
from cliplib.records import digest

if TYPE_CHECKING:
    from open_clip.model import CLIP

TEMPLATES = Path(__file__).parent / "templates.json"


@cache
def templates() -> tuple[str, ...]:
    """The prompt templates of zero-shot classification; ``{}`` stands for the class name."""
    return tuple(json.loads(TEMPLATES.read_text())["icons"])


def prompt_hash() -> str:
    """Hash of the templates, kept in every evaluation record."""
    return digest(*templates())


def _arithmetic(clip: CLIP, how: model.Numerics) -> AbstractContextManager[object]:
    return torch.autocast(
        next(clip.parameters()).device.type, how.dtype, enabled=how.precision == "bf16"
    )


@torch.no_grad()
def image_features(
    clip: CLIP, images: np.ndarray, how: model.Numerics, batch: int = 256
) -> np.ndarray:
    """Images (n, px, px, 3) uint8 -> unit vectors (n, E) float32."""
    device = next(clip.parameters()).device
    parts = []
    with _arithmetic(clip, how):
        for start in range(0, len(images), batch):
            chunk = model.normalise(np.array(images[start : start + batch])).to(device)
            parts.append(model.encode_image(clip, chunk).cpu())
    return torch.cat(parts).numpy()


@torch.no_grad()
def text_features(
    clip: CLIP, texts: Sequence[str], how: model.Numerics, batch: int = 512
) -> np.ndarray:
    """Texts -> unit vectors (n, E) float32."""
    device = next(clip.parameters()).device
    tokens = torch.from_numpy(model.tokenize(texts, clip.context_length).astype(np.int64))
    parts = []
    with _arithmetic(clip, how):
        for chunk in tokens.split(batch):
            longest = int((chunk != 0).sum(1).max())
            parts.append(model.encode_text(clip, chunk[:, :longest].to(device)).cpu())
    return torch.cat(parts).numpy()


def class_embeddings(clip: CLIP, names: Sequence[str], how: model.Numerics) -> np.ndarray:
    """One unit vector a class: the mean over all prompt templates, normalised (paper, section 4.1).

    Returns:
        (classes, E) float32.
    """
    prompts = [template.format(name) for name in names for template in templates()]
    features = torch.from_numpy(text_features(clip, prompts, how))
    return F.normalize(features.view(len(names), len(templates()), -1).mean(1), dim=-1).numpy()
