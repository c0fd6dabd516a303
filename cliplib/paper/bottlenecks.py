"""Three data scales under the same models: what samples seen buy when pairs repeat.

Tables only; `cliplib.paper.bottlenecks_figures` draws them. Reading order: the runs with their
recipes, exponents of samples, pairs of runs that differ in data scale, the paper's claims, effective
data. A comparison of data scales compares recipes too, where these changed with the data.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cliplib import published
from cliplib.laws import Fit, fit, profile
from cliplib.laws.compare import t_quantile

SCALES = ("LAION-80M", "LAION-400M", "LAION-2B")
SIZES = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
LABELS = ("3B", "13B", "34B")
USUAL_LR, USUAL_BATCH = 1e-3, 75_000  # of most runs
LIKE_BATCH = 1.1  # batches within this factor count as alike


# ------------------------------------------------------------------------------------------ the runs


def grid(dataset: str) -> pd.DataFrame:
    """The 29 OpenCLIP runs: `published.openclip_runs` with lr, batch, warmup, unique, passes.

    unique: pairs of the data set, nominal. passes: samples seen / unique.
    """
    settings = published.pretraining_runs().set_index("run_id")
    runs = published.openclip_runs(dataset)
    at = settings.loc[runs["run_id"]].reset_index(drop=True)
    return runs.assign(
        lr=at["lr"],
        batch=at["global_batch"],
        warmup=at["warmup_steps"],
        unique=at["data_pairs_nominal"].astype(float),
        passes=runs["samples_seen"] / at["data_pairs_nominal"],
    )


# ------------------------------------------------------------------------------ exponents of samples


def plane(runs: pd.DataFrame) -> Fit:
    """The law A N^-alpha D^-beta of runs: N in GMACs a pair, D in samples seen."""
    return fit(
        "nd_multiplicative", runs[["gmacs_per_sample", "samples_seen"]].to_numpy(), runs["error"]
    )


def exponent_span(law: Fit, name: str, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of an exponent; exact for a law that is linear in logs, such as `plane`."""
    i = list(law.params).index(name)
    half = t_quantile(law.dof, level) * float(np.sqrt(law.cov[i, i]))
    return law.params[name] - half, law.params[name] + half


def planes(dataset: str) -> pd.DataFrame:
    """Exponents of model size and of samples seen by data scale, each scale on its own.

    Columns: data, n, size, size_low, size_high, samples, samples_low, samples_high (t), scatter (of
    ln E). Exponents are those of the error: negative where it falls.
    """
    rows = []
    for data, runs in _by_scale(grid(dataset)):
        law = plane(runs)
        row: dict[str, object] = {"data": data, "n": law.n, "scatter": law.residual_sd}
        for name, key in (("alpha", "size"), ("beta", "samples")):
            low, high = exponent_span(law, name)
            row |= {key: -law.params[name], f"{key}_low": -high, f"{key}_high": -low}
        rows.append(row)
    return pd.DataFrame(rows)


def _by_scale(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(data, runs[runs["data"] == data]) for data in SCALES]


def samples_test(
    dataset: str, few: str, many: str, like: bool = False, level: float = 0.95
) -> dict[str, float]:
    """Test whether the exponent of samples is the same on two data scales, with one of size.

    Least squares of ln E on ln N, the scale, ln D and their product. like: only runs with the usual
    recipe (`USUAL_LR`, a batch of `USUAL_BATCH` or more). Returns difference (many less few), low,
    high, p, dof, n, scatter.
    """
    import statsmodels.formula.api as smf

    runs = grid(dataset)
    kept = runs[runs["data"].isin([few, many])]
    if like:
        kept = kept[(kept["lr"] == USUAL_LR) & (kept["batch"] >= USUAL_BATCH)]
    table = pd.DataFrame(
        {
            "y": np.log(kept["error"]),
            "size": np.log(kept["gmacs_per_sample"]),
            "samples": np.log(kept["samples_seen"] / 1e10),
            "many": (kept["data"] == many).astype(float),
        }
    )
    found = smf.ols("y ~ size + samples * many", table).fit()
    value, se = float(found.params["samples:many"]), float(found.bse["samples:many"])
    half = t_quantile(int(found.df_resid), level) * se
    return {
        "difference": value,
        "low": value - half,
        "high": value + half,
        "p": float(found.pvalues["samples:many"]),
        "dof": int(found.df_resid),
        "n": len(kept),
        "scatter": float(np.sqrt(found.mse_resid)),
    }


def local_exponents(dataset: str) -> pd.DataFrame:
    """The exponent of samples between neighbours in the number of samples, all else equal by label.

    Columns: arch, data, step (such as "3B to 13B"), passes (at the end of the step), exponent.
    """
    rows = []
    for (data, arch), runs in grid(dataset).groupby(["data", "arch"], sort=False):
        ordered = runs.sort_values("samples_seen")
        slopes = np.diff(np.log(ordered["error"])) / np.diff(np.log(ordered["samples_seen"]))
        names = [f"{a} to {b}" for a, b in itertools.pairwise(ordered["samples_seen_label"])]
        for name, passes, slope in zip(names, ordered["passes"][1:], slopes, strict=True):
            rows.append((arch, data, name, passes, slope))
    return pd.DataFrame(rows, columns=["arch", "data", "step", "passes", "exponent"])


# -------------------------------------------------------------------------- pairs, and their recipes


def pairs(dataset: str, few: str, many: str) -> pd.DataFrame:
    """Runs on two data scales that agree in architecture and samples label.

    Columns: arch, label, ratio (error on few / error on many), points (accuracy gained by the move to
    many), lr, batch, warmup (each _few and _many), like (1: equal lr, batches within a tenth).
    """
    runs = grid(dataset)
    keys = ["arch", "samples_seen_label"]
    old, new = (runs[runs["data"] == data] for data in (few, many))
    both = old.merge(new, on=keys, suffixes=("_few", "_many"), validate="1:1")
    ratio = both["batch_few"] / both["batch_many"]
    like = (both["lr_few"] == both["lr_many"]) & ratio.between(1 / LIKE_BATCH, LIKE_BATCH)
    settings = [f"{name}_{side}" for name in ("lr", "batch", "warmup") for side in ("few", "many")]
    table = both[settings].assign(
        arch=both["arch"],
        label=both["samples_seen_label"],
        ratio=both["error_few"] / both["error_many"],
        points=100 * (both["error_few"] - both["error_many"]),
        like=like.astype(int),
    )
    order = {name: i for names in (SIZES, LABELS) for i, name in enumerate(names)}
    return table.sort_values(["label", "arch"], key=lambda c: c.map(order), ignore_index=True)


def paired(table: pd.DataFrame, level: float = 0.95) -> dict[str, float]:
    """Student's t on the log ratios of `pairs`: n, percent (few above many), low, high, p."""
    from scipy.stats import ttest_1samp

    log_ratio = np.log(table["ratio"].to_numpy())
    found = ttest_1samp(log_ratio, 0.0)
    span = found.confidence_interval(level)
    percent = 100 * np.expm1([log_ratio.mean(), span.low, span.high])
    value, low, high = map(float, percent)
    return {
        "n": len(log_ratio),
        "percent": value,
        "low": low,
        "high": high,
        "p": float(found.pvalue),
    }


def paired_parts(dataset: str, few: str, many: str) -> pd.DataFrame:
    """`paired` of all pairs, of each number of samples, of pairs with like recipes; column part."""
    table = pairs(dataset, few, many)
    parts = {"all": table}
    parts |= {f"{label} samples": table[table["label"] == label] for label in LABELS}
    parts["like recipes"] = table[table["like"] == 1]
    parts["other recipes"] = table[table["like"] == 0]
    return pd.DataFrame([{"part": name} | paired(t) for name, t in parts.items() if len(t) > 1])


RESPONSES = {
    "imagenet1k": "top1",
    "imagenet_robustness": "top1",
    "vtab+": "top1",
    "mscoco_captions": "image_retrieval_recall_at_5",
}
# a model of `published.extra_control_runs` -> the run of the grid that differs in recipe only
CONTROLS = {
    "B-32 B-32_Data-400M_Samples-3B_lr-5e-4_bs-32k": "openclip/B-32/LAION-400M/3B",
    "B-32 B-32_Data-2B_Samples-3B_lr-5e-4_bs-32k": "openclip/B-32/LAION-2B/3B",
    "B-32-quickgelu laion400m_e32": "openclip/B-32/LAION-400M/13B",
    "L-14 laion400m_e32": "openclip/L-14/LAION-400M/13B",
}


def controls() -> pd.DataFrame:
    """Runs of the grid beside one of like architecture, data and samples with another recipe.

    Columns: run_id, control, then for each data set of `RESPONSES` the grid's run less the control
    (points), nan where the control was not scored.
    """
    table = published.extra_control_runs().set_index(["model_id", "dataset", "metric"])["value"]
    rows = []
    for control, run in CONTROLS.items():
        row: dict[str, object] = {"run_id": run, "control": control}
        for dataset, metric in RESPONSES.items():
            own = published.openclip_runs(dataset).set_index("run_id")["error"][run]
            row[dataset] = 100 * (1 - own - table.get((control, dataset, metric), np.nan))
        rows.append(row)
    return pd.DataFrame(rows)


# -------------------------------------------------------------------------------- the paper's claims


def gains(arch: str, before: tuple[str, str], after: tuple[str, str]) -> dict[str, float]:
    """Points gained from one run to another of an architecture, by data set of `RESPONSES`.

    before, after: (data, samples label), such as ("LAION-400M", "13B").
    """
    found = {}
    for dataset in RESPONSES:
        runs = published.openclip_runs(dataset).set_index(["arch", "data", "samples_seen_label"])
        old, new = runs["error"][(arch, *before)], runs["error"][(arch, *after)]
        found[dataset] = 100 * float(old - new)
    return found


# ------------------------------------------------------------------------------------ effective data


def effective(dataset: str, law: str = "nd_effective", scales: Sequence[str] = SCALES) -> Fit:
    """A law with effective data through the runs on these scales: N, D, U.

    D' = U + U R (1 - exp(-(D/U - 1)/R)): R repeats after which further passes are nearly worthless.
    """
    runs = grid(dataset)
    runs = runs[runs["data"].isin(scales)]
    columns = ["gmacs_per_sample", "samples_seen", "unique"]
    return fit(law, runs[columns].to_numpy(), runs["error"])


def effective_share(passes: np.ndarray, R: float) -> np.ndarray:
    """Effective data over samples seen after so many passes.

    >>> effective_share(np.array([1.0, 4.0]), 15.0).round(2)
    array([1.  , 0.93])
    """
    repeats = np.maximum(np.asarray(passes, dtype=float) - 1, 0)
    return np.asarray((1 + R * -np.expm1(-repeats / R)) / np.maximum(passes, 1))


def repeats_curve(law: Fit) -> pd.DataFrame:
    """`laws.profile` of R as a curve: R, height (misfit above the best; 1 bounds the 95% interval)."""
    found = profile(law, "R")
    rise = np.maximum(found.objective / law.objective - 1, 0.0)
    top = t_quantile(law.dof, found.level) ** 2 / law.dof
    return pd.DataFrame({"R": found.values, "height": rise / top})


def repeats(datasets: Sequence[str] = ("imagenet1k", "mscoco_captions")) -> pd.DataFrame:
    """R with its profile interval: by data set, law and data scales.

    Columns: dataset, law, scales, n, R, low, high, scatter (of ln E).
    """
    rows = []
    for dataset, law, scales in itertools.product(
        datasets, ("nd_effective", "chinchilla_effective"), (SCALES, SCALES[:2], SCALES[1:])
    ):
        fitted = effective(dataset, law, scales)
        found = profile(fitted, "R")
        name = " and ".join(scales) if len(scales) < 3 else "all three"
        rows.append(
            (
                dataset,
                law,
                name,
                fitted.n,
                fitted.params["R"],
                found.low,
                found.high,
                fitted.residual_sd,
            )
        )
    columns = ["dataset", "law", "scales", "n", "R", "low", "high", "scatter"]
    return pd.DataFrame(rows, columns=columns)
