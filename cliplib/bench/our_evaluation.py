"""Our side of the evaluation bench, in a process of its own: prints one JSON object.

``python -m cliplib.bench.our_evaluation TASK ...`` with TASK one of ``zero_shot`` and ``retrieval``
(checkpoint, data), ``probes`` (features, settings) and ``pool`` (queries, candidates).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from cliplib.evaluate.linear_probe import Setting, train_probes
from cliplib.evaluate.metrics import metric_rows
from cliplib.evaluate.outcomes import Ranked
from cliplib.evaluate.retrieval import retrieve
from cliplib.evaluate.similarity import Truth, ranks_among
from cliplib.evaluate.tasks import Retrieval
from cliplib.evaluate.wds import read_task
from cliplib.evaluate.zero_shot import classify
from cliplib.pace import Stretch, peak_mb
from cliplib.pretrained.opened import Opened
from cliplib.pretrained.opening import open_model


def evaluation(checkpoint: str, data: str) -> dict[str, Any]:
    """Seconds in the precision of the hardware, and metrics in fp32."""
    opened = open_model(checkpoint)
    stretch = Stretch()
    metric_rows(_ranked(opened, data))
    timed = stretch.result()
    rows = metric_rows(_ranked(open_model(checkpoint, precision="fp32"), data))
    metrics = {_name(row["task"], row["metric"]): row["value"] for row in rows}
    return {**timed, "precision": opened.numerics.precision, "metrics": metrics}


def _ranked(opened: Opened, data: str) -> dict[str, Ranked]:
    task = read_task(data)
    if isinstance(task, Retrieval):
        return retrieve(opened, task)
    return {task.name: classify(opened, task)}


def _name(task: str, metric: str) -> str:
    direction = task[-3:] if task.endswith(("-i2t", "-t2i")) else ""
    return f"{direction} {metric}".strip()


def probes(features: str, grid: str) -> dict[str, Any]:
    """Seconds of a grid of (learning rate, epochs), accuracies included."""
    arrays, settings = np.load(features), [Setting(*one) for one in json.loads(grid)]
    stretch = Stretch()
    trained = train_probes(arrays["x"], arrays["y"], int(arrays["y"].max()) + 1, settings)
    accuracy = trained.accuracy(arrays["tx"], arrays["ty"])
    return {**stretch.result(), "accuracy": accuracy.tolist()}


def pool(queries: str, candidates: str) -> dict[str, Any]:
    """Memory that ranking takes beyond the features."""
    n, m = int(queries), int(candidates)
    units = np.random.default_rng(0).normal(size=(m, 64)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    before = peak_mb()
    ranks_among(units[:n], units, Truth(np.arange(n), np.arange(n) + 1))
    return {"extra_mb": max(peak_mb() - before, 0.001)}  # a ratio is made of it


def main() -> int:
    """Run the task that the command line names."""
    task, *words = sys.argv[1:]
    tasks = {"zero_shot": evaluation, "retrieval": evaluation, "probes": probes, "pool": pool}
    print(json.dumps(tasks[task](*words)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
