"""Small tables, as markdown for people and as JSON for programs."""

from typing import Any

import numpy as np
import pandas as pd


def markdown(table: pd.DataFrame) -> str:
    """A small markdown table: numbers to four digits, missing ones as a dash."""
    head = f"| {' | '.join(map(str, table.columns))} |"
    rows = [f"| {' | '.join(map(_cell, row))} |" for row in table.itertuples(index=False)]
    return "\n".join([head, "| " + " | ".join("---" for _ in table.columns) + " |", *rows])


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    return str(value)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON-ready dicts; a missing or infinite number is None."""
    return [
        {str(key): _plain(value) for key, value in row.items()}
        for row in table.to_dict(orient="records")
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def with_error(table: pd.DataFrame) -> pd.DataFrame:
    """A long table of metrics (columns metric, value) with the column ``error`` that laws are fitted to.

    1 - value, but for ``infonce``, a loss, its share of the loss of guessing (value / chance). A
    table that has ``error``, or is not long, comes back as it is.
    """
    if "error" in table.columns or not {"metric", "value"} <= set(table.columns):
        return table
    value = pd.to_numeric(table["value"], errors="coerce")
    loss = table["metric"] == "infonce"
    if loss.any():
        share = value / pd.to_numeric(table["chance"], errors="coerce")
        return table.assign(error=share.where(loss, 1 - value))
    return table.assign(error=1 - value)
