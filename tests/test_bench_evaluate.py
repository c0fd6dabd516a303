"""The evaluation rows of the bench: both sides are run, and their numbers agree. No clock is asserted."""

import json

import pytest

from cliplib.bench import jobs_evaluate
from cliplib.bench.measure import all_jobs
from cliplib.evaluate.linear_probe import Setting


def test_the_jobs_are_found_by_name():
    assert {"zero_shot", "retrieval", "probe_grid", "large_retrieval"} <= set(all_jobs())


def test_zero_shot_has_a_ratio_and_equal_numbers(corpus):
    found = jobs_evaluate.zero_shot(["XXS"], [1], 1, "kameleon", corpus.folder)
    time, memory, apart = found
    assert time.unit == "s" and time.ratio > 0 and "198 images" in time.case
    assert memory.unit == "MiB" and memory.peer > 100
    assert apart.ours < 1e-6 and "fp32" in apart.case


def test_the_peer_counts_at_its_best_and_is_told_by_default(monkeypatch, tmp_path):
    """Seconds by workers, mixed precision and threads; every process stands in for itself here."""
    asked = []

    def run_json(command, threads, first=None):
        if first is None:
            return {"seconds": 1.0, "peak_mb": 1.0, "precision": "bf16", "metrics": {}}
        settings = json.loads(command[-1])
        asked.append((settings["workers"], settings["amp"], threads))
        return {"seconds": 9.0 - len(asked), "peak_mb": 2.0, "metrics": {}}

    monkeypatch.setattr(jobs_evaluate.peers, "run_json", run_json)
    monkeypatch.setattr(jobs_evaluate.peers, "overlay", lambda: tmp_path)
    turn = jobs_evaluate._turn("zero_shot", tmp_path, tmp_path, 2)
    assert asked == [(0, False, 2), (0, True, 2), (4, True, 2), (2, False, 1), (2, True, 1)]
    best, memory, default, _ = jobs_evaluate._rows("zero_shot", "XS", 2, [turn])
    assert (best.ratio, default.ratio) == (4.0, 6.0) and memory.ratio == 2.0
    assert "at best (2 workers, mixed" in best.case and "by default (4 workers" in default.case


def test_the_grid_of_probes_is_run_by_both():
    settings = (Setting(0.1, 2), Setting(0.01, 1))
    time, apart = jobs_evaluate.probe_grid([(16, 4, 300)], settings)
    assert time.ratio > 0 and "2 settings, 3 epochs" in time.case
    assert abs(apart.ours) < 0.2


def test_a_large_pool_takes_the_memory_of_a_tile():
    (row,) = jobs_evaluate.large_retrieval(600, [20_000])
    assert row.peer == pytest.approx(4 * 600 * 20_000 / 2**20) and row.ours >= 0


def test_a_difference_is_the_largest_of_all_metrics():
    theirs = {"acc1": 0.5, "image_retrieval_recall@5": 0.2}
    assert jobs_evaluate.difference(
        theirs, {"top1": 0.5, "t2i recall_at_5": 0.25}
    ) == pytest.approx(0.05)
