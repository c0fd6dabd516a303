"""The verb `corpus`: build the icon corpus."""

import argparse
from pathlib import Path

EXAMPLE = """example:
  cliplib corpus --out data/icons             # the whole corpus: some minutes, about 800 MB
  cliplib corpus --out /tmp/few --pairs 2000  # only the first 2,000 training groups
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.description = "Build the corpus of icons and their names: shards and manifest."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to build in")
    parser.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="write only the first N training groups, one pair each (default: all)",
    )
    parser.add_argument(
        "--offline", action="store_true", help="use the download cache only, never the network"
    )


def run(args: argparse.Namespace) -> None:
    """Build the corpus and print what it holds; what goes wrong is an InputError."""
    from cliplib.corpus.pipeline import build
    from cliplib.corpus.shards import read_manifest

    folder = build(args.out, offline=args.offline, pairs=args.pairs)
    manifest = read_manifest(folder)
    splits = manifest["splits"]
    held = sum(count for name, count in splits.items() if name.startswith("test-"))
    print(
        f"{folder}: {splits['train']:,} training groups (and {splits['variants']:,} variants), "
        f"{splits['val']:,} validation and {held:,} held-out pairs of {len(manifest['sets'])} sets, "
        f"corpus {manifest['corpus_hash'][:12]}"
    )
