"""The solver: derivatives, optima that scipy agrees with, boxes, rows that do not mix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, differential_evolution, least_squares, minimize

from cliplib.laws.law import law
from cliplib.laws.loss import L2, LAD, Huber, huber
from cliplib.laws.search import has_closed_form, linear_least_squares, minimise, search, search_rows
from cliplib.laws.solve import POOL, Problem, derivatives, solve, solve_downhill

TRUTH = {
    "chinchilla": [480.0, 2080.0, 1.8, 0.35, 0.37],
    "saturating": [0.3, 20.0, 0.3],
    "shifted": [0.2, 30.0, 50.0, 0.35],
    "nd_effective": [5.0, 0.12, 0.1, 15.0],
}


def planted(name, seed=0, n=60, sd=0.01, outliers=0.08):
    """x (k, n) and y (n,) of a law with scatter, some of it wild."""
    form, rng = law(name), np.random.default_rng(seed)
    low, high = (7, 10) if "N" in form.variables else (0, 5)
    x = np.log(10) * rng.uniform(low, high, (len(form.variables), n))
    if "U" in form.variables:
        x[2] = x[1] - rng.uniform(0, 4, n)
    y = form.log_predict(form.internal(np.array(TRUTH[name])), x)
    return form, x, y + sd * rng.standard_normal(n) * np.where(rng.random(n) < outliers, 10, 1)


def problem(form, x, y, w=None):
    x = x - form.centre(x)[:, None]
    w = np.ones((1, y.size)) if w is None else np.atleast_2d(w)
    box = (np.tile(bound, (len(w), 1)) for bound in (form.lower, form.upper))
    return Problem(form, x, y, w, *box)


def found(one, loss):
    return search(one, one.form.starts(one.x, one.y, one.w[0]), loss)


# Derivatives


@pytest.mark.parametrize("name", [*TRUTH, "broken", "curved", "chinchilla_effective"])
@pytest.mark.parametrize("delta", [np.inf, 0.03])
def test_gradient_and_exact_hessian_equal_finite_differences(name, delta):
    form, rng = law(name), np.random.default_rng(3)
    p, k = len(form.params), len(form.variables)
    x, w = rng.standard_normal((k, 25)), rng.uniform(0.5, 2, (1, 25))
    theta = np.clip(0.4 + 0.3 * rng.random(p), form.lower, np.minimum(form.upper, 0) - 0.1)
    theta = np.where(form.upper > 0, 0.4 + 0.3 * rng.random(p), theta)
    y = form.log_predict(theta, x) + 0.1 * rng.standard_normal(25)
    one = Problem(form, x, y, w, form.lower[None], form.upper[None])

    def objective(t):
        return float((w * huber(one.residuals(t[None]), delta)).sum())

    def slope(t, i):
        r = one.residuals(t[None])
        return derivatives(one, t[None], r, delta, np.array([True]))[0][0, i]

    r = one.residuals(theta[None])
    g, H = derivatives(one, theta[None], r, delta, np.array([True]))
    assert np.allclose(g[0], approx_fprime(theta, objective, 1e-7), atol=1e-4)
    for i in range(p):
        assert np.allclose(
            H[0, i], approx_fprime(theta, lambda t, i=i: slope(t, i), 1e-7), atol=2e-4
        )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.integers(1, 6))
def test_small_systems_are_solved_and_the_way_is_always_downhill(seed, p):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((7, p, p))
    b = rng.standard_normal((7, p))
    positive = A @ A.swapaxes(1, 2) + 0.1 * np.eye(p)
    x, pivot = solve_downhill(positive, b)
    assert np.allclose(x, np.linalg.solve(positive, b[..., None])[..., 0])
    assert (pivot > 0).all()
    mixed = A + A.swapaxes(1, 2)
    x, pivot = solve_downhill(mixed, b)
    assert (np.vecdot(x, b) > 0).all()
    assert np.array_equal(pivot < 0, np.linalg.eigvalsh(mixed)[:, 0] < 0)


# Optima


@pytest.mark.parametrize("name", TRUTH)
def test_least_squares_agrees_with_scipy(name):
    form, x, y = planted(name)
    one = problem(form, x, y)
    ours = found(one, L2)
    theirs = least_squares(
        lambda t: one.residuals(t[None])[0], ours.theta + 0.01,
        bounds=(form.lower, form.upper), xtol=1e-15, ftol=1e-15, gtol=1e-15,
    )  # fmt: skip
    assert ours.converged
    assert ours.objective == pytest.approx(2 * theirs.cost, rel=1e-11)
    assert np.allclose(ours.theta, theirs.x, atol=1e-5)


@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize("loss", [Huber(1e-3), Huber(1e-2), LAD], ids=lambda loss: loss.text)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_descent_of_scipys_ends_lower(name, loss, seed):
    form, x, y = planted(name, seed)
    one, rng = problem(form, x, y), np.random.default_rng(seed)
    ours = found(one, loss)
    scale = 1 / (loss.delta or 1.0)

    def objective(t):
        r = one.residuals(t[None])[0]
        pull = np.clip(r, -loss.delta, loss.delta) if loss.delta else np.sign(r)
        return scale * loss.rho(r).sum(), -scale * form.jac(t, one.x) @ pull

    box = list(zip(form.lower, form.upper, strict=True))
    ends = []
    for _ in range(25):
        start = ours.theta + rng.standard_normal(len(box)) * rng.choice([0.03, 0.3, 1.0])
        start = np.clip(start, form.lower, form.upper)
        ends.append(minimize(objective, start, jac=True, bounds=box, method="L-BFGS-B").fun / scale)
    assert ours.converged
    assert ours.objective <= min(ends) * (1 + 1e-9)


def test_a_global_search_of_scipys_ends_no_lower_either():
    form, x, y = planted("saturating", 5, n=20, sd=0.05, outliers=0.3)
    one = problem(form, x, y)
    for loss in (L2, Huber(0.01), LAD):
        theirs = differential_evolution(
            lambda t, loss=loss: float(loss.rho(one.residuals(t[None])[0]).sum()),
            [(0, 2), (-6, 3), (0, 3)], seed=0, tol=1e-10, maxiter=300,
        )  # fmt: skip
        assert found(one, loss).objective <= theirs.fun * (1 + 1e-9)


@pytest.mark.parametrize("loss", [L2, Huber(1e-3)], ids=lambda loss: loss.text)
def test_at_the_optimum_the_gradient_is_zero_to_the_last_digits(loss):
    form, x, y = planted("chinchilla", 2, n=240)
    one = problem(form, x, y)
    theta = found(one, loss).theta[None]
    r = one.residuals(theta)
    g, H = derivatives(one, theta, r, loss.delta, np.array([True]))
    assert (np.linalg.eigvalsh(H[0]) > 0).all()
    assert float(g[0] @ np.linalg.solve(H[0], g[0])) < 1e-18 * float(huber(r, loss.delta).sum())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), unit=st.floats(1e-6, 1e6))
def test_a_planted_law_without_scatter_comes_back(seed, unit):
    form, x, y = planted("chinchilla", seed, sd=0.0)
    x = x + np.log(unit)
    one = problem(form, x, y)
    ours = found(one, L2)
    values = form.natural(form.shift(ours.theta, form.centre(x)))[0]
    assert values[2:] == pytest.approx(TRUTH["chinchilla"][2:], rel=1e-7)
    assert values[:2] == pytest.approx(
        np.array(TRUTH["chinchilla"][:2]) * unit ** np.array(TRUTH["chinchilla"][3:]), rel=1e-5
    )


# Boxes


def test_a_parameter_on_its_bound_stays_and_the_others_are_at_their_best():
    form, x, y = planted("chinchilla", 4)
    free = problem(form, x, y)
    lower, upper = free.lower.copy(), free.upper.copy()
    upper[0, 2] = 1.5  # E, which wants to be 1.8
    boxed = Problem(form, free.x, y, free.w, lower, upper)
    ours = found(boxed, L2)
    assert ours.theta[2] == 1.5 and ours.converged
    theirs = least_squares(
        lambda t: boxed.residuals(np.insert(t, 2, 1.5)[None])[0], np.delete(ours.theta, 2) + 0.01,
        xtol=1e-15, ftol=1e-15, gtol=1e-15,
    )  # fmt: skip
    assert ours.objective == pytest.approx(2 * theirs.cost, rel=1e-11)
    assert ours.objective > found(free, L2).objective


def test_a_bound_is_left_when_the_optimum_lies_inside():
    form, x, y = planted("chinchilla", 4)
    one = problem(form, x, y)
    best = found(one, L2)
    start = best.theta.copy()
    start[2] = 0.0  # E on its lower bound
    again = solve(one, start[None], np.inf)
    assert np.allclose(again.theta[0], best.theta, atol=1e-8)


def test_a_pinned_parameter_does_not_move():
    form, x, y = planted("saturating")
    one = problem(form, x, y)
    pins = np.array([0.05, 0.2, 0.4])
    many = one.rows(np.zeros(3, dtype=int))
    many.lower[:, 2] = many.upper[:, 2] = pins
    ends = minimise(many, np.tile(found(one, L2).theta, (3, 1)), L2)
    assert np.array_equal(ends.theta[:, 2], pins)
    assert (ends.objective > found(one, L2).objective).all()


# Rows


def test_rows_do_not_mix_whatever_their_number():
    form, x, y = planted("saturating", n=30)
    rng = np.random.default_rng(0)
    W = rng.multinomial(30, np.full(30, 1 / 30), size=2 * POOL + 17).astype(float)
    many = problem(form, x, y, W)
    start = np.tile(found(problem(form, x, y), Huber(0.01)).theta, (len(W), 1))
    together = minimise(many, start, Huber(0.01))
    for row in (0, POOL, 2 * POOL + 16):
        alone = minimise(many.rows(np.array([row])), start[:1], Huber(0.01))
        assert np.allclose(together.theta[row], alone.theta[0], rtol=1e-8)
        assert together.objective[row] == pytest.approx(alone.objective[0], rel=1e-12)


@pytest.mark.parametrize("loss", [L2, Huber(0.01), LAD], ids=lambda loss: loss.text)
def test_a_weight_of_two_is_a_point_given_twice_and_zero_is_none(loss):
    form, x, y = planted("saturating", n=20)
    w = np.array([2.0, 0.0] + [1.0] * 18)
    twice = np.concatenate([[0], np.arange(20)[w > 0]])
    centred = x - form.centre(x)[:, None]
    box = form.lower[None], form.upper[None]
    weighted = Problem(form, centred, y, w[None], *box)
    repeated = Problem(form, centred[:, twice], y[twice], np.ones((1, 20)), *box)
    a, b = found(weighted, loss), found(repeated, loss)
    assert a.objective == pytest.approx(b.objective, rel=1e-10)
    assert np.allclose(a.theta, b.theta, atol=1e-7)


def test_each_row_may_have_its_own_points():
    form, rng = law("saturating"), np.random.default_rng(1)
    x = rng.uniform(-3, 3, (5, 1, 15))
    y = form.log_predict(np.array([0.3, 0.0, 0.4]), x) + 0.01 * rng.standard_normal((5, 15))
    box = (np.tile(bound, (5, 1)) for bound in (form.lower, form.upper))
    many = Problem(form, x, y, np.ones((5, 15)), *box)
    starts = np.tile([0.3, 0.0, 0.4], (5, 1, 1))
    together = search_rows(many, starts, L2)
    for row in range(5):
        one = Problem(form, x[row], y[row], np.ones((1, 15)), form.lower[None], form.upper[None])
        assert together.objective[row] == pytest.approx(found(one, L2).objective, rel=1e-9)


def test_every_replicate_of_a_bootstrap_is_as_low_as_a_search_of_its_own():
    form, x, y = planted("chinchilla", 7, n=120)
    W = np.random.default_rng(2).multinomial(120, np.full(120, 1 / 120), size=15).astype(float)
    many = problem(form, x, y, W)
    for loss in (Huber(1e-3), LAD):
        whole = found(problem(form, x, y), loss).theta
        own = form.batch_starts(many.x, y, W)
        starts = np.concatenate([np.broadcast_to(whole, (15, 1, 5)), own], axis=1)
        together = search_rows(many, starts, loss)
        alone = [found(many.rows(np.array([row])), loss).objective for row in range(15)]
        assert (together.objective <= np.array(alone) * (1 + 1e-8)).all()


# Closed form


def test_linear_laws_are_solved_in_one_step_and_singular_rows_are_not_made_up():
    form, rng = law("nd_multiplicative"), np.random.default_rng(0)
    x = rng.uniform(0, 5, (2, 12))
    y = form.log_predict(np.array([1.0, 0.3, 0.2]), x) + 0.1 * rng.standard_normal(12)
    W = rng.uniform(0.2, 2, (4, 12))
    W[3, 2:] = 0  # two points cannot fix three parameters
    many = problem(form, x, y, W)
    assert has_closed_form(many, L2) and not has_closed_form(many, LAD)
    ends = linear_least_squares(many)
    design = np.column_stack([np.ones(12), -many.x.T])
    for row in range(3):
        root = np.sqrt(W[row])
        theirs = np.linalg.lstsq(design * root[:, None], y * root)[0]
        assert np.allclose(ends.theta[row], theirs, rtol=1e-11)
    assert np.isnan(ends.theta[3]).all()
    assert list(ends.converged) == [True, True, True, False]
