"""Build every model of the registry without memory, count it, and compare with what was published.

Counted is the model that the installed library builds, on torch's meta device: shapes, no values.
MACs follow the paper's convention (see `cliplib.rungs`): matrix products and convolutions, 5
operations an element of LayerNorm. One thing is counted as it was when the paper's figures were: the
norm after CLIP's image blocks sees the class token alone; today's open_clip computes it for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from cliplib.model import use_plain_attention
from cliplib.pretrained import clip_towers, image_towers
from cliplib.pretrained.names import Named
from cliplib.pretrained.registry import Entry, entries, entry, published_size
from cliplib.rungs import LAYERNORM_OPS

ROUNDING = 0.005 + 1e-6  # published sizes have two decimals


def check(models: Iterable[Entry] | None = None) -> pd.DataFrame:
    """One row a model: name, params_m, published_params_m, gmacs, published_gmacs, agrees, note.

    ``params_m`` in millions, ``gmacs`` in GMAC of one sample: a pair, or an image for an image
    tower. A classifier whose size was not published is compared with the published size of its
    sibling, the head exchanged. ``agrees`` also asks that the library prepares images as the
    registry says; the note has what differs.
    """
    return pd.DataFrame([_row(one) for one in models or entries()])


def _row(one: Entry) -> dict[str, Any]:
    params, macs, width = counted(one.loader, one.arch, one.classes)
    shown = published_size(one)
    expected, note = shown, ""
    if math.isnan(shown[0]):
        expected, note = _from_sibling(one, width)
    sizes = zip((params / 1e6, macs / 1e9), expected)
    wrong = [*_other_preparation(one)]
    agrees = all(abs(ours - theirs) <= ROUNDING for ours, theirs in sizes) and not wrong
    return {
        "name": one.name, "params_m": params / 1e6, "published_params_m": shown[0],
        "gmacs": macs / 1e9, "published_gmacs": shown[1], "agrees": agrees,
        "note": "; ".join([note, *wrong] if note else wrong),
    }  # fmt: skip


def _from_sibling(one: Entry, width: int) -> tuple[tuple[float, float], str]:
    """Size that follows from the published one of the same tower with ImageNet-1k's classifier."""
    sibling = entry(one.name.replace("_ft_in12k", "_ft_in1k"))
    params, macs = published_size(sibling)
    more = one.classes - sibling.classes
    note = f"no published size: compared with {sibling.name}, its head exchanged"
    return (params + more * (width + 1) / 1e6, macs + more * width / 1e9), note


# ------------------------------------------------------------------------------------------ counting


@cache
def counted(loader: str, arch: str, classes: int) -> tuple[int, int, int]:
    """Parameters, MACs of one sample, and width of the image tower, of an architecture as built."""
    what = Named(arch, loader, arch)
    net: Any
    if loader == "timm":
        net = image_towers.build(what, classes, None, meta=True).eval()
        for module in net.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # products that a counter sees
        return _params(net), macs(net), net.num_features
    net = clip_towers.build(what, None, None, meta=True).eval()
    use_plain_attention(net)
    return _params(net), macs(net), net.visual.conv1.out_channels


def _params(net: nn.Module) -> int:
    return sum(value.numel() for value in net.parameters())


def macs(net: Any) -> int:
    """MACs of one image, and of one text where there is a text tower, by the paper's convention."""
    from torch.utils.flop_counter import FlopCounterMode

    side = _side(net)
    image = torch.empty(1, 3, side, side, device="meta")
    norms = [module for module in net.modules() if isinstance(module, nn.LayerNorm)]
    seen: list[int] = []
    hooks = [
        norm.register_forward_hook(lambda _, __, out: seen.append(out.numel())) for norm in norms
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _forward(net, image)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2 + LAYERNORM_OPS * (sum(seen) - _norms_unread(net))


def _side(net: Any) -> int:
    size = net.visual.image_size if hasattr(net, "visual") else net.pretrained_cfg["input_size"][-1]
    return int(size[0] if isinstance(size, tuple) else size)


def _forward(net: Any, image: Tensor) -> None:
    if not hasattr(net, "visual"):
        net(image)
        return
    net.encode_image(image)
    net.encode_text(torch.zeros(1, net.context_length, dtype=torch.long, device="meta"))


def _norms_unread(net: Any) -> int:
    """Elements of the norm after CLIP's image blocks that nobody reads: all but the class token's."""
    if not hasattr(net, "visual"):
        return 0
    patches, width = net.visual.positional_embedding.shape
    return (patches - 1) * width


# --------------------------------------------------------------------------------------- preparation


def _other_preparation(one: Entry) -> list[str]:
    """Where the installed library prepares images otherwise than the registry says."""
    known = _known_to_timm(one) if one.loader == "timm" else _known_to_open_clip(one)
    ours = one.preprocess | {"image_px": one.image_px, "classes": one.classes}
    ours |= {"quick_gelu": one.quick_gelu}
    return [
        f"the library has {key} {known[key]}, the registry {value}"
        for key, value in ours.items()
        if key in known and known[key] != value
    ]


def _known_to_open_clip(one: Entry) -> dict[str, Any]:
    """By its table where that lists the same run, otherwise by its defaults: no norm is known."""
    import open_clip

    config = open_clip.get_model_config(one.arch)
    known = {
        "image_px": config["vision_cfg"]["image_size"],
        "quick_gelu": bool(config.get("quick_gelu")),
    }
    if not one.tag:
        return known
    tag = open_clip.get_pretrained_cfg(one.arch, one.tag)
    how = {key: tag[key] for key in ("interpolation", "resize_mode")}
    return known | how | {key: list(tag[key]) for key in ("mean", "std")}


def _known_to_timm(one: Entry) -> dict[str, Any]:
    cfg = image_towers.facts(Named(one.name, "timm", one.arch, one.tag))
    return {
        "mean": list(cfg.mean), "std": list(cfg.std), "interpolation": cfg.interpolation,
        "resize_mode": cfg.crop_mode, "crop_pct": cfg.crop_pct, "classes": cfg.num_classes,
        "image_px": cfg.input_size[-1],
    }  # fmt: skip
