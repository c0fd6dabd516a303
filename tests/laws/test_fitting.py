"""fit and fit_batch: the answer does not depend on units, order or packaging; doubts and refusals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from cliplib import InputError
from cliplib.laws import fit
from cliplib.laws.fitting import fit_batch
from cliplib.laws.law import law
from cliplib.laws.loss import Huber, loss_of

RNG = np.random.default_rng(0)
N = np.exp(RNG.uniform(np.log(4e7), np.log(1.6e10), 120))
D = np.exp(RNG.uniform(np.log(2e8), np.log(4e11), 120))
U = np.minimum(D, np.exp(RNG.choice([20.0, 22.0, 24.0], 120)))
NOISE = RNG.standard_normal(120)
LOSS = (1.8 + 480 * N**-0.35 + 2080 * D**-0.37) * np.exp(0.005 * NOISE)
PRODUCT = 9 * N**-0.12 * D**-0.08 * np.exp(0.01 * NOISE)
SIZES = pd.DataFrame({"D": D, "run": range(120), "N": N, "loss": LOSS})
C = N * D
FLOOR = (0.2 + 300 * C**-0.15) * np.exp(0.01 * NOISE)


def values(fitted):
    return np.array(list(fitted.params.values()))


# The answer


@pytest.mark.parametrize("X", [SIZES, {"N": list(N), "D": D}, np.column_stack([N, D])])
def test_a_table_a_mapping_and_an_array_are_the_same(X):
    found = fit("chinchilla", X, LOSS, "huber")
    assert values(found) == pytest.approx(values(fit("chinchilla", SIZES, SIZES["loss"], "huber")))
    assert found.params["alpha"] == pytest.approx(0.35, abs=0.02)
    assert found.variables == ("N", "D") and found.loss == "huber:0.001"
    assert "0.001" in found.objective_formula and found.warnings == []
    assert found.n_starts_at_best == found.n_starts > 8


def test_a_plane_agrees_with_ordinary_least_squares_to_the_last_digits():
    import statsmodels.api as sm

    design = sm.add_constant(-np.log(np.column_stack([N, D])))
    weights = RNG.uniform(0.5, 2, 120)
    for w in (None, weights):
        ols = sm.WLS(np.log(PRODUCT), design, weights=1.0 if w is None else w).fit()
        found = fit("nd_multiplicative", {"N": N, "D": D}, PRODUCT, weights=w)
        assert np.allclose(found.theta, ols.params, rtol=1e-10)
        per_theta = np.diag([1 / found.params["A"], 1, 1])
        assert np.allclose(per_theta @ found.cov @ per_theta, ols.cov_params(), rtol=1e-7)
        assert found.objective == pytest.approx(ols.ssr, rel=1e-9)


def test_curved_laws_have_the_covariance_of_curve_fit():
    from scipy.optimize import curve_fit

    found = fit("chinchilla", SIZES, LOSS)
    form = found.form
    theirs, cov = curve_fit(
        lambda x, *t: form.log_predict(np.array(t), x), np.log(np.stack([N, D])), np.log(LOSS),
        p0=found.theta, ftol=1e-15, xtol=1e-15, gtol=1e-15,
    )  # fmt: skip
    slope = form.natural(theirs)[1]
    assert np.sqrt(np.diag(found.cov)) == pytest.approx(np.sqrt(np.diag(cov)) * slope, rel=1e-3)


def test_the_spread_of_least_deviations_is_that_of_quantile_regression():
    import statsmodels.api as sm

    y = np.log(C**-0.1) + 0.05 * NOISE
    theirs = sm.QuantReg(y, sm.add_constant(np.log(C))).fit(q=0.5)
    found = fit("power", C, np.exp(y), "lad")
    assert np.sqrt(found.cov[0, 0]) == pytest.approx(theirs.bse[1], rel=0.25)  # other bandwidth


def test_the_sandwich_of_a_mild_huber_matches_its_bootstrap():
    found = fit("chinchilla", SIZES, LOSS, "huber:0.01")
    W = np.random.default_rng(0).multinomial(120, np.full(120, 1 / 120), size=600).astype(float)
    draws = fit_batch(found.form, np.column_stack([N, D]), LOSS, W, "huber:0.01").params
    se = np.sqrt(np.diag(found.cov))[2:]
    assert se == pytest.approx(draws.std(axis=0)[2:], rel=0.25)


@settings(max_examples=12, deadline=None)
@given(
    unit=st.tuples(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9)),
    seed=st.integers(0, 1000),
    loss=st.sampled_from(["l2", "huber:0.001", "lad"]),
)
def test_units_and_order_change_the_factors_only(unit, seed, loss):
    order = np.random.default_rng(seed).permutation(120)
    base = fit("chinchilla", SIZES, LOSS, loss)
    X = {"N": N[order] * unit[0], "D": D[order] * unit[1]}
    other = fit("chinchilla", X, LOSS[order], loss)
    assert other.objective == pytest.approx(base.objective, rel=1e-9)
    for name in ("E", "alpha", "beta"):
        assert other.params[name] == pytest.approx(base.params[name], rel=1e-5)
    scaled = base.params["A"] * unit[0] ** base.params["alpha"]
    assert other.params["A"] == pytest.approx(scaled, rel=1e-3)
    assert other.condition == pytest.approx(base.condition, rel=1e-3)


def test_bounds_are_in_reported_units_and_hold_whatever_the_parameter():
    free = fit("chinchilla", SIZES, LOSS)
    for name, limits in {"E": (0.0, 1.5), "A": (200.0, 300.0), "beta": (0.4, 1.0)}.items():
        found = fit("chinchilla", SIZES, LOSS, bounds={name: limits})
        assert found.on_bound == (name,)
        assert found.params[name] == pytest.approx(limits[1] if name != "beta" else 0.4)
        assert found.objective > free.objective
        i = found.form.params.index(name)
        assert found.cov[i, i] == 0
        assert any(f"{name} sits on a bound" in text for text in found.warnings)
        x, keep = np.log(np.stack([N, D])), [k for k in range(5) if k != i]

        def rest(t, i=i, keep=keep, x=x, found=found):
            theta = found.theta.copy()
            theta[keep] = t
            return 1e4 * float(((np.log(LOSS) - found.form.log_predict(theta, x)) ** 2).sum())

        lower = minimize(rest, found.theta[keep], method="Nelder-Mead", options={"maxiter": 3000})
        assert found.objective <= lower.fun / 1e4 * (1 + 1e-9)
    wide = fit("chinchilla", SIZES, LOSS, bounds={"E": (0.0, 5.0), "A": (1.0, 1e9)})
    assert values(wide) == pytest.approx(values(free), rel=1e-6) and wide.on_bound == ()


def test_weights_leave_out_and_repeat_points():
    w = np.ones(120)
    w[:7] = 0
    some = fit("saturating", C, FLOOR, "huber:0.01", weights=w)
    assert some.n == 113 and some.dof == 110
    assert values(some) == pytest.approx(values(fit("saturating", C[7:], FLOOR[7:], "huber:0.01")))
    assert fit("power", C, FLOOR).residual_sd == pytest.approx(
        fit("power", C, FLOOR, weights=np.full(120, 3.0)).residual_sd
    )


def test_own_starts_are_tried_besides_the_laws():
    base = fit("chinchilla", SIZES, LOSS, "huber")
    more = fit("chinchilla", SIZES, LOSS, "huber", starts=[[400.0, 400.0, 1.7, 0.3, 0.3]])
    assert more.n_starts == base.n_starts + 1
    assert more.objective == pytest.approx(base.objective, rel=1e-12)


def test_a_fit_can_be_repeated_with_other_choices():
    found = fit("chinchilla", SIZES, LOSS, "huber", bounds={"E": (0.0, 1.5)})
    other = found.refit(loss="huber:0.01")
    assert other.loss == "huber:0.01" and other.on_bound == ("E",)
    again = found.refit()
    assert again.params == found.params
    kept = np.quantile(LOSS, 0.9) > LOSS
    assert found.refit(weights=kept.astype(float)).n == kept.sum()


def test_predictions_take_what_fit_takes():
    found = fit("chinchilla", SIZES, LOSS)
    one = found.predict({"N": [1e9], "D": [2e10]})
    by_hand = (
        found.params["E"] + found.params["A"] * 1e9 ** -found.params["alpha"]
        + found.params["B"] * 2e10 ** -found.params["beta"]
    )  # fmt: skip
    assert one == pytest.approx([by_hand])
    assert found.predict([[1e9, 2e10]]) == pytest.approx(one)
    assert np.log(LOSS) - np.log(found.predict(SIZES)) == pytest.approx(found.residuals)


# Many at once


@pytest.mark.parametrize("loss", ["l2", "huber:0.001", "lad"])
@pytest.mark.parametrize("name", ["nd_multiplicative", "chinchilla", "nd_effective"])
def test_rows_of_a_batch_are_fits(name, loss):
    X = np.column_stack([N, D, U][: len(law(name).variables)])
    y = LOSS if name == "chinchilla" else PRODUCT
    W = np.random.default_rng(3).multinomial(120, np.full(120, 1 / 120), size=30).astype(float)
    batch = fit_batch(law(name), X, y, W, loss)
    assert batch.params.shape == (30, X.shape[1] + (3 if name == "chinchilla" else 1))
    assert batch.converged.all()
    for row in (0, 13, 29):
        alone = fit(name, X, y, loss, weights=W[row])
        assert batch.objective[row] == pytest.approx(alone.objective, rel=1e-8)
        assert np.allclose(batch.theta[row], alone.theta, atol=1e-3 if loss == "lad" else 1e-5)
        assert np.allclose(batch.params[row], alone.form.natural(batch.theta[row])[0])


def test_rows_of_a_batch_may_have_their_own_points_and_errors():
    rng = np.random.default_rng(1)
    rows = rng.integers(120, size=(20, 40))
    form = law("saturating")
    batch = fit_batch(form, C[rows][..., None], FLOOR[rows], np.ones((20, 40)))
    errors = fit_batch(
        form, C, FLOOR * np.exp(0.01 * rng.standard_normal((4, 120))), np.ones((4, 120))
    )
    assert errors.converged.all()
    for row in (0, 19):
        alone = fit(form, C[rows[row]], FLOOR[rows[row]])
        assert batch.objective[row] == pytest.approx(alone.objective, rel=1e-8)


def test_a_warm_start_changes_nothing():
    W = np.random.default_rng(3).multinomial(120, np.full(120, 1 / 120), size=30).astype(float)
    X, form = np.column_stack([N, D]), law("chinchilla")
    start = values(fit("chinchilla", SIZES, LOSS, "huber"))
    cold, warm = (
        fit_batch(form, X, LOSS, W, "huber"),
        fit_batch(form, X, LOSS, W, "huber", starts=start),
    )
    assert warm.objective == pytest.approx(cold.objective, rel=1e-8)


def test_a_batch_too_large_for_one_part_is_the_sum_of_its_parts(monkeypatch):
    import cliplib.laws.fitting as module

    W = np.random.default_rng(3).multinomial(120, np.full(120, 1 / 120), size=30).astype(float)
    whole = fit_batch(law("saturating"), C, FLOOR, W, "huber:0.01")
    monkeypatch.setattr(module, "NUMBERS", 7 * 120)
    parts = fit_batch(law("saturating"), C, FLOOR, W, "huber:0.01")
    assert parts.params == pytest.approx(whole.params, rel=1e-6)


def test_a_resample_that_cannot_fix_a_line_gives_nan():
    W = np.zeros((2, 120))
    W[0, :5] = W[1, 3] = 1
    batch = fit_batch(law("power"), C, FLOOR, W)
    assert np.isfinite(batch.params[0]).all() and np.isnan(batch.params[1]).all()
    assert list(batch.converged) == [True, False]


# Doubts


def test_an_offset_on_zero_is_said_to_be_unseen():
    powers = (480 * N**-0.34 + 2080 * D**-0.36) * np.exp(0.003 * NOISE)
    found = fit("chinchilla", SIZES, powers, "huber")
    assert found.params["E"] == 0 and found.on_bound == ("E",)
    assert any(
        "no irreducible loss is seen, the law is a sum of powers" in w for w in found.warnings
    )
    capped = fit("chinchilla", SIZES, LOSS, bounds={"E": (0.0, 1.5)})
    assert any("E sits on a bound (1.5): read it as" in w for w in capped.warnings)


def test_parameters_that_trade_off_are_named():
    narrow = np.geomspace(1.0, 1.5, 30)
    found = fit("saturating", narrow, 1 + narrow**-0.2 * np.exp(1e-4 * NOISE[:30]))
    assert found.converged and found.condition > 1e3
    assert any(w.startswith("the data do not tell the parameters apart") for w in found.warnings)
    assert any("b and a trade off" in w for w in found.warnings)


@pytest.mark.parametrize("scatter", [1e-4, 1e-8, 0.0])
def test_data_with_hardly_any_scatter_converge_and_raise_no_doubt(scatter):
    wide = np.geomspace(1.0, 1e5, 30)
    found = fit("saturating", wide, 1 + wide**-0.2 * np.exp(scatter * NOISE[:30]))
    assert found.converged and found.warnings == []
    assert found.params["d"] == pytest.approx(0.2, abs=max(10 * scatter, 1e-9))


def test_a_valley_that_ends_nowhere_is_not_told_as_a_point():
    few = D <= 1.3 * U
    repeats = np.where(few, D, 1.3 * U)
    law_values = law("nd_effective").internal(np.array([9.0, 0.12, 0.1, 15.0]))
    x = np.log(np.stack([N, repeats, U]))
    y = np.exp(law("nd_effective").log_predict(law_values, x) + 0.02 * NOISE)
    found = fit("nd_effective", {"N": N, "D": repeats, "U": U}, y)
    assert found.on_bound == ("R",) or any("R is hardly known" in w for w in found.warnings)


def test_few_points_inside_delta_are_a_doubt_about_standard_errors():
    found = fit("chinchilla", SIZES, LOSS * np.exp(0.1 * NOISE), "huber:1e-4")
    assert any("points lie inside delta = 0.0001" in w for w in found.warnings)
    assert not any(
        "inside delta" in w for w in fit("chinchilla", SIZES, LOSS, "huber:0.01").warnings
    )


def test_a_short_range_and_few_points_are_doubts():
    X = {"N": N[:6], "D": D[:6] / D[:6] + np.arange(6)}
    found = fit("chinchilla", X, LOSS[:6])
    assert any("leave 1 degree of freedom" in w for w in found.warnings)
    assert any("D spans a factor of 6 only" in w for w in found.warnings)


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit("chinchilla", {"N": N}, LOSS), "no column D: the law needs N, D"),
        (lambda: fit("chinchilla", N, LOSS), r"2 variables \(N, D\): give one column for each"),
        (lambda: fit("chinchilla", {"N": N, "D": -D}, LOSS), "column D, row 0: .* not above zero"),
        (lambda: fit("chinchilla", {"N": N[:5], "D": D[:5]}, LOSS[:5]), "5 points are too few"),
        (lambda: fit("chinchilla", {"N": N, "D": D}, LOSS[:9]), "columns N and D and E differ"),
        (lambda: fit("chinchilla", {"N": N, "D": 0 * D + 1e9}, LOSS), "column D: all 120 rows"),
        (
            lambda: fit("chinchilla", {"N": N, "D": 20 * N}, LOSS),
            r"columns N and D move together \(correlation 1.000 of their logs\): .* vary one",
        ),
        (
            lambda: fit("nd_multiplicative", {"N": N, "D": 1 / N}, LOSS),
            r"columns N and D move together \(correlation -1.000",
        ),
        (
            lambda: fit(
                "chinchilla", {"N": np.tile([1, 2.0], 4), "D": np.repeat([1, 2.0], 4)}, LOSS[:8]
            ),
            "columns N and D together have 4 distinct values, too few for the 5 parameters",
        ),
        (lambda: fit("power", C, LOSS, "l1"), "unknown loss 'l1'; known: l2, lad, huber"),
        (lambda: fit("power", C, LOSS, "huber:wide"), "'wide' is not a number; write huber:0.001"),
        (lambda: fit("power", C, LOSS, "huber:0"), "delta must be a positive number, got 0"),
        (lambda: fit("power", C, LOSS, bounds={"E": (0, 1)}), "power law has no parameter E"),
        (lambda: fit("power", C, LOSS, bounds={"alpha": (1, 0)}), "bounds of alpha: 1 is above 0"),
        (lambda: fit("power", C, LOSS, weights=[1.0]), "one number for each of 120 points"),
        (lambda: fit("power", C, LOSS, weights=-C), "column weights, row 0: .* zero or above"),
        (lambda: fit("power", C, LOSS, weights=0 * C), "all weights are zero"),
        (lambda: fit("curved", C, FLOOR / 9, starts=[[1.0]]), r"expected 2 values \(alpha, c0\)"),
    ],
)
def test_bad_requests_are_refused_in_words(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# Losses


@settings(max_examples=50, deadline=None)
@given(r=st.floats(-10, 10), delta=st.floats(1e-3, 5))
def test_hubers_loss_is_a_square_that_turns_into_a_line(r, delta):
    value = float(Huber(delta).rho(np.array(r)))
    expected = r**2 / 2 if abs(r) <= delta else delta * (abs(r) - delta / 2)
    assert value == pytest.approx(expected, rel=1e-12)
    assert loss_of(f"huber:{delta!r}") == Huber(delta)
    assert loss_of(Huber(delta)) == Huber(delta)
