"""Image-text data on the web: which links still answer, and what can be had today.

Every fact names the entry of ``book/references.bib`` it is from and the month it is of. For the chapter
"Going bigger".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.figures import MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CC3M, CC12M = 3_318_333, 12_423_374  # links in their lists
CC12M_LEFT = 7_740_121  # that gave a picture in October 2025 ("cc12m9")


# ------------------------------------------------------------------------------------ links that rot


@dataclass(frozen=True)
class Report:
    """Someone's report of how many links of a data set still gave a picture."""

    data: str
    when: str  # year-month
    share: float
    source: str  # entry of book/references.bib


REPORTS = (
    Report("CC3M", "2021-12", 2_905_954 / CC3M, "cc3mwds"),
    Report("CC3M", "2024-01", 0.70, "img2dataset391"),
    Report("CC12M", "2025-10", CC12M_LEFT / CC12M, "cc12m9"),
    Report("LAION-400M", "2023-02", 0.87, "img2dataset277"),
    Report("LAION-400M", "2024-02", 0.68, "img2dataset400"),
    Report("CommonPool", "2023-05", 0.91, "datacomp3"),
    Report("CommonPool", "2023-08", 0.865, "datacomp39"),
    Report("DataComp-1B", "2023-05", 0.96, "vitamin3"),
    Report("DataComp-1B", "2023-07", 0.884, "datacomp41"),
)


def survival() -> pd.DataFrame:
    """`REPORTS` as a table: data, when (first of the month), share, source."""
    found = pd.DataFrame([vars(report) for report in REPORTS])
    return found.assign(when=pd.to_datetime(found["when"], format="%Y-%m"))


def lost_a_month(reports: pd.DataFrame, data: str) -> float:
    """Share of the links left that is lost each month, between a data set's first and last report.

    Raises:
        InputError: fewer than two reports at different times.
    """
    rows = reports[reports["data"] == data].sort_values("when")
    if rows["when"].nunique() < 2:
        raise InputError(f"{data}: a rate needs reports of two months")
    first, last = rows.iloc[0], rows.iloc[-1]
    months = (last["when"] - first["when"]).days / 365.25 * 12
    return float(1 - (last["share"] / first["share"]) ** (1 / months))


def survival_picture(reports: pd.DataFrame) -> Figure:
    """Share of links that still gave a picture, by the month of fetching, one mark a report."""
    import matplotlib.pyplot as plt
    from matplotlib.dates import YearLocator

    fig, ax = plt.subplots(layout="constrained")
    for i, (data, rows) in enumerate(reports.groupby("data", sort=False)):
        _series(ax, rows.sort_values("when"), i, str(data))
    ax.set(ylim=(50, 100), ylabel="links that gave a picture (%)", xlabel="when they were fetched")
    ax.xaxis.set_major_locator(YearLocator())
    ax.grid(True, axis="y")
    fig.legend(loc="outside lower center", ncols=3)
    return fig


def _series(ax: Axes, rows: pd.DataFrame, i: int, label: str) -> None:
    look: dict[str, Any] = {"color": PALETTE[i], "marker": MARKERS[i], "linestyle": ":"}
    ax.plot(np.asarray(rows["when"]), 100 * rows["share"], label=label, **look)


# ----------------------------------------------------------------------------- what can be had today


@dataclass(frozen=True)
class Release:
    """A data set as its page, or another source, described it at that time."""

    name: str
    pairs: float
    state: str
    when: str
    source: str  # entry of book/references.bib


REMOVED_LINKS = 2_236  # from LAION-5B to Re-LAION-5B ("relaion")
CHILDREN_FOUND = 362 + 358  # Australian and Brazilian ("hrw2024")
RELEASES = (
    Release("LAION-5B, 2B-en and 400M", 5.85e9, "withdrawn", "2023-12", "aiid3555"),
    Release("Re-LAION-5B, both versions", 5_526_641_167, "links, at request", "2024-08", "relaion"),
    Release("Re-LAION-2B-en, research", 2.16e9, "links, at request", "2025-10", "relaionhub"),
    Release("Re-LAION-2B-en, research-safe", 2.1e9, "links, at request", "2025-10", "relaionhub"),
    Release("Re-LAION-400M", 361e6, "links, at request", "2026-01", "relaion400m"),
    Release("CommonPool, largest of four", 12.8e9, "links", "2023-04", "datacomp"),
    Release("CommonPool, smallest", 12.8e6, "links", "2023-04", "datacomp"),
    Release("CC12M", CC12M, "links", "2025-10", "cc12m9"),
    Release("CC12M as fetched by 2023", 11e6, "pictures in shards", "2023-12", "cc12mwds"),
    Release("CC3M", CC3M, "links", "2024-01", "img2dataset391"),
    Release("CC3M as fetched in 2021", 2_905_954, "pictures in shards", "2023-12", "cc3mwds"),
    Release("RedCaps", 12e6, "links", "2021-11", "redcaps"),
)  # fmt: skip


def release_table() -> pd.DataFrame:
    """`RELEASES` for readers."""
    return pd.DataFrame(
        {
            "data set": [r.name for r in RELEASES],
            "pairs (millions)": [f"{r.pairs / 1e6:,.1f}" for r in RELEASES],
            "what can be had": [r.state for r in RELEASES],
            "as of": [r.when for r in RELEASES],
        }
    )
