"""Fine-tuning on ImageNet: the paper's Figure 4 again, and paired looks at the later timm results.

Everything comes from `cliplib.published.finetuned`, whose accuracies are in percent. A row is one
image tower, fine-tuned; compute is GMACs of that tower at its resolution, the paper's x-axis.
Differences are taken between rows that agree in everything else the table records.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from cliplib import laws, published

SCALES = ("B/32", "B/16", "L/14", "H/14")
METRICS = {
    "in1k_top1": "ImageNet",
    "real_top1": "ReaL",
    "inv2_top1": "V2",
    "ina_top1": "A",
    "inr_top1": "R",
    "sketch_top1": "Sketch",
    "robust4_mean": "mean of V2, A, R, Sketch",
}
ROUTES = {0: "ImageNet-1k only", 1: "ImageNet-12k, then 1k"}
FAMILIES = ("OpenCLIP ViT", "OpenAI ViT", "OpenCLIP ConvNeXt")

#: ImageNet accuracy on the authors' slides (2023): size -> (directly, by way of ImageNet-12k).
#: No resolution is known for them; ours is the timm row that comes nearest.
SLIDES = {
    "B/32": (82.58, 85.11),
    "B/16": (86.53, 87.17),
    "L/14": (87.78, 88.17),
    "H/14": (87.59, 88.50),
}
#: The fine-tuned checkpoints that the paper's page lists, by timm's names. Those that end at
#: ImageNet-12k have a classifier of its classes, and so no score on ImageNet-1k.
PAPER_PAGE = (
    "vit_base_patch32_clip_224.laion2b_ft_in1k",
    "vit_large_patch14_clip_224.laion2b_ft_in1k",
    "vit_large_patch14_clip_224.laion2b_ft_in12k",
    "vit_large_patch14_clip_224.laion2b_ft_in12k_in1k",
    "vit_large_patch14_clip_336.laion2b_ft_in12k_in1k",
    "vit_huge_patch14_clip_224.laion2b_ft_in1k",
    "vit_huge_patch14_clip_224.laion2b_ft_in12k",
    "vit_huge_patch14_clip_224.laion2b_ft_in12k_in1k",
    "vit_huge_patch14_clip_336.laion2b_ft_in12k_in1k",
)
#: The run whose image tower each size started from: the paper's longest on LAION-2B, and OpenAI's.
RUNS = {
    ("LAION-2B", scale): f"openclip/{scale.replace('/', '-')}/LAION-2B/34B" for scale in SCALES
} | {("WIT-400M", scale): f"openai/{scale.replace('/', '-')}/WIT-400M/13B" for scale in SCALES[:3]}
EIGHT_TASKS = (
    "cars", "vtab/dtd", "vtab/eurosat", "gtsrb", "mnist", "vtab/resisc45", "sun397", "vtab/svhn",
)  # fmt: skip


def towers() -> pd.DataFrame:
    """The fine-tuned towers by family, route and GMACs: `published.finetuned` plus what fits need.

    Added: family (of `FAMILIES`), route (of `ROUTES`), body (architecture without its resolution),
    error and robust_error (fractions; ImageNet, and the mean of V2, A, R, Sketch), pretraining
    compute (GMAC; ViT only).
    """
    table = published.finetuned()
    openclip = np.where(table["is_vit_clip"] == 1, FAMILIES[0], FAMILIES[2])
    table["family"] = np.where(table["pretrain"] == "WIT-400M", FAMILIES[1], openclip)
    table["route"] = table["extra_ft_in12k"].map(ROUTES)
    table["body"] = table["trunk"].str.replace(r"_clip_\d+$", "", regex=True)
    table["recipe"] = [_recipe(model) for model in table["model"]]
    table["error"] = 1 - table["in1k_top1"] / 100
    table["robust_error"] = 1 - table["robust4_mean"] / 100
    compute = published.pretraining_runs().set_index("run_id")["gmacs_total_evaltable"]
    keys = zip(table["pretrain"], table["scale"])
    table["pretraining_compute"] = [compute.get(RUNS.get(key, "")) for key in keys]
    order = ["family", "extra_ft_in12k", "infer_gmacs", "model"]
    rank = {name: i for i, name in enumerate(FAMILIES)}
    return table.sort_values(order, key=lambda c: c.replace(rank), ignore_index=True)


def _recipe(model: str) -> str:
    """The pre-training that a name tells: the part before ``_ft_``."""
    return model.split(".")[1].split("_ft_")[0]


# ------------------------------------------------------------------------------------------- laws


def exponents(
    table: pd.DataFrame,
    y: str = "error",
    x: str = "infer_gmacs",
    by: tuple[str, str] = ("family", "route"),
) -> pd.DataFrame:
    """A least-squares power law of y on x for each group with three rows or more.

    Columns: those of ``by``, n, alpha, low, high (Student's t), fit (`laws.Fit`).
    """
    rows = []
    for names, some in table.groupby(list(by), sort=False):
        if len(some) >= 3:
            line = laws.fit("power", some[x], some[y])
            low, high, *_ = laws.t_interval(line)["alpha"]
            rows.append((*names, line.n, line.params["alpha"], low, high, line))
    return pd.DataFrame(rows, columns=[*by, "n", "alpha", "low", "high", "fit"])


# ---------------------------------------------------------------------------------- paired differences


def pairs(table: pd.DataFrame, differ: str, first: object, second: object) -> pd.DataFrame:
    """Rows of `towers` that differ in the column ``differ`` only: one row a pair, second less first.

    Pairs agree in body, pre-training recipe, resolution and route, less ``differ``. Columns: those,
    model_first, model_second, family, scale, gmacs_ratio, log_error_ratio, and each of `METRICS`
    (points of accuracy).
    """
    keys = [k for k in ("body", "recipe", "img_px", "extra_ft_in12k") if k != differ]
    if differ == "pretrain":
        keys.remove("recipe")
    sides = [table[table[differ] == value] for value in (first, second)]
    both = sides[0].merge(sides[1], on=keys, suffixes=("_first", "_second"), validate="1:1")
    found = both[keys].copy()
    for name in ("model", "family", "scale"):
        found[name] = both[f"{name}_second"]
    found["model_first"] = both["model_first"]
    found["gmacs_ratio"] = both["infer_gmacs_second"] / both["infer_gmacs_first"]
    found["log_error_ratio"] = np.log(both["error_second"] / both["error_first"])
    for metric in METRICS:
        found[metric] = both[f"{metric}_second"] - both[f"{metric}_first"]
    return found


def intermediate_step(table: pd.DataFrame) -> pd.DataFrame:
    """What ImageNet-12k in between changes: `pairs` of routes, same tower and resolution."""
    return pairs(table, "extra_ft_in12k", 0, 1)


def source_step(table: pd.DataFrame) -> pd.DataFrame:
    """LAION-2B less OpenAI: `pairs` of ViT rows, same size, resolution and route."""
    return pairs(table[table["is_vit_clip"] == 1], "pretrain", "WIT-400M", "LAION-2B")


def resolution_step(table: pd.DataFrame) -> pd.DataFrame:
    """Each tower's next higher resolution less the lower one: `pairs`, same recipe and route."""
    sizes = sorted(table["img_px"].unique())
    parts = [
        pairs(table, "img_px", low, high).assign(from_px=low, to_px=high)
        for i, low in enumerate(sizes)
        for high in sizes[i + 1 :]
    ]
    found = pd.concat(parts, ignore_index=True).sort_values("to_px")
    return found.drop_duplicates("model_first").reset_index(drop=True)


def mean_differences(
    table: pd.DataFrame, columns: Sequence[str] = tuple(METRICS), cluster: str | None = None
) -> pd.DataFrame:
    """Mean of paired differences with Student's t interval.

    cluster: a column; pairs that share it are averaged first and count as one, since they share a
    tower. Columns: metric, n, pairs, mean, low, high, up (how many of n rise).
    """
    values = table[list(columns)]
    if cluster is not None:
        values = values.groupby([table[cluster], table["recipe"]]).mean()
    n = len(values)
    half = stdtrit(n - 1, 0.975) * values.std(ddof=1) / np.sqrt(n)
    return pd.DataFrame(
        {
            "metric": list(columns),
            "n": n,
            "pairs": len(table),
            "mean": values.mean().to_numpy(),
            "low": (values.mean() - half).to_numpy(),
            "high": (values.mean() + half).to_numpy(),
            "up": (values > 0).sum().to_numpy(),
        }
    )


def paper_page(table: pd.DataFrame) -> pd.DataFrame:
    """The checkpoints of `PAPER_PAGE`: model, img_px, infer_gmacs, in1k_top1, robust4_mean.

    table: from `towers`; percent. The scores of a checkpoint without ImageNet-1k classes are nan.
    """
    columns = ["img_px", "infer_gmacs", "in1k_top1", "robust4_mean"]
    return table.set_index("model").reindex(list(PAPER_PAGE))[columns].reset_index()


# -------------------------------------------------------------------------------- slides, eight tasks


def slides(table: pd.DataFrame) -> pd.DataFrame:
    """The authors' slides beside the nearest timm row of the same size and route (LAION-2B, ViT).

    Columns: scale, route, slide, timm, difference (points), img_px.
    """
    vits = table[table["family"] == FAMILIES[0]]
    rows = []
    for scale, values in SLIDES.items():
        for k, value in enumerate(values):
            some = vits[(vits["scale"] == scale) & (vits["extra_ft_in12k"] == k)]
            nearest = some.assign(gap=(some["in1k_top1"] - value).abs()).nsmallest(1, "gap")
            timm, pixels = nearest["in1k_top1"].item(), nearest["img_px"].item()
            rows.append((scale, ROUTES[k], value, timm, timm - value, pixels))
    columns = ["scale", "route", "slide", "timm", "difference", "img_px"]
    return pd.DataFrame(rows, columns=columns)


def eight_tasks() -> pd.DataFrame:
    """Mean zero-shot error of the 29 + 3 runs on the eight tasks of the joint fine-tuning.

    Where that experiment starts. Columns as `published.errors`, ready for a fit.
    """
    tables = [published.errors(name) for name in EIGHT_TASKS]
    mean = np.mean([table["error"] for table in tables], axis=0)
    return tables[0].assign(error=mean)


def before_and_after(table: pd.DataFrame) -> pd.DataFrame:
    """ImageNet error of the same ViT towers zero-shot and fine-tuned at 224 pixels.

    Columns: stage, family, scale, compute (pre-training, GMAC), error.
    """
    at_224 = table[(table["img_px"] == 224) & (table["is_vit_clip"] == 1)]
    at_224 = at_224.rename(columns={"pretraining_compute": "compute"})
    tuned = at_224.assign(stage="fine-tuned, " + at_224["route"])
    zero = published.errors("imagenet1k").set_index("run_id")["error"]
    before = at_224.drop_duplicates(["pretrain", "scale"])
    keys = zip(before["pretrain"], before["scale"])
    before = before.assign(stage="zero-shot", error=[zero[RUNS[key]] for key in keys])
    columns = ["stage", "family", "scale", "compute", "error"]
    return pd.concat([before, tuned])[columns].reset_index(drop=True)
