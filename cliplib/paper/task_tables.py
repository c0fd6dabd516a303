"""The tables of the chapter on zero-shot classification, as readers see them."""

from __future__ import annotations

import pandas as pd

from cliplib import published
from cliplib.figures import table_html
from cliplib.paper.tasks import NAMES


def span(table: pd.DataFrame, low: str, high: str, digits: int = 3) -> pd.Series:
    """Two columns as one text, "low to high"."""
    number = f"{{:.{digits}f}}".format
    return table[low].map(number) + " to " + table[high].map(number)


def folded(table: pd.DataFrame, summary: str) -> str:
    """A long table, folded away under its summary, as HTML."""
    head = f"<summary>{summary}</summary>"
    inside = f"<details>{head}{table_html(table)}</details>"
    return f'<figure class="ink-figure"><figcaption>{inside}</figcaption></figure>'


def members_table() -> pd.DataFrame:
    """Every data set and the averages that it is part of; the mark is an x."""
    sets = published.downstream_datasets()
    columns = {
        "in_robustness5": "robustness (5)",
        "in_vtab_plus35": "VTAB+ (35)",
        "in_vtab19_zeroshot": "VTAB (19), zero-shot",
        "in_vtab19_probe": "VTAB (19), probes",
    }
    sets = sets[sets["kind"] == "classification"]
    marks = sets[list(columns)].rename(columns=columns).replace({1: "x", 0: ""})
    marks.insert(0, "group", sets["group"])
    marks.insert(0, "data set", sets["dataset"].map(NAMES))
    return marks


def averages_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_tasks.averages` for readers."""
    names = {
        "in_robustness5": "the five sets",
        "in_vtab_plus35": "all sets but multi-label VOC",
        "in_vtab19_zeroshot": "the 19 with SUN397, without CIFAR-10",
        "in_vtab19_probe": "the 19 with CIFAR-10, without SUN397",
    }
    return pd.DataFrame(
        {
            "published average": found["average"].map(NAMES),
            "mean of": found["members"].map(names),
            "parts": found["parts"],
            "our mean - published (points)": [
                f"{low + 0.0:.2f} to {high + 0.0:.2f}"
                for low, high in zip(found["least"].round(6), found["most"].round(6), strict=True)
            ],
        }
    )


def families_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_tasks.families` for readers."""
    return pd.DataFrame(
        {
            "data set": found["task"].map(NAMES),
            "OpenCLIP, paper's recipe": found["openclip"].map("{:.3f}".format),
            "95% interval": span(found, "openclip_low", "openclip_high"),
            "OpenAI, 3 models": found["openai"].map("{:.3f}".format),
            "95% interval (t, 1 df)": span(found, "openai_low", "openai_high"),
            "OpenAI's error at equal compute (%)": found["percent"].map("{:+.1f}".format),
            "95% interval (%)": span(found, "low", "high", 1),
            "equal slopes: p": found["slope_p"].map("{:.2g}".format),
        }
    )


def slopes_table(verdicts: pd.DataFrame, recipes: pd.DataFrame) -> pd.DataFrame:
    """The forest plot's numbers."""
    table = verdicts.merge(recipes, on="task", suffixes=("", "_recipe"))
    table = table.sort_values("slope", ignore_index=True)
    return pd.DataFrame(
        {
            "task": table["task"].map(NAMES),
            "runs": table["n"],
            "exponent": table["slope"].round(4),
            "low": table["low"].round(4),
            "high": table["high"].round(4),
            "p": table["p"].map("{:.2g}".format),
            "p adjusted (BH)": table["p_bh"].map("{:.2g}".format),
            "verdict": table["verdict"],
            "recipe": table["alpha"].round(4),
            "recipe low": table["low_recipe"].round(4),
            "recipe high": table["high_recipe"].round(4),
        }
    )


def guessing_table(found: pd.DataFrame) -> pd.DataFrame:
    """`paper_tasks.guessing` for readers."""
    return pd.DataFrame(
        {
            "task": found["task"].map(NAMES),
            "verdict": found["verdict"],
            "classes": found["classes"],
            "error of guessing": found["guess"].map("{:.3f}".format),
            "error, best to worst run": span(found, "best", "worst"),
            "mean per-class recall / guess: median run": found["median"].map("{:.2f}".format),
            "lowest to highest": span(found, "low", "high", 2),
        }
    )


def noise_table(noise: pd.DataFrame) -> pd.DataFrame:
    """`paper_tasks.item_noise` for readers, the largest share first."""
    table = noise.sort_values("share", ascending=False)
    return pd.DataFrame(
        {
            "task": table["task"].map(NAMES),
            "test items": table["items"].map("{:,}".format),
            "scatter (% of the error)": (100 * table["scatter"]).map("{:.1f}".format),
            "test-set noise (% of the error)": (100 * table["noise"]).map("{:.1f}".format),
            "share of variance, at most": table["share"].map("{:.1%}".format),
        }
    )
