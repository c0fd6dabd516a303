"""The laws by name."""

from collections.abc import Callable

from cliplib import InputError
from cliplib.laws.form import Law
from cliplib.laws.one_variable import broken, curved, power, saturating, shifted
from cliplib.laws.several_variables import (
    chinchilla,
    chinchilla_effective,
    nd_effective,
    nd_multiplicative,
)

LAWS: dict[str, Callable[..., Law]] = {
    "power": power,
    "curved": curved,
    "saturating": saturating,
    "shifted": shifted,
    "broken": broken,
    "chinchilla": chinchilla,
    "nd_multiplicative": nd_multiplicative,
    "nd_effective": nd_effective,
    "chinchilla_effective": chinchilla_effective,
}

__all__ = ["LAWS", "Law", "law"]


def law(name: str, **options: float | None) -> Law:
    """The law of that name; options go to its factory. InputError lists the known names.

    >>> law("saturating").formula
    'E = a + b * C^-d'
    """
    if name not in LAWS:
        raise InputError(f"unknown law '{name}'; known: {', '.join(sorted(LAWS))}")
    try:
        return LAWS[name](**options)
    except TypeError as error:
        raise InputError(f"law {name} does not take {', '.join(options)}") from error
