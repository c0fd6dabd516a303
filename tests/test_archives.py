"""Where the files of a tar lie: as the standard library says, for plain and other archives."""

import io
import tarfile

import pytest

from cliplib.evaluate import archives
from cliplib.evaluate.archives import members


def write(path, names, form=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for place, name in enumerate(names):
            if name.endswith("/"):
                info = tarfile.TarInfo(name)
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            info = tarfile.TarInfo(name)
            info.size = 100 * place
            tar.addfile(info, io.BytesIO(bytes([place]) * info.size))


NAMES = ["a.png", "folder/", "folder/b.cls", "x" * 60 + "/" + "y" * 80 + ".txt", "ü.png", "c.webp"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_is_that_of_the_standard_library(tmp_path, form):
    path = tmp_path / "a.tar"
    write(path, [*NAMES, "z" * 200 + ".png"] if form != tarfile.USTAR_FORMAT else NAMES, form)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    assert [(m.name, m.offset, m.size) for m in members(path)] == expected


def test_plain_archives_do_not_need_the_standard_library(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    write(path, NAMES)
    monkeypatch.setattr(archives.tarfile, "open", lambda *_: pytest.fail("not plain"))
    assert len(members(path)) == 5


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    for content in (b"<html>", b"x" * 5000):
        path.write_bytes(content)
        with pytest.raises(tarfile.TarError):
            members(path)
