"""The chapter on testing: one choice changed at a time, paired item by item."""

import pandas as pd
import pytest
from evaluate_things import small_model

from cliplib.evaluate.icon_tasks import held_out_task
from cliplib.evaluation_pages import differences


@pytest.fixture(scope="module")
def rows(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    task = held_out_task(corpus, "kameleon")
    subject = differences.Subject(small_model(folder), task, corpus, str(folder))
    return pd.DataFrame(differences.table(subject))


def test_every_choice_is_compared_with_the_reference(rows):
    assert rows["choice"].nunique() >= 10 and len(rows) == 2 * rows["choice"].nunique()
    reference = rows[rows["choice"] == differences.REFERENCE]
    assert (reference["difference"] == 0).all() and (reference["changed"] == 0).all()
    assert (rows["n_items"] == 198).all()


def test_a_lower_case_tokenizer_sees_no_capitals(rows):
    capitals = rows[rows["choice"] == "class names in capitals"]
    assert (capitals["changed"] == 0).all() and (capitals["se"] == 0).all()


def test_alpha_dropped_is_another_picture(corpus, tmp_path):
    task = held_out_task(corpus, "kameleon")
    subject = differences.Subject(small_model(tmp_path / "m"), task, corpus, "")
    black = differences._on_black(subject).images.array
    import numpy as np

    white = task.images.pixels(np.arange(len(task.images)), lambda image: image)
    assert black.shape == white.shape and black.mean() < white.mean()


def test_bad_input_is_one_line(tmp_path, capsys):
    out = str(tmp_path / "t.csv")
    assert differences.main([str(tmp_path / "none"), "--out", out]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "t.csv").exists()
