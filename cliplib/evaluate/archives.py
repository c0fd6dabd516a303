"""Where the files of a tar archive lie, without reading them.

The standard library takes 40 microseconds a member, as long as decoding a small picture. Plain ustar
headers, which is all that evaluation data sets have, are read here; an archive with anything else in it
goes to the standard library.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = tarfile.BLOCKSIZE
REGULAR, FOLDER = (b"0", b"\0"), b"5"


@dataclass(frozen=True)
class Member:
    """A regular file in an archive: its content is ``size`` bytes from ``offset`` on."""

    name: str
    offset: int
    size: int


def members(path: Path) -> list[Member]:
    """The regular files of an uncompressed tar, in order.

    Raises:
        tarfile.TarError: it is none, or is cut or damaged.
    """
    try:
        return list(_plain(path))
    except _NotPlainError:
        with tarfile.open(path, "r:") as tar:
            return [Member(m.name, m.offset_data, m.size) for m in tar if m.isfile()]


class _NotPlainError(Exception):
    """A header that is no plain ustar one."""


def _plain(path: Path) -> Iterator[Member]:
    end = path.stat().st_size
    with path.open("rb", buffering=1 << 16) as file:
        place = 0
        while place < end:
            file.seek(place)
            header = file.read(BLOCK)
            if not header.strip(b"\0"):
                return
            name, size, kind = _header(header)
            if kind in REGULAR:
                yield Member(name, place + BLOCK, size)
            place += BLOCK + -(-size // BLOCK) * BLOCK


def _header(header: bytes) -> tuple[str, int, bytes]:
    """Name, size and type of a member.

    Raises:
        _NotPlainError: the checksum does not fit, or the member needs more than this header.
    """
    if len(header) < BLOCK:
        raise _NotPlainError
    try:
        given = int(header[148:156].strip(b" \0"), 8)
        size = int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        raise _NotPlainError from None
    kind = header[156:157]
    blanked = header[:148] + b" " * 8 + header[156:]  # the sum is over blanks in its own place
    if given != _sum(blanked[:256]) + _sum(blanked[256:]) or kind not in (*REGULAR, FOLDER):
        raise _NotPlainError
    name = header[:100].partition(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape"), size, kind


def _sum(data: bytes) -> int:
    """Of up to 256 bytes: the low half of Adler-32, many times faster than ``sum``."""
    return (zlib.adler32(data) & 0xFFFF) - 1
