"""Scaling laws: fit them, choose the frontier, say how sure, compare, forecast, plan.

Pure functions over arrays and tables; import what you need from here. Reading order:

- the laws: ``form`` (what a law is), ``law`` (the laws by name);
- a fit: ``fitting``, with ``loss``, ``points`` (refusals), ``search`` and ``solve`` (the engine),
  ``lad`` (least deviations), ``covariance`` and ``doubts`` (how far to trust it), ``profile``;
- from runs to a law: ``frontier``, ``recipe``, ``inclusion``, ``report``;
- how sure: ``uncertainty`` (bootstrap), ``prediction``, ``noise``, ``sensitivity``, ``coverage``;
- what follows: ``choice``, ``forecast``, ``ledger``, ``scoring``, ``compare``, ``crossover``,
  ``tasks``, ``joint``, ``allocation``, ``plan``;
- ``paper``, the published recipe; ``cli`` and ``cli_*``, the command line.
"""

from cliplib.laws.allocation import Allocation, optimal_allocation
from cliplib.laws.choice import leave_top_out, ranking, scores
from cliplib.laws.compare import SlopeComparison, compare_slopes
from cliplib.laws.crossover import Crossover, crossover
from cliplib.laws.fitting import Batch, Fit, fit, fit_batch
from cliplib.laws.forecast import Forecast, forecast
from cliplib.laws.form import Law
from cliplib.laws.frontier import HOW, LINES, Frontier, frontier
from cliplib.laws.inclusion import include
from cliplib.laws.joint import mixed
from cliplib.laws.law import LAWS, law
from cliplib.laws.loss import L2, LAD, Huber, Loss
from cliplib.laws.noise import binomial_se, decomposition, seed_noise
from cliplib.laws.one_variable import broken, curved, power, saturating, shifted
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
from cliplib.laws.plan import plan
from cliplib.laws.prediction import Prediction, predict
from cliplib.laws.profile import Profile, profile
from cliplib.laws.recipe import Recipe
from cliplib.laws.report import FitReport
from cliplib.laws.sensitivity import sensitivity
from cliplib.laws.several_variables import (
    chinchilla,
    chinchilla_effective,
    nd_effective,
    nd_multiplicative,
)
from cliplib.laws.tasks import tasks
from cliplib.laws.uncertainty import Draws, Interval, bootstrap, t_interval

__all__ = [
    "HOW",
    "L2",
    "LAD",
    "LAWS",
    "LINES",
    "NOMINAL_SAMPLES",
    "Allocation",
    "Batch",
    "Crossover",
    "Draws",
    "Fit",
    "FitReport",
    "Forecast",
    "Frontier",
    "Huber",
    "Interval",
    "Law",
    "Loss",
    "Prediction",
    "Profile",
    "Recipe",
    "SlopeComparison",
    "best_cells",
    "binomial_se",
    "bootstrap",
    "broken",
    "chinchilla",
    "chinchilla_effective",
    "compare_alphas",
    "compare_slopes",
    "crossover",
    "curved",
    "decomposition",
    "fit",
    "fit_batch",
    "fit_paper",
    "forecast",
    "frontier",
    "include",
    "law",
    "leave_top_out",
    "mean_absolute_error",
    "mixed",
    "nd_effective",
    "nd_multiplicative",
    "optimal_allocation",
    "paper_draws",
    "paper_intervals",
    "paper_law",
    "paper_laws",
    "plan",
    "power",
    "predict",
    "predictions",
    "profile",
    "ranking",
    "saturating",
    "scores",
    "seed_noise",
    "sensitivity",
    "shifted",
    "t_interval",
    "tasks",
]
