"""Findings and claims as entries on a page: sentences are too long for the cells of a table."""

from __future__ import annotations

import html
from collections.abc import Hashable, Mapping

import pandas as pd


def entries_html(rows: pd.DataFrame, head: str, fields: dict[str, str]) -> str:
    """One entry a row: number and `head` in bold, then each field under its label, then a link.

    rows: columns id, chapter (a page in the same folder), `head` and those of `fields` (column ->
    label). Text is escaped; an empty field is left out.
    """
    entries = "".join(_entry(row, head, fields) for row in rows.to_dict("records"))
    return f'<div class="entries">{entries}</div>'


def _entry(row: Mapping[Hashable, object], head: str, fields: dict[str, str]) -> str:
    lines = "".join(
        f"<li><em>{html.escape(label)}:</em> {_text(row[column])}</li>"
        for column, label in fields.items()
        if str(row[column]).strip()
    )
    link = f'<a href="{html.escape(str(row["chapter"]))}.html">more</a>'
    return (
        f"<p><strong>{_text(row['id'])}. {_text(row[head])}</strong> ({link})</p><ul>{lines}</ul>"
    )


def _text(value: object) -> str:
    text = str(value)
    return html.escape(text[:1].upper() + text[1:])
