"""A transformer tower of CLIP, forward and backward written out for small models on a CPU.

At these sizes autograd, autocast and attention written for long sequences cost more than the
arithmetic itself. Here a block is its dozen matrix products and the few operations between them, with
the gradient of each beside it. Two things are left out because their results are never used:

- the last block computes queries, MLP and residual only for the tokens that are read off (the class
  token of an image, end-of-text of a caption), its keys and values for all;
- captions lie several to a row (`cliplib.fast.packing`), so little padding is multiplied.

Weights are open_clip's, by name; outputs and gradients equal autograd's on open_clip's own modules
(``tests/test_fast.py``). Shapes: n rows of L tokens, R = n L, width W, H heads of d = W / H, k tokens
that are read off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EPS = 1e-5  # of LayerNorm, as in open_clip

aten = torch.ops.aten


@dataclass(frozen=True)
class Rows:
    """How the tokens of a call lie.

    Attributes:
        n: rows.
        length: tokens a row, L.
        picked: (k,) places in the n L tokens of those that are read off.
        row: (k,) the row of each; None where every row has one, in order.
        mask: (n, L, L) added to the scores, 0 or -inf; None where all tokens see all.
        picked_mask: (k, L) the same for the tokens that are read off.
    """

    n: int
    length: int
    picked: Tensor
    row: Tensor | None = None
    mask: Tensor | None = None
    picked_mask: Tensor | None = None


class Norm:
    """LayerNorm in float32."""

    def __init__(self, weight: Tensor, bias: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
        self.weight, self.bias, self.d_weight, self.d_bias = weight, bias, d_weight, d_bias

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """(R, W) float32 -> the same normalised, and what backward needs."""
        y, mean, rstd = aten.native_layer_norm(x, x.shape[-1:], self.weight, self.bias, EPS)
        return y, (x, mean, rstd)

    def backward(self, dy: Tensor, saved: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Gradient of the output -> of the input; gradients of gain and bias are written."""
        x, mean, rstd = saved
        dx, dw, db = aten.native_layer_norm_backward(
            dy, x, x.shape[-1:], mean, rstd, self.weight, self.bias, [True, True, True]
        )
        self.d_weight.copy_(dw)
        self.d_bias.copy_(db)
        return dx


class Linear:
    """A linear layer in the precision of its weight, (out, in)."""

    def __init__(self, weight: Tensor, bias: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
        self.weight, self.bias, self.d_weight, self.d_bias = weight, bias, d_weight, d_bias

    def forward(self, x: Tensor) -> Tensor:
        """(R, in) -> (R, out)."""
        return torch.addmm(self.bias, x, self.weight.t())

    def backward(self, dy: Tensor, x: Tensor) -> Tensor:
        """Gradient of the output -> of the input; gradients of weight and bias are written."""
        torch.mm(dy.t(), x, out=self.d_weight)
        self.d_bias.copy_(dy.sum(0))
        return torch.mm(dy, self.weight)


class Block:
    """A residual attention block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, at: Layout, name: str, heads: int) -> None:
        self.heads = heads
        self.norm_1 = at.norm(f"{name}.ln_1")
        self.mix_in = at.linear(f"{name}.attn.in_proj_weight", f"{name}.attn.in_proj_bias")
        self.mix_out = at.linear(f"{name}.attn.out_proj.weight", f"{name}.attn.out_proj.bias")
        self.norm_2 = at.norm(f"{name}.ln_2")
        self.up = at.linear(f"{name}.mlp.c_fc.weight", f"{name}.mlp.c_fc.bias")
        self.down = at.linear(f"{name}.mlp.c_proj.weight", f"{name}.mlp.c_proj.bias")

    # ---- all tokens

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Any]:
        """(R, W) float32 -> the same, and what backward needs."""
        h, norm = self.norm_1.forward(x)
        h = h.to(self.up.weight.dtype)
        mixed, attention = self._attend(self.mix_in.forward(h), rows)
        x = x + self.mix_out.forward(mixed)
        x, mlp = self._mlp(x)
        return x, (h, norm, mixed, attention, mlp)

    def backward(self, dx: Tensor, saved: Any, rows: Rows) -> Tensor:
        """Gradient of the output (R, W) float32 -> of the input."""
        h, norm, mixed, attention, mlp = saved
        dx = self._mlp_backward(dx, mlp)
        d_mixed = self.mix_out.backward(dx.to(h.dtype), mixed)
        d_qkv = self._attend_backward(d_mixed, attention, rows)
        dh = self.mix_in.backward(d_qkv, h)
        return dx.add_(self.norm_1.backward(dh.float(), norm))

    def _attend(self, qkv: Tensor, rows: Rows) -> tuple[Tensor, Any]:
        n, L, H = rows.n, rows.length, self.heads
        q, k, v = (
            qkv.view(n, L, 3, H, -1).permute(2, 0, 3, 1, 4).contiguous().view(3, n * H, L, -1)
        ).unbind(0)
        scale = q.shape[-1] ** -0.5
        scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale)  # (n H, L, L)
        if rows.mask is not None:
            scores.view(n, H, L, L).add_(rows.mask[:, None])
        share = torch.softmax(scores, -1)
        low = share.to(q.dtype)
        mixed = torch.bmm(low, v).view(n, H, L, -1).transpose(1, 2).reshape(n * L, -1)
        return mixed, (q, k, v, share, low)

    def _attend_backward(self, d_mixed: Tensor, saved: Any, rows: Rows) -> Tensor:
        q, k, v, share, low = saved
        n, L, H = rows.n, rows.length, self.heads
        d_mixed = d_mixed.view(n, L, H, -1).transpose(1, 2).reshape(n * H, L, -1)
        d_qkv = torch.empty((3, *q.shape), dtype=q.dtype)
        torch.bmm(low.transpose(1, 2), d_mixed, out=d_qkv[2])
        d_share = torch.bmm(d_mixed, v.transpose(1, 2)).float()
        d_scores = aten._softmax_backward_data(d_share, share, -1, torch.float32)
        d_scores = d_scores.mul_(q.shape[-1] ** -0.5).to(q.dtype)
        torch.bmm(d_scores, k, out=d_qkv[0])
        torch.bmm(d_scores.transpose(1, 2), q, out=d_qkv[1])
        return d_qkv.view(3, n, H, L, -1).permute(1, 3, 0, 2, 4).reshape(n * L, -1)

    def _mlp(self, x: Tensor) -> tuple[Tensor, Any]:
        h, norm = self.norm_2.forward(x)
        h = h.to(self.up.weight.dtype)
        before = self.up.forward(h)
        after = aten.gelu(before)
        return x + self.down.forward(after), (h, norm, before, after)

    def _mlp_backward(self, dx: Tensor, saved: Any) -> Tensor:
        h, norm, before, after = saved
        d_after = self.down.backward(dx.to(h.dtype), after)
        dh = self.up.backward(aten.gelu_backward(d_after, before), h)
        return dx + self.norm_2.backward(dh.float(), norm)

    # ---- only the tokens that are read off: the last block

    def forward_picked(self, x: Tensor, rows: Rows) -> tuple[Tensor, Any]:
        """(R, W) float32 -> (k, W) float32: the tokens that are read off, and what backward needs."""
        W = x.shape[1]
        h, norm = self.norm_1.forward(x)
        h = h.to(self.up.weight.dtype)
        h_picked = h[rows.picked]
        q = torch.addmm(self.mix_in.bias[:W], h_picked, self.mix_in.weight[:W].t())
        kv = torch.addmm(self.mix_in.bias[W:], h, self.mix_in.weight[W:].t())
        mixed, attention = self._attend_picked(q, kv, rows)
        y = x[rows.picked] + self.mix_out.forward(mixed)
        y, mlp = self._mlp(y)
        return y, (h, h_picked, norm, mixed, attention, mlp)

    def backward_picked(self, dy: Tensor, saved: Any, rows: Rows) -> Tensor:
        """Gradient of the tokens read off (k, W) float32 -> of all (R, W)."""
        h, h_picked, norm, mixed, attention, mlp = saved
        W = dy.shape[1]
        dy = self._mlp_backward(dy, mlp)
        d_mixed = self.mix_out.backward(dy.to(h.dtype), mixed)
        dq, d_kv = self._attend_picked_backward(d_mixed, attention, rows)
        mix = self.mix_in
        torch.mm(dq.t(), h_picked, out=mix.d_weight[:W])
        torch.mm(d_kv.t(), h, out=mix.d_weight[W:])
        mix.d_bias[:W] = dq.sum(0)
        mix.d_bias[W:] = d_kv.sum(0)
        dh = torch.mm(d_kv, mix.weight[W:]).float()
        dh.index_add_(0, rows.picked, torch.mm(dq, mix.weight[:W]).float())
        return self.norm_1.backward(dh, norm).index_add_(0, rows.picked, dy)

    def _attend_picked(self, q: Tensor, kv: Tensor, rows: Rows) -> tuple[Tensor, Any]:
        L, H = rows.length, self.heads
        kv = kv.view(rows.n, L, 2, H, -1)
        if rows.row is not None:  # each caption gets the keys and values of its row for itself
            kv = kv[rows.row]
        k, v = kv.permute(2, 0, 3, 1, 4).contiguous().view(2, len(q) * H, L, -1).unbind(0)
        q = q.view(len(q) * H, 1, -1)
        scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(q.shape[-1] ** -0.5)  # (k H, 1, L)
        if rows.picked_mask is not None:
            scores.view(-1, H, L).add_(rows.picked_mask[:, None])
        share = torch.softmax(scores, -1)
        low = share.to(q.dtype)
        return torch.bmm(low, v).view(len(q) // H, -1), (q, k, v, share, low)

    def _attend_picked_backward(
        self, d_mixed: Tensor, saved: Any, rows: Rows
    ) -> tuple[Tensor, Tensor]:
        q, k, v, share, low = saved
        L, H = rows.length, self.heads
        d_mixed = d_mixed.view(len(q), 1, -1)
        d_kv = torch.empty((2, *k.shape), dtype=q.dtype)
        torch.bmm(low.transpose(1, 2), d_mixed, out=d_kv[1])
        d_share = torch.bmm(d_mixed, v.transpose(1, 2)).float()
        d_scores = aten._softmax_backward_data(d_share, share, -1, torch.float32)
        d_scores = d_scores.mul_(q.shape[-1] ** -0.5).to(q.dtype)
        dq = torch.bmm(d_scores, k).view(len(q) // H, -1)
        torch.bmm(d_scores.transpose(1, 2), q, out=d_kv[0])
        d_kv = d_kv.view(2, len(q) // H, H, L, -1).permute(1, 3, 0, 2, 4)  # (k, L, 2, H, d)
        if rows.row is not None:
            whole = torch.zeros((rows.n, *d_kv.shape[1:]))
            d_kv = whole.index_add_(0, rows.row, d_kv.float()).to(q.dtype)
        return dq, d_kv.reshape(rows.n * L, -1)


class Tower:
    """All blocks of a tower; the last one only for the tokens that are read off."""

    def __init__(self, at: Layout, name: str, layers: int, heads: int) -> None:
        self.blocks = [Block(at, f"{name}.resblocks.{i}", heads) for i in range(layers)]

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, list[Any]]:
        """(R, W) float32 -> (k, W) float32, and what backward needs."""
        saved = []
        for block in self.blocks[:-1]:
            x, kept = block.forward(x, rows)
            saved.append(kept)
        x, kept = self.blocks[-1].forward_picked(x, rows)
        return x, [*saved, kept]

    def read(self, x: Tensor, rows: Rows) -> Tensor:
        """As forward, with nothing kept: each block gets the memory of the one before."""
        for block in self.blocks[:-1]:
            x = block.forward(x, rows)[0]
        return self.blocks[-1].forward_picked(x, rows)[0]

    def backward(self, dx: Tensor, saved: Sequence[Any], rows: Rows) -> Tensor:
        """Gradient of the output (k, W) -> of the input (R, W); those of the weights are written."""
        dx = self.blocks[-1].backward_picked(dx, saved[-1], rows)
        for block, kept in zip(reversed(self.blocks[:-1]), reversed(saved[:-1])):
            dx = block.backward(dx, kept, rows)
        return dx


@dataclass(frozen=True)
class Layout:
    """Where weights and gradients of a part of the batch lie, by open_clip's names.

    Attributes:
        exact: float32 weights.
        low: the same in the precision of matrix products.
        grad: gradients: of matrices in that precision, of all else in float32.
    """

    exact: Mapping[str, Tensor]
    low: Mapping[str, Tensor]
    grad: Mapping[str, Tensor]

    def norm(self, name: str) -> Norm:
        """The LayerNorm of that name."""
        weight, bias = f"{name}.weight", f"{name}.bias"
        return Norm(self.exact[weight], self.exact[bias], self.grad[weight], self.grad[bias])

    def linear(self, weight: str, bias: str) -> Linear:
        """The linear layer with these weights."""
        return Linear(self.low[weight], self.low[bias], self.grad[weight], self.grad[bias])
