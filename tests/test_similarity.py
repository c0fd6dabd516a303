"""Retrieval: tiles equal the whole matrix, several captions, and memory that does not grow with it."""

import subprocess
import sys

import numpy as np
import pytest
from evaluate_things import retrieval, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from cliplib.evaluate import similarity
from cliplib.evaluate.metrics import task_rows
from cliplib.evaluate.retrieval import retrieve
from cliplib.evaluate.similarity import Truth, ranks_among


def units(n, width, seed):
    x = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute_force(queries, candidates, first, last, scale):
    ranks, losses = [], []
    for query, a, b in zip(queries, first, last):
        scores = candidates @ query
        own = scores[a:b].max()
        wrong = np.delete(scores, np.arange(a, b))
        ranks.append(1 + (wrong >= own).sum())
        losses.append(np.log(np.exp(scale * scores.astype(float)).sum()) - scale * own)
    return ranks, losses


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 10_000))
def test_tiles_equal_the_whole_matrix(n, most, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most + 1, n)
    ends = np.cumsum(counts)
    queries, candidates = units(n, 6, seed), units(int(ends[-1]), 6, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "ROWS", 7)
        patch.setattr(similarity, "COLUMNS", 5)
        ranks, losses = ranks_among(queries, candidates, Truth(ends - counts, ends), 3.0)
    expected, loss = brute_force(queries, candidates, ends - counts, ends, 3.0)
    assert ranks.tolist() == expected and np.allclose(losses, loss, atol=1e-5)


def test_equal_candidates_are_ties_and_count_against_the_model():
    same = np.tile(units(1, 8, 0), (9000, 1))  # more than one tile
    ranks, _ = ranks_among(same[:3], same, Truth(np.arange(3), np.arange(3) + 1))
    assert ranks.tolist() == [9000] * 3


def test_an_image_is_found_by_any_of_its_captions(tmp_path):
    task = retrieval(30)
    found = retrieve(small_model(tmp_path / "model"), task)
    there, back = found["pool-i2t"], found["pool-t2i"]
    texts = sum(len(captions) for captions in task.captions)
    assert len(there.rank) == 30 and there.candidates == texts
    assert len(back.rank) == texts and back.candidates == 30
    assert there.right.tolist() == [len(captions) for captions in task.captions]
    assert back.truth.tolist() == [i for i, c in enumerate(task.captions) for _ in c]
    assert back.cluster.tolist() == back.truth.tolist()  # captions of one image are one draw


def test_chance_of_recall_knows_how_many_captions_are_right(tmp_path):
    found = retrieve(small_model(tmp_path / "model"), retrieval(30))["pool-i2t"]
    row = next(row for row in task_rows("t", found) if row["metric"] == "recall_at_5")
    rng = np.random.default_rng(0)
    hits = [
        (rng.permutation(found.candidates)[:right] < 5).any()
        for right in np.repeat(found.right, 300)
    ]
    assert row["chance"] == pytest.approx(np.mean(hits), abs=0.02)


MEMORY = """
import numpy as np
from cliplib.evaluate.blocks import Workers
from cliplib.evaluate.similarity import Truth, ranks_among
from cliplib.pace import peak_mb
n, m = 8_000, 130_000
x = np.random.default_rng(0).normal(size=(m, 16)).astype(np.float32)
x /= np.linalg.norm(x, axis=1, keepdims=True)
before = peak_mb()
ranks_among(x[:n], x, Truth(np.arange(n), np.arange(n) + 1), workers=Workers(say=lambda line: None))
print(peak_mb() - before)
"""


def test_memory_is_that_of_a_tile_not_of_the_matrix():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 1 < float(done.stdout) < 500  # MiB; the matrix alone has 4,000


@pytest.mark.parametrize("cosine", [-0.9, 0.0, 0.9])
def test_the_loss_is_exact_at_any_temperature(cosine):
    """Where all similarities are small, or the truth is far below the best, nothing underflows."""
    query = np.array([[1, 0]], np.float32)
    others = np.array([[c, np.sqrt(1 - c * c)] for c in (cosine, cosine - 0.05)], np.float32)
    for first in (0, 1):
        truth = Truth(np.array([first]), np.array([first + 1]))
        _, loss = ranks_among(query, others, truth, scale=100.0)
        scores = 100.0 * others[:, 0].astype(float)
        expected = np.logaddexp.reduce(scores) - scores[first]
        assert loss[0] == pytest.approx(expected, abs=1e-4)
