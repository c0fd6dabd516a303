"""Which runs may enter a power-law fit: the rule is fixed before the runs and printed with them."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib import InputError

STANDARD_ERRORS = 5.0
MAX_ERROR = 0.9


def include(
    error: ArrayLike,
    chance: ArrayLike,
    se: ArrayLike,
    *,
    standard_errors: float = STANDARD_ERRORS,
    max_error: float = MAX_ERROR,
) -> pd.DataFrame:
    """Apply the inclusion rule: metric > chance + 5 standard errors, and error <= 0.9.

    error = 1 - metric, chance (the metric of guessing) and se (clustered standard error of the
    metric) are fractions, shape (n,); chance and se may be one number. Returns a frame of n rows
    with ``included`` (bool) and ``reason`` (empty for an included run).
    InputError where a value is missing or not a fraction.
    """
    columns = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(v, float)) for v in (error, chance, se))
    )
    for name, values in zip(("error", "chance", "se"), columns, strict=True):
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"column {name}, row {row}: {values[row]:g} is not a fraction in [0, 1]"
            )
    reasons = [
        _reason(e, c, s, standard_errors, max_error) for e, c, s in zip(*columns, strict=True)
    ]
    return pd.DataFrame({"included": [not reason for reason in reasons], "reason": reasons})


def _reason(error: float, chance: float, se: float, z: float, max_error: float) -> str:
    metric, bar = 1 - error, chance + z * se
    found = []
    if metric <= bar:
        found.append(f"metric {metric:.4g} is not above chance {chance:.4g} + {z:g} x se {se:.4g}")
    if error > max_error:
        found.append(f"error {error:.4g} is above {max_error:g}")
    return "; ".join(found)
