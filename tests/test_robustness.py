"""Robustness: means over shifted sets, and the line in logits that effective robustness leaves."""

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError
from cliplib.evaluate.ranks import clustered_mean
from cliplib.evaluate.robustness import (
    baseline,
    comparable,
    effective_robustness,
    logit,
    mean_over,
    robustness_rows,
)


def test_sets_count_by_weight_and_a_difference_of_level_is_no_noise():
    rng = np.random.default_rng(0)
    easy, hard = (rng.random(4000) < 0.9).astype(float), (rng.random(400) < 0.1).astype(float)
    own = np.arange(4000), np.arange(4000, 4400)
    e = mean_over([(easy, own[0], 0.5), (hard, own[1], 0.5)])
    assert e.value == pytest.approx((easy.mean() + hard.mean()) / 2)
    apart = [clustered_mean(v, c).se for v, c in zip((easy, hard), own)]
    assert e.se == pytest.approx(np.hypot(*apart) / 2, rel=0.02)


def test_items_of_one_concept_in_two_sets_are_one_draw():
    rng = np.random.default_rng(1)
    values = (rng.random(500) < 0.5).astype(float)
    both = mean_over([(values, np.arange(500), 0.5), (values, np.arange(500), 0.5)])
    assert both.se == pytest.approx(clustered_mean(values, np.arange(500)).se, rel=0.01)


def test_without_one_of_the_sets_there_is_no_mean():
    assert robustness_rows({}) == []


def test_the_baseline_is_a_line_in_logits():
    x = np.array([0.2, 0.4, 0.6, 0.8])
    y = 1 / (1 + np.exp(-(0.7 * logit(x) - 0.5)))
    line = baseline(x, y)
    assert (line.intercept, line.slope) == (pytest.approx(-0.5), pytest.approx(0.7))
    assert np.allclose(line.expected(x), y)


def test_accuracies_of_at_most_ten_percent_are_not_compared():
    x, y = np.array([0.2, 0.3, 0.09, 0.5]), np.array([0.1, 0.2, 0.3, 1.0])
    assert comparable(x, y).tolist() == [False, True, False, False]
    with pytest.raises(InputError, match="at most 10%"):
        baseline(np.array([0.1, 0.3, 0.4]), np.array([0.2, 0.2, 0.3]))
    with pytest.raises(InputError, match="three or more"):
        baseline(np.array([0.2, 0.3]), np.array([0.2, 0.2]))


def runs(pairs):
    rows = []
    for run, (own, shifted) in enumerate(pairs):
        for task, value in (("validation-names", own), ("robustness", shifted)):
            rows.append(
                {"run_id": f"r{run}", "task": task, "metric": "top1", "value": value, "se": 0.01}
            )
    return pd.DataFrame(rows)


def test_a_run_above_the_line_has_positive_effective_robustness():
    table = effective_robustness(
        runs([(0.2, 0.15), (0.3, 0.23), (0.4, 0.4), (0.5, 0.41), (0.05, 0.04)])
    )
    assert table["compared"].tolist() == [False, True, True, True, True]
    assert table.loc[table["run_id"] == "r2", "effective"].item() > 0
    assert table["effective"].isna().tolist() == [True, False, False, False, False]
    compared = table[table["compared"]]
    assert (logit(compared["shifted"]) - logit(compared["expected"])).sum() == pytest.approx(
        0, abs=1e-9
    )


def test_too_few_runs_leave_the_line_empty():
    table = effective_robustness(runs([(0.2, 0.15), (0.3, 0.2)]))
    assert table["compared"].all() and table["effective"].isna().all()
