"""What a fit must say about itself, as markdown for people and as a dict for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cliplib.laws.fitting import Fit
from cliplib.laws.uncertainty import Draws, Interval


@dataclass(frozen=True)
class FitReport:
    """A fit with what it rests on.

    x, y: names of the columns. n_runs: runs before the frontier. how: the frontier.
    excluded: (run, reason) of runs left out. intervals: by parameter; draws: their bootstrap.
    """

    fit: Fit
    n_runs: int
    how: str = "all"
    x: str = "compute"
    y: str = "error"
    excluded: Sequence[tuple[str, str]] = ()
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    draws: Draws | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; se and ci by parameter are there when a bootstrap was made."""
        report: dict[str, Any] = {
            "law": self.fit.law,
            "formula": self.fit.formula,
            "params": self.fit.params,
            "fixed": self.fit.fixed,
            "objective": self.fit.objective,
            "loss": self.fit.loss,
            "n": self.fit.n,
            "n_runs": self.n_runs,
            "frontier": self.how,
            "x": self.x,
            "y": self.y,
            "x_range": list(self.fit.C_range),
            "converged": self.fit.converged,
            "n_starts": self.fit.n_starts,
            "n_starts_at_best": self.fit.n_starts_at_best,
            "residual_sd_ln": self.fit.residual_sd,
            "warnings": self.fit.warnings,
            "excluded": [{"run": run, "reason": reason} for run, reason in self.excluded],
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
            }
        return report

    def to_markdown(self) -> str:
        """A checklist and a table of parameters."""
        fit, (low, high) = self.fit, self.fit.C_range
        fixed = ", ".join(f"{name} = {value:.4g}" for name, value in fit.fixed.items())
        lines = [
            f"- form: {fit.formula}" + (f" with {fixed}" if fixed else ""),
            f"- runs: {self.n_runs}; points fitted: {fit.n} (frontier: {self.how})",
            f"- range of {self.x}: {low:.4g} to {high:.4g} (a factor of {high / low:.3g})",
            f"- objective: least squares on ln {self.y}, sum {fit.objective:.6g}; "
            f"scatter about the law {100 * fit.residual_sd:.2g}%",
            f"- starts: {fit.n_starts_at_best} of {fit.n_starts} reached the optimum; "
            f"converged: {'yes' if fit.converged else 'no'}",
            f"- uncertainty: {_kind(self.intervals) if self.intervals else 'none asked for'}",
        ]
        if self.draws is not None and self.draws.failed:
            lines.append(f"- bootstrap samples that could not be fitted: {self.draws.failed}")
        lines += [f"- excluded: {run}: {reason}" for run, reason in self.excluded]
        lines += [f"- warning: {text}" for text in fit.warnings]
        return "\n".join([*lines, "", *self._table()])

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


def _kind(intervals: Mapping[str, Interval]) -> str:
    first = next(iter(intervals.values()))
    return f"{100 * first.level:g}% {first.kind}"
