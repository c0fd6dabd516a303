"""The paper's downstream tasks one by one: slopes, verdicts, averages, guessing, test-set noise.

Tables only; `cliplib.paper.task_figures` draws them. Reading order: the tasks and their runs, what
falls and what does not, what averages hold, tasks at guessing, how many items an error counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cliplib import InputError, published
from cliplib.laws import Interval, Recipe, bootstrap, fit, paper_law, t_interval
from cliplib.laws.compare import compare_slopes
from cliplib.laws.noise import binomial_se
from cliplib.laws.tasks import tasks

# The runs that a line goes through: LAION-80M's are left out, because there the data run out.
LARGER = ("LAION-400M", "LAION-2B")
NAMES = {
    "imagenet1k": "ImageNet",
    "imagenetv2": "ImageNet-V2",
    "imagenet-r": "ImageNet-R",
    "imagenet_sketch": "ImageNet-Sketch",
    "objectnet": "ObjectNet",
    "imagenet-a": "ImageNet-A",
    "imagenet_robustness": "robustness (mean of 5)",
    "vtab": "VTAB (mean of 19)",
    "vtab+": "VTAB+ (mean of 35)",
    "cars": "Stanford Cars",
    "country211": "Country211",
    "fer2013": "FER2013",
    "fgvc_aircraft": "FGVC Aircraft",
    "gtsrb": "GTSRB",
    "mnist": "MNIST",
    "renderedsst2": "Rendered SST2",
    "stl10": "STL-10",
    "sun397": "SUN397",
    "voc2007": "VOC 2007",
    "voc2007_multilabel": "VOC 2007 multi-label",
    "vtab/caltech101": "Caltech-101",
    "vtab/cifar10": "CIFAR-10",
    "vtab/cifar100": "CIFAR-100",
    "vtab/clevr_closest_object_distance": "CLEVR distance",
    "vtab/clevr_count_all": "CLEVR count",
    "vtab/diabetic_retinopathy": "Diabetic Retinopathy",
    "vtab/dmlab": "DMLab",
    "vtab/dsprites_label_orientation": "dSprites orientation",
    "vtab/dsprites_label_x_position": "dSprites x position",
    "vtab/dtd": "DTD",
    "vtab/eurosat": "EuroSAT",
    "vtab/flowers": "Flowers-102",
    "vtab/kitti_closest_vehicle_distance": "KITTI distance",
    "vtab/pcam": "PCam",
    "vtab/pets": "Oxford Pets",
    "vtab/resisc45": "RESISC45",
    "vtab/smallnorb_label_azimuth": "smallNORB azimuth",
    "vtab/smallnorb_label_elevation": "smallNORB elevation",
    "vtab/svhn": "SVHN",
}
# Classes of the tasks that no run may have learnt (CLIP_benchmark's class names; the label sets of
# dSprites and smallNORB). Guessing scores 1 / classes.
CLASSES = {
    "vtab/clevr_closest_object_distance": 6,
    "vtab/clevr_count_all": 8,
    "vtab/diabetic_retinopathy": 5,
    "vtab/dmlab": 6,
    "vtab/dsprites_label_orientation": 40,
    "vtab/dsprites_label_x_position": 32,
    "vtab/kitti_closest_vehicle_distance": 4,
    "vtab/pcam": 2,
    "vtab/smallnorb_label_azimuth": 18,
    "vtab/smallnorb_label_elevation": 9,
}
_GENERAL = ("caltech101", "cifar10", "cifar100", "stl10", "voc2007", "voc2007_multilabel")
_SCENES = ("sun397", "dtd")
AVERAGES = {
    "imagenet_robustness": "in_robustness5",
    "vtab+": "in_vtab_plus35",
    "vtab": "in_vtab19_zeroshot",
}


# ------------------------------------------------------------------------- the tasks and their runs


def groups() -> dict[str, list[str]]:
    """The classification tasks in five groups, each small enough for one figure."""
    sets = published.downstream_datasets().query("kind == 'classification'")
    parts: dict[str, list[str]] = {
        name: []
        for name in ("ImageNet and its shifts", "general", "fine", "specialised", "structured")
    }
    for _, row in sets.iterrows():
        parts[_group(row)].append(str(row["dataset"]))
    return parts


def _group(row: pd.Series) -> str:
    name = str(row["dataset"])
    if name == "imagenet1k" or row["in_robustness5"]:
        return "ImageNet and its shifts"
    if row["group"] == "natural":
        return "general" if name.removeprefix("vtab/") in _GENERAL + _SCENES else "fine"
    return "structured" if row["group"] == "structured" else "specialised"


def task_runs(metric: str | None = None, extra: Sequence[str] = ()) -> pd.DataFrame:
    """All 32 models on every classification task, long: `published.errors` with a column task.

    metric: by default the one that the paper fits; a task that lacks it is left out. extra:
    averages to add. The averages are no tasks of their own: counts must leave them out.
    """
    scores = published.zero_shot()
    names = [name for part in groups().values() for name in part]
    if metric is not None:
        names = [n for n in names if metric in set(scores["metric"][scores["dataset"] == n])]
    return pd.concat(
        [published.errors(name, metric).assign(task=name) for name in [*names, *extra]],
        ignore_index=True,
    )


def larger(runs: pd.DataFrame) -> pd.DataFrame:
    """The OpenCLIP runs on the two larger LAION sets."""
    return runs[runs["data"].isin(LARGER)]


# ------------------------------------------------------------------- what falls and what does not


def slopes(
    runs: pd.DataFrame, errors: str = "classical", exclude: Sequence[str] = tuple(AVERAGES)
) -> pd.DataFrame:
    """`laws.tasks` of these runs: task, n, slope, low, high, p, p_bh, p_holm, verdict.

    The verdict (falls, flat, rises) allows 5% of the claims to be false (Benjamini-Hochberg).
    exclude: tasks that do not count; by default the averages, whose parts count already.
    """
    return tasks(runs, errors=errors, exclude=exclude).slopes.drop(columns="group")


def recipes(runs: pd.DataFrame, n: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The paper's frontier recipe on each task: task, alpha, low, high (bootstrap of the runs)."""
    openclip = runs[runs["family"] == "OpenCLIP"]
    recipe = Recipe("power", "bins")
    rows = []
    for task, table in openclip.groupby("task", sort=False):
        low, high, *_ = bootstrap(recipe, table, n, seed).ci()["alpha"]
        rows.append((task, recipe(table)["alpha"], low, high))
    return pd.DataFrame(rows, columns=["task", "alpha", "low", "high"])


def verdict_counts(by_choice: Mapping[str, pd.DataFrame], level: float = 0.05) -> pd.DataFrame:
    """How many tasks fall, stay flat or rise, by choice and by rule for many tests.

    by_choice: tables of `slopes`. Columns: choice, tasks, then "falls / flat / rises" for no
    adjustment, Benjamini-Hochberg and Holm.
    """
    rules = {"each test alone": "p", "Benjamini-Hochberg": "p_bh", "Holm": "p_holm"}
    rows = [
        {"choice": choice, "tasks": len(table)}
        | {rule: " / ".join(map(str, _count(table, p, level))) for rule, p in rules.items()}
        for choice, table in by_choice.items()
    ]
    return pd.DataFrame(rows)


def _count(table: pd.DataFrame, p: str, level: float) -> tuple[int, int, int]:
    sure = table[p] < level
    falls = int((sure & (table["slope"] < 0)).sum())
    return falls, int((~sure).sum()), int(sure.sum()) - falls


def shared_luck(runs: pd.DataFrame) -> float:
    """Mean absolute correlation, over the runs, of two tasks' residuals about their lines."""
    residuals = {
        task: pd.Series(fit("power", t["compute"], t["error"]).residuals, t["run_id"])
        for task, t in runs.groupby("task", sort=False)
    }
    table = pd.DataFrame(residuals).corr().to_numpy()
    return float(np.abs(table[np.triu_indices(len(table), 1)]).mean())


# ----------------------------------------------------------------------------- families and averages


def families(runs: pd.DataFrame, n: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Exponents of both families on each task, and OpenAI's error at equal compute.

    openclip, openclip_low, openclip_high: the paper's recipe, bootstrap. openai, ...: a line, t
    with one degree of freedom. percent, low, high, p: OpenAI's error against OpenCLIP's at equal
    compute, on matched runs (same architectures and samples label; LAION-400M and LAION-2B);
    slope_p: are the two slopes equal?; matched: runs compared.
    """
    rows = []
    for task, table in runs.groupby("task", sort=False):
        recipe = bootstrap(Recipe("power", "bins"), table[table["family"] == "OpenCLIP"], n, seed)
        openai = paper_law(table, "OpenAI")
        rows.append(
            {
                "task": task,
                **_named("openclip", paper_law(table).params["alpha"], recipe.ci()["alpha"]),
                **_named("openai", openai.params["alpha"], t_interval(openai)["alpha"]),
                **at_equal_compute(table),
            }
        )
    return pd.DataFrame(rows)


def _named(name: str, value: float, interval: Interval) -> dict[str, float]:
    return {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def at_equal_compute(runs: pd.DataFrame, data: Sequence[str] = LARGER) -> dict[str, float]:
    """OpenAI's error against OpenCLIP's on runs of the same architectures and samples label.

    runs: one task. Parallel lines in log-log, one scatter. Returns percent, low, high, p, dof,
    matched (runs), slope_p (test of equal slopes).
    """
    kept = runs[runs["data"].isin([*data, "WIT-400M"])].sort_values("family", ascending=False)
    found = compare_slopes(kept, "family", match=["arch", "samples_seen_label"], permutations=0)
    level = found.levels.query("slopes == 'common'").iloc[0]
    parts = {part: float(level[part]) for part in ("percent", "low", "high", "p", "dof")}
    return parts | {"matched": found.n, "slope_p": float(found.differences["p"].iloc[0])}


def averages() -> pd.DataFrame:
    """Compare each published average with the mean of its parts.

    The last row sets the zero-shot VTAB against the 19 sets that the probes average under the same
    name. Columns: average, members (column of `published.downstream_datasets`), parts (number),
    least, most (mean of the parts less the published average, points, over the 32 models).
    """
    wide = published.zero_shot().query("metric == 'top1'")
    wide = wide.pivot(index="run_id", columns="dataset", values="value")
    sets = published.downstream_datasets().set_index("dataset")
    rows = []
    for average, column in [*AVERAGES.items(), ("vtab", "in_vtab19_probe")]:
        parts = sets.index[sets[column] == 1]
        apart = 100 * (wide[parts].mean(axis=1) - wide[average])
        rows.append((average, column, len(parts), apart.min(), apart.max()))
    return pd.DataFrame(rows, columns=["average", "members", "parts", "least", "most"])


def only_in(one: str, other: str) -> list[str]:
    """Data sets that one membership column of `published.downstream_datasets` has and another not."""
    sets = published.downstream_datasets()
    return list(sets["dataset"][(sets[one] == 1) & (sets[other] == 0)])


def mean_error(runs: pd.DataFrame, parts: Sequence[str]) -> pd.DataFrame:
    """The mean error of each model over some tasks: the columns of `published.errors`."""
    some = runs[runs["task"].isin(parts)]
    if some.empty:
        raise InputError("no run has any of these tasks")
    keys = ["run_id", "family", "arch", "data", "samples_seen_label", "compute"]
    return some.groupby(keys, sort=False)["error"].mean().reset_index()


# ------------------------------------------------------------------------------- tasks at guessing


def guessing(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The tasks of `CLASSES` beside a guess, over the 29 OpenCLIP runs.

    Columns: task, verdict, classes, guess (top-1 error of guessing), best, worst (top-1 error),
    low, median, high (mean per-class recall times the number of classes: 1 is a guess, whatever
    the shares of the classes).
    """
    known = verdicts.set_index("task")["verdict"]
    rows = []
    for task, k in CLASSES.items():
        error = published.openclip_runs(task)["error"]
        recall = k * (1 - published.openclip_runs(task, "mean_per_class_recall")["error"])
        spread = (recall.min(), recall.median(), recall.max())
        rows.append((task, known[task], k, 1 - 1 / k, error.min(), error.max(), *spread))
    columns = ["task", "verdict", "classes", "guess", "best", "worst", "low", "median", "high"]
    return pd.DataFrame(rows, columns=columns)


# --------------------------------------------------------------------- how many items an error counts

MOST_ITEMS = 150_000
DIGITS = 5e-8  # relative: the values were stored as 32-bit floats, or with nine digits


def items_behind(values: np.ndarray) -> tuple[int, int]:
    """The number of test items n that makes each value a whole count, values = k / n.

    values: metrics of several models on one test set. Returns the smallest n that makes the most
    of them whole, and how many it makes whole. With a dozen or more values chance plays no part.

    >>> items_behind(np.array([3, 5, 8, 11, 14, 23, 31, 44, 51, 61]) / 711)
    (711, 10)
    """
    n = np.arange(100, MOST_ITEMS + 1)
    fits = np.zeros(n.size, dtype=int)
    for value in np.asarray(values, dtype=float):
        count = value * n
        fits += np.abs(count - np.rint(count)) <= DIGITS * n
    best = int(np.argmax(fits))
    return int(n[best]), int(fits[best])


def item_counts(metrics: Sequence[str] = ("top1",)) -> pd.DataFrame:
    """Test items behind every published metric that counts items: task, metric, items, models."""
    scores = published.zero_shot()
    scores = scores[(scores["is_aggregate"] == 0) & scores["metric"].isin(metrics)]
    rows = [
        (task, metric, *items_behind(table["value"].to_numpy()))
        for (task, metric), table in scores.groupby(["dataset", "metric"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["task", "metric", "items", "models"])


def item_noise(runs: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Scatter about each task's line, and how much of it the finite test set can explain.

    Columns: task, items, scatter (standard deviation of ln E about the line), noise (of ln E from
    drawing the items), share (of the variance; an upper bound, see the chapter).
    """
    counted = items.set_index("task")["items"]
    rows = []
    for task, table in runs[runs["task"].isin(counted.index)].groupby("task", sort=False):
        E = table["error"].to_numpy()
        noise = np.sqrt(np.mean((binomial_se(E, counted[task]) / E) ** 2))
        scatter = fit("power", table["compute"], E).residual_sd
        rows.append((task, int(counted[task]), scatter, noise, noise**2 / scatter**2))
    return pd.DataFrame(rows, columns=["task", "items", "scatter", "noise", "share"])
