"""What the book needs around its chapters: preparing a build, checking a built site.

Reading order: ``prepare`` (MathJax, the run shown as a page, nothing stale), ``build``, ``check``;
``corpus`` and ``study`` turn manifest and records into what chapters show. Listed as a Sphinx
extension, this package drops stale results however the build was started.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliplib.book.cli import add_arguments, run

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["add_arguments", "run", "setup"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx extension: refuse to build without MathJax, and never show a stale result."""
    from sphinx.errors import ExtensionError

    from cliplib.book.prepare import MATHJAX, drop_stale

    book = Path(app.srcdir)
    if not (book / MATHJAX).exists():
        raise ExtensionError("MathJax is missing: run `python -m cliplib book prepare` first")
    drop_stale(book)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
