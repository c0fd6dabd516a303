"""What a job needs: a clock, a memory gauge, a row, and a neutral description of the machine."""

import importlib
import os
import pkgutil
import platform
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cliplib.bench

Answer = TypeVar("Answer")
Job = Callable[..., "Iterable[Row]"]


@dataclass(frozen=True)
class Row:
    """One comparison. ratio above 1: ours is better. peer and ratio are None where none exists."""

    job: str
    case: str
    peer: float | None
    ours: float
    unit: str
    ratio: float | None


def less_is_better(job: str, case: str, peer: float | None, ours: float, unit: str) -> Row:
    """A row of a cost: seconds, an objective, megabytes."""
    return Row(job, case, peer, ours, unit, None if peer is None else peer / ours)


def more_is_better(job: str, case: str, peer: float | None, ours: float, unit: str) -> Row:
    """A row of a yield, such as images per second."""
    return Row(job, case, peer, ours, unit, None if peer is None else ours / peer)


def job(function: Job) -> Job:
    """Mark a function of a ``jobs_*`` module as a job; its name is the job's."""
    function.__dict__["is_job"] = True
    return function


def all_jobs() -> dict[str, Job]:
    """Every job by name, in order of module and place."""
    found: dict[str, Job] = {}
    for module in pkgutil.iter_modules(cliplib.bench.__path__):
        if module.name.startswith("jobs_"):
            members = vars(importlib.import_module(f"cliplib.bench.{module.name}"))
            found |= {name: f for name, f in members.items() if getattr(f, "is_job", False)}
    return found


def timed(work: Callable[[], Answer]) -> tuple[Answer, float]:
    """The answer and the processor seconds it took (not wall time: the machine may be shared)."""
    begin = time.process_time()
    answer = work()
    return answer, time.process_time() - begin


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median processor seconds of several runs, after one that warms caches and imports."""
    work()
    return statistics.median(timed(work)[1] for _ in range(repeats))


def peak_megabytes(work: Callable[[], Any]) -> float:
    """The most memory that Python and numpy held at once during the work, beyond what was held."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def machine() -> str:
    """Processor, number of its cores, memory: nothing that names this one machine."""
    gigabytes = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return f"{_processor()}, {os.cpu_count()} cores, {gigabytes} GB memory, {platform.system()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The short hash of the code that was measured, with + where it was changed since."""
    try:
        changed = "+" if _git("status", "--porcelain", "-uno") else ""
        return _git("rev-parse", "--short", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    here = Path(__file__).parent
    asked = subprocess.run(["git", *words], check=True, capture_output=True, text=True, cwd=here)
    return asked.stdout.strip()
