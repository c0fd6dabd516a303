"""What "When two runs are equal" shows: the promises with their proofs, and small live checks.

Reading order: the table of promises, then gradients of a tiny CLIP under changes that should and
should not matter, the order of a sum, how a difference grows, and what a checkpoint holds. All inputs
are random pairs, so the page needs no corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cliplib import model
from cliplib.fast.step import FastStep
from cliplib.figures import LINESTYLES, PALETTE
from cliplib.ladder import EOS_ID, rung
from cliplib.train.checkpoints import Checkpoints
from cliplib.train.loss import info_nce
from cliplib.train.optimiser import adamw_of
from cliplib.train.state import pack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUNG = rung("XXS")
START_ID = 1
WORDS = (3, 400)  # token ids of the made-up captions
BITS, ROUNDING = "the same bits", "the same to rounding"
NOT_AT_ALL, NOT_PROMISED = "another run", "not promised"

EXACT, FEED, KEPT = (
    f"tests/test_{name}.py::test_" for name in ("exactness", "shards_feed", "checkpoints")
)


# -------------------------------------------------------------------------------------- the promises


@dataclass(frozen=True)
class Promise:
    """What may change between two runs, what then holds of their results, and who proves it.

    Attributes:
        change: what differs.
        holds: one of BITS, ROUNDING, NOT_AT_ALL, NOT_PROMISED.
        note: when it holds, or why not.
        tests: "file::function"; empty where nothing is promised.
    """

    change: str
    holds: str
    note: str
    tests: tuple[str, ...] = ()


PROMISES = (
    Promise(
        "killed with -9 and resumed, as often as you like", BITS,
        "weights, losses and record; on a CPU, same settings, on icons and on shards",
        (
            EXACT + "killed_with_9_at_ten_random_steps_equals_uninterrupted_bit_for_bit",
            EXACT + "a_run_on_shards_is_as_exact",
            KEPT + "training_goes_on_bit_for_bit",
            KEPT + "killed_at_random_moments_the_latest_is_whole",
        ),
    ),
    Promise(
        "the last checkpoint is damaged", BITS,
        "the hash tells, the one before it is used, and a line says so",
        (
            KEPT + "a_flipped_bit_in_any_byte_is_seen",
            KEPT + "the_one_before_a_damaged_one_is_used_with_a_line_that_says_so",
        ),
    ),
    Promise(
        "threads, fast path", BITS, "in fp32 and in bf16", (EXACT + "threads_change_no_bit",)
    ),
    Promise("threads, torch path", NOT_PROMISED, "torch cuts its sums by the number of threads"),
    Promise(
        "loader workers", BITS, "the same samples in the same batches",
        (FEED + "workers_change_nothing",),
    ),
    Promise(
        "processes: the data", BITS, "every process count serves the same global batches",
        (
            FEED + "one_two_and_four_processes_see_the_same_batches",
            FEED + "resumed_equals_uninterrupted_on_any_number_of_processes",
        ),
    ),
    Promise(
        "processes: loss and gradients", ROUNDING, "fp32, equal global batch, 1, 2 and 4 processes",
        (EXACT + "more_processes_give_the_loss_and_gradients_of_one",),
    ),
    Promise(
        "resumed on another number of processes", ROUNDING,
        "a checkpoint does not know how many wrote it",
        (EXACT + "a_run_on_two_processes_goes_on_on_one",),
    ),
    Promise(
        "micro-batches (accumulate)", ROUNDING, "the loss stays that of the full batch",
        (
            EXACT + "micro_batches_give_the_loss_of_the_whole_batch",
            "tests/test_loss.py::test_accumulation_equals_none",
        ),
    ),
    Promise(
        "chunks of the similarity matrix", ROUNDING, "any chunk, ragged ones too",
        (EXACT + "chunks_of_the_similarity_matrix_change_nothing",),
    ),
    Promise(
        "recomputed activations", ROUNDING, "gradient_checkpointing",
        (EXACT + "recomputed_activations_change_nothing",),
    ),
    Promise(
        "fast path against torch path", ROUNDING, "fp32, step by step",
        (
            EXACT + "both_paths_take_the_same_steps",
            "tests/test_fast.py::test_loss_and_gradients_are_those_of_open_clip",
        ),
    ),
    Promise(
        "another kind of processor, or of torch", NOT_PROMISED,
        "other kernels add in another order; one committed loss curve is watched",
        (EXACT + "the_golden_loss_curve",),
    ),
    Promise("a GPU", NOT_PROMISED, "nothing is promised bit for bit; resume works as elsewhere"),
    Promise(
        "fp32 against bf16", NOT_AT_ALL, "near, and no nearer than autocast is",
        (
            "tests/test_fast.py::test_bf16_is_as_near_to_fp32_as_autocast_is",
            "tests/test_train.py::test_a_checkpoint_of_another_precision_is_refused_by_name",
        ),
    ),
    Promise(
        "seed, sampler, lanes or shuffle", NOT_AT_ALL, "other samples, in another order",
        (FEED + "the_seed_changes_everything",),
    ),
    Promise(
        "the training code or the data", NOT_AT_ALL,
        "a checkpoint from before is passed over with a line",
        (KEPT + "a_checkpoint_of_older_code_is_passed_over_with_a_line",),
    ),
    Promise(
        "any other field of the configuration", NOT_AT_ALL,
        "a checkpoint is refused, and the fields are named",
        (KEPT + "another_configuration_is_refused_by_its_fields",),
    ),
)  # fmt: skip


def promises_table() -> pd.DataFrame:
    """What is changed, what holds, the note, and the tests by name."""
    return pd.DataFrame(
        {
            "what is changed": [p.change for p in PROMISES],
            "what holds": [p.holds for p in PROMISES],
            "note": [p.note for p in PROMISES],
            "proved by": ["; ".join(_short(name) for name in p.tests) for p in PROMISES],
        }
    )


def _short(test: str) -> str:
    file, _, function = test.partition("::")
    return f"{file.removeprefix('tests/')}: {function.removeprefix('test_').replace('_', ' ')}"


# ------------------------------------------------------------------------------ one gradient, changed


def made_up(pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random pictures (n, px, px, 3) uint8, token ids (n, context) and lengths (n,)."""
    draw = np.random.default_rng(seed)
    px, context = RUNG.image_px, RUNG.context_length
    images = draw.integers(0, 256, (pairs, px, px, 3)).astype(np.uint8)
    lengths = draw.integers(4, context + 1, pairs)
    tokens = draw.integers(*WORDS, (pairs, context)) * (np.arange(context) < lengths[:, None])
    tokens[:, 0], tokens[np.arange(pairs), lengths - 1] = START_ID, EOS_ID
    return images, tokens, lengths


def demonstration(batch: int = 32) -> pd.DataFrame:
    """The gradient of one step under changes: whether bits are the same, and how far apart.

    The difference is the norm of the change over the norm of the gradient.
    """
    base = _gradient(batch)
    found = {
        "nothing: the same again": _gradient(batch),
        "two threads instead of one": _gradient(batch, threads=2),
        "similarities in chunks": _gradient(batch, chunk=5),
        "the pairs in another order": _gradient(batch, reverse=True),
        "the other path, in fp32": _by_autograd(batch),
        "bf16 instead of fp32": _gradient(batch, dtype=torch.bfloat16),
    }
    return pd.DataFrame(
        {
            "what is changed": list(found),
            "same bits": ["yes" if torch.equal(base, g) else "no" for g in found.values()],
            "relative difference": [float((g - base).norm() / base.norm()) for g in found.values()],
        }
    )


def _gradient(
    batch: int, threads: int = 1, dtype: torch.dtype = torch.float32, chunk: int | None = None,
    reverse: bool = False,
) -> Tensor:  # fmt: skip
    step = FastStep(model.create(RUNG, 0), RUNG, None, dtype, threads)
    images, tokens, lengths = (p[::-1].copy() if reverse else p for p in made_up(batch))
    step.gradient(images, tokens, lengths, lambda *features: info_nce(*features, chunk=chunk))
    return step.weights.gradient.clone()


def _by_autograd(batch: int) -> Tensor:
    """The same gradient by open_clip's own modules, in the order of the flat vector."""
    clip = model.create(RUNG, 0)
    images, tokens, _ = made_up(batch)
    pixels = model.normalise(torch.from_numpy(images), *model.statistics(RUNG))
    info_nce(*model.Towers(clip)(pixels, torch.from_numpy(tokens))).backward()
    order = FastStep(model.create(RUNG, 0), RUNG, None, torch.float32, 1).weights.spans
    slopes = {name: p.grad for name, p in clip.named_parameters()}
    return torch.cat([slopes[name].flatten() for name in order])


def sums_by_parts(rows: int = 4096, parts: Sequence[int] = (1, 2, 4, 8)) -> pd.DataFrame:
    """One matrix product over many rows, taken in parts that are then added, as processes do."""
    draw = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(rows, 64, generator=draw) for _ in range(2))
    whole = dy.T @ x
    found = []
    for n in parts:
        cut = zip(dy.chunk(n), x.chunk(n))
        total = torch.stack([d.T @ v for d, v in cut]).sum(0)
        found.append({
            "parts": n, "entries that differ": f"{(total != whole).double().mean():.0%}",
            "relative difference": float((total - whole).norm() / whole.norm()),
        })  # fmt: skip
    return pd.DataFrame(found)


# --------------------------------------------------------------------------- a difference, step by step


def growth(
    steps: int = 60, starts: Sequence[float] = (0.0, 1e-7, 1e-5), lr: float = 1e-3, batch: int = 16
) -> pd.DataFrame:
    """Relative difference of the weights to those of an unchanged run, after each step of a toy run.

    A start of s moves every weight by s times its size times a normal number. Columns: start, step,
    difference.
    """
    base = _weights(steps, 0.0, lr, batch)
    found = []
    for start in starts:
        moved = _weights(steps, start, lr, batch)
        difference = (moved - base).norm(dim=1) / base.norm(dim=1)
        found += [
            {"start": start, "step": step, "difference": value}
            for step, value in enumerate(difference.tolist())
        ]
    return pd.DataFrame(found)


def _weights(steps: int, start: float, lr: float, batch: int) -> Tensor:
    """All weights before the first step and after each, (steps + 1, weights)."""
    images, tokens, lengths = made_up(4 * batch)
    step = FastStep(model.create(RUNG, 0), RUNG, np.unique(tokens), torch.float32, 1)
    flat = step.weights.flat
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))
    flat.mul_(1 + start * noise)
    optimiser = adamw_of([step.weights.decayed], [step.weights.plain], lr, 0.2)
    seen = [flat.clone()]
    for number in range(steps):
        at = np.arange(number * batch, (number + 1) * batch) % len(images)
        step.gradient(images[at], tokens[at], lengths[at], info_nce)
        step.clip_gradient(1.0)
        optimiser.step()
        seen.append(flat.clone())
    return torch.stack(seen)


def growth_figure(table: pd.DataFrame) -> Figure:
    """The differences of `growth` against the step, on a log axis; a start of zero has no line."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    moved = table[table["start"] > 0]
    for i, (start, rows) in enumerate(moved.groupby("start")):
        ax.plot(rows["step"], rows["difference"], color=PALETTE[i], linestyle=LINESTYLES[i],
                label=f"weights moved by {start:.0e} of their size")  # fmt: skip
    ax.set(yscale="log", xlabel="optimiser steps", ylabel="relative difference\nof all weights")
    ax.grid(True)
    fig.legend(loc="outside lower center", ncols=1)
    return fig


# ---------------------------------------------------------------------------------- what a file holds


def checkpoint_shown(folder: Path) -> pd.DataFrame:
    """The tensors of a checkpoint after one step of the toy run: name, shape, type, bytes."""
    from safetensors.torch import load_file

    images, tokens, lengths = made_up(16)
    step = FastStep(model.create(RUNG, 0), RUNG, np.unique(tokens), torch.float32, 1)
    optimiser = adamw_of([step.weights.decayed], [step.weights.plain], 1e-3, 0.2)
    step.gradient(images, tokens, lengths, info_nce)
    optimiser.step()
    state: dict[str, Any] = {"feed": {"step": 1}, "totals": {"sessions": 1}}
    kept = Checkpoints(folder, {"rung": RUNG.name})
    tensors = load_file(kept.save(1, pack(step.weights, optimiser), state))
    return pd.DataFrame(
        {
            "tensor": list(tensors),
            "shape": [" × ".join(map(str, t.shape)) or "one number" for t in tensors.values()],
            "type": [str(t.dtype).removeprefix("torch.") for t in tensors.values()],
            "bytes": [t.nbytes for t in tensors.values()],
        }
    )
