"""The tasks of the icon corpus: names of held-out families, validation, retrieval, probes.

Class names are the concepts of the corpus, images that show one concept are one cluster, and an item's
number is its row in the corpus's table of pairs.
"""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cliplib import InputError
from cliplib.corpus.archive import category_words
from cliplib.corpus.split import lot
from cliplib.data import Corpus, load_split
from cliplib.evaluate.images import Chosen, StoredPixels
from cliplib.evaluate.tasks import Classification, Retrieval, Splits, Task
from cliplib.records import digest

HERE = Path(__file__).parent
POOL = 1000  # pairs in the retrieval and InfoNCE pools (MEASURE: fixed)
VALIDATION = "validation-names"
FEWEST_SETS = 2  # a name that fewer training sets draw is no class: no model could know it
FEWEST = {"train": 25, "val": 5, "test": 5}  # images of a class of a probe, so that 25 shots exist
FINE_SETS = 10  # a concept that as many training sets draw is a class of the fine categories


@cache
def templates(kind: str = "icons") -> tuple[str, ...]:
    """The prompt templates of the icon tasks; ``{c}`` stands for the class name."""
    return tuple(json.loads((HERE / "prompts.json").read_text())[kind])


def stored(corpus: Corpus, split: str) -> StoredPixels:
    """The images of a split of the corpus."""
    return StoredPixels(load_split(corpus, split).images, digest(corpus.hash, split))


def concept_codes(corpus: Corpus) -> np.ndarray:
    """A number per concept, for every row of the table of pairs: what intervals cluster by."""
    return corpus.pairs["concept"].factorize()[0]


# ---------------------------------------------------------------------------------------- zero-shot


def zero_shot_tasks(corpus: Corpus) -> list[Classification]:
    """The held-out families by name, then the validation task that robustness is measured against."""
    found = [held_out_task(corpus, name) for name in corpus.manifest["tasks"]]
    return [*found, validation_task(corpus)]


def held_out_task(corpus: Corpus, name: str) -> Classification:
    """A task of the corpus's manifest: drawings of one held-out set, named among its concepts.

    Raises:
        InputError: no such task; the message lists those there are.
    """
    known = corpus.manifest["tasks"]
    if name not in known:
        raise InputError(f"unknown icon task {name!r}; known: {', '.join(known)}")
    about, pairs = known[name], corpus.pairs
    rows = np.flatnonzero((pairs["split"] == about["split"]) & (pairs["class"] >= 0))
    synonyms = {int(own): others for own, others in about.get("synonyms", {}).items()}
    labels = pairs["class"].to_numpy()[rows]
    return _named(corpus, name, about["split"], about["classes"], rows, labels, synonyms)


def validation_task(corpus: Corpus) -> Classification:
    """The validation groups, named among their concepts: in distribution, and without a leak.

    Classes are the concepts that at least two training sets draw, as in the held-out tasks.
    """
    pairs = corpus.pairs
    sets = pairs[pairs["split"] == "train"].groupby("concept")["set"].nunique()
    known = pairs["concept"].map(sets).fillna(0) >= FEWEST_SETS
    rows = np.flatnonzero((pairs["split"] == "val") & known)
    names = pairs["concept"].to_numpy()[rows]
    classes, labels = np.unique(names, return_inverse=True)
    return _named(corpus, VALIDATION, "val", classes.tolist(), rows, labels, None)


def _named(
    corpus: Corpus, name: str, split: str, classes: Sequence[str], rows: np.ndarray,
    labels: np.ndarray, synonyms: Mapping[int, Sequence[int]] | None,
) -> Classification:  # fmt: skip
    return Classification(
        name=name, classes=tuple(classes), templates=templates(), images=_images(corpus, split, rows),
        labels=labels, clusters=concept_codes(corpus)[rows], items=rows, synonyms=synonyms,
        split=split.partition("-")[0],
    )  # fmt: skip


def _images(corpus: Corpus, split: str, rows: np.ndarray) -> Chosen:
    """The images at rows of the table of pairs, all of one split."""
    return Chosen(stored(corpus, split), rows - _first_row(corpus, split))


def _first_row(corpus: Corpus, split: str) -> int:
    return int((corpus.pairs["split"] == split).to_numpy().argmax())


# ---------------------------------------------------------------------------------------- retrieval


def retrieval_pool(corpus: Corpus) -> Retrieval:
    """The fixed pool of held-out pairs with distinct concepts, over all held-out families."""
    keys = corpus.pairs["key"]
    rows = np.flatnonzero(keys.isin(corpus.manifest["retrieval"]))
    if len(rows) != len(corpus.manifest["retrieval"]):
        missing = len(corpus.manifest["retrieval"]) - len(rows)
        raise InputError(f"{corpus.folder}: {missing} pairs of the retrieval pool are missing")
    return _pool(corpus, "retrieval", rows)


def validation_pool(corpus: Corpus) -> Retrieval:
    """The first :data:`POOL` validation pairs with distinct concepts: learning rates are chosen on it."""
    val = corpus.pairs[corpus.pairs["split"] == "val"].drop_duplicates("concept")
    return _pool(corpus, "validation", val.index.to_numpy()[:POOL])


def _pool(corpus: Corpus, name: str, rows: np.ndarray) -> Retrieval:
    splits = corpus.pairs["split"].to_numpy()[rows]
    pixels, captions = [], []
    for split in dict.fromkeys(splits):
        pairs = load_split(corpus, split)
        places = rows[splits == split] - _first_row(corpus, split)
        pixels.append(pairs.images[places])
        captions += [(pairs.captions[place][0],) for place in places]
    images = StoredPixels(np.concatenate(pixels), digest(corpus.hash, rows.tobytes()))
    clusters = concept_codes(corpus)[rows]
    return Retrieval(name, images, captions, clusters, rows, splits[0].partition("-")[0])


def exported_tasks(corpus: Corpus) -> list[Task]:
    """Every icon task and split, for `cliplib.evaluate.wds.write_task`."""
    probes = [part for one in probe_tasks(corpus) for part in (one.train, one.val, one.test)]
    return [*zero_shot_tasks(corpus), retrieval_pool(corpus), validation_pool(corpus), *probes]


# ---------------------------------------------------------------- categories, for probes and fine-tuning


def probe_tasks(corpus: Corpus) -> list[Splits]:
    """Coarse labels of held-out drawings, in three parts by concept: 60, 20 and 20 in a hundred.

    The drawings of one concept are all in one part, so that no probe meets a drawing again in another
    style. A class with too few images for 25 shots and a test is left out (:data:`FEWEST`).
    """
    with (HERE / "probe_tasks.csv").open(newline="") as file:
        return [_probe(corpus, **row) for row in csv.DictReader(file)]


def _probe(corpus: Corpus, task: str, sets: str, label: str) -> Splits:
    pairs, members = corpus.pairs, sets.split()
    rows = np.flatnonzero(pairs["set"].isin(members) & pairs["split"].str.startswith("test-"))
    values = _labels(corpus, rows, members, label)
    concepts = pairs["concept"].to_numpy()[rows]
    parts = np.array([part_of(concept) for concept in concepts])
    classes = _large_classes(values, parts)
    whole = np.flatnonzero(np.isin(values, classes))
    rows, parts, values = rows[whole], parts[whole], values[whole]
    task_of = {
        part: Classification(
            name=task, classes=tuple(map(_class_words, classes)),
            templates=templates("styles" if label == "style" else "icons"),
            images=_from_sets(corpus, rows[parts == part]),
            labels=np.searchsorted(classes, values[parts == part]),
            clusters=concept_codes(corpus)[rows[parts == part]], items=rows[parts == part], split=part,
        )
        for part in FEWEST
    }  # fmt: skip
    return Splits(**task_of)


def part_of(concept: str) -> str:
    """The part that a concept's drawings are in, by lot: train, val or test."""
    share = int.from_bytes(lot("probe", concept), "big") / 2**64
    return "train" if share < 0.6 else "val" if share < 0.8 else "test"


def _labels(corpus: Corpus, rows: np.ndarray, sets: Sequence[str], label: str) -> np.ndarray:
    """The label of each row, "" where there is none; a category also counts for its concept elsewhere."""
    table = corpus.pairs.iloc[rows]
    if label == "style":
        return table["style"].replace("", "regular").to_numpy().astype(str)
    category = _categories(corpus, [f"test-{one}" for one in sets])
    own = table["key"].map(category).fillna("").to_numpy().astype(str)
    by_concept = {
        concept: value for concept, value in zip(table["concept"], own) if value
    }  # one set of a family has none; the others have the same concepts
    plain = ~table["style"].str.contains("skin tone", regex=False).to_numpy()
    filled = [value or by_concept.get(name, "") for value, name in zip(own, table["concept"])]
    return np.where(plain, np.array(filled, dtype=str), "")


def _categories(corpus: Corpus, splits: Sequence[str]) -> dict[str, str]:
    """Category by key, from the shards' own records."""
    found = {}
    for row in (row for split in splits for row in corpus.shards(split)):
        with tarfile.open(corpus.folder / row["path"]) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    record: dict[str, Any] = json.load(tar.extractfile(member))  # type: ignore[arg-type]
                    found[member.name.removesuffix(".json")] = record["category"]
    return found


def _large_classes(values: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The labels with enough images in every part, sorted."""
    return np.array(
        [
            value
            for value in np.unique(values)
            if value
            and all(((values == value) & (parts == p)).sum() >= n for p, n in FEWEST.items())
        ]
    )


def _class_words(value: str) -> str:
    return category_words(value)


def _from_sets(corpus: Corpus, rows: np.ndarray) -> StoredPixels:
    """Copies of the images at rows of several splits, in the order of the rows."""
    splits = corpus.pairs["split"].to_numpy()[rows]
    pixels = np.empty((len(rows), *load_split(corpus, splits[0]).images.shape[1:]), np.uint8)
    for split in np.unique(splits):
        inside = splits == split
        pixels[inside] = load_split(corpus, split).images[rows[inside] - _first_row(corpus, split)]
    return StoredPixels(pixels, digest(corpus.hash, rows.tobytes()))


def fine_categories(corpus: Corpus) -> Splits:
    """Many fine classes of training pictures: the concepts that at least ten training sets draw.

    An intermediate task for fine-tuning, as ImageNet-12k is in the paper. Its parts are by group.
    """
    pairs = corpus.pairs
    train = pairs[pairs["split"] == "train"]
    sets = train.groupby("concept")["set"].nunique()
    rows = train.index.to_numpy()[train["concept"].isin(sets.index[sets >= FINE_SETS]).to_numpy()]
    names = pairs["concept"].to_numpy()[rows]
    classes, labels = np.unique(names, return_inverse=True)
    order = np.array([lot("fine", key) for key in pairs["key"].to_numpy()[rows]])
    place = _place_in_class(labels, order)
    part = np.where(place == 0, "test", np.where(place == 1, "val", "train"))
    task_of = {
        one: _named(
            corpus,
            "fine-categories",
            "train",
            classes.tolist(),
            rows[part == one],
            labels[part == one],
            None,
        )
        for one in FEWEST
    }
    return Splits(**task_of)


def _place_in_class(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The place of each image among those of its class, in the given order."""
    sorted_ = np.lexsort((order, labels))
    first = np.searchsorted(labels[sorted_], np.arange(labels.max() + 1))
    place = np.empty(len(labels), int)
    place[sorted_] = np.arange(len(labels)) - first[labels[sorted_]]
    return place
