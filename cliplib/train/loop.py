"""The loop: steps to the end of a run, with checkpoints, lines and a record.

It is exact on resume: what a step does depends on the configuration and the state before it alone, so
a run that is killed and started again goes on from its last checkpoint and ends with the same weights,
bit for bit on a CPU, as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from cliplib import InputError, ladder, model, records
from cliplib.data import Corpus
from cliplib.ladder import RunSpec
from cliplib.train import engines
from cliplib.train.checkpoints import Checkpoints, Saved
from cliplib.train.config import Settings
from cliplib.train.feeds import data_hash, open_feed
from cliplib.train.instruments import Metrics, Profile
from cliplib.train.optimiser import lr_at
from cliplib.train.world import World

LOG_LINES = 200  # lines of metrics.jsonl per run
COLLAPSED = 2.0  # a logit scale below this has fallen from 14 and tells no pair from another

Report = Callable[[str], None]


class Diverged(InputError, FloatingPointError):
    """Loss or gradient became infinite or not a number; the optimiser did not step."""


def _say(line: str) -> None:
    print(line, flush=True)


# ------------------------------------------------------------------------------------------ the run


def train(
    run: RunSpec, corpus: Corpus | None, folder: Path, *, settings: Settings | None = None,
    say: Report = _say,
) -> dict[str, Any]:  # fmt: skip
    """Train a run to its end, from its last checkpoint if there is one, and write its record.

    Args:
        run: what to train. ``samples_seen`` is rounded down to whole batches; the record has the count.
        corpus: the built icon corpus; None: ``settings.data.shards`` are streamed.
        folder: the run's folder; gets ``train.json``, ``metrics.jsonl`` and ``checkpoint/``.
        settings: data, engine, checkpoints, instruments; the defaults suit this machine.
        say: gets one progress line every two seconds.

    Returns:
        The record, as in ``train.json``. A run whose record is current is not trained again.

    Raises:
        InputError: another process writes into this folder, it holds another run, or the data is
            missing, damaged or too small.
        Diverged: loss or gradient became non-finite; the weights before it are kept.
        KeyboardInterrupt: interrupted or terminated; the state was saved first.
    """
    settings = settings or Settings()
    world = World.join()
    try:
        with world.watch(), locked(folder, world):
            mine = data_hash(run, corpus, settings.data)
            if records.is_current(folder, run, mine)["train"]:
                if world.main:
                    say(f"{run.run_id}: trained already")
                return records.read_record(folder / "train.json")
            return _Loop(run, corpus, folder, settings, world, say).go()
    finally:
        world.leave()


@contextmanager
def locked(folder: Path, world: World) -> Iterator[None]:
    """Hold the run's folder: a second trainer in it is refused. The lock dies with its process."""
    if not world.main or os.name != "posix":
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}); use another --out"
        ) from None
    with lock:
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
        self, run: RunSpec, corpus: Corpus | None, folder: Path, settings: Settings, world: World,
        say: Report,
    ) -> None:  # fmt: skip
        self.run, self.folder, self.settings, self.world = run, folder, settings, world
        self.say = say if world.main else lambda line: None
        self.rung = ladder.rung(run.rung)
        self.steps = _whole_steps(run, world)
        engines.micro_batches_fit(settings.engine, run.batch_size // world.size)
        self.how = engines.resolve(self.rung, settings.engine)
        self.data_hash = data_hash(run, corpus, settings.data)
        self.every = max(1, self.steps // LOG_LINES)
        every = settings.checkpoint
        self.checkpoints = Checkpoints(
            folder, self.identity(), every.keep, every.every_seconds, every.every_steps, self.say
        )
        _refuse_another_run(folder, run)
        if world.main:
            self.checkpoints.check_writable()
        saved = self.checkpoints.latest()
        state = saved.state if saved else {}
        self.feed = open_feed(run, self.rung, corpus, settings.data, world, state.get("feed"))
        self.engine = engines.make(run, self.rung, self.how, settings.engine, self.feed.used, world)
        self.step = saved.step if saved else 0
        self.totals = state.get("totals") or {
            "seconds": 0.0, "executed_gmacs": 0.0, "sessions": 0, "decay": 1.0, "collapsed": None,
        }  # fmt: skip
        self.totals["sessions"] += 1
        self._resume(saved)
        self.metrics = (
            Metrics(folder, self.step, settings.instruments.tensorboard) if world.main else None
        )
        self.profile = Profile(settings.instruments.profile, self.say)

    # ---- going through the steps

    def go(self) -> dict[str, Any]:
        """Take all steps that are left; then write the model and the record."""
        before, first = self.totals["seconds"], self.step
        start = now = last_line = time.monotonic()
        with _Stop() as stop:
            while self.step < self.steps:
                due = self.step + 1 < self.steps and self.checkpoints.due(self.step + 1, now)
                stopping, saving = self.take_step(stop.asked, due)
                now = time.monotonic()
                self.totals["seconds"] = before + now - start
                if self.metrics and (self.step % self.every == 0 or self.step == self.steps):
                    self.log()
                if saving or stopping:
                    self.save()
                if stopping:
                    raise KeyboardInterrupt
                if now - last_line > 2 or self.step == self.steps:
                    self.progress((self.step - first) * self.run.batch_size / (now - start))
                    last_line = now
        return self.finish()

    def take_step(self, stop: bool = False, save: bool = False) -> tuple[bool, bool]:
        """One optimiser step on a global batch.

        Args:
            stop: whether this process was asked to stop.
            save: whether it finds a checkpoint due.

        Returns:
            Whether any process was asked to stop, and whether the main one finds a checkpoint due.
        """
        phase = self.profile.phase
        with phase("data"):
            share = self.feed.next()
        with phase("gradient"):
            loss = self.engine.gradient(share)
        with phase("clipping"):
            norm = self.engine.clip_gradient()
        value, stopping, saving = self._agree(loss, stop, save)
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise Diverged(
                f"{self.run.run_id}: loss {value}, gradient norm {norm.item()} at step "
                f"{self.step + 1:,}; stopped before the optimiser's step, the last checkpoint is "
                "kept; lower the learning rate, or lengthen the warm-up"
            )
        lr = lr_at(self.run, self.step, self.steps)
        with phase("optimiser"):
            self.engine.step(lr)
        self.totals["decay"] *= 1 - lr * self.run.weight_decay
        self.step += 1
        self.norm, self.lr = norm.item(), lr
        self.totals["executed_gmacs"] += self.engine.executed_gmacs() * self.world.size
        if self.metrics:
            self.metrics.add(value)
        self._watch_temperature()
        self.profile.end_step()
        return stopping, saving

    def _agree(self, loss: torch.Tensor, stop: bool, save: bool) -> tuple[float, bool, bool]:
        """Mean loss, whether to stop, whether to save: one exchange, the same on every process."""
        if self.world.size == 1:
            return loss.item(), stop, save
        own = torch.tensor([loss.item(), float(stop), float(save and self.world.main)])
        mean, stopping, saving = self.world.mean(own.to(loss.device)).tolist()
        return mean, stopping > 0, saving > 0

    def _watch_temperature(self) -> None:
        """Say once when the temperature has collapsed: a run that learns nothing looks like that."""
        scale = self.engine.clip.logit_scale.item()
        if self.totals["collapsed"] is None and scale < math.log(COLLAPSED):
            self.totals["collapsed"] = self.step
            self.say(
                f"{self.run.run_id}: warning: the logit scale fell to {math.exp(scale):.2f} by step "
                f"{self.step:,}; the model has collapsed, the learning rate is likely too high"
            )

    # ---- lines, checkpoints, record

    def log(self) -> None:
        """Append a line to metrics.jsonl: the mean loss since the line before."""
        assert self.metrics
        self.metrics.log({
            "step": self.step, "samples_seen": self.step * self.run.batch_size, "lr": self.lr,
            "logit_scale": round(self.engine.clip.logit_scale.exp().item(), 4),
            "gradient_norm": round(self.norm, 5),
        })  # fmt: skip

    def progress(self, rate: float) -> None:
        """One line for the reader: how far, how well, how fast, how long still."""
        if not self.metrics:
            return
        seen, total = self.step * self.run.batch_size, self.steps * self.run.batch_size
        self.say(
            f"{self.run.run_id}: {seen:,} of {total:,} samples, loss {self.metrics.loss():.3f}, logit "
            f"scale {self.engine.clip.logit_scale.exp().item():.1f}, {rate:,.0f} samples/s, "
            f"{(total - seen) / rate:.0f} s left"
        )

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the run that would resume it."""
        switches = asdict(self.settings.engine)
        for name in ("threads", "path", "precision", "attention", "loss_chunk"):
            del switches[name]
        return {
            **self.run.to_dict(), "corpus_hash": self.data_hash,
            "code_hash": records.code_hash(records.TRAIN_CODE), "precision": self.how.precision,
            "path": self.how.path, **switches,
        }  # fmt: skip

    def save(self) -> None:
        """Write the state to resume from."""
        feed = self.feed.state()
        if self.world.main:
            state = {"totals": self.totals, "feed": feed}
            self.checkpoints.save(self.step, self.engine.tensors(), state)
        self.world.barrier()

    def _resume(self, saved: Saved | None) -> None:
        if saved is not None:
            self.engine.load(saved.tensors)
            self.say(f"{self.run.run_id}: resumed at step {self.step:,} of {self.steps:,}")
        if self.world.main:
            for name in ("train.json", "eval.json", "ranks.npz"):
                (self.folder / name).unlink(missing_ok=True)

    def finish(self) -> dict[str, Any]:
        """Leave the checkpoint in open_clip's form, then the record, then drop the resume state."""
        counts = self.feed.counts()
        self.feed.close()
        record = self.record(counts) if self.metrics else {}
        if self.metrics:
            model.save(
                self.engine.export(self.totals["decay"]), self.rung, self.folder / "checkpoint"
            )
            records.write_record(self.folder / "train.json", record)
            self.checkpoints.clear()
            self.metrics.close()
        self.world.barrier()
        return record or records.read_record(self.folder / "train.json")

    def record(self, counts: dict[str, Any]) -> dict[str, Any]:
        """The record of the finished run."""
        assert self.metrics
        seen = self.steps * self.run.batch_size
        return {
            "schema_version": records.SCHEMA_VERSION, "run": self.run.to_dict(),
            "run_id": self.run.run_id, "config_hash": records.config_hash(self.run),
            "corpus_hash": self.data_hash, "code_hash": records.code_hash(records.TRAIN_CODE),
            "commit": records.commit(), "versions": records.versions(),
            "hardware": records.hardware(), "load_average": records.load_average(),
            "seconds": round(self.totals["seconds"], 2), "sessions": self.totals["sessions"],
            "samples_per_s": round(seen / self.totals["seconds"], 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "samples_seen": seen, "steps": self.steps, "processes": self.world.size, **counts,
            "precision": self.how.precision, "attention": self.how.attention, "path": self.how.path,
            "gmacs_per_pair": ladder.gmacs(self.rung),
            "executed_gmacs": self.totals["executed_gmacs"], "params": ladder.params(self.rung),
            "params_non_embedding": ladder.params_non_embedding(self.rung),
            "loss": self.metrics.loss(), "logit_scale": self.engine.clip.logit_scale.exp().item(),
            "collapsed_at_step": self.totals["collapsed"],
        }  # fmt: skip


# ------------------------------------------------------------------------------------ pieces of it


class _Stop:
    """Whether SIGINT or SIGTERM has come: the step under way is finished and saved first."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not in the main thread: the caller's handlers stay
                self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def _whole_steps(run: RunSpec, world: World) -> int:
    """Steps of the run.

    Raises:
        InputError: less than one batch, or a batch that does not divide over the processes.
    """
    if run.samples_seen < run.batch_size or run.batch_size % world.size:
        raise InputError(
            f"{run.run_id}: {run.samples_seen} samples in batches of {run.batch_size} over {world.size} "
            "processes; need at least one batch, and a batch that divides evenly"
        )
    return run.samples_seen // run.batch_size


def _refuse_another_run(folder: Path, run: RunSpec) -> None:
    """A finished run is not overwritten by another one; an outdated record of this one may be.

    Raises:
        InputError: naming the fields that differ.
    """
    try:
        theirs = json.loads((folder / "train.json").read_text())["run"]
    except (OSError, ValueError, KeyError):
        return
    mine = run.to_dict()
    differing = [name for name in mine if theirs.get(name) != mine[name]]
    if differing:
        had = ", ".join(f"{name} {theirs.get(name)}" for name in differing)
        has = ", ".join(f"{name} {mine[name]}" for name in differing)
        raise InputError(
            f"{folder}: holds a finished run with {had}; this one has {has}; use another --out"
        )
