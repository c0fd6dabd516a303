"""The verbs that work on one run: train it, evaluate a checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cliplib import InputError


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib train``."""
    parser.epilog = (
        "example: python -m cliplib train --config run.json --out runs/mine, or on four GPUs: "
        "torchrun --nproc-per-node 4 -m cliplib train --config run.json --out runs/mine"
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="a run as JSON: the fields of RunSpec"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the run's folder; an unfinished run goes on"
    )
    parser.add_argument("--data", type=Path, default=Path("data/icons"), help="the built corpus")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: by hardware")


def run_train(args: argparse.Namespace) -> int:
    """Train the run that a JSON file describes."""
    from cliplib.data import open_corpus
    from cliplib.ladder import RunSpec
    from cliplib.train import train

    try:
        fields = json.loads(args.config.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{args.config}: no readable JSON ({error})") from None
    train(RunSpec.from_dict(fields), open_corpus(args.data), args.out, precision=args.precision)
    return 0


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib evaluate``."""
    parser.epilog = (
        "example: python -m cliplib evaluate runs/NAME/checkpoint --out runs/NAME/eval.json"
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint folder, as training writes it")
    parser.add_argument("--data", type=Path, default=Path("data/icons"), help="the built corpus")
    parser.add_argument(
        "--out", type=Path, required=True, help="eval.json to write; ranks.npz goes beside it"
    )
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: by hardware")


def run_evaluate(args: argparse.Namespace) -> int:
    """Evaluate a checkpoint."""
    from cliplib.data import open_corpus
    from cliplib.evaluate import evaluate

    if args.out.name != "eval.json":
        raise InputError(
            f"--out {args.out}: must end in eval.json (ranks.npz is written beside it)"
        )
    name = args.checkpoint.resolve().parent.name
    evaluate(
        args.checkpoint, open_corpus(args.data), args.out.parent, name, precision=args.precision
    )
    return 0
