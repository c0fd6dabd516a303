"""Records to tables: every run's metrics and learning curve, as the book reads them."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliplib import InputError
from cliplib.downstream import PARTS
from cliplib.ladder import scale
from cliplib.records import read_record, write_atomic

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "run_id", "scale", "rung", "data_scale", "corpus", "samples_seen", "seed", "gmacs_per_pair",
    "compute_gmac", "executed_gmac", "params", "params_non_embedding", "task", "metric", "value",
    "chance", "n_items", "n_clusters", "se", "ci_low", "ci_high", "seconds", "samples_per_s", "finished",
    "commit",
    "corpus_hash", "config_hash", "code_hash", "processor",
)  # fmt: skip


def collect(runs: Path, wanted: Collection[str] | None = None) -> pd.DataFrame:
    """All finished runs in a folder as one table: a row per run and metric, columns :data:`COLUMNS`.

    Metrics of probes and fine-tuning follow those of the evaluation, where a run has them.

    Args:
        runs: folder of run folders; it may be absent.
        wanted: only these run ids.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for record in sorted(runs.glob("*/eval.json")):
        folder = record.parent
        if (wanted is None or folder.name in wanted) and (folder / "train.json").exists():
            found = [record, *(folder / name for name, _ in PARTS.values())]
            metrics = [m for p in found if p.exists() for m in read_record(p)["metrics"]]
            rows += _rows(read_record(folder / "train.json"), metrics)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def probe_settings(runs: Path, wanted: Collection[str]) -> pd.DataFrame:
    """Every setting that full probes tried: run_id, task, lr, epochs, val, test (accuracies), chosen."""
    import pandas as pd

    columns = ["run_id", "task", "lr", "epochs", "val", "test", "chosen"]
    found = [
        {"run_id": name, **{key: one[key] for key in columns[1:]}}
        for name in sorted(wanted)
        if (runs / name / "probe.json").exists()
        for one in read_record(runs / name / "probe.json")["settings"]
        if one["shots"] == "full"
    ]
    return pd.DataFrame(found, columns=columns)


def patching(runs: Path, wanted: Collection[str]) -> pd.DataFrame:
    """Mixtures of a tower before (alpha 0) and after (1) joint fine-tuning, a row each.

    Columns: run_id, alpha, mean_val (mean validation accuracy of the tuned tasks), control (accuracy
    of the control task), allowed_loss (what the rule lets it lose), chosen (by the rule).
    """
    import pandas as pd

    columns = ["run_id", "alpha", "mean_val", "control", "allowed_loss", "chosen"]
    found: list[tuple[Any, ...]] = []
    for name in sorted(wanted):
        path = runs / name / "finetune.json"
        joint = read_record(path)["stages"].get("joint", {}) if path.exists() else {}
        for point in joint.get("curve", []):
            numbers = (round(point[key], 6) for key in ("alpha", "mean_val", "control"))
            rule = (round(joint["allowed_loss"], 6), point["alpha"] == joint["alpha"])
            found.append((name, *numbers, *rule))
    return pd.DataFrame(found, columns=columns)


def _rows(train: dict[str, Any], metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    run = {name: train["run"][name] for name in ("scale", "rung", "data_scale", "corpus", "seed")}
    own = ("run_id", "samples_seen", "gmacs_per_pair", "params", "params_non_embedding", "seconds",
           "samples_per_s", "finished", "commit", "corpus_hash", "config_hash", "code_hash")  # fmt: skip
    shared = {
        **run,
        **{name: train[name] for name in own},
        "compute_gmac": train["gmacs_per_pair"] * train["samples_seen"],
        "executed_gmac": train["executed_gmacs"],
        "processor": train["hardware"]["processor"],
    }
    return [{**shared, **metric} for metric in metrics]


def curves(runs: Path, wanted: Collection[str] | None = None) -> pd.DataFrame:
    """Learning curves of the trained runs: run_id, step, samples_seen, loss, lr, logit_scale."""
    import pandas as pd

    rows = [
        {"run_id": path.parent.name, **json.loads(line)}
        for path in sorted(runs.glob("*/metrics.jsonl"))
        if (path.parent / "train.json").exists() and (wanted is None or path.parent.name in wanted)
        for line in path.read_text().splitlines()
    ]
    return pd.DataFrame(
        rows, columns=["run_id", "step", "samples_seen", "loss", "lr", "logit_scale"]
    )


# -------------------------------------------------------------------- the committed reference study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib publish``."""
    parser.epilog = "example: python -m cliplib publish --scale nano --runs runs --out book/data"
    parser.add_argument(
        "--scale", required=True, help="the scale whose finished runs are published"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders")
    parser.add_argument(
        "--out", type=Path, default=Path("book/data"), help="folder of the book's tables"
    )


def run(args: argparse.Namespace) -> int:
    """Make the committed reference study from the records of a complete scale.

    Writes runs.csv, curves.csv, probe_settings.csv, patching.csv and ranks/<run id>.npz.

    Raises:
        InputError: a run of the scale is not finished.
    """
    wanted = [spec.run_id for spec in scale(args.scale)]
    absent = [name for name in wanted if not (args.runs / name / "eval.json").exists()]
    if absent:
        raise InputError(
            f"{len(absent)} runs of {args.scale} are not finished, first {absent[0]}: make study"
        )
    table, lines = collect(args.runs, wanted), curves(args.runs, wanted)
    write_atomic(args.out / "runs.csv", table.to_csv(index=False, lineterminator="\n"))
    write_atomic(args.out / "curves.csv", lines.to_csv(index=False, lineterminator="\n"))
    tried = probe_settings(args.runs, wanted)
    write_atomic(args.out / "probe_settings.csv", tried.to_csv(index=False, lineterminator="\n"))
    mixed = patching(args.runs, wanted)
    write_atomic(args.out / "patching.csv", mixed.to_csv(index=False, lineterminator="\n"))
    shutil.rmtree(args.out / "ranks", ignore_errors=True)
    for name in wanted:
        write_atomic(
            args.out / "ranks" / f"{name}.npz", (args.runs / name / "ranks.npz").read_bytes()
        )
    print(f"{args.out}: {len(wanted)} runs, {len(table)} metrics")
    return 0
