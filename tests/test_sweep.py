"""Learning rates follow from a recorded sweep whose best is interior."""

import pandas as pd
import pytest
from conftest import ROOT

from cliplib import sweep
from cliplib.ladder import LEARNING_RATES

TABLE = ROOT / "book" / "data" / "lr_sweep.csv"


@pytest.fixture(scope="module")
def cells():
    return list(pd.read_csv(TABLE).groupby(["rung", "samples_seen"]))


def test_every_swept_rung_has_two_lengths_and_an_interior_best(cells):
    lengths = pd.Series([rung for (rung, _), _ in cells]).value_counts()
    assert (lengths >= 2).all() and {"XXS", "XS", "S"} <= set(lengths.index)
    for name, rows in cells:
        best = rows.lr[rows.infonce.idxmin()]
        assert rows.lr.min() < best < rows.lr.max(), name


def test_the_rates_in_use_are_the_best_of_the_sweep_or_tie_with_it(cells):
    for (rung, _), rows in cells:
        used = rows.infonce[rows.lr == LEARNING_RATES[rung]].item()
        assert used <= rows.infonce.min() + 0.02  # about the spread of equal settings


def test_a_sweep_goes_beyond_an_edge_and_stops_at_an_interior_best(monkeypatch, tmp_path):
    loss = {0.01: 5.0, 0.0032: 5.4, 0.001: 5.6, 0.00032: 6.0, 0.032: 5.2}
    tried = []

    def one(scale, rung, samples, lr, corpus, folder):
        tried.append(lr)
        row = dict.fromkeys(sweep.COLUMNS, 0) | {"scale": scale, "rung": rung, "samples_seen": 1280}
        return row | {"lr": lr, "batch_size": 128, "infonce": loss[lr]}

    monkeypatch.setattr(sweep, "_one", one)
    table = tmp_path / "sweep.csv"
    assert sweep.sweep("nano", "XS", 1280, None, tmp_path, table) == 0.01
    assert tried == [0.00032, 0.001, 0.0032, 0.01, 0.032]
    assert sweep.sweep("nano", "XS", 1280, None, tmp_path, table) == 0.01
    assert len(tried) == 5  # what is in the table is not run again


def test_a_best_at_the_lower_edge_is_followed_downwards():
    assert sweep.next_steps({-7: 5.0, -6: 5.5, -5: 6.0}) == [-8]
