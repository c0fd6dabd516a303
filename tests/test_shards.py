"""Shards from anywhere: names, tar streams, pictures, captions; every fault has its name."""

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_files import write_shard

from cliplib import InputError
from cliplib.data import faults, samples
from cliplib.data.decode import caption_hash, captions, draws, picture
from cliplib.data.faults import Fault, Faults, merged, too_many
from cliplib.data.remote import open_shard
from cliplib.data.tar import groups
from cliplib.data.urls import expand, shard_name


def picture_bytes(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(colour=(0, 0, 0, 255), size=(32, 32), mode="RGBA"):
    return picture_bytes(Image.new(mode, size, colour))


def read(url):
    """(key, fault) of every group of a shard, and how the shard ended."""
    found = []
    try:
        with open_shard(url) as stream:
            for group in groups(stream):
                found.append((group.key, group.fault))
    except Fault as fault:
        return found, fault.kind
    return found, None


def pair(key):
    return [(f"{key}.png", png()), (f"{key}.txt", b"a thing")]


# --------------------------------------------------------------------------------------------- names


def test_names_of_shards_are_expanded_in_order(tmp_path):
    for name in ("b.tar", "a.tar", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("# mine\na.tar\n\nhttps://host/{0..1}.tar\n")
    assert expand("x/{00..02}.tar::y.tar") == ("x/00.tar", "x/01.tar", "x/02.tar", "y.tar")
    assert expand(str(tmp_path)) == (f"{tmp_path}/a.tar", f"{tmp_path}/b.tar")
    assert expand([f"{tmp_path}/list.txt"]) == (
        f"{tmp_path}/a.tar", "https://host/0.tar", "https://host/1.tar",
    )  # fmt: skip
    assert expand(["pipe:cat {0..1}.tar | gunzip -c", "s3://bucket/1.tar"]) == (
        "pipe:cat 0.tar | gunzip -c", "pipe:cat 1.tar | gunzip -c", "s3://bucket/1.tar",
    )  # fmt: skip
    assert expand("pipe:cat a::b.tar::pipe:cat c.tar") == ("pipe:cat a::b.tar", "pipe:cat c.tar")


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ([], "no shards given"),
        ("", "no shards given"),
        ("a{0..3.tar", "braces"),
        ("ftp://host/a.tar", "ftp://"),
        ("a/{0..99999999}.tar", "mistyped"),
        ("absent.txt", "cannot be read"),
    ],
)
def test_names_that_mean_nothing_are_refused(urls, message):
    with pytest.raises(InputError, match=message):
        expand(urls)


def test_a_directory_without_shards_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no \.tar file"):
        expand(str(tmp_path))


@pytest.mark.parametrize("line", ["pipe:touch ran", "a.tar::pipe:touch ran", "  pipe:touch ran #x"])
def test_a_list_cannot_bring_commands_or_other_lists(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"a.tar\n{line}\n")
    with pytest.raises(InputError, match=r"list.txt:2: .*pipe:"):
        expand(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text("other.txt\n")
    with pytest.raises(InputError, match="another list"):
        expand(str(tmp_path / "list.txt"))


def test_what_is_printed_of_a_name_holds_no_secret():
    for url in (
        "https://user:secret@host/a.tar?sign=secret#secret",
        "pipe:curl -H 'Authorization: secret' 'https://host/a.tar?sign=secret'",
        "pipe:fetch --key secret",
    ):
        assert "secret" not in shard_name(url)


# ----------------------------------------------------------------------------------------------- tar


def test_members_are_grouped_by_the_name_up_to_its_first_dot(tmp_path):
    url = write_shard(
        tmp_path / "a.tar",
        [("d/1.png", b"i"), ("d/1.txt", b"t"), ("2.seg.png", b""), ("2.JPG", b"i"), ("2.txt", b"t"),
         ("__meta__.json", b"{}"), ("._1.png", b"x"), ("3.txt", b"t"), ("4.png", b"i")],
    )  # fmt: skip
    assert read(url) == (
        [("d/1", None), ("2", None), ("3", faults.NO_IMAGE), ("4", faults.NO_CAPTION)], None,
    )  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(tmp_path, form):
    long = "folder/" * 12 + "n" * 80
    names = [long, "ünïcode", "plain"] if form != tarfile.USTAR_FORMAT else [long, "plain"]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for key in names:
            for suffix, content in ((".png", b"p" * 700), (".txt", b"t")):
                info = tarfile.TarInfo(key + suffix)
                info.size, info.mtime = len(content), 1.5  # a fraction makes pax write a header
                tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert read(str(tmp_path / "a.tar")) == (
        [(key, None) for key in names], None,
    )  # fmt: skip


def test_a_zipped_shard_is_read_and_its_truncation_seen(tmp_path):
    members = [member for i in range(50) for member in pair(f"{i:03}")]
    write_shard(tmp_path / "a.tar", members)
    zipped = gzip.compress((tmp_path / "a.tar").read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(zipped)
    (tmp_path / "b.tar.gz").write_bytes(zipped[: len(zipped) // 2])
    assert len(read(str(tmp_path / "a.tar.gz"))[0]) == 50
    found, end = read(str(tmp_path / "b.tar.gz"))
    assert len(found) < 50 and end == faults.TRUNCATED_SHARD


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 40 * 2 * 1024 - 1))
def test_a_shard_cut_anywhere_gives_the_samples_before_the_cut(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("cut")
    whole = write_shard(folder / "a.tar", [member for i in range(40) for member in pair(f"{i:03}")])
    (folder / "b.tar").write_bytes(Path(whole).read_bytes()[:cut])
    found, end = read(str(folder / "b.tar"))
    assert [key for key, _ in found] == [f"{i:03}" for i in range(len(found))]
    assert len(found) <= cut // 2048 and len(found) >= cut // 2048 - 1
    expected = faults.EMPTY_SHARD if cut == 0 else faults.TRUNCATED_SHARD
    assert end == (faults.UNREADABLE_SHARD if 0 < cut < 512 else expected)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000))
def test_no_bytes_break_the_reader(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "a.tar"
    path.write_bytes(content)
    found, end = read(str(path))
    assert found == [] and end in faults.SHARD_KINDS


def test_shards_that_are_none_have_their_kinds(tmp_path):
    write_shard(tmp_path / "empty.tar", [])
    (tmp_path / "zero.tar").touch()
    (tmp_path / "page.tar").write_bytes(b"<html>404</html>" * 100)
    content = bytearray(Path(write_shard(tmp_path / "a.tar", pair("1") + pair("2"))).read_bytes())
    content[2048 + 20] ^= 1  # in a header
    (tmp_path / "flipped.tar").write_bytes(content)
    assert read(str(tmp_path / "empty.tar")) == ([], faults.EMPTY_SHARD)
    assert read(str(tmp_path / "zero.tar")) == ([], faults.EMPTY_SHARD)
    assert read(str(tmp_path / "page.tar")) == ([], faults.UNREADABLE_SHARD)
    assert read(str(tmp_path / "none.tar")) == ([], faults.MISSING_SHARD)
    assert read(str(tmp_path / "flipped.tar"))[1] == faults.UNREADABLE_SHARD


def test_a_key_that_comes_again_is_skipped(tmp_path):
    url = write_shard(
        tmp_path / "a.tar", [*pair("1"), *pair("1"), *pair("2"), *pair("1"), *pair("3")]
    )
    dup = faults.DUPLICATE_KEY
    assert read(url)[0] == [("1", None), ("1", dup), ("2", None), ("1", dup), ("3", None)]


def test_a_huge_member_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("cliplib.data.tar.MAX_FILE", 5000)
    url = write_shard(tmp_path / "a.tar", [("1.png", bytes(6000)), ("1.txt", b"t"), *pair("2")])
    assert read(url) == ([("1", faults.FILE_TOO_LARGE), ("2", None)], None)


def test_names_never_become_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = write_shard(tmp_path / "a.tar", [*pair("../out"), *pair("/abs")])
    assert [key for key, _ in read(url)[0]] == ["../out", "/abs"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


# ------------------------------------------------------------------------------------------ captions


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"txt": b" a cat \n"}, ["a cat"]),
        ({"txt": b"a cat", "json": b'{"caption": "other"}'}, ["a cat"]),
        ({"json": b'{"caption": "a dog"}'}, ["a dog"]),
        ({"txt": b"one", "json": b'{"captions": ["one", "two", 3, ""]}'}, ["one", "two"]),
        ({"txt": b"", "json": b'{"captions": ["two"]}'}, ["two"]),
        ({"txt": b" \n"}, faults.EMPTY_CAPTION),
        ({"json": b"{}"}, faults.NO_CAPTION),
        ({"json": b'{"caption": null}'}, faults.NO_CAPTION),
        ({"txt": b"caf\xe9"}, faults.BAD_TEXT),
        ({"txt": b"x", "json": b"{"}, faults.BAD_JSON),
        ({"txt": b"x", "json": b"[1]"}, faults.BAD_JSON),
        ({"txt": b"x", "json": b"[" * 200_000}, faults.BAD_JSON),
    ],
)
def test_captions_of_a_sample(parts, expected):
    if isinstance(expected, list):
        assert captions(parts) == expected
    else:
        with pytest.raises(Fault) as caught:
            captions(parts)
        assert caught.value.kind == expected


def test_captions_are_the_same_up_to_case_and_spacing():
    assert caption_hash("A  Cat\n") == caption_hash("a cat") != caption_hash("a cart")
    assert -(2**63) <= caption_hash("x") < 2**63


# ------------------------------------------------------------------------------------------ pictures


def noise(width, height, mode="RGB", seed=0):
    shape = (height, width, len(Image.new(mode, (1, 1)).getbands()))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Image.fromarray(pixels.squeeze(), mode) if mode != "P" else None


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("RGB", (8, 8), (10, 20, 30)), "png", (10, 20, 30)),
        (Image.new("RGB", (8, 8), (10, 20, 30)), "webp", (10, 20, 30)),
        (Image.new("L", (8, 8), 77), "png", (77, 77, 77)),
        (Image.new("1", (8, 8), 1), "png", (255, 255, 255)),
        (Image.new("I;16", (8, 8), 77 * 256), "png", (77, 77, 77)),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "jpeg", (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "png", (255, 255, 255)),
        (Image.new("LA", (8, 8), (0, 0)), "png", (255, 255, 255)),
        (Image.new("RGB", (8, 8), (200, 10, 10)).quantize(4), "png", (200, 10, 10)),
        (Image.new("RGB", (8, 8), (9, 9, 9)), "gif", (9, 9, 9)),
    ],
)
def test_any_picture_becomes_rgb_on_white(image, kind, expected):
    pixels = picture(
        {"png": picture_bytes(image, kind, **({"lossless": True} if kind == "webp" else {}))}, 8
    )
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_the_first_frame_of_an_animation_and_tRNS_colours_on_white():
    frames = [Image.new("RGB", (8, 8), (0, 0, 250)), Image.new("RGB", (8, 8), (250, 0, 0))]
    moving = picture_bytes(
        frames[0], "webp", save_all=True, append_images=frames[1:], lossless=True
    )
    assert picture({"webp": moving}, 8)[0, 0].tolist() == [0, 0, 250]
    keyed = picture_bytes(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3))
    assert (picture({"png": keyed}, 8) == 255).all()


def test_without_augmentation_a_fitting_picture_is_untouched_and_others_keep_their_centre():
    fitting = noise(32, 32)
    assert np.array_equal(picture({"png": picture_bytes(fitting)}, 32), np.asarray(fitting))
    wide = Image.new("RGB", (96, 32), "white")
    wide.paste((0, 0, 0), (24, 0, 72, 32))
    assert (picture({"png": picture_bytes(wide)}, 16) == 0).all()


def test_augmentation_is_a_crop_that_depends_on_seed_epoch_shard_and_key_alone():
    parts = {"png": picture_bytes(noise(60, 50))}
    first = picture(parts, 32, draws(0, 0, 0, "a"))
    assert np.array_equal(first, picture(parts, 32, draws(0, 0, 0, "a")))
    others = [(1, 0, 0, "a"), (0, 1, 0, "a"), (0, 0, 1, "a"), (0, 0, 0, "b")]
    assert not any(np.array_equal(first, picture(parts, 32, draws(*other))) for other in others)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_crops_lie_within_any_picture(width, height, seed):
    from cliplib.data.decode import _crop_box

    left, top, right, bottom = _crop_box(width, height, draws(seed, 0, 0, ""))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    if 4 / 5 < width / height < 5 / 4 and min(width, height) > 20:
        assert (right - left) * (bottom - top) > 0.85 * width * height


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    smooth = Image.fromarray(
        np.linspace(0, 255, 1200 * 1600 * 3).reshape(1200, 1600, 3).astype(np.uint8)
    )
    small = picture({"jpg": picture_bytes(smooth, "jpeg", quality=95)}, 64)
    exact = picture({"png": picture_bytes(smooth)}, 64)
    assert np.abs(small.astype(int) - exact).mean() < 2


def bomb():
    """The PNG of a 30,000 x 30,000 picture, without its 900 megapixels."""
    import struct
    import zlib

    def piece(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", b"") + piece(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html><html>not found", faults.HTML),
        (b" \n<HTML>", faults.HTML),
        (b"", faults.BAD_IMAGE),
        (b"\x89PNG\r\n\x1a\n", faults.BAD_IMAGE),
        (png()[:80], faults.BAD_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", faults.BAD_IMAGE),
        (bomb(), faults.TOO_LARGE),
        (png(size=(101, 100)), faults.TOO_LARGE),
    ],
)
def test_pictures_that_are_none_have_their_kinds(content, kind):
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(Fault) as caught:
        picture({"jpg": content}, 32, max_pixels=10_000)
    assert caught.value.kind == kind
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


# ------------------------------------------------------------------------------------------- samples


def test_samples_are_served_at_full_size_and_faults_counted(tmp_path):
    url = write_shard(
        tmp_path / "a.tar",
        [("good.png", png(size=(9, 5))), ("good.txt", b"a cat"), ("good.json", b'{"concept": "cat"}'),
         ("page.png", b"<html>"), ("page.txt", b"x"), ("mute.png", png()), *pair("good")],
    )  # fmt: skip
    bad = Counter()
    (sample,) = samples([url, str(tmp_path / "none.tar")], bad)
    assert (sample["key"], sample["text"], sample["json"]) == ("good", "a cat", {"concept": "cat"})
    assert sample["image"].shape == (5, 9, 3)
    assert bad == {
        faults.HTML: 1, faults.NO_CAPTION: 1, faults.DUPLICATE_KEY: 1, faults.MISSING_SHARD: 1,
    }  # fmt: skip


# -------------------------------------------------------------------------------------------- faults


def test_counts_add_up_and_survive_json():
    one, two = Faults(), Faults()
    one.add(faults.NO_IMAGE, "a.tar")
    one.add(faults.TRUNCATED_SHARD, "a.tar")
    two.add(faults.NO_IMAGE, "b.tar")
    together = merged(json.loads(json.dumps([one.to_dict(), two.to_dict()])))
    assert together.total == 3 and together.lost == {"a.tar"}
    assert together.to_dict()["kinds"] == {faults.NO_IMAGE: 2, faults.TRUNCATED_SHARD: 1}
    assert together.to_dict()["shards"] == {"a.tar": 2, "b.tar": 1}


@pytest.mark.parametrize(
    ("read", "bad", "lost", "whole", "stops"),
    [
        (999, 900, 0, False, None),
        (1000, 10, 0, False, None),
        (1000, 11, 0, False, "11 of 1,000 samples"),
        (100, 2, 0, True, "2 of 100 samples"),
        (10_000, 2, 2, True, "2 of 50 shards"),
        (10_000, 1, 1, True, None),
    ],
)
def test_a_run_stops_over_the_share_of_samples_or_of_shards(read, bad, lost, whole, stops):
    why = too_many(read, bad, lost, 50, 0.01, whole)
    assert why is None if stops is None else why.startswith(stops)
