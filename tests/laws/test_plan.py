"""Plans of runs and splits of compute: closed forms against simulation and search."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import t

from cliplib import InputError
from cliplib.laws import Recipe, bootstrap, fit
from cliplib.laws.allocation import optimal_allocation
from cliplib.laws.plan import Belief, candidates, plan, rates, simulate, sum_of_squares

BELIEVED = Belief(alpha=-0.2, beta=2.0, sd=0.05)
SPEEDS = pd.DataFrame(
    {
        "rung": ["XXS", "XS", "S"],
        "gmacs_per_pair": [0.001, 0.004, 0.014],
        "samples_per_s": [3400, 1800, 980],
    }
)
OFFERED = candidates(SPEEDS)


# Which runs next


def test_candidates_cost_what_their_samples_and_speed_say():
    assert OFFERED["samples_seen"].min() == 65_000 and OFFERED["samples_seen"].max() == 4_000_000
    row = OFFERED[OFFERED["rung"] == "XS"].iloc[-1]
    assert row["hours"] == pytest.approx(4e6 / 1800 / 3600) and row["compute"] == pytest.approx(
        16e3
    )


def test_speeds_are_medians_by_rung_and_processor():
    table = pd.DataFrame(
        {
            "rung": ["S", "S", "S", "M"], "gmacs_per_pair": [1, 1, 1, 4.0],
            "samples_per_s": [10, 20, 900, 5.0], "processor": ["a", "a", "b", "a"],
        }
    )  # fmt: skip
    assert rates(table)["samples_per_s"].tolist() == [20, 5]
    assert rates(table, "a")["samples_per_s"].tolist() == [15, 5]
    with pytest.raises(InputError, match="no run was timed on 'z'; there are a, b"):
        rates(table, "z")


def test_the_formula_of_the_standard_error_agrees_with_simulated_fits():
    x = np.log(np.geomspace(1e2, 1e5, 12))
    found = simulate(x, BELIEVED, 10.0, 20_000, np.random.default_rng(0))
    se = BELIEVED.sd / np.sqrt(sum_of_squares(x))
    assert found["simulated_se"] == pytest.approx(se, rel=0.02)
    assert abs(found["simulated_bias"]) < 4 * se / np.sqrt(20_000) and found["included"] == 1


def test_the_inclusion_rule_bends_the_slope_and_the_simulation_shows_it():
    noisy = Belief(-0.2, 2.0, 0.3)
    x = np.log(np.geomspace(60, 1e5, 12))  # the first error is predicted at 0.88
    found = simulate(x, noisy, 0.9, 5000, np.random.default_rng(0))
    assert found["included"] < 0.97
    assert found["simulated_bias"] > 0.005  # only lucky small runs are left: the fall looks slower


def test_a_plan_keeps_to_its_hours_and_beats_the_naive_ones():
    found = plan(BELIEVED, OFFERED, 6.0)
    assert found.runs["hours"].sum() <= 6.0
    assert found.runs["hours_total"].iloc[-1] == pytest.approx(found.runs["hours"].sum())
    se = found.comparison.set_index("plan")["se"]
    assert se["this plan"] == se.min() and (se < np.inf).all()
    assert found.runs["se"].dropna().is_monotonic_decreasing
    assert se["this plan"] == pytest.approx(found.runs["se"].iloc[-1])
    for i, row in found.runs[2:].iterrows():
        assert row["half_width"] == pytest.approx(t.ppf(0.975, i - 1) * row["se"])
    simulated = found.comparison.set_index("plan")["simulated_se"]
    assert simulated["this plan"] == pytest.approx(se["this plan"], rel=0.06)


def test_every_step_is_the_largest_gain_for_its_hours():
    have = np.log([500.0, 900.0, 2000.0])
    found = plan(BELIEVED, OFFERED, 2.0, np.exp(have), repeats=1, least_gain=0.0)
    first = found.runs.iloc[0]
    x, cost = np.log(OFFERED["compute"]), OFFERED["hours"]
    gain = [(sum_of_squares(np.append(have, value)) - sum_of_squares(have)) for value in x]
    inside = np.exp(BELIEVED.log_error(x) + 1.2816 * BELIEVED.sd) <= 0.9
    best = OFFERED[inside].index[np.argmax((gain / cost)[inside])]
    assert first["compute"] == OFFERED.loc[best, "compute"]


def test_more_hours_and_more_runs_there_never_hurt():
    se = [plan(BELIEVED, OFFERED, hours).runs["se"].iloc[-1] for hours in (0.3, 1.0, 5.0)]
    assert se[0] > se[1] > se[2]
    helped = plan(BELIEVED, OFFERED, 1.0, existing=[100, 1e4, 3e4])
    assert helped.runs["se"].iloc[-1] < se[1]


def test_no_run_is_planned_more_often_than_seeds_are_allowed():
    found = plan(BELIEVED, OFFERED, 50.0, repeats=2, least_gain=0.0)
    assert found.runs.groupby(["rung", "samples_seen"]).size().max() == 2
    assert set(found.runs["seed"]) == {0, 1}
    strict = plan(BELIEVED, OFFERED, 50.0, least_gain=0.05)
    assert len(strict.runs) < len(found.runs)
    assert ((-strict.runs["se"].pct_change()).dropna() > 0.05).all()


def test_runs_that_the_inclusion_rule_may_drop_are_not_planned():
    weak = Belief(-0.1, 1.5, 0.05)
    found = plan(weak, OFFERED, 5.0, sure=0.9)
    assert found.runs["error"].max() * np.exp(1.28 * 0.05) < 0.9
    assert any("left out" in note for note in found.notes)


def test_hours_are_left_unspent_where_no_run_helps():
    found = plan(BELIEVED, OFFERED, 1.0, existing=[1e2] * 500 + [1e5] * 500)
    assert found.runs.empty and found.comparison["n"][0] == 0
    assert found.to_markdown() and json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"hours": 0.0}, "a plan needs hours to spend"),
        ({"hours": 1e-4}, "no run that costs at most 0.0001 hours"),
        ({"hours": 0.015}, "do not buy two runs of different compute"),
    ],
)
def test_plans_that_cannot_be_made_are_refused(ask, message):
    with pytest.raises(InputError, match=message):
        plan(BELIEVED, OFFERED, **ask)


def test_a_plan_needs_a_power_law_and_a_range_of_samples():
    with pytest.raises(InputError, match="needs the power law, not curved"):
        Belief.of(fit("curved", [1, 10, 100, 1e3], [0.9, 0.8, 0.6, 0.4]))
    with pytest.raises(InputError, match="are no range"):
        candidates(SPEEDS, (10, 1))


# How to split compute


def additive(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28):
    """A fit of the additive law to its own predictions: Hoffmann et al. 2022, approach 3."""
    N, D = (
        grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6))
    )
    return fit("chinchilla", {"N": N, "D": D}, E + A * N**-alpha + B * D**-beta)


def least_error(law, C, k, unique=None):
    """The best N by one-dimensional minimisation."""

    def error(log_n):
        point = [np.exp(log_n), C / k / np.exp(log_n)] + ([] if unique is None else [unique])
        return float(law.predict(np.array([point]))[0])

    found = minimize_scalar(
        error, bounds=(5, np.log(C / k) - 5), method="bounded", options={"xatol": 1e-9}
    )
    return np.exp(found.x), found.fun


@pytest.mark.parametrize("C", [1e20, 5.76e23])
def test_the_closed_form_is_the_minimum(C):
    law = additive()
    row = optimal_allocation(law, [C]).table.iloc[0]
    N, error = least_error(law, C, 6.0)
    assert row["N"] == pytest.approx(N, rel=1e-3) and row["error"] == pytest.approx(error, rel=1e-9)
    assert 6 * row["N"] * row["D"] == pytest.approx(C)


def test_published_exponents_of_the_additive_law():
    found = optimal_allocation(additive(), [5.76e23])
    assert found.exponents["a"] == pytest.approx(0.28 / 0.62, abs=1e-4)
    assert found.exponents["b"] == pytest.approx(0.34 / 0.62, abs=1e-4)
    row = found.table.iloc[0]
    assert row["N"] == pytest.approx(found.exponents["G"] * (5.76e23 / 6) ** found.exponents["a"])


@settings(max_examples=6, deadline=None)
@given(
    alpha=st.floats(0.2, 0.6), beta=st.floats(0.2, 0.6), k=st.floats(1, 10), C=st.floats(1e18, 1e22)
)
def test_no_neighbour_of_the_optimum_is_better(alpha, beta, k, C):
    law = additive(alpha=alpha, beta=beta)
    row = optimal_allocation(law, [C], k).table.iloc[0]
    for factor in (0.9, 1.1):
        other = law.predict(np.array([[row["N"] * factor, row["D"] / factor]]))[0]
        assert other > row["error"]


def test_intervals_of_the_split_come_from_the_draws():
    rng = np.random.default_rng(0)
    N, D = (
        grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6))
    )
    loss = (1.69 + 406.4 * N**-0.34 + 410.7 * D**-0.28) * np.exp(0.002 * rng.normal(size=36))
    runs = pd.DataFrame({"N": N, "D": D, "loss": loss})
    recipe = Recipe("chinchilla", x=("N", "D"), y="loss")
    draws = bootstrap(recipe, runs, 100, seed=1)
    found = optimal_allocation(recipe.fit(runs), [1e20, 5.76e23], draws=draws)
    for row in found.table.to_dict(orient="records"):
        assert row["N_low"] < row["N"] < row["N_high"] and row["D_low"] < row["D"] < row["D_high"]
    low, high = found.intervals["a"]
    assert low < 0.28 / 0.62 < high
    assert json.loads(json.dumps(found.to_dict()))["allocation"][0]["N"] > 0
    assert "| C | N | N_low | N_high |" in found.to_markdown()


def test_the_multiplicative_law_has_no_interior_optimum_and_says_so():
    N, D = (
        grid.ravel() for grid in np.meshgrid(np.geomspace(1, 30, 4), np.geomspace(1e9, 3e10, 4))
    )
    law = fit("nd_multiplicative", {"N": N, "D": D}, 9 * N**-0.13 * D**-0.08)
    found = optimal_allocation(law, [1e11, 1e30], flops_per=1.0)
    row = found.table.iloc[0]
    assert (row["N"], row["D"]) == pytest.approx((30, 1e11 / 30)) and found.exponents == {}
    assert found.table.iloc[1].drop("C").isna().all()
    said = " ".join(found.notes)
    assert "no interior optimum" in said and "everything to N" in said
    assert "no N and D in these ranges spend that C" in said
    narrow = optimal_allocation(law, [1e11], 1.0, N_range=(1, 10), D_range=(1e9, 1e12))
    assert narrow.table["N"][0] == pytest.approx(10)


def test_repeated_data_make_larger_models_better():
    rng = np.random.default_rng(0)
    N, D = (
        np.exp(rng.uniform(np.log(1e7), np.log(1e10), 60)),
        np.exp(rng.uniform(np.log(1e9), np.log(1e12), 60)),
    )
    U = np.minimum(D, np.exp(rng.uniform(np.log(1e9), np.log(1e11), 60)))
    R = 15.0
    repeats = np.maximum(D / U - 1, 0)
    effective = np.where(D > U, U + U * R * (1 - np.exp(-repeats / R)), D)
    loss = 1.69 + 406.4 * N**-0.34 + 410.7 * effective**-0.28
    law = fit("chinchilla_effective", {"N": N, "D": D, "U": U}, loss)
    few, many = (optimal_allocation(law, [1e22], unique=u).table.iloc[0] for u in (1e9, 1e12))
    assert few["N"] > many["N"] and few["error"] > many["error"]
    N, error = least_error(law, 1e22, 6.0, 1e9)
    assert few["N"] == pytest.approx(N, rel=1e-3) and few["error"] == pytest.approx(error, rel=1e-9)
    assert many["N"] == pytest.approx(
        optimal_allocation(additive(), [1e22]).table["N"][0], rel=1e-3
    )
    with pytest.raises(InputError, match="say how many there are"):
        optimal_allocation(law, [1e22])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: optimal_allocation(fit("power", [1, 10, 100], [0.9, 0.5, 0.3]), [1e3]),
            "in N and D",
        ),
        (lambda: optimal_allocation(additive(), [-1.0]), "-1 is not above zero"),
        (lambda: optimal_allocation(additive(), [1e20], flops_per=0.0), "flops_per must be above"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
