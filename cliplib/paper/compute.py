"""Is compute enough? Error as a law of model size and samples seen, beside a law of their product.

Tables only; `cliplib.paper.compute_figures` draws them. Reading order: the runs, the two laws, the
width of the cloud, pairs at equal compute, an additive law and its floor.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from cliplib import published
from cliplib.laws import Allocation, Fit, Recipe, bootstrap, fit, optimal_allocation, profile
from cliplib.laws.compare import t_quantile, t_test
from cliplib.paper.bottlenecks import exponent_span
from cliplib.paper.tasks import larger

# what N is -> the column that counts it
SIZES = {"GMACs a pair": "gmacs_per_sample", "parameters": "params_m"}


# ------------------------------------------------------------------------------- the runs, the laws


def grid(dataset: str) -> pd.DataFrame:
    """The 20 OpenCLIP runs on LAION-400M and LAION-2B, with params_m (both towers, millions).

    LAION-80M is left out: there the pairs run out (see `cliplib.paper.bottlenecks`).
    """
    params = published.architectures().set_index("arch")["params_m"]
    runs = larger(published.openclip_runs(dataset)).reset_index(drop=True)
    return runs.assign(params_m=runs["arch"].map(params))


def one(runs: pd.DataFrame) -> Fit:
    """E = beta C^alpha through all runs."""
    return fit("power", runs["compute"].to_numpy(), runs["error"])


def two(runs: pd.DataFrame, size: str = "gmacs_per_sample") -> Fit:
    """E = A N^-alpha D^-beta through all runs; D is samples seen."""
    return fit("nd_multiplicative", runs[[size, "samples_seen"]].to_numpy(), runs["error"])


def aic(law: Fit) -> float:
    """Akaike's criterion of a least-squares fit, up to a constant that fits of the same runs share."""
    return law.n * float(np.log(law.objective / law.n)) + 2 * (len(law.params) + 1)


def laws_of(dataset: str) -> pd.DataFrame:
    """The law of compute and those of size and samples.

    Columns: law, n, size, size_low, size_high, samples, samples_low, samples_high (exponents of the
    error, negative where it falls), scatter (of ln E), aic, p (equal exponents; nan for the law of
    compute, and where N is parameters, for then equal exponents mean nothing).
    """
    runs = grid(dataset)
    power = one(runs)
    half = t_quantile(power.dof, 0.95) * float(np.sqrt(power.cov[0, 0]))
    alpha = power.params["alpha"]
    same = (alpha, alpha - half, alpha + half)
    rows = [("compute", power.n, *same, *same, power.residual_sd, aic(power), np.nan)]
    for name, column in SIZES.items():
        law = two(runs, column)
        p = equal_exponents(law)[3] if column == "gmacs_per_sample" else np.nan
        spans = [_span(law, exponent) for exponent in ("alpha", "beta")]
        rows.append((f"{name}, samples", law.n, *spans[0], *spans[1], law.residual_sd, aic(law), p))
    columns = [
        "law",
        "n",
        "size",
        "size_low",
        "size_high",
        "samples",
        "samples_low",
        "samples_high",
    ]
    return pd.DataFrame(rows, columns=[*columns, "scatter", "aic", "p"])


def _span(law: Fit, name: str) -> tuple[float, float, float]:
    low, high = exponent_span(law, name)
    return -law.params[name], -high, -low


def equal_exponents(law: Fit) -> tuple[float, float, float, float]:
    """Exponent of samples less that of size (of the error), its 95% interval, and p of equality.

    With N in GMACs a pair, C = N D: equal exponents are the law of compute, exactly.
    """
    i, j = (list(law.params).index(name) for name in ("alpha", "beta"))
    variance = law.cov[i, i] + law.cov[j, j] - 2 * law.cov[i, j]
    value = np.asarray(law.params["alpha"] - law.params["beta"])
    found = t_test(value, np.sqrt(variance), law.dof, 0.95)
    return tuple(map(float, found))  # type: ignore[return-value]


# ---------------------------------------------------------------------------- the width of the cloud


def cloud(dataset: str) -> pd.DataFrame:
    """How far each run lies from the law of compute, and from the law of size and samples.

    Columns: run_id, arch, data, samples_seen_label, shape (N / D, GMACs a pair for each billion
    samples), from_compute, from_both (percent of the error).
    """
    runs = grid(dataset)
    kept = runs[["run_id", "arch", "data", "samples_seen_label"]]
    return kept.assign(
        shape=runs["gmacs_per_sample"] / (runs["samples_seen"] / 1e9),
        from_compute=100 * np.expm1(one(runs).residuals),
        from_both=100 * np.expm1(two(runs).residuals),
    )


def explained(dataset: str) -> dict[str, float]:
    """Shares of the squared scatter about the law of compute.

    shape: what one more exponent takes off; data: what LAION-400M against LAION-2B, with slopes of
    samples of their own, takes off beyond it; rest.
    """
    import statsmodels.formula.api as smf

    runs = grid(dataset)
    table = pd.DataFrame(
        {
            "y": np.log(runs["error"]),
            "size": np.log(runs["gmacs_per_sample"]),
            "samples": np.log(runs["samples_seen"] / 1e10),
            "many": (runs["data"] == "LAION-2B").astype(float),
        }
    )
    total, plane = one(runs).objective, two(runs).objective
    rest = float(smf.ols("y ~ size + samples * many", table).fit().ssr)
    return {
        "shape": 1 - plane / total,
        "data": (plane - rest) / total,
        "rest": rest / total,
    }


def equal_compute(dataset: str, within: float = 1.25) -> pd.DataFrame:
    """Pairs of runs on one data set with nearly the same compute and other shapes.

    within: the largest ratio of their compute. Columns: data, larger, smaller (run_id of the larger
    and of the smaller model), compute_ratio (larger model's over the other's), error_larger,
    error_smaller, ratio (of the errors), predicted (by the law of size and samples).
    """
    runs = grid(dataset)
    law = two(runs)
    rows = []
    for data, some in runs.groupby("data", sort=False):
        ordered = some.sort_values("gmacs_per_sample", ascending=False)
        for (_, big), (_, small) in itertools.combinations(ordered.iterrows(), 2):
            ratio = big["compute"] / small["compute"]
            if big["arch"] == small["arch"] or not 1 / within <= ratio <= within:
                continue
            points = np.array([[r["gmacs_per_sample"], r["samples_seen"]] for r in (big, small)])
            expected = law.predict(points.astype(float))
            rows.append(
                (data, big["run_id"], small["run_id"], ratio, big["error"], small["error"],
                 big["error"] / small["error"], expected[0] / expected[1])
            )  # fmt: skip
    columns = ["data", "larger", "smaller", "compute_ratio", "error_larger", "error_smaller"]
    return pd.DataFrame(rows, columns=[*columns, "ratio", "predicted"])


# --------------------------------------------------------------------------------- an additive law


def additive(dataset: str, bounds: Mapping[str, tuple[float, float]] | None = None) -> Fit:
    """E + A N^-alpha + B D^-beta through the 20 runs."""
    runs = grid(dataset)
    X = runs[["gmacs_per_sample", "samples_seen"]].to_numpy()
    return fit("chinchilla", X, runs["error"], bounds=bounds)


def floor_curve(law: Fit) -> pd.DataFrame:
    """The profile of the additive law's floor E: floor, height (1 bounds the 95% interval)."""
    found = profile(law, "E")
    rise = np.maximum(found.objective / law.objective - 1, 0.0)
    top = t_quantile(law.dof, found.level) ** 2 / law.dof
    return pd.DataFrame({"floor": found.values, "height": rise / top})


def additive_table(datasets: tuple[str, ...]) -> pd.DataFrame:
    """Parameters of the additive law with profile intervals: dataset, param, value, low, high."""
    rows = []
    for dataset in datasets:
        law = additive(dataset)
        for name in ("E", "alpha", "beta"):
            found = profile(law, name)
            rows.append((dataset, name, law.params[name], found.low, found.high))
    return pd.DataFrame(rows, columns=["dataset", "param", "value", "low", "high"])


# -------------------------------------------------------------------------- the best use of compute


def allocation(
    dataset: str, compute: tuple[float, ...], n: int = 1000, seed: int = 0
) -> Allocation:
    """N and D of least error at these C (GMAC) by the additive law, bootstrap of the runs."""
    recipe = Recipe("chinchilla", x=("gmacs_per_sample", "samples_seen"))
    draws = bootstrap(recipe, grid(dataset), n=n, seed=seed)
    return optimal_allocation(additive(dataset), list(compute), flops_per=1, draws=draws)


def at_compute(dataset: str, C: float, n: int = 60) -> pd.DataFrame:
    """Predicted error at one compute C (GMAC) over model size, by both laws.

    Columns: N (GMACs a pair, three times beyond the runs either way), D (samples), multiplicative,
    additive (errors), inside (1: N and D both inside the ranges of the runs).
    """
    runs = grid(dataset)
    N = np.geomspace(runs["gmacs_per_sample"].min() / 3, 3 * runs["gmacs_per_sample"].max(), n)
    X = np.column_stack([N, C / N])
    sizes, samples = runs["gmacs_per_sample"], runs["samples_seen"]
    inside = [_within(values, column) for values, column in ((N, sizes), (C / N, samples))]
    errors = {"multiplicative": two(runs).predict(X), "additive": additive(dataset).predict(X)}
    return pd.DataFrame(
        {"N": N, "D": C / N, **errors, "inside": np.logical_and(*inside).astype(int)}
    )


def _within(values: np.ndarray, column: pd.Series) -> np.ndarray:
    return np.asarray((values >= column.min() * (1 - 1e-9)) & (values <= column.max() * (1 + 1e-9)))
