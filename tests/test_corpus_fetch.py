"""Fetching: pins, cache, and every way in which a download fails. Nothing leaves this machine."""

import base64
import errno
import hashlib
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from cliplib import InputError
from cliplib.corpus import fetch
from cliplib.corpus.fetch import disk_errors, fetch_npm, npm_command


def integrity(content):
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


@pytest.fixture
def cached(tmp_path):
    """A cache that holds one package."""
    content = b"an archive"
    (tmp_path / "scope-thing-1.0.0.tgz").write_bytes(content)
    return tmp_path, content


@pytest.fixture
def no_npm(monkeypatch):
    monkeypatch.setattr(fetch, "_run_npm", lambda *_: pytest.fail("npm was called"))


@pytest.fixture
def npm_packs(monkeypatch):
    """Stands in for npm: writes the given bytes where `npm pack` would."""

    def pretend(content):
        def run(arguments, work, *_):
            if arguments[0] == "pack":
                (work / "scope-thing-1.0.0.tgz").write_bytes(content)

        monkeypatch.setattr(fetch, "_run_npm", run)

    return pretend


def test_a_cached_archive_is_used_without_npm(cached, no_npm):
    folder, content = cached
    archive = fetch_npm("@scope/thing", "1.0.0", integrity(content), cache=folder)
    assert archive.read_bytes() == content


@pytest.mark.parametrize("offline", [False, True])
def test_a_damaged_archive_is_named_and_kept(cached, no_npm, offline):
    folder, content = cached
    with pytest.raises(InputError, match=r"damaged archive .*scope-thing-1\.0\.0\.tgz.*delete"):
        fetch_npm("@scope/thing", "1.0.0", integrity(content + b"!"), cache=folder, offline=offline)
    assert [path.name for path in folder.iterdir()] == ["scope-thing-1.0.0.tgz"]


def test_offline_without_the_archive_says_what_to_do(tmp_path, no_npm):
    with pytest.raises(
        InputError, match=r"scope-thing-1\.0\.0\.tgz is not in the cache.*--offline"
    ):
        fetch_npm("@scope/thing", "1.0.0", "sha512-x", cache=tmp_path / "new", offline=True)
    assert not (tmp_path / "new").exists()


def test_a_fetched_archive_is_checked_before_it_enters_the_cache(tmp_path, npm_packs):
    npm_packs(b"not what was pinned")
    with pytest.raises(InputError, match="damaged archive"):
        fetch_npm("@scope/thing", "1.0.0", integrity(b"good"), cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    npm_packs(b"good")
    archive = fetch_npm("@scope/thing", "1.0.0", integrity(b"good"), cache=tmp_path)
    assert list(tmp_path.iterdir()) == [archive]


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch, npm_packs):
    monkeypatch.setenv("CLIPLIB_CACHE", str(tmp_path / "elsewhere"))
    npm_packs(b"good")
    archive = fetch_npm("@scope/thing", "1.0.0", integrity(b"good"))
    assert archive == tmp_path / "elsewhere" / "scope-thing-1.0.0.tgz"


def test_a_full_disk_is_found_before_the_download(tmp_path, no_npm, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 9, 1e6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"not enough disk space .* 1 MB free"):
        fetch_npm("@scope/thing", "1.0.0", "sha512-x", cache=tmp_path)


def test_a_disk_that_fills_up_on_the_way_is_one_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"no disk space left .* free some space"),
        disk_errors(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        raise FileNotFoundError("another fault stays what it is")


def test_npm_is_this_environments_own(tmp_path, monkeypatch):
    for name in ("npm", "node"):
        poison = tmp_path / name
        poison.write_text("#!/bin/sh\nexit 7\n")
        poison.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    command = npm_command()
    assert all(Path(part).is_relative_to(Path(sys.prefix)) for part in command)
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.count(".") == 2


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_an_unreachable_registry_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{closed_port()}/")
    cache = tmp_path / "cache"
    with pytest.raises(InputError) as raised:
        fetch_npm("@scope/thing", "1.0.0", "sha512-x", cache=cache)
    message = str(raised.value)
    assert "no npm registry within reach" in message
    assert "scope-thing-1.0.0.tgz" in message
    assert "--offline" in message
    assert "\n" not in message
    assert list(cache.iterdir()) == []


def test_a_registry_that_never_answers_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PROBE_TIMEOUT_S", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(InputError, match="no npm registry within reach"):
            fetch_npm("@scope/thing", "1.0.0", "sha512-x", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_version_is_told_from_a_missing_registry(tmp_path, monkeypatch):
    answers = ["npm error code E404", "npm error 404 No match found for version 9.9.9"]
    error = fetch._npm_error(answers, "@scope/thing@9.9.9", tmp_path)
    assert isinstance(error, InputError)
    assert "could not fetch @scope/thing@9.9.9" in str(error)
    assert "404" in str(error)


def test_npm_out_of_disk_space_is_reported_as_that(tmp_path):
    with pytest.raises(InputError, match="no disk space left"), disk_errors(tmp_path):
        raise fetch._npm_error(["npm error code ENOSPC"], "@scope/thing@1.0.0", tmp_path)
