"""Two explorers that run in a rendered page, without a kernel and without a network.

`law_explorer` and `curve_explorer` give the HTML of one chapter cell: data as JSON, scripts, and a
table of facts for readers without scripts. ``statistics.js`` states the statistics of
`cliplib.laws` once more; a test holds it to the same numbers. Reading order: here, then ``law`` and
``curves`` (what the page is given), ``statistics.js``, ``chart.js``, ``law.js``, ``curves.js``.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pandas as pd

from cliplib import published
from cliplib.explorer.curves import curve_data, curves_table
from cliplib.explorer.law import exponents, exponents_table, forecast, law_data
from cliplib.figures import table_html

__all__ = [
    "curve_data",
    "curve_explorer",
    "curves_table",
    "exponents",
    "exponents_table",
    "forecast",
    "law_data",
    "law_explorer",
    "script",
]

SCRIPTS = Path(__file__).parent
NO_SCRIPT = (
    "<noscript><p>The explorer needs a browser that runs scripts. "
    "The table below holds its facts.</p></noscript>"
)


def law_explorer() -> str:
    """The law explorer: task, frontier and runs chosen by the reader, fitted in the page."""
    facts = "Exponents of every task and frontier, as a table", exponents_table(exponents())
    sources = ("scaling-laws-openclip", "open-clip")
    return _block("law", "Law explorer", law_data(), facts, sources)


def curve_explorer() -> str:
    """The learning-curve explorer: up to six runs, with their sudden drops marked."""
    facts = "Every run as a table", curves_table()
    sources = ("scaling-laws-openclip",)
    return _block("curves", "Learning-curve explorer", curve_data(), facts, sources)


def _block(
    kind: str,
    title: str,
    data: dict[str, Any],
    facts: tuple[str, pd.DataFrame],
    sources: tuple[str, ...],
) -> str:
    """One explorer: what works without scripts first, then the data, then the scripts."""
    summary, table = facts
    source = html.escape("; ".join(map(published.credit, sources)))
    packed = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<section class="explorer" data-explorer="{kind}" aria-label="{html.escape(title)}">'
        f'{NO_SCRIPT}<div class="explorer-app"></div>'
        f'<details class="explorer-facts" open><summary>{html.escape(summary)}</summary>'
        f'{table_html(table)}</details><p class="explorer-note">Source: {source}</p>'
        f'<script type="application/json">{packed}</script></section>'
        f"<script>{script(kind)}</script>"
    )


def script(kind: str) -> str:
    """The scripts of one explorer (``law`` or ``curves``) in a scope of their own."""
    files = ("statistics", "chart", kind)
    code = "\n".join((SCRIPTS / f"{name}.js").read_text(encoding="utf-8") for name in files)
    return f'(function () {{\n"use strict";\n{code}\nstart();\n}})();'
