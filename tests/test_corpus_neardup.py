"""The near-duplicate feature and its exact arithmetic; choices that are drawn by lot."""

import numpy as np
import pytest

from cliplib.corpus import neardup
from cliplib.corpus.neardup import decontaminate, features, near_pairs, nearest, unit
from cliplib.corpus.split import choose_validation, first_of_each, order_groups


def canvas(*boxes, colour=(0, 0, 0)):
    """White pictures with one filled box each: (top, left, bottom, right)."""
    pixels = np.full((len(boxes), 32, 32, 3), 255, np.uint8)
    for picture, (top, left, bottom, right) in zip(pixels, boxes):
        picture[top:bottom, left:right] = colour
    return pixels


def scatter(count, seed=0):
    return np.random.default_rng(seed).integers(-127, 128, (count, 256)).astype(np.int8)


def cosine(a, b):
    a, b = a.astype(float), b.astype(float)
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_the_feature_does_not_see_place_and_scale():
    small, moved, large, wide = features(
        canvas((4, 4, 12, 20), (20, 16, 28, 32), (8, 0, 24, 32), (14, 0, 18, 32))
    )
    assert np.array_equal(small, moved)
    assert cosine(small, large) > 0.99
    assert cosine(small, wide) < 0.9  # another shape, as the aspect is kept


def test_faint_marks_are_no_ink_and_blank_is_like_nothing():
    box = canvas((4, 4, 8, 12))
    speck = box.copy()
    speck[0, 31, 31] = 255 - neardup.INK  # outside the box, too faint to widen it
    assert np.array_equal(features(box), features(speck))
    blank = features(canvas((0, 0, 0, 0)))
    assert not blank.any()
    assert nearest(features(box), blank).tolist() == [0]


def test_cosines_are_exact_and_do_not_depend_on_the_blocks(monkeypatch):
    many, few = scatter(70), scatter(30, seed=1)
    exact = many.astype(np.int64) @ few.T.astype(np.int64)
    expected = exact.astype(np.float32) * unit(few) * unit(many)[:, None]
    assert np.abs(exact).max() < 2**24
    for rows in (7, 1000):
        monkeypatch.setattr(neardup, "BLOCK", rows)
        assert np.array_equal(nearest(many, few), expected.max(axis=0))


def test_decontaminate_removes_what_is_near_and_measures_the_rest():
    test = scatter(5)
    train = np.concatenate([scatter(20, seed=1), test[:2]])
    near, left = decontaminate(train, test, 0.95)
    assert np.flatnonzero(near).tolist() == [20, 21]
    assert np.array_equal(left, nearest(train[:20], test))
    assert left.max() < 0.95
    everything, nothing = decontaminate(train, test, -1)
    assert everything.all()
    assert not nothing.any()


def test_near_pairs_finds_exactly_the_pairs_above_the_threshold(monkeypatch):
    monkeypatch.setattr(neardup, "BLOCK", 4)
    many = np.concatenate([scatter(10), scatter(2, seed=1), scatter(1)])
    found = near_pairs(many, scatter(2), 0.9)
    assert found.tolist() == [[0, 0], [1, 1], [12, 0]]


def test_the_first_of_equal_drawings_is_kept():
    assert first_of_each([b"a", b"b", b"a", b"c", b"b"]) == [0, 1, 3]


@pytest.mark.parametrize(
    "sizes", [{"colour": 10, "mono": 90}, {"colour": 1, "mono": 3}, {"mono": 5}]
)
def test_every_beginning_of_the_order_holds_the_labels_in_proportion(sizes):
    labels = {f"{label} {i}": label for label, size in sizes.items() for i in range(size)}
    ordered = order_groups(labels)
    assert sorted(ordered) == sorted(labels)
    for count in range(1, len(ordered) + 1):
        for label, size in sizes.items():
            seen = sum(labels[group] == label for group in ordered[:count])
            assert abs(seen - size * count / len(ordered)) <= 1


def test_the_order_does_not_depend_on_the_order_of_the_input():
    labels = {f"group {i}": "ab"[i % 2] for i in range(50)}
    backwards = dict(reversed(labels.items()))
    assert order_groups(labels) == order_groups(backwards)


def test_validation_takes_whole_groups_that_are_linked_to_none_in_training():
    # 40 groups of two pictures; a chain of near-copies links groups 0 to 9 with one another
    base = scatter(80)
    for group in range(9):
        base[2 * group + 2] = base[2 * group + 1]
    groups = {f"group {g}": [2 * g, 2 * g + 1] for g in range(40)}
    chosen = choose_validation(groups, base, pairs=20, threshold=0.95)
    rows = {name: groups[name] for name in groups}
    held = [row for name in chosen for row in rows[name]]
    rest = [row for name in groups if name not in chosen for row in rows[name]]
    assert len(held) >= 20
    assert nearest(base[rest], base[held]).max() < 0.95
    assert choose_validation(dict(reversed(groups.items())), base, 20, 0.95) == chosen
