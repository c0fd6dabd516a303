"""The corpus: icons drawn and named by people, as image-text pairs.

`build` fetches a pinned archive of icon sets, filters by licence, reads names, draws, removes
duplicates, holds whole families of sets out, and writes webdataset shards with a manifest.
Reading order: pipeline, fetch, plan, sets, archive, names, render, neardup, split, tasks, captions,
write, shards, audit.
"""

from cliplib.corpus.fetch import cache_folder, fetch_npm
from cliplib.corpus.pipeline import Source, build
from cliplib.corpus.plan import Settings
from cliplib.corpus.shards import read_manifest, verify

__all__ = [
    "Settings",
    "Source",
    "build",
    "cache_folder",
    "fetch_npm",
    "read_manifest",
    "verify",
]
