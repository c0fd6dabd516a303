"""What a law is: ln E as a function of a parameter vector, with its derivatives and its starts.

Every law works on logs: x = ln X (k variables, n points) and y = ln E. Its vector theta holds
positive factors as logs, and offsets that may be exactly zero (a, E, c) as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from cliplib.laws.inputs import Array
from cliplib.laws.terms import Term, at, log_or_none

SMALLEST = -300.0  # 1 / E is cut at ln E = -300, so that its square is finite at absurd starts


@dataclass(frozen=True)
class Total:
    """ln(offset + sum of terms) with its derivatives; ``offset`` is its place in theta or None.

    With z the log of a term and pi = exp(z) / E its share, ln E has the gradient J = sum of
    pi dz, 1 / E by the offset, and the second derivatives sum of pi (dz dz' + d2z) - J J'.
    """

    p: int
    terms: tuple[Term, ...]
    offset: int | None = None

    @property
    def easy(self) -> list[int]:
        """The places in theta of the factors and the offset, in which E is linear."""
        offset = [] if self.offset is None else [self.offset]
        return [term.rows[0] for term in self.terms] + offset

    def log_predict(self, theta: Array, x: Array) -> Array:
        """Ln E, without overflow; an offset of 0 is exactly none."""
        peak, parts = self._parts(theta, x)
        return peak if parts is None else peak + np.log(sum(parts))

    def _parts(self, theta: Array, x: Array) -> tuple[Array, list[Array] | None]:
        """The log of the largest part at each point, and all parts as fractions of it.

        None stands for one term alone. numpy's exp is many times faster than its logaddexp.
        """
        logs = [term.value(theta, x) for term in self.terms]
        if self.offset is None and len(logs) == 1:
            return logs[0], None
        if self.offset is not None:
            logs.append(log_or_none(at(theta, self.offset)))
        peak = reduce(np.maximum, logs)
        return peak, [np.exp(z - peak) for z in logs]

    def _shares(self, theta: Array, x: Array) -> tuple[Array, list[Array | float]]:
        peak, parts = self._parts(theta, x)
        if parts is None:
            return peak, [1.0]
        total = sum(parts)
        return peak + np.log(total), [part / total for part in parts[: len(self.terms)]]

    def jac(self, theta: Array, x: Array) -> Array:
        """Derivatives of ln E by theta, shape (..., p, n)."""
        return self._jac(theta, x, *self._shares(theta, x))

    def _jac(self, theta: Array, x: Array, total: Array, shares: list[Array | float]) -> Array:
        J = np.empty((*total.shape[:-1], self.p, total.shape[-1]))
        for term, share in zip(self.terms, shares, strict=True):
            for row, slope in zip(term.rows, term.first(theta, x), strict=True):
                J[..., row, :] = share * slope
        if self.offset is not None:
            J[..., self.offset, :] = np.exp(-np.maximum(total, SMALLEST))
        return J

    def curvature(self, theta: Array, x: Array, psi: Array) -> Array:
        """Sum over points of psi (..., n) times the second derivatives of ln E, (..., p, p)."""
        total, shares = self._shares(theta, x)
        J = self._jac(theta, x, total, shares)
        M = -(J * psi[..., None, :]) @ J.swapaxes(-1, -2)
        for term, share in zip(self.terms, shares, strict=True):
            weight, first, second = psi * share, term.first(theta, x), term.second(theta, x)
            for i, row in enumerate(term.rows):
                for j, column in enumerate(term.rows[: i + 1]):
                    product = first[i] * first[j] + second.get((column, row), 0.0)
                    entry = np.vecdot(weight, product)
                    M[..., row, column] += entry
                    if row != column:
                        M[..., column, row] += entry
        return M

    def shift(self, theta: Array, offset: Array) -> Array:
        """The theta that gives at x + offset (k,) what theta gives at x."""
        theta = np.array(theta, dtype=float)
        for term in self.terms:
            term.shift(theta, np.asarray(offset, dtype=float))
        return theta


@dataclass(frozen=True, eq=False)
class Law:
    """One functional form with p parameters in k variables.

    params: reported names, in the order of theta; those in ``logged`` are logs in theta.
    total: what E is the sum of. lower, upper: bounds on theta, shape (p,); no change of unit
    moves them. linear: ln E is linear in theta. fixed: constants of the form.
    starts(x (k, n), y (n,), w (n,)) -> starting points, best first, shape (s, p).
    batch_starts(x (k, n), y (n,), W (B, n)) -> one or two for each row of weights, (B, s, p);
    None where one start is enough.
    """

    name: str
    formula: str
    params: tuple[str, ...]
    variables: tuple[str, ...]
    logged: tuple[str, ...]
    total: Total
    starts: Callable[[Array, Array, Array], Array]
    batch_starts: Callable[[Array, Array, Array], Array] | None
    lower: Array
    upper: Array
    linear: bool = False
    fixed: dict[str, float] = field(default_factory=dict)

    def log_predict(self, theta: Array, x: Array) -> Array:
        """Ln E of theta (..., p) at x (..., k, n), shape (..., n); leading dimensions broadcast."""
        return self.total.log_predict(theta, x)

    def jac(self, theta: Array, x: Array) -> Array:
        """Derivatives of ln E by theta, shape (..., p, n)."""
        return self.total.jac(theta, x)

    def curvature(self, theta: Array, x: Array, psi: Array) -> Array:
        """Sum over points of psi (..., n) times the second derivatives of ln E, (..., p, p)."""
        return self.total.curvature(theta, x, psi)

    def shift(self, theta: Array, offset: Array) -> Array:
        """The theta that gives at x + offset (k,) what theta gives at x: a change of unit."""
        return self.total.shift(theta, offset)

    def natural(self, theta: Array) -> tuple[Array, Array]:
        """Reported values and the derivative of each by its own theta, both shape (..., p)."""
        logged = np.isin(self.params, self.logged)
        values = np.where(logged, np.exp(np.where(logged, theta, 0.0)), theta)
        return values, np.where(logged, values, 1.0)

    def internal(self, values: Array) -> Array:
        """The theta of reported values, shape (..., p); a factor of 0 becomes -inf."""
        logged = np.isin(self.params, self.logged)
        with np.errstate(divide="ignore"):
            return np.where(logged, np.log(np.where(logged, values, 1.0)), values)

    def centre(self, x: Array) -> Array:
        """Means of x (k, n), one per variable; D and U are counted alike and share the one of D."""
        offset = x.mean(axis=-1)
        if "U" in self.variables:
            offset[self.variables.index("U")] = offset[self.variables.index("D")]
        return offset
