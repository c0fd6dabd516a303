"""What a scale does with its trained runs: probes and fine-tuning, each a notebook of its own.

A scale of ``ladder_table.toml`` says for which runs: ``probe = "all"``, ``finetune = "longest"`` (the
longest run of each rung, as the paper fine-tunes its longest), or nothing. Like training, a part is
done again only if its code, its checkpoint or the corpus has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cliplib import InputError, records
from cliplib.ladder import RunSpec
from cliplib.rungs import TABLE

#: Part -> its record in the run's folder, and the code that decides its numbers.
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "probe": ("probe.json", records.PROBE_CODE),
    "finetune": ("finetune.json", records.FINETUNE_CODE),
}


def _longest(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """The longest run of each rung, on all data; of several seeds the first."""
    whole = [s for s in specs if (s.data_scale, s.corpus) == ("all", "all")]
    best = {s.rung: s for s in sorted(whole, key=lambda s: (s.samples_seen, -s.seed))}
    return list(best.values())


CHOICES: dict[str, Callable[[Sequence[RunSpec]], list[RunSpec]]] = {
    "all": list,
    "longest": _longest,
}


def wanted(scale: str, specs: Sequence[RunSpec]) -> list[tuple[str, RunSpec]]:
    """Part and run for everything that a scale does with its runs, in the order of the parts.

    Raises:
        InputError: the table has a choice that is not known.
    """
    found = []
    for part in PARTS:
        choice = TABLE["scales"][scale].get(part)
        if choice is not None and choice not in CHOICES:
            raise InputError(
                f"ladder_table.toml: {part} = {choice!r} of scale {scale} is not known: "
                f"use {', '.join(CHOICES)}"
            )
        found += [(part, spec) for spec in (CHOICES[choice](specs) if choice else [])]
    return found


def is_current(folder: Path, part: str, corpus_hash: str) -> bool:
    """Whether a run's record of a part is of this code, corpus and checkpoint."""
    from cliplib.model import WEIGHTS
    from cliplib.pretrained.weights import content_hash

    name, code = PARTS[part]
    weights = folder / "checkpoint" / WEIGHTS
    if not (folder / name).exists() or not weights.exists():
        return False
    try:
        record = records.read_record(folder / name)
    except InputError:
        return False
    return (
        record.get("code_hash") == records.code_hash(code)
        and record.get("corpus_hash") == corpus_hash
        and record["checkpoint_hash"] == content_hash(weights)
    )


def stale(
    scale: str, specs: Sequence[RunSpec], runs: Path, corpus_hash: str
) -> list[tuple[str, RunSpec]]:
    """The parts of a scale that are to be done."""
    return [
        (part, spec)
        for part, spec in wanted(scale, specs)
        if not is_current(runs / spec.run_id, part, corpus_hash)
    ]
