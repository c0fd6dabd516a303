"""Every checkable number that the paper prints, beside the same number computed from the tables.

`printed` reads what is printed, with its place; `computed` gives ours; `compare` judges. Run
``python -m cliplib.paper.printed`` to write the table that the book shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from cliplib import InputError, laws, published
from cliplib.paper import bill as paper_bill
from cliplib.paper import finetune as paper_finetune
from cliplib.paper import probes as paper_probes

OUT = published.FOLDER.parent / "printed_numbers.csv"
VERDICTS = ("agrees", "rounds", "differs", "slip", "not checkable here")
RELATIONS = {"=": "as printed", ">=": "at least", "<=": "at most"}
Numbers = dict[str, tuple[float, str]]  # id -> our value in the row's unit, how we got it

# A printed value is called a slip only where another printed number contradicts it: the paper
# prints H/14's gain beside its prediction, and the measured recall is in Table 1 and the tables.
SLIPS = {"prediction:mscoco_captions:ViT-H-14:68B": "gain:mscoco_captions:ViT-H-14:68B"}


# ------------------------------------------------------------------------------- what is printed


def printed() -> pd.DataFrame:
    """The printed numbers: id, where, what, printed (text), unit, relation, rounding, source.

    relation: how the number is meant (`RELATIONS`). rounding: half of the last printed digit.
    """
    return pd.read_csv(published.FOLDER / "printed.csv", dtype={"printed": str})


def value(text: str) -> float:
    """A printed number as a number.

    >>> value("1,058,318")
    1058318.0
    """
    return float(text.replace(",", ""))


# ------------------------------------------------------------------------------------ what we find


def computed() -> Numbers:
    """Every number that the committed tables allow, by id of `printed`."""
    parts = (
        *(exponents, predictions, gains, mean_errors, headlines, bill, sizes, labels, counts),
        *(batch_effects, batch_sizes, fine_tuning, arithmetic, duplicates, probes, architectures),
    )
    return {key: found for part in parts for key, found in part().items()}


def _found(keys: pd.Series, values: pd.Series, how: str) -> Numbers:
    return {str(key): (float(number), how) for key, number in zip(keys, values, strict=True)}


def _score(dataset: str, run: str) -> float:
    """Accuracy, or recall, of one run in percent."""
    runs = published.errors(dataset)
    return 100 * (1 - float(runs.loc[runs["run_id"] == run, "error"].iloc[0]))


def exponents() -> Numbers:
    """The eight exponents of Figure 1."""
    fits = laws.fit_paper(published.figure1())
    keys = "alpha:" + fits["dataset"] + ":" + fits["family"]
    return _found(keys, fits["alpha"], "laws.fit_paper, figure1.csv")


def predictions() -> Numbers:
    """The law's predictions at the notebook's samples; also as rounded in the text."""
    used = published.architectures().query("used_in_predictions == 1")
    gmacs = dict(zip(used["arch"], used["gmacs_per_sample"], strict=True))
    found: Numbers = {}
    for dataset in ("imagenet1k", "mscoco_captions"):
        table = laws.predictions(published.errors(dataset), gmacs)
        keys = f"prediction:{dataset}:" + table["arch"] + ":" + table["samples_label"]
        for start in ("", "text "):
            found |= _found(start + keys, table["pct"], "laws.predictions, zero_shot.csv")
    return found


def gains() -> Numbers:
    """Predicted at 68B less measured, for the two models that were trained once."""
    predicted = predictions()
    found: Numbers = {}
    for dataset in ("imagenet1k", "mscoco_captions"):
        for arch, run in {"ViT-H-14": "H-14/LAION-2B/34B", "ViT-g-14": "g-14/LAION-2B/13B"}.items():
            measured = _score(dataset, f"openclip/{run}")
            gain = predicted[f"prediction:{dataset}:{arch}:68B"][0] - measured
            found[f"gain:{dataset}:{arch}:68B"] = gain, "laws.predictions less zero_shot.csv"
    return found


def mean_errors() -> Numbers:
    """The law's mean absolute error on its own best cells, in points."""
    return {
        f"mae:{name}": (
            laws.mean_absolute_error(published.errors(name)),
            "laws.mean_absolute_error",
        )
        for name in ("imagenet1k", "mscoco_captions")
    }


def headlines() -> Numbers:
    """The models of Table 1 on its three measures, in percent."""
    models = (
        "openai/L-14/WIT-400M/13B",
        "openclip/L-14/LAION-2B/34B",
        "openclip/H-14/LAION-2B/34B",
    )
    return {
        f"headline:{dataset}:{run}": (_score(dataset, run), "zero_shot.csv")
        for dataset in ("imagenet1k", "vtab+", "mscoco_captions")
        for run in models
    }


def _runs() -> pd.DataFrame:
    return published.pretraining_runs().query("family == 'OpenCLIP'")


def bill() -> Numbers:
    """GPU hours and energy of all runs, from samples, throughput and GPUs of each."""
    runs = _runs()
    seconds = runs["samples_seen_training"] / runs["samples_per_s"] * runs["gpus"]
    hours, how = float(seconds.sum()) / 3600, "samples / throughput x GPUs, pretraining_runs.csv"
    mwh = hours * paper_bill.WATTS / 1e6
    return {"bill:gpu_hours": (hours, how), "bill:mwh": (mwh, f"{how}, 350 W a GPU")}


def sizes() -> Numbers:
    """Pairs in one pass, as the released table counts them; OpenAI's samples and passes."""
    epochs = _runs().groupby("data")["virtual_epoch_samples"]
    least, most = epochs.min().to_dict(), epochs.max().to_dict()
    openai = published.pretraining_runs().query("family == 'OpenAI'")
    how = "virtual_epoch_samples, pretraining_runs.csv"
    seen, pairs = openai["samples_seen_evaltable"], openai["data_pairs_nominal"]
    return {
        "size:LAION-80M:least": (least["LAION-80M"], how),
        "size:LAION-400M:least": (least["LAION-400M"] / 1e6, how),
        "size:LAION-400M:most": (most["LAION-400M"] / 1e6, how),
        "openai:samples": (seen.max() / 1e9, "samples_seen_evaltable, pretraining_runs.csv"),
        "openai:passes": (float((seen / pairs).max()), "samples / pairs, pretraining_runs.csv"),
    }


def labels() -> Numbers:
    """Least and most samples seen behind each label, in billions; and by a probed model."""
    how = "samples_seen_training, pretraining_runs.csv"
    seen = _runs().groupby("samples_seen_label")["samples_seen_training"]
    least, most = seen.min() / 1e9, seen.max() / 1e9
    found = _found("label:" + least.index.to_series() + ":least", least, how)
    found |= _found("label:" + most.index.to_series() + ":most", most, how)
    probed = published.probe_models()["samples_seen"].min() / 1e9
    return found | {"probe:samples": (probed, "samples_seen, probe_models.csv")}


def counts() -> Numbers:
    """Runs, models and data sets, counted."""
    runs, sets = _runs(), published.downstream_datasets()
    full = runs[runs["arch"].isin(["ViT-B-32", "ViT-B-16", "ViT-L-14"])]
    cells = full.drop_duplicates(["arch", "data", "samples_seen_label"])
    return {
        "count:runs": (len(runs), "rows of pretraining_runs.csv"),
        "count:grid": (len(cells), "cells with B/32, B/16, L/14, pretraining_runs.csv"),
        "count:openai": (len(published.pretraining_runs()) - len(runs), "pretraining_runs.csv"),
        "count:data": (runs["data"].nunique(), "pretraining_runs.csv"),
        "count:vtab+": (int(sets["in_vtab_plus35"].sum()), "downstream_datasets.csv"),
        "count:robustness": (int(sets["in_robustness5"].sum()), "downstream_datasets.csv"),
    }


def control_pairs() -> pd.DataFrame:
    """The four pairs of like runs that differ in batch size and rate: run, label, effect (points).

    effect: ImageNet top-1 of the run of the grid (large batch) less that of the run outside it.
    """
    extra = published.extra_control_runs().query("dataset == 'imagenet1k' and metric == 'top1'")
    outside = extra.set_index("model_id")["value"].to_dict()
    twins = {
        "B-32/LAION-400M/13B": "B-32-quickgelu laion400m_e32",
        "L-14/LAION-400M/13B": "L-14 laion400m_e32",
        "B-32/LAION-400M/3B": "B-32 B-32_Data-400M_Samples-3B_lr-5e-4_bs-32k",
        "B-32/LAION-2B/3B": "B-32 B-32_Data-2B_Samples-3B_lr-5e-4_bs-32k",
    }
    rows = [
        (run, run.rsplit("/", 1)[1], _score("imagenet1k", f"openclip/{run}") - 100 * outside[twin])
        for run, twin in twins.items()
    ]
    return pd.DataFrame(rows, columns=["run", "label", "effect"])


def batch_effects() -> Numbers:
    """Least and most change of ImageNet top-1 by batch size, in points."""
    pairs, how = control_pairs(), "zero_shot.csv less extra_control_runs.csv"
    found: Numbers = {}
    for name, some in {"13B": pairs[pairs["label"] == "13B"], "all": pairs}.items():
        found[f"batch:{name}:least"] = float(some["effect"].min()), how
        found[f"batch:{name}:most"] = float(some["effect"].max()), how
    return found


def batch_sizes() -> Numbers:
    """Least and most global batch of the two groups of runs, in thousands of samples."""
    batch, how = _runs()["global_batch"] / 1e3, "global_batch, pretraining_runs.csv"
    small = batch <= 64  # the table has a gap between 64,000 and 79,104
    found: Numbers = {}
    for name, some in {"large": batch[~small], "small": batch[small]}.items():
        found[f"batch size:{name}:least"] = float(some.min()), how
        found[f"batch size:{name}:most"] = float(some.max()), how
    return found


def fine_tuning() -> Numbers:
    """Least and most ImageNet top-1 of OpenCLIP's fine-tuned ViT, as timm evaluates them now."""
    towers = paper_finetune.towers()
    score = towers.loc[towers["family"] == paper_finetune.FAMILIES[0], "in1k_top1"].astype(float)
    how = "in1k_top1, finetuned.csv (timm's evaluation)"
    return {"finetune:least": (score.min(), how), "finetune:most": (score.max(), how)}


def arithmetic() -> Numbers:
    """Numbers that follow from other printed numbers, and the largest run of the table."""
    batch, local, byte = 32_768, 256, 4
    return {
        "hardware:gpus_total": (936 * 4, "936 nodes x 4"),
        "hardware:nodes": (1024 / 4, "1,024 GPUs / 4 a node"),
        "hardware:gpus_most": (float(_runs()["gpus"].max()), "gpus, pretraining_runs.csv"),
        "loss:full": (byte * batch**2 / 2**30, "4 bytes x 32,768 x 32,768, in GiB"),
        "loss:sharded": (2 * byte * batch * local / 2**20, "2 x 4 bytes x 32,768 x 256, in MiB"),
    }


def duplicates() -> Numbers:
    """H/14 on the two sets with most duplicates, before these were removed, in percent."""
    run = "openclip/H-14/LAION-2B/34B"
    sets = ("imagenet-r", "imagenet_sketch")
    return {f"duplicates:before:{name}": (_score(name, run), "zero_shot.csv") for name in sets}


def probes() -> Numbers:
    """The exponents of the probe figures, as the authors' notebook shows them."""
    table = paper_probes.reproduced(paper_probes.points(paper_probes.settings()))
    keys = "probe:" + table["dataset"] + ":" + table["shots"] + ":" + table["family"]
    return _found(keys, table["alpha"], "paper_probes.reproduced, linear_probe_grid.csv")


def architectures() -> Numbers:
    """GMACs and parameters by our own formulas."""
    table = paper_bill.compare(published.architectures())
    keys = "architecture:" + table["quantity"] + ":" + table["arch"]
    return _found(keys, table["ours"], "cliplib.ladder")


# ----------------------------------------------------------------------------------------- compare


def compare(table: pd.DataFrame, ours: Numbers) -> pd.DataFrame:
    """The printed numbers beside ours, with a verdict for each.

    Columns: id, where, what, printed, ours, unit, difference (ours - printed), tolerance (half of
    the last printed digit), verdict (of `VERDICTS`), how. ``agrees``: equal to six digits, or a
    bound that holds; ``rounds``: equal once rounded as printed; ``slip``: another printed number
    contradicts it. InputError for an id twice.
    """
    if table["id"].duplicated().any():
        raise InputError(f"printed.csv: {table.loc[table['id'].duplicated(), 'id'].iloc[0]} twice")
    rows = table.set_index("id")
    found = [ours.get(key, (np.nan, "no table here has it")) for key in rows.index]
    both = table.assign(ours=[n for n, _ in found], how=[how for _, how in found])
    both["difference"] = both["ours"] - both["printed"].map(value)
    both["verdict"] = [_verdict(row, rows, ours) for _, row in both.iterrows()]
    both = both.rename(columns={"rounding": "tolerance"})
    columns = ["id", "where", "what", "printed", "ours", "unit", "difference", "tolerance"]
    return both[[*columns, "verdict", "how"]]


def _verdict(row: pd.Series, rows: pd.DataFrame, ours: Numbers) -> str:
    apart, half = float(row["difference"]), float(row["rounding"])
    if np.isnan(apart):
        return VERDICTS[4]
    bounded = (row["relation"] == ">=" and apart >= 0) or (row["relation"] == "<=" and apart <= 0)
    if bounded or abs(apart) <= 1e-6 * abs(row["ours"]):
        return VERDICTS[0]
    if abs(apart) <= half * (1 + 1e-9):
        return VERDICTS[1]
    return VERDICTS[3] if _contradicted(row, rows, ours) else VERDICTS[2]


def _contradicted(row: pd.Series, rows: pd.DataFrame, ours: Numbers) -> bool:
    """Whether the gain printed beside it implies our value and not the printed one."""
    gain = SLIPS.get(row["id"])
    if gain is None:
        return False
    measured = row["ours"] - ours[gain][0]
    beside = rows.loc[[gain]].iloc[0]
    implied = measured + value(beside["printed"])
    half = row["rounding"] + beside["rounding"]
    return bool(abs(implied - row["ours"]) <= half < abs(implied - value(row["printed"])))


def table() -> pd.DataFrame:
    """`compare` of all printed numbers, as written to ``book/data/printed_numbers.csv``."""
    found = compare(printed(), computed())
    return found.assign(ours=found["ours"].round(7), difference=found["difference"].round(7))


def for_readers(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of `compare` with readable columns; as many digits of ours as the row can use."""
    digits = [2 + max(0, int(np.ceil(-np.log10(2 * half)))) for half in found["tolerance"]]
    ours = [
        "" if np.isnan(number) else f"{number:,.{min(d, 7)}f}"
        for number, d in zip(found["ours"], digits, strict=True)
    ]
    columns = {"where": found["where"], "what": found["what"], "printed": found["printed"]}
    more = {"ours": ours, "unit": found["unit"], "verdict": found["verdict"], "how": found["how"]}
    return pd.DataFrame(columns | more)


def main(arguments: list[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description="compare every printed number with ours")
    parser.add_argument("--out", type=Path, default=OUT, help=f"default: {OUT.name}")
    args = parser.parse_args(arguments)
    found = table()
    found.to_csv(args.out, index=False, lineterminator="\n")
    print(f"{args.out}: {len(found)} rows; {found['verdict'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
