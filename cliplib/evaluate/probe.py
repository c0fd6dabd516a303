"""Linear probes and few-shot on a model's image features (paper, section 4.3).

Features are computed once, normalised, without augmentation. The setting is chosen on a validation
split and scored once on test. The paper chose on test, for want of a validation split; what that adds
is reported beside it. Few-shot is drawn several times, as ten pictures a class are a lottery.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from cliplib import InputError, records
from cliplib.evaluate.blocks import ALONE, Workers, together
from cliplib.evaluate.features import image_features
from cliplib.evaluate.linear_probe import GRID, Setting, train_probes
from cliplib.evaluate.metrics import Row, estimate_row
from cliplib.evaluate.outcomes import ZERO_SHOT, Ranked, pack
from cliplib.evaluate.ranks import Estimate, clustered_mean, ranks_of_truth, top_k
from cliplib.evaluate.tasks import Splits
from cliplib.pretrained.opened import Opened

FULL = "full"
SHOTS = (10, 25, FULL)  # the paper's
DRAWS = 5  # of the shots
Shots = int | str


@dataclass(frozen=True)
class Trial:
    """One training set and every setting of the grid on it.

    Attributes:
        shots: images a class, or "full".
        draw: which lot of them.
        val: (S,) accuracy of every setting on the validation split.
        test: (S,) the same on test; only the entry at ``chosen`` is a result.
        ranks: (n,) ranks of the truth on test, of the chosen setting.
        best_ranks: (n,) the same of the setting that is best on test: the paper's way.
    """

    shots: Shots
    draw: int
    val: np.ndarray
    test: np.ndarray
    ranks: np.ndarray
    best_ranks: np.ndarray

    @property
    def chosen(self) -> int:
        """The setting with the best validation accuracy; of equals the first."""
        return int(self.val.argmax())


# ---------------------------------------------------------------------------------------- one data set


def probe(
    features: Mapping[str, np.ndarray], splits: Splits, shots: Sequence[Shots] = SHOTS,
    draws: int = DRAWS, settings: Sequence[Setting] = GRID,
) -> list[Trial]:  # fmt: skip
    """Train and choose probes on one data set.

    Args:
        features: (n, D) unit vectors of "train", "val" and "test".
        splits: the data set.
        shots: images a class, or "full" for all.
        draws: lots of few-shot images; the full set is trained on once.
        settings: the grid.

    Raises:
        InputError: a class has fewer images than shots, or shots are no positive number.
    """
    trials = [(k, draw) for k in shots for draw in range(1 if k == FULL else draws)]
    rows = [draw_shots(splits, k, draw) for k, draw in trials]  # refused before anything is trained

    def one(trial: tuple[Shots, int], chosen: np.ndarray) -> Callable[[], Trial]:
        return lambda: _trial(features, splits, *trial, chosen, settings)

    return list(together([one(*each) for each in zip(trials, rows)]))


def draw_shots(splits: Splits, shots: Shots, draw: int) -> np.ndarray:
    """Training images of a lot: ``shots`` of every class, without replacement; or all of them.

    Raises:
        InputError: a class has fewer images, or shots are no positive number.
    """
    labels = splits.train.labels
    if shots == FULL:
        return np.arange(len(labels))
    if not isinstance(shots, int) or shots < 1:
        raise InputError(f"shots {shots!r}: give a positive number of images a class, or {FULL!r}")
    counts = np.bincount(labels, minlength=len(splits.train.classes))
    if counts.min() < shots:
        name = splits.train.classes[int(counts.argmin())]
        raise InputError(
            f"task {splits.name}: class {name!r} has {counts.min()} training images, fewer than "
            f"{shots} shots; ask for fewer"
        )
    order = np.random.default_rng([shots, draw]).permutation(len(labels))
    ranked = order[np.argsort(labels[order], kind="stable")]  # by class, shuffled within
    first = np.cumsum(counts) - counts
    return np.concatenate([ranked[at : at + shots] for at in first])


def _trial(
    features: Mapping[str, np.ndarray], splits: Splits, shots: Shots, draw: int, rows: np.ndarray,
    settings: Sequence[Setting],
) -> Trial:  # fmt: skip
    train, test = splits.train, splits.test
    probes = train_probes(
        features["train"][rows], train.labels[rows], len(train.classes), settings, seed=draw
    )
    on_test = probes.accuracy(features["test"], test.labels)
    on_val = probes.accuracy(features["val"], splits.val.labels)

    def ranks(setting: int) -> np.ndarray:
        return ranks_of_truth(probes.logits(features["test"], setting), test.labels)

    return Trial(
        shots, draw, on_val, on_test, ranks(int(on_val.argmax())), ranks(int(on_test.argmax()))
    )


# --------------------------------------------------------------------------------------------- rows


def probe_rows(splits: Splits, trials: Sequence[Trial]) -> list[Row]:
    """Metrics of a data set: per number of shots top-1, and what choosing on test would have added.

    ``chance`` is the share of the largest class. The standard error is clustered over test images and,
    for several draws, includes their spread.
    """
    test = splits.test
    clusters = np.arange(len(test.labels)) if test.clusters is None else test.clusters
    guess = float(np.bincount(test.labels).max() / len(test.labels))
    rows = []
    for shots in dict.fromkeys(trial.shots for trial in trials):
        own = [trial for trial in trials if trial.shots == shots]
        right = np.stack([top_k(trial.ranks, 1) for trial in own])
        best = np.stack([top_k(trial.best_ranks, 1) for trial in own])
        name = f"probe_{shots}" if shots == FULL else f"probe_{shots}_shot"
        rows += [
            estimate_row(splits.name, f"{name}_top1", over_draws(right, clusters), guess),
            estimate_row(
                splits.name, f"{name}_top1_chosen_on_test", over_draws(best, clusters), guess
            ),
            estimate_row(
                splits.name,
                f"{name}_gain_of_choosing_on_test",
                over_draws(best - right, clusters),
                0.0,
            ),
        ]
    return rows


def over_draws(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Mean of (draws, n) values: the spread of draws is added to the clustered error of the items."""
    items = clustered_mean(values.mean(0), clusters)
    draws = len(values)
    spread = values.mean(1).var(ddof=1) / draws if draws > 1 else 0.0
    se = float(np.hypot(items.se, np.sqrt(spread)))
    half = float(stats.t.ppf(0.975, items.n_clusters - 1)) * se
    low, high = items.value - half, items.value + half
    return Estimate(items.value, se, low, high, items.n_items, items.n_clusters)


# -------------------------------------------------------------------------------------- a whole record


def probe_model(
    opened: Opened, tasks: Sequence[Splits], folder: Path, run_id: str, *,
    shots: Sequence[Shots] = SHOTS, draws: int = DRAWS, data_hash: str = "",
    workers: Workers = ALONE,
) -> dict[str, Any]:  # fmt: skip
    """Probe a model on data sets and write ``probe.json`` and ``probe_ranks.npz`` into ``folder``.

    Args:
        opened: any model with an image tower.
        tasks: data sets in three splits.
        folder: where the two files go.
        run_id: name of the run in the record.
        shots: images a class, or "full".
        draws: lots of few-shot images.
        data_hash: identity of the data; by default that of the tasks.
        workers: the processes, of which the main one writes, and where progress is told.

    Returns:
        The record, as in ``probe.json``.

    Raises:
        InputError: an image that cannot be read, or a class with fewer images than shots.
    """
    start = time.monotonic()
    rows: list[Row] = []
    settings: list[dict[str, Any]] = []
    ranked: dict[str, Ranked] = {}
    for splits in tasks:
        trials = probe(split_features(opened, splits, workers), splits, shots, draws)
        rows += probe_rows(splits, trials)
        settings += list(_settings(splits, trials))
        ranked |= {f"{splits.name}-{t.shots}-{t.draw}": _outcome(splits, t) for t in trials}
    hashes = {splits.name: splits.test.hashes for splits in tasks}
    seconds = round(time.monotonic() - start, 2)
    record = {
        "schema_version": records.SCHEMA_VERSION, "run_id": run_id,
        "checkpoint_hash": opened.weights_hash, "model": opened.circumstances(),
        "code_hash": records.code_hash(records.PROBE_CODE),
        "corpus_hash": data_hash or records.digest(str(hashes)),
        "commit": records.commit(), "versions": records.versions(), "hardware": records.hardware(),
        "seconds": seconds, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "precision": opened.numerics.precision, "draws": draws, "tasks": hashes,
        "settings": settings, "metrics": rows,
    }  # fmt: skip
    if workers.main:
        records.write_atomic(folder / "probe_ranks.npz", pack(ranked))
        records.write_record(folder / "probe.json", record)
        workers.tell(f"{run_id}: probed on {len(tasks)} data sets in {seconds:.0f} s")
    return record


def split_features(
    opened: Opened, splits: Splits, workers: Workers = ALONE
) -> dict[str, np.ndarray]:
    """Image features of the three splits: (n, D) each."""
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {part: image_features(opened, task.images, workers) for part, task in parts.items()}


def _settings(splits: Splits, trials: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    """Every setting tried, with both accuracies and whether it was chosen."""
    for trial in trials:
        for place, setting in enumerate(GRID):
            yield {
                "task": splits.name, "shots": trial.shots, "draw": trial.draw, **asdict(setting),
                "val": round(float(trial.val[place]), 6), "test": round(float(trial.test[place]), 6),
                "chosen": place == trial.chosen,
            }  # fmt: skip


def _outcome(splits: Splits, trial: Trial) -> Ranked:
    test = splits.test
    place = np.arange(len(test.labels))
    return Ranked(
        kind=ZERO_SHOT, rank=trial.ranks, item=place if test.items is None else test.items,
        candidates=len(test.classes), truth=test.labels,
        cluster=place if test.clusters is None else test.clusters,
    )  # fmt: skip
