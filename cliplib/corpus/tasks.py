"""Evaluation on held-out sets: classification tasks, retrieval list, coverage of class names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cliplib.corpus.archive import Icon
from cliplib.corpus.captions import Thesaurus, class_synonyms
from cliplib.corpus.sets import table
from cliplib.corpus.split import lot

MIN_SETS = 2  # a class name must occur in this many training sets, or no model could know it


def named_in(icons: Iterable[Icon]) -> dict[str, set[str]]:
    """The sets in which each concept occurs."""
    sets: dict[str, set[str]] = {}
    for icon in icons:
        sets.setdefault(icon.concept, set()).add(icon.set)
    return sets


def make_tasks(
    test: Sequence[Icon], train: Iterable[Icon], thesaurus: Thesaurus
) -> dict[str, dict[str, Any]]:
    """The classification tasks of tasks.csv: which concepts are classes, and their synonyms.

    A class is a concept of the held-out set that occurs in at least two training sets; its items
    are the set's drawings of it without skin tone.
    """
    known = named_in(train)
    tasks = {}
    for row in table("tasks.csv"):
        items = [
            icon
            for icon in test
            if icon.set == row["set"]
            and not icon.tone
            and len(known.get(icon.concept, ())) >= MIN_SETS
        ]
        classes = sorted({icon.concept for icon in items})
        if classes:
            tasks[row["task"]] = {
                "split": f"test-{row['set']}",
                "sets": [row["set"]],
                "classes": classes,
                "items": len(items),
                "chance": 1 / len(classes),
                "synonyms": {
                    str(i): more for i, more in class_synonyms(classes, thesaurus).items()
                },
            }
    return tasks


def class_index(tasks: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """(set, concept) -> index among the classes of that set's task."""
    return {
        (prefix, name): index
        for task in tasks.values()
        for prefix in task["sets"]
        for index, name in enumerate(task["classes"])
    }


def choose_retrieval(test: Iterable[Icon], families: Mapping[str, str], count: int) -> list[str]:
    """Keys of held-out pairs with distinct concepts, the families of sets in turn.

    Within a family concepts come by lot, and of a concept's drawings (without skin tone) one by
    lot. A family that has no new concept left drops out. `families` maps a set to its family.
    """
    drawings: dict[str, dict[str, list[Icon]]] = {}
    for icon in test:
        if not icon.tone:
            concepts = drawings.setdefault(families[icon.set], {})
            concepts.setdefault(icon.concept, []).append(icon)
    queues = {
        family: sorted(concepts, key=lambda concept: lot("retrieval", concept), reverse=True)
        for family, concepts in sorted(drawings.items())
    }
    chosen: dict[str, str] = {}  # concept -> key
    while any(queues.values()) and len(chosen) < count:
        for family, queue in queues.items():
            while queue and queue[-1] in chosen:
                queue.pop()
            if queue and len(chosen) < count:
                concept = queue.pop()
                one = min(drawings[family][concept], key=lambda icon: lot("retrieval", icon.key))
                chosen[concept] = one.key
    return sorted(chosen.values())


def coverage(
    names: Mapping[str, Iterable[str]], concepts: Sequence[str], scales: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Share of each task's names that occur in training, at each data scale.

    `names` maps a task to its class names; `concepts` are those of the training groups, in order.
    """
    shares: dict[str, dict[str, float]] = {task: {} for task in names}
    for scale, groups in scales.items():
        seen = set(concepts[:groups])
        for task, wanted in names.items():
            wanted = list(wanted)
            shares[task][scale] = round(sum(name in seen for name in wanted) / len(wanted), 4)
    return shares
