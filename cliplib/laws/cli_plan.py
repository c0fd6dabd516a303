"""The verb ``plan``: which runs to make for some hours, or how to split compute between N and D."""

import argparse
import json
from pathlib import Path

import pandas as pd

from cliplib import InputError
from cliplib.laws import cli_tables
from cliplib.laws.allocation import Allocation, optimal_allocation
from cliplib.laws.cli import add_recipe_arguments, recipe_of
from cliplib.laws.compare import check_columns
from cliplib.laws.inclusion import MAX_ERROR, include
from cliplib.laws.plan import REPEATS, SAMPLES, SURE, Belief, Plan, candidates, plan, rates
from cliplib.laws.uncertainty import bootstrap

HOURS = {"min": 1 / 60, "h": 1.0, "d": 24.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``cliplib plan``."""
    parser.epilog = (
        "examples:\n"
        "  python -m cliplib plan book/data/runs.csv --budget 6h\n"
        "  python -m cliplib plan book/data/published/figure1.csv --law nd_multiplicative \\\n"
        "      --x gmacs_per_sample,samples_seen --where dataset=imagenet1k \\\n"
        "      --without data=LAION-80M --at 1e12 --flops-per 1"
    )
    add = parser.add_argument
    add("table", metavar="TABLE.csv", help="runs with their speed, or with N, D and loss")
    add_recipe_arguments(parser)
    parser.set_defaults(x="compute_gmac")
    cli_tables.add_row_arguments(parser)
    add("--seed", type=int, default=0, help="of simulation or bootstrap (default: %(default)s)")
    runs = parser.add_argument_group("which runs next")
    runs.add_argument("--budget", metavar="TIME", help="to spend: 45min, 6h, 2d")
    runs.add_argument("--task", default="phosphor", help="(default: %(default)s)")
    runs.add_argument("--metric", default="accuracy_20_way", help="(default: %(default)s)")
    runs.add_argument("--processor", metavar="TEXT", help="use speeds measured on it")
    samples = ",".join(map(str, SAMPLES))
    runs.add_argument(
        "--samples", default=samples, metavar="LOW,HIGH", help="samples a run may see"
    )
    runs.add_argument("--repeats", type=int, default=REPEATS, help="seeds of one run at most")
    runs.add_argument(
        "--sure", type=float, default=SURE, help="of inclusion, at least (default: %(default)s)"
    )
    runs.add_argument("--fresh", action="store_true", help="as if no run were there yet")
    split = parser.add_argument_group("how to split compute between N and D")
    split.add_argument("--at", action="append", metavar="C[,C]", help="compute")
    split.add_argument("--flops-per", type=float, default=6.0, help="k of C = k N D")
    split.add_argument("--unique", type=float, help="unique samples, for laws that count them")
    split.add_argument("--bootstrap", type=int, default=0, metavar="B", help="for intervals")


def run(args: argparse.Namespace) -> None:
    """Plan, and print tables. InputError says what is missing or wrong."""
    if (args.budget is None) == (args.at is None):
        raise InputError("give --budget (which runs next) or --at (how to split compute), not both")
    found = _allocation(args) if args.at else _plan(args)
    print(json.dumps(found.to_dict(), indent=2) if args.json else found.to_markdown())


def _allocation(args: argparse.Namespace) -> Allocation:
    recipe, table = recipe_of(args), cli_tables.rows(args)
    draws = bootstrap(recipe, table, args.bootstrap, args.seed) if args.bootstrap else None
    return optimal_allocation(
        recipe.fit(table),
        cli_tables.points("--at", args.at, 1),
        args.flops_per,
        draws,
        unique=args.unique,
    )


def _plan(args: argparse.Namespace) -> Plan:
    hours = budget(args.budget)
    low, *rest = cli_tables.numbers("--samples", args.samples)
    if len(rest) != 1:
        raise InputError(f"--samples {args.samples}: expected LOW,HIGH")
    if not (0 < args.sure < 1 and args.repeats >= 1):
        raise InputError("--sure is a number between 0 and 1, --repeats 1 or more")
    table = _measured(args)
    included = table[_included(table, args.y)]
    if len(included) < 3:
        raise InputError(
            f"{len(included)} of {len(table)} runs pass the inclusion rule; a plan needs 3 to know "
            "the slope and the scatter: choose another --task and --metric"
        )
    believed = Belief.of(recipe_of(args).fit(included))
    offered = candidates(rates(table, args.processor), (low, rest[0]))
    existing = [] if args.fresh else included[args.x].tolist()
    return plan(believed, offered, hours, existing, args.repeats, sure=args.sure, seed=args.seed)


def budget(text: str) -> float:
    """Hours of a time such as 45min, 6h or 2d.

    >>> budget("45min"), budget("2d")
    (0.75, 48.0)
    """
    for unit, hours in HOURS.items():
        number = text.removesuffix(unit)
        if number != text:
            return cli_tables.numbers("--budget", number)[0] * hours
    raise InputError(f"--budget {text}: expected a number with a unit, one of {', '.join(HOURS)}")


def _measured(args: argparse.Namespace) -> pd.DataFrame:
    """One row a run: x, error, rung and speed. A long table is cut to one task and metric.

    A study's runs on part of the data answer other questions, so only those on all are taken,
    unless --where says otherwise.
    """
    header = cli_tables.header(Path(args.table))
    where = list(args.where)
    if {"task", "metric", "value"} <= set(header) and args.y not in header:
        where += [f"task={args.task}", f"metric={args.metric}"]
    for column in ("data_scale", "corpus"):
        if column in header and not any(w.startswith(f"{column}=") for w in where):
            where.append(f"{column}=all")
    chosen = argparse.Namespace(
        table=args.table,
        x=args.x,
        y=args.y,
        where=where,
        without=args.without,
        drop_largest_loss=args.drop_largest_loss,
    )
    table = cli_tables.rows(chosen)
    check_columns(table, [args.x, args.y, "rung", "gmacs_per_pair", "samples_per_s"])
    wanted = {"gmacs_per_pair", "samples_per_s", "chance", "se"} & set(table.columns)
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in wanted})


def _included(table: pd.DataFrame, y: str) -> pd.Series:
    """The inclusion rule, or its limit on the error where chance and se are not known."""
    if not {"chance", "se"} <= set(table.columns):
        return table[y] <= MAX_ERROR
    loss = table["metric"] == "infonce" if "metric" in table else pd.Series(False, table.index)
    se, chance = table["se"] / table["chance"].where(loss, 1.0), table["chance"].mask(loss, 0.0)
    verdict = include(table[y].clip(0, 1), chance, se)
    return pd.Series(verdict["included"].to_numpy(), table.index)
