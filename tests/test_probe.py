"""Linear probes: the batched grid equals one run after the other; test chooses nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluate_things import classification, pixels, small_model

from cliplib import InputError, records
from cliplib.evaluate.blocks import Workers
from cliplib.evaluate.linear_probe import GRID, Setting, train_probes
from cliplib.evaluate.outcomes import unpack
from cliplib.evaluate.probe import (
    FULL,
    Trial,
    draw_shots,
    over_draws,
    probe,
    probe_model,
    probe_rows,
)
from cliplib.evaluate.ranks import clustered_mean
from cliplib.evaluate.tasks import Splits

CLASSES = 4


def clouds(n, seed, spread=1.0, width=12):
    """Noisy clouds of unit vectors around one centre a class."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, width))
    labels = np.arange(n) % CLASSES
    x = centres[labels] + spread * rng.normal(size=(n, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def one_by_one(features, labels, setting, seed):
    """The same probe as a torch module with torch's own AdamW and autograd."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(features.shape[1], CLASSES)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=setting.lr, weight_decay=0)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    shuffle, step = torch.Generator().manual_seed(seed), 0
    steps = setting.epochs * -(-len(x) // 256)
    for _ in range(setting.epochs):
        for rows in torch.randperm(len(x), generator=shuffle).split(256):
            optimiser.param_groups[0]["lr"] = setting.lr * 0.5 * (1 + np.cos(np.pi * step / steps))
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimiser.step()
            step += 1
    return layer


@pytest.mark.parametrize("place", [0, 4, 8])
def test_the_stacked_grid_equals_each_setting_alone(place):
    features, labels = clouds(600, 0)
    probes = train_probes(features, labels, CLASSES, seed=3)
    alone = one_by_one(features, labels, GRID[place], 3)
    assert np.allclose(probes.weight[place], alone.weight.detach().numpy(), atol=2e-5)
    assert np.allclose(probes.bias[place], alone.bias.detach().numpy(), atol=2e-5)


def test_the_grid_is_the_papers():
    assert {s.lr for s in GRID} == {0.1, 0.01, 0.001} and {s.epochs for s in GRID} == {10, 20, 40}
    assert len(set(GRID)) == 9


def test_a_setting_does_not_depend_on_its_company():
    features, labels = clouds(300, 1)
    whole = train_probes(features, labels, CLASSES)
    few = train_probes(features, labels, CLASSES, [GRID[7], GRID[2]])
    assert np.allclose(few.weight, whole.weight[[7, 2]], atol=1e-6)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(InputError, match="needs training images"):
        train_probes(np.empty((0, 3), np.float32), np.empty(0, int), 2)


def splits_of(n_train=200, n_val=80, n_test=80):
    def part(n, name):
        return classification(
            n, classes=[f"class {c}" for c in range(CLASSES)], images=pixels(n),
            labels=np.arange(n) % CLASSES, split=name,
        )  # fmt: skip

    return Splits(part(n_train, "train"), part(n_val, "val"), part(n_test, "test"))


def features_of(spread=1.5):
    sizes = {"train": 200, "val": 80, "test": 80}
    return {part: clouds(n, seed, spread)[0] for seed, (part, n) in enumerate(sizes.items())}


SETTINGS = (Setting(0.1, 3), Setting(0.01, 3), Setting(0.001, 3))


def test_the_setting_is_chosen_on_validation_and_test_labels_change_nothing():
    splits, features = splits_of(), features_of()
    trials = probe(features, splits, [10, FULL], 2, SETTINGS)
    wrong = replace(splits.test, labels=(splits.test.labels + 1) % CLASSES)
    poisoned = probe(features, replace(splits, test=wrong), [10, FULL], 2, SETTINGS)
    assert [t.chosen for t in trials] == [t.chosen for t in poisoned]
    assert all(t.chosen == int(t.val.argmax()) for t in trials)
    assert [t.shots for t in trials] == [10, 10, FULL]


def test_choosing_on_test_never_looks_worse_and_is_reported_as_a_gain():
    splits = splits_of()
    trial = Trial(
        FULL, 0, np.array([0.5, 0.6]), np.array([0.7, 0.4]),
        ranks=np.array([1] * 32 + [2] * 48), best_ranks=np.array([1] * 56 + [2] * 24),
    )  # fmt: skip
    rows = {row["metric"]: row["value"] for row in probe_rows(splits, [trial])}
    assert rows["probe_full_top1"] == pytest.approx(0.4)
    assert rows["probe_full_top1_chosen_on_test"] == pytest.approx(0.7)
    assert rows["probe_full_gain_of_choosing_on_test"] == pytest.approx(0.3)
    found = probe_rows(splits, probe(features_of(), splits, [5], 3, SETTINGS))
    gain = next(row for row in found if row["metric"].endswith("gain_of_choosing_on_test"))
    assert gain["value"] >= 0


def test_shots_are_balanced_distinct_and_another_draw_is_another_lot():
    splits = splits_of()
    first, second = (draw_shots(splits, 10, draw) for draw in (0, 1))
    assert np.bincount(splits.train.labels[first]).tolist() == [10] * CLASSES
    assert len(set(first)) == 40 and set(first) != set(second)
    assert np.array_equal(first, draw_shots(splits, 10, 0))


def test_shots_that_a_class_does_not_have_are_refused_before_any_training():
    with pytest.raises(InputError, match="class 'class 0' has 50 training images, fewer than 60"):
        probe(features_of(), splits_of(), [60])
    for shots in (0, "many"):
        with pytest.raises(InputError, match="positive number of images"):
            draw_shots(splits_of(), shots, 0)


def test_the_spread_of_draws_widens_the_interval():
    rng = np.random.default_rng(0)
    one = (rng.random(200) < 0.6).astype(float)
    same = over_draws(np.stack([one, one, one]), np.arange(200))
    assert same.se == pytest.approx(clustered_mean(one, np.arange(200)).se)
    other = over_draws(np.stack([one, 1 - one]), np.arange(200))
    assert other.se > same.se and other.ci_high - other.value > same.ci_high - same.value


def test_a_record_keeps_settings_and_ranks(tmp_path):
    opened = small_model(tmp_path / "model")
    lines = []
    workers = Workers(say=lines.append)
    record = probe_model(
        opened, [splits_of()], tmp_path, "x", shots=(5, FULL), draws=2, workers=workers
    )
    assert record == records.read_record(tmp_path / "probe.json")
    assert len(record["settings"]) == 3 * len(GRID)
    assert sum(s["chosen"] for s in record["settings"]) == 3
    ranked = unpack(tmp_path / "probe_ranks.npz")
    full = next(row for row in record["metrics"] if row["metric"] == "probe_full_top1")
    assert full["value"] == pytest.approx((ranked["noise-full-0"].rank == 1).mean(), abs=1e-6)
    assert lines[-1].startswith("x: probed on 1 data sets")
