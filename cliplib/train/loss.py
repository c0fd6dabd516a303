"""InfoNCE at scale: over many processes, in chunks, and over accumulated micro-batches.

All three give the loss and the gradients of one full-batch matrix of similarities. Notation: B pairs
in the global batch, b of them on this process, E embedding; S = scale * image @ text.T is (B, B).

    loss = sum_i (row_i + column_i - 2 S_ii) / 2B,   row, column: log-sum-exp of S over each axis
    dS   = (softmax of S over rows + softmax over columns - 2 I) / 2B

A process computes its own b rows of S, once for both directions. It needs the others' text vectors
(gathered in the forward pass), the log-sum-exp of whole columns (combined over the processes), and
the sum of what all rows say about its own text vectors (reduced in the backward pass).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cliplib import InputError
from cliplib.train.world import World

WHOLE = 64 * 2**20  # bytes of similarities that are kept whole
BLOCK = 16 * 2**20  # bytes of a block of them otherwise: larger ones are no faster

Towers = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


# ----------------------------------------------------------------------------------------- the loss


def info_nce(
    image: Tensor, text: Tensor, scale: Tensor, *, world: World | None = None,
    chunk: int | None = None,
) -> Tensor:  # fmt: skip
    """Symmetric InfoNCE of the global batch, the same value on every process.

    Gradients are ``world.size`` times those of the loss, so that the mean which
    ``DistributedDataParallel`` takes over the processes is exactly the full batch's. Computed in the
    precision of the features and outside autocast; logits are shifted before any exponential.

    Args:
        image: (b, E) unit vectors of this process's images.
        text: (b, E) unit vectors of their captions, in the same order.
        scale: scalar, the exponential of the learned logit scale.
        world: the processes that share the batch, with an equal b on each; None: this one alone.
        chunk: rows of S held at once; memory is O(chunk * B + B * E). At least b: S is kept whole.
            None: as `default_chunk` says.

    Raises:
        InputError: image and text differ in shape, or chunk is not positive.

    Source: Radford et al. 2021, figure 3; local loss with gathered features as in open_clip.
    """
    world = world or World()
    if image.shape != text.shape:
        raise InputError(
            f"image features {tuple(image.shape)} and text features {tuple(text.shape)} "
            "must pair up; give one caption per image"
        )
    if chunk is None:
        chunk = default_chunk(len(image), len(image) * world.size) or len(image)
    if chunk < 1:
        raise InputError(f"chunk must be at least 1 row of similarities, not {chunk}")
    with torch.autocast(image.device.type, enabled=False):
        return cast(Tensor, _InfoNCE.apply(image, text, scale, world, chunk))


def default_chunk(b: int, B: int) -> int | None:
    """Rows of similarities to hold at once: None for all, while float32 (b, B) is at most 64 MiB.

    >>> default_chunk(4096, 4096), default_chunk(65536, 65536)
    (None, 64)
    """
    return None if b * B * 4 <= WHOLE else max(1, BLOCK // (4 * B))


class _InfoNCE(torch.autograd.Function):
    """The closed form; the backward pass makes the similarities anew unless they were kept whole."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, world: World, chunk: int
    ) -> Tensor:
        texts = world.gather(text)  # (B, E)
        B, first = len(texts), world.rank * len(image)
        rows = image.new_empty(len(image))
        columns = image.new_full((B,), -math.inf)
        for start, part in _parts(image, chunk):
            S = _similarity(part, texts, scale)  # (chunk, B)
            rows[start : start + chunk] = S.logsumexp(1)
            columns = torch.logaddexp(columns, S.logsumexp(0))
        columns = _over_processes(columns, world)
        own = columns[first : first + len(image)]
        agreement = scale * (image * text).sum(1)  # (b,) the diagonal of S
        ctx.save_for_backward(
            image, texts, scale, rows, columns, S if chunk >= len(image) else None
        )
        ctx.world, ctx.chunk = world, chunk
        return world.sum((rows + own - 2 * agreement).sum() / (2 * B))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, texts, scale, rows, columns, kept = ctx.saved_tensors
        B, world = len(texts), ctx.world
        first = world.rank * len(image)
        by_image, by_text = torch.empty_like(image), torch.zeros_like(texts)
        with torch.autocast(image.device.type, enabled=False):
            for start, part in _parts(image, ctx.chunk):
                S = _similarity(part, texts, scale) if kept is None else kept
                dS = (S - rows[start : start + len(part), None]).exp_()
                dS += (S - columns).exp_()
                dS.diagonal(first + start).sub_(2)
                torch.mm(dS, texts, out=by_image[start : start + len(part)])
                by_text.addmm_(dS.T, part)
        factor = gradient * (world.size / (2 * B))
        by_scale = (image * by_image).sum() * factor
        by_text = world.sum_parts(by_text)
        factor = factor * scale
        return by_image.mul_(factor), by_text.mul_(factor), by_scale, None, None


def _parts(image: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    return ((start, image[start : start + chunk]) for start in range(0, len(image), chunk))


def _similarity(part: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    return (part * scale) @ texts.T


def _over_processes(columns: Tensor, world: World) -> Tensor:
    """Log-sum-exp over the processes of their own log-sum-exps (B,), shifted by the largest."""
    if world.size == 1:
        return columns
    largest = world.max(columns)
    return largest + world.sum((columns - largest).exp_()).log_()


# --------------------------------------------------------------------------- gradient accumulation


def cached_backward(
    towers: Towers, micro_batches: Sequence[tuple[Tensor, Tensor]], world: World | None = None,
    chunk: int | None = None,
) -> Tensor:  # fmt: skip
    """Accumulate the gradient of the full-batch loss, one micro-batch in memory at a time.

    The towers first run without a graph, for the features alone; the loss of all of them gives the
    gradient of each feature; then the towers run again, micro-batch by micro-batch, with a graph
    that those gradients go back through. Both times a stochastic tower draws the same numbers.
    Under ``DistributedDataParallel`` only the last backward pass exchanges gradients.

    Call it in any autocast; backward passes leave it. One micro-batch takes a single ordinary pass.

    Args:
        towers: images and tokens -> unit vectors (n, E) twice, and the scale: `model.Towers`.
        micro_batches: images and tokens of this process; lengths may differ, over processes too,
            but each process has as many pairs in all.
        world: the processes that share the batch.
        chunk: as in `info_nce`.

    Returns:
        The loss of the global batch, detached. Gradients are added to the parameters' ``.grad``.

    Raises:
        InputError: no micro-batch.

    Source: Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited
    setup", section 3.2.
    """
    if not micro_batches:
        raise InputError("a step needs at least one micro-batch")
    if len(micro_batches) == 1:
        image, text, scale = towers(*micro_batches[0])
        loss = info_nce(image, text, scale, world=world, chunk=chunk)
        _backward([loss], [None])
        return loss.detach()
    device = micro_batches[0][0].device
    states, images, texts, scale = _features(towers, micro_batches, device)
    loss = info_nce(torch.cat(images), torch.cat(texts), scale, world=world, chunk=chunk)
    _backward([loss], [None])
    for k, (pictures, tokens) in enumerate(micro_batches):
        last = k + 1 == len(micro_batches)
        with nullcontext() if last else _no_sync(towers):
            _set_random_state(states[k], device)
            image, text, tower_scale = towers(pictures, tokens)
            by_scale = scale.grad if last else torch.zeros_like(scale)
            _backward([image, text, tower_scale], [images[k].grad, texts[k].grad, by_scale])
    return loss.detach()


def _features(
    towers: Towers, micro_batches: Sequence[tuple[Tensor, Tensor]], device: torch.device
) -> tuple[list[Any], list[Tensor], list[Tensor], Tensor]:
    """Random states before each micro-batch, and its features and the scale as leaves of a graph."""
    states, images, texts = [], [], []
    with torch.no_grad(), _no_sync(towers):
        for pictures, tokens in micro_batches:
            states.append(_random_state(device))
            image, text, scale = towers(pictures, tokens)
            images.append(image)
            texts.append(text)
    torch.clear_autocast_cache()  # it holds weights cast without a graph
    for leaf in (*images, *texts, scale):
        leaf.requires_grad_()
    return states, images, texts, scale


def _backward(outputs: list[Tensor], gradients: list[Tensor | None]) -> None:
    """Back-propagate outside autocast through those outputs that depend on a parameter."""
    pairs = [pair for pair in zip(outputs, gradients) if pair[0].requires_grad]
    with torch.autocast(outputs[0].device.type, enabled=False):
        torch.autograd.backward([output for output, _ in pairs], [grad for _, grad in pairs])


def _no_sync(towers: Towers) -> AbstractContextManager[None]:
    """Within it, ``DistributedDataParallel`` exchanges no gradients; other towers never do."""
    return towers.no_sync() if hasattr(towers, "no_sync") else nullcontext()


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The states of the generators that a forward pass on this device draws from."""
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
