"""The audit: every place where paper, tables and code disagree, with evidence computed here.

``book/data/audit.csv`` has the findings in words, each with the name of a function below that
returns its evidence: a sentence whose numbers come from the committed tables.
"""

from __future__ import annotations

import pandas as pd

from cliplib import laws, published
from cliplib.paper import prediction as paper_prediction
from cliplib.paper import printed as paper_printed
from cliplib.paper import probes as paper_probes
from cliplib.paper import retrieval as paper_retrieval
from cliplib.paper.entries import entries_html
from cliplib.paper.figure1 import SHORT
from cliplib.paper.grid import short
from cliplib.paper.tasks import averages

SEVERITIES = {
    "conclusion": "touches a conclusion, or what a figure means",
    "reproduction": "matters to who wants to reproduce a number",
    "cosmetic": "a detail; nothing rests on it",
}


TABLE = published.FOLDER.parent / "audit.csv"


def findings() -> pd.DataFrame:
    """The audit: id, severity (of `SEVERITIES`), what, evidence (words), changes, chapter."""
    table = pd.read_csv(TABLE)
    table["evidence"] = [evidence(name) for name in table["evidence"]]
    return table[["id", "severity", "what", "evidence", "changes", "chapter"]]


def evidence(name: str) -> str:
    """A finding's evidence: of a function here, or ``printed|id|id`` of the printed numbers."""
    function, *ids = name.split("|")
    return printed(ids) if ids else str(globals()[function]())


def for_readers(table: pd.DataFrame, severity: str) -> str:
    """The findings of one severity as HTML."""
    some = table[table["severity"] == severity]
    return entries_html(some, "what", {"evidence": "Evidence", "changes": "What it changes"})


# ------------------------------------------------------------------ evidence: conclusions, figures


def _score(dataset: str, run: str) -> float:
    runs = published.errors(dataset)
    return 100 * (1 - float(runs.loc[runs["run_id"] == f"openclip/{run}", "error"].iloc[0]))


def two_vtabs() -> str:
    """One name, two averages."""
    probe = averages().query("members == 'in_vtab19_probe'").iloc[0]
    return (
        f"the mean of the probes' {probe['parts']} sets is {probe['least']:.1f} to {probe['most']:.1f} "
        "points above the published zero-shot mean, on the same 32 models"
    )


def promises() -> pd.DataFrame:
    """ImageNet's law by several frontiers: way, alpha, pct (G/14 at 68B, the notebook's samples)."""
    runs = published.openclip_runs("imagenet1k")
    G = published.architectures().query("arch == 'ViT-G-14'")["gmacs_per_sample"].iloc[0]
    at = float(G) * laws.NOMINAL_SAMPLES["68B"]
    ways = {
        "5 bins, margin 0.1 (the paper)": laws.Recipe("power", "bins"),
        "5 bins, no margin": laws.Recipe("power", "bins", margin=0.0),
        "5 bins, margin 0.5": laws.Recipe("power", "bins", margin=0.5),
        "3 bins": laws.Recipe("power", "bins", nbins=3),
        "5 bins, minima at their own compute": laws.Recipe("power", "bins_own"),
        "Pareto set": laws.Recipe("power", "pareto"),
        "all runs": laws.Recipe("power", "all"),
    }
    rows = []
    for way, recipe in ways.items():
        law = recipe.fit(runs)
        rows.append((way, law.params["alpha"], 100 * (1 - float(law.predict([at])[0]))))
    return pd.DataFrame(rows, columns=["way", "alpha", "pct"])


def frontier() -> str:
    """What the choice of the frontier does."""
    table = promises()
    first = table.iloc[0]
    return (
        f"exponent on ImageNet {first['alpha']:.4f}; other margins, bins and frontiers give "
        f"{table['alpha'].min():.4f} to {table['alpha'].max():.4f}, and for G/14 at 68B "
        f"{table['pct'].min():.1f} to {table['pct'].max():.1f}% (printed 81.92)"
    )


def probe_lines() -> str:
    """All points, not bins."""
    points = paper_probes.points(paper_probes.settings())
    table = paper_probes.reproduced(points)
    equal = int((table["alpha"].round(4) == table["printed"]).sum())
    openclip = table[table["family"] == "OpenCLIP"]
    binned = [
        laws.Recipe("power", "bins")(some[some["family"] == "OpenCLIP"])["alpha"]
        for some in (paper_probes.task(points, d, k) for d, k in paper_probes.TASKS)
    ]
    wanted = {(d, k): p for d, k, p in openclip[["dataset", "shots", "printed"]].to_numpy()}
    same = sum(
        round(a, 4) == wanted[key] for a, key in zip(binned, paper_probes.TASKS, strict=True)
    )
    return (
        f"a line through all points gives {equal} of {len(table)} printed coefficients; bin minima "
        f"give {same} of OpenCLIP's {len(openclip)}"
    )


def chosen_on_test() -> str:
    """What choosing on the test split may flatter."""
    found = paper_probes.by_choice(paper_probes.settings())
    some = found[(found["choice"] == "other models") & (found["family"] == "OpenCLIP")]
    return (
        "choosing for each model the setting that is best for the others costs "
        f"{some['cost'].max():.2f} points at most"
    )


def confounded() -> str:
    """B/32 from LAION-400M to LAION-2B, with the recipes."""
    runs = published.pretraining_runs().set_index("run_id")
    parts = []
    for label in ("13B", "34B"):
        ends = [f"openclip/B-32/{data}/{label}" for data in ("LAION-400M", "LAION-2B")]
        gain = _score("imagenet1k", ends[1][9:]) - _score("imagenet1k", ends[0][9:])
        batch = " to ".join(f"{runs['global_batch'][run]:,.0f}" for run in ends)
        parts.append(f"{label}: {gain:+.2f} points, batch {batch}")
    return "; ".join(parts)


def no_change() -> str:
    """B/16 at 13B, and L/14 on LAION-400M from 13B to 34B."""
    b16 = _score("imagenet1k", "B-16/LAION-2B/13B") - _score("imagenet1k", "B-16/LAION-400M/13B")
    names = {"mscoco_captions": "MS-COCO", "imagenet1k": "ImageNet"}
    names |= {"imagenet_robustness": "robustness", "vtab+": "VTAB+"}
    l14 = [
        f"{name} {_score(d, 'L-14/LAION-400M/34B') - _score(d, 'L-14/LAION-400M/13B'):+.2f}"
        for d, name in names.items()
    ]
    return (
        f"B/16, 13B, LAION-400M to 2B: {b16:+.2f} on ImageNet; L/14 on LAION-400M, 13B to 34B: "
        + (", ".join(l14))
    )


def left_out_controls() -> str:
    """The pairs of like runs with another batch and rate."""
    pairs = paper_printed.control_pairs()
    text = ", ".join(
        f"{short('openclip/' + run)} {effect:+.2f}"
        for run, effect in pairs[["run", "effect"]].to_numpy()
    )
    return f"ImageNet, larger batch less smaller: {text} points; printed 0.2 to 0.5"


def in_sample() -> str:
    """The published mean error and what it is over."""
    table = paper_prediction.in_sample("imagenet1k")
    paper, all_runs = table.iloc[0], table.iloc[-1]
    return (
        f"over {paper['n']} cells {paper['mean_abs']:.2f} points, signed {paper['bias']:+.2f}; over "
        f"all {all_runs['n']} runs {all_runs['mean_abs']:.2f}"
    )


def three_points() -> str:
    """OpenAI's line."""
    fits = laws.paper_laws(published.figure1())
    spans = [
        laws.t_interval(fit)["alpha"] for (_, family), fit in fits.items() if family == "OpenAI"
    ]
    wide = max(span.high - span.low for span in spans)
    zero = sum(span.high > 0 for span in spans)
    return (
        f"1 degree of freedom; the 95% intervals are up to {wide:.2f} wide and {zero} of "
        f"{len(spans)} hold zero"
    )


# --------------------------------------------------------------------- evidence: numbers and code


def notebook_text() -> str:
    """Text retrieval's error in the notebook."""
    runs = paper_retrieval.retrieval_runs()
    slip = paper_retrieval.as_in_the_notebook(runs)
    parts = []
    for dataset, name in paper_retrieval.DATASETS.items():
        task = f"{dataset} text"
        true, theirs = (
            laws.paper_law(table[table["task"] == task]).params["alpha"] for table in (runs, slip)
        )
        parts.append(f"{name} {theirs:.4f} instead of {true:.4f}")
    return "OpenCLIP's exponent for text: " + ", ".join(parts)


def hidden_model() -> str:
    """B/16+ in the fit, not in the picture, and its compute."""
    table = paper_probes.reproduced(paper_probes.points(paper_probes.settings()))
    full = table.query("dataset == 'imagenet1k' and shots == 'full' and family == 'OpenCLIP'").iloc[
        0
    ]
    return f"exponent on full ImageNet {full['alpha']:.4f} with it, {full['without_hidden']:.4f} without"


def wrong_resolution() -> str:
    """B/16+ at 240 pixels, placed at the compute of 224."""
    probe = published.probe_models().set_index("model_id").loc[paper_probes.HIDDEN]
    used = probe["gmacs_total"] / probe["samples_seen"]
    table = published.architectures().set_index("arch")["gmacs_per_sample"]
    own = float(table["ViT-B-16-plus-240"])
    return (
        f"{used:.2f} GMAC a pair are used; at 240 pixels it needs {own:.2f} (the former is the value "
        f"at 224): {100 * (1 - used / own):.0f}% too little"
    )


def other_probe_models() -> str:
    """Probed models that are not the zero-shot runs of the grid."""
    pairs = paper_printed.control_pairs().query("label == '13B'")
    text = ", ".join(
        f"{short('openclip/' + run)} {_score('imagenet1k', run) - effect:.2f} instead of "
        f"{_score('imagenet1k', run):.2f}%"
        for run, effect in pairs[["run", "effect"]].to_numpy()
    )
    return f"ImageNet, zero-shot: {text}"


def forward_only() -> str:
    """Three times the compute, the same exponent."""
    runs = published.openclip_runs("imagenet1k")
    recipe = laws.Recipe("power", "bins")
    one, three = recipe(runs)["alpha"], recipe(runs.assign(compute=3 * runs["compute"]))["alpha"]
    return f"exponent {one:.6f} at once and {three:.6f} at three times the compute"


def printed(ids: list[str]) -> str:
    """Evidence from the table of printed numbers: what is printed and what we find."""
    rows = paper_printed.table().set_index("id").loc[ids]
    words = rows[["what", "printed", "ours"]].to_numpy()
    return "; ".join(f"{what}: printed {text}, ours {ours:,.6g}" for what, text, ours in words)


def two_counts() -> str:
    """Samples by training table and by evaluation table."""
    runs = published.pretraining_runs().query("family == 'OpenCLIP'")
    differ = runs[runs["samples_seen_training"] != runs["samples_seen_evaltable"]]
    far = 100 * (differ["samples_seen_evaltable"] / differ["samples_seen_training"] - 1).iloc[0]
    return (
        f"they differ in {len(differ)} of {len(runs)} runs: {short(differ['run_id'].iloc[0])}, "
        f"{far:+.2f}%"
    )


def epoch_sizes() -> str:
    """Virtual epochs of LAION-2B."""
    some = published.pretraining_runs().query("data == 'LAION-2B'")["virtual_epoch_samples"]
    return f"{some.nunique()} sizes, {some.min():,.0f} to {some.max():,.0f} samples"


def tags() -> str:
    """Batch sizes in the tags of released checkpoints."""
    runs = published.pretraining_runs().set_index("run_id")["global_batch"]
    g, l14 = (runs[f"openclip/{r}"] for r in ("g-14/LAION-2B/13B", "L-14/LAION-2B/34B"))
    return f"g/14: {g:,.0f} in the table, b42k in the tag; L/14: {l14:,.0f} in the table, b82k in the tag"


def two_lengths() -> str:
    """B/32 on LAION-2B in two of the authors' repositories."""
    probe = published.probe_models().set_index("model_id").loc["B-32/laion2b_s34b_b79k"]
    run = published.pretraining_runs().set_index("run_id").loc[probe["matching_run_id"]]
    return (
        f"{run['samples_seen_evaltable'] / 1e9:.2f} billion samples in one table, "
        f"{probe['samples_seen'] / 1e9:.2f} in the other"
    )


def copied() -> str:
    """Throughputs that agree to the last digit, and how far others differ."""
    runs = published.pretraining_runs().query("family == 'OpenCLIP'")
    same = runs[runs.duplicated("samples_per_s", keep=False)]
    rates = runs.groupby("arch")["samples_per_s_per_gpu"]
    factors = rates.max() / rates.min()
    return (
        f"{len(same)} runs share {same['samples_per_s'].iloc[0]:,.4f} samples/s; for one architecture the "
        f"throughput of a GPU differs up to {factors.max():.1f} times ({short(str(factors.idxmax()))})"
    )


def tower_sums() -> str:
    """Towers that do not add up to the total."""
    table = published.architectures()
    apart = (table["image_gmacs"] + table["text_gmacs"] - table["gmacs_per_sample"]).round(2)
    return (
        f"{int((apart != 0).sum())} of {len(table)} architectures, by {apart.abs().max():.2f} GMAC"
    )


def re_evaluated() -> str:
    """The released models on OpenCLIP's results pages and in the study's tables."""
    tags = {"B-32": "laion2b_s34b_b79k", "B-16": "laion2b_s34b_b88k", "L-14": "laion2b_s32b_b82k"}
    tags |= {"H-14": "laion2b_s32b_b79k"}
    rows = []
    for arch, tag in tags.items():
        row = paper_prediction.later_row(f"ViT-{arch}", tag)
        for dataset, column in paper_prediction.SCORES.items():
            apart = 100 * row[column] - _score(dataset, f"{arch}/LAION-2B/34B")
            rows.append((abs(apart), f"{arch.replace('-', '/')}, {SHORT[dataset]}"))
    table = pd.DataFrame(rows, columns=["apart", "at"]).sort_values("apart", ignore_index=True)
    return (
        f"{len(table)} scores of {len(tags)} models differ by up to {table['apart'].iloc[-1]:.2f} "
        f"points ({table['at'].iloc[-1]}); median {table['apart'].median():.2f}"
    )


def last_points() -> str:
    """Learning curves: where they end, what is missing."""
    points = published.learning_curves().sort_values("epoch").groupby("run_id").tail(1)
    ends = points.set_index("run_id")["top1"]
    known = published.openclip_runs("imagenet1k").set_index("run_id")["error"]
    gap = 100 * (ends - (1 - known))
    runs = published.pretraining_runs().query("family == 'OpenCLIP'").set_index("run_id")
    have = published.learning_curves().groupby("run_id").size()
    missing = runs["virtual_epochs"] - have
    return (
        f"last point less published score: {gap.min():+.2f} to {gap.max():+.2f} points; "
        f"{int(missing.sum())} points missing, in {int((missing > 0).sum())} runs"
    )


def twice_listed() -> str:
    """Rows of the later models that are one model, or not what they seem."""
    small = ("datacomp_s_s13m_b4k", "commonpool_s_image_s13m_b4k")
    one, other = (paper_prediction.later_row("ViT-B-32", tag) for tag in small)
    scores = [key for key in one if str(key).endswith(("top1", "_r1", "_r5", "avg38"))]
    equal = sum(one[key] == other[key] for key in scores)
    wrong, right = (
        100 * paper_prediction.later_row(model, "laion400m_e32")["in1k_top1"]
        for model in ("ViT-B-32", "ViT-B-32-quickgelu")
    )
    return (
        f"{equal} of {len(scores)} scores of two small tags agree exactly; one B/32 scores "
        f"{wrong:.2f}% or {right:.2f}%, by the activation it is run with"
    )
