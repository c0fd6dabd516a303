"""The image tower of an opened model, ready to learn, and how deep each of its weights lies.

Shapes: B images, E features.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cliplib.evaluate.features import device

if TYPE_CHECKING:
    from cliplib.pretrained.opened import Opened

BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
STEM = ("conv1.", "class_embedding", "positional_embedding", "ln_pre.")


class ImageTower(nn.Module):
    """Network input (B, 3, px, px) -> features (B, E), before they are normalised.

    Args:
        body: open_clip's ``visual``, or a tower of timm's without its classifier.
        loader: "open_clip" or "timm".
    """

    def __init__(self, body: nn.Module, loader: str) -> None:
        super().__init__()
        self.body, self.loader = body, loader

    def forward(self, x: Tensor) -> Tensor:
        """The tower's output."""
        body: Any = self.body
        if self.loader == "timm":
            return body.forward_head(body.forward_features(x), pre_logits=True)
        out = body(x)
        return out[0] if isinstance(out, tuple) else out  # CoCa's also gives its tokens


def tower_of(opened: Opened) -> ImageTower:
    """A copy of the image tower that can learn, on the model's device.

    It stays in evaluation mode: no dropout, and a batch norm keeps its statistics.
    """
    body: Any = copy.deepcopy(opened.model if opened.loader == "timm" else opened.model.visual)
    if opened.loader == "timm":
        body.reset_classifier(0)
    return ImageTower(body.requires_grad_(True).eval(), opened.loader)


def width_of(tower: ImageTower, opened: Opened) -> int:
    """E: how many features the tower gives."""
    x = torch.zeros(1, 3, opened.image_px, opened.image_px, device=device(opened))
    with torch.inference_mode():
        return int(tower(x).shape[1])


# -------------------------------------------------------------------------------------------- depth


def layer_scales(tower: ImageTower, layer_decay: float) -> dict[str, float] | None:
    """The learning rate of each parameter as a share of the head's (BEiT's rule, as timm has it).

    With L blocks, block i (from 0) gets ``layer_decay ** (L - i)`` and what comes before them
    ``layer_decay ** (L + 1)``; what comes between them and the head counts to the last block.

    Returns:
        By parameter name; None for a tower whose order of layers is not known.
    """
    if tower.loader == "timm":
        return _prefixed("body.", timm_scales(tower.body, layer_decay))
    trunk = getattr(tower.body, "trunk", None)
    if trunk is not None and hasattr(trunk, "group_matcher"):
        above = {name: layer_decay for name, _ in tower.named_parameters()}
        return above | _prefixed("body.trunk.", timm_scales(trunk, layer_decay))
    if _is_vision_transformer(tower.body):
        return _prefixed("body.", _transformer_scales(tower.body, layer_decay))
    return None


def kind_of_layers(tower: ImageTower) -> str:
    """For the record: by which rule depth was told."""
    if layer_scales(tower, 0.5) is None:
        return f"none: no order of layers is known for {type(tower.body).__name__}"
    return "timm" if tower.loader == "timm" or hasattr(tower.body, "trunk") else "open_clip"


def timm_scales(body: Any, layer_decay: float) -> dict[str, float]:
    """Timm's own scales, of a tower with a classifier on top."""
    from timm.optim import param_groups_layer_decay

    whole = copy.deepcopy(body)
    whole.reset_classifier(1)
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    groups = param_groups_layer_decay(whole.requires_grad_(True), layer_decay=layer_decay)
    found = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    return {name: found[name] for name, _ in body.named_parameters()}


def _transformer_scales(body: Any, layer_decay: float) -> dict[str, float]:
    blocks = len(body.transformer.resblocks)
    return {
        name: layer_decay ** (blocks + 1 - _depth(name, blocks))
        for name, _ in body.named_parameters()
    }


def _depth(name: str, blocks: int) -> int:
    """0 before the blocks, 1 for the first of them, as the last of them for what follows."""
    found = BLOCK.match(name)
    if found:
        return int(found[1]) + 1
    return 0 if name.startswith(STEM) else blocks


def _is_vision_transformer(body: nn.Module) -> bool:
    from open_clip.transformer import VisionTransformer

    return isinstance(body, VisionTransformer)


def _prefixed(prefix: str, scales: Mapping[str, float]) -> dict[str, float]:
    return {prefix + name: scale for name, scale in scales.items()}


def undecayed(tower: ImageTower) -> set[str]:
    """Matrices that timm's towers ask not to be decayed, such as embeddings of positions."""
    body: Any = tower.body if tower.loader == "timm" else getattr(tower.body, "trunk", None)
    if body is None or not hasattr(body, "no_weight_decay"):
        return set()
    prefix = "body." if tower.loader == "timm" else "body.trunk."
    return {prefix + name for name in body.no_weight_decay()}
