"""The verb ``compare``: slopes and levels of groups, one task or many, and where their laws meet."""

import argparse
import json
from typing import Any

import pandas as pd

from cliplib import InputError
from cliplib.laws import cli_tables
from cliplib.laws.compare import SCHEMES, check_columns, compare_slopes, matched
from cliplib.laws.crossover import crossover
from cliplib.laws.joint import mixed
from cliplib.laws.recipe import Recipe
from cliplib.laws.tasks import ADJUSTMENTS, AVERAGES, ERRORS, tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``cliplib compare``."""
    parser.epilog = (
        "examples:\n"
        "  python -m cliplib compare book/data/published/figure1.csv --by family \\\n"
        "      --where dataset=mscoco_captions --without data=LAION-80M\n"
        "  python -m cliplib compare book/data/published/figure1.csv --by family --task dataset \\\n"
        "      --where samples_seen_label=13B --without data=LAION-80M --match arch"
    )
    add = parser.add_argument
    add("table", metavar="TABLE.csv", help="one row a run, or a run and task")
    add("--x", default="compute", metavar="COLUMN", help="of compute (default: %(default)s)")
    add("--y", default="error", metavar="COLUMN", help="error or loss (default: %(default)s)")
    add("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep these rows")
    cli_tables.add_row_arguments(parser)
    add("--by", required=True, metavar="COLUMN", help="names the groups; the first is reference")
    add("--match", metavar="COLUMN[,COLUMN]", help="keep combinations that every group has")
    add("--level", type=float, default=0.95, help="of the intervals (default: %(default)s)")
    add("--seed", type=int, default=0, help="of shuffles and bootstrap (default: %(default)s)")
    add("--permutations", type=int, default=9999, metavar="P", help="shuffles; 0 for none")
    add("--scheme", default="residuals", choices=SCHEMES, help="what is shuffled")
    add("--crossover", type=int, metavar="B", help="also where two laws meet; B bootstrap samples")
    add("--task", metavar="COLUMN", help="one comparison a task, and one for all tasks together")
    add("--run", default="run_id", metavar="COLUMN", help="with --task: names the run")
    add("--exclude", default=",".join(AVERAGES), metavar="TASK,...", help="tasks left out")
    add("--adjust", default="bh,holm", metavar="HOW,...", help=f"of {', '.join(ADJUSTMENTS)}")
    add("--errors", default="classical", choices=ERRORS, help="with --task: of the slopes")


def run(args: argparse.Namespace) -> None:
    """Compare, and print tables. InputError says which column, group or task and why."""
    if not 0 < args.level < 1:
        raise InputError(f"--level {args.level:g}: expected a number between 0 and 1")
    if args.permutations < 0:
        raise InputError(f"--permutations {args.permutations}: expected 0 or more")
    table = cli_tables.rows(args)
    check_columns(table, [args.by])
    parts = _tasks(table, args) if args.task else _one(table, args)
    if args.json:
        print(json.dumps({name: part.to_dict() for name, part in parts.items()}, indent=2))
    else:
        print("\n\n".join(part.to_markdown() for part in parts.values()))


def _one(table: pd.DataFrame, args: argparse.Namespace) -> dict[str, Any]:
    match = cli_tables.names(args.match) if args.match else None
    parts: dict[str, Any] = {
        "slopes": compare_slopes(
            table, args.by, args.x, args.y, match, args.permutations, args.seed, args.scheme,
            args.level,
        )
    }  # fmt: skip
    if args.crossover is not None:
        kept = matched(table, args.by, match) if match else table
        recipe = Recipe(x=args.x, y=args.y)
        parts["crossover"] = crossover(kept, args.by, recipe, args.crossover, args.seed, args.level)
    return parts


def _tasks(table: pd.DataFrame, args: argparse.Namespace) -> dict[str, Any]:
    check_columns(table, [args.task, args.run])
    if args.match:
        table = matched(table, args.by, [args.task, *cli_tables.names(args.match)])
    exclude = args.exclude.split(",") if args.exclude else []
    adjust = cli_tables.names(args.adjust) if args.adjust else []
    shared: dict[str, Any] = {"x": args.x, "y": args.y, "task": args.task, "exclude": exclude}
    own = tasks(table, by=args.by, adjust=adjust, errors=args.errors, level=args.level, **shared)
    try:
        together = mixed(
            table, by=args.by, run=args.run, seed=args.seed, level=args.level, **shared
        )
    except InputError as error:  # the tasks stand on their own
        own.notes.append(f"no claim over all tasks: {error}")
        return {"tasks": own}
    return {"tasks": own, "together": together}
