"""Where shards are: brace ranges, lists, directories, files of URLs -> one URL a shard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from cliplib import InputError

PIPE = "pipe:"
WEB = ("http://", "https://")
#: Schemes read through the provider's own command line tool: what prints an object.
TOOLS = {"s3://": ("aws", "s3", "cp", "--quiet"), "gs://": ("gcloud", "storage", "cat")}
LIST_SUFFIXES = (".txt", ".list")
MOST_SHARDS = 2_000_000


def expand(urls: str | Sequence[str]) -> tuple[str, ...]:
    """All shards that the user's own words name, in order.

    Each entry is a path or URL with optional brace ranges (``data/{000000..000123}.tar``), several of
    them joined by ``::``, a directory (all its ``*.tar``, sorted), a text file with one entry a line
    (``.txt`` or ``.list``, ``#`` for comments, paths relative to the file), an ``http://``,
    ``https://``, ``s3://`` or ``gs://`` URL, or ``pipe:COMMAND``. A command is taken from the user
    alone: a file that holds one is refused.

    >>> expand("a/{08..10}.tar::b.tar")
    ('a/08.tar', 'a/09.tar', 'a/10.tar', 'b.tar')

    Raises:
        InputError: nothing named, an empty directory, an unknown scheme, ``pipe:`` in a file, or an
            absurd number of shards.
    """
    entries = [urls] if isinstance(urls, str) else list(urls)
    found = tuple(url for entry in entries for url in _entry(entry))
    if not found:
        raise InputError("no shards given; name at least one .tar file, directory or URL")
    return found


def is_local(url: str) -> bool:
    """Whether a URL is a path on this machine."""
    return not url.startswith((PIPE, *WEB, *TOOLS))


def shard_name(url: str) -> str:
    """A URL as it may be printed and recorded: without password, query or command.

    >>> shard_name("https://me:secret@host/a/000.tar?token=x")
    'https://host/a/000.tar'
    >>> shard_name("pipe:curl -H 'Key: secret' https://host/a/000.tar | cat")
    'pipe: https://host/a/000.tar'
    """
    if url.startswith(PIPE):
        words = re.findall(r"[^\s'\"=|<>]*\.tar[^\s'\"|<>]*", url[len(PIPE) :])
        return f"pipe: {shard_name(words[-1])}" if words else "pipe: command"
    if is_local(url):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _entry(entry: str) -> Iterator[str]:
    for part in re.split(r"::(?=pipe:)" if entry.startswith(PIPE) else "::", entry):
        for url in _braces(part.strip()):
            yield from _resolve(url)


def _braces(part: str) -> list[str]:
    """Brace ranges and variables (``${WDS_HOME}``) as webdataset expands them.

    It would take backslashes for its own and cut commands at ``::``: both are kept from it.
    """
    from webdataset.shardlists import expand_urls

    ranges = re.findall(r"\{(\d+)\.\.(\d+)\}", part)
    if prod(abs(int(last) - int(first)) + 1 for first, last in ranges) > MOST_SHARDS:
        raise InputError(f"{part}: over {MOST_SHARDS:,} shards; is a brace range mistyped?")
    try:
        hidden = part.replace("\\", "\\\\").replace("::", "\0")
        return [url.replace("\0", "::") for url in expand_urls(hidden)]
    except ValueError:
        raise InputError(f"{part}: braces do not match; write {{000000..000123}}") from None


def _resolve(url: str) -> Iterator[str]:
    if url.startswith((PIPE, *WEB, *TOOLS)):
        yield url
        return
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", url)
    if scheme:
        known = ", ".join((*WEB, *TOOLS))
        raise InputError(
            f"{url}: {scheme[0]} is not known; use a path, {known} or "
            "pipe:COMMAND, a command that prints the shard"
        )
    if not url:
        return
    path = Path(url)
    if path.suffix in LIST_SUFFIXES:
        yield from _listed(path)
    elif path.suffix != ".tar" and path.is_dir():
        yield from _directory(path)
    else:
        yield url


def _directory(path: Path) -> Iterator[str]:
    shards = sorted(path.glob("*.tar"))
    if not shards:
        raise InputError(f"{path}: no .tar file in this directory")
    yield from map(str, shards)


def _listed(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: this list of shards cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        entry = line.split("#")[0].strip()
        if "pipe:" in entry:
            raise InputError(
                f"{path}:{number}: a list of shards may not hold pipe: commands; give them yourself, "
                "in the config or on the command line"
            )
        for url in _entry(entry) if not entry.endswith(LIST_SUFFIXES) else _nested(path, number):
            yield str(path.parent / url) if is_local(url) else url


def _nested(path: Path, number: int) -> Iterator[str]:
    raise InputError(f"{path}:{number}: a list of shards may not name another list")
