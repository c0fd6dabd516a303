"""The configuration of a training run: what is trained, on which data, how, and what it leaves.

As JSON it is one object: the fields of a `RunSpec` at the top, and the optional objects ``data``,
``engine``, ``checkpoint`` and ``instruments`` with the fields of the classes below. Unknown keys are
refused, so that a misspelt switch never passes for a default.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from cliplib import InputError
from cliplib.data import ShardSource
from cliplib.ladder import RunSpec

Section = TypeVar("Section")

PATHS = ("fast", "torch")
PRECISIONS = ("bf16", "fp32")
ATTENTIONS = ("plain", "fused")


@dataclass(frozen=True)
class Data:
    """Where the pairs come from: the built icon corpus, or any webdataset shards.

    The fields from ``sampler`` on are those of `cliplib.data.ShardSource`, except that icons know
    ``unique_captions`` too.
    """

    corpus: str | None = None
    shards: tuple[str, ...] = ()
    sampler: str = "epoch"
    lanes: int = 8
    workers: int = 0
    shuffle: int = 2_000
    max_bad_share: float = 0.01
    unique_captions: bool | None = None
    augment: bool = True

    def __post_init__(self) -> None:
        """Refuse two sources.

        Raises:
            InputError: both a corpus and shards, or what `ShardSource` refuses.
        """
        if self.corpus and self.shards:
            raise InputError("data has both corpus and shards; give one of them")
        self.source(seed=0)

    def source(self, seed: int) -> ShardSource:
        """The shards as the loader takes them."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del own["corpus"]
        return ShardSource(urls=own.pop("shards"), **own, seed=seed)


@dataclass(frozen=True)
class Engine:
    """How a step is computed; None leaves the choice to the hardware (`cliplib.model.NUMERICS`).

    Attributes:
        path: "fast" (written out for small models on a CPU) or "torch" (open_clip's modules and
            autograd, on a CPU or GPUs).
        precision: "bf16" or "fp32" of matrix products.
        attention: "plain" or "fused", of the torch path.
        threads: parts of a batch that the fast path works on at once.
        tf32: whether float32 products on a GPU may round to TF32.
        compile: whether the towers go through torch.compile.
        gradient_checkpointing: whether activations are recomputed in the backward pass.
        accumulate: micro-batches a step; the loss stays that of the full batch.
        loss_chunk: rows of the similarity matrix held at once.
    """

    path: str | None = None
    precision: str | None = None
    attention: str | None = None
    threads: int | None = None
    tf32: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    accumulate: int = 1
    loss_chunk: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            InputError: naming the field.
        """
        known = (("path", PATHS), ("precision", PRECISIONS), ("attention", ATTENTIONS))
        for name, values in known:
            if getattr(self, name) not in (None, *values):
                raise InputError(
                    f"engine.{name} {getattr(self, name)!r}: use {' or '.join(values)}"
                )
        for name in ("threads", "accumulate", "loss_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"engine.{name} is {value}: at least 1")
        if self.path == "fast" and self.needs_torch:
            raise InputError(
                f"engine.{self.needs_torch} needs engine.path torch; the fast path does not have it"
            )

    @property
    def needs_torch(self) -> str:
        """The first switch that is set and that only the torch path has; "" if none is."""
        switches = {
            "compile": self.compile, "gradient_checkpointing": self.gradient_checkpointing,
            "accumulate": self.accumulate > 1, "attention": self.attention is not None,
        }  # fmt: skip
        return next((name for name, on in switches.items() if on), "")


@dataclass(frozen=True)
class Checkpointing:
    """When the state to resume from is written (seconds, steps), and how many are kept."""

    every_seconds: float | None = 30.0
    every_steps: int | None = None
    keep: int = 2


@dataclass(frozen=True)
class Instruments:
    """What watches the run: metrics.jsonl always.

    Attributes:
        tensorboard: whether the same values go to ``tensorboard/`` (needs cliplib[tensorboard]).
        profile: steps whose time is measured and printed, after ten that warm up; 0: none.
    """

    tensorboard: bool = False
    profile: int = 0

    def __post_init__(self) -> None:
        """Refuse negative steps.

        Raises:
            InputError: naming the field.
        """
        if self.profile < 0:
            raise InputError(f"instruments.profile is {self.profile}: steps to measure, 0 for none")


@dataclass(frozen=True)
class Settings:
    """Everything about a run but what is trained."""

    data: Data = field(default_factory=Data)
    engine: Engine = field(default_factory=Engine)
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    instruments: Instruments = field(default_factory=Instruments)


SECTIONS: dict[str, type[Any]] = {
    "data": Data, "engine": Engine, "checkpoint": Checkpointing, "instruments": Instruments,
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """A run and its settings.

    >>> fields = {"scale": "smoke", "rung": "XXS", "data_scale": "2k", "corpus": "all", "seed": 0}
    >>> fields |= {"samples_seen": 640, "batch_size": 64, "lr": 1e-3, "warmup_fraction": 0.1}
    >>> config = TrainConfig.from_dict({**fields, "weight_decay": 0.1, "engine": {"precision": "fp32"}})
    >>> config.run.rung, config.settings.engine.precision
    ('XXS', 'fp32')
    """

    run: RunSpec
    settings: Settings

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """A configuration from JSON's values.

        Raises:
            InputError: an unknown key, a value of wrong type or range, or what `RunSpec` refuses.
        """
        if not isinstance(fields, Mapping):
            raise InputError("a configuration is one JSON object; see: cliplib train --help")
        own = {name: value for name, value in fields.items() if name not in SECTIONS}
        known = {f.name for f in dataclasses.fields(RunSpec)}
        unknown = [name for name in own if name not in known]
        if unknown:
            raise InputError(
                f"configuration has unknown {', '.join(unknown)}; known: "
                f"{', '.join(sorted(known))}, and {', '.join(SECTIONS)}"
            )
        sections = {
            name: _section(kind, name, fields[name])
            for name, kind in SECTIONS.items()
            if name in fields
        }
        return cls(RunSpec.from_dict(own), Settings(**sections))

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """The configuration in a JSON file.

        Raises:
            InputError: no readable JSON, or what `from_dict` refuses; the file is named.
        """
        try:
            fields = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no readable JSON ({error})") from None
        try:
            return cls.from_dict(fields)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """JSON's values; settings that are their defaults are left out."""
        chosen = {}
        for name, kind in SECTIONS.items():
            mine, usual = getattr(self.settings, name), kind()
            differing = {
                f.name: getattr(mine, f.name)
                for f in dataclasses.fields(kind)
                if getattr(mine, f.name) != getattr(usual, f.name)
            }
            if differing:
                chosen[name] = differing
        return {**self.run.to_dict(), **json.loads(json.dumps(chosen))}


def _section(kind: type[Section], name: str, values: Any) -> Section:
    if not isinstance(values, Mapping):
        raise InputError(f"{name} must be an object of settings, not {values!r}")
    types = get_type_hints(kind)
    unknown = [key for key in values if key not in types]
    if unknown:
        raise InputError(f"{name} has unknown {', '.join(unknown)}; known: {', '.join(types)}")
    return kind(**{key: _checked(f"{name}.{key}", types[key], v) for key, v in values.items()})


def _checked(name: str, kind: Any, value: Any) -> Any:
    """The value, if it is of the annotated type: JSON's lists become tuples, its integers floats."""
    kinds = get_args(kind) if type(None) in get_args(kind) else (kind,)
    for one in kinds:
        if get_args(one):  # a tuple of strings
            if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
                return tuple(value)
        elif one is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
        elif isinstance(value, one) and (one is bool or not isinstance(value, bool)):
            return value
    wanted = " or ".join(
        "null" if k is type(None) else getattr(k, "__name__", str(k)) for k in kinds
    )
    raise InputError(f"{name} must be {wanted}, not {value!r}")
