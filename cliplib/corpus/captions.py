"""Captions from an icon's name, style, category and tags; and the thesaurus the tags come from."""

import json
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cliplib.corpus.archive import Icon, category_words
from cliplib.corpus.names import read_names

MAX_WORDS = 12  # about 16 tokens
MAX_TAGS = 4
TAG = re.compile(r"[a-z][a-z' -]*")


@dataclass(frozen=True)
class Thesaurus:
    """What people who describe icons also call a concept.

    `tags` are loosely related words ("milk": dairy, bottle). `synonyms` are other words for the
    same, both ways: declared aliases, and concepts that one source tags with each other.
    """

    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    synonyms: Mapping[str, frozenset[str]] = field(default_factory=dict)


def caption(icon: Icon) -> str:
    """The plain caption: the concept and what else is seen.

    >>> caption(Icon("ph", "rocket-launch-duotone", "rocket launch", "duotone", ""))
    'rocket launch, duotone'
    """
    return ", ".join(filter(None, (icon.concept, icon.style, icon.tone)))


def captions(icon: Icon, tags: tuple[str, ...] = ()) -> list[str]:
    """All captions of an icon, distinct, by a fixed set of patterns; the bare concept comes first.

    >>> captions(Icon("s", "owl-bold", "owl", "bold", "", ("Animals",)), ("bird", "night"))
    ['owl', 'owl, bold', 'an icon of an owl', 'animals: owl', 'owl; bird, night']
    """
    name = icon.concept
    article = "an" if name[:1] in "aeiou" else "a"
    found = [f"an icon of {article} {name}"]
    found += [f"{category_words(category)}: {name}" for category in icon.categories[:1]]
    for first in range(0, len(tags), 2):
        found.append(f"{name}; {', '.join(tags[first : first + 2])}")
    short = [text for text in found if len(text.split()) <= MAX_WORDS]
    return list(dict.fromkeys([name, caption(icon), *short]))


def choose_tags(concept: str, thesaurus: Thesaurus) -> tuple[str, ...]:
    """The first few tags of a concept that add a word to it."""
    own = set(concept.split())
    tags = (tag for tag in thesaurus.tags.get(concept, ()) if not set(tag.split()) <= own)
    return tuple(tags)[:MAX_TAGS]


def class_synonyms(classes: list[str], thesaurus: Thesaurus) -> dict[int, list[int]]:
    """For every class that has some: the classes that are other words for it, as indices."""
    index = {name: i for i, name in enumerate(classes)}
    found = {}
    for name, i in index.items():
        if others := sorted(index[o] for o in thesaurus.synonyms.get(name, ()) if o in index):
            found[i] = others
    return found


def read_thesaurus(sources: Iterable[tuple[str, Path, str]]) -> Thesaurus:
    """Build the thesaurus from text packages: (package, archive, member to read)."""
    tags: dict[str, dict[str, None]] = {}  # dictionaries as ordered sets
    synonyms: dict[str, set[str]] = {}
    for package, archive, member in sources:
        with tarfile.open(archive) as tar:
            file = tar.extractfile(member)
            assert file is not None, member
            entries = list(_concepts(list(_READERS[package](json.load(file)))))
        own: dict[str, dict[str, None]] = {}
        for name, words, _ in entries:
            own.setdefault(name, {}).update(dict.fromkeys(filter(_clean, words)))
        for name, mine in own.items():
            tags.setdefault(name, {}).update(mine)
        pairs = {(name, other) for name, _, others in entries for other in others}
        pairs |= {(name, tag) for name in own for tag in own[name] if name in own.get(tag, ())}
        for name, other in pairs:
            if name != other:
                synonyms.setdefault(name, set()).add(other)
                synonyms.setdefault(other, set()).add(name)
    return Thesaurus(
        {name: tuple(words) for name, words in tags.items() if words},
        {name: frozenset(others) for name, others in synonyms.items()},
    )


Entry = tuple[str, list[str], list[str]]  # name, tags, aliases, as the package writes them


def _concepts(entries: list[Entry]) -> Iterable[tuple[str, list[str], set[str]]]:
    """Entries with names and aliases as concepts (style words stripped by the package's habit)."""
    names = {name for name, _, _ in entries} | {other for _, _, more in entries for other in more}
    read = read_names(sorted(names))
    for name, own_tags, own_aliases in entries:
        lowered = [tag.lower().strip() for tag in own_tags]
        yield read[name].concept, lowered, {read[other].concept for other in own_aliases}


def _clean(tag: str) -> bool:
    """Whether a tag is one or two plain words."""
    return bool(TAG.fullmatch(tag)) and len(tag.split()) <= 2


def _tabler(data: dict[str, Any]) -> Iterable[Entry]:
    return ((name, [str(tag) for tag in icon["tags"]], []) for name, icon in data.items())


def _lucide(data: dict[str, list[str]]) -> Iterable[Entry]:
    return ((name, tags, []) for name, tags in data.items())


def _font_awesome(data: dict[str, Any]) -> Iterable[Entry]:
    for name, icon in data.items():
        if "brands" in str(icon.get("familyStylesByLicense")):
            continue
        yield name, icon["search"]["terms"], icon.get("aliases", {}).get("names", [])


def _mdi(data: list[dict[str, Any]]) -> Iterable[Entry]:
    return ((icon["name"], [], icon["aliases"]) for icon in data if not icon["deprecated"])


def _emojibase(data: list[dict[str, Any]]) -> Iterable[Entry]:
    for emoji in data:
        name = re.sub(r"[^a-z0-9]+", "-", emoji["label"].lower()).strip("-")
        yield name, emoji.get("tags", []), []


_READERS: dict[str, Callable[[Any], Iterable[Entry]]] = {
    "@tabler/icons": _tabler,
    "lucide-static": _lucide,
    "@fortawesome/fontawesome-free": _font_awesome,
    "@mdi/svg": _mdi,
    "emojibase-data": _emojibase,
}
