"""Decide what the corpus holds: draw, filter, hold out, split. Nothing is written here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cliplib.corpus import split, tasks
from cliplib.corpus.archive import Icon, read_collections, read_icons, read_sets, visible
from cliplib.corpus.captions import Thesaurus
from cliplib.corpus.neardup import Features, decontaminate, nearest
from cliplib.corpus.progress import Progress, say
from cliplib.corpus.render import Drawn, draw_all, svg
from cliplib.corpus.sets import IconSet, brand_lists, is_brand, select_sets

Counts = dict[str, int]  # what each step left out or kept, in the order of the steps


@dataclass(frozen=True)
class Settings:
    """The numbers of the corpus. The defaults are the study's; tests use smaller ones."""

    near_duplicate: float = 0.95
    validation_pairs: int = 3000
    retrieval_pairs: int = 1000
    shard_pairs: int = 5000
    data_scales: Mapping[str, int] = field(
        default_factory=lambda: {"2k": 2000, "8k": 8000, "32k": 32000}
    )


@dataclass(frozen=True)
class Pictures:
    """The pairs that passed the filters, held-out sets first; rows of the three belong together."""

    icons: list[Icon]
    pngs: list[bytes]
    features: Features


@dataclass(frozen=True)
class Plan:
    """Everything decided about the corpus. Integers are rows of `pictures`."""

    sets: dict[str, IconSet]
    pictures: Pictures
    thesaurus: Thesaurus
    splits: dict[str, list[int]]  # in shard order
    similarity: dict[int, float]  # to the nearest training picture, of held-out pairs
    tasks: dict[str, dict[str, Any]]
    retrieval: list[str]
    scales: dict[str, int]
    coverage: dict[str, dict[str, float]]
    counts: Counts


def make_plan(archive: Path, thesaurus: Thesaurus, settings: Settings, pairs: int | None) -> Plan:
    """Decide what the corpus holds; `pairs` keeps only the first so many training groups."""
    counts: Counts = {}
    sets = choose_sets(archive, counts)
    pictures = draw_pictures(archive, sets, counts)
    icons = pictures.icons
    held, pool, similarity = hold_out(pictures, sets, settings, counts)
    splits, near_validation = split_pool(pictures, sets, pool, settings, counts)
    refresh_similarity(similarity, pictures.features, splits)
    similarity |= near_validation
    for i in held:
        splits.setdefault(f"test-{icons[i].set}", []).append(i)
    test = [icons[i] for i in held]
    made = tasks.make_tasks(test, [icons[i] for i in splits["train"]], thesaurus)
    families = {prefix: icon_set.family for prefix, icon_set in sets.items()}
    retrieval = tasks.choose_retrieval(test, families, settings.retrieval_pairs)
    scales = limit(splits, icons, settings.data_scales, pairs)
    named = {name: task["classes"] for name, task in made.items()}
    named["retrieval"] = [icon.concept for icon in test if icon.key in set(retrieval)]
    trained = [icons[i].concept for i in splits["train"]]
    return Plan(
        sets=sets,
        pictures=pictures,
        thesaurus=thesaurus,
        splits=splits,
        similarity=similarity,
        tasks=made,
        retrieval=retrieval,
        scales=scales,
        coverage=tasks.coverage(named, trained, scales),
        counts=counts,
    )


def choose_sets(archive: Path, counts: Counts) -> dict[str, IconSet]:
    """The sets that enter; the icons of those that do not are counted by reason."""
    collections = read_collections(archive)
    sets, refused = select_sets(collections)
    counts["sets_listed"] = len(collections)
    counts["sets_entered"] = len(sets)
    counts["icons_listed"] = sum(one.get("total", 0) for one in collections.values())
    for step in dict.fromkeys(refused.values()):
        prefixes = [prefix for prefix, reason in refused.items() if reason == step]
        counts[f"refused_{step}"] = sum(collections[prefix].get("total", 0) for prefix in prefixes)
    return sets


def draw_pictures(archive: Path, sets: Mapping[str, IconSet], counts: Counts) -> Pictures:
    """Draw every icon of the sets; leaves out failures, blanks, equal drawings and brand names."""
    icons, drawn, listed = _draw(archive, sets)
    order = sorted(
        (i for i, one in enumerate(drawn) if one.png and not one.blank),
        # "test" before "train": of two equal drawings the held-out one stays
        key=lambda i: (sets[icons[i].set].role, icons[i].set, icons[i].name),
    )
    distinct = [order[j] for j in split.first_of_each([drawn[i].digest for i in order])]
    kept = [
        i
        for i in distinct
        if not is_brand(icons[i].set, icons[i].name, icons[i].categories, listed)
    ]
    counts["withdrawn"] = sum(one.total for one in sets.values()) - len(icons)
    counts["drawn"] = len(icons)
    counts["not_drawable"] = sum(not one.png for one in drawn)
    counts["blank"] = sum(one.blank for one in drawn if one.png)
    counts["equal_drawings"] = len(order) - len(distinct)
    counts["brand_names"] = len(distinct) - len(kept)
    counts["pairs"] = len(kept)
    return Pictures(
        icons=[icons[i] for i in kept],
        pngs=[drawn[i].png for i in kept],
        features=np.stack([drawn[i].feature for i in kept]),
    )


def _draw(
    archive: Path, sets: Mapping[str, IconSet]
) -> tuple[list[Icon], list[Drawn], dict[str, frozenset[str]]]:
    """All icons of the sets in the archive's order, drawn; and the names of brand sets."""
    icons: list[Icon] = []
    drawn: list[Drawn] = []
    listed: dict[str, frozenset[str]] = {}

    def texts() -> Iterator[str]:
        for prefix, record in read_sets(archive, set(sets) | brand_lists()):
            if prefix in brand_lists():
                listed[prefix] = frozenset(visible(record))
            if prefix in sets:
                for icon in read_icons(sets[prefix], record):
                    icons.append(icon)
                    yield svg(record["icons"][icon.name], record)

    progress = Progress("drawing", sum(one.total for one in sets.values()), "icons")
    for chunk in draw_all(texts()):
        drawn += chunk
        progress.add(len(chunk))
    return icons, drawn, listed


def hold_out(
    pictures: Pictures, sets: Mapping[str, IconSet], settings: Settings, counts: Counts
) -> tuple[list[int], list[int], dict[int, float]]:
    """Held-out pairs, the training pool without their near-duplicates, and how near it comes."""
    roles = [sets[icon.set].role for icon in pictures.icons]
    held = [i for i, role in enumerate(roles) if role == "test"]
    others = [i for i, role in enumerate(roles) if role == "train"]
    progress = Progress("near-duplicates of test pictures", len(others), "training pictures")
    near, cosines = decontaminate(
        pictures.features[others], pictures.features[held], settings.near_duplicate, progress.add
    )
    pool = [i for i, close in zip(others, near) if not close]
    counts["test_pairs"] = len(held)
    counts["near_test"] = int(near.sum())
    counts["pool_pairs"] = len(pool)
    return held, pool, dict(zip(held, cosines.tolist()))


def split_pool(
    pictures: Pictures,
    sets: Mapping[str, IconSet],
    pool: Sequence[int],
    settings: Settings,
    counts: Counts,
) -> tuple[dict[str, list[int]], dict[int, float]]:
    """Train (one style a group, in the permutation), variants and validation.

    Also returns the similarity of every validation picture to its nearest training picture.
    """
    icons = pictures.icons
    groups = split.by_group(icons, pool)
    validation, similarity = hold_out_validation(groups, pictures.features, settings)
    labels = {
        group: sets[icons[members[0]].set].corpus
        for group, members in groups.items()
        if group not in validation
    }
    train = [split.choose_style(icons, groups[group]) for group in split.order_groups(labels)]
    variants = [i for t in train for i in groups[icons[t].group] if i != t]
    val = sorted(similarity, key=lambda i: split.lot("shuffle", icons[i].key))
    known = {icons[i].concept for i in train}
    counts["pool_groups"] = len(groups)
    counts["val_groups"] = len(validation)
    counts["val_pairs"] = len(val)
    counts["val_pairs_concept_in_train"] = sum(icons[i].concept in known for i in val)
    counts["train_groups"] = len(train)
    counts["variants"] = len(variants)
    return {"train": train, "variants": variants, "val": val}, similarity


def refresh_similarity(
    similarity: dict[int, float], features: Features, splits: Mapping[str, Sequence[int]]
) -> None:
    """Correct, in place, the test pictures whose nearest picture went to validation."""
    held = list(similarity)
    to_validation = nearest(features[splits["val"]], features[held])
    moved = [i for i, cosine in zip(held, to_validation) if cosine >= similarity[i]]
    training = features[[*splits["train"], *splits["variants"]]]
    similarity.update(zip(moved, nearest(training, features[moved]).tolist()))


def hold_out_validation(
    groups: Mapping[str, Sequence[int]], features: Features, settings: Settings
) -> tuple[set[str], dict[int, float]]:
    """Choose validation groups; returns them and their pictures' similarity to training."""
    say("validation: looking for groups without near-duplicates in training")
    validation = split.choose_validation(
        groups, features, settings.validation_pairs, settings.near_duplicate
    )
    held = [i for group in sorted(validation) for i in groups[group]]
    rest = [i for group in groups if group not in validation for i in groups[group]]
    return validation, dict(zip(held, nearest(features[rest], features[held]).tolist()))


def limit(
    splits: dict[str, list[int]],
    icons: Sequence[Icon],
    data_scales: Mapping[str, int],
    pairs: int | None,
) -> dict[str, int]:
    """Keep the first `pairs` training groups (all if None); returns the data scales that remain."""
    splits["train"] = splits["train"][:pairs]
    kept = {icons[i].group for i in splits["train"]}
    splits["variants"] = [i for i in splits["variants"] if icons[i].group in kept]
    total = len(splits["train"])
    return {name: size for name, size in data_scales.items() if size < total} | {"all": total}
