"""The evaluation rows of the bench: both sides are run, and their numbers agree. No clock is asserted."""

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
