"""The written-out towers: the numbers of open_clip's own modules, whatever the threads and packing."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss

from cliplib import model
from cliplib.fast.macs import executed_gmacs
from cliplib.fast.packing import pack, place
from cliplib.fast.step import FastStep
from cliplib.fast.tower import Rows
from cliplib.ladder import gmacs, rung
from cliplib.train.optimiser import adamw, adamw_of

RUNGS = ("XXS", "S", "XXS-4")
B = 12


def pairs(r, seed=0, vocab=None):
    """Random pictures and captions of a rung: images, tokens, lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, r.context_length + 1, B)
    tokens = np.zeros((B, r.context_length), np.int64)
    end = 2 if vocab is None else vocab - 1
    for row, length in zip(tokens, lengths):
        row[0], row[length - 1] = 1, end
        row[1 : length - 1] = rng.integers(3, 200, length - 2)
    images = rng.integers(0, 256, (B, r.image_px, r.image_px, 3), dtype=np.uint8)
    return images, tokens, lengths


def by_autograd(clip, r, images, tokens):
    """Loss and gradients by open_clip's own forward pass and loss."""
    x = model.normalise(images, *model.statistics(r))
    image, text, scale = clip(x, torch.from_numpy(tokens))
    loss = ClipLoss()(image, text, scale)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in clip.named_parameters()}


def off(ours, theirs):
    """The largest difference, relative to the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def gradients(fast):
    weights = fast.weights
    return {
        name: weights.gradient[start:end].view(weights.shapes[name])
        for name, (start, end) in weights.spans.items()
    }


def test_long_captions_that_lie_one_a_row_keep_their_order():
    """As many rows as captions, yet in another order: the longest was placed first."""
    r = rung("XXS")
    images, tokens, lengths = (array[:4] for array in pairs(r))
    lengths = np.array([10, 16, 12, 14])
    tokens[:] = 0
    for row, length in zip(tokens, lengths):
        row[:length] = [1, *range(5, 3 + length), 2]
    loss, theirs = by_autograd(model.create(r, 0, "fused"), r, images, tokens)
    fast = FastStep(model.create(r, 0), r, None, torch.float32, 1)
    assert fast.gradient(images, tokens, lengths, ClipLoss()).item() == pytest.approx(
        loss, abs=1e-6
    )
    for name, gradient in gradients(fast).items():
        assert off(gradient, theirs[name]) < 2e-5, name


@pytest.mark.parametrize("name", RUNGS)
def test_loss_and_gradients_are_those_of_open_clip(name):
    r = rung(name)
    images, tokens, lengths = pairs(r)
    loss, theirs = by_autograd(model.create(r, 0, "fused"), r, images, tokens)
    fast = FastStep(model.create(r, 0), r, None, torch.float32, 1)
    ours = fast.gradient(images, tokens, lengths, ClipLoss())
    assert ours.item() == pytest.approx(loss, abs=1e-6)
    assert {*gradients(fast)} == {*theirs}
    for name, gradient in gradients(fast).items():
        assert off(gradient, theirs[name]) < 2e-5, name


def test_clips_own_vocabulary_ends_at_its_highest_id():
    r = dataclasses.replace(rung("XXS"), vocab_size=49408)
    images, tokens, lengths = pairs(r, vocab=49408)
    loss, theirs = by_autograd(model.create(r, 0, "fused"), r, images, tokens)
    fast = FastStep(model.create(r, 0), r, np.unique(tokens), torch.float32, 1)
    assert fast.gradient(images, tokens, lengths, ClipLoss()).item() == pytest.approx(
        loss, abs=1e-6
    )
    used = torch.from_numpy(np.unique(tokens))
    ours = gradients(fast)["token_embedding.weight"]
    assert off(ours, theirs["token_embedding.weight"][used]) < 5e-6


def test_bf16_is_as_near_to_fp32_as_autocast_is():
    r = rung("XS")
    images, tokens, lengths = pairs(r)
    _, exact = by_autograd(model.create(r, 0, "fused"), r, images, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        _, cast = by_autograd(model.create(r, 0, "plain"), r, images, tokens)
    fast = FastStep(model.create(r, 0), r, None, torch.bfloat16, 1)
    fast.gradient(images, tokens, lengths, ClipLoss())
    ours = gradients(fast)
    distance = {
        how: sum((g[name] - exact[name]).norm() ** 2 for name in exact) ** 0.5
        for how, g in (("ours", ours), ("autocast", cast))
    }
    assert distance["ours"] < 1.1 * distance["autocast"]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_nothing(precision):
    r = rung("S")
    images, tokens, lengths = pairs(r)
    found = []
    for threads in (1, 2):
        fast = FastStep(model.create(r, 0), r, None, precision, threads)
        fast.gradient(images, tokens, lengths, ClipLoss())
        found.append(fast.weights.gradient.clone())
        norm = fast.clip_gradient(0.1)
        assert norm > 0.1 and fast.weights.gradient.norm() == pytest.approx(0.1, rel=1e-4)
    assert torch.equal(*found)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_reading_gives_the_vectors_of_the_forward_pass(precision):
    r = rung("S")
    images, tokens, lengths = pairs(r)
    fast = FastStep(model.create(r, 0), r, None, precision, threads=1)
    fast.weights.cast()
    with torch.no_grad():
        assert torch.equal(fast.images[0].read(images), fast.images[0].forward(images)[0])
        n, L = tokens.shape
        places = torch.arange(n) * L + torch.from_numpy(lengths) - 1
        later = torch.full((L, L), -torch.inf).triu_(1)
        rows = Rows(n, L, places, mask=later[None], picked_mask=later[lengths - 1])
        read = fast.texts[0].read(torch.from_numpy(tokens), rows)
        apart = off(read, fast.texts[0].forward(tokens, lengths)[0])  # the same texts, packed
    assert apart < (1e-5 if precision == torch.float32 else 2e-2)


def test_training_only_the_tokens_that_occur_equals_training_them_all():
    """Rows without a gradient are only decayed: the product of the decays is all they need."""
    r, lr, decay = rung("XXS"), 3e-3, 0.1
    images, tokens, lengths = pairs(r)
    whole = model.create(r, 0)
    optimiser = adamw(whole, lr, decay)
    fast = FastStep(model.create(r, 0), r, np.unique(tokens), torch.float32, 1)
    weights = fast.weights
    compact = adamw_of([weights.decayed], [weights.plain], lr, decay)
    for _ in range(6):
        optimiser.zero_grad()
        by_autograd(whole, r, images, tokens)
        optimiser.step()
        fast.gradient(images, tokens, lengths, ClipLoss())
        compact.step()
    weights.export((1 - lr * decay) ** 6)
    ours, theirs = weights.clip[0].state_dict(), whole.state_dict()
    assert len(weights.used) < r.vocab_size / 10
    unused = np.setdiff1d(np.arange(r.vocab_size), tokens)
    rows = "token_embedding.weight"
    assert torch.allclose(ours[rows][unused], theirs[rows][unused], rtol=1e-5, atol=1e-8)
    for name in theirs:  # AdamW's first steps are signs: a gradient near 0 may go either way
        assert (ours[name] - theirs[name]).abs().mean() < 2e-5, name


# ------------------------------------------------------------------------------------------ packing


@given(st.lists(st.integers(1, 16), min_size=1, max_size=60))
@settings(deadline=None)
def test_captions_are_packed_without_overlap_and_tightly(lengths):
    lengths = np.array(lengths)
    row, column, n = place(lengths, 16)
    taken = np.zeros((n, 16), int)
    for r, c, length in zip(row, column, lengths):
        taken[r, c : c + length] += 1
        assert c + length <= 16
    assert taken.max() == 1 and taken.sum() == lengths.sum() and (taken.sum(1) > 0).all()
    assert n <= 2 * lengths.sum() / 16 + 1  # first fit leaves at most one row half empty


def test_a_token_sees_its_own_caption_up_to_itself():
    tokens = np.array([[1, 7, 2, 0, 0], [1, 2, 0, 0, 0]])
    packed = pack(tokens, np.array([3, 2]))
    assert packed.rows.n == 4 and packed.tokens.tolist() == [1, 7, 2, 1, 2] + 15 * [0]
    assert packed.positions.tolist()[:5] == [0, 1, 2, 0, 1]
    assert torch.isfinite(packed.rows.mask.logsumexp(-1)).all()  # no token sees nothing at all
    assert packed.rows.picked.tolist() == [2, 4] and packed.rows.row.tolist() == [0, 0]
    sees = (packed.rows.mask[0] == 0).int().tolist()
    assert sees == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_executed_macs_are_the_nominal_ones_less_what_is_left_out():
    """A tower whose tokens are all read off in the last block multiplies what the formula counts."""
    r = rung("S")
    n, L = 4, r.context_length
    first = torch.arange(n)
    images, texts = Rows(n, 17, first * 17), Rows(n, L, first * L, first)
    assert executed_gmacs(r, images, texts) < n * gmacs(r)
    every = [torch.arange(n * tokens) for tokens in (17, L)]
    whole = executed_gmacs(r, Rows(n, 17, every[0]), Rows(n, L, every[1]))
    read_off = n * (L - 1) * 5 * r.text.width / 1e9  # the last norm, for all tokens in the formula
    assert whole == pytest.approx(n * gmacs(r) - read_off, rel=1e-9)
