"""The paper's own recipe, exactly: its exponents, its in-sample error, its predictions.

Cherti et al. 2023: footnote 5 (recipe), Figure 1 (exponents), appendix B.2.1 (predictions).
"""

from collections.abc import Mapping

import pandas as pd

from cliplib import InputError
from cliplib.laws.fitting import Fit
from cliplib.laws.recipe import Recipe
from cliplib.laws.uncertainty import Draws, bootstrap, t_interval

# OpenCLIP runs go through the five bins; OpenAI's three points through a plain line.
RECIPES = {"OpenCLIP": Recipe("power", "bins"), "OpenAI": Recipe("power", "all")}

# The samples that the paper's notebook puts behind its labels when it scores and predicts:
# epochs x unique pairs of LAION-80M (3B) and LAION-400M. The runs' own counts differ a little.
NOMINAL_SAMPLES = {
    "3B": 32 * 80_000_415,
    "13B": 32 * 407_332_084,
    "34B": 84 * 407_332_084,
    "68B": 168 * 407_332_084,
}


def paper_law(runs: pd.DataFrame, family: str = "OpenCLIP") -> Fit:
    """The paper's law of one family on one data set; runs has family, compute (GMAC), error."""
    if family not in RECIPES:
        raise InputError(f"unknown family '{family}'; known: {', '.join(RECIPES)}")
    return RECIPES[family].fit(runs[runs["family"] == family])


def paper_laws(table: pd.DataFrame) -> dict[tuple[str, str], Fit]:
    """Every law of Figure 1, by (data set, family).

    table: dataset, family, compute (GMAC), error (`cliplib.published.figure1`).
    """
    by_dataset = table.groupby("dataset", sort=False)
    return {
        (str(dataset), family): paper_law(runs, family)
        for dataset, runs in by_dataset
        for family in RECIPES
    }


def fit_paper(table: pd.DataFrame) -> pd.DataFrame:
    """The laws of `paper_laws` as a table: dataset, family, n_runs, n_points, alpha, beta."""
    n_runs = table.groupby(["dataset", "family"]).size()
    rows = [
        (*key, int(n_runs[key]), law.n, *law.params.values())
        for key, law in paper_laws(table).items()
    ]
    columns = ["dataset", "family", "n_runs", "n_points", "alpha", "beta"]
    return pd.DataFrame(rows, columns=columns)


def paper_draws(table: pd.DataFrame, n: int = 2000, seed: int = 0) -> dict[str, Draws]:
    """Bootstrap of OpenCLIP's runs through the paper's recipe, by data set."""
    openclip = table[table["family"] == "OpenCLIP"]
    return {
        str(dataset): bootstrap(RECIPES["OpenCLIP"], runs, n, seed)
        for dataset, runs in openclip.groupby("dataset", sort=False)
    }


def paper_intervals(
    laws: Mapping[tuple[str, str], Fit], draws: Mapping[str, Draws]
) -> pd.DataFrame:
    """A 95% interval for each exponent: dataset, family, low, high, kind.

    OpenCLIP's from the bootstrap; OpenAI's three points allow Student's t with one degree of
    freedom and nothing else.
    """
    rows = []
    for (dataset, family), law in laws.items():
        kinds = draws[dataset].ci() if family == "OpenCLIP" else t_interval(law)
        low, high, _, kind = kinds["alpha"]
        rows.append((dataset, family, low, high, kind))
    return pd.DataFrame(rows, columns=["dataset", "family", "low", "high", "kind"])


def compare_alphas(printed: pd.DataFrame, fits: pd.DataFrame) -> pd.DataFrame:
    """Exponents as printed beside ours: dataset, family, n_runs, printed, ours, difference.

    printed: `cliplib.published.paper_alphas`; fits: from `fit_paper`. The paper prints two
    decimals, so a difference up to 0.005 is rounding.
    """
    named = {"alpha_openclip_paper": "OpenCLIP", "alpha_openai_paper": "OpenAI"}
    long = printed.rename(columns=named).melt(
        "dataset", list(named.values()), var_name="family", value_name="printed"
    )
    table = fits.merge(long, on=["dataset", "family"], validate="1:1")
    table = table.rename(columns={"alpha": "ours"})
    table["difference"] = table["ours"] - table["printed"]
    return table[["dataset", "family", "n_runs", "printed", "ours", "difference"]]


def best_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """The 11 cells (architecture x samples label) that the paper scores its law on.

    Each holds the lowest error over data scales and nominal compute (GMAC): GMACs a sample times
    `NOMINAL_SAMPLES`, not the runs' own samples. Columns: arch, samples_seen_label, error,
    compute.
    """
    openclip = runs[runs["family"] == "OpenCLIP"]
    cells = openclip.groupby(["arch", "samples_seen_label"], as_index=False).agg(
        error=("error", "min"), gmacs=("gmacs_per_sample", "first")
    )
    cells["compute"] = cells["gmacs"] * cells["samples_seen_label"].map(NOMINAL_SAMPLES)
    return cells.drop(columns="gmacs")


def mean_absolute_error(runs: pd.DataFrame) -> float:
    """The paper's in-sample error of its law, in points of accuracy, over `best_cells`.

    In-sample: the law was fitted to five of these same runs.
    """
    cells = best_cells(runs)
    missed = paper_law(runs).predict(cells["compute"].to_numpy()) - cells["error"].to_numpy()
    return float(100 * abs(missed).mean())


def predictions(runs: pd.DataFrame, gmacs: Mapping[str, float]) -> pd.DataFrame:
    """The law's accuracy for each architecture and samples label, at nominal compute.

    gmacs: GMACs a sample by architecture. Returns arch, samples_label, compute (GMAC),
    pct (accuracy or recall in percent).
    """
    grid = [(arch, label) for arch in gmacs for label in NOMINAL_SAMPLES]
    table = pd.DataFrame(grid, columns=["arch", "samples_label"])
    table["compute"] = table["arch"].map(gmacs) * table["samples_label"].map(NOMINAL_SAMPLES)
    table["pct"] = 100 * (1 - paper_law(runs).predict(table["compute"].to_numpy()))
    return table
