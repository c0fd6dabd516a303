"""Training: what a run leaves, what stops it, what it refuses. Equal runs: test_exactness.py."""

import json
import math
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cliplib import InputError, model, records
from cliplib.__main__ import main
from cliplib.ladder import run_spec
from cliplib.train import Diverged, Settings, TrainConfig, train
from cliplib.train.config import Checkpointing, Data, Engine, Instruments
from cliplib.train.loop import _Loop
from cliplib.train.optimiser import lr_at
from cliplib.train.world import World

STEPS = 24


def small_run(**changes):
    """A run of the smallest rung on real pairs, a few steps long."""
    return run_spec("smoke", "XXS", STEPS * 32, data_scale="2k", batch_size=32, **changes)


def quiet(line):
    pass


def stopped(corpus, folder, after, number=signal.SIGINT, precision="fp32"):
    """A run that is interrupted after so many steps."""
    settings = Settings(engine=Engine(precision=precision))
    loop = _Loop(small_run(), corpus, folder, settings, World(), quiet)
    step = loop.take_step

    def signalled(*asked):
        if loop.step == after:
            signal.raise_signal(number)
            asked = (True, False)
        return step(*asked)

    loop.take_step = signalled
    with pytest.raises(KeyboardInterrupt):
        loop.go()


def weights(folder):
    return load_file(folder / "checkpoint" / model.WEIGHTS)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(small_run(), corpus, folder, say=quiet)


def test_a_run_leaves_its_record_curve_and_checkpoint(finished, corpus):
    folder, record = finished
    assert records.read_record(folder / "train.json") == record
    assert record["samples_seen"] == STEPS * 32 and record["steps"] == STEPS
    assert record["corpus_hash"] == corpus.hash
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert (
        math.log(32) - 0.5 < lines[0]["loss"] < math.log(32) + 1.5
    )  # guessing, at the initial scale
    assert not (folder / "checkpoint" / "resume").exists()
    assert 0 < record["executed_gmacs"] <= record["gmacs_per_pair"] * record["samples_seen"]


def test_the_loss_falls(corpus, tmp_path):
    run = run_spec("smoke", "XXS", 300 * 32, data_scale="2k", batch_size=32, lr=1e-3)
    train(run, corpus, tmp_path, say=quiet)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert np.mean(losses[-20:]) < math.log(32) - 0.15  # well below guessing


def test_a_finished_run_is_not_trained_again(finished, corpus):
    folder, record = finished
    said = []
    assert train(small_run(), corpus, folder, say=said.append) == record
    assert said == [f"{small_run().run_id}: trained already"]


def test_a_damaged_checkpoint_is_said_and_the_run_starts_over(finished, corpus, tmp_path):
    _, record = finished
    place = tmp_path / "checkpoint" / "resume"
    place.mkdir(parents=True)
    (place / "step-000000005.safetensors").write_bytes(b"half a checkpoint")
    said = []
    again = train(small_run(), corpus, tmp_path, say=said.append)
    assert "damaged" in said[0] and "starting this run over" in said[0]
    assert records.results(again) == records.results(record)


def test_a_checkpoint_of_another_precision_is_refused_by_name(corpus, tmp_path):
    stopped(corpus, tmp_path, after=7)
    with pytest.raises(InputError, match="made for precision fp32; this run has precision bf16"):
        train(small_run(), corpus, tmp_path, settings=Settings(engine=Engine(precision="bf16")))


def test_a_finished_run_is_not_overwritten_by_another(corpus, tmp_path):
    train(small_run(), corpus, tmp_path, say=quiet)
    before = (tmp_path / "train.json").read_bytes()
    with pytest.raises(
        InputError, match=r"holds a finished run with lr 0.001; this one has lr 0.002"
    ):
        train(small_run(lr=2e-3), corpus, tmp_path, say=quiet)
    assert (tmp_path / "train.json").read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_state_first(finished, corpus, tmp_path, number):
    stopped(corpus, tmp_path, after=7, number=number, precision=None)
    assert [path.name for path in (tmp_path / "checkpoint" / "resume").iterdir()] == [
        "step-000000008.safetensors"
    ]
    said = []
    again = train(small_run(), corpus, tmp_path, say=said.append)
    assert "resumed at step 8" in said[0]
    assert records.results(again) == records.results(finished[1])


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
def test_a_second_trainer_in_a_folder_is_refused(corpus, tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4321")
        lock.flush()
        with pytest.raises(InputError, match="process 4321 is training here"):
            train(small_run(), corpus, tmp_path)


@pytest.mark.parametrize("path", ["fast", "torch"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_non_finite_number_stops_the_run_before_the_optimiser_steps(
    corpus, tmp_path, monkeypatch, what, path
):
    settings = Settings(engine=Engine(path=path, precision="fp32"))
    loop = _Loop(small_run(), corpus, tmp_path, settings, World(), quiet)
    for _ in range(4):
        loop.take_step()
    loop.save()
    before = {name: p.detach().clone() for name, p in loop.engine.clip.named_parameters()}
    gradient = loop.engine.gradient

    def poisoned(share):
        loss = gradient(share)
        if what == "loss":
            return loss * float("nan")
        if path == "fast":
            loop.engine.fast.weights.gradient[7] = float("inf")
        else:
            loop.engine.clip.visual.proj.grad[0, 0] = float("inf")
        return loss

    monkeypatch.setattr(loop.engine, "gradient", poisoned)
    with pytest.raises(Diverged, match="at step 5; stopped before the optimiser's step"):
        loop.go()
    after = dict(loop.engine.clip.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "train.json").exists() and loop.checkpoints.latest().step == 4


def test_a_collapsed_temperature_is_said_once_and_recorded(corpus, tmp_path):
    said = []
    loop = _Loop(small_run(), corpus, tmp_path, Settings(), World(), said.append)
    loop.engine.clip.logit_scale.data.fill_(math.log(1.5))
    record = loop.go()
    assert record["collapsed_at_step"] == 1
    assert len([line for line in said if "logit scale fell to 1.5" in line]) == 1


def test_a_profile_prints_the_share_of_each_phase(corpus, tmp_path):
    said = []
    settings = Settings(instruments=Instruments(profile=5))
    train(small_run(), corpus, tmp_path, settings=settings, say=said.append)
    table = next(line for line in said if line.startswith("profile of 5 steps"))
    assert all(phase in table for phase in ("data", "gradient", "clipping", "optimiser"))
    shares = [float(word[:-1]) for word in table.split() if word.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_tensorboard_gets_the_values_of_metrics_jsonl(corpus, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = Settings(instruments=Instruments(tensorboard=True))
    train(small_run(), corpus, tmp_path, settings=settings, say=quiet)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(
        [line["loss"] for line in lines]
    )


def test_without_tensorboard_the_way_to_get_it_is_said(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    settings = Settings(instruments=Instruments(tensorboard=True))
    with pytest.raises(InputError, match="pip install"):
        train(small_run(), corpus, tmp_path, settings=settings)


def test_learning_rate_warms_up_and_falls_to_zero_over_the_runs_own_length():
    run = run_spec("nano", "XS", 128 * 1000, lr=0.001)
    rates = [lr_at(run, step, 1000) for step in range(1000)]
    warmup = round(run.warmup_fraction * 1000)
    assert rates[0] == pytest.approx(0.001 / warmup) and max(rates) == pytest.approx(0.001)
    assert rates.index(max(rates)) in (warmup - 1, warmup)
    assert all(a >= b for a, b in zip(rates[warmup:], rates[warmup + 1 :])) and rates[-1] < 1e-8


def test_progress_lines_come_every_other_second_with_rate_loss_and_time_left(
    corpus, tmp_path, monkeypatch
):
    clock = iter(np.arange(0, 1e6, 0.7))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    said = []
    train(small_run(), corpus, tmp_path, say=said.append)
    assert 24 * 0.7 / 2.8 - 2 <= len(said) <= 24 * 0.7 / 2 + 2
    assert all(word in said[0] for word in ("samples/s", "loss", "logit scale", "s left"))


def test_a_batch_that_the_processes_cannot_share_evenly_is_refused(corpus, tmp_path):
    with pytest.raises(InputError, match="divides evenly"):
        _Loop(small_run(), corpus, tmp_path, Settings(), World(0, 3), print)


def test_shards_are_trained_on_as_they_come(corpus, tmp_path):
    """The general path: the icons' own shards, streamed, with their faults and samples counted."""
    run = run_spec("smoke", "XXS", STEPS * 32, data_scale="all", corpus="shards", batch_size=32)
    urls = (str(corpus.folder / "val-000000.tar"),)
    data = Data(shards=urls, lanes=1, shuffle=500)
    record = train(run, None, tmp_path, settings=Settings(data=data), say=quiet)
    assert record["samples_seen"] == STEPS * 32 and record["bad_samples"] == {}
    assert record["unique_groups"] is None and record["bad_shards"] == {}


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_a_run_on_shards_goes_on_where_it_was(corpus, tmp_path):
    run = run_spec("smoke", "XXS", STEPS * 32, data_scale="all", corpus="shards", batch_size=32)
    data = Data(shards=(str(corpus.folder / "train-{000000..000001}.tar"),), lanes=2, shuffle=100)
    records_of = []
    for name, stop in (("whole", None), ("stopped", 9)):
        folder = tmp_path / name
        if stop:
            loop = _Loop(run, None, folder, Settings(data=data), World(), quiet)
            for _ in range(stop):
                loop.take_step()
            loop.save()
            loop.feed.close()
        records_of.append(train(run, None, folder, settings=Settings(data=data), say=quiet))
    assert records.results(records_of[0]) == records.results(records_of[1])
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_on_shards_goes_on_after_they_have_moved(corpus, tmp_path):
    run = run_spec("smoke", "XXS", STEPS * 32, data_scale="all", corpus="shards", batch_size=32)
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        for n in range(2):
            (folder / f"{n}.tar").symlink_to(corpus.folder / f"train-{n:06}.tar")
    settings = [Settings(data=Data(shards=(str(f),), lanes=2, shuffle=100)) for f in (here, there)]
    loop = _Loop(run, None, tmp_path / "run", settings[0], World(), quiet)
    for _ in range(5):
        loop.take_step()
    loop.save()
    loop.feed.close()
    said = []
    train(run, None, tmp_path / "run", settings=settings[1], say=said.append)
    assert "resumed at step 5" in said[0]


# ---------------------------------------------------------------------------- the configuration file


def written(tmp_path, **changes):
    config = tmp_path / "run.json"
    config.write_text(json.dumps({**small_run().to_dict(), **changes}))
    return config


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"learning_rate": 1}, "unknown learning_rate; known: "),
        ({"engine": {"precison": "bf16"}}, "engine has unknown precison; known: "),
        ({"engine": {"accumulate": -1}}, "engine.accumulate is -1: at least 1"),
        ({"engine": {"accumulate": "4"}}, "engine.accumulate must be int, not '4'"),
        ({"engine": {"path": "fast", "compile": True}}, "engine.compile needs engine.path torch"),
        ({"engine": {"precision": "fp16"}}, "engine.precision 'fp16': use bf16 or fp32"),
        ({"data": {"corpus": "x", "shards": ["y"]}}, "data has both corpus and shards"),
        ({"data": []}, "data must be an object"),
        ({"checkpoint": {"every_steps": -5}}, "every_steps is -5"),
        ({"instruments": {"profile": -1}}, "instruments.profile is -1"),
        ({"samples_seen": -640}, "samples_seen must be at least"),
        ({"batch_size": 4096, "samples_seen": 8192}, "batch size 4096 is too large for 2,"),
    ],
)
def test_a_bad_configuration_gets_one_line_and_status_2(corpus, tmp_path, capsys, changes, line):
    config = written(tmp_path, **changes)
    out = tmp_path / "run"
    given = ["train", "--config", str(config), "--out", str(out), "--data", str(corpus.folder)]
    if "data" in changes:
        given = given[:-2]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not (out / "train.json").exists()


def test_a_configuration_survives_json():
    settings = Settings(
        Data(shards=("a", "b"), sampler="replacement", workers=2), Engine(precision="bf16", tf32=True),
        Checkpointing(every_seconds=None, every_steps=100, keep=3), Instruments(profile=20),
    )  # fmt: skip
    config = TrainConfig(small_run(), settings)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainConfig(small_run(), Settings()).to_dict() == small_run().to_dict()
