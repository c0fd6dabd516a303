"""Open a model: ours, any of open_clip's, any image tower of timm's. What does not fit is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cliplib import InputError
from cliplib.model import CONFIG, Numerics, numerics, use_plain_attention
from cliplib.pretrained import clip_towers, download, image_towers, pixels
from cliplib.pretrained.mismatch import check_activation
from cliplib.pretrained.names import Named, named, tags
from cliplib.pretrained.opened import Opened
from cliplib.pretrained.texts import tokenizer as fitting_tokenizer
from cliplib.pretrained.weights import Weights, content_hash, find, read, state_hash

RANDOM = "random"
CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class Wishes:
    """How a model is to be opened; see `open_model`."""

    weights: Path | None
    random: bool
    precision: str | None
    place: torch.device
    image_px: int | None
    tokenizer: str | None


def open_model(
    name: str,
    *,
    weights: Path | str | None = None,
    pretrained: str | None = None,
    random: bool = False,
    precision: str | None = None,
    device: str | None = None,
    image_px: int | None = None,
    tokenizer: str | None = None,
) -> Opened:
    """A model in evaluation mode with its preprocessing, its tokenizer and their circumstances.

    Args:
        name: a checkpoint folder (also ``local-dir:PATH``), a name of open_clip's, ``hf-hub:ORG/REPO``,
            a name of the registry, or ``timm:NAME``.
        weights: a file on disk, or a folder with one: a state dict, plain or in a training
            checkpoint, or OpenAI's archive.
        pretrained: a tag of the library's for ``name``. With ``weights``: the file is of that tag.
        random: random weights, always the same ones.
        precision: "bf16" or "fp32"; None: by hardware.
        device: None: a GPU if there is one.
        image_px: build the model for images of another size than its name says.
        tokenizer: name or folder of another model whose tokenizer to use.

    Raises:
        InputError: an unknown name, weights that are missing, unreadable or do not fit, a tokenizer
            that does not fit, a download that failed. The message says what to do.
    """
    what = named(name, pretrained)
    _check_choice(what, random, given=bool(weights or pretrained))
    file = None if weights is None else find(Path(weights))
    wishes = Wishes(file, random, precision, _device(device), image_px, tokenizer)
    return _open_tower(what, wishes) if what.loader == "timm" else _open_clip(what, wishes)


# ---------------------------------------------------------------------------------------- two towers


def _open_clip(what: Named, wishes: Wishes) -> Opened:
    what = _with_configuration(what)
    quick_gelu = bool(clip_towers.configuration(what).get("quick_gelu"))
    held = _weights(what, wishes, quick_gelu)
    how = clip_towers.preprocess(what, held)
    skeleton = clip_towers.build(what, wishes.image_px, how, meta=True)
    state = clip_towers.fitting(skeleton, held, what) if held else None
    tokenize = fitting_tokenizer(what, skeleton, wishes.tokenizer)
    clip = clip_towers.build(what, wishes.image_px, how)
    if state is not None:
        clip.load_state_dict(state)
    opened = _opened(what, clip, pixels.of_open_clip(clip), held, wishes)
    context = int(clip.context_length)  # type: ignore[arg-type]
    return replace(opened, tokenize=tokenize, context_length=context)


def _with_configuration(what: Named) -> Named:
    """A repository of the hub becomes the folder that its configuration was fetched to."""
    if not what.hub:
        return what
    return replace(what, folder=download.from_hub(what.hub, [CONFIG]).parent)


# ----------------------------------------------------------------------------------------- one tower


def _open_tower(what: Named, wishes: Wishes) -> Opened:
    if wishes.tokenizer:
        raise InputError(f"{what.name} is an image tower without texts: leave out --tokenizer")
    held = _weights(what, wishes, quick_gelu="quickgelu" in what.arch)
    last = image_towers.outputs(what, held)
    if held:
        skeleton = image_towers.build(what, last, wishes.image_px, meta=True)
        image_towers.check(skeleton, held, what)
    tower = image_towers.build(what, last, wishes.image_px, held)
    look = pixels.of_timm(image_towers.data(tower, wishes.image_px))
    opened = _opened(what, tower, look, held, wishes)
    return replace(opened, classes=image_towers.classes(what, last, held))


# ------------------------------------------------------------------------------------------- weights


def _check_choice(what: Named, random: bool, given: bool) -> None:
    """There must be one source of weights.

    Raises:
        InputError: none, or two.
    """
    if random and given:
        raise InputError("--random cannot go with --weights or --pretrained: choose one")
    if not (random or given or what.entry or what.folder or what.hub or what.tag):
        known = ", ".join(tags(what)) or "none"
        raise InputError(
            f"{what.name} says which architecture, not which weights: pass --weights FILE, "
            f"--pretrained TAG or --random; known tags: {known}"
        )


def _weights(what: Named, wishes: Wishes, quick_gelu: bool) -> Weights | None:
    """What is to be loaded, once its activation is known to be the model's; None: random weights."""
    if wishes.random:
        return None
    check_activation(what, quick_gelu)  # before anything is fetched
    held = read(wishes.weights or _own_file(what))
    check_activation(what, quick_gelu, held)
    return held


def _own_file(what: Named) -> Path:
    """The weights that the name itself stands for, fetched if need be."""
    if what.hub:
        return download.from_hub(what.hub, CLIP_FILES)
    if what.folder:
        return find(what.folder)
    if what.entry and what.entry.file:
        return download.from_hub(what.entry.hub, [what.entry.file])
    if what.loader == "timm":
        known = image_towers.facts(what)
        files = [known.hf_hub_filename] if known.hf_hub_filename else image_towers.HUB_FILES
        return download.from_hub(known.hf_hub_id, files)
    import open_clip

    return download.tagged(what.arch, what.tag, open_clip.get_pretrained_cfg(what.arch, what.tag))


# -------------------------------------------------------------------------------------------- result


def _opened(
    what: Named, net: nn.Module, look: pixels.Pixels, held: Weights | None, wishes: Wishes
) -> Opened:
    hashed = content_hash(held.path) if held else state_hash(net.state_dict())
    done = attend(net, _arithmetic(wishes), asked=wishes.precision is not None)
    return Opened(
        name=what.name, loader=what.loader, arch=what.arch,
        model=net.eval().requires_grad_(False).to(wishes.place),
        image_px=look.image_px, geometry=look.geometry, mean=look.mean, std=look.std,
        preprocess=look.record, tokenize=None, context_length=None, classes=0,
        activation=_activation(net), weights=str(held.path) if held else RANDOM,
        weights_hash=hashed, numerics=done,
    )  # fmt: skip


def attend(net: nn.Module, row: Numerics, asked: bool) -> Numerics:
    """Write attention out where the row wants that and the towers allow it; say what was done.

    Only CLIP's own transformers change over. Timm's towers, ResNets and other text towers keep their
    library's fused attention; open_clip's is slow in bf16 on a CPU, so there fp32 is the default.

    Measured on 2 cores of an AMD EPYC with bf16 products, random weights in inference mode, seconds
    plain and fused. ViT-B-32: 16 images in bf16 0.50 and 1.87, in fp32 0.91 and 0.94; 16 texts in
    bf16 0.35 and 1.46, in fp32 0.65 and 0.68. ViT-B-16: 4 images in bf16 0.44 and 5.5, in fp32 0.89
    and 0.85. Timm's ViT-B-32, 16 images: 0.47 either way in bf16, 0.90 and 0.91 in fp32.

    Args:
        net: the model, changed in place.
        row: of `cliplib.model.NUMERICS`.
        asked: whether its precision is the user's choice.
    """
    if row.attention == "plain" and _is_all_clip(net):
        use_plain_attention(net)
        return row
    if row.attention == "fused":
        return row
    slow = hasattr(net, "encode_text") and row.precision == "bf16" and not asked
    reason = "the library's own attention" + (", slow in bf16" if slow else "")
    return replace(
        row, precision="fp32" if slow else row.precision, attention="fused", reason=reason
    )


def _is_all_clip(net: Any) -> bool:
    """Whether both towers are CLIP's transformers, with attention that can be written out."""
    from open_clip.model import CLIP
    from open_clip.transformer import VisionTransformer

    if type(net) is not CLIP or not isinstance(net.visual, VisionTransformer):
        return False
    blocks = [*net.visual.transformer.resblocks, *net.transformer.resblocks]
    return all(type(block.attn) is nn.MultiheadAttention for block in blocks)


def _activation(net: nn.Module) -> str:
    quick = any(type(module).__name__ == "QuickGELU" for module in net.modules())
    return "quick_gelu" if quick else "gelu"


def _device(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"device {device!r} is not here ({reason}); use cpu or cuda") from None
    return place


def _arithmetic(wishes: Wishes) -> Numerics:
    row = numerics(wishes.precision)
    if wishes.place.type != "cpu" or row.attention == "plain":
        return row
    precision = wishes.precision or "fp32"  # a GPU is there, and was not asked for
    return replace(row, precision=precision, attention="plain", reason="on the CPU, as asked for")
