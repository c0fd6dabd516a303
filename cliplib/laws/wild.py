"""The wild bootstrap: the runs stay, their residuals get random signs and sizes.

Right where the scatter differs from run to run, or is shared within a cluster, and where the
compute of the runs was chosen and not drawn (Wu 1986; Cameron, Gelbach and Miller 2008).
"""

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.fitting import Fit
from cliplib.laws.inputs import Array
from cliplib.laws.recipe import Recipe

# Webb's six points: mean 0, variance 1, third moment 0; two-point weights repeat with few clusters
WEBB = np.array([-np.sqrt(1.5), -1.0, -np.sqrt(0.5), np.sqrt(0.5), 1.0, np.sqrt(1.5)])
FLAT = 1e-9
SMALLEST = 1e-9  # of 1 - leverage, where a run fixes a parameter alone
WANTED = (
    "the wild bootstrap redraws residuals about a law of all runs: it takes a Recipe with "
    "how='all' and drop_largest=0"
)


def wild_values(
    recipe: Recipe, runs: pd.DataFrame, units: list[np.ndarray], n: int, rng: np.random.Generator
) -> tuple[dict[str, float], Array]:
    """Parameters of the runs, and of n wild samples, shape (n, p).

    The rows of a unit share their weight. InputError: a recipe with a frontier or an exclusion.
    """
    if recipe.how != "all" or recipe.drop_largest:
        raise InputError(WANTED)
    fitted = recipe.fit(runs)
    X, E = recipe.columns(runs)
    predicted = np.log(fitted.predict(X))
    residuals, basis = np.log(E) - predicted, _basis(fitted, np.log(X).T)
    drawn = rng.choice(WEBB, size=(n, len(units)))
    moved = np.empty((n, len(runs)))
    for i, rows in enumerate(units):
        moved[:, rows] = drawn[:, [i]] * _enlarged(residuals[rows], basis[rows])
    again = np.exp(predicted + moved)
    values = recipe.batch(runs, np.ones((n, len(runs))), again, fitted.params)
    return fitted.params, values


def _enlarged(residuals: Array, basis: Array) -> Array:
    """Undo how far the law gave way to a unit, its part of the hat matrix (HC3, CR3)."""
    if len(residuals) == 1:
        return residuals / max(1 - float((basis**2).sum()), SMALLEST)
    return np.linalg.pinv(np.eye(len(residuals)) - basis @ basis.T) @ residuals


def _basis(fitted: Fit, x: Array) -> Array:
    """Orthonormal columns that span the derivatives of the law at x (k, n), shape (n, rank)."""
    J = fitted.form.jac(fitted.theta, x)
    size = np.linalg.norm(J, axis=1, keepdims=True)
    basis, weight, _ = np.linalg.svd((J / np.where(size > 0, size, 1.0)).T, full_matrices=False)
    return basis[:, weight > FLAT]  # a parameter that the runs do not see pulls nowhere
