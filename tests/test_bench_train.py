"""The training rows of the bench: the peer's environment and driver, the shapes, the rows' form.

Three steps of the real peers, no clock: what is asserted is what was run, not how fast it was.
"""

import json
import math
import subprocess
import types
from dataclasses import asdict, replace

import pytest
import torch

from cliplib import InputError, ladder, pace
from cliplib.bench import jobs_train, matmuls, open_clip_peer, our_feeds, peers
from cliplib.bench.jobs_train import Case
from cliplib.bench.matmuls import Product
from cliplib.bench.measure import all_jobs

TINY = {"warmup": 1, "seconds": 0.0}


@pytest.fixture(scope="module")
def folder():
    """The peers' libraries, installed by pip if they are not there yet, as `make bench` does."""
    return peers.overlay()


# ---------------------------------------------------------------------------------------- the overlay


def fake_pip(monkeypatch, returncode=0, said=""):
    calls = []

    def run(command, **_):
        calls.append(command)
        target = command[command.index("--target") + 1]
        for name, version in peers.OVERLAY.items() if not returncode else ():
            (peers.Path(target) / f"{name}-{version}.dist-info").mkdir(parents=True)
        return types.SimpleNamespace(returncode=returncode, stderr=said)

    monkeypatch.setattr(peers.subprocess, "run", run)
    return calls


def test_the_overlay_is_installed_once_and_nothing_is_left_beside_it(tmp_path, monkeypatch):
    calls = fake_pip(monkeypatch)
    target = tmp_path / "there" / ".peers"
    assert peers.overlay(target) == target.resolve() == peers.overlay(target)
    (command,) = calls
    assert {"numpy==2.3.5", "webdataset==0.2.86", "clip_benchmark==1.6.2"} < set(command)
    assert "--no-deps" in command
    assert [path.name for path in target.parent.iterdir()] == [".peers"]


def test_an_overlay_of_other_versions_is_replaced(tmp_path, monkeypatch):
    fake_pip(monkeypatch)
    old = tmp_path / ".peers" / "webdataset-0.1.dist-info"
    old.mkdir(parents=True)
    peers.overlay(tmp_path / ".peers")
    assert not old.exists()


def test_without_a_network_one_line_says_so_and_the_old_folder_stays(tmp_path, monkeypatch):
    fake_pip(monkeypatch, returncode=1, said="WARNING: retrying\nERROR: No matching distribution\n")
    kept = tmp_path / ".peers" / "half-a-copy"
    kept.mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"webdataset==0\.2\.86.*No matching distribution; connect"
    ) as e:
        peers.overlay(tmp_path / ".peers")
    assert "\n" not in str(e.value) and kept.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".peers"]


def test_only_the_peers_process_sees_the_overlay(folder):
    code = "import json, os, webdataset as w; "
    code += "print(json.dumps([w.__version__, os.environ['OMP_NUM_THREADS']]))"
    assert peers.run_json(["-c", code], threads=2, first=folder) == ["0.2.86", "2"]
    assert peers.run_json(["-c", code], threads=1) == ["1.0.2", "1"]


def test_a_peer_that_fails_says_its_last_line():
    with pytest.raises(RuntimeError, match="ended with 1: ValueError: no such rung"):
        peers.run_json(["-c", "raise ValueError('no such rung')"], threads=1)


# --------------------------------------------------------------------------------------------- paces


def test_a_pace_counts_whole_steps_after_the_warm_up(monkeypatch):
    clock = iter([0.0, 5.0, 6.0, 8.0, 11.0])
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(clock))
    cpu = iter([100.0, 103.0])
    monkeypatch.setattr(pace, "tree_cpu_seconds", lambda: next(cpu))
    timed = pace.Pace(warmup=2, seconds=5)
    assert [timed.step() for _ in range(5)] == [False, False, False, False, True]
    found = timed.result(batch_size=4)
    assert found["steps"] == 3 and found["samples_per_s"] == 12 / 6
    assert found["cpu_seconds_per_sample"] == 3 / 12 and found["step_ms"] == 2000


def test_a_feed_that_ends_too_soon_is_an_error_not_a_rate():
    with pytest.raises(ValueError, match="no more batches after 3"):
        pace.through([1, 2, 3], 4, warmup=1, seconds=1e9)


def test_processor_time_counts_the_processes_it_started():
    spin = "import time, sys\nwhile time.process_time() < 0.5: pass\nprint(flush=True); sys.stdin.read()"
    before = pace.tree_cpu_seconds()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([peers.sys.executable, "-c", spin], **pipes) as child:
        child.stdout.readline()
        assert pace.tree_cpu_seconds() - before >= 0.45
        child.communicate()


# ---------------------------------------------------------------------------------------- open_clip


def settings(corpus, vocab_size, **others):
    return jobs_train.peer_settings(
        corpus, "XXS", vocab_size, **{"batch_size": 8, **TINY, **others}
    )


def test_the_line_of_a_step_is_understood_and_no_other(monkeypatch):
    line = (
        "Train Epoch: 0 [      256/100000000 (0%)] Data (t): 0.008 Batch (t): 1.520, 84.2191/s, "
        "84.2191/s/gpu LR: 0.000020 Logit Scale: 14.286 Contrastive_loss: 5.4868 (5.4071) "
        "Loss: 5.4868 (5.4071)"
    )
    clock = open_clip_peer.StepClock(pace.Pace(0, 1e9))
    for message in ("Start epoch 0", line, "Loss: 3 (3)"):
        clock.emit(open_clip_peer.logging.makeLogRecord({"msg": message}))
    assert (clock.printed, clock.losses, clock.pace.steps) == ([84.2191], [5.4868], 1)


def test_the_peer_trains_our_rung_on_our_shards(corpus, folder):
    """Its own main, two steps, our vocabulary: it starts near the chance loss and it learns nothing
    that would need another model."""
    case = Case("XXS", 4096, 8, warmup=2, seconds=0.0, threads=1)
    found = jobs_train.peer_train(case, corpus, "amp_bf16", workers=0)
    assert found["steps"] == 1 and len(found["losses"]) == 3
    assert all(1 < loss < 2 * math.log(8) for loss in found["losses"])
    assert {"samples_per_s", "cpu_seconds_per_sample", "peak_mb", "step_ms"} <= set(found)
    assert found["printed_samples_per_s"] > 0 and found["peak_mb"] > 100


def test_our_loop_answers_with_what_the_rows_need(corpus):
    case = Case("XXS", 4096, 8, warmup=0, seconds=0.0, threads=1)
    found = jobs_train.our_train(case, corpus)
    assert found["threads"] == 1 and found["precision"] in ("bf16", "fp32")
    assert all(found[key] > 0 for key in (*jobs_train.UNITS, "step_ms"))


def test_the_peers_model_is_ours_with_the_vocabulary_asked_for(corpus):
    import open_clip

    from cliplib import model

    for vocab_size, tokenizer in ((4096, str(model.TOKENIZER)), (49408, "")):
        config = open_clip_peer.peer_config(settings(corpus, vocab_size))
        assert config["text_cfg"].pop("hf_tokenizer_name", "") == tokenizer
        sized = replace(ladder.rung("XXS"), vocab_size=vocab_size)
        clip = open_clip.model.CLIP(**config)
        assert sum(p.numel() for p in clip.parameters()) == ladder.params(sized)


def test_the_peers_command_line_asks_for_the_same_work(corpus, tmp_path):
    from open_clip_train.params import parse_args

    asked = settings(corpus, 4096, precision="amp_bf16", workers=1)
    args = parse_args(open_clip_peer.command_line(asked, tmp_path))
    assert (args.device, args.precision, args.workers) == ("cpu", "amp_bf16", 1)
    assert (args.batch_size, args.accum_freq, args.grad_clip_norm) == (8, 1, 1.0)
    assert (args.beta1, args.beta2, args.eps) == (0.9, 0.98, 1e-6)
    assert args.aug_cfg == {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    assert args.imagenet_val is None and args.val_data is None and not args.grad_checkpointing
    from braceexpand import braceexpand

    rows = corpus.shards("train")
    assert list(braceexpand(args.train_data)) == [str(corpus.folder / row["path"]) for row in rows]


def test_a_vocabulary_without_a_tokenizer_is_refused(corpus):
    with pytest.raises(InputError, match="vocabulary of 77; known: 4096"):
        settings(corpus, 77)


def test_shards_that_are_no_range_are_refused(corpus):
    rows = [{**row, "split": "train"} for row in corpus.shards("train")]
    odd = replace(corpus, manifest={**corpus.manifest, "shards": [rows[0], rows[2]]})
    with pytest.raises(InputError, match="no range of numbers"):
        jobs_train.brace_range(odd)


# ------------------------------------------------------------------------------------------- feeds


def test_both_loaders_run_on_the_same_shards(corpus, folder):
    found = jobs_train._peer("loader", settings(corpus, 4096, workers=0), 1)
    assert found["steps"] == 1 and found["samples_per_s"] > 0
    mine = our_feeds.Settings(str(corpus.folder), batch_size=8, **TINY)
    for feed in (our_feeds.memory, our_feeds.stream):
        assert feed(corpus, mine)["steps"] == 1


def test_our_feeds_yield_what_a_model_takes(corpus):
    images, tokens = next(our_feeds._memory_batches(corpus, 8))
    assert images.shape == (8, 3, 32, 32) and images.dtype == torch.float32
    assert tokens.shape == (8, 16) and tokens.dtype == torch.int64
    assert 2 < our_feeds.mean_tokens(corpus) < 16


def test_decoding_once_is_timed_aside_and_leaves_the_corpus_alone(corpus):
    before = sorted((corpus.folder / "decoded").iterdir())
    found = our_feeds.decode(corpus, our_feeds.Settings(str(corpus.folder), shards=1))
    assert found["samples"] == corpus.shards("train")[0]["count"]
    assert sorted((corpus.folder / "decoded").iterdir()) == before


# ----------------------------------------------------------------------------------------- the rows


def turn(ours, fp32, bf16):
    def measured(rate):
        return {
            "samples_per_s": rate, "cpu_seconds_per_sample": 1 / rate, "peak_mb": 1000 - rate,
            "private_mb": 500,
        }  # fmt: skip

    return {
        "ours": {**measured(ours), "precision": "bf16"},
        "fp32": measured(fp32),
        "amp_bf16": measured(bf16),
    }


def test_train_rows_compare_with_the_better_precision_by_rounds():
    case = Case("S", 4096, 128, 10, 1.0, 2)
    rounds = [turn(900, 300, 100), turn(400, 100, 50), turn(600, 300, 400)]
    speed, cost, memory, private = jobs_train.rows_of(case, rounds, "open_clip_train --workers 2")
    assert (speed.peer, speed.ours, speed.unit) == (300, 600, "samples/s")
    assert speed.ratio == 3  # of 3, 4 and 2: a round that was slow for both counts as much
    assert cost.ratio == pytest.approx(3) and cost.unit == "CPU ms"
    assert memory.ratio == pytest.approx(700 / 400)  # of 700/100, 900/600 and 700/400
    assert private.ratio == 1 and "all its processes" in private.case
    assert "4,096 words, batch 128, 2 threads" in speed.case and "in fp32" in speed.case


def test_a_job_interleaves_its_sides_and_finds_the_peers_best_workers(corpus, monkeypatch):
    done = []

    def ours(case, _):
        done.append("ours")
        return turn(900, 1, 1)["ours"]

    def peer(case, _, precision, workers):
        done.append((precision, workers))
        return turn(1, 300 + workers * (2 - workers), 200)[precision]

    monkeypatch.setattr(jobs_train, "our_train", ours)
    monkeypatch.setattr(jobs_train, "peer_train", peer)
    job = all_jobs()["train_step"]
    rows = list(job(["XXS"], [4096, 49408], rounds=2, data=corpus.folder))
    assert done[:3] == [("fp32", 0), ("fp32", 1), ("fp32", 2)]
    assert done[3:] == ["ours", ("fp32", 1), ("amp_bf16", 1)] * 4
    assert len(rows) == 8 and {row.job for row in rows} == {"train_step"}
    assert "49,408 words" in rows[4].case and "--workers 1" in rows[4].case


# --------------------------------------------------------------------------------------- the products


def test_products_add_up_to_the_rungs_multiply_accumulates():
    """Forward products at full context are the ladder's GMACs, but for its LayerNorms and our loss."""
    r, batch = ladder.rung("S"), 16
    found = matmuls.products(r, batch, r.context_length)
    loss = Product(batch, r.embed_dim, batch, exact=True)
    assert found.pop(loss) == 1
    forward = sum(n * p.batch * p.rows * p.inner * p.columns for p, n in found.items())
    norms = 5 * sum(
        (2 * tower.layers * tokens + ends) * tower.width
        for tower, tokens, ends in ((r.vision, 17, 18), (r.text, 16, 16))
    )
    assert forward == pytest.approx(batch * (ladder.gmacs(r) * 1e9 - norms), rel=1e-12)
    assert sum(not p.whole for p in found) == 1


def test_shorter_captions_cost_less():
    def macs(tokens):
        return sum(n * p.macs for p, n in matmuls.products(ladder.rung("XS"), 8, tokens).items())

    assert macs(9.5) < macs(16)


@pytest.mark.parametrize("product", [Product(4, 5, 6), Product(4, 5, 6, batch=3)])
def test_the_products_timed_are_those_of_autograd(product):
    works = list(matmuls._works(product, torch.float32))
    stack = () if product.batch == 1 else (product.batch,)
    shapes = [tuple(work().shape) for work in works]
    assert shapes == [(*stack, 4, 6), (*stack, 6, 5), (*stack, 4, 5)]
    assert product.macs == 3 * product.batch * 4 * 5 * 6


def test_a_step_of_products_is_timed_in_the_precision_asked_for():
    for precision in ("fp32", "bf16"):
        found = matmuls.measure(ladder.rung("XXS"), 4, 9.0, precision)
        assert found["ms"] > 0 and found["gmac_per_s"] > 0
    (work, *_) = matmuls._works(Product(2, 3, 4), torch.bfloat16)
    assert work().dtype == torch.bfloat16


def test_the_share_row_says_what_was_timed():
    case = Case("S", 4096, 128, 0, 1.0, 2)
    step, alone = {"step_ms": 40.0, "precision": "bf16"}, {"ms": 10.0, "gmac_per_s": 200.0}
    row = jobs_train.share_row(case, [(step, alone)] * 3)
    assert (row.ours, row.peer, row.ratio, row.unit) == (0.25, None, None, "of peak")
    assert "10 ms (200 GMAC/s), step 40 ms" in row.case and "bf16" in row.case


def test_settings_survive_the_way_to_the_other_process(corpus):
    mine = settings(corpus, 4096)
    assert open_clip_peer.Settings(**json.loads(json.dumps(asdict(mine)))) == mine
