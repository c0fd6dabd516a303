"""Write a planned corpus: shards, table of pairs, attribution, and last the manifest."""

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cliplib.corpus import shards, tasks
from cliplib.corpus.archive import Icon
from cliplib.corpus.captions import caption, captions, choose_tags
from cliplib.corpus.plan import Plan
from cliplib.corpus.progress import Progress


def write(
    folder: Path, plan: Plan, shard_pairs: int, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the corpus into an empty folder and return its manifest.

    `provenance` opens the manifest: where the icons come from and what drew them.
    """
    written, rows = write_shards(folder, plan, shard_pairs)
    sets = set_records(plan)
    write_attribution(folder / "ATTRIBUTION.csv", sets)
    manifest = {
        "schema_version": shards.SCHEMA_VERSION,
        **provenance,
        "corpus_hash": shards.corpus_hash(written),
        "shards": written,
        "splits": {name: len(members) for name, members in plan.splits.items()},
        "data_scales": plan.scales,
        "counts": plan.counts,
        "coverage": plan.coverage,
        "sets": sets,
        "tasks": plan.tasks,
        "retrieval": plan.retrieval,
        "pairs": write_pairs(folder / "pairs.csv.gz", rows),
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def write_shards(
    folder: Path, plan: Plan, shard_pairs: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write every split's shards; returns their records, and a row for every pair in order."""
    icons, pngs = plan.pictures.icons, plan.pictures.pngs
    classes = tasks.class_index(plan.tasks)
    rank = {i: order for order, i in enumerate(plan.splits["train"])}
    written: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    progress = Progress("writing", sum(map(len, plan.splits.values())), "pairs")
    for name, members in plan.splits.items():
        for number, start in enumerate(range(0, len(members), shard_pairs)):
            part = members[start : start + shard_pairs]
            path = folder / f"{name}-{number:06d}.tar"
            records = [pair_record(plan, icons[i], rank.get(i, -1)) for i in part]
            samples = (
                shards.Sample(icons[i].key, pngs[i], caption(icons[i]), record)
                for i, record in zip(part, records)
            )
            written.append(shards.write_shard(path, samples) | {"split": name})
            for i, record in zip(part, records):
                place = {"key": icons[i].key, "shard": path.name, "split": name}
                rows.append(place | record | _test_columns(plan, i, classes))
            progress.add(len(part))
    return written, rows


def pair_record(plan: Plan, icon: Icon, order: int) -> dict[str, Any]:
    """The .json of one pair in its shard."""
    icon_set = plan.sets[icon.set]
    tags = choose_tags(icon.concept, plan.thesaurus)
    return {
        "set": icon.set,
        "icon": icon.name,
        "name": icon.name.replace("-", " "),
        "concept": icon.concept,
        "style": ", ".join(filter(None, (icon.style, icon.tone))),
        "category": icon.categories[0] if icon.categories else "",
        "tags": list(tags),
        "captions": captions(icon, tags),
        "licence": icon_set.licence,
        "corpus": icon_set.corpus,
        "group": icon.group,
        "order": order,
    }


def _test_columns(plan: Plan, index: int, classes: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """What the table of pairs says beyond the .json: class, similarity to training."""
    icon = plan.pictures.icons[index]
    similarity = plan.similarity.get(index)
    return {
        "class": -1 if icon.tone else classes.get((icon.set, icon.concept), -1),
        "similarity": "" if similarity is None else f"{similarity:.4f}",
    }


PAIR_COLUMNS = (
    *("key", "shard", "split", "set", "icon", "licence", "corpus", "group"),
    *("order", "style", "concept", "class", "similarity"),
)


def write_pairs(path: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the table of pairs, one row a pair in shard order, gzipped without a time stamp."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, PAIR_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.flush()
        text.detach()
    return {"path": path.name, "sha256": shards.file_sha256(path)}


def set_records(plan: Plan) -> list[dict[str, Any]]:
    """The manifest's list of sets, with the number of pairs that are written of each."""
    icons = plan.pictures.icons
    counts = dict.fromkeys(plan.sets, 0)
    for members in plan.splits.values():
        for index in members:
            counts[icons[index].set] += 1
    return [
        {**asdict(icon_set), "pairs": counts[prefix]}
        for prefix, icon_set in plan.sets.items()
        if counts[prefix]
    ]


ATTRIBUTION_COLUMNS = (
    *("prefix", "name", "author", "author_url", "licence", "licence_title", "licence_url"),
    *("version", "pairs", "changes"),
)


def write_attribution(path: Path, sets: Sequence[Mapping[str, Any]]) -> None:
    """Write who made what under which licence, and what was changed, one row a set."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, ATTRIBUTION_COLUMNS, extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows({**one, "changes": "drawn at 32x32 pixels"} for one in sets)
