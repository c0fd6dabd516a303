"""What a fit must say about itself, as markdown for people and as JSON for programs.

The checklist condenses (Mis)Fitting (Li et al. 2025, arXiv 2502.18969) and the Hitchhiker's guide
(Choshen et al. 2024, arXiv 2410.11840). What a program cannot know, the author states; what nobody
states is printed as "not stated".
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cliplib import __version__
from cliplib.laws.fitting import Fit
from cliplib.laws.profile import Profile
from cliplib.laws.tables import markdown, records
from cliplib.laws.uncertainty import Draws, Interval

# what only the author of a study can say
STATEMENTS = {
    "counting": "how the variables are counted (embeddings, forward or training compute)",
    "tuning": "how each run was tuned",
    "schedule": "whether each run finished its own schedule",
}


@dataclass(frozen=True)
class FitReport:
    """A fit with what it rests on. ``FitReport(fit)`` alone is valid.

    n_runs: runs before the frontier (default: the points fitted). how: the frontier. x: columns of
    the law's variables, y: column of the response. excluded: (run, reason) of runs left out.
    intervals: by parameter; draws: their bootstrap. profiles: profile-likelihood intervals.
    sensitivity: the fit under other choices, from `sensitivity`. held_out: scores on larger runs,
    from `leave_top_out`. statements: what the author says, by the keys of `STATEMENTS`.
    """

    fit: Fit
    n_runs: int | None = None
    how: str = "all"
    x: str | Sequence[str] | None = None
    y: str = "error"
    excluded: Sequence[tuple[str, str]] = ()
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    draws: Draws | None = None
    profiles: Sequence[Profile] = ()
    sensitivity: pd.DataFrame | None = None
    held_out: pd.DataFrame | None = None
    statements: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; se and ci by parameter are there when a bootstrap was made."""
        fit = self.fit
        report: dict[str, Any] = {
            "law": fit.law,
            "formula": fit.formula,
            "params": fit.params,
            "fixed": fit.fixed,
            "objective": fit.objective,
            "objective_formula": fit.objective_formula,
            "loss": fit.loss,
            "n": fit.n,
            "n_runs": self._n_runs,
            "frontier": self.how,
            "x": self._x[0] if len(self._x) == 1 else self._x,
            "y": self.y,
            "x_range": self._ranges[0] if len(self._x) == 1 else self._ranges,
            "converged": fit.converged,
            "n_starts": fit.n_starts,
            "n_starts_at_best": fit.n_starts_at_best,
            "on_bound": list(fit.on_bound),
            "condition": fit.condition,
            "residual_sd_ln": fit.residual_sd,
            "warnings": fit.warnings,
            "excluded": [{"run": run, "reason": reason} for run, reason in self.excluded],
            "not_stated": sorted(set(STATEMENTS) - set(self.statements)),
            "statements": dict(self.statements),
            "data_sha256": self.data_hash,
            "cliplib": __version__,
        }
        if self.intervals:
            report["ci"] = {name: [i.low, i.high] for name, i in self.intervals.items()}
            report["ci_kind"] = _kind(self.intervals)
        if self.draws is not None:
            report["se"] = self.draws.se()
            report["bootstrap"] = {
                "kind": self.draws.kind,
                "seed": self.draws.seed,
                "failed": self.draws.failed,
                "warnings": list(self.draws.warnings),
            }
        if self.profiles:
            report["profile"] = {p.param: [p.low, p.high] for p in self.profiles}
            report["profile_kind"] = self.profiles[0].kind
        for name in ("sensitivity", "held_out"):
            table = getattr(self, name)
            if table is not None:
                report[name] = records(table)
        return finite(report)

    def to_json(self) -> str:
        """`to_dict` as JSON text; an infinite end of an interval is null."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_markdown(self) -> str:
        """The checklist and a table of parameters."""
        lines = [*self._form_lines(), *self._fit_lines(), *self._trust_lines()]
        lines += [f"- excluded: {run}: {reason}" for run, reason in self.excluded]
        lines += [f"- {STATEMENTS.get(key, key)}: {text}" for key, text in self.statements.items()]
        missing = [text for key, text in STATEMENTS.items() if key not in self.statements]
        if missing:
            lines.append(f"- not stated: {'; '.join(missing)}")
        lines.append(f"- data: sha256 {self.data_hash[:12]}; cliplib {__version__}")
        lines += [f"- warning: {text}" for text in self.fit.warnings]
        return "\n".join([*lines, "", *self._table(), *self._annexes()])

    @property
    def data_hash(self) -> str:
        """sha256 of the fitted points, whatever their order."""
        points = np.column_stack([self.fit.X, self.fit.y])
        rows = sorted(",".join(map(repr, map(float, row))) for row in points)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    @property
    def _n_runs(self) -> int:
        return self.fit.n if self.n_runs is None else self.n_runs

    @property
    def _x(self) -> list[str]:
        if self.x is None:
            return list(self.fit.variables)
        return [self.x] if isinstance(self.x, str) else list(self.x)

    @property
    def _ranges(self) -> list[list[float]]:
        return [[float(column.min()), float(column.max())] for column in self.fit.X.T]

    def _form_lines(self) -> list[str]:
        fit = self.fit
        fixed = ", ".join(f"{name} = {value:.4g}" for name, value in fit.fixed.items())
        names = [
            f"{variable} is {column}"
            for variable, column in zip(fit.variables, self._x, strict=True)
            if variable != column
        ]
        lines = [
            f"- form: {fit.formula}" + (f" with {fixed}" if fixed else "")
            + (f"; {', '.join(names)}" if names else ""),
            f"- runs: {self._n_runs}; points fitted: {fit.n} (frontier: {self.how})",
        ]  # fmt: skip
        return lines + [
            f"- range of {name}: {low:.4g} to {high:.4g} (a factor of {high / low:.3g})"
            for name, (low, high) in zip(self._x, self._ranges, strict=True)
        ]

    def _fit_lines(self) -> list[str]:
        fit = self.fit
        return [
            f"- objective: {fit.loss}, {fit.objective_formula} = {fit.objective:.6g}; "
            f"scatter about the law {100 * fit.residual_sd:.2g}% of {self.y}",
            f"- starts: {fit.n_starts_at_best} of {fit.n_starts} reached the optimum; "
            f"converged: {'yes' if fit.converged else 'no'}; condition {fit.condition:.2g}",
        ]

    def _trust_lines(self) -> list[str]:
        lines = [f"- uncertainty: {_kind(self.intervals) if self.intervals else 'none asked for'}"]
        lines += [
            f"- {p.param}: {100 * p.level:g}% interval {_end(p.low)} to {_end(p.high)} ({p.kind})"
            for p in self.profiles
        ]
        if self.draws is not None and self.draws.failed:
            lines.append(f"- bootstrap samples that could not be fitted: {self.draws.failed}")
        if self.draws is not None:
            lines += [f"- warning: {text}" for text in self.draws.warnings]
        if self.held_out is None:
            lines.append("- held-out larger runs: not scored")
        return lines

    def _table(self) -> list[str]:
        rows = ["| parameter | value | 95% interval |", "| --- | --- | --- |"]
        if self.intervals:
            level = next(iter(self.intervals.values())).level
            rows[0] = f"| parameter | value | {100 * level:g}% interval |"
        for name, value in self.fit.params.items():
            span = self.intervals.get(name)
            text = f"{span.low:.6g} to {span.high:.6g}" if span else "-"
            rows.append(f"| {name} | {value:.6g} | {text} |")
        return rows

    def _annexes(self) -> list[str]:
        titles = {"sensitivity": "Under other choices", "held_out": "On held-out larger runs"}
        lines = []
        for name, title in titles.items():
            table = getattr(self, name)
            if table is not None:
                lines += ["", f"{title}:", "", markdown(table)]
        return lines


def finite(value: Any) -> Any:
    """The same nested dicts and lists, with None for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def _end(value: float) -> str:
    return "no limit" if np.isinf(value) else f"{value:.6g}"


def _kind(intervals: Mapping[str, Interval]) -> str:
    first = next(iter(intervals.values()))
    return f"{100 * first.level:g}% {first.kind}"
