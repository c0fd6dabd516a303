"""Batches from shards: each sample once an epoch, and the same for any processes, workers, resumes."""

import io
import json
import os
import signal
import tarfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_files import write_shard

from cliplib import InputError
from cliplib.data import faults
from cliplib.data.lanes import Lane, Plan
from cliplib.data.stream import ShardFeed, ShardSource, merge_counts, merge_states

PX = 8


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (PX, PX, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def build(folder, sizes, caption=lambda number: f"thing {number}"):
    """Shards of so many samples; keys are running numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, size in enumerate(sizes):
        members = []
        for _ in range(size):
            about = {"captions": [caption(number), f"{caption(number)} again"]}
            members += [(f"{number}.png", png(number)), (f"{number}.txt", caption(number).encode())]
            members += [(f"{number}.json", json.dumps(about).encode())]
            number += 1
        write_shard(folder / f"{shard:03}.tar", members)
    return ShardSource((str(folder),), lanes=4, shuffle=20)


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """Eight shards of 40 samples."""
    return build(tmp_path_factory.mktemp("even") / "s", [40] * 8)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Seven shards of quite different sizes; every fifth sample has one of three captions."""
    sizes = [3, 70, 18, 44, 1, 90, 33]
    folder = tmp_path_factory.mktemp("uneven") / "s"
    return build(folder, sizes, lambda n: f"common {n % 3}" if n % 15 == 0 else f"thing {n}")


def together(size, work):
    """Run work(rank, gather) for all ranks at once, as processes with a collective would."""
    barrier, box, results, errors = threading.Barrier(size), {}, [None] * size, [None] * size

    def one(rank):
        def gather(value):
            box[rank] = value
            barrier.wait(30)
            answer = [box[other] for other in range(size)]
            barrier.wait(30)
            return answer

        try:
            results[rank] = work(rank, gather)
        except Exception as error:
            errors[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(errors):
        assert all(isinstance(error, InputError) for error in errors), errors
        assert len({str(error) for error in errors}) == 1, (
            "the processes stop with different errors"
        )
        raise errors[0]
    return results


def run(source, steps, batch=16, size=1, state=None):
    """Global batches as [(captions, pictures, keys, epochs)], the merged state, the merged counts."""

    def work(rank, gather):
        feed = ShardFeed(source, PX, batch, rank, size, gather, state)
        try:
            parts = [feed.next() for _ in range(steps)]
            return parts, json.loads(json.dumps(feed.state())), feed.counts()
        finally:
            feed.close()

    ranks = together(size, work)
    batches = [
        (
            [caption for parts, *_ in ranks for caption in parts[step].captions],
            np.concatenate([parts[step].images for parts, *_ in ranks]).tobytes(),
            [key for parts, *_ in ranks for key in parts[step].keys],
            np.concatenate([parts[step].epochs for parts, *_ in ranks]).tolist(),
        )
        for step in range(steps)
    ]
    for parts, *_ in ranks:
        assert all(part.images.shape == (batch // size, PX, PX, 3) for part in parts)
    slots = np.concatenate([parts[0].slots for parts, *_ in ranks]) if steps else np.arange(batch)
    assert slots.tolist() == list(range(batch))
    return batches, merge_states([s for _, s, _ in ranks]), merge_counts([c for *_, c in ranks])


# ------------------------------------------------------------------------------------------- samplers


def test_an_epoch_serves_each_sample_once_in_a_new_order(even):
    batches, _, counts = run(even, 60)
    first = [key for _, _, keys, _ in batches[:20] for key in keys]
    second = [key for _, _, keys, _ in batches[20:40] for key in keys]
    assert sorted(map(int, first)) == sorted(map(int, second)) == list(range(320))
    assert first != second and first != sorted(first)
    assert [set(epochs) for *_, epochs in batches[::20]] == [{0}, {1}, {2}]
    assert counts["seen"] == 960 and counts["epochs"] == 3 and counts["faults"]["kinds"] == {}


def test_uneven_shards_and_deferred_captions_lose_and_repeat_nothing(uneven):
    batches, state, counts = run(uneven, 120)
    served = Counter(
        (epoch, key) for _, _, keys, epochs in batches for key, epoch in zip(keys, epochs)
    )
    assert max(served.values()) == 1
    waiting = Counter(epoch_of(uneven, lane, item) for lane, item in deferred(state))
    whole = min(epoch for epoch, _ in served) + counts["epochs"]
    for epoch in range(whole):
        in_epoch = sum(n for (e, _), n in served.items() if e == epoch)
        assert in_epoch + waiting[epoch] == 259
    assert whole >= 5 and counts["deferred"] > 0
    assert all(len(set(captions)) == 16 for captions, *_ in batches)


def deferred(state):
    return [(int(lane), item) for lane, at in state["lanes"].items() for item in at["deferred"]]


def epoch_of(source, lane, item):
    shards = tuple(sorted(map(str, Path(source.urls[0]).glob("*.tar"))))
    return Plan(shards, PX, lanes=source.lanes).visit(lane, item[0])[1]


def test_a_deferred_sample_comes_first_in_its_lane(uneven):
    _, state, _ = next(
        found for steps in range(1, 60) if deferred((found := run(uneven, steps))[1])
    )  # fmt: skip
    lane, (_, _, key) = deferred(state)[0]
    (batch,), after, _ = run(uneven, 1, state=state)
    again = [item[2] for at, item in deferred(after) if at == lane]
    assert key in batch[2][lane * 4 : lane * 4 + 1] or key in again


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 3))
def test_every_shard_is_dealt_once_an_epoch(shards, lanes, seed):
    plan = Plan(tuple(map(str, range(shards))), PX, lanes=lanes, seed=seed)
    visits = -(-3 * shards // lanes)
    dealt = sorted(
        (epoch, shard)
        for lane in range(lanes)
        for shard, epoch in (plan.visit(lane, number) for number in range(visits))
    )
    assert dealt[: 3 * shards] == [(e, s) for e in range(3) for s in range(shards)]


def test_draws_with_replacement_are_even_in_the_long_run_and_repeat_in_the_short():
    plan = Plan(tuple("abcdefgh"), PX, sampler="replacement", lanes=4)
    drawn = Counter(plan.visit(lane, n)[0] for lane in range(4) for n in range(4000))
    assert all(abs(count - 2000) < 200 for count in drawn.values())
    assert len({plan.visit(lane, n)[0] for lane in range(4) for n in range(2)}) < 8


def test_with_replacement_runs_for_ever_and_may_repeat_captions(even):
    source = replace(even, sampler="replacement")
    batches, _, counts = run(source, 60)
    assert counts["deferred"] == 0 and counts["seen"] == 960
    assert max(Counter(key for _, _, keys, _ in batches for key in keys).values()) > 3


def test_each_epoch_draws_its_captions_and_crops_anew(even):
    batches, _, _ = run(even, 40)
    looks = {}
    for captions, pictures, keys, epochs in batches:
        images = np.frombuffer(pictures, np.uint8).reshape(16, -1)
        for caption, image, key, epoch in zip(captions, images, keys, epochs):
            looks[key, epoch] = (caption, image.tobytes())
    captions = [looks[str(n), 0][0] != looks[str(n), 1][0] for n in range(320)]
    pictures = [looks[str(n), 0][1] != looks[str(n), 1][1] for n in range(320)]
    assert 0.35 < np.mean(captions) < 0.65 and np.mean(pictures) > 0.5
    plain, _, _ = run(replace(even, augment=False), 1)
    first = np.frombuffer(plain[0][1], np.uint8).reshape(16, PX, PX, 3)[0]
    original = np.asarray(Image.open(io.BytesIO(png(int(plain[0][2][0])))))
    assert np.array_equal(first, original)


# ---------------------------------------------------------------------------------------- equalities


@pytest.mark.parametrize("sampler", ["epoch", "replacement"])
def test_one_two_and_four_processes_see_the_same_batches(uneven, sampler):
    source = replace(uneven, sampler=sampler, unique_captions=True)
    alone = run(source, 40)
    assert run(source, 40, size=2) == alone
    assert run(source, 40, size=4) == alone
    assert alone[2]["deferred"] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(uneven, workers):
    assert run(replace(uneven, workers=workers), 30) == run(uneven, 30)


def test_the_seed_changes_everything(even):
    one, two = (run(replace(even, seed=seed), 1)[0][0][2] for seed in (0, 1))
    assert one != two


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 60), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_resumed_equals_uninterrupted_on_any_number_of_processes(uneven, stop, before, after):
    whole, end, counts = _whole(uneven)
    head, state, _ = run(uneven, stop, size=before)
    tail, last, total = run(uneven, 60 - stop, size=after, state=state)
    assert head + tail == whole
    assert last == end and total == counts


_CACHE = {}


def _whole(source):
    if source not in _CACHE:
        _CACHE[source] = run(source, 60)
    return _CACHE[source]


def test_a_state_is_small(even):
    _, state, _ = run(even, 7)
    assert len(json.dumps(state)) < 200 * 4 + 600


def test_a_state_of_other_data_or_in_parts_is_refused(even, uneven):
    _, state, _ = run(even, 2)
    with pytest.raises(InputError, match=r"shuffle 20 .now 21."):
        run(replace(even, shuffle=21), 1, state=state)
    with pytest.raises(InputError, match=r"shards .* restore these"):
        run(uneven, 1, state=state)
    half = {**state, "lanes": {lane: at for lane, at in state["lanes"].items() if int(lane) < 2}}
    with pytest.raises(InputError, match="merge the states"):
        run(even, 1, state=half)
    with pytest.raises(InputError, match="each of the 4 lanes once"):
        merge_states([state, half])


def test_a_deferred_sample_that_has_gone_is_named(tmp_path):
    source = build(tmp_path / "s", [30] * 4, lambda n: "same" if n % 10 == 0 else f"thing {n}")
    state = next(s for s in (run(source, n)[1] for n in range(1, 20)) if deferred(s))
    build(tmp_path / "s", [0, 0, 0, 0])
    with pytest.raises(InputError, match="no longer where it was"):
        run(source, 1, state=state)


# -------------------------------------------------------------------------------------------- faults

HTML = b"<!doctype html><title>404</title>"


def damage(folder):
    """Eight shards of 40, one damage of each kind; the counts that are right."""
    source = build(folder, [40] * 8)

    def edit(shard, change):
        path = folder / f"{shard:03}.tar"
        with tarfile.open(path) as tar:
            members = [(m.name, tar.extractfile(m).read()) for m in tar]
        write_shard(path, change(members))

    edit(0, lambda m: [("0.png", HTML), *m[1:]])
    edit(1, lambda m: [m[0], *m[3:]])  # picture without caption
    edit(2, lambda m: [*m[1:]])  # caption without picture
    edit(3, lambda m: [m[0], ("120.txt", b"caf\xe9"), *m[2:], *m[:6]])  # and two that come twice
    edit(
        4,
        lambda m: [
            m[0],
            ("160.txt", b"  "),
            ("160.json", b"{}"),
            ("161.json", b"{"),
            *m[3:5],
            *m[6:],
        ],
    )
    edit(5, lambda m: [("200.png", _large()), *m[1:]])
    path = folder / "006.tar"
    path.write_bytes(path.read_bytes()[: 20 * 6 * 512 + 700])
    write_shard(folder / "007.tar", [])
    expected = {
        faults.HTML: 1, faults.NO_CAPTION: 1, faults.NO_IMAGE: 1, faults.BAD_TEXT: 1,
        faults.DUPLICATE_KEY: 2, faults.EMPTY_CAPTION: 1, faults.BAD_JSON: 1, faults.TOO_LARGE: 1,
        faults.TRUNCATED_SHARD: 1, faults.EMPTY_SHARD: 1,
    }  # fmt: skip
    return source, expected


def _large():
    buffer = io.BytesIO()
    Image.new("L", (200, 200)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    source, expected = damage(tmp_path_factory.mktemp("damaged") / "s")
    return replace(source, max_bad_share=0.5, max_pixels=30_000), expected


@pytest.mark.parametrize(("size", "workers"), [(1, 0), (2, 0), (1, 2)])
def test_a_damaged_set_is_served_and_every_fault_counted_once_an_epoch(damaged, size, workers):
    source, expected = damaged
    batches, state, counts = run(replace(source, workers=workers), 40, size=size)
    served = Counter((e, key) for _, _, keys, epochs in batches for key, e in zip(keys, epochs))
    good = 8 * 40 - 7 - 21 - 40  # where a shard is cut, the sample before the cut may lack a file
    epochs = counts["epochs"]
    assert max(served.values()) == 1 and epochs >= 2
    for epoch in range(epochs):
        waiting = sum(epoch_of(source, lane, item) == epoch for lane, item in deferred(state))
        assert sum(e == epoch for e, _ in served) + waiting == good
    found = Counter(counts["faults"]["kinds"])
    assert set(found) == set(expected)
    for kind, n in expected.items():
        assert epochs * n <= found[kind] <= (max(epoch for epoch, _ in served) + 2) * n
    assert sum(counts["faults"]["shards"].values()) == found.total()


def test_faults_are_counted_the_same_after_any_resume(damaged):
    source, _ = damaged
    _, whole, counts = run(source, 40)
    for stop in (1, 5, 11, 14, 15, 16, 28):
        _, state, _ = run(source, stop, size=2)
        assert run(source, 40 - stop, state=state)[1:] == (whole, counts)


def test_after_exactly_one_epoch_every_fault_of_it_is_counted(damaged):
    source, expected = damaged
    source = replace(source, lanes=1, unique_captions=False, shuffle=1000)
    _, _, counts = run(source, 21, batch=12)
    assert counts["epochs"] == 1 and counts["faults"]["kinds"] == expected


def test_over_the_limit_the_run_stops_and_names_kinds_and_shards(damaged):
    source, _ = damaged
    for size in (1, 4):
        with pytest.raises(InputError, match=r"max_bad_share") as caught:
            run(replace(source, max_bad_share=0.01), 60, size=size)
        line = str(caught.value)
        assert "\n" not in line and "(limit 1.0%)" in line
        assert "duplicate key" in line and "003.tar (" in line


def test_two_of_eight_shards_cut_is_too_much_however_few_samples_that_is(tmp_path):
    source = build(tmp_path / "s", [40] * 8)
    for shard in (2, 5):
        path = tmp_path / "s" / f"{shard:03}.tar"
        path.write_bytes(path.read_bytes()[:-12_000])
    with pytest.raises(InputError, match=r"2 of 8 shards .*truncated shard"):
        run(replace(source, max_bad_share=0.05), 60)


@pytest.mark.parametrize("members", [[], [("a.png", b"x"), ("b.txt", b"x")], [("a.md", b"x")]])
def test_shards_with_nothing_to_serve_end_in_an_error(tmp_path, members):
    build(tmp_path / "s", [1] * 4)
    for shard in range(4):
        write_shard(tmp_path / "s" / f"{shard:03}.tar", members)
    with pytest.raises(InputError, match="4 shards in a row hold no usable sample"):
        run(ShardSource((str(tmp_path / "s"),), lanes=4, max_bad_share=1.0), 1)


def test_a_great_deal_of_rubbish_is_noticed_before_the_first_batch(tmp_path):
    source = build(tmp_path / "s", [1] * 4)
    for shard in range(4):
        members = [(f"{n}.{kind}", HTML) for n in range(1500) for kind in ("png", "txt")]
        write_shard(tmp_path / "s" / f"{shard:03}.tar", members)
    with pytest.raises(InputError, match="web page instead of an image"):
        run(replace(source, shuffle=1200, lanes=1), 1)


# -------------------------------------------------------------------------------- refused before work


@pytest.mark.parametrize(
    ("change", "size", "batch", "message"),
    [
        ({"lanes": 16}, 1, 16, "8 shards are too few for 16 lanes"),
        ({"lanes": 16, "workers": 4}, 4, 16, r"8 shards .*\(4 processes, 4 workers each\).*now 16"),
        (
            {"lanes": 6},
            4,
            24,
            "6 lanes cannot be shared evenly by 4 processes x 1 workers.*1, 2, 3, 6",
        ),
        ({"workers": 3}, 1, 16, "3 workers"),
        ({}, 1, 18, "batch_size 18 is no multiple of the 4 lanes; use 16 or 20"),
        ({"urls": ("none/{0..7}.tar",)}, 2, 16, r"none/0.tar: no such shard .and 7 more of 8."),
        ({"urls": ("a.txt",)}, 2, 16, "a.txt"),
    ],
)
def test_what_cannot_work_is_refused_at_once_on_all_processes(even, change, size, batch, message):
    start = time.monotonic()
    with pytest.raises(InputError, match=message):
        run(replace(even, **change), 1, batch=batch, size=size)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "shuffle"}, "use epoch or replacement"),
        ({"lanes": 0}, "lanes is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"shuffle": 0}, "shuffle is 0"),
        ({"max_bad_share": 1.5}, "max_bad_share"),
        ({"max_pixels": 0}, "max_pixels"),
    ],
)
def test_values_that_mean_nothing_are_refused(even, change, message):
    with pytest.raises(InputError, match=message):
        replace(even, **change)


def test_a_shard_listed_twice_is_refused_for_epochs_only(even):
    twice = replace(even, urls=even.urls * 2)
    with pytest.raises(InputError, match="listed twice"):
        run(twice, 1)
    assert run(replace(twice, sampler="replacement"), 1)[2]["seen"] == 16


def test_processes_with_different_shards_are_refused(even, uneven):
    def work(rank, gather):
        return ShardFeed((even, uneven)[rank], PX, 16, rank, 2, gather)

    with pytest.raises(InputError, match="different shards"):
        together(2, work)


@pytest.mark.parametrize("size", [1, 2])
def test_a_caption_too_frequent_for_unique_batches_is_named(tmp_path, size):
    source = build(tmp_path / "s", [60] * 4, lambda n: "same" if n % 2 else f"thing {n}")
    with pytest.raises(InputError, match=r"'same.* is too frequent"):
        run(source, 200, size=size)
    assert run(replace(source, unique_captions=False), 60, size=size)[2]["seen"] == 960


def test_a_worker_that_dies_is_an_error_and_no_hang(even):
    import multiprocessing

    feed = ShardFeed(replace(even, workers=2), PX, 16)
    try:
        feed.next()
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(InputError, match="data worker died"):
            for _ in range(500):
                feed.next()
        assert not multiprocessing.active_children()  # the other one was ended with it
    finally:
        feed.close()


def test_closing_ends_the_workers(even):
    import multiprocessing

    feed = ShardFeed(replace(even, workers=2), PX, 16)
    feed.next()
    children = multiprocessing.active_children()
    feed.close()
    assert len(children) == 2 and not any(child.is_alive() for child in children)


# --------------------------------------------------------------------------------------------- lanes


def test_a_lane_reads_on_from_any_of_its_samples(uneven):
    shards = tuple(sorted(map(str, Path(uneven.urls[0]).glob("*.tar"))))
    plan = Plan(shards, PX, lanes=2, shuffle=13)
    stream = iter(Lane(plan, 1))
    items = [next(stream) for _ in range(300)]
    for number in (0, 5, 6, 12, 13, 100, 237):
        again = iter(Lane(plan, 1, items[number].then))
        assert [next(again).key for _ in range(40)] == [i.key for i in items[number + 1 :][:40]]
