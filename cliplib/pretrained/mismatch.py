"""What weights and model must agree on. The libraries would make do silently; we refuse in words.

Both stretch positions to another image size, cut or pad a text to another context, and put weights
trained with QuickGELU under GELU: the result is a working model that is not the published one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliplib import InputError
from cliplib.model import CONFIG
from cliplib.pretrained.names import Named
from cliplib.pretrained.registry import find
from cliplib.pretrained.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor

PATCHES = ("visual.conv1.weight", "visual.trunk.patch_embed.proj.weight", "patch_embed.proj.weight")
IMAGE_POSITIONS = (
    "visual.positional_embedding", "visual.trunk.pos_embed", "visual.attnpool.positional_embedding",
    "pos_embed",
)  # fmt: skip
TEXT_POSITIONS = ("positional_embedding", "text.positional_embedding")
RESNET_PX = 32  # pixels a cell of a ResNet's last map stands for

State = Mapping[str, "Tensor"]


# ---------------------------------------------------------------------------------------- activation


def check_activation(what: Named, quick_gelu: bool, weights: Weights | None = None) -> None:
    """Whether the model computes the activation that its weights were trained with.

    Without ``weights`` what the registry and the library's own table say is checked: before a
    download. With them, what the file itself and a configuration beside it say.

    Raises:
        InputError: it does not; the message says which name does.
    """
    said = _said_by_tables(what) if weights is None else _said_by_file(weights)
    for wanted, whose in said:
        if wanted != quick_gelu:
            kinds = {True: "QuickGELU", False: "GELU"}
            raise InputError(
                f"{whose} trained with {kinds[wanted]}, but {what.name} computes "
                f"{kinds[quick_gelu]}, which would spoil every feature; {_other_activation(what, wanted)}"
            )


def _said_by_tables(what: Named) -> Iterator[tuple[bool, str]]:
    if what.entry:
        yield what.entry.quick_gelu, f"the weights of {what.entry.name} were"
    elif what.tag and what.loader == "open_clip":
        import open_clip

        known = open_clip.get_pretrained_cfg(what.arch, what.tag)
        yield bool(known.get("quick_gelu")), f"{what.arch} {what.tag} was"
    elif what.tag:
        from timm.models import get_pretrained_cfg

        found = get_pretrained_cfg(f"{what.arch}.{what.tag}")
        if found and "QuickGELU" in " ".join(found.notes or ()):
            yield True, f"{what.arch}.{what.tag} was"


def _said_by_file(weights: Weights) -> Iterator[tuple[bool, str]]:
    if weights.openai:
        yield True, f"{weights.path} is OpenAI's, which was"
    if known := find(weights.path.name):
        yield known.quick_gelu, f"{weights.path}, a run of the study, was"
    beside = beside_file(weights.path)
    if beside:
        yield (
            bool(beside["model_cfg"].get("quick_gelu")),
            f"{weights.path}, says {CONFIG} beside it, was",
        )


def beside_file(path: Path) -> dict[str, Any] | None:
    """open_clip's configuration in the folder of a file of weights, or None."""
    try:
        found = json.loads((path.parent / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("model_cfg"), dict) else None


def _other_activation(what: Named, wanted: bool) -> str:
    if what.entry:
        return "these are not its weights"
    if not what.arch:
        return f"set quick_gelu to {str(wanted).lower()} in {what.folder}/{CONFIG}"
    if what.loader == "timm":
        import timm

        plain = what.arch.replace("_clip_quickgelu_", "_clip_")
        other = plain.replace("_clip_", "_clip_quickgelu_") if wanted else plain
        name, exists = f"timm:{other}" + (f".{what.tag}" if what.tag else ""), timm.is_model(other)
    else:
        import open_clip

        name = f"{what.arch}-quickgelu" if wanted else what.arch.removesuffix("-quickgelu")
        exists = name in open_clip.list_models()
    if not exists:
        return f"{what.loader} has no such variant of {what.arch}; name the model they belong to"
    return f"open it as {name}"


# --------------------------------------------------------------------------------------------- sizes


def check_sizes(what: Named, path: Path, state: State, own: State) -> None:
    """Whether images and texts have the size that the weights were trained with.

    Args:
        what: the model.
        path: the file of weights.
        state: weights under the model's names.
        own: the model's own state; its values are not read.

    Raises:
        InputError: another image size or context length; the message names both.
    """
    theirs, ours = _px(state, own), _px(own, own)
    if theirs and ours and theirs != ours:
        raise InputError(
            f"{path}: weights for images of {theirs} px, but {what.name} takes {ours} px, and "
            f"stretching their positions gives another model; {_other_size(what, theirs)}"
        )
    for key in TEXT_POSITIONS:
        if key in state and key in own and len(state[key]) != len(own[key]):
            raise InputError(
                f"{path}: weights for texts of {len(state[key])} tokens, but {what.name} takes "
                f"{len(own[key])}; give the configuration they were trained with"
            )


def _px(state: State, own: State) -> int:
    """Side of the images by the number of positions; 0 where that cannot be told."""
    place = next((key for key in IMAGE_POSITIONS if key in state and key in own), None)
    if place is None:
        return 0
    patches = next((key for key in PATCHES if key in own), None)
    patch_px = own[patches].shape[-1] if patches and "attnpool" not in place else RESNET_PX
    if patches and patches in state and state[patches].shape != own[patches].shape:
        return 0  # another architecture: its first difference says more
    return math.isqrt(state[place].shape[-2]) * patch_px


def _other_size(what: Named, px: int) -> str:
    names = _same_but_for_size(what, px)
    if names:
        return f"open it as {' or '.join(names)}"
    return f"pass --image-px {px}, or name the model of that size"


def _same_but_for_size(what: Named, px: int) -> list[str]:
    """The library's architectures that differ from this one in image size alone, and have ``px``."""
    if what.loader == "timm":
        import timm

        other = re.sub(r"_\d+$", f"_{px}", what.arch)
        return [f"timm:{other}"] if other != what.arch and timm.is_model(other) else []
    if not what.arch:
        return []
    import open_clip

    wanted = open_clip.get_model_config(what.arch)
    wanted["vision_cfg"]["image_size"] = px
    return [name for name in open_clip.list_models() if open_clip.get_model_config(name) == wanted]


# -------------------------------------------------------------------------------------------- shapes


def check_shapes(what: Named, path: Path, state: State, own: State) -> None:
    """Whether every parameter is there, in its shape, and no other.

    Raises:
        InputError: it is not; the message has the first that differs, and both shapes.
    """
    for key, value in sorted(own.items(), key=lambda item: item[0] not in PATCHES):  # tells most
        if key not in state:
            raise InputError(
                f"{path}: does not fit {what.name}: it lacks {key}; name the model it belongs to"
            )
        if state[key].shape != value.shape:
            raise InputError(
                f"{path}: does not fit {what.name}: {key} is {_shape(state[key])} in the file and "
                f"{_shape(value)} in the model; name the model it belongs to"
            )
    if extra := next((key for key in state if key not in own), None):
        raise InputError(
            f"{path}: does not fit {what.name}: it has {extra} {_shape(state[extra])}, which the "
            "model has not; name the model it belongs to"
        )


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a single number"
