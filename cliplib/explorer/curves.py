"""What the learning-curve explorer is given, and its facts for readers without scripts."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cliplib import published
from cliplib.figures import LINESTYLES, MARKERS, PALETTE
from cliplib.paper.curves import curves, finished
from cliplib.paper.grid import ARCHS, DATA, LABELS, short
from cliplib.paper.spikes import FALL, spike_counts, spikes


def curve_data() -> dict[str, Any]:
    """What the learning-curve explorer needs: 29 runs with samples seen and ImageNet top-1."""
    table = all_curves()
    return {
        "runs": [
            {
                "name": short(str(run)),
                "arch": short(curve["arch"].iloc[0]),
                "data": short(curve["data"].iloc[0]),
                "label": curve["label"].iloc[0],
                "gmacs": float(curve["gmacs_per_sample"].iloc[0]),
                "samples": curve["samples_seen"].tolist(),
                "top1": curve["top1"].tolist(),
            }
            for run, curve in table.groupby("run_id", sort=False)
        ],
        "points": 100 * FALL,
        "palette": PALETTE,
        "marks": MARKERS,
        "dashes": [_dashes(style) for style in LINESTYLES],
    }


def all_curves() -> pd.DataFrame:
    """`cliplib.paper.curves.curves` of all runs: by architecture, then data, then samples."""
    order = {name: i for names in (ARCHS, DATA, LABELS) for i, name in enumerate(names)}
    table = curves(published.learning_curves(), published.pretraining_runs())
    return table.sort_values(
        ["arch", "data", "label", "epoch"], key=lambda column: column.replace(order), kind="stable"
    )


def _dashes(style: str | tuple[int, tuple[int, ...]]) -> str:
    """A matplotlib line style as an SVG dash array."""
    named = {"-": "", "--": "7 4", "-.": "9 4 2 4", ":": "2 3"}
    return named[style] if isinstance(style, str) else " ".join(str(2 * part) for part in style[1])


def curves_table() -> pd.DataFrame:
    """Last and best accuracy and the spikes of every run, for readers."""
    table = all_curves()
    last = finished(table).set_index("run_id")
    runs = last.index
    counts = spike_counts(table).set_index("run_id").loc[runs]
    deepest = spikes(table).groupby("run_id")["fall"].max().reindex(runs)
    return pd.DataFrame(
        {
            "run": runs.map(short),
            "points": counts["points"].to_numpy(),
            "last (%)": 100 * last["top1"].to_numpy(),
            "best (%)": 100 * table.groupby("run_id")["top1"].max()[runs].to_numpy(),
            f"drops over {100 * FALL:g} points": counts["spikes"].to_numpy(),
            "deepest (points)": 100 * deepest.to_numpy(),
        }
    )
