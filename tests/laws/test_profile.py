"""Profile likelihood: Student's t for a line, scipy's pinned fits elsewhere, flat valleys as such."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import least_squares, minimize, minimize_scalar
from scipy.stats import chi2, f

from cliplib import InputError
from cliplib.laws import fit, t_interval
from cliplib.laws.law import law
from cliplib.laws.loss import huber
from cliplib.laws.profile import profile

RNG = np.random.default_rng(4)
N = np.exp(RNG.uniform(np.log(4e7), np.log(1.6e10), 50))
D = np.exp(RNG.uniform(np.log(2e8), np.log(4e11), 50))
NOISE = RNG.standard_normal(50)
LOSS = (1.8 + 480 * N**-0.35 + 2080 * D**-0.37) * np.exp(0.01 * NOISE)
SIZES = {"N": N, "D": D}
C = N * D
FLOOR = (0.2 + 300 * C**-0.15) * np.exp(0.02 * NOISE)


def pinned_sse(fitted, name, value):
    """The least sum of squares with one reported value fixed, by scipy alone."""
    form, i = fitted.form, fitted.form.params.index(name)
    x = np.log(fitted.X).T
    values = fitted.theta.copy()
    natural = form.natural(fitted.theta)[0]
    natural[i] = value
    values[i] = form.internal(natural)[i]
    keep = [k for k in range(len(values)) if k != i]

    def residuals(t):
        theta = values.copy()
        theta[keep] = t
        return np.log(fitted.y) - form.log_predict(theta, x)

    found = least_squares(
        residuals, values[keep], x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    return 2 * found.cost


@pytest.mark.parametrize("level", [0.68, 0.95])
def test_for_a_line_it_is_students_t(level):
    line = fit("power", C, FLOOR)
    for name, span in t_interval(line, level).items():
        found = profile(line, name, level)
        assert [found.low, found.high] == pytest.approx([span.low, span.high], rel=1e-6)
        assert found.level == level and found.param == name


def test_for_a_plane_it_is_students_t_of_statsmodels():
    import statsmodels.api as sm

    plane = fit("nd_multiplicative", SIZES, LOSS)
    ols = sm.OLS(np.log(LOSS), sm.add_constant(-np.log(np.column_stack([N, D])))).fit()
    for row, name in enumerate(("alpha", "beta"), start=1):
        found = profile(plane, name)
        assert [found.low, found.high] == pytest.approx(list(ols.conf_int()[row]), rel=1e-6)


@pytest.mark.parametrize("name", ["A", "E", "alpha", "beta"])
def test_at_its_ends_a_pinned_fit_of_scipys_is_just_too_bad(name):
    found = fit("chinchilla", SIZES, LOSS)
    span = profile(found, name)
    assert span.low < found.params[name] < span.high
    limit = found.objective * (1 + f.ppf(0.95, 1, found.dof) / found.dof)
    for end in (span.low, span.high):
        assert pinned_sse(found, name, end) == pytest.approx(limit, rel=1e-4)


def test_the_curve_is_the_pinned_objective_and_lowest_at_the_estimate():
    found = fit("saturating", C, FLOOR)
    span = profile(found, "d")
    assert (np.diff(span.values) > 0).all()
    assert span.objective.min() == pytest.approx(found.objective)
    assert span.values[span.objective.argmin()] == pytest.approx(found.params["d"])
    for k in (0, len(span.values) // 2, -1):
        value = span.values[k]
        assert span.objective[k] == pytest.approx(pinned_sse(found, "d", value), rel=1e-7)


def test_least_deviations_use_the_laplace_likelihood():
    line = fit("power", C, FLOOR, "lad")
    span = profile(line, "alpha")
    x, y = np.log(C), np.log(FLOOR)
    for end in (span.low, span.high):
        r = y - end * x
        pinned = np.abs(r - np.median(r)).sum()
        # density exp(-|r|/s) / 2s, at its best s = mean |r|: twice the fall of its log
        assert 2 * 50 * np.log(pinned / line.objective) == pytest.approx(
            chi2.ppf(0.95, 1), rel=1e-3
        )
    assert "chi-squared" in span.kind and "lad" in span.kind


@pytest.mark.parametrize("delta", [0.005, 0.05])
def test_huber_uses_the_density_whose_log_is_its_loss(delta):
    line = fit("power", C, FLOOR, f"huber:{delta}")
    span = profile(line, "alpha")
    x, y = np.log(C) - np.log(C).mean(), np.log(FLOOR)

    def deviance(total):
        def at(log_s):
            s = np.exp(log_s)
            area = (
                2
                * quad(lambda r: np.exp(-huber(np.array(r), delta) / s), 0, 60 * s / delta + delta)[
                    0
                ]
            )
            return 2 * (total / s + 50 * np.log(area))

        middle = np.log(total / 50)
        return minimize_scalar(at, bounds=(middle - 3, middle + 3), method="bounded").fun

    def pinned(alpha):
        return minimize_scalar(
            lambda b: float(huber(y - alpha * x - b, delta).sum()),
            bounds=(y.min() - 3, y.max() + 3), method="bounded", options={"xatol": 1e-12},
        ).fun  # fmt: skip

    for end in (span.low, span.high):
        fall = deviance(pinned(end)) - deviance(line.objective)
        assert fall == pytest.approx(chi2.ppf(0.95, 1), rel=5e-3)


# Flat valleys and bounds


def test_an_end_that_the_data_never_exclude_is_no_number():
    U = np.minimum(D, np.exp(RNG.choice([20.0, 22.0, 24.0], 50)))
    few = {"N": N, "D": np.where(D > U, 1.3 * U, D), "U": U}
    form = law("nd_effective")
    theta = form.internal(np.array([9.0, 0.12, 0.1, 15.0]))
    y = np.exp(form.log_predict(theta, np.log(np.column_stack([*few.values()]).T)) + 0.02 * NOISE)
    span = profile(fit("nd_effective", few, y), "R")
    assert span.high == np.inf
    many = few | {"D": np.where(D > U, 40 * U, D)}
    y = np.exp(form.log_predict(theta, np.log(np.column_stack([*many.values()]).T)) + 0.02 * NOISE)
    span = profile(fit("nd_effective", many, y), "R")
    assert 5 < span.low < 15 < span.high < 60


def test_a_floor_that_is_not_seen_has_an_upper_limit_only():
    found = fit("saturating", C, 300 * C**-0.15 * np.exp(0.02 * NOISE))
    span = profile(found, "a")
    assert span.low == 0.0 and 0 < span.high < 0.5
    limit = found.objective * (1 + f.ppf(0.95, 1, found.dof) / found.dof)
    assert pinned_sse(found, "a", span.high) == pytest.approx(limit, rel=1e-4)


def test_the_users_bounds_end_the_interval():
    found = fit("chinchilla", SIZES, LOSS, bounds={"E": (1.0, 1.75)})
    span = profile(found, "E")
    assert span.high == pytest.approx(1.75) and 1.0 <= span.low < 1.75


def test_a_curved_profile_is_not_symmetric_and_its_refits_are_the_lowest():
    found = fit("chinchilla", SIZES, LOSS, "huber:0.01")
    span = profile(found, "A")
    assert np.log(span.high / found.params["A"]) > 0 > np.log(span.low / found.params["A"])
    x, y = np.log(np.stack([N, D])), np.log(LOSS)
    k = int(np.argmin(np.abs(span.values - span.high)))

    def rest(t):
        theta = np.insert(t, 0, np.log(span.values[k]))
        return 1e3 * float(huber(y - found.form.log_predict(theta, x), 0.01).sum())

    lower = minimize(
        rest, found.theta[1:], method="Nelder-Mead", options={"maxiter": 6000, "fatol": 1e-10}
    )
    assert span.objective[k] <= lower.fun / 1e3 * (1 + 1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: profile(fit("power", C, LOSS), "E"), "power law has no parameter E; it has alpha"),
        (
            lambda: profile(fit("power", C, LOSS), "alpha", 95),
            "a level lies between 0 and 1, got 95",
        ),
    ],
)
def test_bad_requests_are_refused_in_words(call, message):
    with pytest.raises(InputError, match=message):
        call()
