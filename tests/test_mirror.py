"""A data set behind an address: copied once, goes on where it stopped, the hub's two roots."""

import http.server
import threading

import numpy as np
import pytest
from evaluate_things import classification

from cliplib import InputError
from cliplib.data import remote
from cliplib.evaluate import mirror
from cliplib.evaluate.mirror import is_remote, local_copy
from cliplib.evaluate.wds import read_task, write_task


@pytest.fixture()
def server(tmp_path, monkeypatch):
    """Files below a folder on a loopback port; counts what is asked for."""
    monkeypatch.setattr(remote, "PAUSES", ())
    monkeypatch.setenv("CLIPLIB_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "www"
    root.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", root, asked
        running.shutdown()


def test_a_data_set_is_copied_once_and_read_like_a_folder(server):
    address, root, asked = server
    write_task(classification(), root / "wds_noise", shard_images=10)
    task = read_task(f"{address}/wds_noise")
    assert task.name == "noise" and len(task.images) == 30 and task.templates == ("a {c}", "{c}")
    count = len([path for path in asked if path.endswith(".tar")])
    again = read_task(f"{address}/wds_noise")
    assert len([path for path in asked if path.endswith(".tar")]) == count == 3
    assert np.array_equal(again.labels, task.labels)


def test_the_hubs_texts_and_archives_come_from_their_own_roots(server):
    address, root, _ = server
    write_task(classification(), root / "whole")
    base = root / "datasets" / "org" / "wds_noise"
    for name in ("raw", "resolve"):
        (base / name / "main" / "test").mkdir(parents=True)
    for text in ("classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt"):
        (base / "raw" / "main" / text).write_bytes((root / "whole" / text).read_bytes())
    tar = "test/0.tar"
    (base / "resolve" / "main" / tar).write_bytes((root / "whole" / tar).read_bytes())
    task = read_task(f"{address}/datasets/org/wds_noise/tree/main")
    assert task.name == "noise" and len(task.images) == 30


def test_a_copy_that_broke_off_goes_on(server):
    address, root, asked = server
    write_task(classification(), root / "d", shard_images=10)
    last = root / "d" / "test" / "2.tar"
    kept = last.read_bytes()
    last.unlink()
    with pytest.raises(InputError, match=r"2\.tar: missing shard.*run it again"):
        local_copy(f"{address}/d", "test")
    last.write_bytes(kept)
    asked.clear()
    folder = local_copy(f"{address}/d", "test")
    assert [path for path in asked if path.endswith(".tar")] == ["/d/test/2.tar"]
    assert not list(folder.rglob("*.tmp"))


def test_what_is_not_there_is_said_in_a_line(server):
    address, root, _ = server
    write_task(classification(), root / "d")
    with pytest.raises(InputError, match=r"train/nshards\.txt: missing shard") as error:
        local_copy(f"{address}/d", "train")
    assert "\n" not in str(error.value)
    (root / "d" / "test" / "nshards.txt").write_text("<html>")
    with pytest.raises(InputError, match="no number"):
        local_copy(f"{address}/d", "test")


def test_addresses_are_told_from_folders():
    assert is_remote("https://a/b") and is_remote("s3://a/b")
    assert not is_remote("data/wds_cars") and mirror.HUB.match("https://h/datasets/o/n/tree/main")
