"""Checkpoints: whole after any kill, damage seen at any byte, another run's refused by name of field."""

import errno
import json
import os
import pickle
import random
import re
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

from cliplib import InputError, ladder, model
from cliplib.train import checkpoint_file
from cliplib.train.checkpoints import Checkpoints
from cliplib.train.optimiser import adamw
from cliplib.train.state import pack, unpack

IDENTITY = {"run": {"lr": 0.001, "batch_size": 128}, "precision": "fp32", "code_hash": "aaaa"}
TENSORS = {"weights": torch.arange(12.0).reshape(3, 4)}


@pytest.fixture
def said():
    return []


@pytest.fixture
def kept(tmp_path, said):
    """Checkpoints of a run in tmp_path whose lines go to `said`."""
    return Checkpoints(tmp_path, IDENTITY, say=said.append)


def other(kept, **changes):
    """The same folder, opened by a run of another identity."""
    return Checkpoints(kept.folder.parent.parent, {**IDENTITY, **changes}, say=kept.say)


def files(kept):
    return sorted(path.name for path in kept.folder.iterdir())


def name(step):
    return f"step-{step:09d}.safetensors"


# ---------------------------------------------------------------------------------- there and back


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.reshape(-1).contiguous().view(torch.uint8)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([0.0, -0.0, 1e-45, float("inf"), float("nan"), 1 / 3]),
        torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).bfloat16(),
        torch.tensor([-(2**63), 2**63 - 1, 0]),
        torch.tensor([True, False, True]),
        torch.tensor(2.6592),
        torch.arange(256, dtype=torch.uint8),
        torch.empty(0, 3),
        torch.arange(6.0).reshape(2, 3).T,
    ],
    ids=["float32", "bfloat16", "int64", "bool", "0-dim", "uint8", "empty", "transposed"],
)
def test_every_dtype_comes_back_bit_for_bit(kept, tensor):
    kept.save(3, {"x": tensor}, {})
    (dtype, shape, mine), (dtype2, shape2, theirs) = bits(tensor), bits(kept.latest().tensors["x"])
    assert (dtype, shape) == (dtype2, shape2) and torch.equal(mine, theirs)


def test_the_state_comes_back_as_it_was(kept):
    state = {
        "totals": {"seconds": 0.1 + 0.2, "sessions": 2},
        "loader": {"order": list(range(50_000)), "deferred": [[1, "café"], None, True]},
    }
    kept.save(7, TENSORS, state)
    saved = kept.latest()
    assert saved.step == 7 and saved.state == state and list(saved.tensors) == ["weights"]


def test_tied_tensors_may_be_saved(kept):
    shared = torch.arange(4.0)
    kept.save(1, {"a": shared, "b": shared, "part": shared[2:]}, {})
    tensors = kept.latest().tensors
    assert torch.equal(tensors["a"], tensors["b"]) and tensors["part"].tolist() == [2, 3]


def test_any_safetensors_reader_opens_a_checkpoint(kept):
    with safe_open(kept.save(5, TENSORS, {"n": 1}), "pt") as file:
        assert torch.equal(file.get_tensor("weights"), TENSORS["weights"])
        assert re.fullmatch("[0-9a-f]{64}", file.metadata()["sha256"])


def test_nothing_saved_is_none(kept, said):
    assert kept.latest() is None and said == []
    kept.clear()


# ----------------------------------------------------------------------------- which ones, and when


def test_the_last_ones_are_kept(kept):
    for step in (10, 20, 30):
        kept.save(step, TENSORS, {})
    assert files(kept) == [name(20), name(30)]
    assert kept.latest().step == 30
    (kept.folder / name(30)).unlink()
    assert kept.latest().step == 20


def test_order_is_by_number_beyond_nine_digits(kept):
    kept.save(999_999_999, TENSORS, {})
    kept.save(1_000_000_000, TENSORS, {})
    assert kept.latest().step == 1_000_000_000


def test_files_of_an_abandoned_future_go(tmp_path):
    kept = Checkpoints(tmp_path, IDENTITY, keep=1)
    kept.save(10, TENSORS, {})
    (kept.folder / name(100)).write_bytes(b"damaged")
    kept.save(20, TENSORS, {})
    assert files(kept) == [name(20)]


def test_clear_leaves_nothing_but_what_is_not_ours(kept):
    kept.save(10, TENSORS, {})
    weights = kept.folder.parent / "open_clip_model.safetensors"
    weights.write_bytes(b"weights")
    kept.clear()
    assert not kept.folder.exists() and weights.read_bytes() == b"weights"


def test_due_by_time(tmp_path):
    kept = Checkpoints(tmp_path, IDENTITY, every_seconds=30)
    now = time.monotonic()
    assert not kept.due(5, now) and kept.due(5, now + 31)
    kept._last_time = now - 31
    assert kept.due(5, now)
    kept.save(5, TENSORS, {})
    assert not kept.due(6, now)


def test_due_by_step(tmp_path):
    kept = Checkpoints(tmp_path, IDENTITY, every_seconds=None, every_steps=10)
    late = time.monotonic() + 1e6
    assert [step for step in range(1, 21) if kept.due(step, late)] == list(range(10, 21))
    kept.save(10, TENSORS, {})
    assert [step for step in range(11, 21) if kept.due(step, late)] == [20]
    resumed = Checkpoints(tmp_path, IDENTITY, every_seconds=None, every_steps=10)
    resumed.latest()
    assert not resumed.due(19, late) and resumed.due(20, late)


def test_due_always_and_never(tmp_path):
    always = Checkpoints(tmp_path, IDENTITY, every_seconds=0)
    never = Checkpoints(tmp_path, IDENTITY, every_seconds=None)
    now = time.monotonic()
    assert always.due(1, now) and not never.due(10**9, now + 1e9)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"keep": 0}, "keep is 0"),
        ({"keep": -1}, "keep is -1"),
        ({"every_steps": 0}, "every_steps is 0"),
        ({"every_steps": -5}, "every_steps is -5"),
        ({"every_seconds": -1.0}, "every_seconds is -1"),
        ({"every_seconds": float("nan")}, "every_seconds is nan"),
    ],
)
def test_settings_without_sense_are_refused(tmp_path, setting, word):
    with pytest.raises(InputError, match=word):
        Checkpoints(tmp_path, IDENTITY, **setting)


# --------------------------------------------------------------------------------------- damage


def test_a_flipped_bit_in_any_byte_is_seen(kept):
    path = kept.save(1, TENSORS, {"totals": {"seconds": 1.5}})
    whole = path.read_bytes()
    chance = random.Random(0)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(checkpoint_file.Damaged):
            checkpoint_file.read(path)
    path.write_bytes(whole)
    assert kept.latest().step == 1


def test_a_file_cut_short_anywhere_or_too_long_is_seen(kept):
    path = kept.save(1, TENSORS, {})
    whole = path.read_bytes()
    for content in [whole[:length] for length in range(len(whole))] + [whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(checkpoint_file.Damaged):
            checkpoint_file.read(path)


def test_the_one_before_a_damaged_one_is_used_with_a_line_that_says_so(kept, said):
    kept.save(1000, TENSORS, {"n": 1})
    path = kept.save(2000, TENSORS, {"n": 2})
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    saved = kept.latest()
    assert (saved.step, saved.state) == (1000, {"n": 1})
    assert said == [f"{path}: checkpoint is damaged (hash differs); going on from step 1,000"]


def test_with_none_before_it_the_run_starts_over(kept, said):
    path = kept.save(5, TENSORS, {})
    path.write_bytes(b"")
    assert kept.latest() is None
    assert said == [f"{path}: checkpoint is damaged (cut short); starting this run over"]


def test_a_foreign_safetensors_file_is_no_checkpoint(kept, said):
    kept.folder.mkdir(parents=True)
    checkpoint_file.save_file(TENSORS, kept.folder / name(9))
    assert kept.latest() is None and "no hash in it" in said[0]


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_pickle_in_its_place_is_not_executed(kept, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept.folder.mkdir(parents=True)
    (kept.folder / name(9)).write_bytes(pickle.dumps(Bomb()))
    torch.save({"x": Bomb()}, kept.folder / name(8))
    assert kept.latest() is None and len(said) == 2
    assert not (tmp_path / "exploded").exists()


# -------------------------------------------------------------------------------------- identity


def test_another_configuration_is_refused_by_its_fields(kept, tmp_path):
    kept.save(120, TENSORS, {})
    with pytest.raises(InputError) as caught:
        other(kept, run={"lr": 0.0005, "batch_size": 256}).latest()
    assert str(caught.value) == (
        f"{tmp_path / 'checkpoint'}: the checkpoint of step 120 was made for run.lr 0.001, "
        "run.batch_size 128; this run has run.lr 0.0005, run.batch_size 256; use another --out, or "
        "delete the folder to start over"
    )


def test_a_checkpoint_of_older_code_is_passed_over_with_a_line(kept, said):
    kept.save(120, TENSORS, {})
    assert other(kept, code_hash="bbbb").latest() is None
    assert said[-1].endswith("the training code changed since; starting this run over")
    with pytest.raises(
        InputError, match=r"for precision fp32; .* bf16, and the training code chang"
    ):
        other(kept, code_hash="bbbb", precision="bf16").latest()


def test_a_field_that_only_one_side_has_is_named(kept):
    kept.save(1, TENSORS, {})
    with pytest.raises(InputError, match="made for accumulate unset; this run has accumulate 4;"):
        other(kept, accumulate=4).latest()


def test_many_and_long_differences_are_shortened(kept):
    kept.save(1, TENSORS, {})
    changes = {f"field_{n}": "x" * 1000 for n in range(20)}
    with pytest.raises(InputError, match=r"\(16 more fields differ\)") as caught:
        other(kept, **changes).latest()
    assert len(str(caught.value)) < 800 and "\n" not in str(caught.value)


def test_an_identity_may_hold_tuples(tmp_path):
    identity = {"betas": (0.9, 0.98)}
    Checkpoints(tmp_path, identity).save(1, TENSORS, {})
    assert Checkpoints(tmp_path, identity).latest().step == 1


# ------------------------------------------------------------------------------- model and optimiser


def towers(seed=0, rung="XXS"):
    clip = model.create(ladder.rung(rung), seed)
    return clip, adamw(clip, 1e-3, 0.2)


def steps(clip, optimiser, numbers):
    for number in numbers:
        chance = torch.Generator().manual_seed(number)
        size = clip.visual.image_size[0]
        images = torch.randn(4, 3, size, size, generator=chance)
        tokens = torch.randint(3, 100, (4, clip.context_length), generator=chance)
        image, text, scale = model.Towers(clip)(images, tokens)
        loss = torch.nn.functional.cross_entropy(scale * image @ text.T, torch.arange(4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_training_goes_on_bit_for_bit(kept):
    clip, optimiser = towers()
    assert optimiser.defaults["fused"]
    steps(clip, optimiser, range(3))
    kept.save(3, pack(clip, optimiser), {})
    steps(clip, optimiser, range(3, 6))
    fresh = towers(seed=1)
    unpack(kept.latest().tensors, *fresh)
    steps(*fresh, range(3, 6))
    whole, resumed = pack(clip, optimiser), pack(*fresh)
    assert whole.keys() == resumed.keys()
    assert any(key.endswith("exp_avg_sq") for key in whole)
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def test_the_callers_parameter_groups_stay(kept):
    clip, optimiser = towers()
    steps(clip, optimiser, range(1))
    kept.save(1, pack(clip, optimiser), {})
    clip, optimiser = towers()
    optimiser.param_groups[0]["lr"] = 0.5
    unpack(kept.latest().tensors, clip, optimiser)
    assert optimiser.param_groups[0]["lr"] == 0.5


def test_parameters_without_a_gradient_yet_have_no_state(kept):
    layers = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 2), "idle": torch.nn.Linear(2, 2)})
    optimiser = adamw(layers, 1e-3, 0.1)
    layers["used"](torch.ones(1, 2)).sum().backward()
    optimiser.step()
    kept.save(1, pack(layers, optimiser), {})
    fresh = adamw(layers, 1e-3, 0.1)
    unpack(kept.latest().tensors, layers, fresh)
    assert set(fresh.state) == set(layers["used"].parameters())


def test_what_is_read_back_is_copied_in_the_parameters_own_layout(kept):
    conv = torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    optimiser = adamw(conv, 1e-3, 0.1)
    conv(torch.ones(1, 3, 2, 2)).sum().backward()
    optimiser.step()
    tensors = {key: value.clone() for key, value in pack(conv, optimiser).items()}
    unpack(tensors, conv, optimiser)
    moment = optimiser.state[conv.weight]["exp_avg"]
    assert moment.stride() == conv.weight.stride()
    assert moment.data_ptr() != tensors["optimiser/weight/exp_avg"].data_ptr()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model/weight"), "it lacks model/weight;"),
        (lambda t: t.pop("optimiser/bias/exp_avg_sq"), "it lacks optimiser/bias/exp_avg_sq;"),
        (lambda t: t.update(extra=torch.ones(1)), "it has, but should not, extra;"),
        (lambda t: t.update({"model/weight": torch.ones(9, 9)}), "shape or dtype for model/weight"),
        (
            lambda t: t.update({"optimiser/bias/exp_avg": torch.ones(2).double()}),
            "shape or dtype for optimiser/bias/exp_avg",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_changed(change, words):
    layer = torch.nn.Linear(2, 2)
    optimiser = adamw(layer, 1e-3, 0.1)
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    tensors = {key: value.clone() for key, value in pack(layer, optimiser).items()}
    change(tensors)
    before = layer.bias.detach().clone()
    tensors["model/bias"] += 1
    with pytest.raises(InputError, match=words):
        unpack(tensors, layer, optimiser)
    assert torch.equal(layer.bias, before)


def test_another_optimiser_is_refused_when_packed():
    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    with pytest.raises(TypeError, match="not AdamW's state"):
        pack(layer, optimiser)


# ------------------------------------------------------------------------- full disks, no permission


def test_a_real_limit_on_file_size_leaves_the_last_checkpoint_intact(kept):
    kept.save(10, TENSORS, {"n": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"last checkpoint, step 10, is intact") as caught:
            kept.save(20, {"x": torch.zeros(1_000_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and name(20) in str(caught.value)
    assert files(kept) == [name(10)]
    assert kept.latest().state == {"n": 1}


def test_a_full_disk_midway_leaves_the_last_checkpoint_intact(kept, monkeypatch):
    kept.save(10, TENSORS, {})

    def full(tensors, path, metadata):
        path.with_name(".tmpHalf").write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint_file, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device\); the last checkpoint") as caught:
        kept.save(20, TENSORS, {})
    assert caught.value.errno == errno.ENOSPC
    assert files(kept) == [name(10)] and kept.latest().step == 10


def test_a_full_disk_at_the_flush_leaves_the_last_checkpoint_intact(kept, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not be written .*; none before it"):
        kept.save(20, TENSORS, {})
    assert files(kept) == []


def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path):
    (tmp_path / "checkpoint").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"resume: checkpoints cannot be kept here \("):
        Checkpoints(tmp_path, IDENTITY).check_writable()


def test_a_writable_folder_is_left_as_it_was(kept):
    kept.check_writable()
    assert files(kept) == []


@contextmanager
def not_root():
    """Permissions do not bind root: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_without_permission_one_line_says_so_and_reading_still_works(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    kept = Checkpoints(Path(), {})
    kept.save(1, TENSORS, {}).chmod(0o644)
    for folder, mode in ((Path(), 0o755), (Path("checkpoint"), 0o755), (kept.folder, 0o555)):
        folder.chmod(mode)
    refusal = (
        r"^checkpoint/resume: checkpoints cannot be kept here \(Permission denied\); "
        r"use another --out, or make it writable$"
    )
    with not_root():
        with pytest.raises(InputError, match=refusal):
            kept.check_writable()
        with pytest.raises(InputError, match=refusal):
            kept.save(2, TENSORS, {})
        assert kept.latest().step == 1
    kept.folder.chmod(0o700 if os.geteuid() == 0 else 0o000)
    with not_root(), pytest.raises(InputError, match=refusal):
        kept.latest()
    kept.folder.chmod(0o755)


# ---------------------------------------------------------------------------------------- kills


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("place", ["_digests", "_sync_folder"])
def test_what_a_killed_writer_leaves_is_passed_over_and_swept(kept, monkeypatch, place):
    def killed(*_):
        raise Killed

    kept.save(1, TENSORS, {})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint_file, place, killed)
        kept.save(2, TENSORS, {})
    assert kept.latest().step == (2 if place == "_sync_folder" else 1)
    (kept.folder / ".tmpAbCd12").write_bytes(b"of safetensors itself")
    kept.save(3, TENSORS, {})
    assert files(kept) == [name(2 if place == "_sync_folder" else 1), name(3)]
    assert kept.latest().step == 3


KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from cliplib.train.checkpoints import Checkpoints
torch.set_num_threads(1)
kept, chance, done = Checkpoints(Path(sys.argv[1]), {}), random.Random(0), 0
for kill in range(12):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        for step in range(done + 1, done + 10_000):
            kept.save(step, {"x": torch.full((300_000,), float(step))}, {"step": step})
            os.write(writing, f" {step}".encode())
    os.close(writing)
    os.read(reading, 1)  # the blank before the step of its first whole checkpoint
    time.sleep(chance.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = [int(word) for word in os.read(reading, 1 << 16).split()]
    left = [path.name for path in kept.folder.iterdir() if path.name.startswith(".")]
    saved = kept.latest()
    same = bool((saved.tensors["x"] == saved.step).all()) and saved.state == {"step": saved.step}
    print(json.dumps({"told": told[-1], "step": saved.step, "same": same, "left": left}))
    done = saved.step
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_at_random_moments_the_latest_is_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLS, tmp_path],
        capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 12 and all(line["same"] for line in lines), lines
    assert all(line["told"] <= line["step"] <= line["told"] + 1 for line in lines), lines
    Checkpoints(tmp_path, {}).save(lines[-1]["step"] + 1, TENSORS, {})
    kept = [path.name for path in (tmp_path / "checkpoint" / "resume").iterdir()]
    assert len(kept) == 2 and all(file.startswith("step-") for file in kept)
