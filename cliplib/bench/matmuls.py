"""The matrix products of a training step, timed alone: what the step cannot be faster than.

All products of a forward and a backward pass over a batch of pairs, in their own shapes, layouts
and precision, each repeated on its own. Their time is what a step would take that did nothing else,
and with every operand where the processor wants it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cliplib.ladder import Rung, Tower, rung

ROUNDS = 5


@dataclass(frozen=True)
class Product:
    """``batch`` products of (rows, inner) by (inner, columns), with the two of its backward pass.

    ``whole`` is false where the left side needs no gradient, as pictures do not.
    """

    rows: int
    inner: int
    columns: int
    batch: int = 1
    whole: bool = True
    exact: bool = False  # in float32 whatever the model's precision

    @property
    def macs(self) -> int:
        """Multiply-accumulates, forward and backward."""
        one = self.batch * self.rows * self.inner * self.columns
        return one * (3 if self.whole else 2)


def main() -> int:
    """``python -m cliplib.bench.matmuls RUNG BATCH TEXT_TOKENS bf16|fp32``: JSON on stdout."""
    name, batch, text_tokens, precision = sys.argv[1:5]
    print(json.dumps(measure(rung(name), int(batch), float(text_tokens), precision)))
    return 0


def measure(r: Rung, batch_size: int, text_tokens: float, precision: str) -> dict[str, Any]:
    """Milliseconds of all products of a step and the rate they reach, in GMAC a second."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    found = products(r, batch_size, text_tokens)
    seconds = sum(n * seconds_of(product, dtype) for product, n in found.items())
    macs = sum(n * product.macs for product, n in found.items())
    return {"ms": 1000 * seconds, "gmac_per_s": macs / seconds / 1e9}


# ---------------------------------------------------------------------------------------- the shapes


def products(r: Rung, batch_size: int, text_tokens: float) -> Counter[Product]:
    """Every product of a step and how often it occurs, for a rung with a transformer on images.

    Args:
        r: the rung.
        batch_size: pairs in a batch.
        text_tokens: tokens of a caption that the text tower computes, a mean over the batch.
    """
    assert isinstance(r.vision, Tower)
    patches = (r.image_px // r.patch_px) ** 2
    found: Counter[Product] = Counter()
    found[Product(batch_size * patches, 3 * r.patch_px**2, r.vision.width, whole=False)] += 1
    found.update(_tower(r.vision, batch_size, patches + 1))
    found.update(_tower(r.text, batch_size, text_tokens))
    for tower in (r.vision, r.text):
        found[Product(batch_size, tower.width, r.embed_dim)] += 1
    found[Product(batch_size, r.embed_dim, batch_size, exact=True)] += 1
    return found


def _tower(tower: Tower, batch_size: int, tokens: float) -> Iterator[Product]:
    """A tower's products: four linear maps a block, and attention's two."""
    rows, length = round(batch_size * tokens), round(tokens)
    heads = batch_size * tower.heads
    head_width = tower.width // tower.heads
    for _ in range(tower.layers):
        yield Product(rows, tower.width, 3 * tower.width)
        yield Product(length, head_width, length, heads)
        yield Product(length, length, head_width, heads)
        yield Product(rows, tower.width, tower.width)
        yield Product(rows, tower.width, tower.mlp_width)
        yield Product(rows, tower.mlp_width, tower.width)


# ---------------------------------------------------------------------------------------- the clock


def seconds_of(product: Product, dtype: torch.dtype, least: float = 0.02) -> float:
    """Seconds that a product with its backward takes: the least of several repetitions."""
    works = list(_works(product, torch.float32 if product.exact else dtype))
    return sum(_best(work, least) for work in works)


def _works(product: Product, dtype: torch.dtype) -> Iterator[Callable[[], Tensor]]:
    """The forward product x w', and the backward's: dy w (to x) and dy' x (to w)."""
    stack = () if product.batch == 1 else (product.batch,)
    x = torch.randn(*stack, product.rows, product.inner).to(dtype)
    w = torch.randn(*stack, product.columns, product.inner).to(dtype)
    dy = torch.randn(*stack, product.rows, product.columns).to(dtype)
    yield lambda: x @ w.mT
    yield lambda: dy.mT @ x
    if product.whole:
        yield lambda: dy @ w


def _best(work: Callable[[], Tensor], least: float) -> float:
    for _ in range(3):
        work()
    begin = time.perf_counter()
    work()
    repeats = max(1, int(least / ROUNDS / max(time.perf_counter() - begin, 1e-7)))
    return min(_mean(work, repeats) for _ in range(ROUNDS))


def _mean(work: Callable[[], Tensor], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - begin) / repeats


if __name__ == "__main__":
    sys.exit(main())
