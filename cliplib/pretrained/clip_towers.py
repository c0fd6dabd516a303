"""Models with two towers, built by open_clip; weights are made ready here, nothing interpolated."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cliplib import InputError
from cliplib.model import CONFIG
from cliplib.pretrained.mismatch import beside_file, check_shapes, check_sizes
from cliplib.pretrained.names import FOLDER, Named
from cliplib.pretrained.registry import find
from cliplib.pretrained.weights import Weights

PREPROCESS = ("mean", "std", "interpolation", "resize_mode")
REPEATED = "No pretrained weights loaded for model"  # by us, a moment later


def configuration(what: Named) -> dict[str, Any]:
    """open_clip's configuration of a model: embed_dim, vision_cfg, text_cfg, ...

    Raises:
        InputError: the folder's is no JSON, or has no ``model_cfg``.
    """
    import open_clip

    if what.folder is None:
        return dict(open_clip.get_model_config(what.arch))
    path = what.folder / CONFIG
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))["model_cfg"]
        lacking = {"embed_dim", "vision_cfg", "text_cfg"} - found.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: no open_clip configuration ({type(error).__name__}: {error}); it needs model_cfg"
        ) from None
    if lacking:
        raise InputError(f"{path}: model_cfg lacks {', '.join(sorted(lacking))}; complete it")
    return found


def preprocess(what: Named, weights: Weights | None) -> dict[str, Any] | None:
    """How images are prepared for these weights; None: as the model's own configuration has it.

    In this order: a folder's own configuration, the registry, open_clip's table of the tag, a
    configuration beside the file, what is usual for the architecture.
    """
    import open_clip

    entry = what.entry or (find(weights.path.name) if weights else None)
    beside = beside_file(weights.path) if weights else None
    if what.folder:
        return None
    if entry:
        found = entry.preprocess
    elif what.tag:
        found = open_clip.get_pretrained_cfg(what.arch, what.tag)
    elif beside:
        found = beside.get("preprocess_cfg", {})
    else:
        found = _usual(what.arch)
    return {key: found[key] for key in PREPROCESS if found.get(key) is not None}


def _usual(arch: str) -> dict[str, Any]:
    """open_clip's defaults, unless no known weights of the architecture want them."""
    import open_clip
    from open_clip.transform import PreprocessCfg

    plain = {key: getattr(PreprocessCfg(), key) for key in PREPROCESS}
    tags = open_clip.list_pretrained_tags_by_model(arch)
    known = [open_clip.get_pretrained_cfg(arch, tag) for tag in tags]
    hows = [{key: one.get(key, plain[key]) for key in PREPROCESS} for one in known]
    if not hows or plain in hows:
        return plain
    if any(how != hows[0] for how in hows):
        raise InputError(
            f"{arch}: its known weights want different preprocessing; say whose these are with "
            f"--pretrained TAG beside --weights ({', '.join(tags)})"
        )
    return hows[0]


def build(
    what: Named, image_px: int | None, how: dict[str, Any] | None, meta: bool = False
) -> nn.Module:
    """The model with random weights (seed 0); ``meta``: its shapes alone, in no time.

    Raises:
        InputError: open_clip cannot build it.
    """
    import open_clip

    name = f"{FOLDER}{what.folder}" if what.folder else what.arch
    place = "meta" if meta else "cpu"
    try:
        with quiet(), torch.random.fork_rng(), torch.device("meta") if meta else nullcontext():
            torch.manual_seed(0)
            return open_clip.create_model(
                name, load_weights=False, pretrained_text=False, device=place,
                force_image_size=image_px, force_preprocess_cfg=how,
            )  # fmt: skip
    except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputError(
            f"{what.name}: open_clip cannot build it ({reason}); mend its configuration, or install "
            "what it asks for"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without open_clip's warning that a model has random weights: we load them ourselves.

    Nor does its logging install a handler, which would print other libraries' lines twice.
    """
    root, handler = logging.getLogger(), logging.NullHandler()

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(REPEATED)

    root.addFilter(keep)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.removeFilter(keep)


def fitting(skeleton: nn.Module, weights: Weights, what: Named) -> dict[str, Tensor]:
    """The weights under the model's names.

    Raises:
        InputError: another image size, context length or architecture.
    """
    own = skeleton.state_dict()
    state = _renamed(skeleton, weights.state, own)
    check_sizes(what, weights.path, state, own)
    check_shapes(what, weights.path, state, own)
    return state


def _renamed(
    skeleton: nn.Module, state: dict[str, Tensor], own: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Formats that open_clip reads as well: Apple's, its own before towers were apart, old scalars."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = dict(convert_state_dict(skeleton, state))
    if "positional_embedding" in state and "positional_embedding" not in own:
        state = convert_to_custom_text_state_dict(state)
    for key in ("logit_scale", "logit_bias"):  # a number, or a list of one
        if key in state and key in own and state[key].numel() == own[key].numel():
            state[key] = state[key].reshape(own[key].shape)
    unused = "text.transformer.embeddings.position_ids"  # kept by older transformers
    if unused not in own:
        state.pop(unused, None)
    return state
