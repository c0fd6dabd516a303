"""One checkpoint file: safetensors with a JSON document in it and a SHA-256 over every byte.

Any safetensors reader opens it. Nothing in it is executed, and nothing is parsed before the hash agrees.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

DOCUMENT = "document.json"  # the tensor whose bytes are the JSON document
NO_DIGEST = b"0" * 64
DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
CHUNK = 1 << 20  # bytes hashed at a time


class Damaged(Exception):
    """A checkpoint file is not what was written; the message says in what way."""


def write(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write aside, with the digest filled in and the bytes on the disk; then rename.

    Args:
        path: the file; until it is whole, its folder has files that begin with a dot instead.
        tensors: named tensors of any dtype, on any device.
        document: JSON values with string keys.

    Raises:
        OSError: the disk is full or failed, or the folder may not be written to.
    """
    text = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    whole = dict(_storable({DOCUMENT: text, **tensors}))
    try:
        save_file(whole, aside, metadata={"sha256": NO_DIGEST.decode()})
    except SafetensorError as error:
        raise _as_os_error(error) from error
    start, _, digest = _digests(aside)
    with aside.open("r+b") as file:
        file.seek(start)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync_folder(path.parent)


def _storable(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in memory order on the CPU, tied ones apart: safetensors stores no memory twice."""
    seen = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        yield name, value


def _as_os_error(error: SafetensorError) -> OSError:
    """The error of the system that safetensors tells of in its text only."""
    found = re.search(r"os error (\d+)", str(error))
    if not found:
        return OSError(errno.EIO, str(error))
    return OSError(int(found[1]), os.strerror(int(found[1])))


def _sync_folder(folder: Path) -> None:
    """Put the renaming itself on the disk (Windows opens no folders, and needs none of this)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the document of a file.

    The tensors are on the CPU and may be read from the file only when they are used.

    Raises:
        Damaged: a byte is not as it was written, or the file is none of ours.
        PermissionError: it may not be read.
    """
    try:
        _, written, actual = _digests(path)
        if written != actual:
            raise Damaged("hash differs")
        tensors = load_file(path)
        document = json.loads(tensors.pop(DOCUMENT).numpy().tobytes())
    except PermissionError:
        raise
    except OSError as error:
        raise Damaged(error.strerror or "unreadable") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise Damaged("no checkpoint of ours") from error
    return tensors, document


def _digests(path: Path) -> tuple[int, bytes, bytes]:
    """Where the digest stands in the file, the digest that stands there, and the one that should.

    It is taken over the whole file with zeros in its own place, so no byte goes unwatched.
    """
    with path.open("rb") as file:
        length = file.read(8)  # of the header that follows, little-endian
        size = int.from_bytes(length, "little")
        if len(length) < 8 or size > path.stat().st_size - 8:
            raise Damaged("cut short")
        header = file.read(size)
        found = DIGEST.search(header)
        if not found:
            raise Damaged("no hash in it")
        start, end = found.span(1)
        sha = hashlib.sha256(length + header[:start] + NO_DIGEST + header[end:])
        while chunk := file.read(CHUNK):
            sha.update(chunk)
    return 8 + start, found[1], sha.hexdigest().encode()
