"""Where trainings are made: several at once, one thread each, with one line for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from cliplib.evaluate.blocks import QUIET
from cliplib.evaluate.features import device

if TYPE_CHECKING:
    from cliplib.finetune.pictures import Album
    from cliplib.pretrained.opened import Opened

Answer = TypeVar("Answer")
Say = Callable[[str], None]


class Progress:
    """A line every few seconds: how far all work is, how the training that spoke last goes, how long still.

    Args:
        what: the work.
        total: pictures through the tower that it takes; learning from one counts as several.
        say: where the lines go.
    """

    def __init__(self, what: str, total: int, say: Say) -> None:
        self.what, self.total, self.say = what, total, say
        self.done = self.worked = 0
        self.start = self.shown = time.monotonic()
        self.lock = threading.Lock()

    def add(self, pictures: int, how: str) -> None:
        """Count pictures that went through the tower."""
        with self.lock:
            self.done += pictures
            self.worked += pictures
            now = time.monotonic()
            if now - self.shown < QUIET:
                return
            self.shown = now
            left = (now - self.start) / self.worked * max(0, self.total - self.done)
            share = min(1.0, self.done / self.total)
            self.say(f"{self.what}: {share:.0%}, {left:.0f} s left; {how}")

    def skip(self, pictures: int, why: str) -> None:
        """Count pictures that an earlier call saw."""
        with self.lock:
            self.done += pictures
            self.say(f"{self.what}: {why}")


@dataclass(frozen=True)
class Workshop:
    """What all trainings of a call share.

    Attributes:
        opened: the model.
        album: its pictures.
        out: where the results go.
        progress: the lines.
        stop: set when a training failed, or somebody interrupted.
    """

    opened: Opened
    album: Album
    out: Path
    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def work(self) -> Path:
        """Each training has a folder of its own in this one; it goes when all is done."""
        return self.out / "work"

    def together(self, jobs: Sequence[Callable[[], Answer]]) -> list[Answer]:
        """The answers in order. On a CPU as many jobs run at once as torch has threads, one thread each.

        When one fails the others are stopped, and its error is raised.
        """
        threads = torch.get_num_threads()
        workers = threads if device(self.opened).type == "cpu" else 1
        try:
            with ThreadPoolExecutor(workers, "fine-tuning", torch.set_num_threads, (1,)) as pool:
                futures = [pool.submit(job) for job in jobs]
                try:
                    for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                        future.result()
                    return [future.result() for future in futures]
                except BaseException:
                    self.stop.set()
                    for future in futures:
                        future.cancel()
                    raise
        finally:
            torch.set_num_threads(threads)
