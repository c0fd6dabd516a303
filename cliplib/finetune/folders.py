"""A fine-tuned model as a folder that its own library opens again, with the head beside it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cliplib import InputError
from cliplib.model import CONFIG, WEIGHTS
from cliplib.pretrained.names import FOLDER

if TYPE_CHECKING:
    from cliplib.pretrained.opened import Opened

HEAD = "head.safetensors"
TIMM_WEIGHTS = "model.safetensors"
LARGEST_CONFIG = 50 * 2**20  # bytes; what is larger is no configuration or tokenizer


@dataclass(frozen=True)
class Head:
    """A linear classifier on a tower's features.

    Attributes:
        weight: (C, E).
        bias: (C,).
        classes: C names.
    """

    weight: Tensor
    bias: Tensor
    classes: Sequence[str]


def save(opened: Opened, tower: Mapping[str, Tensor], folder: Path, head: Head | None) -> None:
    """Write a model with another image tower; all else is the opened model's.

    An open_clip model becomes a folder for ``local-dir:``; its text tower is as it was. A tower of
    timm's gets the head as its classifier, and is opened by ``local-dir:`` too.

    Args:
        opened: the model before.
        tower: the image tower's weights, by name in `ImageTower`.
        folder: is made; files in it are replaced.
        head: also written by itself, with the class names in its metadata; None: there is none.

    Raises:
        InputError: the model's configuration is nowhere to be found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    body = {name.removeprefix("body."): value.cpu() for name, value in tower.items()}
    if opened.loader == "timm":
        _save_timm(opened, body, folder, head)
    else:
        _save_open_clip(opened, body, folder)
    if head:
        tensors = {"weight": head.weight, "bias": head.bias}
        _write(tensors, folder / HEAD, {"classes": json.dumps(list(head.classes))})


def _write(tensors: Mapping[str, Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    """Aside, then renamed; no two tensors share memory."""
    aside = path.with_name(f".{path.name}.tmp")
    whole = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    save_file(whole, aside, metadata=about)
    aside.replace(path)


# ---------------------------------------------------------------------------------------- open_clip


def _save_open_clip(opened: Opened, body: Mapping[str, Tensor], folder: Path) -> None:
    whole = opened.model.state_dict()
    whole |= {f"visual.{name}": value for name, value in body.items()}
    source = None if opened.arch else _source(opened)
    if source:
        for file in _configuration_files(source):
            shutil.copyfile(file, folder / file.name)
    else:
        document = {"model_cfg": _known_config(opened), "preprocess_cfg": _preprocessing(opened)}
        (folder / CONFIG).write_text(json.dumps(document, indent=1) + "\n")
    _write(whole, folder / WEIGHTS)


def _source(opened: Opened) -> Path:
    """The folder that the model brought its configuration in."""
    places = (Path(opened.name.removeprefix(FOLDER)), Path(opened.weights).parent)
    found = next((place for place in places if (place / CONFIG).is_file()), None)
    if found is None:
        raise InputError(
            f"{opened.name}: its {CONFIG} is no longer where the model was opened from; the "
            "fine-tuned model cannot be saved without it"
        )
    return found


def _configuration_files(source: Path) -> list[Path]:
    """Configuration and tokenizer: every small file that holds no weights."""
    kinds = (".json", ".txt", ".model")
    return [
        file
        for file in sorted(source.iterdir())
        if file.suffix in kinds and file.is_file() and file.stat().st_size < LARGEST_CONFIG
    ]


def _known_config(opened: Opened) -> dict[str, Any]:
    import open_clip

    config: dict[str, Any] = copy.deepcopy(open_clip.get_model_config(opened.arch)) or {}
    config["quick_gelu"] = opened.activation == "quick_gelu"
    config["vision_cfg"]["image_size"] = opened.image_px
    return config


def _preprocessing(opened: Opened) -> dict[str, Any]:
    known = ("mean", "std", "interpolation", "resize_mode")
    return {name: opened.preprocess[name] for name in known if name in opened.preprocess}


# --------------------------------------------------------------------------------------------- timm


def _save_timm(opened: Opened, body: Mapping[str, Tensor], folder: Path, head: Head | None) -> None:
    from timm.models import save_for_hf

    model: Any = copy.deepcopy(opened.model)
    model.reset_classifier(len(head.classes) if head else 0)
    model.load_state_dict(dict(body), strict=False)
    about: dict[str, Any] = {}
    classifier = model.get_classifier()
    if head and isinstance(classifier, nn.Linear) and classifier.weight.shape == head.weight.shape:
        with torch.no_grad():
            classifier.weight.copy_(head.weight)
            classifier.bias.copy_(head.bias)
        about["label_names"] = list(head.classes)
    else:
        model.reset_classifier(0)
    look = {"mean": opened.mean, "std": opened.std, "input_size": (3, *[opened.image_px] * 2)}
    save_for_hf(model, str(folder), model_config=about, safe_serialization=True, data_config=look)
