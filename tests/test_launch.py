"""Bigger machines: places, commands, hours and energy, all without a machine."""

import dataclasses
import json
import math
import shlex
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from cliplib import InputError, study
from cliplib.__main__ import main
from cliplib.data.preflight import check_counts
from cliplib.ladder import PHOTO_RUNGS, flops, run_spec, rung, scale
from cliplib.launch import check_model, config, dryrun, job, jobs, place, placement, torchrun
from cliplib.published import pretraining_runs, printed
from cliplib.rungs import TABLE
from cliplib.train.config import TrainConfig

PAPER_RUNGS = sorted({run.rung for run in scale("paper")})
URL = "s3://bucket/{00000..99999}.tar"


def everywhere(name):
    """The data of every run of a scale at one URL."""
    return jobs.shards([URL], scale(name))


def largest():
    return next(run for run in scale("paper") if run.rung == "ViT-H-14")


# ----------------------------------------------------------------------------------------- placement


def test_the_29_runs_cost_what_the_paper_prints():
    placed = [place(run) for run in scale("paper")]
    bill = printed().set_index("id")["printed"].str.replace(",", "").astype(float)
    assert len(placed) == 29
    assert round(sum(p.gpu_hours for p in placed)) == bill["bill:gpu_hours"]
    assert round(sum(p.mwh for p in placed), 2) == bill["bill:mwh"]


def test_a_run_goes_where_it_went():
    published = pretraining_runs().set_index(["arch", "data", "lr", "samples_seen_training"])
    for run in scale("paper"):
        row = published.loc[(run.rung, f"LAION-{run.data_scale}", run.lr, run.samples_seen)]
        placed = place(run)
        assert (placed.gpus, placed.batch_per_gpu) == (row["gpus"], row["local_batch"])
        assert (placed.accumulate, placed.basis) == (1, "published")
        assert placed.wall_hours == pytest.approx(row["hours"], abs=6e-4)
        assert placed.warmup_steps == row["warmup_steps"]


@pytest.mark.parametrize("per_node", [1, 2, 4, 8, 16])
def test_nodes_are_full_and_the_batch_divides(per_node):
    for run in scale("paper"):
        placed = place(run, per_node)
        assert placed.nodes * per_node == placed.gpus >= placed.published_gpus
        assert placed.batch_per_gpu * placed.gpus == run.batch_size
    placed = place(next(r for r in scale("paper") if place(r).gpus == 396), 8)
    assert placed.gpus == 448  # 396 do not fill nodes of 8


def test_fewer_gpus_work_off_the_batch_in_pieces_that_fitted():
    for run in scale("paper"):
        published, placed = place(run), place(run, gpus=16)
        assert placed.batch_per_gpu % placed.accumulate == 0
        assert placed.batch_per_gpu // placed.accumulate <= published.batch_per_gpu
        assert placed.gpu_hours == published.gpu_hours
        assert placed.wall_hours == pytest.approx(published.wall_hours * published.gpus / 16)


def test_a_throughput_that_is_not_published_is_estimated_and_says_so(monkeypatch):
    run = next(r for r in scale("paper") if r.rung == "ViT-L-14")
    table = {key: dict(row) for key, row in placement._published().items()}
    others = [
        row["rate"]
        for key, row in table.items()
        if key[0] == run.rung and key[1:] != (run.data_scale, run.samples_seen)
    ]
    table[run.rung, run.data_scale, run.samples_seen]["rate"] = None
    monkeypatch.setattr(placement, "_published", lambda: table)
    placed = place(run)
    assert placed.rate == pytest.approx(pd.Series(others).median())
    assert placed.basis == f"not published; estimate: median of {len(others)} runs of ViT-L-14"
    monkeypatch.setattr(placement, "_published", lambda: {})
    assert math.isnan(place(run).gpu_hours) and place(run).basis == "not published"


def test_the_evening_on_one_gpu_follows_from_the_assumptions_in_the_table():
    machine = TABLE["scales"]["gpu"]["estimate"]
    placed = [place(run) for run in scale("gpu")]
    assert 4 < sum(p.wall_hours for p in placed) < 6
    for each in placed:
        gpu = (
            machine["peak_tflops"]
            * 1e12
            * machine["utilisation"]
            / flops(each.run.rung, "training")
        )
        assert each.rate == pytest.approx(min(gpu, machine["loader_samples_per_s"]))
        assert each.basis.startswith("assumed") and each.gpus == 1
    assert {p.basis.split(":")[1].split()[0] for p in placed} == {"a", "15%"}  # loader, GPU


# -------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("name", [*PAPER_RUNGS, *PHOTO_RUNGS])
def test_the_model_is_the_published_one(name):
    found = check_model(name)
    assert found.agrees
    assert (found.params_published_m is None) == (name in PHOTO_RUNGS)
    assert found.counted_gmacs == pytest.approx(found.product_gmacs, rel=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"params_built": 151_277_312}, {"params_published_m": 151.30},
        {"counted_gmacs": 7.4}, {"gmacs_published": 7.42},
    ],
)  # fmt: skip
def test_a_model_that_differs_is_not_passed(change):
    assert not dataclasses.replace(check_model("ViT-B-32"), **change).agrees


def test_a_wrong_model_stops_the_dry_run(monkeypatch):
    placed = [place(run) for run in scale("paper")[:1]]
    monkeypatch.setattr(
        dryrun, "check_model", lambda name: dataclasses.replace(check_model(name), gmacs=1.0)
    )
    with pytest.raises(InputError, match="ViT-B-32 differ from the published"):
        dryrun.report("paper", placed, dryrun.table(placed, Path("runs")))


# ---------------------------------------------------------------------------- configuration, command


@pytest.mark.parametrize("name", ["paper", "gpu"])
@pytest.mark.parametrize("gpus", [None, 4, 64])
def test_configurations_are_what_train_takes_and_the_loader_can_serve(name, gpus):
    for run in scale(name):
        placed = place(run, None if gpus is None else 4, gpus)
        found = config(placed, jobs.shard_source(placed, everywhere(name)))
        read = TrainConfig.from_dict(json.loads(json.dumps(found)))
        assert read.run == run
        data, engine = read.settings.data, read.settings.engine
        shards = [f"{i}.tar" for i in range(data.lanes)]
        epoch = data.sampler == "epoch"
        check_counts(shards, data.lanes, run.batch_size, placed.gpus, data.workers, epoch)
        assert engine.accumulate == placed.accumulate
        rows = min(engine.loss_chunk or placed.batch_per_gpu, placed.batch_per_gpu)
        assert 4 * rows * run.batch_size <= jobs.LOSS_BYTES


def test_laion_2b_is_drawn_with_replacement_and_smaller_sets_go_by_epochs():
    for run in scale("paper"):
        placed = place(run)
        data = config(placed, jobs.shard_source(placed, everywhere("paper")))["data"]
        assert data["sampler"] == ("replacement" if run.data_scale == "2B" else "epoch")


def test_only_large_models_recompute_activations():
    found = {
        run.rung: config(place(run), {"shards": [URL]})["engine"]["gradient_checkpointing"]
        for run in [*scale("paper"), *scale("gpu")]
    }
    assert {name for name, on in found.items() if on} == {"ViT-L-14", "ViT-H-14", "ViT-g-14"}


def test_every_run_has_one_torchrun_command():
    from torch.distributed.run import get_args_parser

    for per_node in (4, 8):
        for run in scale("paper"):
            placed = place(run, per_node)
            program, *words = shlex.split(torchrun(placed, Path("a b/c.json"), Path("runs/x")))
            read = get_args_parser().parse_args(words)
            assert program == "torchrun" and read.training_script == "cliplib" and read.module
            assert int(read.nnodes) * int(read.nproc_per_node) == placed.gpus
            assert read.training_script_args == [
                "train",
                "--config",
                "a b/c.json",
                "--out",
                "runs/x",
            ]
    alone = get_args_parser().parse_args(
        shlex.split(torchrun(place(scale("gpu")[0]), Path("c"), Path("o")))[1:]
    )
    assert alone.standalone and alone.nproc_per_node == "1"


def test_shards_are_given_for_all_or_for_each_data_scale():
    runs = scale("paper")
    one = jobs.shards(["80M=a.tar", "400M=b.tar", "2B=pipe:aws s3 cp x -", "2B=c.tar"], runs)
    assert one == {"80M": ["a.tar"], "400M": ["b.tar"], "2B": ["pipe:aws s3 cp x -", "c.tar"]}
    url = "https://host/x?key=value"  # no data scale, though it has an equals sign
    assert jobs.shards([url], runs) == {"80M": [url], "400M": [url], "2B": [url]}


def test_local_shards_are_found_from_the_jobs_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = jobs.absolute({"all": ["d/{0..9}.tar::e", "s3://b/x.tar", "pipe:cat d/x.tar"]})
    assert found == {
        "all": [f"{tmp_path}/d/{{0..9}}.tar::{tmp_path}/e", "s3://b/x.tar", "pipe:cat d/x.tar"]
    }


def test_a_finished_run_on_other_shards_is_to_do_again():
    placed = [place(run) for run in scale("gpu")]
    one, other = (jobs.shards_hashes(placed, jobs.shards([u], scale("gpu"))) for u in ("a", "b"))
    assert set(one) == {run.run_id for run in scale("gpu")}
    assert not set(one.values()) & set(other.values())
    more = [place(run, 4) for run in scale("gpu")]  # four GPUs see the same batches as one
    assert jobs.shards_hashes(more, jobs.shards(["a"], scale("gpu"))) == one


# ----------------------------------------------------------------------------------------- SLURM jobs


def sbatch(found):
    """The words of the executor's own sbatch call for a job."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    class Resources(dict):
        __getattr__ = dict.__getitem__

    asked = SimpleNamespace(resources=Resources(found.resources), threads=found.threads)
    place = {"account": "-A x", "partition": "-p y", "workdir": "/w", "comment_str": "c"}
    call = get_submit_command(asked, {**place, "run_uuid": "u", "slurm_logfile": "l"})
    return shlex.split(call + set_gres_string(asked))


def test_several_nodes_get_one_task_each_and_torchrun_meets_there():
    placed = place(largest())
    found = job(placed, Path("c.json"), Path("o"))
    words = sbatch(found)
    assert {"--nodes=206", "--ntasks=206", "--gres=gpu:4", "--cpus-per-task=40"} <= set(words)
    assert not [word for word in words if word.startswith(("--ntasks-per-gpu", "--gpus"))]
    srun, *rest = shlex.split(found.command)
    assert srun == "srun" and {"--nodes=206", "--ntasks-per-node=1", "--gres=gpu:4"} <= set(rest)
    assert "--nnodes=206" in rest[-1] and "--rdzv-endpoint=$HEAD_NODE:$((" in rest[-1]


def test_one_node_needs_no_srun():
    found = job(place(scale("gpu")[0]), Path("c.json"), Path("o"))
    words = sbatch(found)
    assert {"--nodes=1", "--gres=gpu:1", "--cpus-per-task=10", "--mem-per-cpu"} <= set(words)
    assert "--standalone" in found.command and "srun" not in found.command
    assert 30 <= found.resources["runtime"] <= 60  # minutes: 5 of training


def test_a_run_longer_than_a_job_gets_the_tries_it_takes():
    placed = place(largest())
    found = job(placed, Path("c"), Path("o"), job_hours=24)
    assert found.resources["runtime"] == 24 * 60
    assert (found.retries + 1) * 24 > placed.wall_hours * 1.25
    assert job(place(scale("gpu")[0]), Path("c"), Path("o")).retries == 2


# --------------------------------------------------------------------------------------- command line


def cli(capsys, *words):
    status = main(["study", *map(str, words)])
    return status, capsys.readouterr()


def test_the_paper_as_a_dry_run(capsys, tmp_path):
    status, said = cli(capsys, "--scale", "paper", "--dry-run", "--out", tmp_path / "t.csv")
    assert status == 0
    assert "models of all 29 runs built without memory" in said.out
    assert "total: 29 runs, 1,058,318.3 GPU hours, 370.4114 MWh" in said.out
    assert "the paper's bill: 1,058,318 GPU hours, 370.41 MWh" in said.out
    assert sum(line.startswith("torchrun ") for line in said.out.splitlines()) == 29
    rows = pd.read_csv(tmp_path / "t.csv")
    assert len(rows) == rows["command"].nunique() == 29
    assert rows["gpu_hours"].sum() == pytest.approx(1_058_318, abs=1)


def test_the_gpu_scale_prints_what_its_hours_rest_on(capsys):
    status, said = cli(capsys, "--scale", "gpu", "--dry-run")
    assert status == 0
    assert "assumed: 15% of 312 TFLOP/s (A100)" in said.out and "assumed: a loader of" in said.out


def test_a_scale_without_an_estimate_has_no_hours(capsys):
    status, said = cli(capsys, "--scale", "nano", "--dry-run")
    assert status == 0 and "no estimate" in said.out
    assert "GPU h" not in said.out and "total" not in said.out


def test_a_dry_run_writes_a_configuration_and_a_command_a_run(capsys, tmp_path):
    words = ["--scale", "gpu", "--shards", URL, "--dry-run", "--write", tmp_path / "c"]
    status, said = cli(capsys, *words)
    assert status == 0 and "14 configurations" in said.out
    for run in scale("gpu"):
        read = TrainConfig.read(tmp_path / "c" / f"{run.run_id}.json")
        assert read.run == run and read.settings.data.shards == (URL,)
        command = (tmp_path / "c" / f"{run.run_id}.sh").read_text()
        assert f"--config {tmp_path}/c/{run.run_id}.json" in command and command in (
            f"#!/bin/sh\nexec {line}\n" for line in said.out.splitlines()
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--scale pico --dry-run", "unknown scale 'pico'; known: smoke"),
        ("--scale paper --dry-run --shards 3B=x", "unknown data scale '3B'; known: 2B, 400M, 80M"),
        ("--scale paper --dry-run --shards 2B=x", "no shards for data scale 400M, 80M"),
        ("--scale paper --dry-run --shards 2B=", "no URL"),
        ("--scale paper --dry-run --write c", "give --shards"),
        ("--scale paper --dry-run --gpus 100", "100 GPUs in nodes of 4 do not divide its batch"),
        ("--scale gpu --dry-run --gpus 3", "3 GPUs in nodes of 1 do not divide its batch"),
        ("--scale paper --dry-run --gpus-per-node 5", "no number of GPUs in nodes of 5"),
        ("--scale paper --dry-run --gpus-per-node 0", "at least one GPU"),
        ("--scale nano --dry-run --shards x", "trains on the icons"),
        ("--scale paper", "give --shards"),
        ("--scale paper --shards x", "needs 256 nodes; give --profile"),
        ("--scale gpu --shards x --profile nowhere", "no config.yaml there"),
        ("--scale gpu --shards x --profile notebooks/profiles/slurm", "no sbatch"),
        ("--scale gpu --shards x --out t.csv", "belong to --dry-run"),
        ("--scale gpu --shards x --job-hours 0", "--job-hours 0"),
        ("--scale nano --gpus 2", "add --torchrun"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, tmp_path, monkeypatch, words, says):
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM
    monkeypatch.chdir(study.ROOT)
    status, said = cli(capsys, *words.split(), "--runs", tmp_path / "runs")
    assert status == 2 and says in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_of_ones_own_can_be_placed():
    run = run_spec("gpu", "ViT-S-32", 2_048_000, corpus="shards", lr=5e-4)
    assert place(run).rate == pytest.approx(2_842, rel=0.05) and rung(run.rung).vocab_size == 49_408
