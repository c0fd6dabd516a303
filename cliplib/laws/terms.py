"""The terms that laws are made of, each as the log of its value with its derivatives."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cliplib.laws.inputs import Array


class Term(Protocol):
    """The log of one term: a function z of theta (..., p) and x (..., k, n), shape (..., n)."""

    @property
    def rows(self) -> tuple[int, ...]:
        """The places in theta that it depends on, the log of its factor first."""

    def value(self, theta: Array, x: Array) -> Array:
        """Its log, z."""

    def first(self, theta: Array, x: Array) -> list[Array]:
        """The derivatives of z by each of its rows."""

    def second(self, theta: Array, x: Array) -> dict[tuple[int, int], Array]:
        """The second derivatives that are not zero, by two places in the order of rows."""

    def shift(self, theta: Array, offset: Array) -> None:
        """Change theta so that z at x + offset (k,) is what it was at x."""


def at(theta: Array, place: int) -> Array:
    """One parameter of every theta, shape (..., 1), to broadcast over points."""
    return np.asarray(theta, dtype=float)[..., place, None]


@dataclass(frozen=True)
class Product:
    """factor * X1^(sign exponent1) * X2^(sign exponent2) ..., linear in theta."""

    factor: int
    exponents: tuple[int, ...]
    variables: tuple[int, ...] = (0,)
    sign: float = -1.0

    @property
    def rows(self) -> tuple[int, ...]:
        """The factor, then the exponents."""
        return (self.factor, *self.exponents)

    def value(self, theta: Array, x: Array) -> Array:
        """The log of the product."""
        z = at(theta, self.factor)
        for exponent, variable in zip(self.exponents, self.variables, strict=True):
            z = z + self.sign * at(theta, exponent) * x[..., variable, :]
        return z

    def first(self, theta: Array, x: Array) -> list[Array]:
        """1 and the logs of the variables."""
        return [np.ones(x.shape[-1])] + [self.sign * x[..., v, :] for v in self.variables]

    def second(self, theta: Array, x: Array) -> dict[tuple[int, int], Array]:
        """None: it is linear."""
        return {}

    def shift(self, theta: Array, offset: Array) -> None:
        """A change of unit changes the factor only."""
        for exponent, variable in zip(self.exponents, self.variables, strict=True):
            theta[..., self.factor] -= self.sign * theta[..., exponent] * offset[variable]


@dataclass(frozen=True)
class Shifted:
    """factor * (C + c)^-d; c >= 0, in the unit of C, may be exactly zero."""

    factor: int
    c: int
    d: int

    @property
    def rows(self) -> tuple[int, ...]:
        """Factor, c, d."""
        return self.factor, self.c, self.d

    def _sum(self, theta: Array, x: Array) -> Array:
        return np.exp(x[..., 0, :]) + at(theta, self.c)

    def value(self, theta: Array, x: Array) -> Array:
        """Its log: ln factor - d ln(C + c)."""
        return at(theta, self.factor) - at(theta, self.d) * np.log(self._sum(theta, x))

    def first(self, theta: Array, x: Array) -> list[Array]:
        """By ln factor, c, d."""
        total = self._sum(theta, x)
        return [np.ones(x.shape[-1]), -at(theta, self.d) / total, -np.log(total)]

    def second(self, theta: Array, x: Array) -> dict[tuple[int, int], Array]:
        """By c twice, and by c and d."""
        total = self._sum(theta, x)
        return {(self.c, self.c): at(theta, self.d) / total**2, (self.c, self.d): -1 / total}

    def shift(self, theta: Array, offset: Array) -> None:
        """C follows the unit, the factor its power."""
        theta[..., self.factor] += theta[..., self.d] * offset[0]
        theta[..., self.c] *= np.exp(offset[0])


def log_or_none(values: Array) -> Array:
    """Logs of values that may be zero: exactly -inf there, and its exp is 0 again."""
    return np.log(values, out=np.full(values.shape, -np.inf), where=values > 0)


def bend(t: Array, width: Array | float) -> tuple[Array, Array, Array, Array]:
    """A corner at t = 0 rounded over ``width``: width ln(1 + e^(t / width)).

    Returns it, its derivative by t (0 far below, 1 far above), its derivative by ln width, and
    e^u / (1 + e^u)^2 at u = t / width, from which all second derivatives follow.
    """
    u = t / width
    tail = np.exp(-np.abs(u))
    rest, low = np.log1p(tail), tail / (1 + tail)
    rise = np.where(u > 0, 1 - low, low)
    return (
        width * (np.maximum(u, 0) + rest),
        rise,
        width * (rest + np.abs(u) * low),
        low * (1 - low),
    )


@dataclass(frozen=True)
class Broken:
    """factor * C^-c0 * (1 + (C/d1)^(1/f1))^(-c1 f1): exponent c0, and c0 + c1 above d1."""

    factor: int
    c0: int
    c1: int
    d1: int
    f1: int

    @property
    def rows(self) -> tuple[int, ...]:
        """Factor, c0, c1, d1, f1."""
        return self.factor, self.c0, self.c1, self.d1, self.f1

    def _bend(self, theta: Array, x: Array) -> tuple[Array, Array, Array, Array]:
        return bend(x[..., 0, :] - at(theta, self.d1), np.exp(at(theta, self.f1)))

    def value(self, theta: Array, x: Array) -> Array:
        """Its log: ln factor - c0 x - c1 times the bend."""
        z = at(theta, self.factor) - at(theta, self.c0) * x[..., 0, :]
        return z - at(theta, self.c1) * self._bend(theta, x)[0]

    def first(self, theta: Array, x: Array) -> list[Array]:
        """By ln factor, c0, c1, ln d1, ln f1."""
        corner, rise, spread, _ = self._bend(theta, x)
        c1 = at(theta, self.c1)
        return [np.ones(x.shape[-1]), -x[..., 0, :], -corner, c1 * rise, -c1 * spread]

    def second(self, theta: Array, x: Array) -> dict[tuple[int, int], Array]:
        """Those among c1, ln d1, ln f1."""
        _, rise, spread, hump = self._bend(theta, x)
        c1, f1 = at(theta, self.c1), np.exp(at(theta, self.f1))
        u = (x[..., 0, :] - at(theta, self.d1)) / f1
        return {
            (self.c1, self.d1): rise,
            (self.c1, self.f1): -spread,
            (self.d1, self.d1): -c1 * hump / f1,
            (self.d1, self.f1): -c1 * u * hump,
            (self.f1, self.f1): -c1 * (spread + f1 * u**2 * hump),
        }

    def shift(self, theta: Array, offset: Array) -> None:
        """The break follows the unit, the factor its power."""
        theta[..., self.factor] += theta[..., self.c0] * offset[0]
        theta[..., self.d1] += offset[0]


@dataclass(frozen=True)
class Bounded:
    """upper * (1 + (C/c0)^k)^(alpha/k), with k fixed or exp(theta[2]); upper is the error at C = 0."""

    log_upper: float
    takeoff: float | None

    @property
    def rows(self) -> tuple[int, ...]:
        """Alpha, c0 and, if free, the take-off."""
        return (0, 1) if self.takeoff is not None else (0, 1, 2)

    def _width(self, theta: Array) -> Array | float:
        return np.exp(-at(theta, 2)) if self.takeoff is None else 1 / self.takeoff

    def _bend(self, theta: Array, x: Array) -> tuple[Array, Array, Array, Array]:
        return bend(x[..., 0, :] - at(theta, 1), self._width(theta))

    def value(self, theta: Array, x: Array) -> Array:
        """Its log: ln upper + alpha times the bend."""
        return self.log_upper + at(theta, 0) * self._bend(theta, x)[0]

    def first(self, theta: Array, x: Array) -> list[Array]:
        """By alpha, ln c0 and, if free, ln takeoff."""
        corner, rise, spread, _ = self._bend(theta, x)
        alpha = at(theta, 0)
        return [corner, -alpha * rise, -alpha * spread][: len(self.rows)]

    def second(self, theta: Array, x: Array) -> dict[tuple[int, int], Array]:
        """Those with ln c0 and ln takeoff."""
        _, rise, spread, hump = self._bend(theta, x)
        alpha, width = at(theta, 0), self._width(theta)
        u = (x[..., 0, :] - at(theta, 1)) / width
        return {
            (0, 1): -rise,
            (1, 1): alpha * hump / width,
            (0, 2): -spread,
            (1, 2): -alpha * u * hump,
            (2, 2): alpha * (spread + width * u**2 * hump),
        }

    def shift(self, theta: Array, offset: Array) -> None:
        """c0 follows the unit."""
        theta[..., 1] += offset[0]


@dataclass(frozen=True)
class Repeated:
    """factor * [N^-size] * D'^-data, with D' what D samples are worth when only U are unique.

    Variables 0, 1, 2 are N, D, U; ``size`` is None where the term does not depend on N.
    """

    factor: int
    data: int
    repeats: int
    size: int | None = None

    @property
    def rows(self) -> tuple[int, ...]:
        """Factor, exponent of N if there is one, exponent of D', repeats."""
        size = () if self.size is None else (self.size,)
        return self.factor, *size, self.data, self.repeats

    def _worth(self, theta: Array, x: Array) -> tuple[Array, Array, Array]:
        return log_effective_data(x[..., 1, :], x[..., 2, :], at(theta, self.repeats))

    def value(self, theta: Array, x: Array) -> Array:
        """Its log: ln factor - alpha ln N - beta ln D'."""
        z = at(theta, self.factor) - at(theta, self.data) * self._worth(theta, x)[0]
        return z if self.size is None else z - at(theta, self.size) * x[..., 0, :]

    def first(self, theta: Array, x: Array) -> list[Array]:
        """By ln factor, the exponents, ln R."""
        worth, slope, _ = self._worth(theta, x)
        size = [] if self.size is None else [-x[..., 0, :]]
        return [np.ones(x.shape[-1]), *size, -worth, -at(theta, self.data) * slope]

    def second(self, theta: Array, x: Array) -> dict[tuple[int, int], Array]:
        """Those with ln R."""
        _, slope, bow = self._worth(theta, x)
        both = (self.data, self.repeats)
        return {both: -slope, (self.repeats, self.repeats): -at(theta, self.data) * bow}

    def shift(self, theta: Array, offset: Array) -> None:
        """D and U share a unit; R, a number of repeats, has none."""
        theta[..., self.factor] += theta[..., self.data] * offset[1]
        if self.size is not None:
            theta[..., self.factor] += theta[..., self.size] * offset[0]


def log_effective_data(log_D: Array, log_U: Array, log_R: Array) -> tuple[Array, Array, Array]:
    """The log of D', the worth of D samples of which U are unique, and its two derivatives by ln R.

    D' = U + U R (1 - exp(-(D/U - 1)/R)) for D > U, else D (Muennighoff et al. 2023):
    a first repeat is worth nearly as much as new data, after R repeats little is left to learn.

    Four passes with R = 15 are worth 3.7 of new data, forty are worth fifteen:

    >>> np.exp(log_effective_data(np.log([4, 40]), np.zeros(2), np.log(15.0))[0]).round(1).tolist()
    [3.7, 14.9]
    """
    R = np.exp(log_R)
    repeats = np.expm1(np.maximum(log_D - log_U, 0.0))
    q = repeats / R
    left = np.exp(-q)
    extra = -R * np.expm1(-q)  # in units of U
    slope = (extra - repeats * left) / (1 + extra)
    bow = slope - slope**2 - repeats * q * left / (1 + extra)
    return np.minimum(log_D, log_U) + np.log1p(extra), slope, bow
