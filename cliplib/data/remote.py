"""Bytes of a shard from wherever it is: a file, a web server, a bucket, a command.

A connection that breaks is opened again where it broke off, three times with growing pauses; whoever
does not answer is given up. Nothing here waits without a limit.
"""

from __future__ import annotations

import http.client
import io
import os
import selectors
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Protocol

from cliplib.data import faults
from cliplib.data.faults import Fault
from cliplib.data.urls import PIPE, TOOLS, WEB

PAUSES = (1.0, 3.0, 9.0)  # seconds before each new try
SILENCE = 30.0  # seconds without a byte until a server counts as dead
COMMAND_SILENCE = 300.0  # the same for a command, which may have to unpack or wait for a queue
BUFFER = 1 << 18
_GOOD_STRETCH = 16 << 20  # bytes without a fault after which all tries are granted again


def open_shard(url: str) -> io.BufferedReader:
    """Open a shard for reading from its start.

    Raises:
        Fault: it is missing or cannot be opened; later reads raise it too when a connection breaks
            for good.
    """
    if url.startswith(WEB):
        return _buffered(lambda start: _Web(url, start), PAUSES)
    if url.startswith(PIPE):
        return _buffered(lambda start: _Command(url[len(PIPE) :], start), ())
    if url.startswith(tuple(TOOLS)):
        return _buffered(lambda start: _Command(_argv(url), start), PAUSES)
    try:
        return io.BufferedReader(io.FileIO(url), BUFFER)
    except FileNotFoundError:
        raise Fault(faults.MISSING_SHARD, url) from None
    except OSError as error:
        raise Fault(faults.UNREADABLE_SHARD, str(error)) from None


def _buffered(connect: Callable[[int], _Source], pauses: tuple[float, ...]) -> io.BufferedReader:
    return io.BufferedReader(_Resumed(connect, pauses), BUFFER)


def _argv(url: str) -> list[str]:
    tool = next(tool for scheme, tool in TOOLS.items() if url.startswith(scheme))
    return [*tool, url, "-"] if tool[0] == "aws" else [*tool, url]


class _Source(Protocol):
    """One connection: ``read`` gives b"" at the true end only and raises OSError when it breaks."""

    def read(self, size: int) -> bytes: ...

    def close(self) -> None: ...


class _Resumed(io.RawIOBase):
    """A stream over connections: when one breaks, the next begins where it broke off."""

    def __init__(self, connect: Callable[[int], _Source], pauses: tuple[float, ...]) -> None:
        self._connect, self._pauses = connect, pauses
        self._source: _Source | None = None
        self._position = self._tries = self._broke_at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            try:
                if self._source is None:
                    self._source = self._connect(self._position)
                data = self._source.read(len(buffer))
            except (OSError, http.client.HTTPException) as error:
                self._broken(error)
                continue
            buffer[: len(data)] = data
            self._position += len(data)
            return len(data)

    def _broken(self, error: Exception) -> None:
        """Wait before the next try.

        Raises:
            Fault: there have been enough.
        """
        self._drop()
        if self._position - self._broke_at >= _GOOD_STRETCH:
            self._tries = 0
        self._broke_at = self._position
        if self._tries == len(self._pauses):
            kind = faults.CONNECTION_CUT if self._position else faults.UNREADABLE_SHARD
            raise Fault(kind, str(error)) from None
        time.sleep(self._pauses[self._tries])
        self._tries += 1

    def _drop(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None

    def close(self) -> None:
        self._drop()
        super().close()


# ---------------------------------------------------------------------------------------- web servers


class _Web:
    """A shard on a web server, from byte ``start`` on."""

    def __init__(self, url: str, start: int) -> None:
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            self._answer = urllib.request.urlopen(request, timeout=SILENCE)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (408, 425, 429) or error.code >= 500:
                raise
            kind = faults.CONNECTION_CUT if start else faults.MISSING_SHARD
            raise Fault(kind, f"{error.code} {error.reason}") from None
        length = self._answer.headers.get("Content-Length")
        self._left = int(length) if length else None
        if start and self._answer.status != 206:  # the server sends all of it again
            _skip(self, start)

    def read(self, size: int) -> bytes:
        data = self._answer.read(size)
        if self._left is not None:
            self._left -= len(data)
            if not data and self._left > 0:
                raise ConnectionError(f"cut off {self._left:,} bytes before the end")
        return data

    def close(self) -> None:
        self._answer.close()


# ------------------------------------------------------------------------------------------- commands


class _Command:
    """A shard that a command prints: a string for the shell, or the words of a tool."""

    def __init__(self, command: str | list[str], start: int) -> None:
        self._process = subprocess.Popen(
            command, shell=isinstance(command, str), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, bufsize=0, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._out = self._process.stdout
        self._waiter = selectors.DefaultSelector()
        if os.name == "posix":
            self._waiter.register(self._out, selectors.EVENT_READ)
        _skip(self, start)

    def read(self, size: int) -> bytes:
        if self._waiter.get_map() and not self._waiter.select(COMMAND_SILENCE):
            raise TimeoutError(f"the command printed nothing for {COMMAND_SILENCE:.0f} s")
        data = self._out.read(size) or b""
        if not data and self._status():
            raise ConnectionError(f"the command ended with status {self._process.returncode}")
        return data

    def _status(self) -> int:
        try:
            return self._process.wait(COMMAND_SILENCE)
        except subprocess.TimeoutExpired:
            raise TimeoutError("the command printed all but does not end") from None

    def close(self) -> None:
        self._waiter.close()
        self._out.close()
        if self._process.poll() is None:
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()


def _skip(source: _Source, size: int) -> None:
    """Read past so many bytes; a source that fails on the way is closed."""
    try:
        while size > 0:
            got = len(source.read(min(size, BUFFER)))
            if not got:
                raise ConnectionError("shorter than before")
            size -= got
    except BaseException:
        source.close()
        raise
