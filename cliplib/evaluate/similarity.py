"""Ranks among very many candidates, a tile of the similarity matrix at a time.

A million images against a million texts would be a matrix of four terabytes. Only a tile of it exists
at once, for each thread. The score of the truth is read from the same tiles that are counted, so that
equal candidates get equal scores to the last bit and a tie is seen as a tie.

Shapes: n queries, m candidates, E the embedding, r rows and c columns of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cliplib.evaluate.blocks import ALONE, Workers, blocks_of, rows_in_blocks

ROWS, COLUMNS = 512, 4096  # of a tile: 8 MiB of scores
#: A smaller exponent adds nothing to a sum, and would make subnormal floats, which are slow.
LEAST = -80.0


@dataclass(frozen=True)
class Truth:
    """Which candidates are right for each query: from ``first[i]`` up to, not with, ``last[i]``."""

    first: np.ndarray
    last: np.ndarray


def ranks_among(
    queries: np.ndarray,
    candidates: np.ndarray,
    truth: Truth,
    scale: float = 1.0,
    device: torch.device | str = "cpu",
    workers: Workers = ALONE,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the best right candidate of each query, and the InfoNCE of the query.

    Right candidates do not compete with each other, as in the usual Recall@k; a tie with a wrong one
    counts against the model.

    Args:
        queries: (n, E) unit vectors.
        candidates: (m, E) unit vectors.
        truth: the right ones.
        scale: the temperature of the InfoNCE.
        device: where the products are made.
        workers: the processes, and where progress is told.

    Returns:
        (n,) int32, 1 = best, and (n,) float32.
    """
    options = torch.from_numpy(candidates).to(device)
    first, last = (torch.from_numpy(ends).to(device) for ends in (truth.first, truth.last))

    def work(rows: np.ndarray) -> np.ndarray:
        at = torch.from_numpy(rows).to(device)
        asked = torch.from_numpy(queries[rows]).to(device)
        with torch.inference_mode():
            return _ranked(asked, options, first[at, None], last[at, None], scale).cpu().numpy()

    blocks = blocks_of(len(queries), ROWS)
    found = rows_in_blocks(blocks, work, workers, "ranks")
    return found[:, 0].astype(np.int32), found[:, 1].astype(np.float32)


def _ranked(
    queries: Tensor, candidates: Tensor, first: Tensor, last: Tensor, scale: float
) -> Tensor:
    """(r, 2): rank and InfoNCE of each query, over all tiles of candidates."""
    tiles = range(0, len(candidates), COLUMNS)
    own = queries.new_full((len(queries), 1), -torch.inf)
    for at in tiles:
        inside = _inside(at, candidates, first, last)
        if inside.any():
            scores = queries @ candidates[at : at + COLUMNS].T  # (r, c)
            own = torch.maximum(own, scores.masked_fill(~inside, -torch.inf).amax(1, keepdim=True))
    better = queries.new_zeros(len(queries), dtype=torch.int64)
    total = queries.new_full((len(queries),), -torch.inf, dtype=torch.float64)
    for at in tiles:
        scores = queries @ candidates[at : at + COLUMNS].T
        wrong = ~_inside(at, candidates, first, last)
        better += ((scores >= own) & wrong).sum(1)
        total = torch.logaddexp(total, _log_sum(scores, scale))
    loss = total - scale * own[:, 0].double()
    return torch.stack([(better + 1).double(), loss], 1)


def _log_sum(scores: Tensor, scale: float) -> Tensor:
    """(r,) float64: log of the sum of exp(scale x scores) over a tile; uses up the scores."""
    most = scores.amax(1, keepdim=True)
    terms = scores.sub_(most).mul_(scale).clamp_(min=LEAST).exp_()
    return terms.sum(1, dtype=torch.float64).log() + scale * most[:, 0].double()


def _inside(at: int, candidates: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """(r, c) bool: which columns of the tile from ``at`` on are right candidates."""
    columns = torch.arange(at, min(at + COLUMNS, len(candidates)), device=candidates.device)
    return (columns >= first) & (columns < last)
