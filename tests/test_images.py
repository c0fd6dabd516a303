"""Images out of archives: the pixels that Pillow gives, and damaged ones refused in words."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cliplib import InputError
from cliplib.evaluate import images
from cliplib.evaluate.images import Packed, PackedImages


def packed(folder, data):
    """An image whose bytes are a file's."""
    path = folder / "0.tar"
    path.write_bytes(data)
    return PackedImages((path,), [Packed(0, 0, len(data), "s0000000")])


def encoded(mode, size=(13, 7), **options):
    """A picture of noise in a mode of Pillow."""
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), np.uint8)
    picture = Image.fromarray(noise if "A" in mode else noise[..., :3].copy())
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_pngs_of_every_kind_are_pillows(tmp_path, mode):
    data = encoded(mode)
    assert np.array_equal(packed(tmp_path, data).image(0), pillow(data))


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (300, 200)])
@pytest.mark.parametrize("level", [0, 9])
def test_plain_pngs_do_not_go_through_pillow(tmp_path, monkeypatch, size, level):
    data = encoded("RGB", size, compress_level=level)
    expected = pillow(data)
    monkeypatch.setattr(Image, "open", None)
    assert np.array_equal(packed(tmp_path, data).image(0), expected)


def test_a_png_with_more_chunks_is_pillows(tmp_path):
    about = PngImagePlugin.PngInfo()
    about.add_text("Title", "a house")
    about.add(b"gAMA", (22_000).to_bytes(4, "big"))
    data = encoded("RGB", pnginfo=about, transparency=(1, 2, 3), dpi=(72, 72))
    assert np.array_equal(packed(tmp_path, data).image(0), pillow(data))


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "GIF", "BMP"])
def test_other_formats_are_pillows(tmp_path, image_format):
    data = encoded("RGB", (40, 30), format=image_format)
    assert np.array_equal(packed(tmp_path, data).image(0), pillow(data))


def test_every_cut_is_refused_by_name_and_in_no_other_words(tmp_path, capfd):
    data = encoded("RGB")
    refused = 0
    for end in range(len(data) - 1):
        try:
            found = packed(tmp_path, data[:end]).image(0)
        except InputError as error:
            assert "image s0000000 cannot be read" in str(error)
            refused += 1
        else:  # only what follows the picture is missing
            assert np.array_equal(found, pillow(data))
    assert refused >= len(data) - 24  # all but the last checksum and the end
    assert capfd.readouterr() == ("", "")


def test_flipped_bits_give_what_pillow_gives(tmp_path, capfd):
    data = encoded("RGB")
    for place in range(8, len(data)):
        flipped = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        try:
            expected = pillow(flipped)
        except Exception:
            with pytest.raises(InputError, match="cannot be read"):
                packed(tmp_path, flipped).image(0)
        else:
            assert np.array_equal(packed(tmp_path, flipped).image(0), expected)
    assert capfd.readouterr() == ("", "")


def test_sound_chunks_around_nonsense_are_refused(tmp_path):
    data = encoded("RGB")
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at])
    body = b"IDAT" + b"x" * length
    broken = data[:at] + body + zlib.crc32(body).to_bytes(4) + data[at + 8 + length :]
    assert images._is_sound(broken)
    with pytest.raises(InputError, match="cannot be read"):
        packed(tmp_path, broken).image(0)
