"""Image towers of timm, with or without a classifier of their own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cliplib import InputError
from cliplib.pretrained.mismatch import check_shapes, check_sizes
from cliplib.pretrained.names import Named
from cliplib.pretrained.weights import Weights

HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
OF_CLIP = {  # names in a file of a whole CLIP -> timm's, where sizes are read off
    "visual.positional_embedding": "pos_embed",
    "visual.trunk.pos_embed": "pos_embed",
    "visual.conv1.weight": "patch_embed.proj.weight",
    "visual.trunk.patch_embed.proj.weight": "patch_embed.proj.weight",
}
PROJECTIONS = {"visual.proj": 1, "visual.head.proj.weight": 0}  # name -> axis of the embedding


def full_name(what: Named) -> str:
    """The name with its tag, as timm takes it."""
    return f"{what.arch}.{what.tag}" if what.tag else what.arch


def facts(what: Named) -> Any:
    """Timm's table row of the weights (of the usual ones, if no tag was given)."""
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(full_name(what))


def outputs(what: Named, weights: Weights | None) -> int:
    """Rows of the last layer: as the file has them, otherwise as timm's table says; 0: no such layer.

    Raises:
        InputError: the file has a classifier of another size than the weights that were named.
    """
    known = facts(what).num_classes
    if weights is None:
        return known
    found = _last_layer(weights.state, _classifier(what))
    if what.tag and found not in (0, known):
        raise InputError(
            f"{weights.path}: a classifier of {found:,} classes, but {what.name} has {known:,}; these "
            f"are other weights: name them, or the bare architecture timm:{what.arch}"
        )
    return found


def _classifier(what: Named) -> str:
    name = facts(what).classifier or "head"
    return str(name if isinstance(name, str) else name[0])


def _last_layer(state: dict[str, Tensor], classifier: str) -> int:
    if f"{classifier}.weight" in state:
        return len(state[f"{classifier}.weight"])
    projection = next((name for name in PROJECTIONS if name in state), None)
    return state[projection].shape[PROJECTIONS[projection]] if projection else 0


def classes(what: Named, last: int, weights: Weights | None) -> int:
    """Classes that the last layer tells apart; 0 where it is CLIP's projection, or there is none."""
    of_clip = weights is not None and any(name in weights.state for name in PROJECTIONS)
    only_pretrained = "_clip_" in what.arch and what.tag and "ft_" not in what.tag
    return 0 if of_clip or only_pretrained else last


def build(
    what: Named, last: int, image_px: int | None, weights: Weights | None = None, meta: bool = False
) -> nn.Module:
    """The tower, with random weights (seed 0) or those given; ``meta``: its shapes alone.

    Raises:
        InputError: timm cannot build it, or the weights do not fit.
    """
    import timm

    known = facts(what)
    how: dict[str, Any] = {"num_classes": last}
    if image_px and known.fixed_input_size:
        how["img_size"] = image_px
    if weights is not None:
        how["pretrained"] = True
        how["pretrained_cfg_overlay"] = {"state_dict": weights.state, "num_classes": last}
    try:
        with torch.random.fork_rng(), torch.device("meta") if meta else nullcontext():
            torch.manual_seed(0)
            tower: Any = timm.create_model(full_name(what), **how)
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        whose = f"{weights.path}: does not fit {what.name}" if weights else what.name
        raise InputError(f"{whose}: timm cannot build it ({reason}); name another model") from None
    tower.pretrained_cfg["state_dict"] = None  # timm keeps what it was given
    return tower


def check(skeleton: nn.Module, weights: Weights, what: Named) -> None:
    """Whether weights fit; in a format that timm converts, sizes alone (timm checks the rest).

    Raises:
        InputError: another image size or architecture.
    """
    own = skeleton.state_dict()
    state = {OF_CLIP.get(name, name): value for name, value in weights.state.items()}
    check_sizes(what, weights.path, state, own)
    patches = "patch_embed.proj.weight"
    if patches in own and patches in state and own[patches].shape != state[patches].shape:
        own, state = {patches: own[patches]}, {patches: state[patches]}
    elif 2 * len(own.keys() & weights.state.keys()) < len(own):
        return
    check_shapes(what, weights.path, state, own)


def data(tower: nn.Module, image_px: int | None) -> dict[str, Any]:
    """Timm's data configuration of the tower: input_size, mean, std, interpolation, crop."""
    from timm.data import resolve_model_data_config

    return dict(resolve_model_data_config(tower, {"img_size": image_px}))
