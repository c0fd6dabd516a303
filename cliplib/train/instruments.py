"""What watches a run: metrics.jsonl, TensorBoard, and where the time of a step goes."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cliplib import InputError, records

METRICS = "metrics.jsonl"
WARM_UP = 10  # steps before those that are measured


class Metrics:
    """The lines of a run: one JSON object each in metrics.jsonl; the same to TensorBoard if asked.

    Args:
        folder: the run's folder.
        step: lines after this step are dropped; they are of steps that are taken again.
        tensorboard: whether to write ``tensorboard/`` as well.

    Raises:
        InputError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self.path = folder / METRICS
        self.window: list[float] = []
        records.write_atomic(self.path, "".join(f"{line}\n" for line in _kept(self.path, step)))
        self.board = _board(folder, step) if tensorboard else None

    def add(self, loss: float) -> None:
        """The loss of a step; the next line has the mean since the line before."""
        self.window.append(loss)

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line, with the mean loss in it."""
        whole = {**line, "loss": round(float(np.mean(self.window)), 6)}
        self.window = []
        with self.path.open("a") as file:
            file.write(json.dumps(whole) + "\n")
        if self.board:
            for name in ("loss", "lr", "logit_scale", "gradient_norm"):
                self.board.add_scalar(name, whole[name], whole["samples_seen"])

    def loss(self) -> float:
        """The mean loss since the last line; after a line, that line's."""
        if self.window:
            return float(np.mean(self.window))
        lines = self.path.read_text().splitlines()
        return json.loads(lines[-1])["loss"] if lines else math.nan

    def close(self) -> None:
        """Flush what TensorBoard holds back."""
        if self.board:
            self.board.close()


def _kept(path: Path, step: int) -> Iterator[str]:
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        if line.endswith("}") and json.loads(line)["step"] <= step:
            yield line


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "instruments.tensorboard: TensorBoard is not installed; pip install 'cliplib[tensorboard]', "
            "or leave it out (metrics.jsonl has the same values)"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)


class Profile:
    """Wall seconds of each phase of a step, over some steps after those that warm up.

    Args:
        steps: how many are measured; 0: none, and `phase` costs nothing.
        say: gets the table when they are done.
    """

    def __init__(self, steps: int, say: Callable[[str], None]) -> None:
        self.steps, self.say, self.taken = steps, say, 0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is done inside under this name."""
        if not self.measuring:
            yield
            return
        start = _now()
        yield
        self.seconds[name] += _now() - start

    @property
    def measuring(self) -> bool:
        """Whether this step counts."""
        return WARM_UP <= self.taken < WARM_UP + self.steps

    def end_step(self) -> None:
        """Count a step; after the last one that is measured, say the table."""
        self.taken += 1
        if self.steps and self.taken == WARM_UP + self.steps:
            self.say(self.table())

    def table(self) -> str:
        """Phases, the dearest first: milliseconds a step and share of the whole."""
        total = sum(self.seconds.values())
        lines = [f"profile of {self.steps} steps: {1e3 * total / self.steps:.2f} ms a step"]
        for name, spent in sorted(self.seconds.items(), key=lambda item: -item[1]):
            ms = 1e3 * spent / self.steps
            lines.append(f"  {name:22} {ms:9.3f} ms {spent / total:6.1%}")
        return "\n".join(lines)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
