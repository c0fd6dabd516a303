"""How a step is computed: two engines with one face.

`FastEngine` is written out for small models on a CPU (`cliplib.fast`). `TorchEngine` runs open_clip's
own modules under autograd, on a CPU or on GPUs, with the switches that large models need. Both hold
open_clip's weights, take the same loss and the same AdamW, and give the same gradients
(``tests/test_fast.py``); over several processes the gradient is the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cliplib import InputError, ladder, model
from cliplib.fast.step import PARTS, FastStep
from cliplib.ladder import Rung, RunSpec
from cliplib.model import Numerics
from cliplib.rungs import ResNet
from cliplib.train.config import Engine as Switches
from cliplib.train.feeds import Share
from cliplib.train.loss import cached_backward, info_nce
from cliplib.train.optimiser import adamw, adamw_of
from cliplib.train.state import pack, unpack
from cliplib.train.world import World

CLIP_NORM = 1.0
MAX_LOGIT_SCALE = 100.0


class Engine(Protocol):
    """A model in training."""

    clip: Any

    def gradient(self, share: Share) -> Tensor:
        """Loss of the global batch; its gradient is left where `clip_gradient` finds it."""

    def clip_gradient(self) -> Tensor:
        """The gradient's norm over all weights; if above 1 the gradient is scaled down to 1."""

    def step(self, lr: float) -> None:
        """One step of the optimiser."""

    def executed_gmacs(self) -> float:
        """GMACs multiplied in forward passes on this process since the last call."""

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimiser state, for a checkpoint."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a checkpoint's tensors back."""

    def export(self, decay: float) -> Any:
        """The model to be saved; ``decay`` is the product of all decays so far."""


def make(
    run: RunSpec,
    rung: Rung,
    how: Numerics,
    switches: Switches,
    used: np.ndarray | None,
    world: World,
) -> Engine:
    """The engine that numerics and switches ask for, with a freshly initialised model."""
    if how.path == "fast":
        return FastEngine(run, rung, how, switches, used, world)
    return TorchEngine(run, rung, how, switches, world)


def resolve(rung: Rung, switches: Switches) -> Numerics:
    """Precision, attention and path for this machine, this model and these switches.

    Raises:
        InputError: the fast path is asked for where it cannot be had.
    """
    how = model.numerics(switches.precision)
    written_out = not isinstance(rung.vision, ResNet) and not (
        rung.vision.layer_scale or rung.text.layer_scale
    )
    if switches.path == "fast" and (torch.cuda.is_available() or not written_out):
        what = "a GPU" if torch.cuda.is_available() else f"rung {rung.name}"
        raise InputError(f"engine.path fast: not for {what}; use torch, or leave it out")
    path = switches.path or ("torch" if switches.needs_torch or not written_out else how.path)
    return replace(how, path=path, attention=switches.attention or how.attention)


class FastEngine:
    """Towers written out, two parts of the batch side by side, one flat vector of weights."""

    def __init__(
        self, run: RunSpec, rung: Rung, how: Numerics, switches: Switches,
        used: np.ndarray | None, world: World,
    ) -> None:  # fmt: skip
        self.world, self.chunk = world, switches.loss_chunk
        self.clip = model.create(rung, run.seed)
        threads = switches.threads or min(PARTS, torch.get_num_threads())
        self.fast = FastStep(self.clip, rung, used, how.dtype, threads)
        weights = self.fast.weights
        self.optimiser = adamw_of([weights.decayed], [weights.plain], run.lr, run.weight_decay)

    def gradient(self, share: Share) -> Tensor:
        """Loss of the global batch."""
        loss = self.fast.gradient(
            share.images, share.tokens, share.lengths,
            lambda *features: info_nce(*features, world=self.world, chunk=self.chunk),
        )  # fmt: skip
        if self.world.size > 1:
            gradient = self.fast.weights.gradient
            gradient.copy_(self.world.mean(gradient))
        return loss

    def clip_gradient(self) -> Tensor:
        """The gradient's norm, before it is scaled down to 1."""
        return self.fast.clip_gradient(CLIP_NORM)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step of AdamW."""
        _set_lr(self.optimiser, lr)
        self.fast.alone(self.optimiser.step)
        self.clip.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))

    def executed_gmacs(self) -> float:
        """Counted as the paper counts, over the tokens that were multiplied."""
        return self.fast.take_gmacs()

    def tensors(self) -> dict[str, Tensor]:
        """The flat weights and AdamW's state."""
        return pack(self.fast.weights, self.optimiser)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        unpack(tensors, self.fast.weights, self.optimiser)

    def export(self, decay: float) -> Any:
        """The model, its token embedding completed."""
        self.fast.weights.export(decay)
        return self.clip


class TorchEngine:
    """open_clip's modules under autograd: any architecture, CPU or GPU, one process or DDP."""

    def __init__(
        self, run: RunSpec, rung: Rung, how: Numerics, switches: Switches, world: World
    ) -> None:
        self.rung, self.how, self.switches, self.world = rung, how, switches, world
        cuda = torch.cuda.is_available()
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        )
        if cuda:
            torch.backends.cuda.matmul.allow_tf32 = switches.tf32
            torch.backends.cudnn.allow_tf32 = switches.tf32
        self.clip = model.create(rung, run.seed, how.attention).to(self.device)
        if switches.gradient_checkpointing:
            self.clip.set_grad_checkpointing()
        self.optimiser = adamw(self.clip, run.lr, run.weight_decay)
        towers: nn.Module = model.Towers(self.clip)
        if world.size > 1:
            ids = [self.device.index] if cuda else None
            towers = nn.parallel.DistributedDataParallel(
                towers, device_ids=ids, broadcast_buffers=False
            )
        self.towers = torch.compile(towers) if switches.compile else towers
        self.gmacs = 0.0

    def gradient(self, share: Share) -> Tensor:
        """Loss of the global batch."""
        self.optimiser.zero_grad(set_to_none=True)
        parts = self._micro_batches(share)
        with torch.autocast(self.device.type, self.how.dtype, enabled=self.how.precision == "bf16"):
            return cached_backward(self.towers, parts, self.world, self.switches.loss_chunk)

    def clip_gradient(self) -> Tensor:
        """The gradient's norm, before it is scaled down to 1."""
        return nn.utils.clip_grad_norm_(self.clip.parameters(), CLIP_NORM)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step of AdamW."""
        _set_lr(self.optimiser, lr)
        self.optimiser.step()
        self.clip.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))

    def executed_gmacs(self) -> float:
        """Counted as the paper counts, for captions padded to the longest of each micro-batch."""
        gmacs, self.gmacs = self.gmacs, 0.0
        return gmacs

    def tensors(self) -> dict[str, Tensor]:
        """Weights and AdamW's state."""
        return pack(self.clip, self.optimiser)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        unpack(tensors, self.clip, self.optimiser)

    def export(self, decay: float) -> Any:
        """The model as it is."""
        return self.clip

    def _micro_batches(self, share: Share) -> list[tuple[Tensor, Tensor]]:
        """Images (n, 3, px, px) and tokens (n, L) on the device, L the longest caption of each."""
        passes = 1 if self.switches.accumulate == 1 else 2
        parts = []
        for at in np.array_split(np.arange(len(share.images)), self.switches.accumulate):
            # compiled code is made anew for every length, so there captions keep the full context
            whole = self.switches.compile
            length = self.rung.context_length if whole else int(share.lengths[at].max())
            images = torch.from_numpy(share.images[at]).to(self.device, non_blocking=True)
            tokens = torch.from_numpy(share.tokens[at, :length]).to(self.device, non_blocking=True)
            parts.append((model.normalise(images, *model.statistics(self.rung)), tokens))
            self.gmacs += passes * len(at) * _padded_gmacs(self.rung, length)
        return parts


@cache
def _padded_gmacs(rung: Rung, length: int) -> float:
    """GMACs of a pair whose caption was padded to ``length`` tokens only."""
    return ladder.gmacs(replace(rung, context_length=length))


def _set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


def micro_batches_fit(switches: Switches, share: int) -> None:
    """Refuse more micro-batches than pairs.

    Raises:
        InputError: ``accumulate`` exceeds this process's share of the batch.
    """
    if switches.accumulate > share:
        raise InputError(
            f"engine.accumulate is {switches.accumulate} for {share} pairs a process; use fewer"
        )
