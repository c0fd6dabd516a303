"""When two runs are equal: killed and resumed, on more processes, accumulated, on more threads.

The page "When two runs are equal" states what is proved here.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cliplib import model, records
from cliplib.ladder import run_spec
from cliplib.train import Settings, train
from cliplib.train.config import Data, Engine
from cliplib.train.loop import _Loop
from cliplib.train.world import World

STEPS, BATCH = 24, 32
GOLDEN = Path(__file__).parent / "golden" / "xxs_fp32.json"

posix = pytest.mark.skipif(os.name != "posix", reason="fork and kill -9 are POSIX")


def small_run(**changes):
    return run_spec("smoke", "XXS", STEPS * BATCH, data_scale="2k", batch_size=BATCH, **changes)


def quiet(line):
    pass


def weights(folder):
    return load_file(folder / "checkpoint" / model.WEIGHTS)


def weights_hash(folder):
    return records.digest((folder / "checkpoint" / model.WEIGHTS).read_bytes())


# ------------------------------------------------------------------------------------ kill -9, resume

KILLED = """
import os, signal, sys
from pathlib import Path
from cliplib.data import open_corpus
from cliplib.ladder import run_spec
from cliplib.train import Settings, train
from cliplib.train.config import Checkpointing, Data
from cliplib.train.loop import _Loop

run = run_spec("smoke", "XXS", {samples}, data_scale={data_scale!r}, corpus={label!r}, batch_size={batch})
data = Data(shards={shards!r}, lanes=2, shuffle=100)
settings = Settings(data=data, checkpoint=Checkpointing(every_seconds=None, every_steps=3))
corpus = None if data.shards else open_corpus({corpus!r})
take_step = _Loop.take_step
for kill_at in {kills}:
    child = os.fork()
    if not child:
        def counted(self, *asked):
            if self.step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return take_step(self, *asked)
        _Loop.take_step = counted
        train(run, corpus, Path({folder!r}), settings=settings)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


def killed_again_and_again(corpus, folder, kills, shards=()):
    script = KILLED.format(
        samples=STEPS * BATCH, batch=BATCH, kills=sorted(kills), folder=str(folder), shards=shards,
        corpus=str(corpus.folder), label="shards" if shards else "all",
        data_scale="all" if shards else "2k",
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (folder / "train.json").exists()


@posix
def test_killed_with_9_at_ten_random_steps_equals_uninterrupted_bit_for_bit(corpus, tmp_path):
    whole = train(small_run(), corpus, tmp_path / "whole", say=quiet)
    kills = random.SystemRandom().sample(range(STEPS), 10)
    killed_again_and_again(corpus, tmp_path / "killed", kills)
    resumed = train(small_run(), corpus, tmp_path / "killed", say=quiet)
    assert resumed["sessions"] > 1 and whole["sessions"] == 1, kills
    assert records.results(resumed) == records.results(whole), kills
    assert weights_hash(tmp_path / "killed") == weights_hash(tmp_path / "whole"), kills
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("killed", "whole")]
    assert lines[0] == lines[1], kills


@posix
def test_a_run_on_shards_is_as_exact(corpus, tmp_path):
    shards = (str(corpus.folder / "train-{000000..000001}.tar"),)
    run = run_spec(
        "smoke", "XXS", STEPS * BATCH, data_scale="all", corpus="shards", batch_size=BATCH
    )
    settings = Settings(data=Data(shards=shards, lanes=2, shuffle=100))
    whole = train(run, None, tmp_path / "whole", settings=settings, say=quiet)
    killed_again_and_again(corpus, tmp_path / "killed", (5, 16), shards)
    resumed = train(run, None, tmp_path / "killed", settings=settings, say=quiet)
    assert resumed["sessions"] > 1
    assert records.results(resumed) == records.results(whole)
    assert weights_hash(tmp_path / "killed") == weights_hash(tmp_path / "whole")


# ------------------------------------------------------- processes, threads, paths, accumulation

PROCESSES = """
import json, os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from cliplib.data import open_corpus
from cliplib.ladder import run_spec
from cliplib.train import Settings
from cliplib.train.config import Data, Engine
from cliplib.train.loop import _Loop
from cliplib.train.world import World

world = World.join()
for path in ("fast", "torch"):
    for shards in ((), ({shards!r},)):
        run = run_spec("smoke", "XXS", 96, data_scale="all" if shards else "2k",
                       corpus="shards" if shards else "all", batch_size=32)
        settings = Settings(Data(shards=shards, lanes=4, shuffle=100), Engine(path=path, precision="fp32"))
        name = path + ("-shards" if shards else "")
        loop = _Loop(run, None if shards else open_corpus({corpus!r}), Path({out!r}) / name, settings,
                     world, lambda line: None)
        loss = loop.engine.gradient(loop.feed.next())
        if world.main:
            clip = loop.engine.clip
            flat = loop.engine.fast.weights.gradient if path == "fast" else torch.cat(
                [p.grad.flatten() for p in clip.parameters()])
            save_file({{"loss": loss.clone().reshape(1), "gradient": flat.clone()}},
                      Path({out!r}) / f"{{name}}.safetensors")
world.leave()
"""


@pytest.fixture(scope="module")
def by_processes(corpus, tmp_path_factory):
    """First loss and gradient on 1, 2 and 4 processes, for both paths, on icons and on shards."""
    found = {}
    for processes in (1, 2, 4):
        out = tmp_path_factory.mktemp(f"of{processes}")
        script = out / "first_step.py"
        shards = str(corpus.folder / "train-{000000..000003}.tar")
        script.write_text(PROCESSES.format(corpus=str(corpus.folder), out=str(out), shards=shards))
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={processes}", str(script),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found[processes] = {path.stem: load_file(path) for path in out.glob("*.safetensors")}
    return found


@pytest.mark.parametrize("name", ["fast", "torch", "fast-shards", "torch-shards"])
@pytest.mark.parametrize("processes", [2, 4])
def test_more_processes_give_the_loss_and_gradients_of_one(by_processes, name, processes):
    one, many = by_processes[1][name], by_processes[processes][name]
    assert many["loss"].item() == pytest.approx(one["loss"].item(), abs=1e-6)
    assert (many["gradient"] - one["gradient"]).norm() < 1e-6 * one["gradient"].norm()


def first_steps(corpus, folder, steps=3, **switches):
    """Losses of the first steps and the weights after them."""
    settings = Settings(engine=Engine(**switches))
    loop = _Loop(small_run(), corpus, folder, settings, World(), quiet)
    losses = []
    agree = loop._agree
    loop._agree = lambda loss, *asked: (losses.append(loss.item()), agree(loss, *asked))[1]
    for _ in range(steps):
        loop.take_step()
    clip = loop.engine.export(loop.totals["decay"])
    return losses, {name: value.clone() for name, value in clip.state_dict().items()}


def nearly(ours, theirs, tolerance):
    return all((ours[name] - theirs[name]).abs().mean() < tolerance for name in theirs)


def test_micro_batches_give_the_loss_of_the_whole_batch(corpus, tmp_path):
    one = first_steps(corpus, tmp_path / "1", path="torch", precision="fp32")
    four = first_steps(corpus, tmp_path / "4", precision="fp32", accumulate=4)
    assert four[0] == pytest.approx(one[0], abs=1e-6) and nearly(four[1], one[1], 1e-5)


def test_recomputed_activations_change_nothing(corpus, tmp_path):
    one = first_steps(corpus, tmp_path / "1", path="torch", precision="fp32")
    again = first_steps(
        corpus, tmp_path / "2", path="torch", precision="fp32", gradient_checkpointing=True
    )
    assert again[0] == pytest.approx(one[0], abs=1e-6) and nearly(again[1], one[1], 1e-5)


def test_chunks_of_the_similarity_matrix_change_nothing(corpus, tmp_path):
    one = first_steps(corpus, tmp_path / "1", precision="fp32")
    chunked = first_steps(corpus, tmp_path / "2", precision="fp32", loss_chunk=5)
    assert chunked[0] == pytest.approx(one[0], abs=1e-6) and nearly(chunked[1], one[1], 1e-5)


def test_both_paths_take_the_same_steps(corpus, tmp_path):
    fast = first_steps(corpus, tmp_path / "1", path="fast", precision="fp32")
    torch_path = first_steps(corpus, tmp_path / "2", path="torch", precision="fp32")
    assert fast[0] == pytest.approx(torch_path[0], abs=1e-5) and nearly(
        fast[1], torch_path[1], 2e-5
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_change_no_bit(corpus, tmp_path, precision):
    one = first_steps(corpus, tmp_path / "1", path="fast", precision=precision, threads=1)
    two = first_steps(corpus, tmp_path / "2", path="fast", precision=precision, threads=2)
    assert one[0] == two[0] and all(torch.equal(one[1][name], two[1][name]) for name in one[1])


def test_a_run_on_two_processes_goes_on_on_one(corpus, tmp_path):
    """A checkpoint does not know how many processes wrote it."""
    config, out = tmp_path / "run.json", tmp_path / "run"
    settings = {"checkpoint": {"every_seconds": None, "every_steps": 8}}
    config.write_text(json.dumps({**small_run().to_dict(), **settings}))
    script = tmp_path / "stop.py"
    script.write_text(
        "import os, signal\nfrom cliplib.train.loop import _Loop\nfrom cliplib.__main__ import main\n"
        "step = _Loop.take_step\n"
        "def counted(self, *asked):\n"
        "    return step(self, self.step >= 10, False)\n"
        "_Loop.take_step = counted\n"
        f"raise SystemExit(main(['train', '--config', {str(config)!r}, '--out', {str(out)!r}, "
        f"'--data', {str(corpus.folder)!r}, '--precision', 'fp32']))\n"
    )
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(script),
    ]  # fmt: skip
    subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    said = []
    fp32 = Settings(engine=Engine(precision="fp32"))
    resumed = train(small_run(), corpus, out, settings=fp32, say=said.append)
    assert "resumed at step 11" in said[0] and resumed["processes"] == 1
    whole = train(small_run(), corpus, tmp_path / "whole", settings=fp32, say=quiet)
    assert resumed["loss"] == pytest.approx(whole["loss"], abs=1e-3)


# ------------------------------------------------------------------------------------- golden curve


def test_the_golden_loss_curve(corpus, tmp_path):
    """One tiny run in fp32, step by step: a change of the numerics that nobody meant shows here.

    Made anew by ``python tests/test_exactness.py``; say in the commit why it changed.
    """
    golden = json.loads(GOLDEN.read_text())
    assert golden["corpus_hash"] == corpus.hash, "the golden curve is of another corpus"
    losses, _ = first_steps(corpus, tmp_path, STEPS, precision="fp32")
    assert losses == pytest.approx(golden["loss"], abs=1e-3)
    assert losses[:3] == pytest.approx(golden["loss"][:3], abs=2e-5)


if __name__ == "__main__":
    import tempfile

    from cliplib.data import open_corpus

    icons = open_corpus("data/icons")
    with tempfile.TemporaryDirectory() as folder:
        curve, _ = first_steps(icons, Path(folder), STEPS, precision="fp32")
    GOLDEN.write_text(json.dumps({"corpus_hash": icons.hash, "loss": curve}, indent=1) + "\n")
