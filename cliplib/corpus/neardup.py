"""Near-duplicates: a small feature of the drawing, compared by cosine, in exact arithmetic.

The feature is the ink (distance from white) cropped to its box and resampled to 16x16 with the
aspect kept. Its steps use only integers and binary fractions that float32 holds exactly, and it is
rounded to int8, so that a dot product (below 2^24) is exact in any order of summation: the same
icons are near-duplicates on every machine.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

INK = 32  # of 255: fainter is no ink
SIDE = 16
BLOCK = 512  # rows of a similarity block: 512 x 23k float32 is 47 MB

Features = npt.NDArray[np.int8]  # (n, 256)


def ink(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Distance from white in the farthest channel: (n, 32, 32, 3) -> (n, 32, 32)."""
    return 255 - pixels.min(axis=-1)


def features(pixels: npt.NDArray[np.uint8]) -> Features:
    """The near-duplicate feature of pictures on white: (n, 32, 32, 3) -> (n, 256) int8.

    A blank picture has the zero feature, whose cosine with anything is 0.
    """
    inked = ink(pixels)
    marked: npt.NDArray[np.bool_] = np.greater(inked, INK)
    low_y, high_y = _extent(marked.max(axis=2))
    low_x, high_x = _extent(marked.max(axis=1))
    side = np.maximum(high_y - low_y, high_x - low_x)
    rows = _sampler((low_y + high_y) / 2, side, inked.shape[1])
    columns = _sampler((low_x + high_x) / 2, side, inked.shape[2])
    small = rows @ inked.astype(np.float32) @ columns.transpose(0, 2, 1)
    flat = small.reshape(len(small), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    peak = np.abs(flat).max(axis=1, keepdims=True)
    return np.rint(127 * flat / np.where(peak > 0, peak, 1)).astype(np.int8)


def _extent(marked: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], ...]:
    """First marked position and one past the last, by row; the whole width if none is marked."""
    size = marked.shape[1]
    first = marked.argmax(axis=1).astype(float)
    last = size - marked[:, ::-1].argmax(axis=1).astype(float)
    none = ~marked.any(axis=1)
    return np.where(none, 0.0, first), np.where(none, size, last)


def _sampler(
    centre: npt.NDArray[np.float64], side: npt.NDArray[np.float64], size: int
) -> npt.NDArray[np.float32]:
    """Weights of linear interpolation at 16 points across `side` around `centre`: (n, 16, size).

    Points outside the picture weigh nothing there: beyond its edge is white.
    """
    steps = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    points = centre[:, None] + steps * side[:, None] - 0.5  # in pixel centres
    distance = np.abs(points[:, :, None] - np.arange(size))
    return np.maximum(0, 1 - distance).astype(np.float32)


def unit(found: Features) -> npt.NDArray[np.float32]:
    """One over the length of each feature (0 for a zero feature)."""
    squares = (found.astype(np.int64) ** 2).sum(axis=1)
    return np.where(squares > 0, 1 / np.sqrt(np.maximum(squares, 1)), 0).astype(np.float32)


def cosine_blocks(
    many: Features,
    few: Features,
    visit: Callable[[slice, npt.NDArray[np.float32]], None],
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Call `visit(rows, cosines)` for every block of rows of `many` against all of `few`.

    `cosines` is (rows, len(few)) and may be overwritten by the visitor.
    """
    right = np.ascontiguousarray(few.T.astype(np.float32))  # (256, few)
    right_unit = unit(few)
    left_unit = unit(many)
    for start in range(0, len(many), BLOCK):
        rows = slice(start, min(start + BLOCK, len(many)))
        block = many[rows].astype(np.float32) @ right
        block *= right_unit
        block *= left_unit[rows, None]
        visit(rows, block)
        progress(rows.stop - rows.start)


def decontaminate(
    train: Features,
    test: Features,
    threshold: float,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Which training pictures are too near to a test picture, and how near the others come.

    Returns `near` (len(train),), true where the cosine with any test picture exceeds `threshold`,
    and for every test picture its largest cosine with the training pictures that remain.
    """
    near = np.zeros(len(train), bool)
    left = np.zeros(len(test), np.float32)

    def visit(rows: slice, block: npt.NDArray[np.float32]) -> None:
        near[rows] = block.max(axis=1) > threshold
        block[near[rows]] = 0
        np.maximum(left, block.max(axis=0), out=left)

    if len(train) and len(test):
        cosine_blocks(train, test, visit, progress)
    return near, left


def nearest(many: Features, few: Features) -> npt.NDArray[np.float32]:
    """For every picture of `few`, its largest cosine with a picture of `many` (0 if none is)."""
    found = np.zeros(len(few), np.float32)

    def visit(_: slice, block: npt.NDArray[np.float32]) -> None:
        np.maximum(found, block.max(axis=0), out=found)

    if len(many) and len(few):
        cosine_blocks(many, few, visit)
    return found


def near_pairs(
    many: Features,
    few: Features,
    threshold: float,
    progress: Callable[[int], None] = lambda _: None,
) -> npt.NDArray[np.int64]:
    """All index pairs (of many, of few) with a cosine above `threshold`: (pairs, 2)."""
    found: list[npt.NDArray[np.int64]] = []

    def visit(rows: slice, block: npt.NDArray[np.float32]) -> None:
        pairs = np.argwhere(block > threshold)
        pairs[:, 0] += rows.start
        found.append(pairs)

    if len(many) and len(few):
        cosine_blocks(many, few, visit, progress)
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)
