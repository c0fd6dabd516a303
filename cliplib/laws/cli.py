"""The verbs ``fit`` (a law to a table of runs) and ``paper`` (its exponents, printed and ours)."""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.forms import LAWS
from cliplib.laws.frontier import HOW
from cliplib.laws.inputs import distinct, positive
from cliplib.laws.paper import compare_alphas, fit_paper
from cliplib.laws.recipe import Recipe
from cliplib.laws.report import FitReport
from cliplib.laws.uncertainty import bootstrap

FRACTIONS = ("error", "e")  # columns of these names are fractions; a loss may exceed 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``cliplib fit``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "example:\n  python -m cliplib fit book/data/published/figure1.csv --frontier bins \\\n"
        "      --where dataset=imagenet1k --where family=OpenCLIP --bootstrap 1000"
    )
    add = parser.add_argument
    add("table", metavar="TABLE.csv", help="one row a run")
    add("--x", default="compute", help="column of compute, any unit (default: %(default)s)")
    add("--y", default="error", help="column of error, a fraction (default: %(default)s)")
    add("--law", default="power", help=f"{', '.join(sorted(LAWS))} (default: %(default)s)")
    add("--frontier", default="all", help=f"{', '.join(HOW)} (default: %(default)s)")
    add("--chance", type=float, help="curved law: the metric of guessing (default: 0)")
    add("--takeoff", help="curved law: a number, or 'free' to fit it (default: 1)")
    add("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep these rows")
    add("--bootstrap", type=int, default=0, metavar="B", help="resample the runs B times")
    add("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add("--strata", metavar="COLUMN", help="resample within its groups")
    add("--cluster", metavar="COLUMN", help="resample its groups whole")
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Fit, and print a report. InputError says which column, row and why."""
    recipe = Recipe(args.law, args.frontier, args.x, args.y, _options(args))
    runs = read_runs(Path(args.table), args.x, args.y, args.where)
    fitted = recipe.fit(runs)
    draws = None
    if args.bootstrap:
        draws = bootstrap(recipe, runs, args.bootstrap, args.seed, args.strata, args.cluster)
    report = FitReport(
        fitted,
        n_runs=len(runs),
        how=args.frontier,
        x=args.x,
        y=args.y,
        intervals=draws.ci() if draws else {},
        draws=draws,
    )
    print(json.dumps(report.to_dict(), indent=2) if args.json else report.to_markdown())


def _options(args: argparse.Namespace) -> dict[str, float | None]:
    """Constants of the law that the user gave."""
    given: dict[str, float | None] = {}
    if args.chance is not None:
        given["chance"] = args.chance
    if args.takeoff is not None:
        given["takeoff"] = None if args.takeoff == "free" else _number("--takeoff", args.takeoff)
    if given and args.law != "curved":
        raise InputError(f"--{next(iter(given))} is for --law curved, not for {args.law}")
    return given


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name} {text}: expected a number or 'free'") from None


def read_runs(path: Path, x: str, y: str, where: list[str] | None = None) -> pd.DataFrame:
    """The table's rows that ``where`` keeps, with x and y as positive numbers.

    InputError: no such file, not a CSV, a missing column, no rows left, or a value of x or y
    that is missing, not a number, not positive, or in percent.
    """
    table = _read_csv(path)
    for column in (x, y):
        if column not in table.columns:
            raise InputError(f"no column {column} in {path}; it has {', '.join(table.columns)}")
    for condition in where or []:
        table = _keep(table, condition, path)
    lines = [f"on line {_line(i)}" for i in table.index]
    numbers = {name: positive(_numbers(table[name]), name, lines) for name in (x, y)}
    distinct(numbers[x], x)
    table = table.assign(**numbers)
    if y.lower() in FRACTIONS:
        _refuse_percent(table[y])
    return table


def _line(index: int) -> int:
    """The line of the file, as a person counts: the header is line 1."""
    return index + 2


def _refuse_percent(errors: pd.Series) -> None:
    high = errors[errors > 1]
    if not high.empty:
        raise InputError(
            f"column {errors.name}, row on line {_line(high.index[0])}: {high.iloc[0]:g} is above "
            "1; give errors as fractions, not in percent"
        )


def _read_csv(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        return pd.read_csv(path, dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable CSV table: {str(error).strip()}") from error


def _keep(table: pd.DataFrame, condition: str, path: Path) -> pd.DataFrame:
    column, equals, value = condition.partition("=")
    if not equals or column not in table.columns:
        raise InputError(
            f"--where {condition}: expected COLUMN=VALUE with a column of {path}: "
            f"{', '.join(table.columns)}"
        )
    kept = table[table[column] == value]
    if kept.empty:
        seen = ", ".join(map(str, table[column].dropna().unique()[:8]))
        raise InputError(f"--where {condition} leaves no rows; {column} has {seen}")
    return kept


def _numbers(column: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce")
    odd = numbers.isna() & column.notna()
    if odd.any():
        raise InputError(
            f"column {column.name}, row on line {_line(column.index[odd][0])}: "
            f"'{column[odd].iloc[0]}' is not a number"
        )
    return numbers.to_numpy(dtype=float)


def add_paper_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``cliplib paper``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "example:\n  python -m cliplib paper"
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_paper(args: argparse.Namespace) -> None:
    """Print the paper's eight exponents as printed, beside ours from its published figures."""
    from cliplib import published

    table = compare_alphas(published.paper_alphas(), fit_paper(published.figure1()))
    if getattr(args, "json", False):
        print(table.to_json(orient="records", indent=2))
        return
    formats = {"printed": "{:.2f}".format, "ours": "{:.4f}".format, "difference": "{:+.4f}".format}
    print(table.to_string(index=False, formatters=formats))
    print("\nThe paper prints two decimals: a difference up to 0.005 is rounding.")
