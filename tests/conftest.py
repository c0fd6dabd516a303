"""Fixtures shared by the tests: the built corpus (real icons), never a stand-in for it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def corpus():
    """The built corpus; `make test` builds it first."""
    from cliplib.data import open_corpus

    folder = Path(os.environ.get("CLIPLIB_CORPUS", ROOT / "data" / "icons"))
    if not (folder / "manifest.json").exists():
        pytest.fail(f"no corpus in {folder}: run make corpus")
    return open_corpus(folder)


@pytest.fixture(scope="session")
def corpus_built(corpus):
    """The same, for modules where `corpus` is a module's name."""
    return corpus
