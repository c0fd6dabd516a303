"""Shards that are elsewhere: servers that cut, stall or refuse, and commands that fail."""

import http.server
import io
import socketserver
import tarfile
import threading
import time
from collections import Counter

import pytest

from cliplib import InputError
from cliplib.data import faults, preflight, remote, samples
from cliplib.data.faults import Fault
from cliplib.data.preflight import check_reachable
from cliplib.data.remote import open_shard
from cliplib.data.stream import ShardFeed, ShardSource


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.01, 0.02))
    monkeypatch.setattr(remote, "BUFFER", 4096)


def tar_bytes(keys):
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(picture, "png")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key in keys:
            for name, content in (
                (f"{key}.png", picture.getvalue()),
                (f"{key}.txt", b"thing " + key.encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``files``; cuts a file's connections as often as ``cuts`` says, each after 20,000 bytes."""

    files: dict[str, bytes]
    cuts: dict[str, int]
    ranges = True
    refused: dict[str, int]
    asked: list[tuple[str, str | None]]

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append((self.path, wanted))
        if self.refused.get(self.path) or self.path not in self.files:
            self.send_error(self.refused.get(self.path, 404))
            return
        content, start = self.files[self.path], 0
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.cuts.get(self.path, 0) > 0 and not (wanted or "").endswith("-511"):
            self.cuts[self.path] -= 1
            self.wfile.write(content[start : start + 20_000])
            self.connection.close()
        else:
            self.wfile.write(content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"files": {}, "cuts": {}, "refused": {}, "asked": []})

    class Quiet(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    with Quiet(("127.0.0.1", 0), handler) as listening:
        handler.url = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield handler
        listening.shutdown()


CONTENT = tar_bytes([f"{n:03}" for n in range(60)])


# ---------------------------------------------------------------------------------------- web servers


def test_a_cut_connection_goes_on_where_it_broke(server):
    server.files["/a.tar"], server.cuts["/a.tar"] = CONTENT, 3
    with open_shard(f"{server.url}/a.tar") as stream:
        assert stream.read() == CONTENT
    ranges = [wanted for _, wanted in server.asked]
    assert ranges == [None, "bytes=20000-", "bytes=40000-", "bytes=60000-"]


def test_a_server_without_ranges_is_read_again_from_the_start(server):
    server.files["/a.tar"], server.cuts["/a.tar"], server.ranges = CONTENT, 3, False
    with open_shard(f"{server.url}/a.tar") as stream:
        assert stream.read() == CONTENT


def test_a_connection_that_is_always_cut_ends_and_is_counted(server):
    server.files["/a.tar"], server.cuts["/a.tar"] = tar_bytes([f"{n}" for n in range(200)]), 99
    bad = Counter()
    kept = list(samples([f"{server.url}/a.tar"], bad))
    assert 30 < len(kept) < 200 and bad == {faults.CONNECTION_CUT: 1}
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("code", "kind", "tries"),
    [
        (404, faults.MISSING_SHARD, 1),
        (403, faults.MISSING_SHARD, 1),
        (503, faults.UNREADABLE_SHARD, 4),
    ],
)
def test_refusals_are_final_and_troubles_are_tried_again(server, code, kind, tries):
    server.files["/a.tar"], server.refused["/a.tar"] = CONTENT, code
    with open_shard(f"{server.url}/a.tar") as stream, pytest.raises(Fault) as caught:
        stream.read()
    assert caught.value.kind == kind and len(server.asked) == tries


def test_a_silent_server_is_given_up(monkeypatch):
    monkeypatch.setattr(remote, "SILENCE", 0.1)
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as silent:
        start = time.monotonic()  # it listens and never answers
        url = f"http://127.0.0.1:{silent.server_address[1]}/a.tar"
        with open_shard(url) as stream, pytest.raises(Fault) as caught:
            stream.read()
        assert caught.value.kind == faults.UNREADABLE_SHARD and time.monotonic() - start < 5


def test_a_run_over_a_server_that_cuts_and_loses_shards_is_exact_and_counted(server):
    for n in range(8):
        server.files[f"/{n}.tar"] = tar_bytes([f"{n}-{k}" for k in range(30)])
        server.cuts[f"/{n}.tar"] = n % 3
    source = ShardSource((f"{server.url}/{{0..7}}.tar",), lanes=4, shuffle=20)
    feed = ShardFeed(source, 8, 8)
    keys = [key for _ in range(30) for key in feed.next().keys]
    assert sorted(keys) == sorted(f"{n}-{k}" for n in range(8) for k in range(30))
    assert feed.counts()["faults"]["kinds"] == {}
    feed.close()
    del server.files["/3.tar"]
    feed = ShardFeed(source, 8, 8)
    for _ in range(50):
        feed.next()
    lost = feed.counts()["faults"]
    assert set(lost["kinds"]) == {faults.MISSING_SHARD} and lost["lost"] == [f"{server.url}/3.tar"]
    feed.close()


def test_before_training_the_first_and_last_shards_are_asked_for(server):
    for n in (0, 1, 2, 3, 5, 6):
        server.files[f"/{n}.tar"] = CONTENT
    urls = [f"{server.url}/{n}.tar" for n in range(7)]
    check_reachable(urls)  # the one in the middle is found out during training
    assert {path for path, _ in server.asked} == {"/0.tar", "/1.tar", "/5.tar", "/6.tar"}
    assert {wanted for _, wanted in server.asked} == {"bytes=0-511"}
    with pytest.raises(InputError, match=r"/4.tar: the server says 404"):
        check_reachable(urls[:5])


def test_a_dead_or_silent_server_is_refused_within_five_seconds(monkeypatch):
    assert preflight.SECONDS + 0.5 < 5
    monkeypatch.setattr(preflight, "SECONDS", 0.5)
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as silent:
        port = silent.server_address[1]
        start = time.monotonic()
        with pytest.raises(InputError, match="no answer within"):
            check_reachable([f"http://127.0.0.1:{port}/{n}.tar" for n in range(9)])
        assert time.monotonic() - start < 3
    with pytest.raises(InputError, match="cannot be reached"):
        check_reachable([f"http://127.0.0.1:{port}/0.tar"])


# ------------------------------------------------------------------------------------------- commands


def test_a_command_gives_the_shard(tmp_path):
    (tmp_path / "a.tar").write_bytes(CONTENT)
    with open_shard(f"pipe:cat '{tmp_path}/a.tar' | cat") as stream:
        assert stream.read() == CONTENT


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("exit 3", faults.UNREADABLE_SHARD),
        ("head -c 20000 /dev/zero; exit 1", faults.CONNECTION_CUT),
    ],
)
def test_a_command_that_fails_is_a_fault(command, kind):
    with open_shard(f"pipe:{command}") as stream, pytest.raises(Fault) as caught:
        stream.read()
    assert caught.value.kind == kind


def test_a_command_that_prints_nothing_more_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "COMMAND_SILENCE", 0.2)
    mark = tmp_path / "alive"
    command = f"pipe:echo start; (sleep 1; touch {mark}) | cat; true"
    with open_shard(command) as stream, pytest.raises(Fault, match="nothing for"):
        stream.read()
    time.sleep(1.2)
    assert not mark.exists()


def test_a_tool_is_called_by_its_words_and_tried_again(tmp_path, monkeypatch):
    tool = tmp_path / "aws"
    (tmp_path / "a.tar").write_bytes(CONTENT)
    tool.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f"[ $(wc -l < {tmp_path}/calls) -gt 1 ] || {{ head -c 9000 {tmp_path}/a.tar; exit 1; }}\n"
        f"cat {tmp_path}/a.tar\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with open_shard("s3://bucket/a b;$(x).tar") as stream:
        assert stream.read() == CONTENT
    assert (tmp_path / "calls").read_text().splitlines() == [
        "s3 cp --quiet s3://bucket/a b;$(x).tar -"
    ] * 2


def test_a_bucket_without_its_tool_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"s3:// needs the command 'aws'"):
        check_reachable(["s3://bucket/0.tar"])
