"""The peers' own environment: they need older libraries than ours, and some that we do not have.

open_clip_train 3.3.0 stops with ``KeyError: 'fname'`` on webdataset 1.0.2, and CLIP_benchmark 1.6.2
cannot turn an array of one number into a float on numpy 2.4. So the peers' processes get a folder with
the versions they were written for, in front of everything else on their PYTHONPATH. Our own processes
never see that folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cliplib import InputError

#: What the overlay holds: two older versions, and CLIP_benchmark with what it imports.
OVERLAY = {
    "numpy": "2.3.5",
    "webdataset": "0.2.86",
    "clip_benchmark": "1.6.2",
    "scikit_learn": "1.7.2",
    "joblib": "1.5.2",
    "threadpoolctl": "3.8.0",
}
FOLDER = Path(".peers")


def overlay(folder: Path = FOLDER) -> Path:
    """The folder with the peers' libraries; installed at the first call, with pip.

    Raises:
        InputError: pip could not install them, as happens without a network.
    """
    if not _is_complete(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as aside:
            _install(Path(aside) / "new")
            if folder.exists():  # of other versions, or half a copy
                shutil.rmtree(folder)
            (Path(aside) / "new").rename(folder)
    return folder.resolve()


def _is_complete(folder: Path) -> bool:
    return all(
        (folder / f"{name}-{version}.dist-info").is_dir() for name, version in OVERLAY.items()
    )


def _install(target: Path) -> None:
    wanted = [f"{name}=={version}" for name, version in OVERLAY.items()]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--target", str(target), *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise InputError(
            f"the peers' libraries ({', '.join(wanted)}) could not be installed: {reason}; "
            "connect this machine once and ask for the job again"
        )


def run_json(command: Sequence[str], threads: int, first: Path | None = None) -> Any:
    """Run ``python COMMAND`` in a process of its own and read the JSON that it prints last.

    Args:
        command: what follows the interpreter, such as ``-m MODULE ARGUMENT``.
        threads: processor threads that it may use; the bench itself runs on one.
        first: folder in front of everything else that the process imports, such as `overlay`.

    Raises:
        RuntimeError: it failed; the message is the last line that it wrote.
    """
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=_environment(threads, first)
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or lines or ["it said nothing"])[-1]
        raise RuntimeError(f"python {' '.join(command[:3])} ended with {done.returncode}: {said}")
    return json.loads(lines[-1])


def _environment(threads: int, first: Path | None) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    own = {name: str(threads) for name in names}
    own |= {
        "CUDA_VISIBLE_DEVICES": "",  # the bench is about processors
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
    }
    if first is not None:
        own["PYTHONPATH"] = str(first)
    return {**os.environ, **own}
