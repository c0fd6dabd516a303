"""Records: atomic, checked, and current by content."""

import json

import pytest

from cliplib import InputError, records
from cliplib.ladder import run_spec


def complete(name, **fields):
    return {
        **dict.fromkeys(records.REQUIRED[name], 0),
        "schema_version": records.SCHEMA_VERSION,
        **fields,
    }


def test_a_record_survives_writing_and_reading(tmp_path):
    record = complete("train.json", loss=1.25)
    records.write_record(tmp_path / "train.json", record)
    assert records.read_record(tmp_path / "train.json") == record
    assert [p.name for p in tmp_path.iterdir()] == ["train.json"]


def test_a_record_that_lacks_a_field_is_never_written(tmp_path):
    record = complete("eval.json")
    del record["prompt_hash"]
    with pytest.raises(KeyError, match="prompt_hash"):
        records.write_record(tmp_path / "eval.json", record)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    ["{", json.dumps({"schema_version": 1}), json.dumps(complete("train.json", schema_version=0))],
)
def test_an_unreadable_or_foreign_record_is_one_line(tmp_path, content):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(InputError, match="re-run") as caught:
        records.read_record(tmp_path / "train.json")
    assert "\n" not in str(caught.value)


def test_only_volatile_fields_are_left_out_of_results():
    record = complete("train.json", seconds=3, loss=2)
    kept = records.results(record)
    assert "loss" in kept and not set(kept) & records.VOLATILE
    assert set(kept) | records.VOLATILE >= set(records.REQUIRED["train.json"])


def test_code_hash_ignores_comments_and_layout_but_not_meaning(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PACKAGE", tmp_path)
    hashes = []
    for source in (
        'def f(x):\n    """Add one."""\n    return x + 1\n',
        "# a comment\ndef f( x ):\n    return x+1\n",
        "def f(x):\n    return x + 2\n",
    ):
        (tmp_path / "m.py").write_text(source)
        records.code_hash.cache_clear()
        hashes.append(records.code_hash(("m.py",)))
    records.code_hash.cache_clear()
    assert hashes[0] == hashes[1] != hashes[2]


def test_config_hash_tells_runs_and_architectures_apart():
    base = run_spec("nano", "XS", 65536)
    assert records.config_hash(base) == records.config_hash(run_spec("nano", "XS", 65536))
    others = [
        run_spec("nano", "S", 65536),
        run_spec("nano", "XS", 65536, seed=1),
        run_spec("nano", "XS", 65536, lr=0.01),
    ]
    assert len({records.config_hash(run) for run in [base, *others]}) == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"train": True, "eval": True}),
        ({"train.json": {"corpus_hash": "other"}}, {"train": False, "eval": False}),
        ({"train.json": {"code_hash": "other"}}, {"train": False, "eval": False}),
        ({"train.json": {"config_hash": "other"}}, {"train": False, "eval": False}),
        ({"eval.json": {"code_hash": "other"}}, {"train": True, "eval": False}),
        ({"eval.json": {"schema_version": 0}}, {"train": True, "eval": False}),
    ],
)
def test_currency_is_decided_by_content(tmp_path, change, expected):
    run = run_spec("nano", "XS", 65536)
    content = {
        "train.json": {
            "code_hash": records.code_hash(records.TRAIN_CODE),
            "config_hash": records.config_hash(run),
        },
        "eval.json": {"code_hash": records.code_hash(records.EVALUATE_CODE)},
    }
    for name, fields in content.items():
        record = complete(name, corpus_hash="c", **fields) | change.get(name, {})
        (tmp_path / name).write_text(json.dumps(record))
    (tmp_path / "ranks.npz").write_bytes(b"")
    assert records.is_current(tmp_path, run, "c") == expected


def test_an_absent_run_is_not_current(tmp_path):
    assert records.is_current(tmp_path, run_spec("nano", "XS", 65536), "c") == {
        "train": False,
        "eval": False,
    }
