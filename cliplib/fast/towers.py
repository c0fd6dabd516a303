"""Both towers of a small CLIP with their ends: pixels or tokens in, unit vectors out, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cliplib import model
from cliplib.fast.packing import Packed, pack
from cliplib.fast.tower import Layout, Rows, Tower
from cliplib.ladder import Rung
from cliplib.rungs import ResNet

TINY = 1e-12  # least length of a vector that is normalised, as in torch.nn.functional.normalize


class SavedImages(NamedTuple):
    """What the image tower's backward pass needs."""

    patches: Tensor
    rows: Rows
    before: Any
    blocks: Any
    after: Any
    head: Any


class SavedTexts(NamedTuple):
    """What the text tower's backward pass needs."""

    packed: Packed
    blocks: Any
    after: Any
    head: Any


class ImageTower:
    """open_clip's VisionTransformer, the class token read off."""

    def __init__(self, at: Layout, rung: Rung) -> None:
        assert not isinstance(rung.vision, ResNet)
        self.at, self.patch = at, rung.patch_px
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in model.statistics(rung))
        self.middle, self.gain = 255 * mean, 1 / (255 * std)
        self.before, self.after = at.norm("visual.ln_pre"), at.norm("visual.ln_post")
        self.tower = Tower(at, "visual.transformer", rung.vision.layers, rung.vision.heads)
        self.head = Head(at, "visual.proj")

    def forward(self, images: np.ndarray) -> tuple[Tensor, SavedImages]:
        """Grey levels (b, px, px, 3) uint8 -> unit vectors (b, E) float32, and what backward needs."""
        x, rows, patches, before = self._embedded(images)
        x, kept = self.tower.forward(x, rows)
        x, after = self.after.forward(x)
        y, head = self.head.forward(x)
        return y, SavedImages(patches, rows, before, kept, after, head)

    def read(self, images: np.ndarray) -> Tensor:
        """As forward, with nothing kept."""
        x, rows = self._embedded(images)[:2]
        return self.head.forward(self.after.forward(self.tower.read(x, rows))[0])[0]

    def _embedded(self, images: np.ndarray) -> tuple[Tensor, Rows, Tensor, Any]:
        """Tokens (b (P + 1), W) float32 in rows, the patches, and what the first norm's backward needs."""
        patches = self._patches(images)  # (b, P, 3 p p)
        b, P, _ = patches.shape
        patches = patches.view(b * P, -1)
        kernel = self.at.low["visual.conv1.weight"]
        W = len(kernel)
        x = torch.empty((b, P + 1, W))
        x[:, 0] = self.at.exact["visual.class_embedding"]
        x[:, 1:] = torch.mm(patches, kernel.view(W, -1).t()).view(b, P, W)
        x += self.at.exact["visual.positional_embedding"]
        rows = Rows(b, P + 1, torch.arange(b) * (P + 1))
        x, before = self.before.forward(x.view(-1, W))
        return x, rows, patches, before

    def backward(self, dy: Tensor, saved: SavedImages) -> None:
        """Gradient of the unit vectors (b, E): those of the weights are written."""
        patches, rows, before, kept, after, head = saved
        dx = self.after.backward(self.head.backward(dy, head), after)
        dx = self.before.backward(self.tower.backward(dx, kept, rows), before)
        dx = dx.view(rows.n, rows.length, -1)
        grad = self.at.grad
        torch.sum(dx, 0, out=grad["visual.positional_embedding"])
        grad["visual.class_embedding"].copy_(grad["visual.positional_embedding"][0])
        d_patches = dx[:, 1:].to(patches.dtype).reshape(len(patches), -1)
        kernel = grad["visual.conv1.weight"]
        torch.mm(d_patches.t(), patches, out=kernel.view(len(kernel), -1))

    def _patches(self, images: np.ndarray) -> Tensor:
        """Normalised patches (b, P, 3 p p), channels first within a patch as in the convolution."""
        b, side, _, _ = images.shape
        cells, p = side // self.patch, self.patch
        x = torch.from_numpy(images).view(b, cells, p, cells, p, 3).permute(0, 1, 3, 5, 2, 4)
        out = torch.empty(x.shape).copy_(x)
        out.sub_(self.middle).mul_(self.gain)
        return out.view(b, cells * cells, -1).to(self.at.low["visual.proj"].dtype)


class TextTower:
    """open_clip's text transformer, end of text read off, captions packed several to a row."""

    def __init__(self, at: Layout, rung: Rung) -> None:
        self.at = at
        self.tower = Tower(at, "transformer", rung.text.layers, rung.text.heads)
        self.after = at.norm("ln_final")
        self.head = Head(at, "text_projection")

    def forward(self, tokens: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, SavedTexts]:
        """Rows of the embedding (b, context) and lengths (b,) -> unit vectors (b, E) float32."""
        packed = pack(tokens, lengths)
        exact = self.at.exact
        x = exact["token_embedding.weight"].index_select(0, packed.tokens)
        x += exact["positional_embedding"].index_select(0, packed.positions)
        x, kept = self.tower.forward(x, packed.rows)
        x, after = self.after.forward(x)
        y, head = self.head.forward(x)
        return y, SavedTexts(packed, kept, after, head)

    def read(self, tokens: Tensor, rows: Rows) -> Tensor:
        """Rows of the embedding (n, L), a text each -> unit vectors (n, E) float32; nothing is kept."""
        exact = self.at.exact
        x = exact["token_embedding.weight"][tokens]
        x += exact["positional_embedding"][: tokens.shape[1]]
        y = self.tower.read(x.flatten(0, 1), rows)
        return self.head.forward(self.after.forward(y)[0])[0]

    def backward(self, dy: Tensor, saved: SavedTexts) -> None:
        """Gradient of the unit vectors (b, E): those of the weights are written."""
        packed, kept, after, head = saved
        dx = self.after.backward(self.head.backward(dy, head), after)
        dx = self.tower.backward(dx, kept, packed.rows)
        grad = self.at.grad
        # places without a token have a zero gradient: nothing that is read off has seen them
        grad["token_embedding.weight"].zero_().index_add_(0, packed.tokens, dx)
        grad["positional_embedding"].zero_().index_add_(0, packed.positions, dx)


class Head:
    """The projection into the joint space, and the normalisation."""

    def __init__(self, at: Layout, name: str) -> None:
        self.weight, self.d_weight = at.low[name], at.grad[name]

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """(b, W) float32 -> unit vectors (b, E) float32, and what backward needs."""
        x = x.to(self.weight.dtype)
        y = torch.mm(x, self.weight).float()
        length = torch.linalg.vector_norm(y, dim=1, keepdim=True).clamp_min_(TINY)
        y /= length
        return y, (x, y, length)

    def backward(self, dy: Tensor, saved: Any) -> Tensor:
        """Gradient of the unit vectors -> of the input, float32."""
        x, y, length = saved
        dz = (dy - y * (dy * y).sum(1, keepdim=True)).div_(length).to(x.dtype)
        torch.mm(x.t(), dz, out=self.d_weight)
        return torch.mm(dz, self.weight.t()).float()
