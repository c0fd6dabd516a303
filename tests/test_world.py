"""The processes of a run: what they exchange, and how a lost one is named."""

import os
import re
import socket
import time

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from cliplib import InputError
from cliplib.train import world as module
from cliplib.train.world import LostProcess, World


def launch(work, ranks, size, *arguments):
    """Exit codes of ``work(rank, *arguments)`` in a process per rank, as torchrun would start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cliplib.train.loss", "open_clip.model"])
    processes = [
        context.Process(target=_enter, args=(work, rank, size, port, arguments)) for rank in ranks
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        process.kill()
    return [process.exitcode for process in processes]


def _enter(work, rank, size, port, arguments):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    module.BEAT, module.GRACE, module.LINGER = 0.2, 1.5, 1.0
    work(rank, *arguments)


# ----------------------------------------------------------------------------------------- together


def test_exchanges_between_three_processes(tmp_path):
    assert launch(exchange, range(3), 3, tmp_path) == [0, 0, 0]
    answers = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    for rank, answer in enumerate(answers):
        assert answer["share"].tolist() == [2 * rank, 2 * rank + 1]
        assert answer["gather"].tolist() == [[0, 0], [1, 2], [2, 4]]
        assert answer["sum_parts"].tolist() == [[3 * rank, 3 * rank]]  # over ranks: 0 + 1 + 2 = 3
        assert answer["sum"] == 3 and answer["max"] == 2 and answer["mean"] == 1
        assert answer["own"] == rank, "an exchange changed its argument"
        assert answer["objects"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert answer["any"] == [True, False]
        assert answer["main"] == (rank == 0)
        assert answer["again"] == [rank, 3, True]


def exchange(rank, folder):
    world = World.join(timeout=60)
    own = torch.tensor(float(rank))
    rows = torch.arange(3.0).outer(torch.ones(2)) * rank
    answer = {
        "share": torch.as_tensor(world.share(np.arange(6))),
        "gather": world.gather(torch.tensor([[float(rank), 2.0 * rank]])),
        "sum_parts": world.sum_parts(rows),
        "sum": world.sum(own), "max": world.max(own), "mean": world.mean(own), "own": own,
        "objects": world.gather_objects({"rank": rank}),
        "any": [world.any(rank == 1), world.any(False)],
        "main": world.main,
    }  # fmt: skip
    again = World.join()
    again.leave()
    answer["again"] = [again.rank, again.size, torch.distributed.is_initialized()]
    torch.save(answer, folder / f"{rank}.pt")
    world.barrier()
    world.leave()


def test_a_process_alone_exchanges_with_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = World.join()
    x = torch.arange(4.0).view(2, 2)
    assert world == World(0, 1) and world.main
    for way in (world.gather, world.sum_parts, world.sum, world.max, world.mean, world.share):
        assert torch.equal(way(x), x)
    assert world.any(True) and not world.any(False)
    assert world.gather_objects("a") == ["a"]
    world.barrier()
    world.leave()


def test_a_batch_that_does_not_divide_is_refused():
    assert World(2, 4).share(np.arange(8)).tolist() == [4, 5]
    with pytest.raises(InputError, match="batch of 10 does not divide over 4 processes"):
        World(2, 4).share(np.arange(10))


# ------------------------------------------------------------------------------------------- meeting


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR=''.*torchrun"),
        ({"MASTER_PORT": "door"}, "MASTER_PORT='door'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({"RANK": "2"}, "RANK=2 must be below WORLD_SIZE=2"),
    ],
)
def test_an_environment_that_is_not_torchruns_is_refused(monkeypatch, changes, said):
    usual = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in (usual | changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said) as error:
        World.join(timeout=1)
    assert "\n" not in str(error.value)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    usual = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in (usual | {"LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="process 1 of this machine has no GPU of its own"):
        World.join(timeout=1, device="cuda")


def test_who_does_not_come_to_the_meeting_is_named(tmp_path):
    assert launch(wait_in_vain, [0, 2], 3, tmp_path) == [0, 0]
    for rank in (0, 2):
        said = (tmp_path / f"{rank}.txt").read_text()
        assert re.match(r"rank 1 of 3 did not come to 127.0.0.1:\d+ within 3 s", said)


def wait_in_vain(rank, folder):
    try:
        World.join(timeout=3)
    except LostProcess as error:
        (folder / f"{rank}.txt").write_text(str(error))


# ---------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize(
    ("how", "victim", "timeout"), [("dies", 1, 60), ("dies", 0, 60), ("hangs", 2, 4)]
)
def test_a_lost_process_is_named_by_all_others(tmp_path, how, victim, timeout):
    codes = launch(lose_one, range(4), 4, tmp_path, how, victim, timeout)
    others = [rank for rank in range(4) if rank != victim]
    assert [codes[rank] for rank in others] == [0, 0, 0]
    for rank in others:
        said = (tmp_path / f"{rank}.txt").read_text()
        assert said.startswith(f"rank {victim} of 4 stopped answering"), (rank, said)
        assert "last checkpoint" in said and "\n" not in said


def lose_one(rank, folder, how, victim, timeout):
    world = World.join(timeout=timeout)
    try:
        with world.watch():
            towers = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
            if rank == victim and how == "hangs":
                time.sleep(timeout + 5)
            if rank == victim:
                os._exit(9)
            towers(torch.ones(1, 2)).sum().backward()
    except LostProcess as error:
        (folder / f"{rank}.txt").write_text(str(error))
    os._exit(0)


def test_a_process_lost_while_the_group_opens_is_named(tmp_path):
    assert launch(die_after_the_meeting, range(2), 2, tmp_path) == [0, 9]
    assert (tmp_path / "0.txt").read_text().startswith("rank 1 of 2 stopped answering")


def die_after_the_meeting(rank, folder):
    if rank == 1:
        torch.distributed.init_process_group = lambda *_, **__: os._exit(9)
    try:
        World.join(timeout=4)
    except LostProcess as error:
        (folder / f"{rank}.txt").write_text(str(error))


def test_an_error_that_is_no_broken_exchange_is_left_as_it_is():
    with pytest.raises(RuntimeError, match="shapes"), World(0, 2).watch():
        raise RuntimeError("shapes do not fit")
