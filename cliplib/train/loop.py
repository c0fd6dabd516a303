"""Train one run: open_clip's model and InfoNCE, our loop. One process, or many under torchrun.

The loop is exact on resume: the batches of a run are a function of its seed and step alone, so a run
that is killed and started again continues from its last checkpoint and ends with the same weights, bit
for bit on a CPU, as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.loss import ClipLoss
from torch import Tensor, nn

from cliplib import InputError, ladder, model, records
from cliplib.data import (
    Batch,
    Corpus,
    batches,
    training_pairs,
)
from cliplib.ladder import RunSpec
from cliplib.train.captions import Captions
from cliplib.train.optimiser import adamw, set_lr
from cliplib.train.world import World

CLIP_NORM = 1.0
MAX_LOGIT_SCALE = 100.0
LOG_LINES = 200  # lines of metrics.jsonl per run; checkpoints fall on them

Report = Callable[[str], None]


def _say(line: str) -> None:
    print(line, flush=True)


# ------------------------------------------------------------------------------------------ the run


def train(
    run: RunSpec, corpus: Corpus, folder: Path, *, precision: str | None = None,
    checkpoint_seconds: float = 30.0, say: Report = _say,
) -> dict[str, Any]:  # fmt: skip
    """Train a run to its end, from its last checkpoint if there is one, and write its record.

    Args:
        run: what to train. ``samples_seen`` is rounded down to whole batches; the record has the count.
        corpus: where the pairs come from.
        folder: the run's folder; gets ``train.json``, ``metrics.jsonl`` and ``checkpoint/``.
        precision: force "bf16" or "fp32" in place of the table :data:`cliplib.model.NUMERICS`.
        checkpoint_seconds: least time between two checkpoints.
        say: gets one progress line every two seconds.

    Returns:
        The record, as in ``train.json``. A run whose record is current is not trained again.

    Raises:
        InputError: another process writes into this folder, or a shard is missing or damaged.
        FloatingPointError: loss or gradient became non-finite; the weights before it are kept.
    """
    world = World.join()
    with _locked(folder, world):
        if records.is_current(folder, run, corpus.hash)["train"]:
            say(f"{run.run_id}: trained already")
            return records.read_record(folder / "train.json")
        try:
            loop = _Loop(run, corpus, folder, model.numerics(precision), world, say)
            loop.go(checkpoint_seconds)
            record = loop.record()
            if world.rank == 0:
                loop.finish(record)
        finally:
            world.leave()
    return record


@contextmanager
def _locked(folder: Path, world: World) -> Iterator[None]:
    """Hold the run's folder: a second trainer in it is refused. The lock dies with its process."""
    if world.rank != 0 or os.name != "posix":
        yield
        return
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            pid = lock.read().strip()
            raise InputError(
                f"{folder}: process {pid} is training here; wait for it or stop it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


# ----------------------------------------------------------------------------------------- the loop


class _Loop:
    """State of a training run and the steps that change it."""

    def __init__(
        self,
        run: RunSpec,
        corpus: Corpus,
        folder: Path,
        how: model.Numerics,
        world: World,
        say: Report,
    ) -> None:
        self.run, self.corpus, self.folder, self.how, self.world, self.say = (
            run,
            corpus,
            folder,
            how,
            world,
            say,
        )
        self.rung = ladder.rung(run.rung)
        self.steps = run.samples_seen // run.batch_size
        if self.steps < 1 or run.batch_size % world.size:
            raise InputError(
                f"{run.run_id}: {run.samples_seen} samples in batches of {run.batch_size} over {world.size} "
                "processes; need at least one batch, and a batch that divides evenly"
            )
        self.device = (
            torch.device("cuda", torch.cuda.current_device())
            if torch.cuda.is_available()
            else "cpu"
        )
        self.pairs = training_pairs(corpus, run.data_scale, run.corpus)
        self.tokens = Captions(corpus, self.pairs, self.rung.context_length)
        self.clip = model.create(self.rung, run.seed, how.attention).to(self.device)
        self.towers = _distribute(model.Towers(self.clip), world)
        self.loss = ClipLoss(
            local_loss=world.size > 1,
            gather_with_grad=world.size > 1,
            rank=world.rank,
            world_size=world.size,
        )
        self.optimiser = adamw(self.clip, run.lr, run.weight_decay)
        self.every = max(1, self.steps // LOG_LINES)
        self.step = 0
        self.totals = {"seconds": 0.0, "executed_gmacs": 0.0, "sessions": 1, "deferred": 0}
        self.window: list[float] = []
        self.resume()

    # ---- going through the steps

    def go(self, checkpoint_seconds: float) -> None:
        """Take all steps that are left, with progress lines and checkpoints."""
        start = last_line = last_checkpoint = time.monotonic()
        before, first = self.totals["seconds"], self.step
        feed = islice(
            batches(self.pairs.concepts, self.run.batch_size, self.run.seed), self.step, self.steps
        )
        for batch in feed:
            self.take_step(batch)
            now = time.monotonic()
            self.totals["seconds"] = before + now - start
            if self.world.rank == 0 and (self.step % self.every == 0 or self.step == self.steps):
                self.log()
                if now - last_checkpoint > checkpoint_seconds and self.step < self.steps:
                    self.save_state()
                    last_checkpoint = now
            if self.world.rank == 0 and (now - last_line > 2 or self.step == self.steps):
                self.progress((self.step - first) * self.run.batch_size / (now - start))
                last_line = now

    def take_step(self, batch: Batch) -> None:
        """One optimiser step on a global batch."""
        images, tokens = self.inputs(batch)
        set_lr(self.optimiser, self.run, self.step, self.steps)
        with torch.autocast(
            str(self.device).split(":")[0], self.how.dtype, enabled=self.how.precision == "bf16"
        ):
            image, text, scale = self.towers(images, tokens)
        loss = self.loss(image, text, scale)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.clip.parameters(), CLIP_NORM)
        value = self.world.mean(loss.detach()).item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise FloatingPointError(
                f"{self.run.run_id}: loss {value}, gradient norm {norm.item()} at step {self.step + 1}; "
                "stopped before the optimiser's step"
            )
        self.optimiser.step()
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
        self.step += 1
        self.window.append(value)
        self.totals["deferred"] = batch.deferred
        self.totals["executed_gmacs"] += self.run.batch_size * _executed(self.rung, tokens.shape[1])

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """This process's images (B, 3, px, px) and tokens (B, L), L the longest caption among them."""
        tokens = self.tokens.of(batch.indices, self.run.seed, self.step)
        mine, tokens = self.world.share(batch.indices), self.world.share(tokens)
        longest = int((tokens != 0).sum(1).max())
        images = model.normalise(self.pairs.images[mine])
        return images.to(self.device), torch.from_numpy(tokens[:, :longest].astype(np.int64)).to(
            self.device
        )

    # ---- lines, checkpoints, record

    def log(self) -> None:
        """Append a line to metrics.jsonl: the mean loss since the line before."""
        line = {
            "step": self.step, "samples_seen": self.step * self.run.batch_size,
            "loss": round(float(np.mean(self.window)), 6), "lr": self.optimiser.param_groups[0]["lr"],
            "logit_scale": round(self.clip.logit_scale.exp().item(), 4),
        }  # fmt: skip
        self.window = []
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def progress(self, rate: float) -> None:
        """One line for the reader: how far, how well, how fast, how long still."""
        seen, total = self.step * self.run.batch_size, self.steps * self.run.batch_size
        loss = float(np.mean(self.window)) if self.window else _last_loss(self.folder)
        self.say(
            f"{self.run.run_id}: {seen:,} of {total:,} samples, loss {loss:.3f}, logit scale "
            f"{self.clip.logit_scale.exp().item():.1f}, {rate:,.0f} samples/s, "
            f"{(total - seen) / rate:.0f} s left"
        )

    def identity(self) -> dict[str, str]:
        """What a checkpoint must agree on with the run that would resume it."""
        return {
            "config_hash": records.config_hash(self.run), "corpus_hash": self.corpus.hash,
            "code_hash": records.code_hash(records.TRAIN_CODE), "precision": self.how.precision,
        }  # fmt: skip

    def save_state(self) -> None:
        """Write the state to resume from, aside and then renamed."""
        state = {
            "identity": self.identity(), "step": self.step, "totals": self.totals,
            "model": self.clip.state_dict(), "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        path = self.folder / "checkpoint" / "state.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self) -> None:
        """Go back to the last checkpoint of this very run; without one, clear what an older run left."""
        state = _read_state(self.folder / "checkpoint" / "state.pt", self.device)
        mine = state is not None and state["identity"] == self.identity()
        if state is not None and mine:
            self.clip.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]
            self.totals = {**state["totals"], "sessions": state["totals"]["sessions"] + 1}
            self.say(f"{self.run.run_id}: resumed at step {self.step:,} of {self.steps:,}")
        if self.world.rank == 0:
            for name in ("train.json", "eval.json", "ranks.npz"):
                (self.folder / name).unlink(missing_ok=True)
            _cut_log(self.folder / "metrics.jsonl", self.step)

    def record(self) -> dict[str, Any]:
        """The record of the finished run."""
        seen = self.steps * self.run.batch_size
        return {
            **self.identity(), "schema_version": records.SCHEMA_VERSION, "run": self.run.to_dict(),
            "run_id": self.run.run_id, "commit": records.commit(), "versions": records.versions(),
            "hardware": records.hardware(), "load_average": records.load_average(),
            "seconds": round(self.totals["seconds"], 2), "sessions": self.totals["sessions"],
            "samples_per_s": round(seen / self.totals["seconds"], 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "samples_seen": seen, "steps": self.steps, "epochs": seen / len(self.pairs),
            "unique_groups": len(self.pairs), "processes": self.world.size,
            "deferred": self.totals["deferred"], "bad_samples": self.pairs.bad,
            "attention": self.how.attention, "gmacs_per_pair": ladder.gmacs(self.rung),
            "executed_gmacs": self.totals["executed_gmacs"], "params": ladder.params(self.rung),
            "params_non_embedding": ladder.params_non_embedding(self.rung),
            "loss": _last_loss(self.folder), "logit_scale": self.clip.logit_scale.exp().item(),
        }  # fmt: skip

    def finish(self, record: dict[str, Any]) -> None:
        """Leave the checkpoint in open_clip's form, then the record, then drop the resume state."""
        model.save(self.clip, ladder.model_config(self.rung), self.folder / "checkpoint")
        records.write_record(self.folder / "train.json", record)
        (self.folder / "checkpoint" / "state.pt").unlink(missing_ok=True)


# ------------------------------------------------------------------------------------ pieces of it


def _distribute(towers: nn.Module, world: World) -> nn.Module:
    return nn.parallel.DistributedDataParallel(towers) if world.size > 1 else towers


@cache
def _executed(rung: ladder.Rung, length: int) -> float:
    """GMACs of a pair whose caption was padded to ``length`` tokens only."""
    return ladder.gmacs(replace(rung, context_length=length))


def _read_state(path: Path, device: Any) -> dict[str, Any] | None:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file raises whatever its bytes lead to; the run starts over
        _say(f"{path}: checkpoint is damaged; starting this run over")
        return None


def _cut_log(path: Path, step: int) -> None:
    """Drop the lines that were logged after the checkpoint we go on from."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    records.write_atomic(path, "".join(line + "\n" for line in kept))


def _last_loss(folder: Path) -> float:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["loss"] if lines else math.nan
