"""Which settings of fine-tuning suit small towers: a grid wider than the usual one, on validation alone.

``python -m cliplib.evaluation_pages.tuning CHECKPOINT ... --out book/data/finetune_settings.csv`` fine-tunes
each checkpoint on each of the three probe tasks with every learning rate and layer-wise decay. Test sets are
not looked at.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.data import Corpus, open_corpus
from cliplib.evaluate.icon_tasks import probe_tasks
from cliplib.finetune.icons import finetune_everything
from cliplib.finetune.recipe import DIRECT, LAYER_DECAY, Recipe, Setting, usual_settings
from cliplib.ladder import rung
from cliplib.pretrained.opening import open_model
from cliplib.records import write_atomic

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SETTINGS = tuple(Setting(lr, decay) for lr in RATES for decay in (LAYER_DECAY, 1.0))
COLUMNS = ("run", "task", "lr", "layer_decay", "val_top1", "val_loss", "n_items", "chosen")


def rows(
    checkpoint: Path, corpus: Corpus, work: Path, recipe: Recipe, tasks: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """A checkpoint's settings on every task: rows of :data:`COLUMNS`; what lies in ``work`` goes on."""
    opened, run = open_model(str(checkpoint)), checkpoint.resolve().parent.name
    for task in probe_tasks(corpus):
        if tasks and task.name not in tasks:
            continue
        folder = work / f"{task.name}-{run}"
        record = finetune_everything(
            opened, corpus, folder, target=task.name, stages=(DIRECT,), recipe=recipe
        )
        found = record["stages"][DIRECT]
        for one in found["settings"]:
            setting = {"lr": one["lr"], "layer_decay": one["layer_decay"]}
            yield {
                "run": run, "task": task.name, **setting, "val_top1": round(one["val"][0], 6),
                "val_loss": round(one["val_loss"][0], 6), "n_items": len(task.val.images),
                "chosen": setting == found["chosen"],
            }  # fmt: skip


# ------------------------------------------------------------------------------------------- on the page


def table(path: Path, study: pd.DataFrame) -> pd.DataFrame:
    """The wide grid of fine-tuning by rung, and whether each rate lies within the usual ones."""
    runs = study.drop_duplicates("run_id").set_index("run_id")
    tried = pd.read_csv(path)
    tried.insert(0, "rung", tried["run"].map(runs["rung"]))
    usual = {
        name: [setting.lr for setting in usual_settings(rung(name).vision.width)]
        for name in tried["rung"].unique()
    }
    own = tried["rung"].map(usual)
    return tried.assign(
        usual=[min(rates) <= lr <= max(rates) for lr, rates in zip(tried["lr"], own)]
    )


def figure(tried: pd.DataFrame) -> Any:
    """Validation accuracy against learning rate, a panel a data set; rings: chosen."""
    import matplotlib.pyplot as plt

    from cliplib.figures import look

    tasks, rungs = (list(dict.fromkeys(tried[name])) for name in ("task", "rung"))
    fig, axes = plt.subplots(len(tasks), 1, figsize=(5.2, 2.3 * len(tasks)), sharex=True)
    for ax, task in zip(np.atleast_1d(axes), tasks):
        for i, name in enumerate(rungs):
            own = tried[(tried["task"] == task) & (tried["rung"] == name)]
            for decay, line in ((LAYER_DECAY, "-"), (1.0, ":")):
                line_rows = own[own["layer_decay"] == decay].sort_values("lr")
                label = name if decay < 1 else None
                style = {**look(i), "linestyle": line}
                ax.plot(line_rows["lr"], 100 * line_rows["val_top1"], label=label, **style)
            best = own[own["chosen"]]
            ax.plot(
                best["lr"], 100 * best["val_top1"], linestyle="", marker="o", markersize=13,
                fillstyle="none", color=look(i)["color"], clip_on=False,
            )  # fmt: skip
        ax.set(xscale="log", title=task, ylabel="top-1 (%)")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.15), "ncols": len(rungs)}
    np.atleast_1d(axes)[0].legend(fontsize="small", **above)
    np.atleast_1d(axes)[-1].set(xlabel="peak learning rate of the head")
    return fig


# -------------------------------------------------------------------------------------- the command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the settings and write the table; returns 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="cliplib.evaluation_pages.tuning",
        description="Fine-tune checkpoints on the probe tasks with a wide grid of settings.",
        epilog="example: python -m cliplib.evaluation_pages.tuning runs/NAME/checkpoint "
        "--out book/data/finetune_settings.csv",
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, help="checkpoint folders of the study")
    parser.add_argument("--data", type=Path, default=Path("data/icons"), help="the built corpus")
    parser.add_argument("--work", type=Path, help="folder that keeps what is done (default: none)")
    parser.add_argument("--out", type=Path, required=True, help="the table to write")
    args = parser.parse_args(arguments)
    try:
        corpus, recipe = open_corpus(args.data), Recipe(settings=SETTINGS)
        with tempfile.TemporaryDirectory() as passing:
            work = args.work or Path(passing)
            found = [row for one in args.checkpoints for row in rows(one, corpus, work, recipe)]
    except InputError as error:
        print(f"cliplib.evaluation_pages.tuning: {error}", file=sys.stderr)
        return 2
    tried = pd.DataFrame(found, columns=list(COLUMNS))
    write_atomic(args.out, tried.to_csv(index=False, lineterminator="\n"))
    print(tried[tried["chosen"]].to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
