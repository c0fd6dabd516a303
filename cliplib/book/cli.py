"""The verb ``book``: build it, or do one part of that."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from cliplib import InputError

PARTS = {
    "build": "prepare, execute and render the chapters, check the pages (the default)",
    "prepare": "fetch MathJax, place the example run, drop what is stale",
    "check": "look through the built pages",
    "corpus": "write the committed summary of the built corpus",
    "picture": "draw the README's picture from the committed study",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib book``."""
    parser.epilog = "example: python -m cliplib book --scale nano"
    what = "; ".join(f"{part}: {help}" for part, help in PARTS.items())
    parser.add_argument("part", nargs="?", choices=PARTS, default="build", help=what)
    parser.add_argument("--book", type=Path, default=Path("book"), help="the book's folder")
    parser.add_argument("--data", type=Path, default=Path("data/icons"), help="the built corpus")
    parser.add_argument("--scale", default="nano", help="whose largest run to show as a page")
    parser.add_argument("--offline", action="store_true", help="use the download cache only")
    parser.add_argument("--verbose", action="store_true", help="every line of the engine")


def run(args: argparse.Namespace) -> int:
    """Do the part asked for. InputError where the folder holds no book, or no corpus is built."""
    if not (args.book / "_config.yml").exists():
        raise InputError(f"{args.book} holds no _config.yml: run from the project's folder")
    parts: dict[str, Callable[[argparse.Namespace], int]] = {
        "build": _build,
        "prepare": _prepare,
        "check": _check,
        "corpus": _corpus,
        "picture": _picture,
    }
    return parts[args.part](args)


def _build(args: argparse.Namespace) -> int:
    from cliplib.book.build import build

    return build(args.book, args.scale, args.offline, args.verbose)


def _prepare(args: argparse.Namespace) -> int:
    from cliplib.book.prepare import prepare

    prepare(args.book, args.scale, args.offline)
    return 0


def _check(args: argparse.Namespace) -> int:
    from cliplib.book.check import check_site

    site = args.book / "_build/html"
    faults = check_site(site)
    print("\n".join([*faults, f"{site}: {len(faults)} fault(s)" if faults else f"{site}: sound"]))
    return int(bool(faults))


def _corpus(args: argparse.Namespace) -> int:
    from cliplib.book.corpus import corpus_summary
    from cliplib.records import write_atomic

    manifest = args.data / "manifest.json"
    if not manifest.exists():
        raise InputError(f"{manifest} is missing: run `cliplib corpus --out {args.data}` first")
    summary = corpus_summary(json.loads(manifest.read_text()))
    out = args.book / "data/corpus.json"
    write_atomic(out, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    print(out)
    return 0


def _picture(args: argparse.Namespace) -> int:
    from cliplib.book.study import picture
    from cliplib.records import write_atomic

    out = args.book / "_static/result.png"
    write_atomic(out, picture(args.book / "data/runs.csv", args.scale))
    print(out)
    return 0
