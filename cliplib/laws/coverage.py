"""Do the intervals keep their word? Simulated studies, and how often the truth is inside.

    python -m cliplib.laws.coverage --n 2000 --out book/data/coverage.csv

Each row is one design, one way to fit and one kind of interval. Rows are kept in ``NAME.part.csv``
as they are done, so an interrupted run goes on where it stopped; the table itself appears when it
is complete.
"""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.coverage_designs import Design, designs
from cliplib.laws.inputs import Array
from cliplib.laws.prediction import predict
from cliplib.laws.profile import profile
from cliplib.laws.recipe import Recipe
from cliplib.laws.uncertainty import bootstrap, t_interval

LEVEL = 0.95
LARGEST = "ln E of the largest run"
Key = tuple[str, str]  # kind of interval, parameter
Found = tuple[float, float, float]  # estimate, low, high
FRONTIERS = ("bins", "bins_own", "pareto", "hull", "quantile")
COLUMNS = (
    "design", "law", "loss", "frontier", "interval", "parameter", "n_runs", "n_sims", "refused", "n_draws",
    "truth", "bias", "rmse", "coverage", "coverage_low", "coverage_high", "mean_width",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One way to get intervals from a study of a design; it fills one row a kind and parameter.

    how: the frontier. way: ``t``, ``profile``, a bootstrap (``run`` or ``wild``, and either by
    ``cluster``, the column arch), or ``predict``. n_draws: of the bootstrap.
    """

    design: Design
    way: str = "run"
    how: str = "all"
    parameters: tuple[str, ...] = ("alpha",)
    n_draws: int = 1000


def jobs() -> list[Job]:
    """The published study."""
    known, found = designs(), []
    for design in known.values():
        if design.recipe.form.name == "power":
            found += [Job(design, way, n_draws=0 if way == "t" else 1000) for way in _LINE_WAYS]
    for name in ("paper normal", "paper half-normal", "paper exponential", "grid 40"):
        found += [Job(known[name], "run", how) for how in FRONTIERS]
    found += [Job(known["paper clusters"], way, n_draws=4000) for way in _CLUSTER_WAYS]
    for name in ("paper normal", "grid 10", "grid 20", "grid 40"):
        found.append(Job(known[name], "predict", parameters=(LARGEST,)))
    for way, n_draws in (("run", 400), ("wild", 400), ("profile", 0)):
        found.append(Job(known["saturating"], way, parameters=("a", "d"), n_draws=n_draws))
    three = ("alpha", "beta", "E")
    return [*found, Job(known["chinchilla"], parameters=three, n_draws=200)]


_LINE_WAYS = ("t", "run", "wild")
_CLUSTER_WAYS = ("run by cluster", "wild by cluster")


def study(job: Job, n_sims: int, seed: int = 0) -> list[dict[str, object]]:
    """Simulate the design n_sims times and score the job's intervals, as rows of the table.

    Study i of a design is the same for all of its jobs, so rows of a design compare like with
    like. A study that the recipe refuses counts in ``refused`` and nowhere else.
    """
    recipe = replace(job.design.recipe, how=job.how)
    results: list[dict[Key, Found]] = []
    for i in range(n_sims):
        rng = np.random.default_rng([seed, *job.design.name.encode(), i])
        try:
            results.append(_intervals(job, recipe, job.design.simulate(rng), seed=i))
        except InputError:
            continue
    keys = results[0] if results else {}
    return [
        _row(job, key, np.array([found[key] for found in results]), n_sims - len(results))
        for key in keys
    ]


def _intervals(job: Job, recipe: Recipe, runs: pd.DataFrame, seed: int) -> dict[Key, Found]:
    """(estimate, low, high) of one study by (kind of interval, parameter)."""
    if job.way == "predict":
        return _predicted(job, recipe, runs, seed)
    if job.way in ("t", "profile"):
        fitted = recipe.fit(runs)
        spans = (
            t_interval(fitted, LEVEL)
            if job.way == "t"
            else {name: profile(fitted, name, LEVEL) for name in job.parameters}
        )
        return {
            (job.way, name): (fitted.params[name], spans[name].low, spans[name].high)
            for name in job.parameters
        }
    how, _, cluster = job.way.partition(" by ")
    column = "arch" if cluster else None
    draws = bootstrap(recipe, runs, job.n_draws, seed, cluster=column, how=how)
    found = {}
    for method in ("percentile", "expanded"):
        for name, span in draws.ci(LEVEL, method).items():
            if name in job.parameters:
                estimate = draws.estimate[draws.names.index(name)]
                found[f"{job.way}, {method}", name] = (float(estimate), span.low, span.high)
    return found


def _predicted(job: Job, recipe: Recipe, runs: pd.DataFrame, seed: int) -> dict[Key, Found]:
    """The largest run predicted from the others: ln predicted - ln observed, so the truth is 0."""
    largest = int(runs["compute"].to_numpy().argmax())
    others = runs.drop(index=largest)
    fitted = recipe.fit(others)
    draws = bootstrap(recipe, others, job.n_draws, seed)
    found = {}
    for how, given in (("t", None), ("run bootstrap and residuals", draws)):
        at = predict(fitted, runs["compute"].iloc[[largest]], given, "new", LEVEL)
        gap = np.log([at.value[0], at.low[0], at.high[0]] / runs["error"].iloc[largest])
        found[f"predict, {how}", LARGEST] = (float(gap[0]), float(gap[1]), float(gap[2]))
    return found


def _row(job: Job, key: Key, results: Array, refused: int) -> dict[str, object]:
    """One row of the table from the (estimate, low, high) of every study, shape (n, 3)."""
    estimate, low, high = results.T
    interval, parameter = key
    truth = job.design.truth.get(parameter, 0.0)
    hits, n = int(((low <= truth) & (truth <= high)).sum()), len(results)
    coverage_low, coverage_high = wilson(hits, n)
    recipe = job.design.recipe
    values = (
        job.design.name, recipe.form.name, recipe.loss, job.how, interval, parameter, len(job.design.runs),
        n, refused, job.n_draws, truth, estimate.mean() - truth,
        np.sqrt(np.mean((estimate - truth) ** 2)), hits / n, coverage_low, coverage_high,
        np.mean(high - low),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a share, hits of n."""
    share, spread = hits / n, z**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return float(centre - half), float(centre + half)


def run(todo: list[Job], n_sims: int, out: Path) -> None:
    """Do the jobs that the part file does not hold yet, then write the whole table to out."""
    part = out.with_suffix(".part.csv")
    done = pd.read_csv(part) if part.is_file() else pd.DataFrame(columns=list(COLUMNS))
    for i, job in enumerate(todo, start=1):
        what = f"[{i}/{len(todo)}] {job.design.name}, {job.how}, {job.way}"
        if _is_done(done, job, n_sims):
            print(f"{what}: done before", file=sys.stderr)
            continue
        start = time.monotonic()
        rows = pd.DataFrame(study(job, n_sims), columns=list(COLUMNS))
        done = pd.concat([done, rows], ignore_index=True) if len(done) else rows
        done.to_csv(part, index=False, float_format="%.6g")
        print(f"{what}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    part.replace(out)


def _is_done(done: pd.DataFrame, job: Job, n_sims: int) -> bool:
    kind = done["interval"].astype(str).str.split(",").str[0]
    same = (done["design"] == job.design.name) & (done["frontier"] == job.how) & (kind == job.way)
    rows = done[same]
    sizes = rows["n_sims"] + rows["refused"]
    return len(rows) > 0 and bool((sizes == n_sims).all() & (rows["n_draws"] == job.n_draws).all())


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cliplib.laws.coverage", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--n", type=int, default=2000, help="studies a row (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("book/data/coverage.csv"))
    args = parser.parse_args(argv)
    run(jobs(), args.n, args.out)


if __name__ == "__main__":
    main()
