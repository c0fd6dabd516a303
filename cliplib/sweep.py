"""The learning rate of a rung, chosen on validation: half-decade steps until the best is interior.

The outcome is a committed table, ``book/data/lr_sweep.csv``; the rates in ``ladder_table.toml`` follow
from it. Held-out families play no part in the choice.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cliplib import InputError
from cliplib.ladder import recipe, run_spec
from cliplib.records import write_atomic

if TYPE_CHECKING:
    from cliplib.data import Corpus

HALF_DECADE = 10**0.5
START = (-7, -6, -5)  # half decades of the first rates: about 3e-4, 1e-3, 3e-3
COLUMNS = (
    "scale",
    "rung",
    "samples_seen",
    "lr",
    "batch_size",
    "seed",
    "infonce",
    "recall_at_5",
    "seconds",
)


def rate(step: int) -> float:
    """The learning rate ``step`` half decades from 1, to two digits.

    >>> [rate(step) for step in (-7, -6, -5)]
    [0.00032, 0.001, 0.0032]
    """
    return float(f"{HALF_DECADE**step:.1e}")


def next_steps(losses: dict[int, float]) -> list[int]:
    """Which half decades to try next: the first three, then beyond an edge that is best.

    >>> next_steps({}), next_steps({-7: 6.0, -6: 5.0, -5: 5.5}), next_steps({-7: 6.0, -6: 5.5, -5: 5.0})
    ([-7, -6, -5], [], [-4])
    """
    missing = [step for step in START if step not in losses]
    if missing:
        return missing
    best = min(losses, key=lambda step: losses[step])
    if best == min(losses):
        return [best - 1]
    return [best + 1] if best == max(losses) else []


def sweep(scale: str, rung: str, samples: int, corpus: Corpus, folder: Path, table: Path) -> float:
    """Train a rung at one length over half decades of learning rate, and return the best.

    Args:
        scale: gives batch size, warm-up and weight decay.
        rung: what is trained.
        samples: samples seen by each run of the sweep.
        corpus: training and validation pairs.
        folder: work folder; emptied run by run.
        table: CSV that gets a row per run; rows that are there already are not run again.
    """
    while True:
        losses = _known(table, scale, rung, samples)
        todo = next_steps(losses)
        if not todo:
            return rate(min(losses, key=lambda step: losses[step]))
        for step in todo:
            _append(table, _one(scale, rung, samples, rate(step), corpus, folder))


def _one(
    scale: str, rung: str, samples: int, lr: float, corpus: Corpus, folder: Path
) -> dict[str, object]:
    from cliplib.evaluate import clustered_mean, retrieve, top_k, validation_pool
    from cliplib.pretrained.opening import open_model
    from cliplib.train import train

    run = run_spec(scale, rung, samples, lr=lr)
    out = folder / run.run_id
    record = train(run, corpus, out)
    both = retrieve(open_model(str(out / "checkpoint")), validation_pool(corpus)).values()
    losses = [clustered_mean(r.loss, r.item).value for r in both]
    recalls = [top_k(r.rank, 5).mean() for r in both]
    shutil.rmtree(out)
    return {
        "scale": scale, "rung": rung, "samples_seen": record["samples_seen"], "lr": lr,
        "batch_size": run.batch_size, "seed": run.seed, "infonce": round(sum(losses) / 2, 5),
        "recall_at_5": round(float(sum(recalls)) / 2, 5), "seconds": record["seconds"],
    }  # fmt: skip


def _known(table: Path, scale: str, rung: str, samples: int) -> dict[int, float]:
    """Validation InfoNCE by half decade of learning rate, of the rows that are in the table."""
    import numpy as np
    import pandas as pd

    rows = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=list(COLUMNS))
    batch = recipe(scale, rung, "all", samples)["batch_size"]
    seen = samples // batch * batch
    rows = rows[(rows.rung == rung) & (rows.samples_seen == seen) & (rows.batch_size == batch)]
    steps = np.rint(np.log10(rows.lr.astype(float)) * 2).astype(int)
    return dict(zip(steps.tolist(), rows.infonce.tolist()))


def _append(table: Path, row: dict[str, object]) -> None:
    import pandas as pd

    rows = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=list(COLUMNS))
    rows = pd.concat([rows, pd.DataFrame([row])]) if len(rows) else pd.DataFrame([row])
    rows = rows.sort_values(["rung", "samples_seen", "lr"])[list(COLUMNS)]
    write_atomic(table, rows.to_csv(index=False, lineterminator="\n"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib sweep``."""
    parser.epilog = (
        "example: python -m cliplib sweep --scale nano --rungs XXS,XS --samples 65536,131072"
    )
    parser.add_argument("--scale", default="nano", help="whose recipe is used (default: nano)")
    parser.add_argument("--rungs", required=True, help="rungs, separated by commas")
    parser.add_argument(
        "--samples", required=True, help="samples seen, two or more lengths, by commas"
    )
    parser.add_argument("--data", type=Path, default=Path("data/icons"), help="the built corpus")
    parser.add_argument("--work", type=Path, default=Path("runs/sweep"), help="work folder")
    parser.add_argument(
        "--out", type=Path, default=Path("book/data/lr_sweep.csv"), help="the table"
    )


def run(args: argparse.Namespace) -> int:
    """Sweep every rung at every length and print the best rates."""
    from cliplib.data import open_corpus

    try:
        lengths = [int(text) for text in args.samples.split(",")]
    except ValueError:
        raise InputError(f"--samples {args.samples}: whole numbers, separated by commas") from None
    corpus = open_corpus(args.data)
    for samples in lengths:
        for rung in args.rungs.split(","):
            best = sweep(args.scale, rung, samples, corpus, args.work, args.out)
            print(f"{rung} at {samples:,} samples: learning rate {best}", flush=True)
    return 0
