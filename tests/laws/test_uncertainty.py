"""Bootstraps, their intervals, predictions, sensitivity."""

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError, published
from cliplib.laws.fitting import fit
from cliplib.laws.frontier import HOW
from cliplib.laws.loss import loss_of
from cliplib.laws.prediction import predict
from cliplib.laws.recipe import Recipe
from cliplib.laws.resample import resamples, resampling_units
from cliplib.laws.sensitivity import sensitivity
from cliplib.laws.uncertainty import Draws, bootstrap, t_interval
from cliplib.laws.wild import WEBB

IMAGENET = published.openclip_runs("imagenet1k").reset_index(drop=True)
C29, E29 = IMAGENET["compute"].to_numpy(), IMAGENET["error"].to_numpy()


def nd_runs(n=40, seed=0, noise=0.005):
    """Runs of 1.8 + 480 N^-0.35 + 2000 D^-0.37 over N and D."""
    rng = np.random.default_rng(seed)
    N, D = np.exp(rng.uniform(17, 23, n)), np.exp(rng.uniform(21, 26, n))
    loss = (1.8 + 480 * N**-0.35 + 2000 * D**-0.37) * np.exp(noise * rng.standard_normal(n))
    return pd.DataFrame({"N": N, "D": D, "error": loss})


def drawn_one_by_one(recipe, runs, n, seed, strata=None, cluster=None):
    """The bootstrap as a plain loop over calls of the generator."""
    units = resampling_units(runs, strata, cluster)
    rng, values = np.random.default_rng(seed), []
    for _ in range(n):
        rows = np.concatenate(
            [group[i] for group in units for i in rng.integers(len(group), size=len(group))]
        )
        try:
            values.append(list(recipe(runs.iloc[rows]).values()))
        except InputError:
            continue
    return np.array(values)


# Resamples


@pytest.mark.parametrize("how", [*HOW, "quantile"])
@pytest.mark.parametrize(
    "groups",
    [{}, {"strata": "data"}, {"cluster": "arch"}, {"strata": "data", "cluster": "samples_seen"}],
)
@pytest.mark.parametrize("drop", [0, 3])
def test_all_at_once_is_the_loop_with_the_same_seed(how, groups, drop):
    recipe = Recipe("power", how, drop_largest=drop)
    draws = bootstrap(recipe, IMAGENET, n=60, seed=5, **groups)
    loop = drawn_one_by_one(recipe, IMAGENET, 60, 5, **groups)
    assert draws.failed == 60 - len(loop)
    assert np.allclose(draws.values, loop, rtol=1e-9)


@pytest.mark.parametrize(
    ("recipe", "runs"),
    [
        (Recipe("power", loss="huber:0.01"), IMAGENET),
        (Recipe("power", "bins", loss="lad", nbins=6), IMAGENET),
        (Recipe("saturating", options={}), IMAGENET),
        (Recipe("chinchilla", x=("N", "D"), loss="huber:0.001"), nd_runs()),
        (Recipe("nd_multiplicative", x=("N", "D"), drop_largest=2), nd_runs()),
    ],
    ids=["huber", "lad", "saturating", "chinchilla", "nd"],
)
def test_other_laws_and_losses_reach_the_same_optimum_at_once_as_alone(recipe, runs):
    draws = bootstrap(recipe, runs, n=10, seed=1)
    form, loss = recipe.form, loss_of(recipe.loss)
    samples = resamples(resampling_units(runs, None, None), 10, np.random.default_rng(1)).rows()
    for values, rows in zip(draws.values, samples, strict=True):
        alone = recipe.fit(runs.iloc[rows])
        predicted = form.log_predict(form.internal(values), np.log(alone.X.T))
        reached = loss.objective(np.log(alone.y) - predicted, alone.weights)
        # a small delta makes a rough landscape, with optima that differ in the sixth digit
        assert reached == pytest.approx(alone.objective, rel=1e-5)
        if loss.name == "l2":
            assert np.allclose(values, list(alone.params.values()), rtol=2e-4, atol=1e-7)


def test_any_callable_is_put_through_the_same_samples():
    draws = bootstrap(Recipe("power", "bins"), IMAGENET, n=40, seed=2)
    called = bootstrap(lambda runs: Recipe("power", "bins")(runs), IMAGENET, n=40, seed=2)
    assert np.allclose(draws.values, called.values, rtol=1e-9)
    assert called.kind == draws.kind and called.units == 29


def test_the_loop_passes_the_same_rows_in_the_same_order():
    seen = []
    bootstrap(lambda runs: {"mean": seen.append(list(runs.index)) or 1.0}, IMAGENET, n=5, seed=9)
    rng = np.random.default_rng(9)
    assert seen[1:] == [list(rng.integers(29, size=29)) for _ in range(5)]


def test_few_clusters_are_counted_and_warned_about():
    draws = bootstrap(Recipe(), IMAGENET, n=50, cluster="arch")
    assert "5 clusters by arch" in draws.kind
    assert draws.units == 5
    assert any("only 5 clusters" in warning for warning in draws.warnings)
    assert bootstrap(Recipe(), IMAGENET, n=50).warnings == ()


# The wild bootstrap


def test_webbs_weights_have_mean_0_variance_1_and_no_skew():
    assert WEBB.mean() == pytest.approx(0, abs=1e-15)
    assert (WEBB**2).mean() == pytest.approx(1)
    assert (WEBB**3).mean() == pytest.approx(0, abs=1e-15)


def test_the_wild_bootstrap_has_the_spread_that_theory_gives():
    """Its variance is the sandwich's with residuals r / (1 - h), called HC3."""
    import statsmodels.api as sm

    draws = bootstrap(Recipe(), IMAGENET, n=20_000, seed=0, how="wild")
    theirs = sm.OLS(np.log(E29), sm.add_constant(np.log(C29))).fit(cov_type="HC3")
    assert draws.se()["alpha"] == pytest.approx(theirs.bse[1], rel=0.03)
    assert draws.values[:, 0].mean() == pytest.approx(Recipe()(IMAGENET)["alpha"], abs=3e-4)
    assert draws.kind.startswith("wild bootstrap of runs")


def test_runs_of_a_wild_cluster_share_their_weight():
    """Two copies of each run, clustered in pairs, are worth one run each."""
    pairs = pd.concat([IMAGENET, IMAGENET], ignore_index=True).assign(pair=[*range(29)] * 2)
    once = bootstrap(Recipe(), IMAGENET, n=4000, how="wild").se()["alpha"]
    together = bootstrap(Recipe(), pairs, n=4000, how="wild", cluster="pair").se()["alpha"]
    apart = bootstrap(Recipe(), pairs, n=4000, how="wild").se()["alpha"]
    assert together == pytest.approx(once, rel=0.1)
    assert apart == pytest.approx(once / np.sqrt(2), rel=0.1)


def test_the_wild_bootstrap_works_for_a_law_of_two_variables():
    runs = nd_runs()
    recipe = Recipe("chinchilla", x=("N", "D"))
    draws = bootstrap(recipe, runs, n=100, how="wild")
    low, high, *_ = draws.ci()["E"]
    assert low < recipe(runs)["E"] < high


# Intervals


def test_the_methods_differ_as_they_say():
    values = np.linspace(-3, 5, 4001)[:, None]
    draws = Draws(("alpha",), values, "test", 0, estimate=np.array([0.5]), units=10)
    plain, expanded, basic = (
        draws.ci(method=method)["alpha"] for method in ("percentile", "expanded", "basic")
    )
    assert (plain.low, plain.high) == pytest.approx((-2.8, 4.8), abs=1e-9)
    assert (basic.low, basic.high) == pytest.approx((-3.8, 3.8), abs=1e-9)
    tail = (expanded.low + 3) / 8  # Hesterberg 2015, table 4: 0.0086 for n = 10
    assert tail == pytest.approx(0.0086, abs=5e-5)
    assert expanded.kind == "expanded, test"
    with pytest.raises(InputError, match="unknown interval 'bca'"):
        draws.ci(method="bca")


# Predictions


@pytest.mark.parametrize(("kind", "columns"), [("mean", "mean_ci"), ("new", "obs_ci")])
def test_without_draws_a_line_predicts_as_ordinary_least_squares_does(kind, columns):
    import statsmodels.api as sm

    at = np.array([1e10, 1e12, 5e13])
    ols = sm.OLS(np.log(E29), sm.add_constant(np.log(C29))).fit()
    frame = ols.get_prediction(sm.add_constant(np.log(at))).summary_frame(alpha=0.1)
    ours = predict(fit("power", C29, E29), at, kind=kind, level=0.9)
    assert np.log(ours.low) == pytest.approx(frame[f"{columns}_lower"].to_numpy(), abs=1e-9)
    assert np.log(ours.high) == pytest.approx(frame[f"{columns}_upper"].to_numpy(), abs=1e-9)
    assert np.log(ours.value) == pytest.approx(frame["mean"].to_numpy(), abs=1e-9)
    assert "27 degrees of freedom" in ours.kind


def test_with_draws_a_new_run_scatters_about_the_law():
    fitted = Recipe().fit(IMAGENET)
    draws = bootstrap(Recipe(), IMAGENET, n=2000)
    at = [1e12, 5e13]
    mean, new = (predict(fitted, at, draws, kind) for kind in ("mean", "new"))
    exact = predict(fitted, at, kind="new")
    width, exact_width = np.log(new.high / new.low), np.log(exact.high / exact.low)
    assert (mean.low > new.low).all() and (mean.high < new.high).all()
    assert width == pytest.approx(exact_width, rel=0.25)
    assert mean.value == pytest.approx(fitted.predict(at))
    assert "joined with 29 residuals" in new.kind and "bootstrap of runs" in mean.kind


def test_the_scatter_of_a_perfect_law_is_none():
    E = 5.86 * C29**-0.11
    runs = IMAGENET.assign(error=E)
    found = predict(Recipe().fit(runs), [1e13], bootstrap(Recipe(), runs, n=20), "new")
    assert found.low == pytest.approx(found.high, rel=1e-9)


def test_a_law_of_two_variables_predicts_at_rows_of_a_table():
    runs, recipe = nd_runs(), Recipe("chinchilla", x=("N", "D"))
    fitted, draws = recipe.fit(runs), bootstrap(recipe, runs, n=400)
    at = pd.DataFrame({"D": [1e11, 1e12], "N": [1e9, 1e10]})
    found = predict(fitted, at, draws)
    assert found.X.tolist() == [[1e9, 1e11], [1e10, 1e12]]
    assert (found.low <= found.value).all() and (found.value <= found.high).all()
    truth = 1.8 + 480 * 1e9**-0.35 + 2000 * 1e11**-0.37
    assert found.value[0] == pytest.approx(truth, rel=0.01)
    delta = predict(fitted, at)
    assert np.log(delta.high / delta.low)[0] == pytest.approx(
        np.log(found.high / found.low)[0], rel=0.5
    )


# Sensitivity


def test_leaving_out_runs_finds_the_one_that_moves_the_exponent_most():
    recipe = Recipe("power", "bins")
    table = sensitivity(recipe, IMAGENET, over="run")
    assert len(table) == 29
    first = table.iloc[0]
    alone = recipe(IMAGENET[IMAGENET["run_id"] != first["choice"]])["alpha"]
    assert first["alpha"] == alone
    assert first["change"] == alone - recipe(IMAGENET)["alpha"]
    assert (table["change"].abs().diff().dropna() <= 0).all()
    assert first["choice"] == IMAGENET.loc[IMAGENET["compute"].idxmin(), "run_id"]


def test_frontiers_are_compared_and_the_refused_one_says_why():
    table = sensitivity(Recipe("power", "bins"), IMAGENET, over="frontier").set_index("choice")
    assert list(table.index) == [*HOW, "quantile", "sfa"]
    for how in HOW:
        assert table.loc[how, "alpha"] == Recipe("power", how)(IMAGENET)["alpha"]
    assert np.isnan(table.loc["sfa", "alpha"]) and "degenerate" in table.loc["sfa", "note"]
    assert table.loc["bins", "change"] == 0 and table.loc["bins", "points"] == 5


def test_dropped_runs_losses_and_forms():
    dropped = sensitivity(Recipe(), IMAGENET, over="dropped").set_index("choice")
    kept = IMAGENET.sort_values("error").iloc[:-2]
    assert dropped.loc["2", "alpha"] == pytest.approx(Recipe()(kept)["alpha"], rel=1e-12)
    assert list(dropped["points"]) == [29, 28, 27, 26, 25, 24]
    losses = sensitivity(Recipe(), IMAGENET, over="delta").set_index("choice")
    assert losses.loc["l2", "change"] == 0
    assert losses.loc["huber:0.001", "alpha"] == Recipe(loss="huber:0.001")(IMAGENET)["alpha"]
    forms = sensitivity(Recipe(), IMAGENET, over="form").set_index("choice")
    assert {"power", "saturating", "shifted", "curved"} <= set(forms.index)
    assert "chinchilla" not in forms.index
    assert forms.loc["saturating", "d"] == Recipe("saturating")(IMAGENET)["d"]


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(Recipe(), IMAGENET, how="jackknife"), "unknown bootstrap 'jackknife'"),
        (lambda: bootstrap(Recipe("power", "bins"), IMAGENET, how="wild"), "takes a Recipe with"),
        (lambda: bootstrap(Recipe(drop_largest=1), IMAGENET, how="wild"), "takes a Recipe with"),
        (lambda: bootstrap(Recipe().__call__, IMAGENET, how="wild"), "takes a Recipe with"),
        (
            lambda: bootstrap(Recipe(), IMAGENET, how="wild", strata="data"),
            "strata have no meaning",
        ),
        (lambda: t_interval(Recipe("power", "quantile").fit(IMAGENET)), "by l2, not for 'quantile"),
        (lambda: predict(fit("power", C29, E29), [1e12], kind="next"), "unknown kind of pred"),
        (lambda: predict(fit("power", C29, E29), [-1.0]), "-1 is not above zero"),
        (
            lambda: predict(Recipe("power", "quantile").fit(IMAGENET), [1e12]),
            "fitted by quantile:0.1 has no t interval",
        ),
        (
            lambda: predict(
                fit("power", C29, E29), [1e12], bootstrap(lambda r: {"m": 1.0}, IMAGENET, n=5)
            ),
            "the draws have no parameter alpha of the power law; they have m",
        ),
        (lambda: sensitivity(Recipe(), IMAGENET, over="seed"), "unknown sensitivity 'seed'"),
    ],
)
def test_bad_requests_are_refused_in_words(call, message):
    with pytest.raises(InputError, match=message):
        call()
