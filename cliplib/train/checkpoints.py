"""The checkpoints a run resumes from: whole or not there, checked by hash, never executed.

One safetensors file each, ``checkpoint/resume/step-000000123.safetensors`` in the run's folder, holds
the tensors, the rest of the state as JSON, and a SHA-256 over every byte of the file. A file is written
aside and then renamed, so that a process killed at any moment leaves the checkpoints before it whole;
the hash tells when a disk or a copy has damaged one later, and the one before it is used.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cliplib import InputError
from cliplib.train import checkpoint_file
from cliplib.train.checkpoint_file import Damaged

PLACE = Path("checkpoint") / "resume"  # in the run's folder; open_clip's files lie one level up
FILE = re.compile(r"step-(\d{9,})\.safetensors")
#: Fields of an identity that outdate a checkpoint when they differ; any other makes it another run's.
OUTDATING = {"code_hash": "the training code", "corpus_hash": "the training data"}

SHOWN = 4  # differing fields named in full

Say = Callable[[str], None]


@dataclass(frozen=True)
class Saved:
    """A checkpoint as read back: the step it was made after, its named tensors, its JSON state."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


# --------------------------------------------------------------------------- the checkpoints of a run


class Checkpoints:
    """The checkpoints of one run. One process writes (hold the run's lock); any number may read.

    Args:
        folder: the run's folder.
        identity: what a checkpoint must agree on with the run that goes on from it: a mapping, nested
            or flat, of JSON values. A checkpoint that differs in ``code_hash`` or ``corpus_hash`` only
            is outdated, and passed over.
        keep: how many of the newest checkpoints stay.
        every_seconds: a checkpoint is due when the last is that old (0: after every step; None: never).
        every_steps: a checkpoint is due at multiples of this step (None: never).
        say: gets the line about a damaged or a foreign checkpoint.

    Raises:
        InputError: ``keep`` or an interval makes no sense.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], keep: int = 2,
        every_seconds: float | None = 30.0, every_steps: int | None = None, say: Say = print,
    ) -> None:  # fmt: skip
        _check_intervals(keep, every_seconds, every_steps)
        self.folder = folder / PLACE
        self.identity = json.loads(json.dumps(identity))  # tuples become lists, as in a file
        self.keep, self.every_seconds, self.every_steps, self.say = (
            keep,
            every_seconds,
            every_steps,
            say,
        )
        self._last_step, self._last_time = 0, time.monotonic()

    def due(self, step: int, now: float) -> bool:
        """Whether to save after ``step`` steps at ``now``, seconds of ``time.monotonic()``."""
        by_time = self.every_seconds is not None and now - self._last_time >= self.every_seconds
        by_step = (
            self.every_steps is not None
            and step // self.every_steps > self._last_step // self.every_steps
        )
        return by_time or by_step

    def check_writable(self) -> None:
        """Write and remove a file, so that a folder without permission is found before the training.

        Raises:
            InputError: the folder cannot be made or written to.
            OSError: the disk is full.
        """
        probe = self.folder / f".step-probe.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"probe")
            probe.unlink()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _no_permission(self.folder, error) from error

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint of ``step``, then drop those that are no longer kept.

        Files of later steps go too: they are of a run that this one took the place of, or damaged.

        Args:
            step: optimiser steps taken.
            tensors: named tensors of any dtype, on any device.
            state: everything else: numbers, strings, lists and mappings with string keys.

        Returns:
            The file.

        Raises:
            InputError: the folder may not be written to.
            OSError: the disk is full or failed; the checkpoints before this one are intact.
        """
        path = self.folder / f"step-{step:09d}.safetensors"
        document = {"step": step, "identity": self.identity, "state": state}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            checkpoint_file.write(path, tensors, document)
        except OSError as error:
            with suppress(OSError):  # the first error is the one to tell
                self._sweep()
            raise self._not_written(path, error) from error
        self._prune(step)
        self._last_step, self._last_time = step, time.monotonic()
        return path

    def latest(self) -> Saved | None:
        """The newest whole checkpoint of this run, or None: start from the beginning.

        Damaged and outdated files are passed over, each with a line that says so. The tensors are on
        the CPU and may be read from the file only when they are used: copy them, as
        :func:`cliplib.train.state.unpack` does.

        Raises:
            InputError: the newest whole checkpoint was made for another run (the message names the
                fields), or the folder may not be read.
        """
        passed_over: list[str] = []
        saved = self._newest_whole(passed_over)
        outcome = f"going on from step {saved.step:,}" if saved else "starting this run over"
        for fault in passed_over:
            self.say(f"{fault}; {outcome}")
        if saved:
            self._last_step = saved.step
        return saved

    def clear(self) -> None:
        """Remove all checkpoints: the run has ended and its record is written."""
        for _, path in self._files():
            path.unlink(missing_ok=True)
        self._sweep()
        with suppress(OSError):  # it was never made, or somebody keeps a file of theirs in it
            self.folder.rmdir()

    # ---- pieces

    def _newest_whole(self, passed_over: list[str]) -> Saved | None:
        for step, path in self._files():
            try:
                tensors, document = checkpoint_file.read(path)
            except Damaged as fault:
                passed_over.append(f"{path}: checkpoint is damaged ({fault})")
                continue
            except PermissionError as error:
                raise _no_permission(path, error) from error
            outdated, difference = _differences(document["identity"], self.identity)
            if difference:
                raise InputError(
                    f"{self.folder.parent}: the checkpoint of step {step:,} was {difference}; use "
                    "another --out, or delete the folder to start over"
                )
            if not outdated:
                return Saved(document["step"], tensors, document["state"])
            passed_over.append(f"{path}: {outdated} since")
        return None

    def _files(self) -> list[tuple[int, Path]]:
        """(step, file), newest first."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError as error:
            raise _no_permission(self.folder, error) from error
        matches = [match for match in map(FILE.fullmatch, names) if match]
        return sorted(((int(m[1]), self.folder / m[0]) for m in matches), reverse=True)

    def _prune(self, step: int) -> None:
        files = self._files()
        kept = [path for at, path in files if at <= step][: self.keep]
        for _, path in files:
            if path not in kept:
                path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what writers left that were killed or ran out of space: ours, and safetensors' own."""
        for pattern in (".step-*", ".tmp*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _not_written(self, path: Path, error: OSError) -> Exception:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _no_permission(self.folder, error)
        before = self._files()
        rest = (
            f"the last checkpoint, step {before[0][0]:,}, is intact" if before else "none before it"
        )
        return OSError(error.errno, f"{path}: could not be written ({error.strerror}); {rest}")


def _check_intervals(keep: int, every_seconds: float | None, every_steps: int | None) -> None:
    if keep < 1:
        raise InputError(f"checkpoint keep is {keep}: at least 1 must be kept")
    if every_steps is not None and every_steps < 1:
        raise InputError(
            f"checkpoint every_steps is {every_steps}: give at least 1, or leave it out"
        )
    if every_seconds is not None and not (every_seconds >= 0 and math.isfinite(every_seconds)):
        raise InputError(f"checkpoint every_seconds is {every_seconds}: give 0 or more seconds")


def _no_permission(folder: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        f"{folder}: checkpoints cannot be kept here ({reason}); use another --out, or make it writable"
    )


# ------------------------------------------------------------------------------------ identities


def _differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> tuple[str, str]:
    """What outdates a checkpoint, and how its run differs from this one; empty where they agree."""
    old, new = dict(_flat(theirs)), dict(_flat(mine))
    unset = object()
    differing = [name for name in {**old, **new} if old.get(name, unset) != new.get(name, unset)]
    named = [name for name in differing if name not in OUTDATING]
    changed = " and ".join(what for name, what in OUTDATING.items() if name in differing)
    outdated = f"{changed} changed" if changed else ""
    if not named:
        return outdated, ""
    more = f" ({len(named) - SHOWN} more fields differ)" if len(named) > SHOWN else ""
    code = f", and {outdated} since" if outdated else ""
    return outdated, f"made for {_shown(named, old)}; this run has {_shown(named, new)}{more}{code}"


def _flat(fields: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf."""
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _shown(names: list[str], fields: Mapping[str, Any]) -> str:
    def text(name: str) -> str:
        value = str(fields[name]) if name in fields else "unset"
        return f"{name} {value if len(value) <= 40 else value[:37] + '...'}"

    return ", ".join(map(text, names[:SHOWN]))
