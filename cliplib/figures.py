"""The house plot style: one figure for light pages, dark pages, grey print and phones.

Reading order: the look (`PALETTE`, `style`, `look`), a figure as HTML (`show`), a number in the
prose (`glue`), then the figures that recur. Inline SVG whose ink is ``currentColor`` follows the
page's theme; a PNG twin serves readers without HTML. Matplotlib is imported where it is used.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.etree import ElementTree

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Six colours with contrast >= 3 on white and on the dark page, at least 17 CIELAB units apart
# under protan-, deuter- and tritanopia, and with evenly spaced lightness for grey print.
PALETTE = ("#4364ee", "#d86d10", "#09a97e", "#b34dc4", "#696b34", "#f23450")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINESTYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
INK = "#1f2328"  # stands for the page's text colour; never use it for anything else
SIZE = (5.2, 3.5)  # inches: text is 14 px at full width and still about 9 px on a phone
TABLE_ROWS_SHOWN = 40

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}"
_counter = itertools.count(1)


def style() -> None:
    """Set the house style for every figure drawn after it (seaborn theme and rc parameters)."""
    import seaborn as sns
    from cycler import cycler

    cycle = cycler(color=PALETTE) + cycler(linestyle=LINESTYLES)
    sns.set_theme(
        style="ticks",
        palette=list(PALETTE),
        rc={
            **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "grid.color"), INK),
            **dict.fromkeys(("xtick.color", "ytick.color", "axes.titlecolor"), INK),
            **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
            **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
            **dict.fromkeys(("axes.titlesize", "axes.labelsize", "font.size"), 11),
            **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 10),
            "axes.prop_cycle": cycle,
            "figure.figsize": SIZE,
            "grid.alpha": 0.15,
            "svg.fonttype": "none",  # text stays text: selectable, searchable, small
            "svg.hashsalt": "cliplib",
        },
    )


def look(i: int) -> dict[str, Any]:
    """Colour, marker and line style number `i`, told apart also in grey: keywords for `plot`."""
    n = i % len(PALETTE)
    return {"color": PALETTE[n], "marker": MARKERS[n], "linestyle": LINESTYLES[n]}


# ------------------------------------------------------------------------------ a figure as HTML


def show(
    fig: Figure,
    alt: str,
    table: pd.DataFrame | None = None,
    source: str | None = None,
    name: str | None = None,
) -> None:
    """Display `fig` as one output (inline SVG, PNG twin, plain text) and close it.

    alt: what the figure shows, in words; required. table: the numbers behind it, offered as CSV
    and, if short, as a folded table. source: where the numbers come from. name: file name of the
    CSV and anchor of the figure. Raises ValueError for an empty alt text.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display

    if not alt.strip():
        raise ValueError("a figure needs alt text that says what it shows")
    number = next(_counter)
    svg = svg_markup(fig, alt, salt=str(number))
    png = _png(fig)
    plt.close(fig)
    block = figure_html(svg, table, source, name or f"figure-{number}")
    twin = base64.b64encode(png).decode()
    display({"text/html": block, "image/png": twin, "text/plain": alt}, raw=True)


def svg_markup(fig: Figure, alt: str, salt: str = "") -> str:
    """`fig` as inline SVG: the page's ink, escaped alt text, ids that no other figure uses.

    The same figure, alt and salt give the same bytes; figures on one page differ by their salt.
    """
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "cliplib", "svg.fonttype": "none"}):
        fig.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = out.getvalue().replace(INK, "currentColor")
    prefix = "f" + hashlib.sha256((salt + alt + text).encode()).hexdigest()[:10]
    root = ElementTree.fromstring(text)
    _drop_page_wide_parts(root)
    _rename_ids(root, prefix)
    root.attrib |= {
        "role": "img",
        "aria-label": alt,
        "class": "ink",
        "style": "max-width:100%;height:auto",
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _drop_page_wide_parts(root: ElementTree.Element) -> None:
    """Remove metadata and matplotlib's ``* {...}`` style, which would apply to the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)


def _rename_ids(root: ElementTree.Element, prefix: str) -> None:
    """Prefix the ids that are referred to, drop the rest, and use plain ``href``."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', ElementTree.tostring(root, "unicode")))
    for element in root.iter():
        identifier = element.attrib.pop("id", None)
        if identifier in used:
            element.set("id", f"{prefix}-{identifier}")
        link = element.attrib.pop(f"{_XLINK}href", None)
        if link is not None:
            element.set("href", link.replace("#", f"#{prefix}-", 1) if link[0] == "#" else link)
        for key, value in element.attrib.items():
            element.set(key, value.replace("url(#", f"url(#{prefix}-"))


def _png(fig: Figure) -> bytes:
    """The PNG twin, on white so that the ink is readable wherever it is pasted."""
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=110, bbox_inches="tight", facecolor="white")
    return out.getvalue()


def figure_html(svg: str, table: pd.DataFrame | None, source: str | None, name: str) -> str:
    """The figure with its source line, a link to its table as CSV and, if short, the table."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "figure"
    notes = [f"Source: {html.escape(source)}"] if source else []
    folded = ""
    if table is not None:
        csv = quote(table.to_csv(index=False, lineterminator="\n"))
        link = f'<a download="{slug}.csv" href="data:text/csv;charset=utf-8,{csv}">Data (CSV)</a>'
        notes.append(link)
        if len(table) <= TABLE_ROWS_SHOWN:
            folded = f"<details><summary>The same as a table</summary>{table_html(table)}</details>"
    caption = f"<figcaption>{' · '.join(notes)}{folded}</figcaption>" if notes else ""
    return f'<figure class="ink-figure" id="{slug}">{svg}{caption}</figure>'


def table_html(table: pd.DataFrame) -> str:
    """A plain, escaped HTML table that scrolls inside its own box on a narrow screen."""
    body = table.to_html(index=False, border=0, na_rep="", float_format=lambda v: f"{v:.4g}")
    return f'<div class="wide-table" tabindex="0">{body}</div>'


# ------------------------------------------------------------------------ a number in the prose


class _Plain:
    """A text whose repr has no quotes, so that ``{glue:text}`` prints just the text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def glue(name: str, value: object) -> None:
    """Make `value` available to the prose as ``{glue:text}`name``, with or without a format.

    value: a text, or a finite number of Python or numpy (0-d). Raises ValueError for a number
    that is not finite and TypeError for anything else, so that no page prints "nan" or a list.
    """
    from myst_nb import glue as keep

    keep(name, _gluable(name, value), display=False)


def _gluable(name: str, value: object) -> int | float | _Plain:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str):
        return _Plain(value)
    if not isinstance(value, (int, float)):
        raise TypeError(f"glue {name!r}: expected a number or a text, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"glue {name!r}: {value} is not a number for the prose")
    return value


# ------------------------------------------------------------------------- figures that recur


def error_against_compute(
    runs: pd.DataFrame,
    yours: pd.DataFrame | None = None,
    laws: dict[str, pd.DataFrame] | None = None,
    response: str = "error",
) -> Figure:
    """Error against compute on log axes, one colour and marker a rung, one response.

    runs, yours: one row a run (columns rung, compute_gmac, error, low, high, guessing; fractions);
    `yours` is drawn hollow. laws: by label a curve with the columns compute_gmac, error and, for a
    band, low and high. The dotted line is the error of guessing.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    order = list(runs.groupby("rung").compute_gmac.min().sort_values().index)
    for rung, rows in runs.groupby("rung", sort=False):
        _points(ax, rows, order.index(rung), label=str(rung))
    if yours is not None and len(yours):
        order += [rung for rung in yours.rung.unique() if rung not in order]
        for k, (rung, rows) in enumerate(yours.groupby("rung", sort=False)):
            label = "your machine" if k == 0 else None
            _points(ax, rows, order.index(rung), label=label, hollow=True)
    for k, (label, law) in enumerate((laws or {}).items()):
        ax.plot(law.compute_gmac, law.error, color=INK, linestyle=LINESTYLES[k], label=label)
        ax.fill_between(law.compute_gmac, law.low, law.high, color=INK, alpha=0.1, lw=0)
    for level in runs.guessing.unique():
        ax.axhline(level, color=INK, lw=0.8, linestyle=(0, (1, 2)))
    _log_axes(ax)
    ax.set(xlabel="compute (GMAC: GMACs a pair × samples seen)", ylabel=response)
    ax.legend()
    return fig


def _points(ax: Axes, rows: pd.DataFrame, i: int, label: str | None, hollow: bool = False) -> None:
    """Runs of one rung with their intervals."""
    bars = [(rows.error - rows.low).clip(lower=0), (rows.high - rows.error).clip(lower=0)]
    color, marker = look(i)["color"], look(i)["marker"]
    face = "none" if hollow else color
    ax.errorbar(
        rows.compute_gmac, rows.error, yerr=bars, label=label, linestyle="none", color=color,
        marker=marker, markerfacecolor=face, markersize=9 if hollow else 6, elinewidth=1,
    )  # fmt: skip


def _log_axes(ax: Axes) -> None:
    """Log-log with plain numbers on the error axis, which seldom spans a decade."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    ax.set(xscale="log", yscale="log")
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(True, which="major")


def learning_curves(
    steps: pd.DataFrame, value: str = "loss", label: str = "training loss"
) -> Figure:
    """`value` against samples seen, one line a run, one colour and line style a rung.

    steps: columns run_id, rung, samples_seen and `value`, in the order logged.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    rungs = list(steps.rung.unique())
    for (rung, _), rows in steps.groupby(["rung", "run_id"], sort=False):
        lines = look(rungs.index(rung)) | {"marker": ""}
        label_once = rung if rung not in ax.get_legend_handles_labels()[1] else None
        ax.plot(rows.samples_seen, rows[value], lw=1.2, label=label_once, **lines)
    ax.set(xscale="log", xlabel="samples seen", ylabel=label)
    ax.legend()
    ax.grid(True, which="major")
    return fig
