"""Features of images and texts, and class embeddings from prompt ensembles.

Shapes: n images or texts, E the embedding, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cliplib import InputError, model
from cliplib.evaluate.blocks import ALONE, Workers, blocks_of, rows_in_blocks
from cliplib.evaluate.images import Images
from cliplib.evaluate.tasks import PLACE

if TYPE_CHECKING:
    from cliplib.pretrained.opened import Opened

SMALL_PX = 64  # models of images up to this side compute larger blocks at once
IMAGE_BLOCK = {"small": 128, "large": 32}
TEXT_BLOCK = {"small": 128, "large": 64}
SHORTEST = 4  # tokens of the shortest texts that go through together

Known = dict[str, np.ndarray]  # features of texts that were computed before, (E,) each


# -------------------------------------------------------------------------------------------- images


def image_features(opened: Opened, images: Images, workers: Workers = ALONE) -> np.ndarray:
    """Unit vectors of all images: (n, E) float32. A tower without a joint space gives its last layer.

    Raises:
        InputError: an image cannot be read.
    """
    return _through(opened, images, embedding_of_pixels, "image features", workers)


def own_logits(opened: Opened, images: Images, workers: Workers = ALONE) -> np.ndarray:
    """What a tower's own classifier says of all images: (n, classes) float32."""
    return _through(
        opened,
        images,
        lambda one, pixels: one.model(network_input(one, pixels)).float(),
        "logits",
        workers,
    )


def _through(opened: Opened, images: Images, last: Any, what: str, workers: Workers) -> np.ndarray:
    size = IMAGE_BLOCK[_kind(opened)]

    def work(places: np.ndarray) -> np.ndarray:
        pixels = images.pixels(places, opened.geometry)
        full = pixels[np.arange(size) % len(pixels)]  # every product has the same shape
        with torch.inference_mode(), arithmetic(opened):
            return last(opened, full)[: len(places)].cpu().numpy()

    return rows_in_blocks(blocks_of(len(images), size), work, workers, what)


def _kind(opened: Opened) -> str:
    return "small" if opened.image_px <= SMALL_PX else "large"


def embedding_of_pixels(opened: Opened, pixels: np.ndarray) -> Tensor:
    """Grey levels (b, px, px, 3) uint8 -> unit vectors (b, E) float32."""
    if opened.written_out is not None:
        return opened.written_out.image(pixels)
    return image_embedding(opened, network_input(opened, pixels))


def network_input(opened: Opened, pixels: np.ndarray) -> Tensor:
    """Grey levels (b, px, px, 3) uint8 -> network input (b, 3, px, px) float32 on the model's device."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).to(device(opened))
    return model.normalise(x, opened.mean, opened.std)


def image_embedding(opened: Opened, x: Tensor) -> Tensor:
    """Network input -> unit vectors (b, E) float32."""
    return F.normalize(image_tower(opened, x).float(), dim=-1)


def image_tower(opened: Opened, x: Tensor) -> Tensor:
    """Network input -> the image tower's output (b, E), not normalised."""
    net: Any = opened.model
    if opened.loader == "timm":
        return net.forward_head(net.forward_features(x), pre_logits=True)
    return net.encode_image(x)


# --------------------------------------------------------------------------------------------- texts


def text_features(
    opened: Opened, texts: Sequence[str], workers: Workers = ALONE,
    known: Known | None = None,
) -> np.ndarray:  # fmt: skip
    """Unit vectors of texts: (n, E) float32; equal texts are computed once.

    Texts of about one length go through together, cut there: the text tower is causal, so what follows
    end-of-text changes nothing. Blocks are filled up, so a text has the same features in any company.
    ``known`` holds features from before, and gets the new ones.

    Raises:
        InputError: the model has no text tower.
    """
    known = {} if known is None else known
    new = [text for text in dict.fromkeys(texts) if text not in known]
    if new:
        known.update(zip(new, _new_texts(opened, new, workers)))
    return np.stack([known[text] for text in texts])


def _new_texts(opened: Opened, texts: Sequence[str], workers: Workers) -> np.ndarray:
    if opened.tokenize is None:
        raise InputError(
            f"{opened.name} is an image tower without texts: it cannot be tested zero-shot; probe it "
            "or give a CLIP model"
        )
    tokens = opened.tokenize(texts)
    size = TEXT_BLOCK[_kind(opened)]
    cut = np.minimum(_cuts(_lengths(tokens), _kind(opened)), tokens.shape[1])

    def work(rows: np.ndarray) -> np.ndarray:
        full = torch.from_numpy(rows[np.arange(size) % len(rows)])
        with torch.inference_mode(), arithmetic(opened):
            return (
                text_embedding(opened, tokens[full], int(cut[rows[0]]))[: len(rows)].cpu().numpy()
            )

    groups = [np.flatnonzero(cut == length) for length in np.unique(cut)]
    blocks = [own[rows] for own in groups for rows in blocks_of(len(own), size)]
    return rows_in_blocks(blocks, work, workers, "text features")


def _cuts(lengths: np.ndarray, kind: str) -> np.ndarray:
    """Where texts are cut. Few lengths suit small models: a new shape of products costs them more."""
    if kind == "small":  # at a power of two
        return (2 ** np.ceil(np.log2(np.maximum(lengths, SHORTEST)))).astype(np.int64)
    return -(-lengths // SHORTEST) * SHORTEST


def text_embedding(opened: Opened, tokens: Tensor, length: int) -> Tensor:
    """Token ids (b, context), padded with 0 from ``length`` on or before -> unit vectors (b, E) float32."""
    if opened.written_out is not None:
        return opened.written_out.text(tokens[:, :length])
    net: Any = opened.model
    tokens = tokens.to(device(opened))
    if _is_plain_clip(net):
        return model.encode_text(net, tokens[:, :length])
    return F.normalize(net.encode_text(tokens).float(), dim=-1)


def _is_plain_clip(net: Any) -> bool:
    """Whether the text tower is CLIP's own: causal, and cut where its caller cuts."""
    from open_clip.model import CLIP

    return type(net) is CLIP


def _lengths(tokens: Tensor) -> np.ndarray:
    """(n, L) -> (n,) tokens up to the last that is no padding."""
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return ((tokens != 0) * places).amax(1).cpu().numpy()


def class_embeddings(
    opened: Opened,
    classes: Sequence[str],
    templates: Sequence[str],
    workers: Workers = ALONE,
    known: Known | None = None,
) -> np.ndarray:
    """One unit vector a class: the mean over all prompt templates, normalised (paper, section 4.1).

    Args:
        opened: a model with a text tower.
        classes: class names.
        templates: prompts with ``{c}`` where the class name goes.
        workers: who computes.
        known: features of texts from before; gets the new ones.

    Returns:
        (classes, E) float32.
    """
    prompts = [template.replace(PLACE, name) for name in classes for template in templates]
    features = torch.from_numpy(text_features(opened, prompts, workers, known))
    mean = features.view(len(classes), len(templates), -1).mean(1)
    return F.normalize(mean, dim=-1).numpy()


# ----------------------------------------------------------------------------------------- arithmetic


def device(opened: Opened) -> torch.device:
    """Where the model is."""
    return next(opened.model.parameters()).device


def arithmetic(opened: Opened) -> AbstractContextManager[object]:
    """The precision of matrix products that the model was opened with."""
    if opened.numerics.precision != "bf16":
        return nullcontext()
    return torch.autocast(device(opened).type, opened.numerics.dtype)


def scale(opened: Opened) -> float:
    """The learned temperature: what cosines are multiplied by."""
    return float(opened.model.logit_scale.exp())  # type: ignore[operator]
