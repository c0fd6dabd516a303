"""What the README promises is there; the committed study is the declared one."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from cliplib import records
from cliplib.__main__ import VERBS, main
from cliplib.ladder import rung, scale

README = (ROOT / "README.md").read_text()
COMMITTED = ROOT / "book" / "data"


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M))
    assert named >= {"book", "test", "study", "serve"} and named <= targets


def test_every_verb_that_is_named_exists():
    named = set(re.findall(r"-m cliplib ([a-z]+)", README))
    assert named and named <= set(VERBS)


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"`((?:cliplib|notebooks|book)/[\w./-]+)`", README))
    named |= set(re.findall(r"\]\((book/[\w./-]+)\)", README))
    named |= set(re.findall(r"(?:--profile|papermill) ((?:notebooks)/[\w./-]+)", README))
    made = {name for name in named if name.startswith("book/_build")}
    assert len(named - made) > 5
    assert not [name for name in named - made if not (ROOT / name).exists()]


def test_every_rung_and_scale_that_is_named_exists():
    for name in re.findall(r"SCALE=(\w+)|-p scale (\w+)|--scale (\w+)", README):
        assert scale("".join(name))
    for name in re.findall(r"-p rung (\S+)", README):
        assert rung(name)


def test_every_dry_run_that_is_named_runs(capsys):
    found = re.findall(r"-m cliplib (study .*--dry-run[^#\n]*)", README)
    assert found
    for line in found:
        assert main(line.split()) == 0, capsys.readouterr().err
        assert "total: " in capsys.readouterr().out


# ------------------------------------------------------------------------------ the committed study


@pytest.fixture(scope="module")
def study():
    return pd.read_csv(COMMITTED / "runs.csv")


def test_the_committed_study_is_the_declared_grid(study):
    declared = {run.run_id: records.config_hash(run) for run in scale("nano")}
    assert dict(zip(study.run_id, study.config_hash)) == declared


def test_the_committed_study_rests_on_one_corpus_and_one_code(study, corpus):
    assert set(study.corpus_hash) == {corpus.hash}
    assert study.code_hash.nunique() == 1


def test_the_committed_metrics_follow_from_the_committed_ranks(study, corpus):
    from cliplib.evaluate import icon_rows, unpack

    tested = study[~study.metric.str.startswith(("probe_", "finetune_"))]
    for name, rows in tested.groupby("run_id"):
        again = pd.DataFrame(icon_rows(unpack(COMMITTED / "ranks" / f"{name}.npz"), corpus))
        both = rows.merge(again, on=["task", "metric"], validate="one_to_one")
        assert len(both) == len(rows) == len(again)
        for column in ("value", "se", "n_items"):
            assert np.allclose(both[f"{column}_x"], both[f"{column}_y"], atol=1e-6)


def test_the_picture_shows_the_committed_table():
    picture = Image.open(ROOT / "book" / "_static" / "result.png")
    assert picture.text["Source"] == records.digest((COMMITTED / "runs.csv").read_bytes()), (
        "run: python -m cliplib book picture"
    )


def test_error_falls_with_compute_in_the_committed_study(study):
    from cliplib.book.study import RESPONSES, errors

    for name in ("phosphor", "retrieval"):  # the loss on held-out pairs is not claimed to fall
        runs = errors(study, RESPONSES[name])
        assert runs.high.iloc[-1] < runs.low.iloc[0], name
