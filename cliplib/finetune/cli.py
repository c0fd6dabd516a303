"""The verb that fine-tunes a model: ``python -m cliplib finetune``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliplib import InputError
from cliplib.cli_evaluate import ICONS, add_model_arguments, open_asked
from cliplib.finetune.recipe import (
    DIRECT,
    ICON_TARGET,
    INTERMEDIATE,
    JOINT,
    STAGES,
    STANDARD_ERROR,
    JointRecipe,
    Recipe,
    Setting,
    settings_of,
)

if TYPE_CHECKING:
    from cliplib.pretrained.opened import Opened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib finetune``."""
    parser.epilog = (
        "examples: python -m cliplib finetune runs/NAME/checkpoint --out runs/NAME/finetune; a data "
        "set of your own with the splits train, val and test: python -m cliplib finetune --model "
        "ViT-B-32 --weights my.pt --task wds_cars --between wds_birds --out results"
    )
    add_model_arguments(parser, "training from scratch")
    _add_what(parser)
    _add_how(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for finetune.json, ranks and tuned models"
    )


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what").add_argument
    add(
        "--task", default=ICON_TARGET, metavar="NAME",
        help="a task of the corpus, or a data set in CLIP_benchmark's webdataset layout "
        "(default: %(default)s)",
    )  # fmt: skip
    add("--between", metavar="DIR", help="data set of stage intermediate, where --task is one")
    add("--stages", help=f"of {','.join(STAGES)} (default: all that the task allows)")
    add("--data", type=Path, default=ICONS, help="the built corpus")


def _add_how(parser: argparse.ArgumentParser) -> None:
    usual, joint = Recipe(), JointRecipe()
    add = parser.add_argument_group("how").add_argument
    add("--epochs", type=int, default=usual.epochs, help="on the task (default: %(default)s)")
    add("--batch-size", type=int, default=usual.batch_size, help="(default: %(default)s)")
    add("--lr", metavar="X,X", help="learning rates to choose from (default: by the tower's width)")
    add("--layer-decay", metavar="X,X", help="layer-wise decays to choose from, 1: none")
    add(
        "--between-epochs", type=int, metavar="N",
        help="on the intermediate task (default: 4, one setting)",
    )  # fmt: skip
    add(
        "--iterations", type=int, default=joint.iterations,
        help="of stage joint; the paper: 2000 (default: %(default)s)",
    )  # fmt: skip
    add("--joint-lr", type=float, metavar="X", help="of stage joint; the paper: 1e-5")
    add(
        "--tolerance", default=STANDARD_ERROR, metavar="X",
        help="what patching may cost the control: a share, or se for one standard error; the paper: "
        "0.01 (default: %(default)s)",
    )  # fmt: skip
    add("--seed", type=int, default=usual.seed, help="of order and shifts (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Fine-tune a model on a task of the corpus, or on a data set of any origin."""
    from cliplib.evaluate.suite import record_line

    lrs, decays = _numbers("--lr", args.lr), _numbers("--layer-decay", args.layer_decay)
    record = _finetuned(args, open_asked(args), lrs, decays)
    for row in record["metrics"]:
        if row["metric"].startswith("top1"):
            print(f"{row['tower']:<13} {record_line(row)}")
    return 0


def _finetuned(
    args: argparse.Namespace, opened: Opened, lrs: Sequence[float], decays: Sequence[float]
) -> dict[str, Any]:
    from cliplib.data import open_corpus
    from cliplib.evaluate.wds import read_splits
    from cliplib.finetune.icons import finetune_everything
    from cliplib.finetune.run import finetune, usual_between
    from cliplib.finetune.towers import tower_of, width_of

    width = width_of(tower_of(opened), opened)
    settings: tuple[Setting, ...] = settings_of(tuple(lrs), tuple(decays), width)
    recipe = Recipe(args.epochs, args.batch_size, settings, seed=args.seed)
    how: dict[str, Any] = {
        "recipe": recipe, "between_recipe": usual_between(width, recipe, args.between_epochs),
        "joint_recipe": JointRecipe(
            args.iterations, lr=args.joint_lr, tolerance=_tolerance(args.tolerance), seed=args.seed
        ),
    }  # fmt: skip
    if not _is_data_set(args.task):
        stages = _stages(args.stages, STAGES if opened.tokenize else (DIRECT, INTERMEDIATE))
        corpus = open_corpus(args.data)
        return finetune_everything(opened, corpus, args.out, target=args.task, stages=stages, **how)
    between = read_splits(args.between) if args.between else None
    stages = _stages(args.stages, (DIRECT, INTERMEDIATE) if between else (DIRECT,))
    if JOINT in stages:
        raise InputError(
            "--stages joint goes with a task of the corpus; leave it out with a folder"
        )
    return finetune(opened, read_splits(args.task), args.out, stages=stages, between=between, **how)


def _is_data_set(task: str) -> bool:
    return "/" in task or Path(task).is_dir()


def _stages(text: str | None, usual: Sequence[str]) -> tuple[str, ...]:
    if text is None:
        return tuple(usual)
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(option: str, text: str | None) -> list[float]:
    try:
        return [float(word) for word in (text or "").split(",") if word.strip()]
    except ValueError:
        raise InputError(f"{option} {text!r}: give numbers, by commas") from None


def _tolerance(text: str) -> float | str:
    return text if text == STANDARD_ERROR else _numbers("--tolerance", text)[0]
