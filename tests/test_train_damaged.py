"""From the command line: a run over deliberately damaged shards counts what it skipped, or stops."""

import json
import tarfile

import pytest
from shard_files import write_shard

from cliplib import records
from cliplib.__main__ import main
from cliplib.data import faults
from cliplib.ladder import run_spec

STEPS, BATCH = 30, 64
PAGE = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"


def members(path):
    """Samples of a shard in order: key -> {extension: bytes}."""
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, kind = member.name.partition(".")
            found.setdefault(key, {})[kind] = tar.extractfile(member).read()
    return found


def write(path, samples, also=()):
    whole = [*samples.items(), *also]
    write_shard(path, [(f"{key}.{kind}", c) for key, sample in whole for kind, c in sample.items()])


@pytest.fixture(scope="module")
def damaged(corpus, tmp_path_factory):
    """Four shards of real icons with one fault of each kind, and the counts that must come out."""
    folder = tmp_path_factory.mktemp("damaged")
    shards = [members(corpus.folder / f"train-{n:06}.tar") for n in range(3)]
    shards = [dict(list(shard.items())[:400]) for shard in shards]  # small ones: whole passes
    first = list(shards[0])
    shards[0][first[10]]["png"] = PAGE
    del shards[0][first[20]]["txt"]
    shards[0][first[20]].pop("json")
    shards[0][first[30]]["txt"] = b"\xff\xfe broken"
    shards[0][first[30]].pop("json")
    shards[0][first[40]]["json"] = b"{"
    shards[0][first[50]]["png"] = b"\x89PNG\r\n\x1a\nhalf"
    write(folder / "0.tar", shards[0], [(first[5], shards[0][first[5]])])
    write(folder / "1.tar", shards[1])
    write(folder / "2.tar", shards[2])
    whole = (folder / "2.tar").read_bytes()
    (folder / "2.tar").write_bytes(whole[: len(whole) * 2 // 3 + 100])
    write(folder / "3.tar", {})
    kinds = {
        faults.HTML: 1, faults.NO_CAPTION: 1, faults.BAD_TEXT: 1, faults.BAD_JSON: 1,
        faults.BAD_IMAGE: 1, faults.DUPLICATE_KEY: 1, faults.TRUNCATED_SHARD: 1,
        faults.EMPTY_SHARD: 1,
    }  # fmt: skip
    return folder, kinds


def trained(folder, tmp_path, **data):
    run = run_spec(
        "smoke", "XXS", STEPS * BATCH, data_scale="all", corpus="shards", batch_size=BATCH
    )
    config = {
        **run.to_dict(),
        "data": {"shards": [str(folder)], "lanes": 4, "shuffle": 200, **data},
    }
    (tmp_path / "run.json").write_text(json.dumps(config))
    return main(["train", "--config", str(tmp_path / "run.json"), "--out", str(tmp_path / "run")])


def test_every_fault_is_counted_by_kind_and_by_shard(damaged, tmp_path, capsys):
    folder, kinds = damaged
    assert trained(folder, tmp_path, max_bad_share=0.5) == 0, capsys.readouterr().err
    record = records.read_record(tmp_path / "run" / "train.json")
    assert record["samples_seen"] == STEPS * BATCH
    found = record["bad_samples"]
    assert set(found) == set(kinds)
    most = 1 + STEPS * BATCH // 400  # passes that any lane can have begun
    assert all(1 <= count <= most for count in found.values())
    of_shard = {shard.rpartition("/")[2]: count for shard, count in record["bad_shards"].items()}
    of_others = (faults.TRUNCATED_SHARD, faults.EMPTY_SHARD)
    assert of_shard == {
        "0.tar": sum(count for kind, count in found.items() if kind not in of_others),
        "2.tar": found[faults.TRUNCATED_SHARD],
        "3.tar": found[faults.EMPTY_SHARD],
    }


def test_over_the_threshold_the_run_stops_and_names_the_shards(damaged, tmp_path, capsys):
    folder, _ = damaged
    assert trained(folder, tmp_path, max_bad_share=0.0001) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and ".tar" in line and "max_bad_share" in line
    assert not (tmp_path / "run" / "train.json").exists()
