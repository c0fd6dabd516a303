"""A file of weights: found in a folder, read without running what it holds, identified by content."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliplib import InputError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # in the order of preference
STEMS = ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # a training checkpoint's own
PREFIXES = ("_orig_mod.", "module.")  # compiled; wrapped for several processes
OPENAI_KEYS = frozenset({"input_resolution", "context_length", "vocab_size"})
CHUNK = 1 << 22  # bytes


@dataclass(frozen=True)
class Weights:
    """What a file holds.

    Attributes:
        path: the file.
        state: parameter name -> tensor, still in the file where it can be mapped into memory.
        openai: whether OpenAI wrote it: those weights were trained with QuickGELU.
    """

    path: Path
    state: dict[str, Tensor]
    openai: bool


def find(place: Path) -> Path:
    """The file itself, or the one file of weights in a folder.

    Raises:
        InputError: no such file or folder, a folder with none, or with several and none preferred.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise InputError(
            f"{place}: no such file; --weights takes a file of weights, or a folder that holds one"
        )
    files = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES)
    named = [place / (stem + suffix) for stem in STEMS for suffix in SUFFIXES]
    if chosen := next((path for path in named if path in files), None):
        return chosen
    if len(files) != 1:
        what = ", ".join(path.name for path in files[:4]) or f"none of {', '.join(SUFFIXES)}"
        raise InputError(
            f"{place}: expected one file of weights, found {what}; pass --weights FILE"
        )
    return files[0]


def content_hash(path: Path) -> str:
    """``records.digest`` of the file's content, read in pieces: 16 hex digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            sha.update(piece)
    sha.update(b"\0")  # digest ends every part so
    return sha.hexdigest()[:16]


def state_hash(state: Mapping[str, Tensor]) -> str:
    """Hash of names and values of a state dict that is in no file: 16 hex digits."""
    sha = hashlib.sha256()
    for name, value in state.items():
        sha.update(name.encode() + b"\0")
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


# ------------------------------------------------------------------------------------------ reading


def read(path: Path) -> Weights:
    """Read a state dict: plain, in a training checkpoint, or in OpenAI's archive.

    Names lose the prefixes that wrappers add. Nothing the file brings is executed.

    Raises:
        InputError: not a file of weights, damaged, or holding Python objects beside them.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: {path.suffix or 'a file without suffix'} is not read; weights are "
            f"{', '.join(SUFFIXES)}"
        )
    _refuse_pointer(path)
    scripted = False
    if path.suffix == ".safetensors":
        found: Any = _read_safetensors(path)
    elif scripted := _is_torchscript(path):
        found = _read_torchscript(path)
    else:
        found = _read_torch(path)
    state, sizes = _state_dict(path, found)
    return Weights(path, state, openai=scripted or bool(sizes))


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path}: a Git LFS pointer, not the weights; fetch them with: git lfs pull"
        )
    if not start:
        raise InputError(f"{path}: the file is empty; fetch it again")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="`torch.jit.load` is deprecated"
            )  # OpenAI's form
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except (RuntimeError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _read_torch(path: Path) -> Any:
    import torch

    whole = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # refused below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=whole)
    except pickle.UnpicklingError as error:
        if not whole:
            raise _unreadable(path, error) from None
        raise InputError(
            f"{path}: holds Python objects that are not weights, and running them would be unsafe; "
            "save its state dict alone: torch.save(model.state_dict(), FILE)"
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return InputError(
        f"{path}: no readable file of weights, or cut short ({reason}); fetch it again"
    )


def _state_dict(path: Path, found: Any) -> tuple[dict[str, Tensor], frozenset[str]]:
    """The tensors by name, and which of OpenAI's sizes stood among them."""
    import torch

    if isinstance(found, Mapping):
        wrapper = next((key for key in WRAPPERS if isinstance(found.get(key), Mapping)), None)
        found = found[wrapper] if wrapper else found
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{path}: holds no state dict but {type(found).__name__}; give weights")
    sizes = OPENAI_KEYS & found.keys()
    state = {_bare(key): value for key, value in found.items() if key not in sizes}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{path}: not a state dict: {key!r} is of type {type(value).__name__}; save "
                "model.state_dict() alone"
            )
    return state, frozenset(sizes)


def _bare(key: str) -> str:
    for prefix in (*PREFIXES, PREFIXES[0]):  # either may be the outer one
        key = key.removeprefix(prefix)
    return key
