"""The grid on a cluster: snakemake's SLURM executor against stand-ins for SLURM's commands.

Two jobs, really run: one on one node, killed with -9 by a failing node once it has checkpoints; one on
two nodes, where torchrun's two agents have to find each other.
"""

import argparse
import json
from pathlib import Path

import pytest
import slurm_stand_in

from cliplib import records, study
from cliplib.ladder import scale
from cliplib.launch import place

PROFILE = study.ROOT / "notebooks" / "profiles" / "slurm"
KILLED, SPREAD, _ = (run.run_id for run in scale("smoke"))

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def cluster(corpus, tmp_path_factory):
    """The folder of runs and the one of SLURM's jobs, after a study of two runs."""
    home = tmp_path_factory.mktemp("cluster")
    runs, slurm = home / "runs", home / "slurm"
    (home / "profile").mkdir()
    (home / "profile" / "config.yaml").write_text(filled_in(PROFILE / "config.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm_stand_in.install(slurm).items():
            patch.setenv(name, value)
        fault = {"file": str(runs / KILLED / "metrics.jsonl"), "lines": 8, "state": "NODE_FAIL"}
        (slurm / "faults.json").write_text(json.dumps({rule(KILLED): fault}))
        words = ["--scale", "smoke", "--torchrun", "--profile", str(home / "profile")]
        args = arguments(*words, "--data", str(corpus.folder), "--runs", str(runs))
        first, second, _ = scale("smoke")
        placed = [place(first), place(second, gpus_per_node=1, gpus=2)]
        data = corpus.folder.resolve()
        study._execute(args, [study._job(args, p, None, data, runs) for p in placed], data, runs)
    return runs, slurm


def filled_in(profile):
    """The profile as its reader completes it, and asking for states more often."""
    text = profile.read_text()
    block = next(part for part in text.split("#\n") if "slurm_account" in part)
    filled = "".join(line.removeprefix("# ") for line in block.splitlines(keepends=True))
    filled = filled.replace("ACCOUNT", slurm_stand_in.ACCOUNT).replace("PARTITION", "other")
    return text.replace(block, filled) + "slurm-init-seconds-before-status-checks: 1\n"


def arguments(*words):
    parser = argparse.ArgumentParser()
    study.add_arguments(parser)
    return parser.parse_args(words)


def rule(run_id):
    """What snakemake writes as the comment of the job that trains a run."""
    return f"rule_train-{run_id}"


def jobs(slurm, run_id):
    """States and sbatch words of a run's jobs, in the order of submission."""
    found = []
    for home in slurm.glob("job-*"):
        words = json.loads((home / "words.json").read_text())
        if rule(run_id) in words:
            submitted = float((home / "submitted").read_text())
            found.append((submitted, (home / "state").read_text(), words))
    return [(state, words) for _, state, words in sorted(found)]


def test_a_killed_job_is_submitted_again_on_another_node(cluster):
    (first, _), (second, words) = jobs(cluster[1], KILLED)
    assert (first, second) == ("NODE_FAIL", "COMPLETED")
    assert "--exclude=node17" in words


def test_the_run_of_a_killed_job_goes_on_from_its_checkpoint(cluster):
    runs, _ = cluster
    record = records.read_record(runs / KILLED / "train.json")
    assert record["sessions"] == 2
    assert record["samples_seen"] == scale("smoke")[0].samples_seen
    assert "resumed at step" in (runs / KILLED / "log.txt").read_text()
    lines = (runs / KILLED / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == record["steps"]


def test_two_nodes_train_one_run_together(cluster):
    runs, slurm = cluster
    ((state, words),) = jobs(slurm, SPREAD)
    assert state == "COMPLETED" and {"--nodes=2", "--ntasks=2"} <= set(words)
    record = records.read_record(runs / SPREAD / "train.json")
    assert (record["processes"], record["sessions"]) == (2, 1)


def test_both_runs_end_with_current_records(cluster, corpus):
    stale = {run.run_id for run in study.stale_runs("smoke", corpus.folder, cluster[0])}
    assert stale == {scale("smoke")[2].run_id}


def test_runs_without_an_evaluation_are_summed_up_by_their_training(cluster):
    said = study._training_summary(scale("smoke")[:2], cluster[0]).splitlines()
    assert len(said) == 3 and "samples_per_s" in said[0]
    assert said[1].split()[0] == KILLED and said[1].split()[-1] == "2"  # sessions


def test_jobs_ask_for_what_their_runs_need(cluster):
    for run_id in (KILLED, SPREAD):
        words = jobs(cluster[1], run_id)[0][1]
        asked = slurm_stand_in.options(words)
        assert asked["-p"] == "other" and asked["-A"] == slurm_stand_in.ACCOUNT
        assert asked["-t"] == "1440" and asked["--mem-per-cpu"] == "4000"
        assert asked["--cpus-per-task"] == "1" and "--gres" not in asked


def test_nothing_of_the_cluster_is_left_running(cluster):
    mark = f"STAND_IN_SLURM={cluster[1]}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        assert mark not in environment, process.name
