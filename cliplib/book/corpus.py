"""What the book shows of a corpus: a small committed summary, and pictures where it is built.

The shards are never re-distributed, so pictures come only from a corpus built on this machine, each
with its set, author and licence beside it.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

SUMMARY_FIELDS = (
    "schema_version",
    "source",
    "renderer",
    "corpus_hash",
    "splits",
    "data_scales",
    "coverage",
    "counts",
)
SET_FIELDS = (
    "prefix",
    "name",
    "author",
    "author_url",
    "licence",
    "licence_url",
    "corpus",
    "role",
    "pairs",
)
# The filter's steps in words; a step that is not here keeps the manifest's own name
STEPS = {
    "sets_listed": "icon sets in the package",
    "sets_entered": "icon sets used",
    "icons_listed": "icons in the package",
    "refused_licence": "refused: licence of the set not permissive, or unknown",
    "refused_logos_and_programming": "refused: sets of logos and programming languages",
    "refused_brand_sets": "refused: sets of brands",
    "refused_doubtful": "refused: sets of doubtful authorship",
    "refused_animated": "refused: animated",
    "drawn": "drawn",
    "not_drawable": "dropped: could not be drawn",
    "blank": "dropped: blank",
    "equal_drawings": "dropped: the same pixels as another",
    "brand_names": "dropped: name of a brand",
    "pairs": "pairs left",
    "test_pairs": "of these held out, in whole families",
    "near_test": "dropped: nearly the drawing of a test picture",
    "pool_pairs": "pairs left to train and to validate",
    "pool_groups": "groups that these pairs form",
    "val_groups": "groups held out to validate",
    "val_pairs": "pairs to validate",
    "val_pairs_concept_in_train": "of these with a concept that other sets train on",
    "train_groups": "groups to train on, one style each",
    "variants": "their other styles and sizes, set aside",
}
CORPORA = {"colour": "emoji and colour sets", "mono": "monochrome interface sets"}
Manifest = Mapping[str, Any]


def corpus_summary(manifest: Manifest) -> dict[str, Any]:
    """The part of a corpus manifest that chapters show, without shards, pairs and class names.

    Tasks keep the number of their classes in place of the list. The result is a few tens of kB
    and is committed, so that the book says what the corpus is where it has not been built.
    """
    summary = {key: manifest[key] for key in SUMMARY_FIELDS}
    sets = [{key: one[key] for key in SET_FIELDS} for one in manifest["sets"]]
    tasks = {
        name: {"classes": len(t["classes"]), "items": t["items"], "chance": t["chance"]}
        for name, t in manifest["tasks"].items()
    }
    return {**summary, "sets": sets, "tasks": tasks}


def read_summary(book: Path, data: Path) -> dict[str, Any] | None:
    """Summary of the corpus built at `data`, else the committed one, else None."""
    if (data / "manifest.json").exists():
        return corpus_summary(json.loads((data / "manifest.json").read_text()))
    committed = book / "data/corpus.json"
    return json.loads(committed.read_text()) if committed.exists() else None


def counts(summary: Manifest) -> pd.DataFrame:
    """The filter's steps in the manifest's order: step (in words), count."""
    steps = summary["counts"]
    words = [STEPS.get(step, step.replace("_", " ")) for step in steps]
    return pd.DataFrame({"step": words, "count": [f"{n:,}" for n in steps.values()]})


def tasks(summary: Manifest) -> pd.DataFrame:
    """One row a task: classes, items, chance, and the share of class names in training by scale."""
    table = pd.DataFrame.from_dict(summary["tasks"], orient="index")
    seen = pd.DataFrame.from_dict(summary["coverage"], orient="index")
    seen = seen.map(lambda share: f"{share:.0%}").add_prefix("seen at ")
    return table.join(seen).rename_axis("task").reset_index()


def attribution(summary: Manifest) -> pd.DataFrame:
    """One row a set: name, author, licence, pairs, corpus and role, ordered by set name."""
    sets = pd.DataFrame(summary["sets"], columns=list(SET_FIELDS))
    return sets.sort_values("name", key=lambda name: name.str.lower(), ignore_index=True)


def attribution_html(summary: Manifest) -> str:
    """The attribution table with authors and licences as links."""
    rows = (
        f"<tr><td>{_text(s['name'])} <code>{_text(s['prefix'])}</code></td>"
        f"<td>{_link(s['author'], s['author_url'])}</td>"
        f"<td>{_link(s['licence'], s['licence_url'])}</td>"
        f"<td>{_text(s['role'])}</td><td>{int(s['pairs']):,}</td></tr>"
        for s in attribution(summary).to_dict("records")
    )
    head = "<th>Set</th><th>Author</th><th>Licence</th><th>Used to</th><th>Pairs</th>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide-table" tabindex="0">{table}</div>'


def _text(value: object) -> str:
    return html.escape("" if value is None or value != value else str(value))  # NaN: not known


def _link(label: object, address: object) -> str:
    """`label` as a link if `address` is one for the web; other schemes are not for a page."""
    target = _text(address)
    if not target.startswith(("https://", "http://")):
        return _text(label)
    return f'<a href="{target}">{_text(label)}</a>'


# ----------------------------------------------------------------------------- contact sheet


@dataclass(frozen=True)
class Tile:
    """One picture of the contact sheet and whom it belongs to. picture: PNG bytes."""

    picture: bytes
    name: str
    set: str
    author: str
    licence: str


def contact_sheet(data: Path, per_row: int = 6) -> dict[str, list[Tile]]:
    """Tiles of a corpus built at `data`: each corpus of the training data, then each held-out set.

    Training tiles come from different sets each, in the order of the first shard; held-out tiles
    are spread evenly over their shard. Empty where no corpus is built.
    """
    if not (data / "manifest.json").exists():
        return {}
    manifest = json.loads((data / "manifest.json").read_text())
    sets = {s["prefix"]: s for s in manifest["sets"]}
    shards: dict[str, list[dict[str, Any]]] = {}
    for shard in manifest["shards"]:
        shards.setdefault(shard["split"], []).append(shard)
    rows = {}
    for corpus in CORPORA:
        train = read_samples(data / shards["train"][0]["path"])
        chosen = _one_a_set((s for s in train if s["corpus"] == corpus), per_row)
        rows[f"Training, {CORPORA[corpus]}"] = [_tile(s, sets) for s in chosen]
    for split in sorted(s for s in shards if s.startswith("test-")):
        step = max(1, shards[split][0]["count"] // per_row)
        spread = itertools.islice(
            read_samples(data / shards[split][0]["path"]), step // 2, None, step
        )
        tiles = [_tile(s, sets) for s in itertools.islice(spread, per_row)]
        rows[f"Held out: {sets[split.removeprefix('test-')]['name']}"] = tiles
    return rows


def read_samples(shard: Path) -> Iterator[dict[str, Any]]:
    """The samples of one shard in order: the fields of its JSON, and ``png`` bytes."""
    parts: dict[str, bytes] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            extension = member.name.split(".", 1)[1]
            file = tar.extractfile(member)
            parts[extension] = file.read() if file else b""
            if {"png", "json"} <= parts.keys():
                yield {**json.loads(parts["json"]), "png": parts["png"]}
                parts = {}


def _one_a_set(samples: Iterable[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    chosen: dict[str, dict[str, Any]] = {}
    for sample in samples:
        chosen.setdefault(sample["set"], sample)
        if len(chosen) == count:
            break
    return list(chosen.values())


def _tile(sample: dict[str, Any], sets: dict[str, Any]) -> Tile:
    of = sets[sample["set"]]
    return Tile(sample["png"], sample["name"], of["name"], of["author"], of["licence"])


def tiles_html(tiles: Iterable[Tile]) -> str:
    """Tiles as a grid of figures: picture, name, set, author and licence, all escaped."""
    cells = (
        f'<figure class="tile"><img width="64" height="64" alt="icon named {_text(t.name)}" '
        f'src="data:image/png;base64,{base64.b64encode(t.picture).decode()}">'
        f"<figcaption><b>{_text(t.name)}</b>{_text(t.set)}, {_text(t.author)}, "
        f"{_text(t.licence)}</figcaption></figure>"
        for t in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'
