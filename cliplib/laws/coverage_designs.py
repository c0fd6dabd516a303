"""Studies with a known truth, like the paper's 29 runs and like a small grid of one's own."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cliplib import published
from cliplib.laws.inputs import Array
from cliplib.laws.recipe import Recipe

SLOPE, FACTOR = -0.11, 5.86  # of the paper's ImageNet law
SCATTER = 0.12  # sd of ln E of the 29 ImageNet runs about their mean line
TINY = 0.02  # of single runs, where the scatter is inefficiency or clusters for the most part

Noise = Callable[[np.random.Generator], Array]


@dataclass(frozen=True)
class Design:
    """A study that can be repeated.

    recipe: how it is fitted, from all runs. runs: its table without errors. truth: the planted
    parameters by name. noise: draws what to add to the planted ln E, shape (n,).
    """

    name: str
    recipe: Recipe
    runs: pd.DataFrame
    truth: dict[str, float]
    noise: Noise

    def simulate(self, rng: np.random.Generator) -> pd.DataFrame:
        """One study: the runs with errors."""
        return self.runs.assign(error=np.exp(self._log_error() + self.noise(rng)))

    def _log_error(self) -> Array:
        form, names = self.recipe.form, self.recipe.x
        columns = [names] if isinstance(names, str) else list(names)
        theta = form.internal(np.array([self.truth[name] for name in form.params]))
        return form.log_predict(theta, np.log(self.runs[columns].to_numpy(dtype=float)).T)


def designs() -> dict[str, Design]:
    """All designs by name.

    ``paper ...``: the compute and the architectures of the 29 OpenCLIP runs, a power law with the
    published exponent. Scatter about it: normal; or one-sided, so that the law is the frontier of
    the runs, with half-normal or exponential inefficiency and a little noise; or normal with a
    share that all runs of an architecture have in common. ``grid n``: n runs evenly over 1.5
    decades of compute, normal scatter; ``uneven``: six times as much at the small end as at the
    large. ``saturating``, ``chinchilla``: those laws, the second with heavy tails (Student's t
    with 3 degrees of freedom).
    """
    found = [*_paper_designs(), *_grid_designs(), _saturating_design(), _chinchilla_design()]
    return {design.name: design for design in found}


def _paper_designs() -> list[Design]:
    runs = published.openclip_runs("imagenet1k")[["compute", "arch"]].reset_index(drop=True)
    arch = pd.factorize(runs["arch"])[0]
    n, sigma_u = len(runs), SCATTER / np.sqrt(1 - 2 / np.pi)
    noises: dict[str, Noise] = {
        "normal": _normal(SCATTER, n),
        "half-normal": lambda rng: (
            sigma_u * np.abs(rng.standard_normal(n)) + TINY * rng.standard_normal(n)
        ),
        "exponential": lambda rng: rng.exponential(SCATTER, n) + TINY * rng.standard_normal(n),
        "clusters": lambda rng: (
            0.1 * rng.standard_normal(arch.max() + 1)[arch] + 0.05 * rng.standard_normal(n)
        ),
    }
    truth = {"alpha": SLOPE, "beta": FACTOR}
    return [Design(f"paper {name}", Recipe(), runs, truth, noise) for name, noise in noises.items()]


def _grid_designs() -> list[Design]:
    truth = {"alpha": SLOPE, "beta": 1.5}
    found = []
    for n in (10, 20, 40):
        runs = pd.DataFrame({"compute": np.geomspace(80, 80 * 10**1.5, n)})
        for name, spread in (
            (f"grid {n}", 0.05),
            (f"grid {n} uneven", np.geomspace(0.12, 0.02, n)),
        ):
            found.append(Design(name, Recipe(), runs, truth, _normal(spread, n)))
    return found


def _normal(spread: float | Array, n: int) -> Noise:
    return lambda rng: spread * rng.standard_normal(n)


def _saturating_design() -> Design:
    runs = pd.DataFrame({"compute": np.geomspace(1, 1e4, 32)})
    truth = {"a": 0.15, "b": 0.75, "d": 0.3}
    return Design("saturating", Recipe("saturating"), runs, truth, _normal(0.02, len(runs)))


def _chinchilla_design() -> Design:
    N, D = np.meshgrid(np.geomspace(5e7, 1e10, 7), np.geomspace(1e9, 3e11, 7))
    runs = pd.DataFrame({"N": N.ravel(), "D": D.ravel()})
    # Besiroglu et al. 2024, table 1
    truth = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
    recipe = Recipe("chinchilla", x=("N", "D"), loss="huber:0.001")
    return Design(
        "chinchilla", recipe, runs, truth, lambda rng: 0.005 * rng.standard_t(3, len(runs))
    )
