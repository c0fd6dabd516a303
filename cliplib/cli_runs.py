"""The verb that trains one run."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cliplib.train import TrainConfig

ICONS = "data/icons"


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib train``."""
    parser.epilog = (
        "example: python -m cliplib train --config run.json --out runs/mine, or on four GPUs: "
        "torchrun --nproc-per-node 4 -m cliplib train --config run.json --out runs/mine"
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="a run as JSON (see cliplib/train/config.py)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the run's folder; an unfinished run goes on"
    )
    parser.add_argument("--data", help="the built corpus (default: the config's, or data/icons)")
    parser.add_argument(
        "--shards", action="append", default=[], metavar="URL",
        help="webdataset shards in place of a corpus: {000..123}.tar, a folder, http, s3, pipe:",
    )  # fmt: skip
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: by hardware")
    parser.add_argument(
        "--profile", type=int, metavar="STEPS", help="print where the time of so many steps goes"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write tensorboard/ beside metrics.jsonl"
    )


def run_train(args: argparse.Namespace) -> int:
    """Train the run that a JSON file describes."""
    from cliplib.data import open_corpus
    from cliplib.train import TrainConfig, train

    config = _with_options(TrainConfig.read(args.config), args)
    data = config.settings.data
    corpus = None if data.shards else open_corpus(data.corpus or ICONS)
    train(config.run, corpus, args.out, settings=config.settings)
    return 0


def _with_options(config: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    """The configuration with what the command line says in place of what the file says."""
    settings = config.settings
    if args.shards:
        chosen = replace(settings.data, shards=tuple(args.shards), corpus=None)
        settings = replace(settings, data=chosen)
    if args.data:
        settings = replace(settings, data=replace(settings.data, corpus=args.data, shards=()))
    if args.precision:
        settings = replace(settings, engine=replace(settings.engine, precision=args.precision))
    watch = settings.instruments
    watch = replace(watch, tensorboard=watch.tensorboard or args.tensorboard)
    if args.profile is not None:
        watch = replace(watch, profile=args.profile)
    return replace(config, settings=replace(settings, instruments=watch))
