"""Training: exact on resume, the same on one process and on two, stopped before a bad step."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cliplib import InputError, model, records
from cliplib.ladder import run_spec
from cliplib.train import train
from cliplib.train.loop import _Loop
from cliplib.train.optimiser import lr_at
from cliplib.train.world import World

STEPS = 24


def small_run(**changes):
    """A run of the smallest rung on real pairs, a few steps long."""
    return run_spec("smoke", "XXS", STEPS * 32, data_scale="2k", batch_size=32, **changes)


def weights(folder):
    return load_file(folder / "checkpoint" / model.WEIGHTS)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(small_run(), corpus, folder, say=lambda line: None)


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
    assert not (folder / "checkpoint" / "state.pt").exists()
    assert 0 < record["executed_gmacs"] <= record["gmacs_per_pair"] * record["samples_seen"]


def test_the_loss_falls(corpus, tmp_path):
    run = run_spec("smoke", "XXS", 300 * 32, data_scale="2k", batch_size=32, lr=1e-3)
    train(run, corpus, tmp_path, say=lambda line: None)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert np.mean(losses[-20:]) < math.log(32) - 0.15  # well below guessing


def test_a_finished_run_is_not_trained_again(finished, corpus):
    folder, record = finished
    said = []
    assert train(small_run(), corpus, folder, say=said.append) == record
    assert said == [f"{small_run().run_id}: trained already"]


def test_another_configuration_in_the_same_folder_starts_over(corpus, tmp_path):
    first = train(small_run(), corpus, tmp_path, say=lambda line: None)
    second = train(small_run(seed=1), corpus, tmp_path, say=lambda line: None)
    assert first["config_hash"] != second["config_hash"] and second["sessions"] == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == STEPS


KILLED = """
import os, signal, sys
from pathlib import Path
from cliplib.train import loop as t
from cliplib.data import open_corpus
from cliplib.ladder import run_spec
run = run_spec("smoke", "XXS", {samples}, data_scale="2k", batch_size=32)
taken, step = [], t._Loop.take_step
def counted(self, batch):
    if len(taken) == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    taken.append(1)
    step(self, batch)
t._Loop.take_step = counted
t.train(run, open_corpus({corpus!r}), Path({folder!r}), checkpoint_seconds=0)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_killed_with_9_and_started_again_equals_uninterrupted_bit_for_bit(
    finished, corpus, tmp_path
):
    folder, record = finished
    script = KILLED.format(
        samples=STEPS * 32, after=9, corpus=str(corpus.folder), folder=str(tmp_path)
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "train.json").exists()
    resumed = train(small_run(), corpus, tmp_path, say=lambda line: None)
    assert resumed["sessions"] == 2
    assert records.results(resumed) == records.results(record)
    ours, theirs = weights(tmp_path), weights(folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (tmp_path / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()


def test_a_damaged_resume_state_is_said_and_the_run_starts_over(finished, corpus, tmp_path, capsys):
    _, record = finished
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.pt").write_bytes(b"half a checkpoint")
    again = train(small_run(), corpus, tmp_path, say=lambda line: None)
    assert "checkpoint is damaged" in capsys.readouterr().out
    assert records.results(again) == records.results(record)


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
def test_a_second_trainer_in_a_folder_is_refused(corpus, tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4321")
        lock.flush()
        with pytest.raises(InputError, match="process 4321 is training here"):
            train(small_run(), corpus, tmp_path)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_non_finite_number_stops_the_run_before_the_optimiser_steps(corpus, tmp_path, what):
    loop = _Loop(small_run(), corpus, tmp_path, model.numerics("fp32"), World(), lambda line: None)
    if what == "loss":
        loop.clip.logit_scale.data.fill_(float("nan"))
    else:
        loop.clip.token_embedding.weight.register_hook(lambda g: g * float("inf"))
    before = loop.clip.visual.proj.detach().clone()
    with pytest.raises(FloatingPointError, match="step 1; stopped before"):
        loop.go(30)
    assert torch.equal(before, loop.clip.visual.proj) and not (tmp_path / "train.json").exists()


def test_two_processes_give_the_weights_of_one(corpus, tmp_path):
    config = tmp_path / "run.json"
    config.write_text(json.dumps(small_run().to_dict()))
    for processes in (1, 2):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
            "-m", "cliplib", "train", "--config", str(config), "--out", str(tmp_path / str(processes)),
            "--data", str(corpus.folder), "--precision", "fp32",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert records.read_record(tmp_path / "2" / "train.json")["processes"] == 2
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-4
    losses = [
        json.loads((tmp_path / n / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for n in "12"
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


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
        _Loop(small_run(), corpus, tmp_path, model.numerics("fp32"), World(0, 3), print)
