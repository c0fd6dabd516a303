"""All weights of a CLIP in one flat vector, and one flat gradient for each part of a batch.

One vector makes the casts, the clipping and the optimiser a few large operations instead of
hundreds of small ones. Its order is vectors (not decayed), matrices, tables (both decayed).

Of the token embedding only the rows of tokens that occur in the captions are in it. The gradient of
every other row is zero at every step, so AdamW only ever decays it: `Weights.export` does that at
once, by the product of the decays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cliplib.fast.tower import Layout

if TYPE_CHECKING:
    from open_clip.model import CLIP

EMBEDDING = "token_embedding.weight"
TABLES = (EMBEDDING, "positional_embedding", "visual.positional_embedding")


class Weights(nn.Module):
    """The weights of a CLIP as two parameters: ``plain`` and ``decayed``.

    Args:
        clip: an open_clip CLIP with two transformers; all its parameters but the token embedding
            become views of the flat vector.
        used: (m,) ids of the tokens that occur, ascending; None for the whole vocabulary.
        dtype: precision of matrix products.
        parts: how many parts of a batch have a gradient of their own.
    """

    def __init__(self, clip: CLIP, used: np.ndarray | None, dtype: torch.dtype, parts: int) -> None:
        super().__init__()
        whole = clip.token_embedding.weight
        self.clip, self.dtype = [clip], dtype  # in a list: no submodule
        self.used = torch.arange(len(whole)) if used is None else torch.from_numpy(used)
        shapes = {name: tuple(p.shape) for name, p in clip.named_parameters()}
        shapes[EMBEDDING] = (len(self.used), whole.shape[1])
        named = dict(clip.named_parameters())
        vectors = [name for name, shape in shapes.items() if len(shape) < 2]
        matrices = [name for name in shapes if name not in vectors and name not in TABLES]
        self.spans = _spans(shapes, [*vectors, *matrices, *TABLES])
        self.ends = tuple(
            self.spans[group[-1]][1] for group in (vectors, matrices, TABLES)
        )  # of vectors, of matrices, of all
        self.shapes = shapes
        flat = torch.empty(self.ends[2])
        for name, (start, end) in self.spans.items():
            values = whole.data[self.used] if name == EMBEDDING else named[name].data
            flat[start:end] = values.reshape(-1)
            if name != EMBEDDING:
                named[name].data = flat[start:end].view(shapes[name])
        self.flat, self.gradient = flat, torch.zeros_like(flat)
        self.plain = nn.Parameter(flat[: self.ends[0]])
        self.decayed = nn.Parameter(flat[self.ends[0] :])
        self.plain.grad = self.gradient[: self.ends[0]]
        self.decayed.grad = self.gradient[self.ends[0] :]
        self.low = flat if dtype == torch.float32 else flat[: self.ends[1]].to(dtype)
        self.part_gradients = [self._gradient_of_part() for _ in range(parts)]

    def layout(self, part: int) -> Layout:
        """Weights, and the gradients of a part, by name."""
        own = self.part_gradients[part]
        return Layout(
            exact=self._views(self.flat, self.spans),
            low=self._views(self.low, (n for n in self.spans if n not in TABLES)),
            grad={
                name: own[_which(start, self.ends)][
                    start - _origin(start, self.ends) : end - _origin(start, self.ends)
                ].view(self.shapes[name])
                for name, (start, end) in self.spans.items()
            },
        )

    def cast(self) -> None:
        """Bring the low-precision copy up to date (nothing to do in float32)."""
        if self.low is not self.flat:
            self.low.copy_(self.flat[: self.ends[1]])

    def gather(self) -> None:
        """Add up the gradients of the parts, in their order, into the flat gradient."""
        places = (slice(0, self.ends[0]), slice(*self.ends[:2]), slice(*self.ends[1:]))
        for at, own in zip(places, zip(*self.part_gradients)):
            total = self.gradient[at].copy_(own[0])
            for more in own[1:]:
                total.add_(more)

    @torch.no_grad()
    def export(self, decay: float) -> None:
        """Write the token embedding back: rows that occur as trained, all others times ``decay``."""
        whole = self.clip[0].token_embedding.weight
        start, end = self.spans[EMBEDDING]
        whole.mul_(decay)
        whole[self.used] = self.flat[start:end].view(self.shapes[EMBEDDING])

    def _gradient_of_part(self) -> tuple[Tensor, Tensor, Tensor]:
        vectors, matrices, tables = self.ends
        return (
            torch.zeros(vectors),
            torch.zeros(matrices - vectors, dtype=self.dtype),
            torch.zeros(tables - matrices),
        )

    def _views(self, flat: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: flat[slice(*self.spans[name])].view(self.shapes[name]) for name in names}


def _spans(shapes: dict[str, tuple[int, ...]], order: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Start and end of each tensor in the flat vector."""
    spans, start = {}, 0
    for name in order:
        end = start + int(np.prod(shapes[name], dtype=np.int64))
        spans[name] = (start, end)
        start = end
    return spans


def _which(start: int, ends: tuple[int, ...]) -> int:
    return next(i for i, end in enumerate(ends) if start < end)


def _origin(start: int, ends: tuple[int, ...]) -> int:
    return (0, *ends)[_which(start, ends)]
