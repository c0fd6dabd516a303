"""Scaling laws: fit them, choose the frontier, say how sure.

Pure functions over arrays and tables. Reading order: ``forms`` (the laws), ``fitting``,
``frontier``, ``recipe`` (the two together), ``uncertainty``, ``inclusion``, ``report``, and
``paper`` (the published recipe). ``cli`` is the command line.
"""

from cliplib.laws.fitting import Fit, fit
from cliplib.laws.forms import LAWS, Law, curved, law, power
from cliplib.laws.frontier import HOW, Frontier, frontier
from cliplib.laws.inclusion import include
from cliplib.laws.paper import (
    NOMINAL_SAMPLES,
    best_cells,
    compare_alphas,
    fit_paper,
    mean_absolute_error,
    paper_draws,
    paper_intervals,
    paper_law,
    paper_laws,
    predictions,
)
from cliplib.laws.recipe import Recipe
from cliplib.laws.report import FitReport
from cliplib.laws.uncertainty import Draws, Interval, bootstrap, t_interval

__all__ = [
    "HOW",
    "LAWS",
    "NOMINAL_SAMPLES",
    "Draws",
    "Fit",
    "FitReport",
    "Frontier",
    "Interval",
    "Law",
    "Recipe",
    "best_cells",
    "bootstrap",
    "compare_alphas",
    "curved",
    "fit",
    "fit_paper",
    "frontier",
    "include",
    "law",
    "mean_absolute_error",
    "paper_draws",
    "paper_intervals",
    "paper_law",
    "paper_laws",
    "power",
    "predictions",
    "t_interval",
]
