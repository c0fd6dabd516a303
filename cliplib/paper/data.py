"""Does the data change the law? LAION against WIT, and later distributions against the paper's law.

Tables only; `cliplib.paper.data_figures` draws them. A source is data *and* recipe together. Reading
order: two sources compared in four ways, many tasks, one claim over all tasks, later distributions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cliplib import published
from cliplib.laws import frontier, paper_law
from cliplib.laws.compare import SlopeComparison, compare_slopes, matched, t_test
from cliplib.laws.joint import JointReport, mixed
from cliplib.laws.lines import lines
from cliplib.laws.tasks import tasks
from cliplib.paper.tasks import LARGER, larger

CELL = ("arch", "samples_seen_label")
SIZES = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
WAYS = {
    "bins": "the paper's bin minima",
    "all": "all runs on the larger sets",
    "matched": "matched runs",
    "laion400m": "matched, LAION-400M only",
}
# distribution of `published.later_models` -> name. MetaCLIP's samples seen are not confirmed: it has
# no place on a compute axis.
DISTRIBUTIONS = {
    "datacomp_xl": "DataComp",
    "datacomp_l": "DataComp",
    "commonpool_xl_clip": "CommonPool, CLIP filter",
    "commonpool_xl_laion": "CommonPool, LAION filter",
    "commonpool_xl": "CommonPool, unfiltered",
    "commonpool_l_clip": "CommonPool, CLIP filter",
    "commonpool_l_laion": "CommonPool, LAION filter",
    "commonpool_l": "CommonPool, unfiltered",
}
WIT = "WIT (OpenAI)"
COMPARABLE = {
    "datacomp_xl": "DataComp",
    "metaclip_400m": "MetaCLIP-400M",
    "metaclip_fullcc": "MetaCLIP, full",
}
RESPONSES = {"imagenet1k": "in1k_top1", "mscoco_captions": "coco_image_r5"}


# ------------------------------------------------------------------------ two sources, in four ways


def two_sources(dataset: str, way: str = "matched") -> pd.DataFrame:
    """The models of one comparison, OpenCLIP first: family, arch, data, compute, error and so on.

    way: a key of `WAYS`. ``bins``: five bin minima at their centres, as the paper fits them, beside
    OpenAI's three models. ``all``: the 20 runs on the larger LAION sets. ``matched``: those of the
    three architectures and the number of samples (13B, nominal) that OpenAI's models have.
    """
    runs = published.errors(dataset)
    openai = runs[runs["family"] == "OpenAI"]
    if way == "bins":
        openclip = runs[runs["family"] == "OpenCLIP"]
        points = frontier(openclip["compute"], openclip["error"], "bins")
        best = openclip.iloc[points.index].assign(compute=points.C, error=points.E)
        return pd.concat([best, openai], ignore_index=True)
    kept = larger(runs)
    if way == "laion400m":
        kept = kept[kept["data"] == LARGER[0]]
    both = pd.concat([kept, openai], ignore_index=True)
    return both if way == "all" else matched(both, "family", CELL)


def compared(runs: pd.DataFrame) -> SlopeComparison:
    """`laws.compare_slopes` of the two families, with a permutation test."""
    return compare_slopes(runs, "family")


def comparisons(datasets: tuple[str, ...] = published.FIGURE1_DATASETS) -> pd.DataFrame:
    """Slopes and levels of OpenAI's models against OpenCLIP's, by data set and way.

    Columns: dataset, way, openclip, openai (models or points), difference (of exponents, OpenAI less
    OpenCLIP), low, high, dof, p, p_permutation; percent (OpenAI's error against OpenCLIP's at equal
    compute, parallel lines), percent_low, percent_high, percent_p.
    """
    return pd.DataFrame(
        [
            {"dataset": dataset, "way": way} | _numbers(two_sources(dataset, way))
            for dataset in datasets
            for way in WAYS
        ]
    )


def _numbers(runs: pd.DataFrame) -> dict[str, float]:
    found = compared(runs)
    slope = found.differences.iloc[0]
    level = found.levels.query("slopes == 'common'").iloc[0]
    p = found.tests.set_index("test")["p"]
    n = runs["family"].value_counts()
    return {
        "openclip": int(n["OpenCLIP"]),
        "openai": int(n["OpenAI"]),
        **{name: float(slope[name]) for name in ("difference", "low", "high", "p")},
        "dof": int(slope["dof"]),
        "p_permutation": float(p["permutation"]),
        "percent": float(level["percent"]),
        **{f"percent_{name}": float(level[name]) for name in ("low", "high", "p")},
    }


def without_each(dataset: str) -> pd.DataFrame:
    """The matched comparison without each run in turn: left_out, difference, low, high, p, dof.

    Without one of OpenAI's models its line is fixed by the other two.
    """
    runs = two_sources(dataset)
    rows = []
    for index, run in runs.iterrows():
        found = compare_slopes(runs.drop(index=index), "family", permutations=0)
        numbers = found.differences.iloc[0]
        rows.append(
            {"left_out": run["run_id"], **numbers[["difference", "low", "high", "p", "dof"]]}
        )
    return pd.DataFrame(rows)


def openai_kinds(dataset: str) -> pd.DataFrame:
    """OpenAI's transformers and ResNets, all on WIT: kind, model, compute (GMAC), error."""
    table = published.later_models().query("family == 'OpenAI' and compute_comparable == 1")
    kind = np.where(table["model"].str.startswith("ViT"), "transformers", "ResNets")
    return pd.DataFrame(
        {
            "kind": kind,
            "model": table["model"],
            "compute": table["gmacs_total"],
            "error": 1 - table[RESPONSES[dataset]],
        }
    ).sort_values(["kind", "compute"], ascending=[False, True], ignore_index=True)


# --------------------------------------------------------------------------------------- many tasks


def every_task(way: str = "matched") -> pd.DataFrame:
    """The comparison's models on all 38 tasks, long, with a column task; averages are no tasks."""
    names = published.downstream_datasets()["dataset"]
    tables = [two_sources(name, way).assign(task=name) for name in names]
    return pd.concat(tables, ignore_index=True)


def contrasts(runs: pd.DataFrame, own_slopes: bool = False) -> pd.DataFrame:
    """`laws.tasks` contrasts of OpenAI against OpenCLIP, a row a task; see `laws.tasks`."""
    found = tasks(runs, by="family", own_slopes=own_slopes).contrasts
    assert found is not None  # there are two families
    return found


def claims(tables: Mapping[str, pd.DataFrame], level: float = 0.05) -> pd.DataFrame:
    """How many tasks differ, by comparison and by rule for many tests.

    tables: `contrasts` by name. Columns: comparison, what (exponent|level), tasks, alone, bh, holm,
    lower (of those that pass Benjamini-Hochberg: OpenAI steeper, or with the lower error).
    """
    rows = []
    for name, table in tables.items():
        for what, value in (("slope", "slope_difference"), ("level", "level_percent")):
            passed = table[f"{what}_p_bh"] < level
            rows.append(
                {
                    "comparison": name,
                    "what": "exponent" if what == "slope" else "level",
                    "tasks": len(table),
                    "alone": int((table[f"{what}_p"] < level).sum()),
                    "bh": int(passed.sum()),
                    "holm": int((table[f"{what}_p_holm"] < level).sum()),
                    "lower": int((passed & (table[value] < 0)).sum()),
                }
            )
    return pd.DataFrame(rows)


def over_all_tasks(runs: pd.DataFrame) -> JointReport:
    """The mean difference of exponents over the tasks, by methods that differ in what they assume."""
    return mixed(runs, "family")


# ----------------------------------------------------------------------------- later distributions


def later_misses() -> pd.DataFrame:
    """Models on later distributions against the paper's laws at their own compute.

    Kept: comparable compute, inside the range of the study's runs, or at most a tenth below it.
    OpenAI's three models stand with them. Columns: distribution, arch, samples_seen, compute (GMAC),
    imagenet, coco (accuracy and Recall@5 above the law, points).
    """
    table = published.later_models()
    openai = (table["family"] == "OpenAI") & table["model"].isin(SIZES)
    later = table["data"].isin(DISTRIBUTIONS) & (table["compute_comparable"] == 1)
    kept = table[openai | (later & table["model"].isin(SIZES))]
    misses = {
        short: 100 * (kept[RESPONSES[dataset]] - 1 + _law_error(dataset, kept["gmacs_total"]))
        for short, dataset in (("imagenet", "imagenet1k"), ("coco", "mscoco_captions"))
    }
    found = pd.DataFrame(
        {
            "distribution": kept["data"].map(DISTRIBUTIONS).fillna(WIT),
            "arch": kept["model"],
            "samples_seen": kept["samples_seen"],
            "compute": kept["gmacs_total"],
            **misses,
        }
    )
    inside = found["compute"] >= 0.9 * published.openclip_runs("imagenet1k")["compute"].min()
    return found[inside].sort_values(["compute", "imagenet"], ascending=False, ignore_index=True)


def _law_error(dataset: str, compute: pd.Series) -> np.ndarray:
    return np.asarray(paper_law(published.errors(dataset)).predict(compute.to_numpy()))


def by_size(dataset: str, metaclip: bool = True) -> pd.DataFrame:
    """B/32, B/16 and L/14 of several sources: source, arch, gmacs_per_sample (GMAC), error.

    All runs of a source saw equally many samples (13B, nominal), so its slope over size needs no
    count of samples. MetaCLIP's count is not confirmed; that its three models saw equally many is
    taken for granted.
    """
    runs = published.errors(dataset)
    known = runs[(runs["samples_seen_label"] == "13B") & runs["data"].isin([*LARGER, "WIT-400M"])]
    known = known[known["arch"].isin(SIZES)].rename(columns={"data": "source"})
    table = published.later_models()
    table = table.assign(arch=table["model"].str.removesuffix("-quickgelu"))
    later = table[table["data"].isin(COMPARABLE) & table["arch"].isin(SIZES)]
    later = later.assign(source=later["data"].map(COMPARABLE), error=1 - later[RESPONSES[dataset]])
    both = pd.concat([known, later], ignore_index=True)
    if not metaclip:
        both = both[~both["source"].str.startswith("MetaCLIP")]
    kept = both[["source", "arch", "gmacs_per_sample", "error"]].reset_index(drop=True)
    first = {name: i for i, name in enumerate((*LARGER, "WIT-400M", *COMPARABLE.values()))}
    order = kept["source"].map(first)
    return kept.assign(order=order).sort_values(["order", "gmacs_per_sample"]).drop(columns="order")


def size_slopes(runs: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Exponent of the error in model size by source; scatter pooled over the sources.

    runs: `by_size`. Columns: source, n, slope, low, high, dof.
    """
    group, names = pd.factorize(runs["source"])
    x, y = np.log(runs["gmacs_per_sample"].to_numpy()), np.log(runs["error"].to_numpy())
    found = lines(x, y, group)
    se = np.sqrt(found.sse / found.dof / found.sxx)
    slope, low, high, _ = t_test(found.slope, se, found.dof, level)
    columns = {"source": names, "n": found.n.astype(int), "slope": slope, "low": low, "high": high}
    return pd.DataFrame(columns).assign(dof=found.dof)


def size_comparison(dataset: str, metaclip: bool = True) -> SlopeComparison:
    """Compare the size slopes of the sources, and their levels."""
    return compare_slopes(by_size(dataset, metaclip), "source", x="gmacs_per_sample")
