"""CLIP_benchmark's own evaluation, timed: ``python -m cliplib.bench.clip_benchmark_peer TASK SETTINGS ...``.

Runs in a process of its own, with the libraries of `cliplib.bench.peers.overlay`. TASK is a key of
:data:`TASKS`, SETTINGS the fields of its dataclass as JSON; prints one JSON
object. Several pairs run one after the other; then it prints a list of their objects.

Its command line cannot start here (it imports pycocoevalcap for captioning), and its linear probe insists
on CUDA. So what is run is what that command line calls, with the arguments that it passes: the loading of
model and data set, the data loader, ``evaluate`` of zero-shot and retrieval, ``train`` and ``infer`` of the
probe. The one change: ``.cuda()`` of a module or tensor leaves it where it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from cliplib.pace import Stretch

RECALLS = [1, 5, 10]


@dataclass(frozen=True)
class Evaluated:
    """A model on a data set.

    Attributes:
        checkpoint: a folder that open_clip opens as ``local-dir:FOLDER``.
        data: a data set's folder in the webdataset layout.
        split: of the data set.
        workers: processes of the loader.
        amp: mixed precision, as by default.
        batch_size: its default.
        out: where features are written, for ``features`` only.
    """

    checkpoint: str
    data: str
    split: str = "test"
    workers: int = 0
    amp: bool = False
    batch_size: int = 64
    out: str = ""


@dataclass(frozen=True)
class Probed:
    """Probes on features that are there already.

    Attributes:
        features: an .npz with x, y of training and tx, ty of the test.
        settings: learning rate, epochs and seed of each probe.
        workers: processes of the loader.
        amp: mixed precision.
        batch_size: the paper's.
        out: where weight and bias of the last probe are written; "": nowhere.
    """

    features: str
    settings: list[tuple[float, int, int]]
    workers: int = 0
    amp: bool = False
    batch_size: int = 256
    out: str = ""


@dataclass(frozen=True)
class Converted:
    """A data set to be written with its builder: pictures and labels that a JSON file lists."""

    listed: str
    out: str
    split: str = "test"
    image_format: str = "webp"
    multilabel: bool = False
    max_count: int = 10_000


def command(*asked: tuple[str, Evaluated | Probed | Converted]) -> list[str]:
    """What follows the interpreter to have these tasks run."""
    words = [word for task, settings in asked for word in (task, json.dumps(asdict(settings)))]
    return ["-m", "cliplib.bench.clip_benchmark_peer", *words]


def main() -> int:
    """Run the tasks that the command line names; what the peer prints meanwhile is dropped."""
    answers = []
    for task, given in zip(sys.argv[1::2], sys.argv[2::2]):
        run, settings = TASKS[task]
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            answers.append(run(settings(**json.loads(given))))
    print(json.dumps(answers if len(answers) > 1 else answers[0]))
    return 0


# -------------------------------------------------------------------------------- a model on a data set


def zero_shot(settings: Evaluated) -> dict[str, Any]:
    """acc1, acc5, mean_per_class_recall; or mean_average_precision."""
    from clip_benchmark.metrics import zeroshot_classification

    model, transform, tokenizer = _model(settings)
    stretch = Stretch()
    data = _data(settings, transform, "zeroshot_classification")
    metrics = zeroshot_classification.evaluate(
        model, _loader(data, settings), tokenizer, data.classes, data.templates, device="cpu",
        amp=settings.amp, verbose=False,
    )  # fmt: skip
    return {"metrics": metrics, **stretch.result()}


def retrieval(settings: Evaluated) -> dict[str, Any]:
    """image_retrieval_recall@K and text_retrieval_recall@K."""
    from clip_benchmark.metrics import zeroshot_retrieval

    model, transform, tokenizer = _model(settings)
    stretch = Stretch()
    data = _data(settings, transform, "zeroshot_retrieval")
    metrics = zeroshot_retrieval.evaluate(
        model, _loader(data, settings), tokenizer, device="cpu", amp=settings.amp,
        recall_k_list=RECALLS,
    )  # fmt: skip
    return {"metrics": metrics, **stretch.result()}


def features(settings: Evaluated) -> dict[str, Any]:
    """What its probe caches: image features, normalised, with labels, in ``out``."""
    import numpy as np
    import torch
    from clip_benchmark.metrics.linear_probe import Featurizer

    model, transform, _ = _model(settings)
    stretch = Stretch()
    featurizer, found = Featurizer(model, normalize=True), []
    with torch.no_grad(), torch.autocast("cpu", enabled=settings.amp):
        for images, labels in _loader(_data(settings, transform, "linear_probe"), settings):
            found.append((featurizer(images).float().numpy(), np.asarray(labels)))
    x, y = (np.concatenate(part) for part in zip(*found))
    np.savez(settings.out, x=x, y=y)
    return {"images": len(x), **stretch.result()}


def _model(settings: Evaluated) -> tuple[Any, Any, Any]:
    """Model, transform and tokenizer, as its command line loads them."""
    from clip_benchmark.models import load_clip

    name = f"local-dir:{settings.checkpoint}"
    model, transform, tokenizer = load_clip("open_clip", name, "", None, device="cpu")
    return model.eval(), transform, tokenizer


def _data(settings: Evaluated, transform: Any, task: str) -> Any:
    from clip_benchmark.datasets.builder import build_dataset

    name = f"wds/{Path(settings.data).name}"
    return build_dataset(
        dataset_name=name, root=settings.data, transform=transform, split=settings.split, task=task
    )


def _loader(data: Any, settings: Evaluated) -> Any:
    """As its command line has it for ``wds/`` data sets."""
    from torch.utils.data import DataLoader

    batches = data.batched(settings.batch_size)
    return DataLoader(batches, batch_size=None, shuffle=False, num_workers=settings.workers)


# -------------------------------------------------------------------------------------------- probes


def probes(settings: Probed) -> dict[str, Any]:
    """Test accuracy of a probe for every setting, by its own ``train`` and ``infer``."""
    import numpy as np
    import torch
    from clip_benchmark.metrics.linear_probe import FeatureDataset, infer, train
    from torch.utils.data import DataLoader

    torch.nn.Module.cuda = torch.Tensor.cuda = lambda self, *_: self  # type: ignore[assignment, method-assign]
    arrays = np.load(settings.features)
    x, y, tx, ty = (torch.from_numpy(arrays[name]) for name in ("x", "y", "tx", "ty"))

    def loader(features: torch.Tensor, labels: torch.Tensor) -> Any:
        return DataLoader(
            FeatureDataset(features, labels), batch_size=settings.batch_size, shuffle=True,
            num_workers=settings.workers, pin_memory=True,
        )  # fmt: skip

    train_loader, test_loader = loader(x, y), loader(tx, ty)
    shape = x.shape[1], int(y.max()) + 1
    stretch, accuracies = Stretch(), []
    for lr, epochs, seed in settings.settings:
        layer = train(train_loader, *shape, 0, lr, epochs, settings.amp, "cpu", seed)
        logits, target = infer(layer, test_loader, settings.amp, "cpu")
        accuracies.append(float((logits.argmax(1) == target).float().mean()))
    answer = {"accuracy": accuracies, **stretch.result()}
    if settings.out:
        np.savez(
            settings.out,
            **{name: p.detach().numpy() for name, p in layer.module.named_parameters()},
        )
    return answer


# ------------------------------------------------------------------------------------------ its layout


def convert(settings: Converted) -> dict[str, Any]:
    """Write a classification data set with its ``convert_dataset``."""
    from clip_benchmark.webdataset_builder import convert_dataset

    convert_dataset(
        _Listed(settings), settings.split, settings.out, image_format=settings.image_format,
        max_count=settings.max_count, multilabel=settings.multilabel, verbose=False,
        transform=_encoder(settings),
    )  # fmt: skip
    return {"folder": settings.out}


def convert_retrieval(settings: Converted) -> dict[str, Any]:
    """Write a retrieval data set with its ``convert_retrieval_dataset``."""
    from clip_benchmark.webdataset_builder import convert_retrieval_dataset

    convert_retrieval_dataset(
        _Listed(settings), settings.split, settings.out, image_format=settings.image_format,
        max_count=settings.max_count, verbose=False, transform=_encoder(settings),
    )  # fmt: skip
    return {"folder": settings.out}


class _Listed:
    """Pictures of an .npy with the labels, class names and templates of a JSON file."""

    def __init__(self, settings: Converted) -> None:
        import numpy as np

        about = json.loads(Path(settings.listed).read_text())
        self.pixels, self.labels = np.load(about["pixels"]), about["labels"]
        self.classes, self.templates = about.get("classes"), about.get("templates")
        self.multilabel = settings.multilabel

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        import numpy as np
        from PIL import Image

        label = self.labels[place]
        return Image.fromarray(self.pixels[place]), np.array(label) if self.multilabel else label


def _encoder(settings: Converted) -> Callable[[Any], bytes]:
    from clip_benchmark.webdataset_builder import PIL_to_bytes

    return PIL_to_bytes(settings.image_format)


TASKS: dict[str, tuple[Callable[..., dict[str, Any]], type]] = {
    "zero_shot": (zero_shot, Evaluated),
    "retrieval": (retrieval, Evaluated),
    "features": (features, Evaluated),
    "probes": (probes, Probed),
    "convert": (convert, Converted),
    "convert_retrieval": (convert_retrieval, Converted),
}

if __name__ == "__main__":
    sys.exit(main())
