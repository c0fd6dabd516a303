"""Captions packed several to a row, so that little padding is multiplied.

A row holds as many captions as fit; the mask lets a token see only its own caption, and of that only
what came before (the text tower of CLIP is causal). Same numbers as one padded caption a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cliplib.fast.tower import Rows

#: Rows are a multiple of it: the library of matrix products spends time and memory on every new shape.
ROWS = 4


@dataclass(frozen=True)
class Packed:
    """Captions in rows.

    Attributes:
        tokens: (n L,) token ids, 0 where a row has no token.
        positions: (n L,) place of each token in its caption.
        rows: how the towers see them; ``rows.picked`` are the ends of text, in the captions' order.
    """

    tokens: Tensor
    positions: Tensor
    rows: Rows


def place(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """First fit, longest first: the row and the first column of each caption, and how many rows.

    >>> place(np.array([3, 8, 5, 8]), 8)
    (array([2, 0, 2, 1]), array([5, 0, 0, 0]), 3)
    """
    rows, columns = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    # rows with room for a caption of that length: by room left, the row opened first comes first
    by_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    opened = 0
    for caption in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[caption])
        room = next((r for r in range(length, row_length + 1) if by_room[r]), None)
        if room is None:
            row, room, opened = opened, row_length, opened + 1
        else:
            row = by_room[room].pop(0)
        rows[caption], columns[caption] = row, row_length - room
        by_room[room - length].append(row)
    return rows, columns, opened


def pack(tokens: np.ndarray, lengths: np.ndarray) -> Packed:
    """Pack captions.

    Args:
        tokens: (k, context) token ids, padded.
        lengths: (k,) tokens of each caption, end of text included, at least 1.
    """
    L = tokens.shape[1]
    row, column, opened = place(lengths, L)
    n = -(-opened // ROWS) * ROWS
    own = np.arange(L) < lengths[:, None]  # (k, L): which are tokens of the caption
    caption, position = np.nonzero(own)
    at = row[caption] * L + column[caption] + position
    flat, positions = np.zeros(n * L, np.int64), np.zeros(n * L, np.int64)
    flat[at], positions[at] = tokens[own], position
    whose = np.full(n * L, -1, np.int64)  # a place without a token sees its likes: no empty softmax
    whose[at] = caption
    whose = whose.reshape(n, L)
    sees = (whose[:, :, None] == whose[:, None, :]) & np.tri(L, dtype=bool)
    mask = torch.zeros((n, L, L)).masked_fill_(torch.from_numpy(~sees), -torch.inf)
    picked = torch.from_numpy(row * L + column + lengths - 1)
    rows = Rows(n, L, picked, torch.from_numpy(row), mask, mask.view(n * L, L)[picked])
    return Packed(torch.from_numpy(flat), torch.from_numpy(positions), rows)
