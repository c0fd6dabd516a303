"""A data set on a web server or in a bucket: copied once into the cache, then read like any folder.

An address on the hub, as CLIP_benchmark is given it (``https://HUB/datasets/ORG/NAME/tree/BRANCH``), is
taken apart in the same way: texts come from ``raw``, archives from ``resolve``. A copy that was broken
off goes on with the files that are missing; a file appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from cliplib import InputError
from cliplib.corpus.fetch import cache_folder
from cliplib.data.faults import MISSING_SHARD, Fault
from cliplib.data.remote import open_shard
from cliplib.data.urls import TOOLS, WEB, shard_name

ABOUT = (
    "classnames.txt",
    "zeroshot_classification_templates.txt",
    "dataset_type.txt",
    "hashes.json",
)
QUIET = 5.0  # seconds between two lines of progress
HUB = re.compile(r"(https?://[^/]+/datasets/[^/]+/[^/]+)/tree/([^/]+)/?$")


def is_remote(place: str) -> bool:
    """Whether a data set's place is an address and no folder."""
    return place.startswith((*WEB, *TOOLS))


def local_copy(
    url: str, split: str, cache: Path | None = None, say: Callable[[str], None] = print
) -> Path:
    """The folder of the cache with a split of a data set, copied if it is not there.

    Args:
        url: the data set's address, with the layout of `cliplib.evaluate.wds` below it.
        split: the part to copy.
        cache: None: where all downloads are kept.
        say: for lines of progress.

    Raises:
        InputError: nothing there, no such split, or a connection that broke for good; the same call
            goes on.
    """
    texts, archives = _bases(url)
    mark = hashlib.sha256(url.encode()).hexdigest()[:8]
    folder = (cache or cache_folder()) / "datasets" / f"{_name(url)}-{mark}"
    for name in ABOUT:
        _copy(f"{texts}/{name}", folder / name, optional=True)
    shards = folder / split / "nshards.txt"
    _copy(f"{texts}/{split}/nshards.txt", shards)
    count = shards.read_text().strip()
    if not count.isdigit():
        shards.unlink()
        raise InputError(f"{shard_name(url)}: {split}/nshards.txt says {count[:40]!r}, no number")
    shown = time.monotonic()
    for number in range(int(count)):
        _copy(f"{archives}/{split}/{number}.tar", folder / split / f"{number}.tar")
        if time.monotonic() - shown > QUIET:
            shown = time.monotonic()
            say(f"{_name(url)}: {number + 1} of {count} archives copied")
    return folder


def _name(url: str) -> str:
    """A name for the folder: the data set's own."""
    found = HUB.match(url)
    return (found.group(1) if found else url.rstrip("/")).rpartition("/")[2]


def _bases(url: str) -> tuple[str, str]:
    """Where texts and archives are."""
    found = HUB.match(url)
    if not found:
        return url.rstrip("/"), url.rstrip("/")
    return f"{found.group(1)}/raw/{found.group(2)}", f"{found.group(1)}/resolve/{found.group(2)}"


def _copy(url: str, into: Path, optional: bool = False) -> None:
    """Copy one file, unless it is there."""
    if into.exists():
        return
    into.parent.mkdir(parents=True, exist_ok=True)
    aside = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    try:
        with open_shard(url) as source, aside.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        aside.replace(into)
    except Fault as fault:
        if optional and fault.kind == MISSING_SHARD:
            return
        raise InputError(
            f"{shard_name(url)}: {fault}; check the address and the network, then run it again: what "
            "is copied stays"
        ) from None
    finally:
        aside.unlink(missing_ok=True)
