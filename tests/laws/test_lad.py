"""Least absolute deviations: linear programs agree, and a corner that is proved is one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from cliplib.laws.corner import exchange, first_basis, lines
from cliplib.laws.lad import corners, deviations, lad, touched
from cliplib.laws.law import law
from cliplib.laws.loss import LAD
from cliplib.laws.search import search
from cliplib.laws.solve import Problem


def problem(form, x, y, w=None, **bounds):
    w = np.ones((1, y.size)) if w is None else np.atleast_2d(w)
    lower, upper = form.lower.copy(), form.upper.copy()
    for name, (low, high) in bounds.items():
        lower[form.params.index(name)], upper[form.params.index(name)] = low, high
    return Problem(form, x, y, w, np.tile(lower, (len(w), 1)), np.tile(upper, (len(w), 1)))


def planted(seed, n=80, sd=0.01):
    form, rng = law("chinchilla"), np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (2, n))
    y = form.log_predict(np.array([-1.0, -0.7, 1.8, 0.35, 0.37]), x)
    return form, x, y + sd * rng.standard_normal(n) * np.where(rng.random(n) < 0.1, 8, 1)


def by_linear_program(design, y, w):
    """The least sum of w |y - design theta|, as a textbook linear program."""
    n, p = design.shape
    rows = np.block([[design, -np.eye(n)], [-design, -np.eye(n)]])
    return linprog(
        np.append(np.zeros(p), w), A_ub=rows, b_ub=np.append(y, -y),
        bounds=[(None, None)] * p + [(0, None)] * n, method="highs",
    ).fun  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 40), rounded=st.booleans())
def test_laws_that_are_planes_end_where_a_linear_program_ends(seed, n, rounded):
    form, rng = law("nd_multiplicative"), np.random.default_rng(seed)
    x, y, w = rng.uniform(-2, 2, (2, n)), rng.standard_cauchy(n), rng.uniform(0.1, 3, n)
    if rounded:  # ties, twin points, flat faces
        x, y, w = x.round(), y.round(), np.ones(n)
    design = np.column_stack([np.ones(n), -x.T])
    found = lad(problem(form, x, y, w), np.zeros((1, 3)))
    assert found.objective[0] == pytest.approx(by_linear_program(design, y, w), rel=1e-9, abs=1e-9)


def test_the_power_law_agrees_with_quantile_regression():
    import statsmodels.api as sm

    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, 31)
    y = 0.3 - 0.2 * x + 0.1 * rng.standard_normal(31)
    found = lad(problem(law("power"), x[None], y), np.zeros((1, 2)))
    theirs = sm.QuantReg(y, sm.add_constant(x)).fit(q=0.5, p_tol=1e-12)
    assert np.allclose(found.theta[0], theirs.params[::-1], atol=1e-5)
    assert found.converged[0]


@pytest.mark.parametrize("seed", [1, 2, 3, 5])
def test_a_curved_law_passes_through_as_many_points_as_it_has_parameters(seed):
    form, x, y = planted(seed)
    one = problem(form, x, y)
    found = search(one, form.starts(x, y, np.ones(y.size)), LAD)
    assert found.converged
    on = touched(one, found.theta[None])[0]
    assert on.sum() == 5
    # the proof, recomputed: the touched points hold the pull of all others within their weights
    J, r = form.jac(found.theta, x), one.residuals(found.theta[None])[0]
    multipliers = np.linalg.solve(J[:, on], -(J[:, ~on] @ np.sign(r[~on])))
    assert (np.abs(multipliers) <= 1 + 1e-9).all()
    rng = np.random.default_rng(seed)
    around = found.theta + rng.standard_normal((500, 5)) * rng.choice([1e-6, 1e-3, 0.1], (500, 1))
    assert (deviations(one.rows(np.zeros(500, dtype=int)), around) >= found.objective).all()


def test_many_rows_at_once_are_what_each_is_alone():
    form, x, y = planted(9, n=60)
    W = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=300).astype(float)
    many = problem(form, x, y, W)
    start = np.tile([-1.0, -0.7, 1.8, 0.35, 0.37], (300, 1))
    together = lad(many, start)
    assert together.converged.all()
    for row in (0, 150, 299):
        alone = lad(many.rows(np.array([row])), start[:1])
        assert together.objective[row] == pytest.approx(alone.objective[0], rel=1e-12)


def test_a_law_may_rest_on_its_curvature_with_one_point_less():
    """In a few resamples of a hundred no corner is an optimum; they are found and proved too."""
    form, x, y = planted(9, n=60)
    W = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=300).astype(float)
    many, start = problem(form, x, y, W), np.tile([-1.0, -0.7, 1.8, 0.35, 0.37], (300, 1))
    left = np.flatnonzero(~corners(many, start).converged)
    assert 0 < left.size < 30
    part = many.rows(left)
    found = lad(part, start[left])
    assert found.converged.all()
    assert (touched(part, found.theta).sum(axis=1) < 5).any()
    rng = np.random.default_rng(0)
    for row in range(left.size):
        one = part.rows(np.full(400, row))
        around = found.theta[row] + rng.standard_normal((400, 5)) * rng.choice(
            [1e-4, 0.01], (400, 1)
        )
        assert (deviations(one, around) >= found.objective[row] * (1 - 1e-9)).all()


def test_a_bound_takes_the_place_of_a_point():
    form, x, y = planted(3)
    boxed = problem(form, x, y, E=(0.0, 1.5))
    found = search(boxed, form.starts(x, y, np.ones(y.size)), LAD)
    assert found.theta[2] == 1.5 and found.converged
    assert touched(boxed, found.theta[None])[0].sum() == 4


def test_twin_points_and_points_without_weight_do_no_harm():
    form, x, y = planted(5, n=40)
    x, y = np.hstack([x, x[:, :10]]), np.append(y, y[:10])
    w = np.append(np.ones(45), np.zeros(5))
    once = np.append(np.full(5, 2.0), np.ones(35))
    a = search(problem(form, x, y, w), form.starts(x, y, w), LAD)
    b = search(problem(form, x[:, :40], y[:40], once), form.starts(x[:, :40], y[:40], once), LAD)
    assert a.objective == pytest.approx(b.objective, rel=1e-10)
    assert a.converged and b.converged


def test_exchange_says_when_a_model_has_no_corner():
    J = np.ones((1, 2, 5))  # two parameters that do the same
    model = lines(J, np.arange(5.0)[None], np.ones((1, 5)), np.zeros((1, 2), dtype=bool))
    with np.errstate(all="ignore"):
        assert not exchange(model, first_basis(model)).optimal[0]
