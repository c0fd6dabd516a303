"""How fast steps follow each other: wall time, processor time and memory after a warm-up."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


class Pace:
    """Times whole steps: from the end of the last warm-up step to the end of the last step.

    Args:
        warmup: steps that are not timed.
        seconds: how long to time; at least one step is.
    """

    def __init__(self, warmup: int, seconds: float) -> None:
        self.warmup, self.seconds, self.steps = warmup, seconds, -warmup
        self.begin = self.end = 0.0
        self.cpu_begin = self.cpu_end = 0.0

    def step(self) -> bool:
        """Note that a step has ended; true when enough have been timed."""
        self.steps += 1
        now = time.perf_counter()
        if self.steps == 0:
            self.begin, self.cpu_begin = now, tree_cpu_seconds()
        self.end = now
        enough = self.steps > 0 and now - self.begin >= self.seconds
        if enough:
            self.cpu_end = tree_cpu_seconds()
        return enough

    def result(self, batch_size: int) -> dict[str, Any]:
        """Samples a second, processor seconds a sample (with helper processes), peak memory in MiB."""
        samples = self.steps * batch_size
        return {
            "samples_per_s": samples / (self.end - self.begin),
            "cpu_seconds_per_sample": (self.cpu_end - self.cpu_begin) / samples,
            "step_ms": 1000 * (self.end - self.begin) / self.steps,
            "steps": self.steps,
            "peak_mb": peak_mb(),
            "private_mb": private_mb(),
        }


def through(batches: Iterable[Any], batch_size: int, warmup: int, seconds: float) -> dict[str, Any]:
    """The pace at which something yields batches.

    Raises:
        ValueError: it ended before the time was over.
    """
    pace = Pace(warmup, seconds)
    for _ in batches:
        if pace.step():
            return pace.result(batch_size)
    raise ValueError(f"no more batches after {pace.steps + warmup}, before {seconds:g} s were over")


class Stretch:
    """Times one piece of work, from when it is made to when its result is asked for."""

    def __init__(self) -> None:
        self.begin, self.cpu_begin = time.perf_counter(), _cpu_with_ended()

    def result(self) -> dict[str, float]:
        """Wall and processor seconds (with helpers that ended), those since the process began, memory."""
        seconds = time.perf_counter() - self.begin
        return {
            "seconds": seconds,
            "cpu_seconds": _cpu_with_ended() - self.cpu_begin,
            "process_seconds": time.time() - psutil.Process().create_time(),
            "peak_mb": peak_mb(),
        }


def _cpu_with_ended() -> float:
    """Processor seconds of this process and of those it started that have ended."""
    return sum(os.times()[:4])


def tree_cpu_seconds() -> float:
    """Processor seconds of this process and of those it started that still live."""

    def spent(process: psutil.Process) -> float:
        times = process.cpu_times()
        return times.user + times.system

    return _over_tree(spent)


def peak_mb() -> float:
    """The most memory this process (without those it started) has held at once, in MiB.

    On Linux the kernel's own mark of this program: getrusage's begins with the peak of the process that
    started it.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def private_mb() -> float:
    """What this process and those it started hold now that is no mapped file, in MiB."""

    def held(process: psutil.Process) -> float:
        memory = process.memory_info()
        return (memory.rss - getattr(memory, "shared", 0)) / 2**20

    return _over_tree(held)


def _over_tree(measure: Callable[[psutil.Process], float]) -> float:
    """The sum over this process and those it started, without those that end meanwhile."""
    me, total = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += measure(process)
    return total
