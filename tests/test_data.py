"""Shards to batches: nothing repeated in a batch, nothing dropped, bad samples named."""

import io
import json
import shutil
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_files import write_shard

from cliplib import InputError
from cliplib.data import batches, caption_choice, load_split, open_corpus, samples, training_pairs


def png(colour=(0, 0, 0, 255), size=(32, 32), mode="RGBA"):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "png")
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------ batches


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=60, max_size=200), st.integers(2, 8), st.integers(0, 5)
)
def test_batches_drop_nothing_and_repeat_nothing(ids, batch_size, seed):
    names = [f"concept {i}" for i in ids]
    most = Counter(names).most_common(1)[0][1]
    if most * batch_size > len(names):
        with pytest.raises(InputError, match="too large"):
            next(batches(names, batch_size, seed))
        return
    rounds = 4
    feed = list(islice(batches(names, batch_size, seed), rounds * len(names) // batch_size))
    for batch in feed:
        assert len({names[i] for i in batch.indices}) == batch_size
    served = Counter(i for batch in feed for i in batch.indices.tolist())
    waiting = max(served.values()) - min(served.get(i, 0) for i in range(len(names)))
    assert waiting <= 2  # a deferred pair is late by less than an epoch, never lost
    assert sum(served.values()) == len(feed) * batch_size


def test_without_conflicts_each_epoch_serves_each_pair_once():
    names = [str(i) for i in range(64)]
    feed = list(islice(batches(names, 16, seed=3), 8))
    for epoch in (feed[:4], feed[4:]):
        assert sorted(i for b in epoch for i in b.indices.tolist()) == list(range(64))
    assert feed[-1].deferred == 0
    assert [b.indices.tolist() for b in feed[:4]] != [b.indices.tolist() for b in feed[4:]]


def test_batches_depend_on_seed_and_step_alone():
    names = [str(i % 50) for i in range(200)]
    once = [b.indices.tolist() for b in islice(batches(names, 20, 7), 25)]
    again = [b.indices.tolist() for b in islice(batches(names, 20, 7), 10, 25)]
    other = [b.indices.tolist() for b in islice(batches(names, 20, 8), 25)]
    assert once[10:] == again
    assert once != other


def test_conflicts_are_deferred_and_counted():
    names = ["same"] * 10 + [str(i) for i in range(190)]
    feed = list(islice(batches(names, 20, 0), 10))
    assert feed[-1].deferred > 0


def test_captions_are_drawn_evenly_and_again_the_same():
    counts = np.full(30_000, 3)
    drawn = caption_choice(counts, seed=1, step=5)
    assert np.array_equal(drawn, caption_choice(counts, seed=1, step=5))
    assert not np.array_equal(drawn, caption_choice(counts, seed=1, step=6))
    assert np.bincount(drawn) == pytest.approx([10_000] * 3, rel=0.05)


# ------------------------------------------------------------------------------------------ samples


def test_bad_samples_are_counted_by_kind_and_good_ones_kept(tmp_path):
    url = write_shard(
        tmp_path / "a.tar",
        [
            ("good.png", png()), ("good.txt", b"a cat"), ("good.json", b'{"concept": "cat"}'),
            ("html.png", b"<html>not found</html>"), ("html.txt", b"x"),
            ("mute.png", png()),
            ("latin.png", png()), ("latin.txt", b"caf\xe9"),
            ("blind.txt", b"no image"),
            ("braces.png", png()), ("braces.txt", b"x"), ("braces.json", b"{"),
        ],
    )  # fmt: skip
    bad = Counter()
    kept = list(samples([url], bad))
    assert [(s["key"], s["text"], s["json"]) for s in kept] == [
        ("good", "a cat", {"concept": "cat"})
    ]
    assert bad == {
        "web page instead of an image": 1, "no caption": 1, "caption is no UTF-8": 1, "no image": 1,
        "json is damaged": 1,
    }  # fmt: skip


def test_transparency_becomes_white(tmp_path):
    url = write_shard(tmp_path / "a.tar", [("k.png", png((0, 0, 0, 0))), ("k.txt", b"nothing")])
    (sample,) = samples([url], Counter())
    assert sample["image"].shape == (32, 32, 3) and (sample["image"] == 255).all()


def test_a_truncated_shard_is_counted_and_what_came_before_it_is_served(tmp_path):
    members = [
        (f"{i}.{kind}", content)
        for i in range(50)
        for kind, content in (("png", png()), ("txt", b"x"))
    ]
    whole = tmp_path / "a.tar"
    write_shard(whole, members)
    cut = tmp_path / "b.tar"
    cut.write_bytes(whole.read_bytes()[:20_000])
    bad = Counter()
    assert 0 < len(list(samples([str(cut)], bad))) < 50
    assert bad == {"truncated shard": 1}


# ------------------------------------------------------------------------------------------- corpus


def tiny_corpus(folder, n=20):
    """A corpus folder of one shard, with the manifest that goes with it."""
    import hashlib

    folder.mkdir()
    members = []
    for i in range(n):
        about = {
            "concept": f"thing {i}",
            "corpus": "mono",
            "captions": [f"thing {i}", f"an icon of thing {i}"],
        }
        members += [(f"{i:03}.png", png((i, i, i, 255))), (f"{i:03}.txt", f"thing {i}".encode())]
        members += [(f"{i:03}.json", json.dumps(about).encode())]
    path = folder / "train-000000.tar"
    write_shard(path, members)
    content = path.read_bytes()
    manifest = {
        "corpus_hash": "test", "data_scales": {"2k": 10, "all": n}, "pairs": {"path": "pairs.csv.gz"},
        "shards": [{"path": path.name, "split": "train", "count": n, "bytes": len(content),
                    "sha256": hashlib.sha256(content).hexdigest()}],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_split_is_decoded_once_and_then_mapped(tmp_path):
    folder = tiny_corpus(tmp_path / "c")
    first = load_split(open_corpus(folder), "train")
    again = load_split(open_corpus(folder), "train")
    assert len(first) == 20 and isinstance(again.images, np.memmap)
    assert np.array_equal(first.images, again.images) and first.captions == again.captions
    assert first.captions[3] == ["thing 3", "an icon of thing 3"]
    assert first.images[3, 0, 0].tolist() == [3, 3, 3]


@pytest.mark.parametrize("rows", [[0, 2, 1, 3], [3, 1], [0, 1, 2], [], [5]])
def test_pairs_are_taken_in_the_order_asked_for(tmp_path, rows):
    pairs = load_split(open_corpus(tiny_corpus(tmp_path / "c")), "train")
    taken = pairs.take(rows)
    assert [image[0, 0, 0] for image in taken.images] == rows == taken.rows.tolist()
    assert taken.keys == [f"{row:03}" for row in rows]


def test_data_scales_are_prefixes(tmp_path):
    corpus = open_corpus(tiny_corpus(tmp_path / "c"))
    small, whole = training_pairs(corpus, "2k"), training_pairs(corpus, "all")
    assert small.keys == whole.keys[:10]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "no corpus here"),
        (lambda f: (f / "manifest.json").write_text("{"), "damaged"),
        (lambda f: (f / "train-000000.tar").unlink(), "is missing"),
        (lambda f: shutil.copy(f / "manifest.json", f / "train-000000.tar"), "bytes, not"),
    ],
)
def test_a_missing_or_short_shard_is_one_line_that_says_what_to_do(tmp_path, damage, message):
    folder = tiny_corpus(tmp_path / "c")
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_split(open_corpus(folder), "train")
    assert "make corpus" in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_shard_of_the_right_size_is_found_by_its_hash(tmp_path):
    folder = tiny_corpus(tmp_path / "c")
    path = folder / "train-000000.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="sha256"):
        load_split(open_corpus(folder), "train")
    assert not list((folder).glob("decoded/*.npy"))


def test_unknown_split_and_data_scale_list_the_known(tmp_path):
    corpus = open_corpus(tiny_corpus(tmp_path / "c"))
    with pytest.raises(InputError, match="known: train"):
        load_split(corpus, "tarin")
    with pytest.raises(InputError, match="2k, all"):
        training_pairs(corpus, "3k")
    with pytest.raises(InputError, match="colour"):
        training_pairs(corpus, "2k", "colour")
