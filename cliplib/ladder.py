"""The ladder: which models are trained (rungs) and which runs of them make a study (scales).

What is declared stands in ``ladder_table.toml``. `cliplib.rungs` computes what follows for one
model and is offered here too; this module turns a named scale into its list of runs.

>>> rung("S").vision.width, [run.rung for run in scale("smoke")]
(96, ['XXS', 'XXS', 'XXS'])
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cliplib import InputError
from cliplib.rungs import (
    CONTEXT_LENGTH,
    CPU_RUNGS,
    EOS_ID,
    PHOTO_RUNGS,
    PUBLISHED_RUNGS,
    RUNGS,
    TABLE,
    VOCAB_SIZE,
    ResNet,
    Rung,
    Tower,
    flops,
    gmacs,
    image_gmacs,
    image_params,
    model_config,
    params,
    params_non_embedding,
    rung,
    text_gmacs,
    text_params,
)

__all__ = [
    "CONTEXT_LENGTH",
    "CPU_RUNGS",
    "DATA_SCALES",
    "EOS_ID",
    "LEARNING_RATES",
    "PHOTO_RUNGS",
    "PUBLISHED_RUNGS",
    "RUNGS",
    "SCALES",
    "VOCAB_SIZE",
    "ResNet",
    "RunSpec",
    "Rung",
    "Tower",
    "flops",
    "gmacs",
    "image_gmacs",
    "image_params",
    "model_config",
    "params",
    "params_non_embedding",
    "recipe",
    "run_spec",
    "rung",
    "scale",
    "text_gmacs",
    "text_params",
]

DATA_SCALES = {  # the nested subsets that each corpus comes in
    "all": ("2k", "8k", "32k", "all"),
    "colour": ("2k", "8k", "32k", "all"),
    "mono": ("2k", "8k", "32k", "all"),
    "laion": ("80M", "400M", "2B"),
    "shards": ("all",),  # the user's own image-text shards
}

LEARNING_RATES: dict[str, float] = TABLE["learning_rates"]
SCALES: tuple[str, ...] = tuple(TABLE["scales"])


# ------------------------------------------------------------------------------------------- scales


def scale(name: str) -> list[RunSpec]:
    """The runs of a named scale, cheapest first.

    A miniature grid lies on iso-compute diagonals: the runs of one budget differ in rung and
    samples seen, not in compute, so that the frontier may pass from rung to rung.

    Raises:
        InputError: unknown scale; the message lists those there are.
    """
    _check_known("scale", name, SCALES)
    grid = TABLE["scales"][name]
    runs = _paper_runs() if "runs" in grid else _grid_runs(name, grid)
    return sorted(runs, key=lambda run: (run.compute, run.run_id))


def _paper_runs() -> list[RunSpec]:
    return [
        run_spec("paper", rung, samples, data_scale=subset, corpus="laion")
        for rung, subset, samples in _paper_recipes()
    ]


def _grid_runs(name: str, grid: Mapping[str, Any]) -> list[RunSpec]:
    return [
        run_spec(name, rung, samples, data_scale, corpus, seed)
        for arm in grid["arms"]
        for rung, samples in _diagonals(arm, grid["batch_size"], grid["samples"])
        for data_scale in arm.get("data_scales", ["all"])
        for corpus in arm.get("corpora", ["all"])
        for seed in arm.get("seeds", [0])
    ]


def _diagonals(
    arm: Mapping[str, Any], batch_size: int, samples_range: tuple[int, int]
) -> Iterator[tuple[str, int]]:
    """Rung and samples seen, in whole batches, for every budget that the rung fits."""
    shortest, longest = samples_range
    for budget in arm["budgets"]:
        for name in arm["rungs"]:
            samples = batch_size * round(budget / gmacs(name) / batch_size)
            if shortest <= samples <= longest:
                yield name, samples


def run_spec(
    scale: str,
    rung: str,
    samples_seen: int,
    data_scale: str = "all",
    corpus: str = "all",
    seed: int = 0,
    **changes: float,
) -> RunSpec:
    """One run by the recipe of its scale; ``changes`` overrides batch_size, lr, and so on.

    Raises:
        InputError: what `RunSpec` refuses, or no recipe for this rung and no value given instead.
    """
    asked: dict[str, Any] = {"scale": scale, "rung": rung, "data_scale": data_scale}
    asked |= {"corpus": corpus, "samples_seen": samples_seen, "seed": seed}
    checked = {name: _checked_type(name, value) for name, value in asked.items()}
    usual = recipe(scale, rung, data_scale, samples_seen)
    return RunSpec.from_dict({**checked, **usual, **changes})


def recipe(scale: str, rung: str, data_scale: str, samples_seen: int) -> dict[str, float]:
    """Batch size, learning rate, warm-up fraction and weight decay that a scale prescribes.

    A grid prescribes them by rung alone, the paper run by run; what it does not know is left out.
    """
    _check_known("scale", scale, SCALES)
    _check_known("rung", rung, RUNGS)
    grid = TABLE["scales"][scale]
    if "runs" in grid:
        return _paper_recipes().get((rung, data_scale, samples_seen), {})
    found = {key: grid[key] for key in ("batch_size", "warmup_fraction", "weight_decay")}
    if rung in LEARNING_RATES:
        found["lr"] = LEARNING_RATES[rung] * grid.get("lr_factor", 1.0)
    return found


def _paper_recipes() -> dict[tuple[str, str, int], dict[str, float]]:
    """The published recipes by (rung, LAION subset, samples seen), with warm-up as a fraction."""
    grid = TABLE["scales"]["paper"]
    return {
        (rung, subset, samples): {
            "batch_size": batch,
            "lr": lr,
            "warmup_fraction": warmup_steps * batch / samples,
            "weight_decay": grid["weight_decay"],
        }
        for rung, subset, samples, lr, warmup_steps, batch in grid["runs"]
    }


# --------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class RunSpec:
    """One run: what is trained, on what, for how long. Checked when made.

    ``data_scale`` counts unique groups, ``samples_seen`` pairs, ``warmup_fraction`` is a share of
    the steps.

    Raises:
        InputError: unknown scale, rung, corpus or data scale; a value of wrong type or range.
    """

    scale: str
    rung: str
    data_scale: str
    corpus: str
    samples_seen: int
    seed: int
    batch_size: int
    lr: float
    warmup_fraction: float
    weight_decay: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _checked_type(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        _check_known("scale", self.scale, SCALES)
        rung(self.rung)
        _check_known("corpus", self.corpus, DATA_SCALES)
        _check_known(
            f"data scale of corpus {self.corpus}", self.data_scale, DATA_SCALES[self.corpus]
        )
        _check_range("seed", self.seed, 0)
        _check_range("batch_size", self.batch_size, 2)
        _check_range("samples_seen", self.samples_seen, self.batch_size)
        _check_range("lr", self.lr, 1e-9)
        _check_range("warmup_fraction", self.warmup_fraction, 0, 1)
        _check_range("weight_decay", self.weight_decay, 0)

    @property
    def compute(self) -> float:
        """C in GMAC: nominal GMACs a pair x samples seen."""
        return gmacs(self.rung) * self.samples_seen

    @property
    def run_id(self) -> str:
        """Name of the run's folder: unique, and safe in a path.

        What departs from the recipe of the scale (a sweep of learning rates, say) is appended.

        >>> run_spec("nano", "S", 131_072).run_id
        'nano-S-all-all-131072-s0'
        >>> run_spec("nano", "S", 131_072, lr=0.003).run_id
        'nano-S-all-all-131072-s0-lr0.003'
        """
        name = (self.scale, self.rung, self.data_scale, self.corpus, self.samples_seen)
        usual = recipe(self.scale, self.rung, self.data_scale, self.samples_seen)
        short = {"batch_size": "bs", "lr": "lr", "warmup_fraction": "wu", "weight_decay": "wd"}
        changes = [
            f"{short[key]}{getattr(self, key)}"
            for key in short
            if getattr(self, key) != usual.get(key)
        ]
        return "-".join([*map(str, name), f"s{self.seed}", *changes])

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are written to JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RunSpec:
        """A run from its fields.

        Raises:
            InputError: an unknown or a missing field, or what `RunSpec` refuses.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [name for name in fields if name not in known]:
            raise InputError(f"run has unknown {', '.join(unknown)}; known: {', '.join(known)}")
        if missing := [name for name in known if name not in fields]:
            raise InputError(f"run lacks {', '.join(missing)}; give a value for each")
        return cls(**fields)


def _checked_type(name: str, value: object) -> Any:
    """The value as the plain type of the run's field of that name (numpy's numbers pass)."""
    kind = RunSpec.__dataclass_fields__[name].type
    accepted, plain = {
        "str": (str, str),
        "int": (numbers.Integral, int),
        "float": (numbers.Real, float),
    }[str(kind)]
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise InputError(f"{name} must be of type {kind}, not {value!r}")
    return plain(value)


def _check_known(what: str, value: str, known: Mapping[str, Any] | tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"unknown {what} {value!r}; known: {', '.join(known)}")


def _check_range(what: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value < high:  # also refuses nan
        below = f" and below {high}" if high < math.inf else ""
        raise InputError(f"{what} must be at least {low}{below}, not {value}")
