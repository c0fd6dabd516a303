"""The processes of a run: alone, or joined under torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class World:
    """The processes of a run: this one's rank, and how many there are."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> World:
        """Join the process group that torchrun describes in the environment; alone without torchrun."""
        size = int(os.environ.get("WORLD_SIZE", 1))
        if size == 1:
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(torch.distributed.get_rank(), size)

    def leave(self) -> None:
        """Leave the process group, if there is one."""
        if self.size > 1:
            torch.distributed.destroy_process_group()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes, the same on each."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value / self.size

    def share(self, batch: np.ndarray) -> np.ndarray:
        """This process's part of a global batch: a contiguous slice of equal length."""
        part = len(batch) // self.size
        return batch[self.rank * part : (self.rank + 1) * part]
