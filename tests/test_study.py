"""The grid: decided by content, killed and resumed, refused in one line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cliplib import InputError, records, study
from cliplib.ladder import run_spec, scale

ROOT = study.ROOT


def cliplib(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "cliplib", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        **options,
    )


def notebook(name, *parameters, cwd):
    words = [
        sys.executable,
        "-m",
        "papermill",
        str(ROOT / "notebooks" / f"{name}.ipynb"),
        "out.ipynb",
    ]
    return subprocess.run(
        [*words, *parameters, "--no-progress-bar"], capture_output=True, text=True, cwd=cwd
    )


# --------------------------------------------------------------------------------------- parameters


def test_declared_parameters_are_those_of_the_notebooks():
    for name, known in study.PARAMETERS.items():
        cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        (declared,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
        namespace: dict = {}
        exec("".join(declared["source"]), namespace)  # the notebook's own defaults
        namespace.pop("__builtins__")
        assert {key: type(value) for key, value in namespace.items()} == known
        study.check_parameters(name, namespace)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scael": "nano"}, "parameter 'scael' is not known"),
        ({"samples_seen": "many"}, "samples_seen of train.ipynb must be int"),
        ({"seed": True}, "seed of train.ipynb must be int"),
    ],
)
def test_a_wrong_parameter_is_one_line(parameters, message):
    with pytest.raises(InputError, match=message) as caught:
        study.check_parameters("train", {"In": [], "_": 1, "Path": object, **parameters})
    assert "\n" not in str(caught.value)


def test_a_misspelt_parameter_fails_under_plain_papermill(tmp_path):
    done = notebook("train", "-p", "scael", "nano", cwd=tmp_path)
    assert done.returncode == 1
    assert "parameter 'scael' is not known to train.ipynb" in done.stderr.strip().splitlines()[-1]


def test_an_unknown_rung_in_a_notebook_lists_the_known():
    with pytest.raises(InputError, match="unknown rung 'XXXL'; known: XXS, XS"):
        run_spec("nano", "XXXL", 65536)


def test_an_unknown_scale_or_rung_is_one_line_and_status_2(tmp_path):
    done = cliplib("study", "--scale", "pico", "--runs", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "smoke, nano" in done.stderr
    (tmp_path / "run.json").write_text(json.dumps({**scale("smoke")[0].to_dict(), "rung": "XXXS"}))
    done = cliplib("train", "--config", tmp_path / "run.json", "--out", tmp_path / "r")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "XXS" in done.stderr
    assert not (tmp_path / "r").exists()


def test_every_verb_has_help_with_an_example():
    from cliplib.__main__ import VERBS

    for verb in VERBS:
        done = cliplib(verb, "--help")
        assert done.returncode == 0 and "example" in done.stdout, verb


# ------------------------------------------------------------------------------------------ the grid


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the study did not get going"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def killed_study(corpus, tmp_path_factory):
    """A smoke study whose whole process group is killed with -9 during its second run, run again."""
    runs = tmp_path_factory.mktemp("killed") / "runs"
    command = [sys.executable, "-m", "cliplib", "study", "--scale", "smoke", "--cores", "2"]
    command += ["--data", str(corpus.folder), "--runs", str(runs)]
    first, second, *_ = (runs / spec.run_id for spec in scale("smoke"))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: (first / "eval.json").exists() and (second / "log.txt").exists())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = (first / "eval.json").stat().st_mtime_ns
    wait_for(lambda: not _alive(runs))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return runs, done, (first / "eval.json", kept)


def _alive(runs):
    """Whether a notebook of this study still runs (a kernel ends seconds after its papermill)."""
    found = subprocess.run(["pgrep", "-f", str(runs)], capture_output=True, text=True).stdout
    return bool(found.strip())


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_a_killed_study_goes_on_and_redoes_nothing_finished(killed_study):
    runs, done, (finished, kept) = killed_study
    assert done.returncode == 0, done.stderr[-2000:]
    assert finished.stat().st_mtime_ns == kept
    assert study.stale_runs("smoke", _data(runs), runs) == []


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_a_killed_study_equals_an_uninterrupted_one(killed_study, corpus, tmp_path, one_thread):
    from cliplib.evaluate import evaluate
    from cliplib.train import train

    runs, _, _ = killed_study
    for spec in scale("smoke"):
        train(spec, corpus, tmp_path / spec.run_id, say=lambda line: None)
        evaluate(tmp_path / spec.run_id / "checkpoint", corpus, tmp_path / spec.run_id, spec.run_id)
        for name in ("train.json", "eval.json"):
            ours, theirs = (
                records.read_record(root / spec.run_id / name) for root in (runs, tmp_path)
            )
            assert records.results(ours) == records.results(theirs)


@pytest.mark.skipif(os.name != "posix", reason="uses the killed study")
def test_an_unchanged_study_does_nothing_and_a_changed_training_code_redoes_all(
    killed_study, corpus, monkeypatch
):
    runs, _, _ = killed_study
    done = cliplib("study", "--scale", "smoke", "--data", corpus.folder, "--runs", runs)
    assert done.returncode == 0 and f"{len(scale('smoke'))} current, 0 to do" in done.stdout
    monkeypatch.setattr(records, "code_hash", lambda members: "edited")
    assert len(study.stale_runs("smoke", corpus.folder, runs)) == len(scale("smoke"))


def test_what_decides_currency_is_training_and_evaluation_code_not_chapters():
    members = {*records.TRAIN_CODE, *records.EVALUATE_CODE}
    loop = {f"train/{name}.py" for name in ("loop", "loss", "optimiser", "captions")}
    tested = {"evaluate/icons.py", "evaluate/features.py", "pretrained/opening.py"}
    assert {"model.py", "data/corpus.py", "fast", *tested, *loop} <= members
    assert all((records.PACKAGE / member).exists() for member in members)
    assert not [m for m in members if m.split("/")[0] in ("book", "paper", "laws", "figures.py")]


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
def test_two_studies_in_one_folder_are_refused(corpus, tmp_path):
    import fcntl

    with (tmp_path / ".study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cliplib("study", "--scale", "smoke", "--data", corpus.folder, "--runs", tmp_path)
    assert (
        done.returncode == 2 and "already under way" in done.stderr and done.stderr.count("\n") == 1
    )


def test_a_missing_shard_stops_the_study_before_it_starts(tmp_path, corpus):
    damaged = tmp_path / "icons"
    damaged.mkdir()
    for path in corpus.folder.iterdir():
        if path.name not in ("train-000000.tar", "decoded"):
            (damaged / path.name).symlink_to(path)
    done = cliplib("study", "--scale", "smoke", "--data", damaged, "--runs", tmp_path / "runs")
    assert (
        done.returncode == 2 and done.stderr.count("\n") == 1 and "shard is missing" in done.stderr
    )
    assert not list((tmp_path / "runs").glob("*/train.json"))


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
def test_a_run_that_fails_is_named_with_its_last_line_and_the_others_finish(killed_study, corpus):
    import fcntl

    runs, _, _ = killed_study
    busy = runs / scale("smoke")[-1].run_id
    (busy / "train.json").unlink()
    with (busy / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cliplib("study", "--scale", "smoke", "--data", corpus.folder, "--runs", runs)
    last = done.stderr.strip().splitlines()[-1]
    assert (
        done.returncode == 2
        and f"1 of {len(scale('smoke'))} runs did not finish" in last
        and "is training here" in last
    )


def test_a_failed_run_is_explained_by_our_own_line_not_by_torchruns_page(tmp_path):
    first, *_ = specs = scale("smoke")
    log = tmp_path / first.run_id / "log.txt"
    log.parent.mkdir()
    said = ["a progress line", "cliplib: the disk is full", "Traceback", "exitcode : 2", "======"]
    log.write_text("\n".join(said) + "\n")
    message = study._failure(specs, 3, tmp_path)
    assert f"3 of 3 runs did not finish; {first.run_id}: the disk is full (log: {log})" == message


@pytest.fixture
def one_thread():
    """As many threads as a run of the study has: sums in another order differ in the last digits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _data(runs):
    from cliplib.data import open_corpus

    return open_corpus(os.environ.get("CLIPLIB_CORPUS", ROOT / "data" / "icons")).folder
