"""What the verbs forecast, compare and plan share: which rows, which law, which numbers."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.cli import read_runs
from cliplib.laws.inputs import Array, positive
from cliplib.laws.tables import with_error


def add_row_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that the verbs share besides those of `cliplib.laws.cli.add_recipe_arguments`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--without", action="append", default=[], metavar="COLUMN=VALUE", help="drop these rows")
    add("--json", action="store_true", help="print JSON")


def rows(args: argparse.Namespace) -> pd.DataFrame:
    """The rows that --where keeps and --without leaves, with x and y as positive numbers.

    A long table of metrics (a study's runs.csv) gets its ``error`` from one metric of one task, or
    of every task where the tasks are compared. --drop-largest-loss leaves out rows once, before
    any resampling. InputError: what `read_runs` refuses, several metrics, or nothing left.
    """
    path, x = Path(args.table), names(args.x)
    columns = header(path)
    long = args.y == "error" and "error" not in columns and {"metric", "value"} <= set(columns)
    table = dropped(read_runs(path, x, x[0] if long else args.y, args.where), args.without)
    if long:
        _one_response(table, [name for name in ("task", "metric") if name != _tasks(args)])
        table = with_error(table)
        lines = [f"on line {i + 2}" for i in table.index]
        table = table.assign(error=positive(table["error"], "error", lines))
    count = getattr(args, "drop_largest_loss", 0)
    if not 0 <= count < len(table):
        raise InputError(f"--drop-largest-loss {count}: there are {len(table)} runs")
    return table.drop(table[args.y].sort_values(ascending=False, kind="stable").index[:count])


def header(path: Path) -> list[str]:
    """The names of a table's columns. InputError: no such file."""
    if not path.is_file():
        raise InputError(f"no file {path}")
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip().split(",")


def _tasks(args: argparse.Namespace) -> str | None:
    """The column of tasks, where they are compared with each other."""
    return getattr(args, "task", None)


def _one_response(table: pd.DataFrame, fixed: Sequence[str]) -> None:
    for name in fixed:
        if name in table.columns and table[name].nunique() > 1:
            seen = ", ".join(map(str, table[name].unique()[:6]))
            raise InputError(
                f"the rows hold several values of {name} ({seen}, ...): add --where {name}=VALUE"
            )


def dropped(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The table without the rows of each COLUMN=VALUE. InputError: an unknown column or value."""
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or column not in table.columns:
            raise InputError(
                f"--without {condition}: expected COLUMN=VALUE with a column of "
                f"{', '.join(table.columns)}"
            )
        gone = table[column].astype(str) == value
        if not gone.any():
            seen = ", ".join(map(str, table[column].dropna().unique()[:8]))
            raise InputError(f"--without {condition} drops no row; {column} has {seen}")
        if gone.all():
            raise InputError(f"--without {condition} leaves no rows")
        table = table[~gone]
    return table


def names(text: str) -> list[str]:
    """Comma-separated names. InputError: an empty one."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise InputError(f"'{text}': expected names separated by commas")
    return found


def numbers(option: str, text: str) -> list[float]:
    """Comma-separated positive numbers. InputError names the option and the bad one."""
    found = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = np.nan
        if not 0 < value < np.inf:
            raise InputError(f"{option} {text}: '{part}' is not a positive number")
        found.append(value)
    return found


def points(option: str, given: Sequence[str], columns: int) -> Array:
    """Values of --at: for one variable all of them, for several one point an option, (m, k)."""
    parsed = [numbers(option, text) for text in given]
    if columns == 1:
        return np.array([value for point in parsed for value in point])
    for text, point in zip(given, parsed, strict=True):
        if len(point) != columns:
            raise InputError(
                f"{option} {text}: one point of {columns} variables needs {columns} numbers; "
                f"repeat {option} for more points"
            )
    return np.array(parsed)
