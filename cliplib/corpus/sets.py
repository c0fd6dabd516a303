"""Which icon sets enter, in which role: licences, exclusions, families, brand names.

The lists are tables beside this file (licences.csv, excluded.csv, brands.csv, families.csv).
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class IconSet:
    """One icon set that enters the corpus; `corpus` is colour or mono, `role` train or test."""

    prefix: str
    name: str
    author: str
    author_url: str
    licence: str  # SPDX
    licence_title: str
    licence_url: str
    version: str
    category: str
    family: str
    corpus: str
    role: str
    total: int  # icons it says it has


@cache
def table(name: str) -> list[dict[str, str]]:
    """The rows of one of the tables beside this module."""
    with (TABLES / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def select_sets(collections: Mapping[str, Any]) -> tuple[dict[str, IconSet], dict[str, str]]:
    """The sets that enter, by prefix in alphabetical order, and the reason for each that does not.

    `collections` is the metadata of all sets (prefix -> information), as the icon data ships it.
    """
    chosen, refused = {}, {}
    for prefix in sorted(collections):
        information = collections[prefix]
        if reason := _refusal(prefix, information):
            refused[prefix] = reason
        else:
            chosen[prefix] = _icon_set(prefix, information)
    return chosen, refused


def _refusal(prefix: str, information: Mapping[str, Any]) -> str:
    """Why a set stays out: "licence", a step of excluded.csv, or "" if it enters."""
    if information["license"].get("spdx") not in {row["spdx"] for row in table("licences.csv")}:
        return "licence"
    values = {"category": information.get("category"), "set": prefix}
    for row in table("excluded.csv"):
        if values[row["kind"]] == row["value"]:
            return row["step"]
    return ""


def _icon_set(prefix: str, information: Mapping[str, Any]) -> IconSet:
    families = {row["prefix"]: row for row in table("families.csv")}
    family = families.get(prefix, {"family": prefix, "role": "train"})
    licence, author = information["license"], information.get("author", {})
    return IconSet(
        prefix=prefix,
        name=information["name"],
        author=author.get("name", ""),
        author_url=author.get("url", ""),
        licence=licence["spdx"],
        licence_title=licence.get("title", licence["spdx"]),
        licence_url=licence.get("url", ""),
        version=information.get("version", ""),
        category=information.get("category", ""),
        family=family["family"],
        corpus="colour" if information.get("palette") else "mono",
        role=family["role"],
        total=information.get("total", 0),
    )


def is_brand(
    prefix: str, name: str, categories: tuple[str, ...], listed: Mapping[str, frozenset[str]]
) -> bool:
    """Whether an icon shows a brand: by its category, a word in its name, or a brand set's list.

    `listed` holds the names of the brand sets that brands.csv refers to.

    >>> is_brand("tabler", "brand-adobe", (), {}), is_brand("tabler", "abacus", (), {})
    (True, False)
    """
    words = name.split("-")
    for row in table("brands.csv"):
        if row["set"] not in ("*", prefix):
            continue
        value = row["value"]
        if (
            (row["kind"] == "category" and value in categories)
            or (row["kind"] == "prefix" and words[0] == value and len(words) > 1)
            or (row["kind"] == "word" and value in words)
            or (row["kind"] == "listed" and name in listed.get(value, ()))
        ):
            return True
    return False


def brand_lists() -> set[str]:
    """The sets whose names brands.csv refers to."""
    return {row["value"] for row in table("brands.csv") if row["kind"] == "listed"}
