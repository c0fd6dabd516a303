"""The gradient of one step on a CPU: parts of the batch side by side, one thread each.

The batch is always cut into the same number of parts, whatever the number of threads, and their
gradients are added in the same order; every operation that sums runs on one thread. So the result
does not depend on the number of cores, bit for bit. Two one-thread parts side by side are also faster
than one part on two threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cliplib.fast.macs import executed_gmacs
from cliplib.fast.towers import ImageTower, TextTower
from cliplib.fast.weights import Weights
from cliplib.ladder import Rung

if TYPE_CHECKING:
    from open_clip.model import CLIP

PARTS = 2

Answer = TypeVar("Answer")


class FastStep:
    """A CLIP whose gradient is computed part by part.

    Args:
        clip: the model; its parameters become views of ``weights``.
        rung: its architecture.
        used: ids of the tokens that occur in the captions, ascending; None: any may.
        dtype: precision of matrix products.
        threads: parts that are worked on at once.
    """

    def __init__(
        self, clip: CLIP, rung: Rung, used: np.ndarray | None, dtype: torch.dtype, threads: int
    ) -> None:
        self.weights = Weights(clip, used, dtype, PARTS)
        layouts = [self.weights.layout(part) for part in range(PARTS)]
        self.images = [ImageTower(at, rung) for at in layouts]
        self.texts = [TextTower(at, rung) for at in layouts]
        self.row_of = np.zeros(rung.vocab_size, np.int64)
        self.row_of[self.weights.used.numpy()] = np.arange(len(self.weights.used))
        self.log_scale = layouts[0].exact["logit_scale"]
        self.d_log_scale = layouts[0].grad["logit_scale"]
        self.rung, self.gmacs = rung, 0.0
        self.pool = ThreadPoolExecutor(threads, initializer=_one_thread)

    def gradient(
        self,
        images: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Loss of a batch, detached; its gradient is left in ``weights.gradient``.

        Args:
            images: (b, px, px, 3) uint8.
            tokens: (b, context) token ids, padded.
            lengths: (b,) tokens of each caption, end of text included.
            loss: (image, text, scale) -> scalar, differentiable.
        """
        parts = np.array_split(np.arange(len(images)), PARTS)
        rows = self.row_of[tokens]
        self.alone(self.weights.cast)
        done = self._together(
            [
                partial(self._forward, p, images[at], rows[at], lengths[at])
                for p, at in enumerate(parts)
            ]
        )
        ends = [(part[0][0], part[1][0]) for part in done]
        value, d_image, d_text = self.alone(partial(self._loss, ends, loss))
        sizes = [len(at) for at in parts]
        slopes = zip(d_image.split(sizes), d_text.split(sizes))
        self._together([partial(self._backward, p, *d, done[p]) for p, d in enumerate(slopes)])
        self.alone(self.weights.gather)
        self.gmacs += sum(
            executed_gmacs(self.rung, image.rows, text.packed.rows)
            for (_, image), (_, text) in done
        )
        return value

    def clip_gradient(self, most: float) -> Tensor:
        """The gradient's norm, before it is scaled down to ``most``."""
        return self.alone(partial(_clip, self.weights.gradient, most))

    def take_gmacs(self) -> float:
        """GMACs multiplied in forward passes since the last call."""
        gmacs, self.gmacs = self.gmacs, 0.0
        return gmacs

    def _forward(
        self, p: int, images: np.ndarray, rows: np.ndarray, lengths: np.ndarray
    ) -> tuple[Any, Any]:
        return self.images[p].forward(images), self.texts[p].forward(rows, lengths)

    def _backward(self, p: int, d_image: Tensor, d_text: Tensor, saved: tuple[Any, Any]) -> None:
        self.images[p].backward(d_image, saved[0][1])
        self.texts[p].backward(d_text, saved[1][1])

    def _loss(
        self,
        ends: Sequence[tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and its gradients with respect to the unit vectors; the scale's is written."""
        image, text = (torch.cat(parts).requires_grad_() for parts in zip(*ends))
        log_scale = self.log_scale.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = loss(image, text, log_scale.exp())
            d_image, d_text, d_log_scale = torch.autograd.grad(value, (image, text, log_scale))
        self.d_log_scale.copy_(d_log_scale)
        return value.detach(), d_image, d_text

    def alone(self, task: Callable[[], Answer]) -> Answer:
        """Do something on one thread of the pool.

        torch's own threads spin for a while after they have worked; a step that woke them would take a
        core from the parts of the next one.
        """
        return self._together([task])[0]

    def _together(self, tasks: Sequence[Callable[[], Answer]]) -> list[Answer]:
        return [future.result() for future in [self.pool.submit(_quietly, t) for t in tasks]]


def _clip(gradient: Tensor, most: float) -> Tensor:
    norm = torch.linalg.vector_norm(gradient)
    gradient.mul_((most / (norm + 1e-6)).clamp(max=1.0))  # as torch's clip_grad_norm_
    return norm


def _quietly(task: Callable[[], Answer]) -> Answer:
    with torch.no_grad():  # the mode is a thread's own
        return task()


def _one_thread() -> None:
    torch.set_num_threads(1)
