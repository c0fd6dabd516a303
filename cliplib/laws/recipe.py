"""A whole recipe, runs -> parameters: the unit that a bootstrap repeats."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from cliplib import InputError
from cliplib.laws.fitting import Fit, fit, fit_batch
from cliplib.laws.frontier import LINES, Frontier, check_way, frontier
from cliplib.laws.frontier_batch import Points, frontier_batch
from cliplib.laws.frontier_lines import quantile_lines, stochastic_frontier
from cliplib.laws.inputs import Array, positive
from cliplib.laws.law import Law, law


@dataclass(frozen=True)
class Recipe:
    """Exclusion, frontier, fit. Call it with a table of runs to get the parameters by name.

    law: a name or a `Law`; how: a frontier (see `frontier`, which also explains nbins, margin and
    tau); x, y: the columns of compute and error; for a law in several variables x is a tuple of
    columns in the order of its variables, and how is ``all``. options: constants of the law
    (``{"chance": 1 / 837}``). loss: see `fit`; the frontiers that are a line bring their own.
    drop_largest: leave out the K rows with the largest y before anything else, as Besiroglu et
    al. (2024) do. In a bootstrap every resample drops its own K.
    """

    law: str | Law = "power"
    how: str = "all"
    x: str | tuple[str, ...] = "compute"
    y: str = "error"
    options: dict[str, Any] = field(default_factory=dict)
    loss: str = "l2"
    drop_largest: int = 0
    nbins: int = 5
    margin: float = 0.1
    tau: float = 0.1

    def frontier(self, runs: pd.DataFrame) -> Frontier:
        """The points that the law is fitted to; ``index`` counts the rows of ``runs``."""
        X, E = self.columns(runs)
        if X.shape[1] > 1:
            raise InputError(f"a frontier needs one x, compute, not {self.x}")
        kept = np.sort(_largest_first(X, E)[self.drop_largest :])
        points = frontier(
            X[kept, 0], E[kept], self.how, nbins=self.nbins, margin=self.margin, tau=self.tau
        )
        return replace(points, index=kept[points.index])

    def fit(self, runs: pd.DataFrame) -> Fit:
        """The fitted law of these runs. InputError: a missing column, too few runs, bad values."""
        X, E = self.columns(runs)
        if X.shape[1] > 1:
            kept = np.sort(_largest_first(X, E)[self.drop_largest :])
            return fit(self.form, X[kept], E[kept], self.loss)
        points = self.frontier(runs)
        if points.line is not None:
            return _line_fit(points, self.tau)
        return fit(self.form, points.C, points.E, self.loss)

    def __call__(self, runs: pd.DataFrame) -> dict[str, float]:
        """The parameters of these runs, by name."""
        return self.fit(runs).params

    def batch(
        self,
        runs: pd.DataFrame,
        counts: Array,
        E: Array | None = None,
        start: Mapping[str, float] | None = None,
    ) -> Array:
        """The parameters of many resamples of the runs at once, shape (B, p).

        counts: how often each run is in each resample, shape (B, n). E: other errors for the
        runs, shape (B, n), one row a resample. start: parameters near the answers, such as those
        of the runs themselves; found anew without them. A resample that `fit` would refuse gives
        nan.
        """
        X, observed = self.columns(runs)
        E = observed if E is None else E
        counts = _thinned(X, E, counts, self.drop_largest)
        if self.how in LINES:
            return self._lines(X[:, 0], E, counts)
        if self.how == "all":
            return _batch(self.form, X, Points(X[:, 0], E, counts), self.loss, start)
        points = frontier_batch(X[:, 0], E, counts, self.how, self.nbins, self.margin)
        return _batch(self.form, points.C[..., None], points, self.loss, start)

    @property
    def form(self) -> Law:
        """The law with its constants."""
        return law(self.law, **self.options) if isinstance(self.law, str) else self.law

    def _lines(self, C: Array, E: Array, counts: Array) -> Array:
        if self.how == "quantile" and E.ndim == 1:
            return quantile_lines(C, E, counts, self.tau)
        errors = np.broadcast_to(E, counts.shape)
        one = _one_quantile if self.how == "quantile" else _one_stochastic
        return np.array([one(C, e, w, self.tau) for e, w in zip(errors, counts, strict=True)])

    def columns(self, runs: pd.DataFrame) -> tuple[Array, Array]:
        """X, shape (n, k), and E, shape (n,), of runs that this recipe can take.

        InputError: settings that cannot be, a missing column, or a value without logarithm.
        """
        names = (self.x,) if isinstance(self.x, str) else self.x
        self._check(names, len(runs))
        missing = [name for name in (*names, self.y) if name not in runs.columns]
        if missing:
            raise InputError(f"no column {missing[0]} in the runs; there are {list(runs.columns)}")
        labels = ("C",) if len(names) == 1 else names
        X = [positive(runs[name], label) for name, label in zip(names, labels, strict=True)]
        return np.column_stack(X), positive(runs[self.y], "E")

    def _check(self, names: tuple[str, ...], n: int) -> None:
        check_way(self.how, self.nbins, self.margin, self.tau)
        if self.how != "all" and len(names) > 1:
            raise InputError(f"the frontier '{self.how}' needs one x, compute, not {names}")
        if self.how in LINES and (self.form.name != "power" or self.loss != "l2"):
            raise InputError(
                f"the frontier '{self.how}' is a line with its own objective: it takes the power "
                f"law and no other loss, not {self.form.name} with {self.loss}"
            )
        left = n - self.drop_largest
        if self.drop_largest and not len(self.form.params) < left <= n:
            raise InputError(
                f"drop_largest = {self.drop_largest} leaves {left} of {n} runs; the "
                f"{self.form.name} law needs at least {len(self.form.params) + 1}"
            )


def _largest_first(X: Array, E: Array) -> np.ndarray:
    """Rows by falling E; ties by falling X, so that the order of the runs does not matter."""
    return np.lexsort((*X.T[::-1], E))[::-1]


def _thinned(X: Array, E: Array, counts: Array, drop: int) -> Array:
    """The counts without the ``drop`` largest errors of each resample; E (n,) or (B, n)."""
    if not drop:
        return counts
    errors = np.broadcast_to(E, counts.shape)
    order = (
        np.broadcast_to(_largest_first(X, E), counts.shape)
        if E.ndim == 1
        else np.array([_largest_first(X, e) for e in errors])
    )
    ranked = np.take_along_axis(counts, order, axis=1)
    kept = np.clip(ranked.cumsum(1) - drop, 0, ranked)
    out = np.empty_like(kept)
    np.put_along_axis(out, order, kept, axis=1)
    return out


def _batch(
    form: Law, X: Array, points: Points, loss: str, start: Mapping[str, float] | None
) -> Array:
    """Fit the points of every resample that has enough of them; nan for the others."""
    p = len(form.params)
    W = points.W.astype(float)
    enough = (W.sum(1) > p) & (_distinct(X, W) >= p)
    if "U" in form.variables:  # without a repeat in the resample R is not seen
        data, unique = (X[:, form.variables.index(name)] for name in ("D", "U"))
        enough &= W @ (data > unique) > 0
    values = np.full((len(W), p), np.nan)
    if enough.any():
        y = points.E[enough] if points.E.ndim == 2 else points.E
        starts = None if start is None else [start[name] for name in form.params]
        X = X[enough] if X.ndim == 3 else X
        values[enough] = fit_batch(form, X, y, W[enough], loss, starts=starts).params
    return np.where(np.isfinite(values).all(1, keepdims=True), values, np.nan)


def _distinct(X: Array, W: Array) -> np.ndarray:
    """Number of distinct points of each row of weights; those of a frontier all differ."""
    if X.ndim == 3:
        return (W > 0).sum(1)
    _, group = np.unique(X, axis=0, return_inverse=True)
    member = (group.reshape(-1, 1) == np.arange(group.max() + 1)).astype(float)
    return ((W @ member) > 0).sum(1)


def _one_quantile(C: Array, E: Array, w: Array, tau: float) -> Array:
    return quantile_lines(C, E, w[None, :], tau)[0]


def _one_stochastic(C: Array, E: Array, w: Array, tau: float) -> Array:
    rows = np.repeat(np.arange(len(C)), w.astype(int))
    if np.unique(C[rows]).size < 3:
        return np.full(2, np.nan)
    try:
        found = stochastic_frontier(C[rows], E[rows])
    except InputError:
        return np.full(2, np.nan)
    return np.array([found.alpha, found.beta])


def _line_fit(points: Frontier, tau: float) -> Fit:
    """A frontier that is a line, told as a fit to all its runs."""
    base = fit("power", points.C, points.E)
    assert points.line is not None
    alpha, beta = points.line
    residuals = np.log(points.E) - np.log(beta) - alpha * np.log(points.C)
    quantile = points.how == "quantile"
    if quantile:
        objective = float((residuals * (tau - (residuals < 0))).sum())
        formula = f"sum r ({tau:g} - [r < 0]), r = ln E - ln predicted"
    else:
        objective = -stochastic_frontier(points.C, points.E).log_likelihood
        formula = "minus the log-likelihood of ln E = line + normal + half-normal"
    return replace(
        base,
        params={"alpha": alpha, "beta": beta},
        theta=np.array([alpha, np.log(beta)]),
        residuals=residuals,
        objective=objective,
        objective_formula=formula,
        loss=f"quantile:{tau:g}" if quantile else "sfa",
        cov=np.full((2, 2), np.nan),
    )
