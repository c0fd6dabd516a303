"""What must hold of the built corpus itself (the real icons), measured on its files.

The corpus is $CLIPLIB_CORPUS or data/icons; `make test` builds it first.
"""

import csv
import gzip
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from cliplib.corpus import read_manifest, verify
from cliplib.corpus.audit import nearest_training
from cliplib.corpus.pipeline import code_digest, icon_source
from cliplib.corpus.sets import table

THRESHOLD = 0.95


@pytest.fixture(scope="module")
def folder():
    root = Path(__file__).parent.parent
    found = Path(os.environ.get("CLIPLIB_CORPUS", root / "data" / "icons"))
    if not (found / "manifest.json").exists():
        pytest.fail(f"no corpus in {found}: run make corpus")
    return found


@pytest.fixture(scope="module")
def manifest(folder):
    return read_manifest(folder)


@pytest.fixture(scope="module")
def rows(folder):
    with gzip.open(folder / "pairs.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_is_what_this_code_builds_from_the_pinned_archive(manifest):
    assert manifest["code"] == code_digest(), "the corpus is older than its code: run make corpus"
    assert manifest["source"]["sha512"] == icon_source().integrity
    assert manifest["pairs_limit"] is None


def test_every_shard_has_its_sha256_and_the_table_lists_its_pairs(folder, manifest, rows):
    assert verify(folder) == manifest
    assert Counter(row["shard"] for row in rows) == {
        shard["path"]: shard["count"] for shard in manifest["shards"]
    }
    assert Counter(row["split"] for row in rows) == manifest["splits"]


def test_no_held_out_picture_is_near_to_a_training_picture(folder, manifest, rows):
    """Whole against whole, from the stored PNGs."""
    cosines = nearest_training(folder, manifest)
    held = [row for row in rows if row["split"] not in ("train", "variants")]
    assert len(cosines) == len(held) > 20_000
    assert cosines.max() <= THRESHOLD
    stored = np.array([float(row["similarity"]) for row in held])
    assert np.abs(cosines - stored).max() < 1e-4


def test_no_held_out_family_trains(manifest, rows):
    held = {row["prefix"] for row in table("families.csv") if row["role"] == "test"}
    families = {one["prefix"]: one["family"] for one in manifest["sets"]}
    outside = {families[prefix] for prefix in held}
    for row in rows:
        assert (families[row["set"]] in outside) == row["split"].startswith("test-")


def test_groups_are_disjoint_between_splits(rows):
    splits = defaultdict(set)
    for row in rows:
        splits[row["group"]].add(row["split"].replace("variants", "train"))
    assert {len(found) for found in splits.values()} == {1}
    train = [row["group"] for row in rows if row["split"] == "train"]
    assert len(train) == len(set(train))


def test_data_scales_are_nested_beginnings_with_the_corpora_in_proportion(manifest, rows):
    train = [row for row in rows if row["split"] == "train"]
    assert [int(row["order"]) for row in train] == list(range(len(train)))
    scales = manifest["data_scales"]
    assert scales == {"2k": 2000, "8k": 8000, "32k": 32000, "all": len(train)}
    share = np.mean([row["corpus"] == "colour" for row in train])
    for size in scales.values():
        assert abs(sum(row["corpus"] == "colour" for row in train[:size]) - share * size) <= 1


def test_licences_are_permissive_and_every_set_is_attributed(folder, manifest, rows):
    allowed = {row["spdx"] for row in table("licences.csv")}
    assert {row["licence"] for row in rows} <= allowed
    with (folder / "ATTRIBUTION.csv").open(encoding="utf-8") as file:
        attributed = list(csv.DictReader(file))
    assert {row["prefix"] for row in attributed} == {row["set"] for row in rows}
    assert all(row["author"] and row["licence_title"] for row in attributed)


def test_tasks_have_the_classes_of_their_items_and_cover_them_at_the_top(manifest, rows):
    assert set(manifest["tasks"]) == {row["task"] for row in table("tasks.csv")}
    items = defaultdict(list)
    for row in rows:
        if row["class"] != "-1":
            items[row["set"]].append(row)
    for name, task in manifest["tasks"].items():
        (prefix,) = task["sets"]
        assert len(items[prefix]) == task["items"] >= len(task["classes"]) >= 90
        assert {row["concept"] for row in items[prefix]} == set(task["classes"])
        assert manifest["coverage"][name]["all"] == 1
        shares = list(manifest["coverage"][name].values())
        assert shares == sorted(shares)


def test_retrieval_holds_a_thousand_held_out_pairs_of_distinct_concepts(manifest, rows):
    keys = set(manifest["retrieval"])
    chosen = [row for row in rows if row["key"] in keys]
    assert len(keys) == len(chosen) == 1000
    assert len({row["concept"] for row in chosen}) == 1000
    assert all(row["split"].startswith("test-") for row in chosen)


def test_names_keep_words_that_only_look_like_style(rows):
    concepts = {(row["set"], row["icon"]): row["concept"] for row in rows}
    assert concepts["mdi", "heart-broken"] == "heart broken"
    outlined = [c for (s, icon), c in concepts.items() if s == "mdi" and icon.endswith("-outline")]
    assert len(outlined) > 1000
    assert not [concept for concept in outlined if concept.endswith("outline")]
    assert concepts["fluent-emoji-flat", "horizontal-traffic-light"] == "horizontal traffic light"
    assert concepts["fluent-emoji-flat", "woman-singer-medium-dark"] == "woman singer"


def test_animated_sets_and_brand_names_are_left_out(rows):
    assert not {"line-md", "svg-spinners"} & {row["set"] for row in rows}
    assert not [row["icon"] for row in rows if "logo" in row["icon"].split("-")]
