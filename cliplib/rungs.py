"""Rungs: the architectures of the ladder, with their parameters and multiply-accumulates (MACs).

Everything declared is in ``ladder_table.toml``; this module reads it and computes what follows.

Compute follows the paper's convention. Its GMACs are one forward pass of both towers over one
image-text pair, the text at full context. Comparing a closed formula with the published figures
shows what they count: every convolution and matrix product, one MAC for each multiplication (the
two attention products, the attention pool of the ResNets and both final projections included);
5 operations per element for LayerNorm and 2 for batch norm; nothing for biases, activations,
softmax, averaging and looking up embeddings. So counted, every published architecture agrees in
every printed digit (``tests/test_ladder.py``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliplib import InputError

VOCAB_SIZE = 4096  # of the miniature's own tokenizer, so that its table does not dwarf a small rung
CONTEXT_LENGTH = 16
EOS_ID = 2  # end of text in that tokenizer: the text tower's output is read off at this token
IMAGE_PX = 32
HEAD_WIDTH = 32
CLIP_VOCAB_SIZE = 49408
CLIP_CONTEXT_LENGTH = 77
PHOTO_PX, PHOTO_PATCH_PX, PHOTO_HEAD_WIDTH, PHOTO_CONTEXT_LENGTH = 112, 16, 64, 32

LAYERNORM_OPS = 5  # per element: mean, centre, square, scale, shift
BATCHNORM_OPS = 2  # per element, with running statistics

TABLE: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("ladder_table.toml").read_text("utf-8")
)


# -------------------------------------------------------------------------------------------- rungs


@dataclass(frozen=True)
class Tower:
    """A transformer: ``layers`` blocks of ``width``, attention in ``heads`` of equal width.

    ``layer_scale`` is the initial value of a learned gain on each residual branch, None without.
    """

    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0
    layer_scale: float | None = None

    @property
    def mlp_width(self) -> int:
        """Width of the hidden layer in each block (rounded down, as open_clip does)."""
        return int(self.width * self.mlp_ratio)


@dataclass(frozen=True)
class ResNet:
    """OpenAI's ResNet image tower: bottleneck ``blocks`` in four stages, then attention pooling."""

    width: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Rung:
    """One architecture of the ladder; sides are in pixels, ``patch_px`` is 0 for a ResNet."""

    name: str
    image_px: int
    patch_px: int
    vision: Tower | ResNet
    text: Tower
    embed_dim: int
    context_length: int
    vocab_size: int


def rung(name: str | Rung) -> Rung:
    """The rung of that name: ``XXS`` to ``XL-4``, ``P-XS`` to ``P-XL`` or a published one.

    A `Rung` is handed back.

    >>> rung("M-4").vision
    Tower(width=128, layers=6, heads=4, mlp_ratio=4.0, layer_scale=None)

    Raises:
        InputError: no such rung; the message lists those there are.
    """
    if isinstance(name, Rung):
        return name
    if not isinstance(name, str) or name not in RUNGS:
        raise InputError(f"unknown rung {name!r}; known: {', '.join(RUNGS)}")
    return RUNGS[name]


def _miniature(name: str, heads: int, patch_px: int) -> Rung:
    """A rung of the miniature from its one dial (the rule is written in ``ladder_table.toml``)."""
    vision, text = _towers(heads, HEAD_WIDTH)
    return Rung(name, IMAGE_PX, patch_px, vision, text, text.width, CONTEXT_LENGTH, VOCAB_SIZE)


def _photo(name: str, heads: int) -> Rung:
    """A rung for photographs with CLIP's own vocabulary, from the same rule."""
    vision, text = _towers(heads, PHOTO_HEAD_WIDTH)
    return Rung(
        name, PHOTO_PX, PHOTO_PATCH_PX, vision, text, text.width,
        PHOTO_CONTEXT_LENGTH, CLIP_VOCAB_SIZE,
    )  # fmt: skip


def _towers(heads: int, head_width: int) -> tuple[Tower, Tower]:
    """Image and text tower that follow from the dial."""
    width = head_width * heads
    vision = Tower(width, layers=max(3, 3 * heads // 2), heads=heads)
    return vision, Tower(width, layers=max(2, heads), heads=heads)


def _published(
    name: str, px: int, patch_px: int, image: str, text: str, embed_dim: int = 0
) -> Rung:
    vision = Tower(*TABLE["image_towers"][image]) if patch_px else _resnet(image)
    tower = Tower(*TABLE["text_towers"][text])
    embed_dim = embed_dim or tower.width
    return Rung(name, px, patch_px, vision, tower, embed_dim, CLIP_CONTEXT_LENGTH, CLIP_VOCAB_SIZE)


def _resnet(name: str) -> ResNet:
    width, blocks = TABLE["resnets"][name]
    return ResNet(width, tuple(blocks))


CPU_RUNGS: dict[str, Rung] = {
    name + suffix: _miniature(name + suffix, heads, patch_px)
    for suffix, patch_px in (("", 8), ("-4", 4))
    for name, heads in TABLE["dial"].items()
}
PUBLISHED_RUNGS: dict[str, Rung] = {
    name: _published(name, *row) for name, row in TABLE["published"].items()
}
PHOTO_RUNGS: dict[str, Rung] = {
    name: _photo(name, heads) for name, heads in TABLE["photo_dial"].items()
}
RUNGS: dict[str, Rung] = CPU_RUNGS | PHOTO_RUNGS | PUBLISHED_RUNGS


# --------------------------------------------------------------------------------------- parameters


def params(r: Rung | str) -> int:
    """Trainable parameters of both towers and the temperature.

    >>> params("ViT-B-32")
    151277313
    """
    return image_params(r) + text_params(r) + 1


def params_non_embedding(r: Rung | str) -> int:
    """`params` without the token embedding and the positional embeddings of both towers.

    This is N in the laws. The patch convolution, the class token, the final projections and the
    temperature stay in: only tables that are looked up or added, not multiplied, are left out.
    """
    r = rung(r)
    tables = r.vocab_size + r.context_length
    return params(r) - tables * r.text.width - _image_positions(r)


def image_params(r: Rung | str) -> int:
    """Parameters of the image tower with its final projection."""
    r = rung(r)
    if isinstance(r.vision, ResNet):
        convolutions = sum(
            c.weights + 2 * c.channels_out for c in _convolutions(r.vision, r.image_px)
        )
        width = 32 * r.vision.width
        attention = 3 * (width**2 + width) + width * r.embed_dim + r.embed_dim
        return convolutions + _image_positions(r) + attention
    width = r.vision.width
    patches = 3 * r.patch_px**2 * width
    ends = width + 4 * width  # class token; LayerNorm before and after the blocks
    return patches + ends + _image_positions(r) + _tower_params(r.vision) + width * r.embed_dim


def text_params(r: Rung | str) -> int:
    """Parameters of the text tower with its embeddings and final projection."""
    r = rung(r)
    width = r.text.width
    tables = (r.vocab_size + r.context_length) * width
    return tables + _tower_params(r.text) + 2 * width + width * r.embed_dim


def _tower_params(tower: Tower) -> int:
    """Blocks only: query, key, value, output, two MLP layers (all with biases), two LayerNorms."""
    width, hidden = tower.width, tower.mlp_width
    gains = 0 if tower.layer_scale is None else 2 * width
    attention = 4 * (width**2 + width)
    mlp = 2 * width * hidden + hidden + width
    return tower.layers * (attention + mlp + 4 * width + gains)


def _image_positions(r: Rung) -> int:
    """Parameters of the image tower's positional embedding (a ResNet's sits in its pool)."""
    if isinstance(r.vision, ResNet):
        return _image_tokens(r) * 32 * r.vision.width
    return _image_tokens(r) * r.vision.width


def _image_tokens(r: Rung) -> int:
    """Patches and the class token; for a ResNet the cells of its last map and their mean."""
    return (r.image_px // (r.patch_px or 32)) ** 2 + 1


# --------------------------------------------------------------------------------------------- MACs


def gmacs(r: Rung | str) -> float:
    """1e9 MACs of one forward pass over one pair, both towers, full context: the paper's unit.

    For executed compute replace the context: ``gmacs(dataclasses.replace(r, context_length=9))``.

    >>> round(gmacs("ViT-B-32"), 2)
    7.4
    """
    return image_gmacs(r) + text_gmacs(r)


def image_gmacs(r: Rung | str) -> float:
    """1e9 MACs of the image tower for one image, final projection included."""
    r = rung(r)
    if isinstance(r.vision, ResNet):
        return _resnet_macs(r.vision, r) / 1e9
    tokens, width = _image_tokens(r), r.vision.width
    patches = 3 * r.patch_px**2 * width * (tokens - 1)
    norms = LAYERNORM_OPS * (tokens + 1) * width  # all tokens before the blocks, one after them
    return (patches + norms + _tower_macs(r.vision, tokens) + width * r.embed_dim) / 1e9


def text_gmacs(r: Rung | str) -> float:
    """1e9 MACs of the text tower for one text at full context, final projection included."""
    r = rung(r)
    norm = LAYERNORM_OPS * r.context_length * r.text.width
    projection = r.text.width * r.embed_dim
    return (_tower_macs(r.text, r.context_length) + norm + projection) / 1e9


def flops(r: Rung | str, convention: str = "forward_macs") -> float:
    """Operations for one pair under a named convention; compare figures only within one.

    ``forward_macs`` is the paper's (`gmacs` x 1e9: a multiply-accumulate is one operation);
    ``forward`` counts multiplication and addition, 2 per MAC; ``training`` adds a backward pass of
    twice the forward's cost, 6 per MAC (nothing for the loss, the optimiser or recomputation).

    Raises:
        InputError: unknown convention.
    """
    per_mac = {"forward_macs": 1, "forward": 2, "training": 6}
    if convention not in per_mac:
        raise InputError(f"unknown FLOP convention {convention!r}; known: {', '.join(per_mac)}")
    return per_mac[convention] * gmacs(r) * 1e9


def _tower_macs(tower: Tower, tokens: int) -> int:
    """Blocks only. Attention scores and their weighted sum cost tokens x tokens x width each."""
    linear = tokens * (4 * tower.width**2 + 2 * tower.width * tower.mlp_width)
    attention = 2 * tokens**2 * tower.width
    norms = 2 * LAYERNORM_OPS * tokens * tower.width
    return tower.layers * (linear + attention + norms)


@dataclass(frozen=True)
class _Convolution:
    weights: int
    channels_out: int
    side: int  # of the square map it writes, in cells


def _resnet_macs(net: ResNet, r: Rung) -> int:
    convolutions = sum(
        c.side**2 * (c.weights + BATCHNORM_OPS * c.channels_out)
        for c in _convolutions(net, r.image_px)
    )
    tokens, width = _image_tokens(r), 32 * net.width
    # The published count attends from every cell, though only the first output is used.
    pool = tokens * (3 * width**2 + width * r.embed_dim) + 2 * tokens**2 * width
    return convolutions + pool


def _convolutions(net: ResNet, image_px: int) -> Iterator[_Convolution]:
    """Every convolution, each with its batch norm: stem (stride 2, then a pool), four stages."""
    half, side = net.width // 2, image_px // 2
    for channels_in, channels_out in ((3, half), (half, half), (half, net.width)):
        yield _Convolution(9 * channels_in * channels_out, channels_out, side)
    side, channels = side // 2, net.width
    for stage, blocks in enumerate(net.blocks):
        inner, outer = net.width * 2**stage, 4 * net.width * 2**stage
        for block in range(blocks):
            yield _Convolution(channels * inner, inner, side)
            yield _Convolution(9 * inner * inner, inner, side)
            if block == 0:  # stages after the first halve the map here, by an average pool
                side //= 1 if stage == 0 else 2
                yield _Convolution(channels * outer, outer, side)  # the shortcut
            yield _Convolution(inner * outer, outer, side)
            channels = outer


# ------------------------------------------------------------------------------- open_clip's format


def model_config(r: Rung | str) -> dict[str, Any]:
    """The rung as keyword arguments of ``open_clip.CLIP``, which is also its JSON model file."""
    r = rung(r)
    text: dict[str, Any] = {
        "context_length": r.context_length,
        "vocab_size": r.vocab_size,
        "width": r.text.width,
        "heads": r.text.heads,
        "layers": r.text.layers,
    }
    if r.vocab_size != CLIP_VOCAB_SIZE:
        # open_clip reads a text's output at its highest token id. That is the end of text in CLIP's
        # own vocabulary only; in another the last words would be invisible (the mask is causal).
        text |= {"pool_type": "eos", "eos_id": EOS_ID}
    return {"embed_dim": r.embed_dim, "vision_cfg": _vision_config(r), "text_cfg": text}


def _vision_config(r: Rung) -> dict[str, Any]:
    if isinstance(r.vision, ResNet):
        layers = list(r.vision.blocks)
        return {"image_size": r.image_px, "layers": layers, "width": r.vision.width}
    gains = {} if r.vision.layer_scale is None else {"ls_init_value": r.vision.layer_scale}
    return {
        "image_size": r.image_px,
        "layers": r.vision.layers,
        "width": r.vision.width,
        "head_width": r.vision.width // r.vision.heads,
        "patch_size": r.patch_px,
        "mlp_ratio": r.vision.mlp_ratio,
        **gains,
    }
