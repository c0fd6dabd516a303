"""The verb ``models``: list the models of the paper's page, or count them against what was published."""

from __future__ import annotations

import argparse
import json

import pandas as pd

from cliplib.laws.tables import markdown, records
from cliplib.pretrained.registry import Entry, entries, published, published_size

SIZES = frozenset({"params_m", "published_params_m", "gmacs", "published_gmacs"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib models``."""
    parser.epilog = "example: python -m cliplib models --check"
    parser.add_argument(
        "--check",
        action="store_true",
        help="build each without memory; compare parameters and GMACs with the published ones",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the registry, or its check; 1 if a model is not as it was published."""
    if not args.check:
        _print(listing(), args.json)
        return 0
    from cliplib.pretrained.check import check

    table = check()
    _print(table, args.json)
    return 0 if table["agrees"].all() else 1


def listing() -> pd.DataFrame:
    """One row a model: name, loader, params_m, gmacs, imagenet1k_top1 (as published), weights."""
    return pd.DataFrame([_line(one) for one in entries()])


def _line(one: Entry) -> dict[str, object]:
    params, gmacs = published_size(one)
    scores = published(one)
    top1 = scores.query("dataset == 'imagenet1k' and metric == 'top1'")["value"]
    return {
        "name": one.name, "loader": one.loader, "params_m": params, "gmacs": gmacs,
        "imagenet1k_top1": top1.iloc[0] if len(top1) else float("nan"),
        "weights": f"{one.hub}/{one.file}" if one.file else one.hub,
    }  # fmt: skip


def _print(table: pd.DataFrame, as_json: bool) -> None:
    """Sizes to two decimals, as they were published; accuracies to four digits."""
    if as_json:
        print(json.dumps(records(table), indent=1))
        return
    shown = table.copy()
    for column in SIZES.intersection(table.columns):
        shown[column] = table[column].map(_two_decimals)
    print(markdown(shown))


def _two_decimals(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2f}"
