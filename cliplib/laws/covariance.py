"""How the optimum moves with the data: a covariance from derivatives, a check on the bootstrap.

Least squares: residual variance times the inverse of J w J' (Gauss-Newton). Huber: the sandwich
H^-1 V H^-1, V from clipped residuals, H from the points inside delta; with delta far below the
scatter few points carry H, so trust the bootstrap. Least absolute deviations: (J w J')^-1 / (2 f)^2
with the density f of residuals at zero by Hall and Sheather's bandwidth (Koenker 2005, section 3.4).
"""

from dataclasses import dataclass

import numpy as np

from cliplib.laws.inputs import Array
from cliplib.laws.loss import Loss
from cliplib.laws.solve import Problem

LOST = 1e-14  # eigenvalue of the scaled matrix that counts as zero


@dataclass(frozen=True)
class Covariance:
    """What the derivatives at the optimum say.

    theta (p, p): covariance of theta. condition: of the scaled derivatives. weakest (p,): the
    combination of scaled parameters that the data say least about. inliers: points that carry it.
    """

    theta: Array
    condition: float
    weakest: Array
    inliers: int


def covariance(problem: Problem, theta: Array, loss: Loss) -> Covariance:
    """Of a problem of one row at its optimum theta (p,); parameters on a bound count as known."""
    J, w = problem.form.jac(theta, problem.x), problem.w[0]
    r = problem.residuals(theta[None])[0]
    free = (theta > problem.lower[0]) & (theta < problem.upper[0])
    unit = np.sqrt(J[free] ** 2 @ w)
    known = unit > 0
    if not known.all() or not free.any():
        hopeless = np.full((len(theta),) * 2, np.inf)
        return Covariance(hopeless, np.inf, (~known).astype(float), 0)
    S = J[free] / unit[:, None]
    value, vector = np.linalg.eigh((S * w) @ S.T)
    inverse = (vector / np.maximum(value, LOST)) @ vector.T
    middle, inliers = _middle(S, r, w, loss, inverse)
    full, weakest = np.zeros((len(theta),) * 2), np.zeros(len(theta))
    full[np.ix_(free, free)] = middle / np.outer(unit, unit)
    weakest[free] = vector[:, 0]
    return Covariance(full, float(np.sqrt(value[-1] / max(value[0], LOST))), weakest, inliers)


def _middle(S: Array, r: Array, w: Array, loss: Loss, inverse: Array) -> tuple[Array, int]:
    n, p = int((w > 0).sum()), len(S)
    freedom = max(n - p, 1)
    if loss.name == "l2":
        return inverse * (w @ r**2) / freedom, n
    if loss.name == "lad":
        return inverse / (2 * _density(r, p)) ** 2, n
    inside = np.abs(r) <= loss.delta
    psi = np.clip(r, -loss.delta, loss.delta) * w
    bread = np.linalg.pinv((S * (w * inside)) @ S.T, rcond=LOST)
    return bread @ ((S * psi**2) @ S.T) @ bread * n / freedom, int((inside & (w > 0)).sum())


def _density(r: Array, p: int) -> float:
    """Density of the residuals at their median: the spacing of quantiles about one half."""
    from scipy.special import ndtri

    n = r.size
    h = n ** (-1 / 3) * ndtri(0.975) ** (2 / 3) * (1.5 / (2 * np.pi)) ** (1 / 3)
    rest = np.sort(r[np.argsort(np.abs(r))[p:]]) if n > 2 * p else np.sort(r)
    low, high = np.quantile(rest, [max(0.5 - h, 0.05), min(0.5 + h, 0.95)])
    return float(2 * min(h, 0.45) / max(high - low, 1e-300))
