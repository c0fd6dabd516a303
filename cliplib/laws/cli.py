"""The verbs ``fit`` (a law to a table of runs) and ``paper`` (its exponents, printed and ours)."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.fitting import Fit
from cliplib.laws.frontier import HOW
from cliplib.laws.inputs import distinct, positive
from cliplib.laws.law import LAWS, law
from cliplib.laws.loss import KNOWN
from cliplib.laws.paper import compare_alphas, fit_paper
from cliplib.laws.profile import Profile, profile
from cliplib.laws.recipe import Recipe
from cliplib.laws.report import STATEMENTS, FitReport
from cliplib.laws.sensitivity import sensitivity
from cliplib.laws.uncertainty import bootstrap

FRACTIONS = ("error", "e")  # columns of these names are fractions; a loss may exceed 1
OFFSETS = ("a", "E", "c", "R")  # seldom identified: reported with a profile interval or not at all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``cliplib fit``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "examples:\n  python -m cliplib fit book/data/published/figure1.csv --frontier bins \\\n"
        "      --where dataset=imagenet1k --where family=OpenCLIP --bootstrap 1000\n"
        "  python -m cliplib fit runs.csv --law chinchilla --x N,D --y loss \\\n"
        "      --loss huber:1e-3 --drop-largest-loss 5 --bootstrap 4000 --json"
    )
    add = parser.add_argument
    add("table", metavar="TABLE.csv", help="one row a run")
    add_recipe_arguments(parser)
    add("--bootstrap", type=int, default=0, metavar="B", help="resample the runs B times")
    add("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add("--strata", metavar="COLUMN", help="resample within its groups")
    add("--cluster", metavar="COLUMN", help="resample its groups whole")
    add("--sensitivity", metavar="OVER", help="refit under other choices: delta, dropped, run, ...")
    add("--state", action="append", default=[], metavar="KEY=TEXT",
        help=f"say what the report cannot know: {', '.join(STATEMENTS)}")  # fmt: skip
    add("--json", action="store_true", help="print JSON")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that choose the runs, the law, the frontier and the loss."""
    add = parser.add_argument
    add(
        "--x",
        default="compute",
        help="column of compute, any unit; several as N,D (default: %(default)s)",
    )
    add(
        "--y",
        default="error",
        help="column of error, a fraction, or of a loss (default: %(default)s)",
    )
    add("--law", default="power", help=f"{', '.join(sorted(LAWS))} (default: %(default)s)")
    add("--frontier", default="all", help=f"{', '.join(HOW)} (default: %(default)s)")
    add("--bins", type=int, default=5, help="frontier bins: how many (default: %(default)s)")
    add("--tau", type=float, default=0.1, help="frontier quantile: which (default: %(default)s)")
    add("--loss", default="l2", help=f"{KNOWN}, on ln of y (default: %(default)s)")
    add("--drop-largest-loss", type=int, default=0, metavar="K", help="leave out the K largest y")
    add("--chance", type=float, help="curved law: the metric of guessing (default: 0)")
    add("--takeoff", help="curved law: a number, or 'free' to fit it (default: 1)")
    add("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep these rows")


def run(args: argparse.Namespace) -> None:
    """Fit, and print a report. InputError says which column, row and why."""
    recipe = recipe_of(args)
    statements = _statements(args.state)
    table = read_runs(Path(args.table), recipe.x, args.y, args.where)
    runs, excluded = _without_largest(table, args.y, args.drop_largest_loss)
    fitted = recipe.fit(runs)
    draws = None
    if args.bootstrap:
        draws = bootstrap(recipe, runs, args.bootstrap, args.seed, args.strata, args.cluster)
    over = args.sensitivity or ("delta" if fitted.loss.startswith("huber") else None)
    report = FitReport(
        fitted,
        n_runs=len(runs),
        how=args.frontier,
        x=recipe.x,
        y=args.y,
        excluded=excluded,
        intervals=draws.ci() if draws else {},
        draws=draws,
        profiles=_offsets(fitted),
        sensitivity=sensitivity(recipe, runs, over) if over else None,
        statements=statements,
    )
    print(report.to_json() if args.json else report.to_markdown())


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that the arguments ask for. InputError where they do not fit together."""
    options = _options(args)
    columns = tuple(name.strip() for name in args.x.split(","))
    variables = law(args.law, **options).variables
    if len(columns) != len(variables):
        raise InputError(
            f"law {args.law} needs {len(variables)} column{'s' if len(variables) > 1 else ''} "
            f"({','.join(variables)}): --x {args.x} names {len(columns)}"
        )
    x = columns[0] if len(columns) == 1 else columns
    return Recipe(
        args.law, args.frontier, x, args.y, options,
        loss=args.loss, nbins=args.bins, tau=args.tau,
    )  # fmt: skip


def _statements(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in STATEMENTS:
            raise InputError(
                f"--state {text}: expected KEY=TEXT, KEY one of {', '.join(STATEMENTS)}"
            )
        found[key] = value
    return found


def _without_largest(
    runs: pd.DataFrame, y: str, count: int
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The runs but the ``count`` largest y, left out once, before any resampling; and which."""
    if not 0 <= count < len(runs):
        raise InputError(f"--drop-largest-loss {count}: there are {len(runs)} runs")
    largest = runs[y].sort_values(ascending=False, kind="stable").index[:count]
    which = [(f"line {_line(row)}", f"one of the {count} largest {y}") for row in largest]
    return runs.drop(index=largest), which


def _offsets(fitted: Fit) -> list[Profile]:
    return [profile(fitted, name) for name in fitted.params if name in OFFSETS]


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


def read_runs(
    path: Path, x: str | Sequence[str], y: str, where: list[str] | None = None
) -> pd.DataFrame:
    """The table's rows that ``where`` keeps, with the columns x and y as positive numbers.

    InputError: no such file, not a CSV, a missing column, no rows left, or a value of x or y
    that is missing, not a number, not positive, or in percent.
    """
    table = _read_csv(path)
    columns = [x] if isinstance(x, str) else list(x)
    for column in (*columns, y):
        if column not in table.columns:
            raise InputError(f"no column {column} in {path}; it has {', '.join(table.columns)}")
    for condition in where or []:
        table = _keep(table, condition, path)
    lines = [f"on line {_line(i)}" for i in table.index]
    numbers = {name: positive(_numbers(table[name]), name, lines) for name in (*columns, y)}
    for name in columns:
        distinct(numbers[name], name)
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
