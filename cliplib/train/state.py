"""A model and its AdamW as flat named tensors, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from cliplib import InputError

ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")
UNTOUCHED = "untouched"  # marks a parameter that the optimiser has no state for yet
SHOWN = 4  # tensors named in an error


def pack(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that training has changed in a model and its AdamW, as flat named tensors.

    ``model/NAME`` for each entry of the state dict; for each parameter that the optimiser holds,
    ``optimiser/NAME/step``, ``.../exp_avg`` and ``.../exp_avg_sq``, or ``.../untouched`` before its
    first gradient. The tensors are the live ones, not copies: save them before the next step.

    Raises:
        TypeError: the optimiser keeps another state than AdamW's, or a parameter that is not the model's.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for name, parameter in _optimised(model, optimiser):
        state = optimiser.state.get(parameter, {}) or {UNTOUCHED: torch.empty(0)}
        if set(state) not in ({UNTOUCHED}, set(ADAMW_STATE)):
            raise TypeError(f"{name}: optimiser keeps {', '.join(state)}, not AdamW's state")
        tensors |= {f"optimiser/{name}/{key}": value for key, value in state.items()}
    return tensors


def unpack(
    tensors: Mapping[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Put what :func:`pack` gave into a model and its AdamW, in place, bit for bit, by copying.

    Parameter groups (learning rates, decay) stay as the caller built them.

    Raises:
        InputError: tensors are missing, additional, or of another shape or dtype; nothing is changed.
    """
    _check_layout(tensors, _layout(tensors, model, optimiser))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(tensors[f"model/{name}"])
    state = {}  # by the parameter's number in the optimiser's groups
    for number, (name, parameter) in enumerate(_optimised(model, optimiser)):
        at = f"optimiser/{name}/"
        if at + UNTOUCHED not in tensors:
            state[number] = {key: _like(parameter, tensors[at + key]) for key in ADAMW_STATE}
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )


def _layout(
    tensors: Mapping[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Name -> shape and dtype of the tensors that this model and optimiser need."""
    layout = {f"model/{name}": (v.shape, v.dtype) for name, v in model.state_dict().items()}
    for name, p in _optimised(model, optimiser):
        at = f"optimiser/{name}/"
        if at + UNTOUCHED in tensors:
            layout[at + UNTOUCHED] = (torch.Size([0]), torch.float32)
        else:
            layout[at + "step"] = (torch.Size([]), torch.float32)
            layout |= {at + key: (p.shape, p.dtype) for key in ADAMW_STATE[1:]}
    return layout


def _check_layout(
    tensors: Mapping[str, Tensor], layout: Mapping[str, tuple[torch.Size, torch.dtype]]
) -> None:
    both = layout.keys() & tensors.keys()
    faults = {
        "lacks": [name for name in layout if name not in tensors],
        "has, but should not,": [name for name in tensors if name not in layout],
        "has another shape or dtype for": [
            name for name in layout
            if name in both and (tensors[name].shape, tensors[name].dtype) != layout[name]
        ],
    }  # fmt: skip
    told = [f"{what} {_few(names)}" for what, names in faults.items() if names]
    if told:
        raise InputError(
            f"checkpoint does not fit this model: it {'; it '.join(told)}; use another --out"
        )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A copy of a state tensor on the parameter's device, in the parameter's memory layout."""
    if value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _optimised(
    model: nn.Module, optimiser: torch.optim.Optimizer
) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) in the order of the optimiser's groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise TypeError("the optimiser holds a parameter that is not the model's")
            yield names[id(parameter)], parameter
