"""What two careful evaluators may do differently, and what each choice moves: one at a time, measured.

``python -m cliplib.evaluation_pages.differences CHECKPOINT --out book/data/evaluators.csv`` tests one
checkpoint on one icon task again and again, each time with one choice changed. Differences are paired,
item by item, with errors clustered by concept.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cliplib import InputError
from cliplib.data import Corpus, open_corpus
from cliplib.data.remote import open_shard
from cliplib.data.tar import groups
from cliplib.evaluate.features import image_features, text_features
from cliplib.evaluate.icon_tasks import held_out_task
from cliplib.evaluate.images import StoredPixels
from cliplib.evaluate.metrics import WAYS
from cliplib.evaluate.outcomes import Ranked
from cliplib.evaluate.ranks import clustered_mean, k_way, top_k
from cliplib.evaluate.tasks import PLACE, Classification
from cliplib.evaluate.zero_shot import classify, ranked
from cliplib.pretrained.opened import Opened
from cliplib.pretrained.opening import open_model
from cliplib.records import write_atomic

if TYPE_CHECKING:
    from PIL import Image

TASK = "phosphor"
REFERENCE = "as in the study, fp32"
COLUMNS = ("choice", "metric", "value", "difference", "se", "changed", "n_items", "n_clusters")

Test = Callable[[], Ranked]


@dataclass(frozen=True)
class Subject:
    """What is tested: a model in fp32, a task, and where both come from."""

    opened: Opened
    task: Classification
    corpus: Corpus
    checkpoint: str


def choices(subject: Subject) -> dict[str, Test]:
    """Every choice by name, with the test that it leads to; the reference comes first."""
    opened, task = subject.opened, subject.task
    prompts = {
        "only the bare name as prompt": (PLACE,),
        'prompt "a photo of a {c}"': ("a photo of a {c}",),
    }
    names = {
        "class names in capitals": [name.upper() for name in task.classes],
        "class names with underscores": [name.replace(" ", "_") for name in task.classes],
    }
    return {
        REFERENCE: lambda: classify(opened, task),
        "products in bf16": lambda: classify(
            open_model(subject.checkpoint, precision="bf16"), task
        ),
        **{
            name: partial(classify, opened, replace(task, templates=templates))
            for name, templates in prompts.items()
        },
        **{
            name: partial(classify, opened, replace(task, classes=tuple(classes)))
            for name, classes in names.items()
        },
        "prompts averaged before they are normalised": lambda: _averaged_raw(opened, task),
        "QuickGELU for GELU": lambda: classify(_quick(subject.checkpoint), task),
        "colours centred as CLIP's photographs": lambda: classify(_photo_colours(opened), task),
        "image enlarged by 1/8, centre kept": lambda: classify(
            replace(opened, geometry=_enlarged), task
        ),
        "transparent pixels black": lambda: classify(opened, _on_black(subject)),
    }  # fmt: skip


# ----------------------------------------------------------------------------------------- the choices


def _averaged_raw(opened: Opened, task: Classification) -> Ranked:
    """Class embeddings as the mean of the text tower's outputs, each with its own length."""
    prompts = [t.replace(PLACE, name) for name in task.classes for t in task.templates]
    unit = text_features(opened, prompts)
    length = _text_lengths(opened, prompts)
    mean = (unit * length[:, None]).reshape(len(task.classes), len(task.templates), -1).mean(1)
    classes = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return ranked(task, image_features(opened, task.images) @ classes.T)


def _text_lengths(opened: Opened, texts: Sequence[str]) -> np.ndarray:
    assert opened.tokenize is not None  # a checkpoint of the study
    net: Any = opened.model
    with torch.inference_mode():
        return torch.cat(
            [net.encode_text(part).norm(dim=-1) for part in opened.tokenize(texts).split(256)]
        ).numpy()


def _quick(checkpoint: str) -> Opened:
    """The same weights with the activation of OpenAI's models."""
    from open_clip.transformer import QuickGELU

    opened = open_model(checkpoint, precision="fp32")
    for module in list(opened.model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.GELU):
                setattr(module, name, QuickGELU())
    return replace(opened, activation="quick_gelu")


def _photo_colours(opened: Opened) -> Opened:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return replace(opened, mean=tuple(OPENAI_DATASET_MEAN), std=tuple(OPENAI_DATASET_STD))


def _enlarged(image: Image.Image) -> Image.Image:
    """Resized to 9/8 and cropped at the centre, as with a crop share of 0.889."""
    from PIL import Image

    side = image.width
    large = image.resize((side * 9 // 8, side * 9 // 8), Image.Resampling.BICUBIC)
    edge = (large.width - side) // 2
    return large.crop((edge, edge, edge + side, edge + side))


def _on_black(subject: Subject) -> Classification:
    """The same drawings with the alpha channel dropped: what was transparent is black."""
    from PIL import Image

    corpus, task = subject.corpus, subject.task
    split = corpus.manifest["tasks"][task.name]["split"]
    found = {}
    for row in corpus.shards(split):
        with open_shard(str(corpus.folder / row["path"])) as stream:
            for group in groups(stream):
                image = Image.open(io.BytesIO(group.parts["png"])).convert("RGBA")
                found[group.key] = np.asarray(image)[..., :3]
    keys = corpus.pairs["key"].to_numpy()[task.items]
    pixels = np.stack([found[key] for key in keys])
    return replace(task, images=StoredPixels(pixels, "alpha dropped"))


# --------------------------------------------------------------------------------------------- rows


def compare(reference: Ranked, other: Ranked, choice: str) -> list[dict[str, Any]]:
    """Top-1 and 20-way accuracy of a choice, beside the reference, item by item.

    ``changed`` is the share of items that are right in one of the two and wrong in the other.
    """
    rows = []
    for metric, of in (
        ("top1", lambda r: top_k(r.rank, 1)),
        ("accuracy_20_way", lambda r: k_way(r.rank, r.candidates, WAYS)),
    ):
        values = of(other)
        paired = clustered_mean(values - of(reference), reference.cluster)
        changed = float((top_k(other.rank, 1) != top_k(reference.rank, 1)).mean())
        numbers = (values.mean(), paired.value, paired.se, changed)
        rounded = [round(float(number), 6) for number in numbers]
        rows.append(
            dict(zip(COLUMNS, (choice, metric, *rounded, paired.n_items, paired.n_clusters)))
        )
    return rows


def table(subject: Subject) -> list[dict[str, Any]]:
    """Every choice, two rows each: columns :data:`COLUMNS`."""
    tests = choices(subject)
    reference = tests[REFERENCE]()
    return [row for name, test in tests.items() for row in compare(reference, test(), name)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the table; returns 2 for bad input."""
    import pandas as pd

    parser = argparse.ArgumentParser(
        prog="cliplib.evaluation_pages.differences",
        description="Test a checkpoint with one choice changed at a time.",
        epilog="example: python -m cliplib.evaluation_pages.differences "
        "runs/NAME/checkpoint --out book/data/evaluators.csv",
    )
    parser.add_argument("checkpoint", help="a checkpoint folder of the study")
    parser.add_argument("--data", type=Path, default=Path("data/icons"), help="the built corpus")
    parser.add_argument("--task", default=TASK, help="an icon task (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the table to write")
    args = parser.parse_args(arguments)
    try:
        corpus = open_corpus(args.data)
        opened = open_model(args.checkpoint, precision="fp32")
        subject = Subject(opened, held_out_task(corpus, args.task), corpus, args.checkpoint)
        rows = pd.DataFrame(table(subject), columns=list(COLUMNS))
    except InputError as error:
        print(f"cliplib.evaluation_pages.differences: {error}", file=sys.stderr)
        return 2
    write_atomic(args.out, rows.to_csv(index=False, lineterminator="\n"))
    print(rows.to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
