"""Metrics from ranks: chance levels, k-way accuracy, clustered intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliplib.evaluate.ranks import clustered_mean, k_way, ranks_of_truth, top_k


def test_rank_counts_better_scores_and_ties_count_against_the_model():
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.2, 0.2], [0.1, 0.3, 0.2]])
    assert ranks_of_truth(scores, np.array([0, 1, 2])).tolist() == [1, 3, 2]


def test_a_random_model_is_at_chance_in_every_metric():
    rng = np.random.default_rng(0)
    scores, truth = rng.random((20_000, 50)), rng.integers(0, 50, 20_000)
    ranks = ranks_of_truth(scores, truth)
    assert top_k(ranks, 5).mean() == pytest.approx(5 / 50, abs=0.01)
    assert k_way(ranks, 50, 20).mean() == pytest.approx(1 / 20, abs=0.005)


@given(st.integers(2, 60), st.data())
def test_k_way_equals_brute_force_over_draws_of_distractors(candidates, data):
    k = data.draw(st.integers(2, candidates))
    rank = data.draw(st.integers(1, candidates))
    rng = np.random.default_rng(candidates * 1000 + k * 60 + rank)
    draws = np.array([rng.permutation(candidates - 1)[: k - 1].min() for _ in range(400)])
    wins = (draws >= rank - 1).mean()  # wrong candidates 0 .. rank-2 are better than the truth
    expected = k_way(np.array([rank]), candidates, k)[0]
    assert abs(expected - wins) <= 5 * np.sqrt(max(expected * (1 - expected), 1e-9) / 400) + 1e-9


def test_all_ways_is_top_1():
    ranks = np.array([1, 2, 7, 10])
    assert k_way(ranks, 10, 10).tolist() == top_k(ranks, 1).tolist()


def test_k_way_refuses_more_ways_than_candidates():
    with pytest.raises(ValueError, match="candidates"):
        k_way(np.array([1]), 5, 6)


def test_six_styles_of_one_drawing_do_not_count_as_six_observations():
    rng = np.random.default_rng(1)
    drawings = (rng.random(400) < 0.3).astype(float)
    alone = clustered_mean(drawings, np.arange(400))
    repeated = clustered_mean(np.repeat(drawings, 6), np.repeat(np.arange(400), 6))
    assert repeated.value == pytest.approx(alone.value)
    assert repeated.se == pytest.approx(alone.se)
    assert repeated.n_items == 2400 and repeated.n_clusters == 400


def test_independent_items_have_the_binomial_error():
    values = np.array([1.0] * 30 + [0.0] * 70)
    estimate = clustered_mean(values, np.arange(100))
    assert estimate.se == pytest.approx(np.sqrt(0.3 * 0.7 / 99))
    assert estimate.ci_low < 0.3 < estimate.ci_high


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(60), 4)
    hits = 0
    for _ in range(2000):
        shared = rng.normal(0, 1, 60)[clusters] + rng.normal(0, 1, 240)
        e = clustered_mean(shared, clusters)
        hits += e.ci_low <= 0 <= e.ci_high
    assert 0.93 <= hits / 2000 <= 0.97


def test_one_cluster_has_no_interval():
    with pytest.raises(ValueError, match="two clusters"):
        clustered_mean(np.ones(5), np.zeros(5))
