"""Deterministic webdataset shards, and the check of what lies on disk against its manifest."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliplib import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One image-text pair as a shard holds it."""

    key: str
    png: bytes
    text: str
    record: dict[str, Any]


def write_shard(path: Path, samples: Iterable[Sample]) -> dict[str, Any]:
    """Write one tar; returns its path's name, count, sha256 and bytes.

    Time, owner and mode are fixed, so equal samples make equal bytes.
    """
    buffer = io.BytesIO()
    count = 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            record = json.dumps(sample.record, ensure_ascii=False, separators=(",", ":"))
            for ending, data in (
                ("png", sample.png),
                ("txt", sample.text.encode()),
                ("json", record.encode()),
            ):
                member = tarfile.TarInfo(f"{sample.key}.{ending}")
                member.size, member.mode, member.mtime = len(data), 0o644, 0
                tar.addfile(member, io.BytesIO(data))
            count += 1
    content = buffer.getvalue()
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return {"path": path.name, "count": count, "sha256": digest, "bytes": len(content)}


def corpus_hash(shards: Sequence[dict[str, Any]]) -> str:
    """sha256 over the shards' sha256s in order: the name of a corpus in every record."""
    return hashlib.sha256("\n".join(shard["sha256"] for shard in shards).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file, read a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pngs(path: Path) -> list[tuple[str, bytes]]:
    """Key and PNG bytes of every pair of a shard, in order."""
    with tarfile.open(path) as tar:
        members = [member for member in tar if member.name.endswith(".png")]
        files = [tar.extractfile(member) for member in members]
        return [
            (member.name.removesuffix(".png"), file.read())
            for member, file in zip(members, files)
            if file
        ]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a built corpus; raises InputError if there is none or it is damaged."""
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no corpus in {folder}: run make corpus") from None
    except ValueError:
        raise InputError(f"damaged manifest {path}: run make corpus again") from None
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path} has an unknown schema_version: run make corpus again")
    return manifest


def check_shards(folder: Path, manifest: dict[str, Any], *, hashes: bool) -> Iterator[str]:
    """What is wrong with the shards on disk: missing, of wrong size, or (slower) of wrong hash."""
    for shard in manifest["shards"]:
        path = folder / shard["path"]
        if not path.exists():
            yield f"missing shard {path}"
        elif path.stat().st_size != shard["bytes"]:
            yield f"damaged shard {path}: {path.stat().st_size} bytes, not {shard['bytes']}"
        elif hashes and file_sha256(path) != shard["sha256"]:
            yield f"damaged shard {path}: its sha256 differs from the manifest's"


def verify(folder: Path) -> dict[str, Any]:
    """Check every shard against the manifest, and return that; InputError at the first fault."""
    manifest = read_manifest(folder)
    for fault in check_shards(folder, manifest, hashes=True):
        raise InputError(f"{fault}; run make corpus again")
    return manifest
