"""The verb ``forecast``: predict runs, write the predictions to a ledger, score them later."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cliplib import InputError
from cliplib.laws import cli_tables, ledger, scoring
from cliplib.laws.cli import add_recipe_arguments, recipe_of
from cliplib.laws.forecast import FAR, forecast
from cliplib.laws.prediction import KINDS
from cliplib.laws.recipe import Recipe
from cliplib.laws.tables import with_error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``cliplib forecast``."""
    parser.epilog = (
        "examples:\n"
        "  python -m cliplib forecast book/data/published/figure1.csv --where dataset=imagenet1k \\\n"
        "      --where family=OpenCLIP --frontier bins --at 2.08e13\n"
        "  python -m cliplib forecast TABLE.csv --at 30000 --ledger ledger.jsonl --target 'run_id=mine'\n"
        "  python -m cliplib forecast --score ledger.jsonl --runs TABLE.csv --time finished"
    )
    add = parser.add_argument
    add("table", nargs="?", metavar="TABLE.csv", help="one row a run")
    add_recipe_arguments(parser)
    cli_tables.add_row_arguments(parser)
    add("--at", action="append", metavar="X[,X]", help="where to predict; a point N,D if x is N,D")
    add("--bootstrap", type=int, default=1000, metavar="B", help="0: t interval, no resampling")
    add("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add("--kind", default="new", choices=KINDS, help="a new run, or the law's mean")
    add("--level", type=float, default=0.95, help="of the interval (default: %(default)s)")
    add("--forms", metavar="LAW[:FRONTIER],...", help="also an interval over these forms")
    add("--far", type=float, default=FAR, help="warn this many times beyond the runs")
    add("--ledger", type=Path, metavar="FILE", help="append the forecasts to this file")
    add("--target", metavar="TEXT", help="the run: a pattern of run_id, or COLUMN=VALUE,...")
    add("--score", type=Path, metavar="LEDGER", help="score a ledger instead")
    add("--runs", type=Path, metavar="TABLE.csv", help="with --score: runs, or a folder of records")
    add("--time", metavar="COLUMN", help="with --score: when a run started (default: finished)")


def run(args: argparse.Namespace) -> None:
    """Forecast, or score. InputError says what is missing or wrong."""
    if args.score is not None:
        _score(args)
        return
    if args.table is None or not args.at:
        raise InputError("a forecast needs TABLE.csv and --at; to score a ledger give --score")
    if not 0 < args.level < 1:
        raise InputError(f"--level {args.level:g}: expected a number between 0 and 1")
    if (args.ledger is None) != (args.target is None):
        raise InputError("--ledger and --target go together: a forecast names the run it is for")
    recipe = recipe_of(args)
    made = forecast(
        cli_tables.rows(args),
        recipe,
        cli_tables.points("--at", args.at, len(cli_tables.names(args.x))),
        level=args.level,
        n=args.bootstrap,
        seed=args.seed,
        kind=args.kind,
        forms=_forms(args.forms, recipe),
        far=args.far,
    )
    entries = ledger.append(args.ledger, made, _target(args.target)) if args.ledger else []
    if args.json:
        print(json.dumps(made.to_dict() | {"entries": entries}, indent=2))
        return
    print(made.to_markdown())
    if entries:
        ids = ", ".join(entry["id"] for entry in entries)
        print(f"- written to {args.ledger}: {ids}; publish the last id, it vouches for all before")


def _forms(text: str | None, main: Recipe) -> list[Recipe]:
    """Recipes of LAW or LAW:FRONTIER, on the columns of the main one."""
    forms = []
    for name in cli_tables.names(text) if text else []:
        law, _, how = name.partition(":")
        forms.append(replace(main, law=law, how=how or "all", options={}))
    return forms


def _target(text: str) -> str | dict[str, str]:
    """COLUMN=VALUE,... as a mapping, anything else as it is."""
    if "=" not in text:
        return text
    parts = [part.partition("=") for part in text.split(",")]
    if not all(column and equals and value for column, equals, value in parts):
        raise InputError(f"--target {text}: expected COLUMN=VALUE[,COLUMN=VALUE] or a run_id")
    return {column.strip(): value.strip() for column, _, value in parts}


# ------------------------------------------------------------------------------------------- scoring


def _score(args: argparse.Namespace) -> None:
    if args.runs is None:
        raise InputError("--score needs --runs: a table of runs, or a folder of their records")
    entries = ledger.read(args.score)
    if not entries:
        raise InputError(f"{args.score} holds no forecasts")
    columns = {name for entry in entries for name in (entry["y"], *entry["x"])}
    runs = _numeric(_runs(args.runs), columns)
    if args.time is not None and args.time not in runs.columns:
        raise InputError(f"no column {args.time} in {args.runs}; it has {', '.join(runs.columns)}")
    found = scoring.score(entries, runs, args.time or "finished")
    print(json.dumps(found.to_dict(), indent=2) if args.json else found.to_markdown())


def _runs(path: Path) -> pd.DataFrame:
    """A table of runs from a CSV file, or from the records in a folder of runs."""
    if path.is_dir():
        return with_error(_recorded(path))
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        return with_error(pd.read_csv(path, dtype=str))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable CSV table: {str(error).strip()}") from error


def _recorded(folder: Path) -> pd.DataFrame:
    """Metrics of every finished run with the time at which its training finished."""
    from cliplib.collect import collect
    from cliplib.records import read_record

    table = collect(folder)
    if table.empty:
        raise InputError(f"{folder} holds no finished run")
    finished = {
        run: read_record(folder / run / "train.json")["finished"] for run in set(table.run_id)
    }
    return table.assign(finished=table["run_id"].map(finished))


def _numeric(runs: pd.DataFrame, columns: set[str]) -> pd.DataFrame:
    """The named columns, where present, as numbers; what is no number becomes missing."""
    present: dict[str, Any] = {
        name: pd.to_numeric(runs[name], errors="coerce") for name in columns if name in runs.columns
    }
    return runs.assign(**present)
