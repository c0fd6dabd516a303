"""Stand-ins for SLURM's commands: jobs really run, in the background of this machine.

Installed under the names of the commands (`install`); the folder in ``STAND_IN_SLURM`` holds a folder
for every job and ``faults.json``: by the job's comment, what befalls its first try, as
``{"file": metrics.jsonl, "lines": n, "state": "NODE_FAIL"}``: killed with -9 once the file has so many
lines. Only what snakemake's executor asks is answered.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "sacct", "squeue", "srun", "scontrol", "sinfo", "scancel", "sacctmgr")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")
ACCOUNT, PARTITION, NODE = "project", "batch", "localhost"


def install(folder: Path) -> dict[str, str]:
    """Put the commands into ``folder``/bin; the environment in which they are SLURM's."""
    (folder / "bin").mkdir(parents=True)
    for name in COMMANDS:
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{__file__}" {name} "$@"\n')
        script.chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "STAND_IN_SLURM": str(folder), "PATH": path}


def root() -> Path:
    return Path(os.environ["STAND_IN_SLURM"])


# --------------------------------------------------------------------------------------- submitting


def sbatch(words: list[str]) -> None:
    number = str(1000 + len(list(root().glob("job-*"))) + os.getpid() * 10000)
    home = root() / f"job-{number}"
    home.mkdir()
    (home / "words.json").write_text(json.dumps(words))
    (home / "submitted").write_text(str(time.time()))
    state(number, "RUNNING")
    subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, "node", number],
        start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    print(number)


def node(words: list[str]) -> None:
    """Run a job as the node's daemon does, and bring down on it what is in store for it."""
    (number,) = words
    asked = options(json.loads((root() / f"job-{number}" / "words.json").read_text()))
    log = Path(asked["--output"].replace("%j", number))
    with log.open("w") as out:
        job = subprocess.Popen(
            ["sh", "-c", asked["--wrap"]], cwd=asked["-D"], stdout=out, stderr=subprocess.STDOUT,
            env={**os.environ, "SLURM_JOB_ID": number},
        )  # fmt: skip
    fault = claim(asked["--comment"])
    while job.poll() is None:
        if fault and lines(Path(fault["file"])) >= fault["lines"]:
            kill(number)
            job.wait()
            return state(number, fault["state"])
        time.sleep(0.01)
    return state(number, "COMPLETED" if job.returncode == 0 else "FAILED")


def claim(comment: str) -> dict | None:
    """The fault of the first try of this job: whoever makes the mark has it."""
    fault = json.loads((root() / "faults.json").read_text()).get(comment)
    try:
        (root() / f"claimed-{comment}").touch(exist_ok=False)
    except FileExistsError:
        return None
    return fault


def kill(number: str) -> None:
    """Kill every process of a job, as the cluster does by control group; here by environment."""
    marks = {f"SLURM_JOB_ID={number}".encode(), f"STAND_IN_SLURM={root()}".encode()}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marks <= set((process / "environ").read_bytes().split(b"\0")):
                os.kill(int(process.name), signal.SIGKILL)


def srun(words: list[str]) -> None:
    """Start a command once a task, side by side; the first failure is the step's."""
    taken = next(i for i, word in enumerate(words) if not word.startswith("-"))
    tasks = int(options(words[:taken]).get("--ntasks", 1))
    step = {"SLURM_STEP_NODELIST": f"{NODE}[{tasks}]"}
    running = [
        subprocess.Popen(words[taken:], env={**os.environ, **step, "SLURM_NODEID": str(task)})
        for task in range(tasks)
    ]
    sys.exit(max(process.wait() for process in running))


def scancel(words: list[str]) -> None:
    for number in words:
        if number.isdigit():
            state(number, "CANCELLED")
            kill(number)


# ---------------------------------------------------------------------------------------- answering


def sacct(words: list[str]) -> None:
    if "--parsable2" in words:
        wait_for_news()
        for home in root().glob("job-*"):
            print(f"{home.name.removeprefix('job-')}|{(home / 'state').read_text()}")
    elif "nodelist%-256" in words:
        print("node17")
    elif "Account%256" in words:
        print(ACCOUNT)


def wait_for_news(seconds: float = 50) -> None:
    """Answer only when a job has ended that had not at the last answer (the executor's own pauses grow)."""
    told = root() / "told"
    known = set(told.read_text().split()) if told.exists() else set()
    deadline = time.time() + seconds
    while time.time() < deadline:
        states = {home.name: (home / "state").read_text() for home in root().glob("job-*")}
        ended = {name for name, now in states.items() if now in ENDED}
        if ended - known or len(ended) == len(states):
            break
        time.sleep(0.05)
    told.write_text(" ".join(ended))


def squeue(words: list[str]) -> None:
    sacct(["--parsable2", *words])


def scontrol(words: list[str]) -> None:
    if words[:2] == ["show", "hostnames"]:
        print(NODE)
    else:
        print("MaxArraySize            = 1001\nMinJobAge               = 300 sec")


def sinfo(words: list[str]) -> None:
    print(f"PARTITION\n{PARTITION}*\nother")


def sacctmgr(words: list[str]) -> None:
    print(ACCOUNT)


# ------------------------------------------------------------------------------------------- pieces


def options(words: list[str]) -> dict[str, str]:
    """``--name value``, ``--name=value`` and ``-n value`` by name."""
    found = {}
    for word, following in zip(words, [*words[1:], ""]):
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            found[name] = value if equals else following
    return found


def state(number: str, now: str) -> None:
    path = root() / f"job-{number}" / "state"
    path.with_suffix(".new").write_text(now)
    path.with_suffix(".new").replace(path)


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2:])
