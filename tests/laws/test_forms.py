"""The laws: values, derivatives, units, limits, and starts that lead to the lowest optimum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares, nnls

from cliplib import InputError
from cliplib.laws.law import LAWS, law
from cliplib.laws.one_variable import curved
from cliplib.laws.projection import nonnegative, normal
from cliplib.laws.starts import leaders
from cliplib.laws.terms import log_effective_data

EVERY = [*LAWS, "curved_free"]
SEEDS = st.integers(0, 10_000)

# plausible reported values on x centred at 1, and how far ln or plain values may wander from them
CENTRE = {
    "power": [-0.3, 0.6],
    "curved": [-0.4, 1.5],
    "curved_free": [-0.4, 1.5, 1.7],
    "saturating": [0.3, 0.8, 0.4],
    "shifted": [0.3, 0.8, 0.7, 0.6],
    "broken": [0.3, 0.8, 0.1, 0.7, 1.3, 0.5],
    "chinchilla": [0.4, 0.6, 1.7, 0.35, 0.4],
    "nd_multiplicative": [0.6, 0.2, 0.15],
    "nd_effective": [0.6, 0.2, 0.15, 6.0],
    "chinchilla_effective": [0.4, 0.6, 1.7, 0.35, 0.4, 6.0],
}
FORMULAS = {
    "power": lambda v, C: v[1] * C ** v[0],
    "curved": lambda v, C: (1 + C / v[1]) ** v[0],
    "curved_free": lambda v, C: 0.95 * (1 + (C / v[1]) ** v[2]) ** (v[0] / v[2]),
    "saturating": lambda v, C: v[0] + v[1] * C ** -v[2],
    "shifted": lambda v, C: v[0] + v[1] * (C + v[2]) ** -v[3],
    "broken": lambda v, C: v[0] + v[1] * C ** -v[2] * (1 + (C / v[4]) ** (1 / v[5])) ** (-v[3] * v[5]),
    "chinchilla": lambda v, N, D: v[2] + v[0] * N ** -v[3] + v[1] * D ** -v[4],
    "nd_multiplicative": lambda v, N, D: v[0] * N ** -v[1] * D ** -v[2],
    "nd_effective": lambda v, N, D, U: v[0] * N ** -v[1] * worth(D, U, v[3]) ** -v[2],
    "chinchilla_effective": lambda v, N, D, U: (
        v[2] + v[0] * N ** -v[3] + v[1] * worth(D, U, v[5]) ** -v[4]
    ),
}  # fmt: skip
ZERO = {  # places of the offsets that may be exactly zero
    "saturating": [0], "shifted": [0, 2], "broken": [0], "chinchilla": [2], "chinchilla_effective": [2],
}  # fmt: skip


def worth(D, U, R):
    return np.where(D > U, U + U * R * (1 - np.exp(-(np.maximum(D / U, 1) - 1) / R)), D)


def make(name):
    return curved(chance=0.05, takeoff=None) if name == "curved_free" else law(name)


def points(form, rng, n=40, spread=3.0):
    """Centred logs of the variables; of three, some rows see unique data only (D <= U)."""
    x = rng.uniform(-spread, spread, (len(form.variables), n))
    if len(x) == 3:
        x[2] = rng.choice([-2.0, -0.5, 1.0], n)
    return x - form.centre(x)[:, None]


def around(name, rng, shape=()):
    """A theta near the plausible values."""
    form = make(name)
    values = np.array(CENTRE[name]) * np.exp(0.3 * rng.standard_normal((*shape, len(form.params))))
    return form, form.internal(values)


# Values and derivatives


@pytest.mark.parametrize("name", EVERY)
def test_the_prediction_is_the_printed_formula(name):
    rng = np.random.default_rng(0)
    form, theta = around(name, rng)
    x = points(form, rng)
    expected = FORMULAS[name](form.natural(theta)[0], *np.exp(x))
    assert np.exp(form.log_predict(theta, x)) == pytest.approx(expected, rel=1e-12)


def differences(function, theta, place, one_sided):
    """Central; forward with two points for an offset of zero, which may not go below."""
    h = 1e-6 if one_sided else 1e-5
    move = np.zeros_like(theta)
    move[place] = h
    if one_sided:
        return (-3 * function(theta) + 4 * function(theta + move) - function(theta + 2 * move)) / (
            2 * h
        )
    return (function(theta + move) - function(theta - move)) / (2 * h)


@pytest.mark.parametrize("at_zero", [False, True])
@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_gradient_and_curvature_equal_finite_differences(name, at_zero, seed):
    rng = np.random.default_rng(seed)
    form, theta = around(name, rng)
    x, psi = points(form, rng, n=12, spread=2.0), rng.standard_normal(12)
    zero = ZERO.get(name, []) if at_zero else []
    theta[zero] = 0.0
    J, M = form.jac(theta, x), form.curvature(theta, x, psi)
    assert np.array_equal(M, M.T) or np.allclose(M, M.T, rtol=1e-12, atol=1e-14)
    for place in range(len(theta)):
        slope = differences(lambda t: form.log_predict(t, x), theta, place, place in zero)
        bend = differences(lambda t: form.jac(t, x) @ psi, theta, place, place in zero)
        assert np.abs(slope - J[place]).max() <= 1e-6 * max(1, np.abs(J).max())
        assert np.abs(bend - M[place]).max() <= 1e-6 * max(1, np.abs(M).max())


@pytest.mark.parametrize("name", EVERY)
def test_leading_dimensions_broadcast(name):
    rng = np.random.default_rng(1)
    form, theta = around(name, rng, (4, 3))
    x = np.stack([points(form, rng, n=7) for _ in range(3)])
    psi = rng.standard_normal((4, 3, 7))
    J, M = form.jac(theta, x), form.curvature(theta, x, psi)
    assert J.shape == (4, 3, len(form.params), 7) and M.shape == (4, 3, *2 * (len(form.params),))
    for i, j in np.ndindex(4, 3):
        one = theta[i, j], x[j]
        assert np.allclose(form.log_predict(theta, x)[i, j], form.log_predict(*one), rtol=1e-13)
        assert np.allclose(J[i, j], form.jac(*one), rtol=1e-12)
        assert np.allclose(M[i, j], form.curvature(*one, psi[i, j]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_natural_and_internal_are_inverses_and_the_slope_is_right(name):
    form, theta = around(name, np.random.default_rng(2), (5,))
    values, slope = form.natural(theta)
    assert np.allclose(form.internal(values), theta, rtol=1e-14, atol=1e-14)
    numeric = (form.natural(theta + 1e-6)[0] - form.natural(theta - 1e-6)[0]) / 2e-6
    assert np.allclose(slope, numeric, rtol=1e-8)
    assert form.internal(np.zeros(len(form.params)))[0] in (0.0, -np.inf)


# Units


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_a_change_of_unit_moves_the_parameters_and_not_the_prediction(name, seed):
    rng = np.random.default_rng(seed)
    form, theta = around(name, rng, (3,))
    x, offset = points(form, rng), rng.uniform(-8, 8, len(form.variables))
    offset = offset[[0, 1, 1][: len(offset)]]  # D and U share their unit
    moved = form.log_predict(form.shift(theta, offset), x + offset[:, None])
    assert np.abs(moved - form.log_predict(theta, x)).max() < 1e-12


@pytest.mark.parametrize("unit", [1e-6, 1e24])
@pytest.mark.parametrize("name", EVERY)
def test_extreme_units_and_absurd_parameters_give_finite_numbers(name, unit):
    rng = np.random.default_rng(3)
    form, theta = around(name, rng, (6,))
    x = points(form, rng, n=9) + np.log(unit)
    theta[1:] *= np.array([10, -10, 40, 0, 1])[:, None]
    theta[:, ZERO.get(name, [])] = np.abs(theta[:, ZERO.get(name, [])])
    theta = np.clip(theta, form.lower, form.upper)
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(form.log_predict(theta, x)).all()
        assert np.isfinite(form.jac(theta, x)).all()
        assert np.isfinite(form.curvature(theta, x, np.ones((6, 9)))).all()


def test_means_centre_the_data_and_unique_data_share_the_mean_of_data():
    x = np.array([[1.0, 3.0], [4.0, 8.0], [0.0, 1.0]])
    assert law("nd_effective").centre(x).tolist() == [2.0, 6.0, 6.0]
    assert law("chinchilla").centre(x[:2]).tolist() == [2.0, 6.0]


# Limits


def test_laws_meet_in_their_limits():
    rng = np.random.default_rng(4)
    x = points(law("power"), rng)
    plain = law("saturating").log_predict(np.array([0.3, -0.2, 0.4]), x)

    def equal(name, theta, expected, x=x, tolerance=1e-12):
        assert np.abs(law(name).log_predict(np.array(theta), x) - expected).max() < tolerance

    equal("saturating", [0.0, -0.2, 0.4], law("power").log_predict(np.array([-0.4, -0.2]), x))
    equal("shifted", [0.3, -0.2, 0.0, 0.4], plain)
    equal("broken", [0.3, -0.2, 0.4, 0.0, 1.0, -1.0], plain)
    equal("broken", [0.3, -0.2, 0.4, 0.5, 50.0, -1.0], plain)  # a break far beyond the data
    nd, x = [0.4, 0.2, 0.15], points(law("nd_effective"), rng)
    plain = law("nd_multiplicative").log_predict(np.array(nd), x[:2])
    equal("nd_effective", [*nd, np.log(1e13)], plain, x)
    equal("nd_effective", [*nd, 1.0], plain, np.stack([x[0], x[1], x[1] + 1.0]))
    additive = [0.4, 0.2, 1.5, 0.3, 0.4]
    plain = law("chinchilla").log_predict(np.array(additive), x[:2])
    equal("chinchilla_effective", [*additive, np.log(1e13)], plain, x)


def test_curved_is_the_error_of_guessing_at_no_compute_and_a_power_law_at_much():
    form, theta = law("curved", chance=0.05), np.array([-0.3, np.log(100.0)])
    small, large = np.exp(form.log_predict(theta, np.log([[1e-6, 1e12]])))
    assert small == pytest.approx(0.95, rel=1e-6)
    assert large == pytest.approx(0.95 * (1e12 / 100) ** -0.3, rel=1e-6)
    assert form.fixed == {"chance": 0.05, "takeoff": 1.0}
    assert form.lower.tolist() == [-20, -np.inf] and form.upper.tolist() == [0, np.inf]


def test_four_epochs_are_worth_nearly_four_times_the_data_and_forty_are_not():
    D = np.array([0.5, 1.0, 4.0, 40.0, 1e6])
    found = np.exp(log_effective_data(np.log(D), np.zeros(5), np.log(15.39))[0])
    assert found == pytest.approx([0.5, 1.0, 3.726, 15.17, 16.39], rel=1e-3)


# Starts


def solve(form, x, y, starts, w=None):
    """The lowest sum of squares of ln E that scipy reaches, and where."""
    root = np.sqrt(np.ones(y.size) if w is None else w)
    found = [
        least_squares(
            lambda theta: (form.log_predict(theta, x) - y) * root,
            np.clip(start, form.lower + 1e-12, form.upper - 1e-12),
            jac=lambda theta: (form.jac(theta, x) * root).T,
            bounds=(form.lower, form.upper),
            x_scale="jac", ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=300,
        )
        for start in starts
    ]  # fmt: skip
    best = min(found, key=lambda result: result.cost)
    return 2 * best.cost, best.x


def lowest(form, x, y, starts, count=4):
    cost = ((form.log_predict(starts, x) - y) ** 2).sum(axis=-1)
    return starts[np.argsort(cost)[:count]]


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seed", range(2))
def test_planted_parameters_come_back_from_the_starts(name, zero, seed):
    rng = np.random.default_rng(seed)
    form, truth = around(name, rng)
    if zero:
        truth[ZERO.get(name, [])] = 0.0
    x = points(form, rng)
    y = form.log_predict(truth, x)
    starts = form.starts(x, y, np.ones(y.size))
    cost, theta = solve(form, x, y, lowest(form, x, y, starts))
    assert cost < 1e-16
    assert form.natural(theta)[0] == pytest.approx(form.natural(truth)[0], rel=1e-6, abs=1e-6)


def random_starts(name, rng, count):
    """Points all over the plausible space, as a brute-force search would take them."""
    form, theta = around(name, rng, (count,))
    values, _ = form.natural(theta)
    return form, form.internal(values * np.exp(rng.uniform(-3, 2, values.shape)))


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"power", "nd_multiplicative"}))
@pytest.mark.parametrize("seed", range(3))
def test_no_random_search_ends_below_the_starts(name, seed):
    rng = np.random.default_rng(10 + seed)
    form, truth = around(name, rng)
    x = points(form, rng, n=[12, 20, 50][seed])
    y = form.log_predict(truth, x) + [0.001, 0.01, 0.05][seed] * rng.standard_normal(x.shape[1])
    ours, _ = solve(form, x, y, lowest(form, x, y, form.starts(x, y, np.ones(y.size))))
    theirs, _ = solve(form, x, y, random_starts(name, rng, 12)[1])
    assert ours <= theirs * (1 + 1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_starts_lie_inside_the_bounds_and_follow_the_weights(name):
    rng = np.random.default_rng(5)
    form, truth = around(name, rng)
    x = points(form, rng, n=30)
    y = form.log_predict(truth, x)
    y[:5] += 0.5
    w = np.where(np.arange(30) < 5, 0.0, 2.0)
    starts = form.starts(x, y, w)
    assert ((starts >= form.lower) & (starts <= form.upper)).all() and np.isfinite(starts).all()
    best = (w * (form.log_predict(starts, x) - y) ** 2).sum(axis=-1).min()
    cost, _ = solve(form, x, y, starts[:4], w)
    assert cost < 1e-12 and best < 0.05


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"power", "nd_multiplicative", "curved_free"}))
def test_a_start_for_absolute_deviations_ignores_outliers(name):
    """A fifth of the points far off: least squares follows them, some start does not."""
    rng = np.random.default_rng(6)
    form, truth = around(name, rng)
    x = points(form, rng, n=60)
    y = form.log_predict(truth, x)
    y[rng.permutation(60)[:12]] += rng.uniform(0.1, 0.5, 12)
    starts = form.starts(x, y, np.ones(60))
    middle = np.median(np.abs(y - form.log_predict(starts, x)), axis=-1)
    squares, theta = solve(form, x, y, starts[:4])
    assert squares > 0.1 and np.median(np.abs(y - form.log_predict(theta, x))) > 1e-3
    assert middle.min() < 3e-3


def test_a_double_descent_is_found():
    rng = np.random.default_rng(7)
    form, x = law("broken"), np.linspace(-4, 4, 40)[None]
    truth = np.array([0.1, 0.0, -0.3, 0.9, 0.5, np.log(0.2)])
    y = form.log_predict(truth, x) + 0.002 * rng.standard_normal(40)
    _, theta = solve(form, x, y, lowest(form, x, y, form.starts(x, y, np.ones(40))))
    assert form.natural(theta)[0] == pytest.approx(form.natural(truth)[0], rel=0.1)


# Starts of bootstrap replicates


@pytest.mark.parametrize("name", [name for name in EVERY if make(name).batch_starts])
def test_every_replicate_gets_a_start_that_leads_to_its_optimum(name):
    rng = np.random.default_rng(8)
    form, truth = around(name, rng)
    x = points(form, rng, n=40)
    y = form.log_predict(truth, x) + 0.01 * rng.standard_normal(40)
    W = rng.multinomial(40, np.full(40, 1 / 40), 6).astype(float)
    batch = form.batch_starts(x, y, W)
    assert batch.shape[0] == 6 and batch.shape[2] == len(form.params)
    assert ((batch >= form.lower) & (batch <= form.upper)).all()
    for w, starts in zip(W, batch, strict=True):
        quick, _ = solve(form, x, y, starts, w)
        thorough, _ = solve(form, x, y, form.starts(x, y, w)[:3], w)
        assert quick <= thorough * (1 + 1e-6)


def test_the_laws_that_are_linear_or_broken_have_no_batch_starts():
    assert [name for name in LAWS if law(name).batch_starts is None] == [
        "power", "broken", "nd_multiplicative",
    ]  # fmt: skip
    assert [name for name in LAWS if law(name).linear] == ["power", "nd_multiplicative"]


# Parts


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, m=st.integers(1, 3))
def test_nonnegative_least_squares_equals_scipys(seed, m):
    rng = np.random.default_rng(seed)
    P, target, w = rng.normal(size=(4, m, 9)), rng.normal(size=9), rng.uniform(0.1, 2, (4, 9))
    c, gain = nonnegative(*normal(P, np.broadcast_to(target, (4, 9)), w))
    for k in range(4):
        known, rest = nnls((P[k] * np.sqrt(w[k])).T, target * np.sqrt(w[k]))
        assert c[k] == pytest.approx(known, abs=1e-8)
        assert (w[k] * target**2).sum() - gain[k] == pytest.approx(rest**2, abs=1e-8)


def test_leaders_are_the_local_minima_then_the_winners_of_regions():
    field = np.array([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 0.0, 7.0, 8.0])
    assert leaders(field, (9,), 9).tolist() == [6, 1, 4]
    assert leaders(field, (9,), 2).tolist() == [6, 1]
    plateau = np.zeros((4, 4))
    assert len(leaders(plateau.ravel(), plateau.shape, 99)) <= 10  # not all 16 cells


def test_laws_are_found_by_name_and_strange_ones_refused():
    assert all(law(name).name == name for name in LAWS)
    with pytest.raises(InputError, match="unknown law 'zipf'; known: broken, chinchilla"):
        law("zipf")
    with pytest.raises(InputError, match="law power does not take chance"):
        law("power", chance=0.1)
    with pytest.raises(InputError, match="chance must be in"):
        law("curved", chance=1.0)
    with pytest.raises(InputError, match="takeoff must be above zero"):
        law("curved", takeoff=0.0)
