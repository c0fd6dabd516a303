"""The paper's findings one by one: evidence with its interval and number of runs, and a verdict.

``book/data/claims.csv`` has each claim in words, our verdict, what would change it, and the name of a
function below that returns its evidence: a sentence whose numbers come from the committed tables.
"""

from __future__ import annotations

import pandas as pd

from cliplib import laws, published
from cliplib.paper import audit as paper_audit
from cliplib.paper import finetune as paper_finetune
from cliplib.paper import grid as paper_grid
from cliplib.paper import prediction as paper_prediction
from cliplib.paper import printed as paper_printed
from cliplib.paper import probes as paper_probes
from cliplib.paper import tasks as paper_tasks
from cliplib.paper.entries import entries_html
from cliplib.paper.figure1 import SHORT

TABLE = published.FOLDER.parent / "claims.csv"
VERDICTS = {
    "stands": "the figures bear it, with an interval that excludes the contrary",
    "leans": "the figures point that way; runs or intervals do not exclude the contrary",
    "not shown": "these figures cannot decide it",
    "corrected": "part of it does not agree with the authors' own tables",
}


def claims() -> pd.DataFrame:
    """The claims: id, claim, where, verdict (of `VERDICTS`), evidence (words), change, chapter."""
    table = pd.read_csv(TABLE)
    table["evidence"] = [str(globals()[name]()) for name in table["evidence"]]
    return table[["id", "claim", "where", "verdict", "evidence", "change", "chapter"]]


# --------------------------------------------------------------------------------------- the law


def power_law(n: int = 2000, seed: int = 0) -> str:
    """OpenCLIP's four exponents with bootstrap intervals."""
    runs = published.figure1()
    fits, draws = laws.paper_laws(runs), laws.paper_draws(runs, n=n, seed=seed)
    table = laws.paper_intervals(fits, draws).query("family == 'OpenCLIP'")
    parts = [
        f"{SHORT[row['dataset']]} {fits[row['dataset'], 'OpenCLIP'].params['alpha']:.3f} "
        f"({row['low']:.3f} to {row['high']:.3f})"
        for row in table.to_dict("records")
    ]
    count = runs.query("family == 'OpenCLIP'")["run_id"].nunique()
    return f"exponents over {count} runs, 95% by bootstrap: " + ", ".join(parts)


def tasks() -> str:
    """On how many tasks error falls."""
    found = paper_tasks.slopes(paper_tasks.larger(paper_tasks.task_runs()))
    size = found["verdict"].value_counts()
    return (
        f"of {len(found)} classification tasks error falls on {size['falls']}, is flat on "
        f"{size['flat']}, rises on {size.get('rises', 0)} ({found['n'].iloc[0]} runs each; false "
        "claims held to one in twenty)"
    )


def printed_numbers() -> str:
    """How many printed numbers come out."""
    size = paper_printed.table()["verdict"].value_counts()
    good = size["agrees"] + size["rounds"]
    checked = size.sum() - size["not checkable here"]
    return (
        f"{good} of {checked} checkable printed numbers agree to their last digit; {size['differs']} "
        f"differ, {size['slip']} is a slip, {size['not checkable here']} more cannot be checked here"
    )


def predictions() -> str:
    """The models that came later, against the law."""
    parts = []
    for dataset in ("imagenet1k", "mscoco_captions"):
        runs = published.openclip_runs(dataset)
        draws = laws.bootstrap(paper_prediction.RECIPE, runs, n=2000, seed=0)
        table = paper_prediction.later(dataset, draws).iloc[:2]
        parts += [
            f"{row['model']}, {SHORT[dataset]}: {row['miss']:+.2f} points (95% of a new point: "
            f"{row['low'] - row['predicted']:+.1f} to {row['high'] - row['predicted']:+.1f})"
            for row in table.to_dict("records")
        ]
    return "actual less predicted: " + "; ".join(parts)


# --------------------------------------------------------------------------------- the two families


def slopes(names: tuple[str, ...]) -> str:
    """Whether OpenAI's exponent is another one: own scatter, and that of the matched runs."""
    fits = laws.paper_laws(published.figure1())
    parts = []
    for name in names:
        openclip, openai = fits[name, "OpenCLIP"].params["alpha"], fits[name, "OpenAI"]
        low, high, *_ = laws.t_interval(openai)["alpha"]
        level = paper_tasks.at_equal_compute(published.errors(name))
        p = f"p = {level['slope_p']:.2f}" if level["slope_p"] >= 0.01 else "p below 0.01"
        parts.append(
            f"{SHORT[name]}: OpenAI {openai.params['alpha']:.3f} (95% {low:.3f} to {high:.3f}, 3 models), "
            f"OpenCLIP {openclip:.3f}; like for like, one scatter for both, {p} "
            f"({level['matched']:.0f} runs)"
        )
    return "; ".join(parts)


def imagenet_slopes() -> str:
    """Exponents on ImageNet."""
    return slopes(("imagenet1k",))


def retrieval_slopes() -> str:
    """Exponents in retrieval, and the level."""
    coco = paper_tasks.at_equal_compute(published.errors("mscoco_captions"))
    level = (
        f"at equal compute OpenAI's error on MS-COCO is {coco['percent']:.0f}% higher "
        f"({coco['low']:.0f} to {coco['high']:.0f}%, {coco['matched']:.0f} runs)"
    )
    return slopes(("mscoco_captions", "flickr30k")) + f". {level[0].upper()}{level[1:]}"


def robustness() -> str:
    """Exponents on the robustness mean, and OpenAI's level on it and on two of its parts."""
    parts = []
    for name in ("imagenet_robustness", "imagenet-a", "imagenet_sketch"):
        found = paper_tasks.at_equal_compute(published.errors(name))
        shown = SHORT.get(name, "ImageNet-A" if name.endswith("-a") else "ImageNet-Sketch")
        parts.append(
            f"{shown} {found['percent']:+.0f}% errors ({found['low']:+.0f} to {found['high']:+.0f}, "
            f"{found['matched']:.0f} runs)"
        )
    exponents = slopes(("imagenet_robustness",))
    return f"{exponents}. OpenAI's level at equal compute: " + "; ".join(parts)


def other_sources() -> str:
    """What other pools of data do at one recipe and compute."""
    table = paper_prediction.elsewhere(("xl",), ("imagenet1k", "mscoco_captions"))
    some = table[table["arch"] == "ViT-L-14"]
    spans = some.groupby("dataset")["miss"].agg(["min", "max"])
    text = ", ".join(
        f"{SHORT[str(name)]} {low:+.1f} to {high:+.1f}"
        for name, low, high in spans.reset_index().to_numpy()
    )
    return (
        "the two families differ in data and recipe together. In DataComp's pools, with one recipe, "
        f"L/14 lies off the law by {text} points ({some['pool'].nunique()} pools, one run each)"
    )


def probes() -> str:
    """Probes: contrasts after correction."""
    points = paper_probes.points(paper_probes.settings())
    found = paper_probes.family_contrasts(points)
    like = paper_probes.family_contrasts(paper_probes.like_for_like(points))
    return (
        f"OpenAI's exponent is steeper on {int((found['difference'] < 0).sum())} of {len(found)} tasks; "
        f"after Holm {int((found['p_holm'] < 0.05).sum())} differ with all {found['n'].max()} models, "
        f"{int((like['p_holm'] < 0.05).sum())} like for like ({like['n'].max()} models)"
    )


# -------------------------------------------------------------------------------------- bottlenecks


def data_wall() -> str:
    """The step from LAION-80M, and what longer training buys there."""
    runs = published.openclip_runs("imagenet1k")
    steps = paper_grid.steps(runs)
    step = steps[steps["before"] == "LAION-80M"].iloc[0]
    small = runs[runs["data"] == "LAION-80M"]
    errors = 100 * small.pivot(index="arch", columns="samples_seen_label", values="error")
    last = errors["13B"] - errors["34B"]
    return (
        f"from LAION-80M to LAION-400M the error becomes {step['error_ratio']:.2f} times "
        f"({step['low']:.2f} to {step['high']:.2f}, {step['pairs']} pairs); on LAION-80M the step from 13B "
        f"to 34B changes ImageNet by {last.min():+.2f} to {last.max():+.2f} points"
    )


def small_models() -> str:
    """B/32 and B/16 from LAION-400M to LAION-2B."""
    return f"B/32, {paper_audit.confounded()}. {paper_audit.no_change().split(';')[0]}"


def long_training() -> str:
    """L/14 on LAION-400M."""
    return paper_audit.no_change().split("; ")[1]


def controls() -> str:
    """Batch and rate."""
    return paper_audit.left_out_controls()


def fine_tuning() -> str:
    """Fine-tuned towers against their own cost."""
    found = paper_finetune.exponents(paper_finetune.towers()).iloc[0]
    return (
        f"exponent of error in GMACs of the tower {found['alpha']:.3f} ({found['low']:.3f} to "
        f"{found['high']:.3f}, {found['n']} fine-tunings)"
    )


def for_readers(table: pd.DataFrame) -> str:
    """The claims as HTML."""
    labels = {"verdict": "Verdict", "evidence": "Evidence", "change": "What would change it"}
    return entries_html(table, "claim", labels | {"where": "In the paper"})


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each verdict: verdict, meaning, claims."""
    size = table["verdict"].value_counts()
    rows = [(name, words, int(size.get(name, 0))) for name, words in VERDICTS.items()]
    return pd.DataFrame(rows, columns=["verdict", "meaning", "claims"])
