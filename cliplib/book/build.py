"""Build the book: prepare, run the engine with warnings fatal, check the pages."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from cliplib.book.check import check_site
from cliplib.book.prepare import prepare

# The kernel announces on each start that it talks over TCP; on this machine only, so no news.
_NOISE = re.compile(r"IPKernelApp|^\s*$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FAULT = re.compile(r"WARNING:|ERROR:|CRITICAL:|Error:|^Exception|error:")
_SHOWN = re.compile(r"Executing notebook|Executed notebook|^build |pages are in")


def build(book: Path, scale: str = "nano", offline: bool = False, verbose: bool = False) -> int:
    """Build `book` into ``_build/html``; returns 0, or 1 with the faults as the last lines.

    scale: whose largest run is shown as a page. verbose: every line the engine writes.
    """
    start = time.monotonic()
    prepare(book, scale, offline)
    lines = list(_engine(book, verbose))
    status, faults = int(lines.pop()), [line for line in lines if _FAULT.search(line)]
    if status == 0:
        faults = check_site(book / "_build/html")
    for fault in faults[-20:]:
        print(fault, file=sys.stderr)
    if status or faults:
        print(f"book: not built, {len(faults)} fault(s) above", file=sys.stderr)
        return 1
    print(f"{book / '_build/html/index.html'} ({time.monotonic() - start:.0f} s)")
    return 0


def _engine(book: Path, verbose: bool) -> Iterator[str]:
    """Run jupyter-book, print what a reader wants to see, yield all lines and the exit status."""
    code = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "build", str(book), "-W", "--keep-going"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in clean(process.stdout):
            if verbose or _SHOWN.search(line):
                print(line, flush=True)
            yield line
    yield str(process.returncode)


def clean(lines: Iterable[str]) -> Iterator[str]:
    """Lines without terminal colours, empty lines and the kernel's announcement."""
    for line in lines:
        plain = _COLOUR.sub("", line).rstrip()
        if not _NOISE.search(plain):
            yield plain
