"""Who trains and who tests: duplicates, groups, validation, one style a group, data scales.

Everything that is drawn by lot is drawn by a hash of names, so that it depends on no order and no
random-number library.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cliplib.corpus.archive import Icon
from cliplib.corpus.neardup import Features, near_pairs

SEED = "cliplib-1"
CANDIDATES = 2.5  # more than four in ten candidates have a twin in training and stay there


def lot(*words: str) -> bytes:
    """A number drawn by lot for some words: always the same one, uniformly distributed."""
    return hashlib.blake2b("\0".join((SEED, *words)).encode(), digest_size=8).digest()


def first_of_each(digests: Sequence[bytes]) -> list[int]:
    """The indices of the first drawing of each kind; later equal ones are left out."""
    first: dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        first.setdefault(digest, index)
    return sorted(first.values())


def by_group(icons: Sequence[Icon], indices: Sequence[int]) -> dict[str, list[int]]:
    """The groups among some icons: one concept in one set -> its icons."""
    groups: dict[str, list[int]] = {}
    for index in indices:
        groups.setdefault(icons[index].group, []).append(index)
    return groups


def choose_style(icons: Sequence[Icon], members: Sequence[int]) -> int:
    """The one style of a group that trains: by lot, but a drawing without skin tone comes first."""
    return min(members, key=lambda i: (icons[i].tone != "", lot("style", icons[i].key)))


def order_groups(labels: Mapping[str, str]) -> list[str]:
    """One fixed permutation of groups, stratified: every beginning holds the labels in proportion.

    `labels` maps every group to its corpus label. Within a label the order is by lot; the labels are
    merged so that the first K groups hold each label's share of K, to within one group.
    """
    piles: dict[str, list[str]] = {}
    for group in sorted(labels, key=lambda group: lot("order", group)):
        piles.setdefault(labels[group], []).append(group)
    placed = [
        ((rank + 0.5) / len(pile), label, group)
        for label, pile in piles.items()
        for rank, group in enumerate(pile)
    ]
    return [group for _, _, group in sorted(placed)]


def choose_validation(
    groups: Mapping[str, Sequence[int]],
    features: Features,
    pairs: int,
    threshold: float,
    progress: Callable[[int], None] = lambda _: None,
) -> set[str]:
    """Whole groups for validation, none of whose pictures is near to one that stays in training.

    Candidate groups are drawn by lot, CANDIDATES times as many pairs as wanted. Groups that are
    linked by a near-duplicate belong together; a bundle linked to a group outside the candidates
    stays in training whole, the other bundles are taken in the order of the lot until `pairs` pairs
    are reached. So no training pair is lost to make validation clean.

    `groups` maps a group to its rows of `features`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    drawn = sorted(groups, key=lambda group: lot("validation", group))
    sizes = np.cumsum([len(groups[group]) for group in drawn])
    candidates = drawn[: int(np.searchsorted(sizes, CANDIDATES * pairs)) + 1]
    node_of = np.zeros(len(features), np.int64)  # node 0: all groups that are no candidates
    for node, group in enumerate(candidates, start=1):
        node_of[list(groups[group])] = node
    members = np.flatnonzero(node_of)
    everyone = np.concatenate([np.asarray(rows) for rows in groups.values()])
    links = near_pairs(features[everyone], features[members], threshold, progress)
    ends = node_of[everyone[links[:, 0]]], node_of[members[links[:, 1]]]
    nodes = len(candidates) + 1
    graph = coo_array((np.ones(len(links), np.int8), ends), shape=(nodes, nodes))
    _, bundle = connected_components(graph, directed=False)
    return _take_bundles(candidates, bundle, groups, pairs)


def _take_bundles(
    candidates: Sequence[str],
    bundle: npt.NDArray[np.int32],
    groups: Mapping[str, Sequence[int]],
    pairs: int,
) -> set[str]:
    """Bundles in the order of the lot, without the one of node 0, until `pairs` pairs are there."""
    bundles: dict[int, list[str]] = {}
    for node, group in enumerate(candidates, start=1):
        if bundle[node] != bundle[0]:
            bundles.setdefault(int(bundle[node]), []).append(group)
    taken: set[str] = set()
    count = 0
    for together in bundles.values():
        if count >= pairs:
            break
        taken.update(together)
        count += sum(len(groups[group]) for group in together)
    return taken
