"""The build, end to end, on a small archive of the real one's form: every rule and every fault."""

import base64
import csv
import gzip
import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import pytest
import webdataset

from cliplib import InputError
from cliplib.corpus import Settings, Source, build, read_manifest, verify
from cliplib.corpus.audit import nearest_training
from cliplib.corpus.render import draw, on_white

ANIMALS = ["ant", "bee", "cat", "cow", "dog", "elk", "fox", "hen", "owl", "pig", "ram", "yak"]
SMALL = Settings(
    validation_pairs=4,
    retrieval_pairs=10,
    shard_pairs=10,
    data_scales={"6": 6, "12": 12, "999": 999},
)


def scribble(words, colour="currentColor"):
    """A drawing that differs from every other: five triangles placed by the words."""
    place = random.Random(words)
    points = (" ".join(str(place.randint(0, 24)) for _ in range(6)) for _ in range(5))
    return {"body": "".join(f'<path fill="{colour}" d="M{line}Z"/>' for line in points)}


def icon_set(category="UI 24px", licence="MIT", palette=False, **icons):
    record = {"width": 24, "height": 24, "icons": icons}
    described = {
        "name": "Set",
        "author": {"name": "A. Artist", "url": "a.example"},
        "license": {"title": licence, "spdx": licence, "url": "l.example"},
        "category": category,
        "palette": palette,
        "total": len(icons),
    }
    return described, record


def small_sets():
    """Sets by prefix, named like real ones so that the real tables apply."""
    mono = {a: scribble(f"mdi {a}") for a in ANIMALS}
    mono |= {f"{a}-outline": scribble(f"mdi outline {a}") for a in ANIMALS}
    mono |= {"air": {"body": '<path d=""/>'}, "gone": scribble("gone") | {"hidden": True}}
    mono |= {
        "brand-x": scribble("brand"),
        "eagle": scribble("mdi cat"),
        "broken": {"body": "<path"},
    }
    other = {a: scribble(f"tabler {a}") for a in ANIMALS}
    near = scribble("ph owl")["body"].replace(
        "<path ", '<path stroke="currentColor" stroke-width=".2" '
    )
    other |= {"night-bird": {"body": near}, "copy": scribble("ph bee")}
    held = {a: scribble(f"ph {a}") for a in ANIMALS} | {"unicorn": scribble("ph unicorn")}
    held |= {f"{a}-bold": scribble(f"ph bold {a}") for a in ANIMALS}
    emoji = {a: scribble(f"noto {a}", "#c60") for a in ANIMALS}
    emoji |= {"cat-dark-skin-tone": scribble("noto dark", "#840")}
    flat = {a: scribble(f"flat {a}", "#06c") for a in ANIMALS}
    flat |= {f"cat-{tone}": scribble(f"flat {tone}", "#048") for tone in ("light", "medium-dark")}
    sets = {
        "mdi": icon_set("Material", "Apache-2.0", **mono),
        "tabler": icon_set(**other),
        "ph": icon_set(**held),
        "noto": icon_set("Emoji", "Apache-2.0", palette=True, **emoji),
        "fluent-emoji-flat": icon_set("Emoji", palette=True, **flat),
        "gala": icon_set(licence="GPL-3.0", gpl=scribble("gpl")),
        "simple-icons": icon_set("Logos", some=scribble("logo")),
        "reicon": icon_set(fake=scribble("fake")),
    }
    sets["ph"][1]["suffixes"] = {"bold": "Bold", "": "Regular"}
    sets["tabler"][1]["categories"] = {"Wild Animals": ANIMALS}
    return sets


def pack(path, files):
    """An npm archive of JSON files, and the Source that pins it."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A download cache with the small archive and a thesaurus: the arguments of a build."""
    cache = tmp_path_factory.mktemp("cache")
    sets = small_sets()
    files = {f"json/{prefix}.json": record for prefix, (_, record) in sets.items()}
    files["collections.json"] = {prefix: described for prefix, (described, _) in sets.items()}
    icons = pack(cache / "iconify-json-0.0.1.tgz", files)
    words = {"ram": {"tags": ["sheep", "horn", "yak"]}, "yak": {"tags": ["ram", "wool"]}}
    texts = pack(cache / "tabler-icons-0.0.1.tgz", {"icons.json": words})
    return {
        "cache": cache,
        "offline": True,
        "icons": Source("@iconify/json", "0.0.1", icons, 1),
        "texts": [Source("@tabler/icons", "0.0.1", texts, 1, "package/icons.json", "MIT")],
        "settings": SMALL,
    }


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory):
    return build(tmp_path_factory.mktemp("data") / "icons", **inputs)


@pytest.fixture(scope="module")
def rows(built):
    with gzip.open(built / "pairs.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def icons_of(rows, prefix):
    return {row["icon"] for row in rows if row["set"] == prefix}


def test_only_sets_that_may_and_should_enter_do(built, rows):
    assert {row["set"] for row in rows} == {"mdi", "tabler", "ph", "noto", "fluent-emoji-flat"}
    counts = read_manifest(built)["counts"]
    assert counts["refused_licence"] == counts["refused_doubtful"] == 1
    assert counts["refused_logos_and_programming"] == 1


def test_blank_hidden_broken_and_brand_icons_are_left_out(built, rows):
    assert icons_of(rows, "mdi").isdisjoint({"air", "gone", "broken", "brand-x"})
    counts = read_manifest(built)["counts"]
    assert (counts["blank"], counts["not_drawable"], counts["brand_names"]) == (1, 1, 1)


def test_of_equal_drawings_one_stays_and_the_held_out_one_comes_first(built, rows):
    assert len(icons_of(rows, "mdi") & {"cat", "eagle"}) == 1
    assert "copy" not in icons_of(rows, "tabler")
    assert "bee" in icons_of(rows, "ph")
    assert read_manifest(built)["counts"]["equal_drawings"] == 2


def test_a_near_copy_of_a_held_out_drawing_does_not_train(built, rows):
    assert "night-bird" not in icons_of(rows, "tabler")
    assert read_manifest(built)["counts"]["near_test"] == 1


def test_the_counts_of_the_steps_add_up(built, rows):
    counts = read_manifest(built)["counts"]
    refused = sum(count for step, count in counts.items() if step.startswith("refused_"))
    assert counts["icons_listed"] - refused - counts["withdrawn"] == counts["drawn"]
    left_out = sum(
        counts[step] for step in ("not_drawable", "blank", "equal_drawings", "brand_names")
    )
    assert counts["drawn"] - left_out == counts["pairs"]
    assert counts["pairs"] - counts["test_pairs"] - counts["near_test"] == counts["pool_pairs"]
    assert counts["train_groups"] + counts["variants"] + counts["val_pairs"] == counts["pool_pairs"]
    assert counts["train_groups"] + counts["val_groups"] == counts["pool_groups"]
    assert len(rows) == counts["pool_pairs"] + counts["test_pairs"]


def test_no_held_out_family_trains_and_no_group_is_in_two_places(built, rows):
    roles = {one["prefix"]: one["role"] for one in read_manifest(built)["sets"]}
    for row in rows:
        assert row["split"].startswith("test-") == (roles[row["set"]] == "test")
    split_of = {}
    for row in rows:
        side = row["split"].replace("variants", "train")
        assert split_of.setdefault(row["group"], side) == side


def test_a_group_trains_in_one_style_and_the_rest_are_variants(rows):
    train = [row["group"] for row in rows if row["split"] == "train"]
    assert len(train) == len(set(train))
    variants = Counter(row["group"] for row in rows if row["split"] == "variants")
    assert set(variants) <= set(train)
    assert variants["mdi:fox"] + ("mdi:fox" not in train) >= 1


def test_the_drawing_without_a_skin_tone_trains(rows):
    toned = [row for row in rows if row["icon"] == "cat-dark-skin-tone"]
    assert [row["split"] for row in toned] == ["variants"]
    assert toned[0]["style"] == "dark skin tone"


def test_validation_is_whole_groups_and_as_large_as_asked(built, rows):
    validation = [row for row in rows if row["split"] == "val"]
    assert len(validation) >= SMALL.validation_pairs
    assert all(float(row["similarity"]) <= SMALL.near_duplicate for row in validation)


def test_data_scales_are_beginnings_of_one_order_with_the_labels_in_proportion(built, rows):
    train = [row for row in rows if row["split"] == "train"]
    assert [int(row["order"]) for row in train] == list(range(len(train)))
    assert {row["order"] for row in rows if row["split"] != "train"} == {"-1"}
    assert read_manifest(built)["data_scales"] == {"6": 6, "12": 12, "all": len(train)}
    share = sum(row["corpus"] == "colour" for row in train) / len(train)
    for count in range(1, len(train)):
        colour = sum(row["corpus"] == "colour" for row in train[:count])
        assert abs(colour - share * count) <= 1


def test_the_stored_similarity_is_that_of_the_stored_pictures(built, rows):
    manifest = read_manifest(built)
    stored = [float(row["similarity"]) for row in rows if row["similarity"]]
    assert np.allclose(nearest_training(built, manifest), stored, atol=1e-4)
    assert max(stored) <= SMALL.near_duplicate


def test_a_class_must_be_named_in_two_training_sets(built, rows):
    manifest = read_manifest(built)
    task = manifest["tasks"]["phosphor"]
    named = {}
    for row in rows:
        if row["split"] == "train":
            named.setdefault(row["concept"], set()).add(row["set"])
    assert task["classes"] == sorted(a for a in ANIMALS if len(named.get(a, ())) >= 2)
    assert task["chance"] == 1 / len(task["classes"])
    items = [row for row in rows if row["set"] == "ph" and row["class"] != "-1"]
    assert task["items"] == len(items)
    assert all(task["classes"][int(row["class"])] == row["concept"] for row in items)
    assert manifest["coverage"]["phosphor"]["all"] == 1


def test_test_items_carry_no_skin_tone(rows):
    toned = [row for row in rows if row["set"] == "fluent-emoji-flat" and "tone" in row["style"]]
    assert len(toned) == 2
    assert all(row["class"] == "-1" and row["concept"] == "cat" for row in toned)


def test_synonyms_are_classes_that_the_thesaurus_links_both_ways(built):
    task = read_manifest(built)["tasks"]["phosphor"]
    assert {"ram", "yak"} <= set(task["classes"])
    ram, yak = task["classes"].index("ram"), task["classes"].index("yak")
    assert task["synonyms"] == {str(ram): [yak], str(yak): [ram]}


def test_retrieval_takes_the_families_in_turn_and_no_concept_twice(built, rows):
    keys = read_manifest(built)["retrieval"]
    chosen = [row for row in rows if row["key"] in keys]
    assert len(chosen) == len(keys) == SMALL.retrieval_pairs
    assert len({row["concept"] for row in chosen}) == len(keys)
    assert Counter(row["set"] for row in chosen) == {"ph": 5, "fluent-emoji-flat": 5}


def test_webdataset_reads_the_shards_as_the_table_lists_them(built, rows):
    manifest = read_manifest(built)
    urls = [str(built / shard["path"]) for shard in manifest["shards"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    for sample, row in zip(samples, rows):
        record = json.loads(sample["json"])
        assert {key: str(record[key]) for key in ("set", "icon", "group", "order")} == {
            key: row[key] for key in ("set", "icon", "group", "order")
        }
        assert record["captions"][0] == record["concept"]
        assert sample["txt"].decode() in record["captions"]
        assert sample["png"].startswith(b"\x89PNG")


def test_tags_and_categories_reach_the_captions(built):
    shards = sorted(str(path) for path in built.glob("*.tar"))
    records = [json.loads(s["json"]) for s in webdataset.WebDataset(shards, shardshuffle=False)]
    ram = next(one for one in records if one["set"] == "tabler" and one["icon"] == "ram")
    assert ram["tags"] == ["sheep", "horn", "yak"]
    assert ram["category"] == "Wild Animals"
    assert {"wild animals: ram", "ram; sheep, horn", "an icon of a ram"} <= set(ram["captions"])


def test_every_set_is_attributed(built, rows):
    with (built / "ATTRIBUTION.csv").open() as file:
        attributed = {row["prefix"]: row for row in csv.DictReader(file)}
    counts = Counter(row["set"] for row in rows)
    assert {prefix: int(row["pairs"]) for prefix, row in attributed.items()} == counts
    assert attributed["mdi"]["author"] == "A. Artist"
    assert attributed["mdi"]["licence"] == "Apache-2.0"


def test_the_same_input_gives_the_same_bytes(built, inputs, tmp_path):
    assert contents(build(tmp_path / "again", **inputs)) == contents(built)


def test_a_corpus_that_is_there_is_left_alone(built, inputs, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in built.iterdir()}
    without_cache = inputs | {"cache": tmp_path / "empty"}
    assert build(built, **without_cache) == built
    assert {path: path.stat().st_mtime_ns for path in built.iterdir()} == before


@pytest.fixture
def copy(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "data" / "icons"))


def test_a_missing_shard_or_other_code_builds_anew(built, copy, inputs, monkeypatch):
    (copy / "val-000000.tar").unlink()
    assert contents(build(copy, **inputs)) == contents(built)
    monkeypatch.setattr("cliplib.corpus.pipeline.code_digest", lambda: "other code")
    assert read_manifest(build(copy, **inputs))["code"] == "other code"
    assert [path.name for path in copy.parent.iterdir()] == ["icons"]


def test_a_failed_build_leaves_the_old_corpus_and_nothing_else(copy, inputs, monkeypatch):
    before = contents(copy)
    (copy / "val-000000.tar").write_bytes(b"damaged")
    damaged = contents(copy)
    usage = namedtuple("usage", "total used free")(10, 9, 1e6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="not enough disk space"):
        build(copy, **inputs)
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cliplib.corpus.shards.corpus_hash", full)
    with pytest.raises(InputError, match="no disk space left"):
        build(copy, **inputs)
    assert contents(copy) == damaged != before
    assert [path.name for path in copy.parent.iterdir()] == ["icons"]


def test_a_limit_keeps_the_first_groups_of_the_same_order(built, rows, inputs, tmp_path):
    manifest = read_manifest(build(tmp_path / "few", **inputs, pairs=7))
    whole = read_manifest(built)
    assert manifest["splits"]["train"] == 7
    assert manifest["data_scales"] == {"6": 6, "all": 7}
    assert manifest["pairs_limit"] == 7
    assert manifest["corpus_hash"] != whole["corpus_hash"]
    assert manifest["tasks"] == whole["tasks"]
    with gzip.open(tmp_path / "few" / "pairs.csv.gz", "rt") as file:
        few = [row["key"] for row in csv.DictReader(file) if row["split"] == "train"]
    assert few == [row["key"] for row in rows if row["split"] == "train"][:7]


def test_a_link_to_a_folder_on_another_disk_stays_a_link(built, inputs, tmp_path):
    (tmp_path / "big").mkdir()
    link = tmp_path / "icons"
    link.symlink_to(tmp_path / "big")
    assert contents(build(link, **inputs)) == contents(built)
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "icons"]


def test_a_limit_below_one_is_refused(inputs, tmp_path):
    with pytest.raises(InputError, match="--pairs 0"):
        build(tmp_path / "none", **inputs, pairs=0)


def test_a_folder_with_other_things_is_not_touched(inputs, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is no corpus"):
        build(tmp_path, **inputs)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_verify_names_a_missing_and_a_damaged_shard(copy):
    assert verify(copy)["shards"]
    shard = copy / "test-ph-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged shard .*test-ph-000000\.tar"):
        verify(copy)
    shard.unlink()
    with pytest.raises(InputError, match=r"missing shard .*test-ph-000000\.tar"):
        verify(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged manifest"):
        verify(copy)


def test_the_command_exits_with_2_and_one_line(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "cliplib", "corpus", "--out", tmp_path / "out", "--offline"],
        env={"CLIPLIB_CACHE": str(tmp_path / "cache"), "PATH": ""},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "--offline" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def picture(body, width=24, height=24):
    from cliplib.corpus.render import svg

    png = draw(svg({"body": body}, {"width": width, "height": height}))
    return on_white([png])[0]


def test_an_oblong_icon_is_centred_and_clipped_to_its_own_box():
    wide = picture('<path fill="#f00" d="M-50-50h200v200h-200z"/>', width=24, height=12)
    assert (wide[8:24] == [255, 0, 0]).all()
    assert (wide[:8] == 255).all()
    assert (wide[24:] == 255).all()


def test_a_monochrome_icon_is_black_on_white():
    shown = picture('<path fill="currentColor" d="M0 0h12v24h-12z"/>')
    assert (shown[:, :16] == 0).all()
    assert (shown[:, 16:] == 255).all()
