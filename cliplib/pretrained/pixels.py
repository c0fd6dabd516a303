"""A library's evaluation transform, taken apart where pixels become numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cliplib import InputError

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn


@dataclass(frozen=True)
class Pixels:
    """How an image becomes network input.

    Attributes:
        image_px: side of the images.
        geometry: RGB image -> RGB image of that side.
        mean: colour that is subtracted from levels of 0 to 1.
        std: spread that is then divided by.
        record: mean, std, interpolation, resize_mode, crop_pct.
    """

    image_px: int
    geometry: Callable[[Image.Image], Image.Image]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    record: dict[str, Any]


def of_open_clip(clip: nn.Module) -> Pixels:
    """The transform that open_clip attached to a model when it made it."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    how: dict[str, Any] = clip.visual.preprocess_cfg  # type: ignore[union-attr, assignment]
    transform = image_transform_v2(PreprocessCfg(**how), is_train=False)
    return _taken_apart(transform, how, how["resize_mode"], crop_pct=1.0, size=how["size"])


def of_timm(how: Mapping[str, Any]) -> Pixels:
    """The transform of a timm data configuration (`timm.data.resolve_model_data_config`)."""
    from timm.data import create_transform

    transform = create_transform(**how, is_training=False)
    return _taken_apart(transform, how, how["crop_mode"], how["crop_pct"], how["input_size"][1:])


def _taken_apart(
    transform: Any, how: Mapping[str, Any], resize_mode: str, crop_pct: float, size: Any
) -> Pixels:
    from torchvision.transforms import Compose, ToTensor

    steps = transform.transforms
    border = next(place for place, step in enumerate(steps) if isinstance(step, ToTensor))
    mean, std = (tuple(float(level) for level in how[key]) for key in ("mean", "std"))
    record = {
        "mean": list(mean), "std": list(std), "interpolation": how["interpolation"],
        "resize_mode": resize_mode, "crop_pct": float(crop_pct),
    }  # fmt: skip
    return Pixels(_square(size), Compose(steps[:border]), mean, std, record)


def _square(size: Any) -> int:
    sides = {int(size)} if isinstance(size, int | float) else {int(side) for side in size}
    if len(sides) != 1:
        raise InputError(f"the model takes images of {size} px; only square ones are supported")
    return sides.pop()
