"""The processes of a run: alone, or joined under torchrun (gloo on CPUs, NCCL on GPUs).

Each process holds an equal, contiguous part of every global batch. What they exchange goes through
the methods of `World`, which cost nothing in a process that is alone. An exchange that a process
does not answer ends in an error after the timeout; inside `World.watch` that error names the
process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cliplib import InputError

TIMEOUT = 600.0  # seconds that a process waits for the others
BEAT = 1.0  # seconds between two signs of life
GRACE = 5.0  # seconds in which the others report, after an exchange broke: several beats
LINGER = 3.0  # seconds that rank 0 stays for them to read what was found: it may keep the store
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets them

Batch = TypeVar("Batch", np.ndarray, Tensor)


class LostProcess(ConnectionError):
    """A process of the run has gone or fallen silent; the message names it."""


@dataclass(frozen=True)
class World:
    """The processes of a run: this one's rank, and how many there are.

    ``pulse`` tells the others that this one lives; None for one process alone, and for a group that
    somebody else opened (which `leave` then leaves open).
    """

    rank: int = 0
    size: int = 1
    timeout: float = TIMEOUT
    pulse: _Pulse | None = field(default=None, compare=False, repr=False)

    # ---- joining and leaving

    @classmethod
    def join(cls, timeout: float = TIMEOUT, device: str | None = None) -> World:
        """Join the processes that torchrun describes in the environment; alone without torchrun.

        A process group that is open already is used as it is.

        Args:
            timeout: seconds to wait for the other processes, now and in every exchange.
            device: "cpu" or "cuda" for the tensors exchanged; by default cuda where there is one.

        Raises:
            InputError: the environment is incomplete, or there are more processes than GPUs.
            LostProcess: some processes did not come within the timeout; it names them.
        """
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), timeout)
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return cls()
        rank, size, host, port = _environment()
        cuda = (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda"
        if cuda:
            _take_gpu()
        store = _meet(rank, size, host, port, timeout)
        world = cls(rank, size, timeout, _Pulse(store, rank, size))
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        wait = timedelta(seconds=timeout)
        with world.watch():
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
        return world

    def leave(self) -> None:
        """Close the process group, if this world opened it and it is still open."""
        if self.pulse is not None and dist.is_initialized():
            self.pulse.stop()
            dist.destroy_process_group()

    @property
    def main(self) -> bool:
        """Whether this is the one process that writes files and lines."""
        return self.rank == 0

    # ---- sharing work

    def share(self, batch: Batch) -> Batch:
        """This process's part of a global batch: a contiguous slice of equal length.

        Raises:
            InputError: the batch does not divide evenly, so pairs would be lost.
        """
        part, rest = divmod(len(batch), self.size)
        if rest:
            raise InputError(
                f"a batch of {len(batch)} does not divide over {self.size} processes; "
                f"choose a multiple of {self.size}"
            )
        return batch[self.rank * part : (self.rank + 1) * part]

    # ---- exchanging tensors, all of equal shape on every process

    def gather(self, part: Tensor) -> Tensor:
        """Parts (b, ...) of all processes -> the whole (b x size, ...), in order of rank."""
        if self.size == 1:
            return part
        whole = part.new_empty((len(part) * self.size, *part.shape[1:]))
        dist.all_gather_single(whole, part.contiguous())
        return whole

    def sum_parts(self, whole: Tensor) -> Tensor:
        """Sum (b x size, ...) over the processes -> this one's part (b, ...) of the sum."""
        if self.size == 1:
            return whole
        part = whole.new_empty((len(whole) // self.size, *whole.shape[1:]))
        dist.reduce_scatter_single(part, whole.contiguous())
        return part

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the processes, the same on each; ``value`` itself is left alone."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def max(self, value: Tensor) -> Tensor:
        """The largest over the processes, element by element, the same on each."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, the same on each; ``value`` itself is left alone."""
        return self.sum(value) / self.size

    def _reduced(self, value: Tensor, how: Any) -> Tensor:
        if self.size == 1:
            return value
        value = value.detach().clone()
        dist.all_reduce(value, how)
        return value

    # ---- agreeing

    def any(self, flag: bool) -> bool:
        """True on every process if it is true on any of them: how they stop together."""
        return bool(self.max(torch.tensor(int(flag), device=self._talks_on)))

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.any(False)

    def gather_objects(self, value: Any) -> list[Any]:
        """One picklable value from every process, in order of rank, on each of them."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    @property
    def _talks_on(self) -> str:
        """Small messages go over gloo where there is gloo: a GPU need not wait for them."""
        return "cuda" if self.size > 1 and dist.get_backend() == "nccl" else "cpu"

    # ---- losing a process

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Name the processes that were lost, if an exchange in the block breaks.

        A process that dies or hangs breaks the exchanges of the others: at once, or after the
        timeout. (A hang within an NCCL kernel is ended by torch's own watchdog, after the same
        timeout, without a name.)

        Raises:
            LostProcess: in place of torch's error about the broken exchange.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _broken_exchange(error):
                raise
            lost = self.pulse.lost() if self.pulse else f"one of the {self.size} processes"
            raise LostProcess(
                f"{lost} stopped answering (gone, or silent for {self.timeout:g} s); see its own "
                "output for the reason, then start all of them again: a run goes on from its last "
                "checkpoint"
            ) from error


# ------------------------------------------------------------------------------------- the meeting


def _environment() -> tuple[int, int, str, int]:
    """Rank, size, host and port as torchrun gives them."""
    values = [os.environ.get(name, "") for name in VARIABLES]
    rank, size, host, port = values
    if not (rank.isdigit() and size.isdigit() and port.isdigit() and host):
        found = ", ".join(f"{name}={value!r}" for name, value in zip(VARIABLES, values))
        raise InputError(f"processes cannot meet with {found}; start them with torchrun")
    if int(rank) >= int(size):
        raise InputError(f"RANK={rank} must be below WORLD_SIZE={size}; start with torchrun")
    return int(rank), int(size), host, int(port)


def _take_gpu() -> None:
    """Make the GPU of this process's place on its machine the current one."""
    place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= gpus:
        raise InputError(f"process {place} of this machine has no GPU of its own, there are {gpus}")
    torch.cuda.set_device(place)


def _meet(rank: int, size: int, host: str, port: int, timeout: float) -> dist.Store:
    """The store of the run once every process is on it.

    As torch's own ``env://`` meeting does, rank 0 keeps the store unless torchrun's agent keeps it.
    Unlike it, every process sees who is missing.
    """
    keeper = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    wait = timedelta(seconds=timeout)
    try:
        board = dist.TCPStore(
            host, port, size, keeper, wait, wait_for_workers=False, multi_tenant=True
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"cliplib/{attempt}", board)
        store.set(f"beat/{rank}", "0")
        store.set(f"here/{rank}", "")
        missing = _absent(store, "here", size, timeout)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LostProcess(
            f"rank {rank} of {size} found no meeting point at {host}:{port} ({reason}); "
            "start all processes, rank 0 among them, with the same address and a free port"
        ) from error
    if missing:
        if keeper:
            time.sleep(LINGER)
        raise LostProcess(
            f"{_named(missing, size)} did not come to {host}:{port} within {timeout:g} s; "
            "start all processes together"
        )
    return store


def _absent(store: dist.Store, word: str, size: int, seconds: float) -> list[int]:
    """Ranks whose ``word`` is not on the store after so many seconds; returns early if all are."""
    end = time.monotonic() + seconds
    while absent := [rank for rank in range(size) if not store.check([f"{word}/{rank}"])]:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return absent


def _named(ranks: list[int], size: int) -> str:
    """Ranks as the subject of a sentence."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {size}"


# -------------------------------------------------------------------------------- a lost process


class _Pulse(threading.Thread):
    """Signs of life on the store, every second, and who was lost once anyone has found it.

    A broken exchange alone does not tell: in a ring, the neighbours of a process that died fail at
    once, and those further off wait for the neighbours, as they would for one that hangs.
    """

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        super().__init__(daemon=True)
        self.store, self.rank, self.size = store, rank, size
        self.found = ""
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Beat until stopped, or until the store has gone with the process that kept it."""
        count = 0
        try:
            while not self.ended.wait(BEAT):
                count += 1
                self.store.set(f"beat/{self.rank}", str(count))
                if not self.found and self.store.check(["found"]):
                    self.found = self.store.get("found").decode()
        except RuntimeError:
            return

    def stop(self) -> None:
        """End the thread; its process leaves in order."""
        self.ended.set()
        self.join()

    def lost(self) -> str:
        """The processes to blame, as the first that met a broken exchange found them."""
        try:
            found = self.found or self.look()
            if self.rank == 0:
                time.sleep(LINGER)
            return found
        except RuntimeError:  # the store has gone with rank 0, maybe after it told what it found
            return self.found or _named([0], self.size)

    def look(self) -> str:
        """Report that an exchange broke here; who reports nothing is lost, one without pulse first.

        A process that hangs has a pulse still, but the exchanges of all others have timed out.
        """
        self.store.set(f"broken/{self.rank}", "")
        before = self.beats()
        silent = _absent(self.store, "broken", self.size, GRACE)
        dead = [rank for rank in silent if self.beats()[rank] == before[rank]]
        blamed = (
            _named(dead or silent, self.size) if silent else f"one of the {self.size} processes"
        )
        return self.store.compare_set("found", "", blamed).decode()

    def beats(self) -> list[bytes]:
        """The count of each process's beats; 0 stands there since they met."""
        return [self.store.get(f"beat/{rank}") for rank in range(self.size)]


def _broken_exchange(error: RuntimeError) -> bool:
    """Whether this is torch's word for a lost process: gloo raises plain RuntimeErrors."""
    said = str(error)
    return isinstance(error, dist.DistError) or "gloo" in said or "pair closure" in said
