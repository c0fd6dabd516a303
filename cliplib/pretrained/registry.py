"""The paper's models: where each is, how its images are prepared, and what was published about it.

The table is ``registry.csv``: the 29 checkpoints of the study (files of one repository on the hub),
the larger model that came after them, and timm's image towers fine-tuned from such models. Published
values are read from `cliplib.published`, never written down here.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from cliplib import InputError
from cliplib import published as tables

TABLE = Path(__file__).with_name("registry.csv")

#: Colours that images are centred by and scaled with: CLIP's own, or grey levels to -1 ... 1.
STATISTICS = {
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

# fmt: off
#: Columns of the published tables -> data set and metric by their names in `published.zero_shot`.
FINETUNED = {
    "in1k_top1": ("imagenet1k", "top1"), "in1k_top5": ("imagenet1k", "top5"),
    "real_top1": ("imagenet_real", "top1"), "inv2_top1": ("imagenetv2", "top1"),
    "ina_top1": ("imagenet-a", "top1"), "inr_top1": ("imagenet-r", "top1"),
    "sketch_top1": ("imagenet_sketch", "top1"),
}
LATER = {
    "in1k_top1": ("imagenet1k", "top1"), "inv2_top1": ("imagenetv2", "top1"),
    "inr_top1": ("imagenet-r", "top1"), "sketch_top1": ("imagenet_sketch", "top1"),
    "objectnet_top1": ("objectnet", "top1"), "ina_top1": ("imagenet-a", "top1"),
    "robust5_mean": ("imagenet_robustness", "top1"),
    "coco_image_r1": ("mscoco_captions", "image_retrieval_recall_at_1"),
    "coco_image_r5": ("mscoco_captions", "image_retrieval_recall_at_5"),
    "coco_text_r5": ("mscoco_captions", "text_retrieval_recall_at_5"),
    "flickr_image_r5": ("flickr30k", "image_retrieval_recall_at_5"),
    "flickr_text_r5": ("flickr30k", "text_retrieval_recall_at_5"),
}
# fmt: on


@dataclass(frozen=True)
class Entry:
    """One model of the registry.

    Attributes:
        name: what `open_model` takes: a run of the study, a name of timm's, a repository of the hub.
        loader: "open_clip" or "timm".
        arch: the library's name of the architecture.
        tag: the library's name of the weights; a run of the study has one only where open_clip
            lists the same run.
        hub: repository on the hub.
        file: in that repository; empty: the one its library looks for.
        image_px: side of the images it takes.
        statistics: key of `STATISTICS`.
        interpolation: such as "bicubic".
        resize_mode: how an image becomes a square: "shortest", "center", "squash".
        crop_pct: share of the resized side that is kept.
        quick_gelu: whether it was trained with QuickGELU.
        classes: outputs of its own classifier; 0: it has none.
        table: of `cliplib.published` with what it scored; empty: not published.
    """

    name: str
    loader: str
    arch: str
    tag: str
    hub: str
    file: str
    image_px: int
    statistics: str
    interpolation: str
    resize_mode: str
    crop_pct: float
    quick_gelu: bool
    classes: int
    table: str

    @property
    def preprocess(self) -> dict[str, Any]:
        """How its images are prepared, as the record of a result has it."""
        mean, std = STATISTICS[self.statistics]
        return {
            "mean": list(mean), "std": list(std), "interpolation": self.interpolation,
            "resize_mode": self.resize_mode, "crop_pct": self.crop_pct,
        }  # fmt: skip


@cache
def entries() -> tuple[Entry, ...]:
    """All models of the registry, in the order of its table."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(_entry(row) for row in csv.DictReader(file))


def _entry(row: Mapping[str, str]) -> Entry:
    numbers = {
        "image_px": int(row["image_px"]),
        "crop_pct": float(row["crop_pct"]),
        "quick_gelu": row["quick_gelu"] == "1",
        "classes": int(row["classes"]),
    }
    return Entry(**{**row, **numbers})  # type: ignore[arg-type]


def entry(name: str) -> Entry:
    """The model of that name; a run of the study also goes by the name of its checkpoint file.

    >>> entry("openclip/L-14/LAION-2B/34B").statistics
    'half'

    Raises:
        InputError: no such model; the message names near ones.
    """
    if found := find(name):
        return found
    from difflib import get_close_matches

    near = get_close_matches(name, [one.name for one in entries()], n=3, cutoff=0.4)
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise InputError(f"no model {name!r} in the registry{hint}; list it with: cliplib models")


def find(name: str) -> Entry | None:
    """As `entry`, or None."""
    return next((one for one in entries() if name and name in (one.name, one.file)), None)


def published(entry: Entry) -> pd.DataFrame:
    """What the model scored: dataset, metric, value (fraction), source. Empty: nothing published.

    Names of data sets and metrics are those of `published.zero_shot`. For an image tower the values
    are of its own classifier.
    """
    columns = ["dataset", "metric", "value", "source"]
    if entry.table == "zero_shot":
        scores = tables.zero_shot()
        return scores.loc[scores["run_id"] == entry.name, columns].reset_index(drop=True)
    row = _row(entry)
    if row is None:
        return pd.DataFrame(columns=columns)
    names, whole = (FINETUNED, 100) if entry.table == "finetuned" else (LATER, 1)
    cells = [
        (*what, row[column] / whole, row["source"])
        for column, what in names.items()
        if pd.notna(row[column])
    ]
    return pd.DataFrame(cells, columns=columns)


def published_size(entry: Entry) -> tuple[float, float]:
    """Published parameters in millions, and GMACs of one sample; nan where nothing was published."""
    if entry.table == "zero_shot":
        table = tables.architectures()
        row = table[table["arch"] == entry.arch].iloc[0]
        return float(row["params_m"]), float(row["gmacs_per_sample"])
    found = _row(entry)
    if found is None:
        return float("nan"), float("nan")
    macs = "infer_gmacs" if entry.table == "finetuned" else "gmacs_per_sample"
    return float(found["params_m"]), float(found[macs])


def _row(entry: Entry) -> pd.Series | None:
    """The model's row in the table that has one row a model."""
    if not entry.table:
        return None
    if entry.table == "finetuned":
        table = tables.finetuned()
        return table[table["model"] == entry.name].iloc[0]
    table = tables.later_models()
    same = (table["model"] == entry.arch) & (table["pretrained_tag"] == entry.tag)
    return table[same].iloc[0]
