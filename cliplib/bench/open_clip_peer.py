"""open_clip's own trainer or loader, timed: ``python -m cliplib.bench.open_clip_peer TASK SETTINGS``.

Runs in a process of its own, with the libraries of `cliplib.bench.peers.overlay`. TASK is ``train``
or ``loader``, SETTINGS the fields of `Settings` as JSON. Prints one JSON object.

What is changed in open_clip, in its favour: its shuffle buffer starts full, so that a short
measurement shows the speed of a long run (while the buffer fills, two samples are read for each
that is used). Everything else is what its command line offers.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cliplib.ladder import LEARNING_RATES, model_config, rung
from cliplib.pace import Pace, through

NAME = "peer-rung"
BUFFER = 1000  # samples in its shuffle buffer: what it fills before it starts
ENDLESS = 100_000_000  # samples in an "epoch": the clock stops the run, and it saves no checkpoint
STEP_LINE = re.compile(r"Train Epoch: .* Batch \(t\): \S+, (\S+)/s, .* Loss: (\S+) ")


@dataclass(frozen=True)
class Settings:
    """What is run. ``shards`` is a brace range; ``tokenizer`` a folder, or "" for CLIP's own."""

    rung: str
    vocab_size: int
    tokenizer: str
    shards: str
    mean: list[float]
    std: list[float]
    batch_size: int = 128
    precision: str = "fp32"  # or amp_bf16
    workers: int = 2
    warmup: int = 10
    seconds: float = 8.0


def main() -> int:
    """Run the task that the command line names."""
    task, settings = sys.argv[1], Settings(**json.loads(sys.argv[2]))
    with tempfile.TemporaryDirectory() as folder:
        arguments = prepare(settings, Path(folder))
        answer = {"train": train, "loader": loader}[task](settings, arguments)
    print(json.dumps(answer))
    return 0


def prepare(settings: Settings, folder: Path) -> list[str]:
    """Make the rung known to open_clip; the arguments for its trainer."""
    import open_clip
    import open_clip_train.data

    open_clip_train.data._SAMPLE_SHUFFLE_SIZE = BUFFER
    open_clip_train.data._SAMPLE_SHUFFLE_INITIAL = BUFFER
    (folder / f"{NAME}.json").write_text(json.dumps(peer_config(settings)))
    open_clip.add_model_config(folder)
    return command_line(settings, folder / "logs")


def peer_config(settings: Settings) -> dict[str, Any]:
    """The rung's model file, with the vocabulary and tokenizer asked for."""
    config = model_config(replace(rung(settings.rung), vocab_size=settings.vocab_size))
    if settings.tokenizer:
        config["text_cfg"]["hf_tokenizer_name"] = settings.tokenizer
    return config


def command_line(settings: Settings, logs: Path) -> list[str]:
    """What a user would type after ``python -m open_clip_train.main``, for the same work as ours."""
    lr = LEARNING_RATES.get(settings.rung, 1e-3)
    mean, std = (" ".join(map(str, values)) for values in (settings.mean, settings.std))
    flags = f"""
        --model {NAME} --device cpu --precision {settings.precision}
        --dataset-type webdataset --train-num-samples {ENDLESS} --workers {settings.workers}
        --batch-size {settings.batch_size} --epochs 1 --warmup 100 --lr {lr} --wd 0.1
        --beta1 0.9 --beta2 0.98 --eps 1e-6 --grad-clip-norm 1.0
        --aug-cfg scale=(1.0,1.0) ratio=(1.0,1.0)
        --image-mean {mean} --image-std {std}
        --log-every-n-steps 1 --name bench
    """
    return [*flags.split(), "--train-data", settings.shards, "--logs", str(logs)]


# -------------------------------------------------------------------------------------------- train


class Enough(BaseException):
    """Ends the trainer from outside once enough steps have been timed."""


class StepClock(logging.Handler):
    """Hears the line that the trainer logs at the end of every step, and ends it in time."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self.pace = pace
        self.losses: list[float] = []
        self.printed: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Count a step; raises `Enough` after the last."""
        if found := STEP_LINE.match(record.getMessage() + " "):
            rate, loss = map(float, found.groups())
            self.printed.append(rate)
            self.losses.append(loss)
            if self.pace.step():
                raise Enough


def train(settings: Settings, arguments: list[str]) -> dict[str, Any]:
    """The pace of ``open_clip_train.main``, beside what it says itself of rate and loss."""
    from open_clip_train.main import main as trainer

    clock = StepClock(Pace(settings.warmup, settings.seconds))
    logging.root.addHandler(clock)
    try:
        trainer(arguments)
    except Enough:
        pass
    finally:
        logging.root.removeHandler(clock)
    timed = clock.printed[settings.warmup :]
    own = len(timed) / sum(1 / rate for rate in timed)  # steps of equal size: the harmonic mean
    return {
        **clock.pace.result(settings.batch_size),
        "printed_samples_per_s": own,
        "losses": clock.losses,
    }


# ------------------------------------------------------------------------------------------- loader


def loader(settings: Settings, arguments: list[str]) -> dict[str, Any]:
    """The pace of its webdataset loader alone: read, decode, transform, tokenize, batch."""
    from open_clip import get_tokenizer
    from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2
    from open_clip_train.data import get_wds_dataset
    from open_clip_train.params import parse_args

    args = parse_args(arguments)
    args.world_size, args.distributed = 1, False
    size = rung(settings.rung).image_px
    look = PreprocessCfg(size=size, mean=tuple(settings.mean), std=tuple(settings.std))
    transform = image_transform_v2(look, is_train=True, aug_cfg=AugmentationCfg(**args.aug_cfg))
    data = get_wds_dataset(args, transform, is_train=True, tokenizer=get_tokenizer(NAME))
    return through(data.dataloader, settings.batch_size, settings.warmup, settings.seconds)


if __name__ == "__main__":
    sys.exit(main())
