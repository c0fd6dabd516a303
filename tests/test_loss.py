"""InfoNCE at scale equals the plain full-batch loss: in chunks, over processes, accumulated."""

from contextlib import contextmanager

import pytest
import torch
from test_world import launch
from torch import nn
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from cliplib import InputError, model
from cliplib.bench import jobs_loss
from cliplib.ladder import rung
from cliplib.train.loss import cached_backward, default_chunk, info_nce
from cliplib.train.world import World

B, E = 24, 16


def features(n=B, size=E, dtype=torch.float32, scale=14.0, seed=0):
    """Leaves: unit vectors of images and of their somewhat similar texts, and a scale."""
    draw = torch.Generator().manual_seed(seed)
    image = normalize(torch.randn(n, size, generator=draw, dtype=torch.float64), dim=1)
    noise = torch.randn(n, size, generator=draw, dtype=torch.float64) / size**0.5
    text = normalize(image + noise, dim=1)
    leaves = [image.to(dtype), text.to(dtype), torch.tensor(scale, dtype=dtype)]
    return [leaf.requires_grad_() for leaf in leaves]


def open_clips(leaves, **options):
    """Loss and gradients of the reference implementation."""
    from open_clip.loss import ClipLoss

    loss = ClipLoss(**options)(*leaves)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def ours(leaves, **options):
    loss = info_nce(*leaves, **options)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def assert_equal(got, expected, tolerance=1e-6):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def assert_same_step(got, expected):
    """Loss and parameters' gradients agree to 1e-6 of their length: what a reordered sum may change.

    Each tensor alone must agree nearly so well, that no small one hides behind the large.
    """
    torch.testing.assert_close(got[0], expected[0], rtol=1e-6, atol=0)
    for one, other in zip(got[1:], expected[1:], strict=True):
        assert (one - other).abs().max() <= 5e-6 * other.abs().max()
    one, other = (torch.cat([grad.flatten() for grad in way[1:]]) for way in (got, expected))
    assert (one - other).norm() <= 1e-6 * other.norm()


# ------------------------------------------------------------------------------------------ one process


@pytest.mark.parametrize("chunk", [None, 1, 5, B, 10 * B])
def test_value_and_gradients_are_open_clips(chunk):
    leaves = features()
    assert_equal(ours(leaves, chunk=chunk), open_clips(leaves))


@pytest.mark.parametrize("chunk", [None, 2, 3])
def test_gradients_are_those_of_finite_differences(chunk):
    leaves = features(7, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda *x: info_nce(*x, chunk=chunk), leaves)


@pytest.mark.parametrize("chunk", [None, 4])
def test_stable_at_the_largest_scale_for_right_and_wrong_pairs(chunk):
    for order in (range(B), range(B - 1, -1, -1)):  # loss near 0; loss near 100
        image, _, scale = features(scale=100.0)
        leaves = [image, image.detach()[list(order)].clone().requires_grad_(), scale]
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        got, expected = ours(leaves, chunk=chunk), open_clips(exact)
        assert all(torch.isfinite(x).all() for x in got)
        torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-6, atol=1e-5)
        assert_equal([x.double() for x in got[1:3]], expected[1:3], 3e-5)


def test_a_chunked_loss_never_holds_more_than_a_block_of_similarities():
    n, chunk = 256, 8
    leaves = features(n, 4)
    with Largest() as whole:
        ours(leaves, chunk=n)
    with Largest() as chunked:
        ours(leaves, chunk=chunk)
    assert whole.elements == n * n
    assert chunked.elements == chunk * n


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else [result]
        sizes = [tensor.numel() for tensor in made if isinstance(tensor, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_the_default_chunk_bounds_the_block():
    assert default_chunk(128, 128) is None
    assert default_chunk(4096, 4096) is None
    assert default_chunk(64, 2**18) is None  # 64 MiB
    for b, whole in ((4097, 4097), (65_536, 65_536), (1024, 2**20), (65, 2**40)):
        chunk = default_chunk(b, whole)
        assert 1 <= chunk < b
        assert chunk == 1 or 4 * chunk * whole <= 16 * 2**20


def test_half_precision_autocast_does_not_reach_the_loss():
    leaves = features()
    expected = ours(leaves)
    with torch.autocast("cpu", torch.bfloat16):
        got = ours(leaves, chunk=5)
    assert_equal(got, expected)


def test_bad_input_is_refused_in_one_line():
    image, text, scale = features()
    with pytest.raises(InputError, match=r"\(24, 16\) and text features \(23, 16\)"):
        info_nce(image, text[1:], scale)
    with pytest.raises(InputError, match="chunk must be at least 1"):
        info_nce(image, text, scale, chunk=0)
    with pytest.raises(InputError, match="at least one micro-batch"):
        cached_backward(model.Towers, [])


# --------------------------------------------------------------------------------------- accumulation


def pictures(n=B, seed=3):
    """Images of the smallest rung, and captions of different lengths, padded."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 4096, (n, 16), generator=draw)
    tokens[:, 0] = 1
    ends = torch.randint(3, 16, (n, 1), generator=draw)
    tokens[torch.arange(16).expand(n, 16) > ends] = 0
    tokens.scatter_(1, ends, 2)
    return torch.randn(n, 3, 32, 32, generator=draw), tokens


def tiny():
    return model.Towers(model.create(rung("XXS"), 0))


def pieces(batch, lengths):
    """Micro-batches, each of its own text length."""
    images, tokens = (part.split(lengths) for part in batch)
    return [(i, t[:, : int((t != 0).sum(1).max())]) for i, t in zip(images, tokens)]


def gradients(towers):
    return [p.grad for p in towers.parameters() if p.grad is not None]


def together(towers, micro_batches):
    """Full-batch loss with the graphs of all micro-batches in memory: what the cache stands for."""
    image, text, scale = zip(*(towers(*micro) for micro in micro_batches))
    return info_nce(torch.cat(image), torch.cat(text), scale[-1])


@pytest.mark.parametrize("lengths", [[B], [12, 12], [10, 10, 4]])
def test_accumulation_equals_none(lengths):
    once, several = tiny(), tiny()
    expected = together(once, [pictures()])
    expected.backward()
    loss = cached_backward(several, pieces(pictures(), lengths), chunk=7)
    assert not loss.requires_grad
    assert len(gradients(several)) == len(list(several.parameters()))
    assert_same_step([loss, *gradients(several)], [expected.detach(), *gradients(once)])


def test_accumulation_adds_to_the_gradients_there_are():
    towers = tiny()
    micro_batches = pieces(pictures(), [12, 12])
    loss = cached_backward(towers, micro_batches)
    first = [grad.clone() for grad in gradients(towers)]
    again = cached_backward(towers, micro_batches)
    assert_same_step([again, *gradients(towers)], [loss, *(2 * grad for grad in first)])


def test_a_frozen_image_tower_gets_no_gradient_and_changes_no_other():
    once, several = tiny(), tiny()
    for towers in (once, several):
        towers.clip.visual.requires_grad_(False)
    expected = together(once, [pictures()])
    expected.backward()
    loss = cached_backward(several, pieces(pictures(), [12, 12]))
    assert all(p.grad is None for p in several.clip.visual.parameters())
    assert_same_step([loss, *gradients(several)], [expected.detach(), *gradients(once)])


def test_accumulation_under_autocast_gives_every_parameter_its_gradient():
    once, several = tiny(), tiny()
    micro_batches = pieces(pictures(), [8, 8, 8])
    with torch.autocast("cpu", torch.bfloat16):
        expected = together(once, micro_batches)
        loss = cached_backward(several, micro_batches)
    expected.backward()
    assert_equal([loss], [expected.detach()])
    assert len(gradients(several)) == len(list(several.parameters()))
    for got, other in zip(gradients(several), gradients(once), strict=True):
        assert got.dtype == torch.float32
        assert (got - other).abs().max() <= 0.02 * other.abs().max() + 1e-6


class Stochastic(nn.Module):
    """Towers whose features hang on random draws; remembers where gradients would be exchanged."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.image, self.text, self.drop = nn.Linear(6, E), nn.Linear(6, E), nn.Dropout(0.5)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.quiet, self.passes = False, []

    def forward(self, images, tokens):
        self.passes.append((torch.is_grad_enabled(), self.quiet))
        vectors = self.drop(self.image(images)), self.drop(self.text(tokens))
        return *(normalize(v, dim=1) for v in vectors), self.logit_scale.exp()

    @contextmanager
    def no_sync(self):
        self.quiet = True
        yield
        self.quiet = False


def test_both_passes_of_a_stochastic_model_draw_the_same_numbers():
    draw = torch.Generator().manual_seed(0)
    batch = [torch.randn(B, 6, generator=draw) for _ in range(2)]
    micro_batches = list(zip(*(part.split(8) for part in batch)))
    once, several = Stochastic(), Stochastic()
    torch.manual_seed(5)
    expected = together(once, micro_batches)
    expected.backward()
    after = torch.get_rng_state()
    torch.manual_seed(5)
    loss = cached_backward(several, micro_batches)
    assert_equal([loss, *gradients(several)], [expected.detach(), *gradients(once)])
    assert torch.equal(torch.get_rng_state(), after)


def test_gradients_are_exchanged_with_the_last_micro_batch_only():
    towers = Stochastic()
    cached_backward(towers, [(torch.ones(8, 6), torch.ones(8, 6))] * 3)
    assert towers.passes == [
        *[(False, True)] * 3,
        (True, True), (True, True), (True, False),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------- many processes


@pytest.fixture(scope="module", params=[2, 4])
def processes(request, tmp_path_factory):
    """What each of 2 or 4 gloo processes got for its part of one global batch."""
    size, folder = request.param, tmp_path_factory.mktemp("world")
    assert launch(one_of_many, range(size), size, folder) == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def one_of_many(rank, folder):
    world = World.join(timeout=60)
    image, text, scale = features()
    part = [world.share(x.detach()).clone().requires_grad_() for x in (image, text)]
    part.append(scale)
    answer = {f"chunk {chunk}": ours(part, world=world, chunk=chunk) for chunk in (B, 2)}
    peer = {"local_loss": True, "gather_with_grad": True}
    answer["open_clip"] = open_clips(part, rank=rank, world_size=world.size, **peer)
    mine = [world.share(x) for x in pictures()]
    for lengths in ([B // world.size], [B // world.size - 2, 2]):
        towers = nn.parallel.DistributedDataParallel(tiny())
        loss = cached_backward(towers, pieces(mine, lengths), world, chunk=5)
        answer[f"{len(lengths)} micro-batches"] = [loss, *gradients(towers)]
    torch.save(answer, folder / f"{rank}.pt")
    world.barrier()
    world.leave()


@pytest.mark.parametrize("way", [f"chunk {B}", "chunk 2"])
def test_many_processes_give_the_loss_and_gradients_of_one(processes, way):
    size = len(processes)
    loss, by_image, by_text, by_scale = ours(features())
    got = [process[way] for process in processes]
    for rank, part in enumerate(got):
        share = World(rank, size).share
        assert_equal(part[:1], [loss])
        assert_equal([x / size for x in part[1:3]], [share(by_image), share(by_text)])
    assert_equal([sum(part[3] for part in got) / size], [by_scale])


def test_many_processes_give_open_clips_local_loss_and_gradients(processes):
    theirs = [process["open_clip"] for process in processes]
    mean = sum(part[0] for part in theirs) / len(theirs)  # each has the loss of its own rows
    for process, peer in zip(processes, theirs, strict=True):
        assert_equal(process["chunk 2"][:3], [mean, *peer[1:3]])
    scales = [sum(p[3] for p in way) for way in ([x["chunk 2"] for x in processes], theirs)]
    assert_equal(scales[:1], scales[1:])


@pytest.mark.parametrize("way", ["1 micro-batches", "2 micro-batches"])
def test_many_processes_give_the_parameters_the_gradients_of_one(processes, way):
    towers = tiny()
    loss = cached_backward(towers, [pictures()])
    for process in processes:
        assert_same_step(process[way], [loss, *gradients(towers)])


# ------------------------------------------------------------------------------------------- the bench


def test_the_memory_job_measures_both_ways_and_compares_their_losses():
    memory, seconds = jobs_loss.loss_memory(batches=(1024,), width=8)
    assert (memory.unit, seconds.unit) == ("MB", "CPU s")
    for row in (memory, seconds):
        assert row.ratio == pytest.approx(row.peer / row.ours) and "1,024 pairs" in row.case
    matrix = 4 * 1024**2 / 1e6
    assert matrix < memory.ours < memory.peer < 20 * matrix


def test_the_memory_job_skips_a_peer_that_does_not_fit_and_refuses_unequal_losses(monkeypatch):
    losses = {"ours": 2.0, "peer": 2.1}
    found = {way: {"bytes": 1e6, "seconds": 1.0, "loss": loss} for way, loss in losses.items()}
    monkeypatch.setattr(jobs_loss, "_measured", lambda way, batch, width: found[way])
    for row in jobs_loss.loss_memory(batches=(65_536,)):
        assert row.peer is None and row.ratio is None and "about 69 GB: not tried" in row.case
    with pytest.raises(ArithmeticError, match=r"losses 2\.0 and 2\.1 differ"):
        list(jobs_loss.loss_memory(batches=(1024,)))


def test_the_memory_job_says_why_a_measurement_failed(monkeypatch):
    monkeypatch.setattr(
        jobs_loss, "PROGRAM", "raise MemoryError('no room for ' + __import__('sys').argv[2])"
    )
    with pytest.raises(RuntimeError, match="ours with 64 pairs: MemoryError: no room for 64"):
        jobs_loss._measured("ours", 64, 8)
