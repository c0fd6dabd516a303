"""The verbs that test a model: evaluate (zero-shot, retrieval), probe, and export of the icon tasks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliplib import InputError

if TYPE_CHECKING:
    from cliplib.evaluate.blocks import Workers
    from cliplib.evaluate.tasks import Splits, Task
    from cliplib.pretrained.opened import Opened

ICONS = Path("data/icons")


# ------------------------------------------------------------------------------------ which model, who


def add_model_arguments(parser: argparse.ArgumentParser, random: str) -> None:
    """Which model: the same for every verb that opens one; ``random`` says what random weights are for."""
    add = parser.add_argument
    add("checkpoint", nargs="?", type=Path, help="a checkpoint folder, as training writes it")
    add = parser.add_argument_group("another model").add_argument
    add("--model", help="a name of open_clip's, timm:NAME, hf-hub:ORG/REPO, or of `cliplib models`")
    add("--weights", type=Path, help="a file with its weights, in place of a download")
    add("--pretrained", metavar="TAG", help="open_clip's name of weights to download")
    add("--random", action="store_true", help=f"random weights: {random}")
    add("--tokenizer", metavar="NAME", help="of another model (default: the model's own)")
    add("--image-px", type=int, help="another image size than the model's name says")
    add = parser.add_argument_group("on what").add_argument
    add("--precision", choices=("bf16", "fp32"), help="default: by hardware")
    add("--device", help="cpu, cuda, ... (default: a GPU if there is one)")


def _add_test_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how many images at once."""
    add_model_arguments(parser, "what guessing scores")
    parser.add_argument(
        "--batch-size", type=int, default=0, metavar="N",
        help="images in memory at once; changes no number (default: two blocks a thread)",
    )  # fmt: skip


def open_asked(args: argparse.Namespace) -> Opened:
    """The model that the arguments name.

    Raises:
        InputError: none or two are named, or it cannot be opened.
    """
    from cliplib.pretrained.opening import open_model

    if bool(args.checkpoint) == bool(args.model):
        raise InputError("name one model: a checkpoint folder, or --model NAME")
    return open_model(
        args.model or str(args.checkpoint), weights=args.weights, pretrained=args.pretrained,
        random=args.random, precision=args.precision, device=args.device, image_px=args.image_px,
        tokenizer=args.tokenizer,
    )  # fmt: skip


def _name(args: argparse.Namespace) -> str:
    """The name of the model in the record: a run's folder, or as it was asked for."""
    return args.model or args.checkpoint.resolve().parent.name


@contextmanager
def _workers(args: argparse.Namespace) -> Iterator[Workers]:
    """The processes that torchrun started, or this one alone."""
    from cliplib.evaluate.blocks import Workers
    from cliplib.train.world import World

    if args.batch_size < 0:
        raise InputError(
            f"--batch-size {args.batch_size}: give a number of images, or leave it out"
        )
    world = World.join(device=args.device and args.device.partition(":")[0])
    try:
        with world.watch():
            yield Workers(world, batch=args.batch_size)
    finally:
        world.leave()


def _folder(out: Path, name: str) -> Path:
    """The folder of a record whose file name is fixed, as other files go beside it.

    Raises:
        InputError: another file name.
    """
    if out.name != name:
        raise InputError(f"--out {out}: must end in {name} (ranks are written beside it)")
    return out.parent


# ----------------------------------------------------------------------------------------- evaluate


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib evaluate``."""
    parser.epilog = (
        "examples: python -m cliplib evaluate runs/NAME/checkpoint --out runs/NAME/eval.json; "
        "python -m cliplib evaluate --model ViT-B-32 --weights my.pt --task wds_imagenet1k "
        "--out results/eval.json; the same with torchrun --nproc-per-node 2 -m cliplib evaluate ..."
    )
    _add_test_arguments(parser)
    data = parser.add_argument_group("data")
    add = data.add_argument
    add("--data", type=Path, default=ICONS, help="the built corpus, where no --task is given")
    add(
        "--task", action="append", default=[], metavar="DIR",
        help="a data set in CLIP_benchmark's webdataset layout, a folder or an address; repeat it",
    )  # fmt: skip
    add("--split", default="test", help="of the data sets (default: test)")
    add("--templates", type=Path, metavar="FILE", help="prompts, a line each, with {c}")
    add("--class-names", type=Path, metavar="FILE", help="class names, a line each")
    parser.add_argument(
        "--out", type=Path, required=True, help="eval.json to write; ranks.npz goes beside it"
    )
    parser.add_argument("--json", action="store_true", help="print the record, not a table")


def run_evaluate(args: argparse.Namespace) -> int:
    """Evaluate a model on the icons, or on data sets of any origin."""
    folder = _folder(args.out, "eval.json")
    if not args.task and (args.templates or args.class_names or args.split != "test"):
        raise InputError("--split, --templates and --class-names belong to --task DIR")
    with _workers(args) as workers:
        tasks = _tasks(args)  # what is wrong with the data is said before a model is opened
        opened = open_asked(args)
        record = _evaluated(args, opened, tasks, folder, workers)
        if args.json:
            workers.tell(json.dumps(record, indent=1, sort_keys=True))
        else:
            _print_table(args, record, workers)
    return 0


def _tasks(args: argparse.Namespace) -> list[Task]:
    from cliplib.evaluate.wds import lines, read_task

    templates = lines(args.templates) if args.templates else None
    classes = lines(args.class_names) if args.class_names else None
    return [
        read_task(folder, args.split, templates=templates, classes=classes) for folder in args.task
    ]


def _evaluated(
    args: argparse.Namespace, opened: Opened, tasks: Sequence[Task], folder: Path, workers: Workers
) -> dict[str, Any]:
    from cliplib.data import open_corpus
    from cliplib.evaluate.icons import evaluate
    from cliplib.evaluate.suite import evaluate_tasks

    if tasks:
        return evaluate_tasks(opened, tasks, folder, _name(args), workers=workers)
    return evaluate(opened, open_corpus(args.data), folder, _name(args), workers=workers)


def _print_table(args: argparse.Namespace, record: dict[str, Any], workers: Workers) -> None:
    from cliplib.evaluate.suite import beside_published, record_line
    from cliplib.pretrained import registry

    for row in record["metrics"]:
        if "_covered_" not in row["metric"] and "_similarity_" not in row["metric"]:
            workers.tell(record_line(row))
    entry = registry.find(args.model) if args.model else None
    if entry is not None:
        beside = beside_published(record["metrics"], registry.published(entry))
        text = beside.round(4).to_string(index=False) if len(beside) else "none of these data sets"
        random = " (random weights: this shows the path, not the model)" if args.random else ""
        workers.tell(f"\nbeside what was published of {entry.name}{random}:\n{text}")


# -------------------------------------------------------------------------------------------- probe


def add_probe_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib probe``."""
    parser.epilog = (
        "example: python -m cliplib probe runs/NAME/checkpoint --out runs/NAME/probe.json; "
        "a data set of your own: --task DIR with the splits train, val and test"
    )
    _add_test_arguments(parser)
    data = parser.add_argument_group("data")
    add = data.add_argument
    add("--data", type=Path, default=ICONS, help="the built corpus, where no --task is given")
    add(
        "--task", action="append", default=[], metavar="DIR",
        help="a data set in CLIP_benchmark's webdataset layout, a folder or an address; repeat it",
    )  # fmt: skip
    add(
        "--val-share", type=float, default=0.2, metavar="X",
        help="share of train that is set aside where a data set has no val (default: %(default)g)",
    )  # fmt: skip
    add("--shots", default="10,25,full", help="images a class, by commas (default: %(default)s)")
    add("--draws", type=int, default=5, help="lots of few-shot images (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="probe.json to write; probe_ranks.npz goes beside it",
    )


def run_probe(args: argparse.Namespace) -> int:
    """Probe a model's image features."""
    from cliplib.evaluate.probe import probe_model
    from cliplib.evaluate.suite import record_line

    folder = _folder(args.out, "probe.json")
    shots = _shots(args.shots)
    if args.draws < 1:
        raise InputError(f"--draws {args.draws}: few-shot needs one draw or more")
    with _workers(args) as workers:
        tasks, data_hash = _probe_tasks(args)
        record = probe_model(
            open_asked(args), tasks, folder, _name(args), shots=shots, draws=args.draws,
            data_hash=data_hash, workers=workers,
        )  # fmt: skip
        for row in record["metrics"]:
            workers.tell(record_line(row))
    return 0


def _shots(text: str) -> list[int | str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    bad = [word for word in words if word != "full" and not (word.isdigit() and int(word))]
    if bad or not words:
        raise InputError(f"--shots {text!r}: give numbers of images a class and full, by commas")
    return [word if word == "full" else int(word) for word in words]


def _probe_tasks(args: argparse.Namespace) -> tuple[list[Splits], str]:
    from cliplib.data import open_corpus
    from cliplib.evaluate.icon_tasks import probe_tasks
    from cliplib.evaluate.wds import read_splits

    if args.task:
        return [read_splits(folder, val_share=args.val_share) for folder in args.task], ""
    corpus = open_corpus(args.data)
    return probe_tasks(corpus), corpus.hash


# ------------------------------------------------------------------------------------------- export


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m cliplib export``."""
    parser.epilog = (
        "example: python -m cliplib export --out tasks; then clip_benchmark eval --dataset "
        "wds/phosphor --dataset_root tasks/wds_phosphor --task zeroshot_classification ..."
    )
    add = parser.add_argument
    add("--data", type=Path, default=ICONS, help="the built corpus")
    add("--out", type=Path, required=True, help="folder that gets a folder wds_NAME a data set")
    add("--task", action="append", default=[], metavar="NAME", help="only these; repeat it")
    add("--format", default="png", help="of the images: png, webp or jpg (default: %(default)s)")


def run_export(args: argparse.Namespace) -> int:
    """Write the icon tasks in CLIP_benchmark's webdataset layout."""
    from cliplib.data import open_corpus
    from cliplib.evaluate.icon_tasks import exported_tasks
    from cliplib.evaluate.wds import write_task

    tasks = exported_tasks(open_corpus(args.data))
    known = list(dict.fromkeys(task.name for task in tasks))
    unknown = [name for name in args.task if name not in known]
    if unknown:
        raise InputError(f"unknown icon task {unknown[0]!r}; known: {', '.join(known)}")
    for task in tasks:
        if not args.task or task.name in args.task:
            folder = write_task(task, args.out / f"wds_{task.name}", image_format=args.format)
            print(f"{folder}/{task.split}: {len(task.images):,} images")
    return 0
