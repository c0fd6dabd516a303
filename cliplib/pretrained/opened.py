"""A model that is ready to be tested, with the circumstances that its numbers depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from cliplib.model import Numerics
    from cliplib.pretrained.written_out import WrittenOut


@dataclass(frozen=True)
class Opened:
    """A model in evaluation mode.

    Preprocessing is the model's own, taken apart where pixels become numbers, so that the part on
    images runs once an image and the rest on whole batches; together they give the same numbers.

    Attributes:
        name: as it was asked for.
        loader: "open_clip" or "timm".
        arch: the library's name of the architecture; empty for a folder that brings its own.
        model: in evaluation mode, on its device. With open_clip it has both towers.
        image_px: side of the images it takes.
        geometry: RGB image -> RGB image of ``image_px`` squared: resized and cropped as in training.
        mean: colour that is subtracted, three channels of 0 to 1.
        std: spread that is then divided by.
        preprocess: what both do, for the record: mean, std, interpolation, resize_mode, crop_pct.
        tokenize: texts -> (n, context) int64, padded with 0; None for an image tower.
        context_length: tokens that the text tower takes; None for an image tower.
        classes: outputs of its own classifier; 0: it has none.
        activation: "gelu" or "quick_gelu".
        weights: file or folder they come from, or "random".
        weights_hash: of their content.
        numerics: precision and attention.
    """

    name: str
    loader: str
    arch: str
    model: nn.Module
    image_px: int
    geometry: Callable[[Image.Image], Image.Image]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocess: dict[str, Any]
    tokenize: Callable[[Sequence[str]], Tensor] | None
    context_length: int | None
    classes: int
    activation: str
    weights: str
    weights_hash: str
    numerics: Numerics

    @cached_property
    def written_out(self) -> WrittenOut | None:
        """Its towers written out, where it is a plain ViT CLIP on a CPU; see `written_out`."""
        from cliplib.pretrained.written_out import written_out

        on_cpu = next(self.model.parameters()).device.type == "cpu"
        if not on_cpu or self.numerics.attention != "plain":
            return None
        return written_out(self.model, self.mean, self.std, self.numerics.dtype)

    def circumstances(self) -> dict[str, Any]:
        """What a record keeps: everything but the model and functions; of paths the last part."""
        folder = Path(self.name.removeprefix("local-dir:"))
        return {
            "model": folder.name if folder.is_dir() else self.name,
            "loader": self.loader, "arch": self.arch,
            "image_px": self.image_px, "preprocess": self.preprocess,
            "context_length": self.context_length, "activation": self.activation,
            "weights": Path(self.weights).name, "weights_hash": self.weights_hash,
            "precision": self.numerics.precision, "attention": self.numerics.attention,
            "training_mode": self.model.training,
        }  # fmt: skip
