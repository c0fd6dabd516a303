"""The tables of "Training, measured", read from what was measured and committed.

Reading order: beside open_clip (rows of ``bench.json``: `training`, `products`, `loaders`,
`loss_at_scale`), then our own ways beside each other (``speed.csv``, ``step_profile.csv``). A row that
a page needs and the file lacks is an error that names the command to make it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cliplib import InputError, ladder
from cliplib.training_pages.speed import CASES, PROFILE_COLUMNS, PROFILES, SPEED_COLUMNS, Case

BENCH, SPEED, PROFILE = "bench.json", "speed.csv", "step_profile.csv"
JOBS = ("train_step", "loader", "matmul_share", "loss_memory")
REMAKE_SPEED = f"python -m cliplib.training_pages.speed --out book/data/{SPEED}"

STEP = re.compile(
    r"(?P<rung>[\w-]+), (?P<vocabulary>[\d,]+) words, batch (?P<batch>\d+), (?P<threads>\d+) threads?: "
    r"open_clip_train --workers (?P<workers>\d+), in (?P<peer_precision>\w+) \(its better\), "
    r"ours in (?P<precision>\w+); "
    r"(?P<what>median of \d+ rounds|processor time|peak memory of the process|memory of all its processes)"
)
SHARE = re.compile(
    r"(?P<rung>[\w-]+), [\d,]+ words, batch \d+, (?P<threads>\d+) threads?, (?P<precision>\w+): "
    r"products alone (?P<products_ms>\S+) ms \((?P<gmac_per_s>[\d,]+) GMAC/s\), step (?P<step_ms>\S+) ms"
)
#: What follows the case in the words of the bench, and the measure that it stands for.
SUFFIXES = {
    "processor time": "cpu",
    "peak memory of the process": "memory",
    "memory of all its processes": "whole",
}
LOSS = re.compile(
    r"InfoNCE and its gradients, (?P<batch>[\d,]+) pairs of (?P<width>\d+) features, one thread"
    r"(?:; open_clip's would take about (?P<needed_gb>[\d,]+) GB: not tried)?"
)


# ------------------------------------------------------------------------------ beside open_clip


def bench(folder: Path) -> dict[str, Any]:
    """The committed bench: machine, commit, date and rows, as a mapping; ``rows`` as a table.

    Raises:
        InputError: the file is not there, or a job that the page rests on has no row in it.
    """
    path = folder / BENCH
    if not path.is_file():
        raise InputError(f"{path}: not there; make it with `make bench`")
    found: dict[str, Any] = json.loads(path.read_text())
    rows = pd.DataFrame(found["rows"])
    missing = [job for job in JOBS if job not in set(rows["job"])]
    if missing:
        raise InputError(f"{path}: no row of {', '.join(missing)}; make it anew with `make bench`")
    return {**found, "rows": rows.astype({"peer": float, "ours": float, "ratio": float})}


def training(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a rung and vocabulary: speed, processor time, memory of both, and their ratios.

    Columns: rung, vocabulary, batch, threads, workers, peer_precision, precision, gmacs (a pair), and
    (peer_, our_, ratio_) of speed (samples/s), cpu (ms a sample), memory (MiB, peak of the training
    process) and whole (MiB, of it and its children, without mapped files).

    Raises:
        InputError: a case is not worded as the bench words it, or one of its four rows is missing.
    """
    found = _parsed(rows, "train_step", STEP)
    names = ("speed", *SUFFIXES.values())
    found["measure"] = found["what"].map(SUFFIXES).fillna("speed")
    keys = ["rung", "vocabulary", "batch", "threads", "workers", "peer_precision", "precision"]
    wide = found.pivot(index=keys, columns="measure", values=["peer", "ours", "ratio"])
    sides = {"peer": "peer", "ours": "our", "ratio": "ratio"}
    wide.columns = pd.Index([f"{sides[at[0]]}_{at[1]}" for at in wide.columns])
    wanted = [f"{side}_{name}" for side in ("peer", "our", "ratio") for name in names]
    if wide.reindex(columns=wanted).isna().any(axis=None):
        raise InputError(
            f"{BENCH}: train_step lacks a speed, processor time or memory; `make bench`"
        )
    table = wide.reset_index()
    for name in ("vocabulary", "batch", "threads", "workers"):
        table[name] = table[name].map(_integer)
    table["gmacs"] = [ladder.gmacs(ladder.rung(name)) for name in table["rung"]]
    return table.sort_values(["vocabulary", "gmacs"], ignore_index=True)


def products(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a rung: products alone and whole step (ms), their rate (GMAC/s), the share of the peak."""
    found = _parsed(rows, "matmul_share", SHARE)
    for name in ("products_ms", "gmac_per_s", "step_ms"):
        found[name] = [float(value.replace(",", "")) for value in found[name]]
    found["gmacs"] = [ladder.gmacs(ladder.rung(name)) for name in found["rung"]]
    columns = ["rung", "precision", "products_ms", "gmac_per_s", "step_ms", "share", "gmacs"]
    return found.rename(columns={"ours": "share"})[columns].sort_values("gmacs", ignore_index=True)


def loss_at_scale(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a batch: megabytes and processor seconds of both; ``needed_mb`` where one was not tried.

    Raises:
        InputError: fewer than three batch sizes, too few for a curve.
    """
    found = _parsed(rows, "loss_memory", LOSS)
    found["batch"] = found["batch"].map(_integer)
    memory = found[found["unit"] == "MB"].set_index("batch")
    seconds = found[found["unit"] == "CPU s"].set_index("batch")
    if len(memory) < 3 or set(memory.index) != set(seconds.index):
        raise InputError(f"{BENCH}: loss_memory has too few batch sizes; make it with `make bench`")
    needed = [1e3 * _integer(gb) if isinstance(gb, str) else None for gb in memory["needed_gb"]]
    return pd.DataFrame(
        {
            "our_mb": memory["ours"], "peer_mb": memory["peer"],
            "needed_mb": pd.Series(needed, memory.index, float),
            "our_s": seconds["ours"], "peer_s": seconds["peer"],
        }
    ).sort_index().reset_index()  # fmt: skip


def loaders(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a feed and place: samples a second of both, and the ratios of speed, time and memory."""
    found = rows[(rows["job"] == "loader") & rows["ratio"].notna()].copy()
    parts = found["case"].str.removeprefix("open_clip's webdataset loader, ").str.split("; ", n=1)
    found["feed"] = parts.str[0]
    found["measure"] = parts.str[1].map(SUFFIXES).fillna("speed")
    wide = found.pivot(index="feed", columns="measure", values="ratio")
    wide = wide.reindex(columns=["speed", "cpu", "memory"])
    speed = found[found["measure"] == "speed"].set_index("feed")
    if not len(speed) or wide["speed"].isna().any():
        raise InputError(f"{BENCH}: the rows of loader have no speed; make it with `make bench`")
    order = list(dict.fromkeys(found["feed"]))
    table = pd.DataFrame({"peer": speed["peer"], "ours": speed["ours"], **dict(wide.items())})
    return table.loc[order].rename_axis("feed").reset_index()


def decoded_once(rows: pd.DataFrame) -> float:
    """Pairs a second of the decoding that the icon feed does once."""
    alone = rows[(rows["job"] == "loader") & rows["ratio"].isna()]
    if len(alone) != 1:
        raise InputError(
            f"{BENCH}: loader has {len(alone)} rows without a peer, not one; `make bench`"
        )
    return float(alone["ours"].iloc[0])


def _parsed(rows: pd.DataFrame, job: str, pattern: re.Pattern[str]) -> pd.DataFrame:
    own = rows[rows["job"] == job].reset_index(drop=True)
    matches = [pattern.fullmatch(case) for case in own["case"]]
    for case, match in zip(own["case"], matches):
        if match is None:
            raise InputError(f"{BENCH}: {job} has a case that this page cannot read: {case!r}")
    return pd.concat([own, pd.DataFrame([m.groupdict() for m in matches if m])], axis=1)


def _integer(text: str) -> int:
    return int(text.replace(",", ""))


# --------------------------------------------------------------------- our own ways beside each other


def speeds(folder: Path) -> pd.DataFrame:
    """``speed.csv``, every case of the page in it.

    Raises:
        InputError: the file, a column or a case is missing.
    """
    table = _read(folder / SPEED, SPEED_COLUMNS)
    for case in CASES:
        speed_of(table, case)
    return table


def speed_of(table: pd.DataFrame, case: Case) -> pd.Series:
    """The row of a case.

    Raises:
        InputError: the table has none, or two.
    """
    rows = table
    for name, value in case.settings().items():
        rows = rows[rows[name] == value]
    if len(rows) != 1:
        raise InputError(f"{SPEED}: {len(rows)} rows of {case}; make it anew with `{REMAKE_SPEED}`")
    return rows.iloc[0]


def side_by_side(table: pd.DataFrame, named: dict[str, Callable[[str], Case]],
                 rungs: Sequence[str]) -> pd.DataFrame:  # fmt: skip
    """Rows of named cases for some rungs, with ``times``: the speed over that of the first named."""
    found = []
    for rung in rungs:
        first = speed_of(table, next(iter(named.values()))(rung))["samples_per_s"]
        for name, case in named.items():
            row = speed_of(table, case(rung))
            times = row["samples_per_s"] / first
            found.append({"rung": rung, "what": name, "times": times, **row.drop("rung")})
    return pd.DataFrame(found)


#: Ways to use two cores, the first being one of them.
CORES: dict[str, Callable[[str], Case]] = {
    "one thread": lambda rung: Case(rung),
    "one run, two threads": lambda rung: Case(rung, threads=2),
    "one run, two processes": lambda rung: Case(rung, processes=2),
    "two runs, one thread each": lambda rung: Case(rung, runs=2),
}
#: Paths, attentions and precisions on one thread.
WAYS: dict[str, Callable[[str], Case]] = {
    "torch, fused, bf16": lambda rung: Case(rung, path="torch", attention="fused"),
    "torch, fused, fp32": lambda rung: Case(
        rung, path="torch", attention="fused", precision="fp32"
    ),
    "torch, plain, bf16": lambda rung: Case(rung, path="torch"),
    "torch, plain, fp32": lambda rung: Case(rung, path="torch", precision="fp32"),
    "torch, plain, bf16, compiled": lambda rung: Case(rung, path="torch", compile=True),
    "fast, fp32": lambda rung: Case(rung, precision="fp32"),
    "fast, bf16": lambda rung: Case(rung),
}


def profiles(folder: Path) -> pd.DataFrame:
    """``step_profile.csv``, every profile of the page in it.

    Raises:
        InputError: the file, a column or a profile is missing.
    """
    table = _read(folder / PROFILE, PROFILE_COLUMNS)
    there = set(zip(table["rung"], table["vocabulary"], table["path"], table["precision"]))
    missing = [asked for asked in PROFILES if asked not in there]
    if missing:
        raise InputError(f"{PROFILE}: no profile of {missing[0]}; make it with `{REMAKE_SPEED}`")
    return table


def parts_of(
    table: pd.DataFrame, rung: str, vocabulary: int, path: str, precision: str
) -> pd.Series:
    """Milliseconds by part, the gradient in kinds of operations, all else in phases."""
    of = (table["rung"] == rung) & (table["vocabulary"] == vocabulary)
    of &= (table["path"] == path) & (table["precision"] == precision)
    fine = table[of & ((table["level"] == "kind") | (table["part"] != "gradient"))]
    return fine.set_index("part")["ms"]


def all_parts(table: pd.DataFrame) -> pd.DataFrame:
    """Every profile beside each other in milliseconds, the dearest parts first, then their sum."""
    wide = pd.DataFrame(
        {
            f"{rung}, {words:,}, {path} {precision}": parts_of(table, rung, words, path, precision)
            for rung, words, path, precision in PROFILES
        }
    )
    wide = wide.loc[wide.max(axis=1).sort_values(ascending=False).index]
    wide.loc["whole step"] = wide.sum()
    return wide.round(2).rename_axis("milliseconds").reset_index()


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: not there; make it with `{REMAKE_SPEED}`")
    table = pd.read_csv(path)
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; make it with `{REMAKE_SPEED}`")
    return table
