"""Fine-tuning of a run of the study: the whole, and its record in the run's folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cliplib import records
from cliplib.data import Corpus
from cliplib.finetune.icons import finetune_everything
from cliplib.finetune.recipe import STAGES, Recipe
from cliplib.finetune.results import RECORD
from cliplib.pretrained.opened import Opened

WORK = "finetune"  # the folder beside the record with tuned models, ranks and what resumes


def finetune_run(
    opened: Opened, corpus: Corpus, folder: Path, run_id: str, *,
    stages: Sequence[str] = STAGES, epochs: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fine-tune a run's checkpoint and write ``finetune.json`` into its folder.

    What was finished by other code, or from another checkpoint, is done anew; what was cut off goes on.

    Args:
        opened: the checkpoint.
        corpus: the built icons.
        folder: the run's; tuned models and ranks go to ``finetune/`` in it.
        run_id: name of the run in the record.
        stages: of "direct", "intermediate" and "joint".
        epochs: on the target; None: as usual.

    Returns:
        The record: as that of `finetune_everything`, its metrics named ``finetune_TOWER_METRIC``.

    Raises:
        InputError: as `finetune_everything`.
    """
    code, work = records.code_hash(records.FINETUNE_CODE), folder / WORK
    mark = work / ".made-by"
    made_by = f"{code} {opened.weights_hash} {corpus.hash}"
    if work.exists() and (not mark.exists() or mark.read_text() != made_by):
        shutil.rmtree(work)
    records.write_atomic(mark, made_by)
    recipe = None if epochs is None else Recipe(epochs)
    found = finetune_everything(opened, corpus, work, stages=stages, recipe=recipe)
    metrics = [
        {
            **{name: value for name, value in row.items() if name != "tower"},
            "metric": f"finetune_{row['tower']}_{row['metric']}",
        }
        for row in found["metrics"]
        if row["metric"].startswith("top1")
    ]
    own = {"run_id": run_id, "code_hash": code, "corpus_hash": corpus.hash, "metrics": metrics}
    record = {**found, **own}
    records.write_record(folder / RECORD, record)
    print(f"{run_id}: fine-tuned in {found['seconds']:.0f} s", flush=True)
    return record
