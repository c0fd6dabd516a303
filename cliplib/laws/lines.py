"""Straight lines, one a group, for any number of responses: what comparisons and tasks share."""

from dataclasses import dataclass

import numpy as np

from cliplib.laws.inputs import Array


@dataclass(frozen=True)
class Lines:
    """Least-squares lines of responses (..., n) on x in each of G groups.

    group: the group of each run, 0 .. G-1, (n,). n, mean_x, sxx (sum of squares of x about its
    mean): (G,). dx: x about its group's mean, (n,). mean_y, slope: (..., G). common: the slope of
    parallel lines, (...). residuals, residuals_common: about own and about parallel lines,
    (..., n).
    """

    group: np.ndarray
    n: Array
    mean_x: Array
    dx: Array
    sxx: Array
    mean_y: Array
    slope: Array
    common: Array
    residuals: Array
    residuals_common: Array

    @property
    def dof(self) -> int:
        """Degrees of freedom about the groups' own lines; about parallel lines G - 1 more."""
        return int(self.n.sum()) - 2 * len(self.n)

    @property
    def leverage(self) -> Array:
        """Weight of each run's own y in its fitted value, (n,); 1 where the line must pass."""
        return (1 / self.n)[self.group] + self.dx**2 / self.sxx[self.group]

    @property
    def sse(self) -> Array:
        """Sum of squared residuals about the groups' own lines, (...)."""
        return np.asarray((self.residuals**2).sum(-1))

    @property
    def hc3(self) -> Array:
        """Variance of each slope where scatter differs from run to run (HC3), (..., G)."""
        square = (self.residuals / (1 - self.leverage) * self.dx) ** 2
        member = self.group[:, None] == np.arange(len(self.n))
        return np.asarray(square @ member / self.sxx**2)

    @property
    def f(self) -> Array:
        """F statistic of equal slopes, with G - 1 and `dof` degrees of freedom, (...)."""
        rise = (self.residuals_common**2).sum(-1) - self.sse
        return np.asarray(rise / (len(self.n) - 1) / (self.sse / self.dof))


def lines(x: Array, y: Array, group: np.ndarray) -> Lines:
    """Fit the lines. A group at one x has no slope: its numbers are nan."""
    member = (group == np.arange(group.max() + 1)[:, None]).astype(float)
    n = member.sum(1)
    mean_x, mean_y = member @ x / n, y @ member.T / n
    dx = x - mean_x[group]
    sxx, sxy = member @ dx**2, (y * dx) @ member.T
    level = y - mean_y[..., group]
    common = np.asarray(sxy.sum(-1) / sxx.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = sxy / sxx
        own = level - slope[..., group] * dx
    parallel = level - common[..., None] * dx
    return Lines(group, n, mean_x, dx, sxx, mean_y, slope, common, own, parallel)


def slope_difference(found: Lines, g: int) -> tuple[Array, Array, int]:
    """Group g's slope minus group 0's, its standard error and degrees of freedom; scatter pooled."""
    value = found.slope[..., g] - found.slope[..., 0]
    variance = found.sse / found.dof * (1 / found.sxx[g] + 1 / found.sxx[0])
    return value, np.sqrt(variance), found.dof


def level_difference(found: Lines, g: int, own: bool) -> tuple[Array, Array, int]:
    """Group g's y minus group 0's at the mean x of all runs, standard error, degrees of freedom.

    own: each group on its own line; else on parallel lines, where the place does not matter
    (analysis of covariance).
    """
    weight = 1 / found.n[g] + 1 / found.n[0]
    gap = found.mean_y[..., g] - found.mean_y[..., 0]
    if own:
        centre = found.n @ found.mean_x / found.n.sum()
        at_g, at_0 = centre - found.mean_x[g], centre - found.mean_x[0]
        value = gap + found.slope[..., g] * at_g - found.slope[..., 0] * at_0
        weight += at_g**2 / found.sxx[g] + at_0**2 / found.sxx[0]
        return value, np.sqrt(found.sse / found.dof * weight), found.dof
    apart = found.mean_x[g] - found.mean_x[0]
    dof = found.dof + len(found.n) - 1
    variance = (found.residuals_common**2).sum(-1) / dof
    weight += apart**2 / found.sxx.sum()
    return gap - found.common * apart, np.sqrt(variance * weight), dof
