"""A look before training: whether the shards are there, and enough for the processes."""

from __future__ import annotations

import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from cliplib import InputError
from cliplib.data.urls import TOOLS, WEB, is_local, shard_name

SECONDS = 4.0  # for asking; all of it ends within five
ENDS = 2  # shards asked for at each end of a list on a web server


def check_counts(
    shards: Sequence[str], lanes: int, batch_size: int, processes: int, workers: int, epoch: bool
) -> None:
    """Refuse numbers that do not fit each other.

    Raises:
        InputError: fewer shards than lanes, lanes that the processes and workers, or a batch that the
            lanes, cannot share evenly, or (``epoch``) a shard listed twice.
    """
    serving = processes * max(1, workers)
    if lanes < 1 or lanes % processes or lanes % serving:
        fits = ", ".join(str(n) for n in range(1, lanes + 1) if lanes % n == 0)
        raise InputError(
            f"{lanes} lanes cannot be shared evenly by {processes} processes x {max(1, workers)} workers; "
            f"processes x workers may be {fits}, or set lanes to a multiple of {serving}"
        )
    if batch_size < 1 or batch_size % lanes:
        raise InputError(
            f"batch_size {batch_size} is no multiple of the {lanes} lanes; use "
            f"{max(1, batch_size // lanes) * lanes} or {(batch_size // lanes + 1) * lanes}, or other lanes"
        )
    if len(shards) < lanes:
        raise InputError(
            f"{len(shards)} shards are too few for {lanes} lanes ({processes} processes, {workers} "
            f"workers each): set lanes to at most {len(shards)}"
            + (f" and processes x workers too (now {serving})" if serving > len(shards) else "")
            + ", or cut the data into more shards"
        )
    if epoch and len(set(shards)) < len(shards):
        twice = next(url for n, url in enumerate(shards) if url in shards[:n])
        raise InputError(
            f"{shard_name(twice)}: listed twice; sampler epoch serves each shard once an epoch"
        )


def check_reachable(shards: Sequence[str]) -> None:
    """Refuse shards that are not there: every local one, the first and last ones on web servers.

    Raises:
        InputError: missing, unreadable, or a server that does not answer within four seconds.
    """
    _check_local([url for url in shards if is_local(url)])
    for scheme, tool in TOOLS.items():
        if any(url.startswith(scheme) for url in shards) and not shutil.which(tool[0]):
            raise InputError(
                f"{scheme} needs the command {tool[0]!r}, which is not installed; install it or "
                "use https:// or pipe:"
            )
    remote = [url for url in shards if url.startswith(WEB)]
    if remote:
        _check_web(list(dict.fromkeys(remote[:ENDS] + remote[-ENDS:])))


def _check_local(paths: Sequence[str]) -> None:
    """Every path, unless the disk is so slow that it would take too long: then the first and last."""
    missing: list[str] = []
    end = time.monotonic() + SECONDS
    for number, path in enumerate(paths):
        if time.monotonic() > end and number < len(paths) - ENDS:
            continue
        if not Path(path).is_file():
            missing.append(path)
        elif not os.access(path, os.R_OK):
            raise InputError(f"{path}: no permission to read this shard")
    if missing:
        others = f" (and {len(missing) - 1:,} more of {len(paths):,})" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}: no such shard{others}; check the paths")


def _check_web(urls: Sequence[str]) -> None:
    asking = ThreadPoolExecutor(len(urls))
    answers = {url: asking.submit(_ask, url) for url in urls}
    wait(answers.values(), SECONDS + 0.5)
    asking.shutdown(wait=False, cancel_futures=True)
    for url, answer in answers.items():
        what = answer.result() if answer.done() else f"no answer within {SECONDS:.0f} s"
        if what:
            raise InputError(f"{shard_name(url)}: {what}; check the URL and the server")


def _ask(url: str) -> str:
    """What is wrong with a URL, "" if nothing: its first bytes are asked for, as training will."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-511"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        missing = error.code < 500 and error.code not in (408, 416, 425, 429)
        return f"the server says {error.code} {error.reason}" if missing else ""
    except (TimeoutError, socket.timeout):  # noqa: UP041
        return f"no answer within {SECONDS:.0f} s"
    except (OSError, ValueError) as error:
        return f"cannot be reached ({getattr(error, 'reason', error)})"
