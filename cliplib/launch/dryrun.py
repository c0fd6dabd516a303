"""A scale on paper: every run's place, command, hours and energy, printed and written, none started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cliplib import InputError
from cliplib.launch.check import ModelCheck, check_model
from cliplib.launch.jobs import Shards, config, source, torchrun
from cliplib.launch.placement import Placement
from cliplib.records import write_atomic
from cliplib.rungs import PUBLISHED_RUNGS

PRINTED = {  # column of `table` -> (heading, format)
    "run_id": ("run", "{}"), "rung": ("rung", "{}"), "data": ("data", "{}"),
    "samples_seen": ("samples", "{:,}"), "batch_size": ("batch", "{:,}"),
    "lr": ("lr", "{:g}"), "warmup_steps": ("warm-up", "{:,}"), "published_gpus": ("publ. GPUs", "{}"),
    "gpus": ("GPUs", "{:,}"), "nodes": ("nodes", "{}"), "batch_per_gpu": ("a GPU", "{:,}"),
    "accumulate": ("pieces", "{}"), "samples_per_s_per_gpu": ("samples/s a GPU", "{:,.0f}"),
    "gpu_hours": ("GPU h", "{:,.1f}"), "wall_hours": ("hours", "{:,.2f}"), "mwh": ("MWh", "{:,.4g}"),
    "state_gib": ("state GiB", "{:.1f}"),
}  # fmt: skip


def table(placed: Sequence[Placement], folder: Path, suffix: str = "/config.json") -> pd.DataFrame:
    """One row a run: recipe, place, cost, and the torchrun command.

    Columns: run_id, rung, data, samples_seen, batch_size, lr, warmup_steps, published_gpus (empty:
    none), gpus, gpus_per_node, nodes, batch_per_gpu, accumulate (pieces of a GPU's batch),
    samples_per_s_per_gpu, basis (of that rate), gpu_hours, wall_hours, mwh, state_gib (weights,
    gradients and AdamW's moments on each GPU), compute_gmac, command.
    """
    return pd.DataFrame([_row(each, folder, suffix) for each in placed])


def _row(placed: Placement, folder: Path, suffix: str) -> dict[str, object]:
    run = placed.run
    own = ("gpus", "gpus_per_node", "nodes", "batch_per_gpu", "accumulate")
    costs = ("basis", "gpu_hours", "wall_hours", "mwh", "state_gib")
    return {
        "run_id": run.run_id, "rung": run.rung, "data": f"{run.corpus} {run.data_scale}",
        "samples_seen": run.samples_seen, "batch_size": run.batch_size, "lr": run.lr,
        "warmup_steps": placed.warmup_steps,
        "published_gpus": "" if placed.published_gpus is None else placed.published_gpus,
        **{name: getattr(placed, name) for name in own},
        "samples_per_s_per_gpu": placed.rate, **{name: getattr(placed, name) for name in costs},
        "compute_gmac": run.compute,
        "command": torchrun(placed, Path(f"{folder / run.run_id}{suffix}"), Path("runs") / run.run_id),
    }  # fmt: skip


# ------------------------------------------------------------------------------------- for readers


def report(scale_name: str, placed: Sequence[Placement], rows: pd.DataFrame) -> str:
    """The dry run as text: models checked, the table, its sources, the totals, the commands.

    Raises:
        InputError: a model whose counts differ from the published ones.
    """
    parts = [_models(placed), _printed(rows), _sources(rows)]
    if rows["gpu_hours"].notna().all():
        parts.append(_totals(scale_name, rows))
    return "\n\n".join([*parts, "\n".join(["commands, one a run:", *rows["command"]])])


def _models(placed: Sequence[Placement]) -> str:
    names = list(dict.fromkeys(each.run.rung for each in placed))
    checks = [check_model(name) for name in names]
    if wrong := [found.rung for found in checks if not found.agrees]:
        raise InputError(
            f"the models {', '.join(wrong)} differ from the published ones in parameters or GMACs; "
            "see cliplib.launch.check_model"
        )
    known = sum(each.run.rung in PUBLISHED_RUNGS for each in placed)
    against = f"{known} of them with the published figures too" if known else "none is published"
    return "\n".join(
        [
            f"models of all {len(placed)} runs built without memory and compared with our formulas, "
            f"{against}:",
            *map(_model, checks),
        ]
    )


def _model(found: ModelCheck) -> str:
    published = (
        f" (published {found.params_published_m:.2f} M, {found.gmacs_published:.2f})"
        if found.params_published_m
        else ""
    )
    return (
        f"  {found.rung}: {found.params_built:,} parameters, {found.gmacs:.4g} GMACs a pair{published}; "
        f"products counted by torch {found.counted_gmacs:.6g}"
    )


def _printed(rows: pd.DataFrame) -> str:
    columns = {
        heading: [_cell(value, form) for value in rows[name]]
        for name, (heading, form) in PRINTED.items()
        if not (rows[name].isna() | (rows[name] == "")).all()
    }
    return pd.DataFrame(columns).to_string(index=False)


def _cell(value: Any, form: str) -> str:
    return "" if value == "" or pd.isna(value) else form.format(value)


def _sources(rows: pd.DataFrame) -> str:
    from cliplib.paper.bill import WATTS

    lines = [
        f"rates: {count} runs: {basis}" for basis, count in rows["basis"].value_counts().items()
    ]
    if (rows["basis"] == "published").any():
        from cliplib.published import credit

        lines.append(f"published GPUs and throughputs: {credit('scaling-laws-openclip')}")
        lines.append(
            f"{_copies()} of the published throughputs equal another run's to the last digit (copied "
            "rather than measured); hours and energy of those runs inherit that"
        )
    if rows["gpu_hours"].notna().any():
        moved = ((rows["published_gpus"] != "") & (rows["published_gpus"] != rows["gpus"])).sum()
        lines.append(
            f"energy: {WATTS:.0f} W a GPU, the paper's rule; a GPU's rate is taken as the same on any "
            f"number of them ({moved} runs are not on their published number)"
        )
    return "\n".join(lines)


def _copies() -> int:
    from cliplib.paper.bill import copied_rates
    from cliplib.published import pretraining_runs

    return len(copied_rates(pretraining_runs().query("family == 'OpenCLIP'")))


def _totals(scale_name: str, rows: pd.DataFrame) -> str:
    hours, energy = rows["gpu_hours"].sum(), rows["mwh"].sum()
    text = (
        f"total: {len(rows)} runs, {hours:,.1f} GPU hours, {energy:,.4f} MWh; one run after the other "
        f"{rows['wall_hours'].sum():,.1f} hours, the longest {rows['wall_hours'].max():,.1f}"
    )
    if scale_name != "paper":
        return text
    from cliplib.published import printed

    bill = printed().set_index("id")["printed"]
    return (
        f"{text}\nthe paper's bill: {bill['bill:gpu_hours']} GPU hours, {bill['bill:mwh']} MWh "
        "(Table 17, its total as quoted by others)"
    )


# ------------------------------------------------------------------------------------------ files


def write(
    placed: Sequence[Placement], urls: Shards | None, corpus: Path, folder: Path
) -> list[Path]:
    """Write ``RUN.json`` for ``train --config`` and ``RUN.sh`` with its one command, for every run.

    Raises:
        InputError: a configuration that ``train --config`` would refuse.
    """
    rows = table(placed, folder, ".json")
    found = [config(each, source(each, urls, corpus)) for each in placed]
    written = []
    for row, content in zip(rows.to_dict("records"), found):
        path = folder / f"{row['run_id']}.json"
        write_atomic(path, json.dumps(content, indent=1) + "\n")
        write_atomic(path.with_suffix(".sh"), f"#!/bin/sh\nexec {row['command']}\n")
        written.append(path)
    return written
