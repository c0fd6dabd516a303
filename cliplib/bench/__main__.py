"""Run jobs, print a table, write JSON: ``python -m cliplib.bench [JOB ...] [--out FILE]``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is there: one thread, for us and for peers

from cliplib import InputError  # noqa: E402
from cliplib.bench.measure import Row, all_jobs, commit, machine  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the jobs asked for, or all; returns 1 if one failed, 2 for an unknown one."""
    parser = argparse.ArgumentParser(
        prog="cliplib.bench",
        description="Measure cliplib beside what others would run.",
        epilog="example: python -m cliplib.bench fit_global --out bench.json",
    )
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"{', '.join(all_jobs())} (all)")
    parser.add_argument("--out", type=Path, help="write the rows here as JSON")
    args = parser.parse_args(arguments)
    try:
        rows, failed = run(args.jobs)
    except InputError as error:
        print(f"cliplib.bench: {error}", file=sys.stderr)
        return 2
    if args.out and rows:
        write(args.out, rows)
    return 1 if failed else 0


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the report; rows that are there of jobs that were not run now stay, as they were made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    new = report(rows)
    made_now = {row.job for row in rows}
    new["rows"] = [row for row in before if row["job"] not in made_now] + new["rows"]
    path.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")


def run(names: Sequence[str] = ()) -> tuple[list[Row], list[str]]:
    """The rows of these jobs (none: all), printed as they come, and the jobs that failed."""
    jobs = all_jobs()
    unknown = [name for name in names if name not in jobs]
    if unknown:
        raise InputError(f"unknown job '{unknown[0]}'; known: {', '.join(jobs)}")
    rows: list[Row] = []
    failed = []
    for name in names or jobs:
        try:
            for row in jobs[name]():
                print(line(row), flush=True)
                rows.append(row)
        except Exception as error:  # a job may fail in any way; the others still run
            failed.append(name)
            print(f"{name}: failed: {type(error).__name__}: {error}", file=sys.stderr)
    return rows, failed


def line(row: Row) -> str:
    """A row for people."""
    peer = "-" if row.peer is None else f"{row.peer:.4g}"
    ratio = "" if row.ratio is None else f"{row.ratio:.4g} times"
    return f"{row.job:20} peer {peer:>9}  ours {row.ours:>9.4g} {row.unit:9} {ratio:13} {row.case}"


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """What is written: machine, commit, date, rows; each row with the commit and date it is of."""
    when = {"commit": commit(), "date": date.today().isoformat()}
    return {"machine": machine(), **when, "rows": [{**asdict(row), **when} for row in rows]}


if __name__ == "__main__":
    sys.exit(main())
