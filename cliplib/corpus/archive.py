"""Read the icon archive: one JSON a set, straight out of the .tgz."""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliplib.corpus.names import read_names
from cliplib.corpus.sets import IconSet

MAX_KEY = 80  # characters: tar's plain header holds names of 100


@dataclass(frozen=True, slots=True)
class Icon:
    """One icon: where it comes from and what its name says."""

    set: str
    name: str  # as in the archive: "home-outline"
    concept: str
    style: str
    tone: str
    categories: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Unique in the corpus, and free of dots (webdataset splits a file name at the first)."""
        key = f"{self.set}__{self.name.replace('.', '-')}"
        if len(key) <= MAX_KEY:
            return key
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        return f"{key[: MAX_KEY - 9]}-{digest}"

    @property
    def group(self) -> str:
        """One concept in one set: its style and size variants together."""
        return f"{self.set}:{self.concept}"


def read_collections(archive: Path) -> dict[str, Any]:
    """The metadata of all sets: prefix -> name, author, licence, category, palette."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name == "package/collections.json":
                return _load(tar, member)
    raise ValueError(f"{archive} holds no collections.json")


def read_sets(archive: Path, prefixes: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of the named sets, in the order of the archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            prefix = member.name.removeprefix("package/json/").removesuffix(".json")
            if member.name.startswith("package/json/") and prefix in prefixes:
                yield prefix, _load(tar, member)


def visible(record: Mapping[str, Any]) -> list[str]:
    """The names of a set's icons that are not hidden (hidden means withdrawn upstream)."""
    return [name for name, icon in record["icons"].items() if not icon.get("hidden")]


def read_icons(icon_set: IconSet, record: Mapping[str, Any]) -> list[Icon]:
    """The visible icons of a set, with their names read."""
    names = visible(record)
    emoji = icon_set.category == "Emoji" or icon_set.family == "fluent-emoji"
    read = read_names(names, record.get("prefixes"), record.get("suffixes"), emoji=emoji)
    categories: dict[str, list[str]] = {}
    for category, members in (record.get("categories") or {}).items():
        for name in members:
            categories.setdefault(name, []).append(category)
    return [
        Icon(
            set=icon_set.prefix,
            name=name,
            concept=read[name].concept,
            style=read[name].style,
            tone=read[name].tone,
            categories=tuple(categories.get(name, ())),
        )
        for name in names
    ]


def category_words(category: str) -> str:
    """A category as words.

    >>> category_words("MapTravel"), category_words("Food & Drink")
    ('map travel', 'food and drink')
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category).replace("&", " and ")
    return " ".join(re.sub(r"[^a-z0-9]+", " ", spaced.lower()).split())


def _load(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    file = tar.extractfile(member)
    assert file is not None, member.name
    loaded: dict[str, Any] = json.load(file)
    return loaded
