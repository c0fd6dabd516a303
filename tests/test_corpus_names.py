"""Names, captions, brands and the choice of sets."""

import doctest
import importlib

import pytest

from cliplib.corpus.archive import Icon
from cliplib.corpus.captions import Thesaurus, captions, choose_tags, class_synonyms
from cliplib.corpus.names import detect_styles, read_names
from cliplib.corpus.sets import is_brand, select_sets, table


@pytest.mark.parametrize("module", ["archive", "captions", "fetch", "names", "sets"])
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(importlib.import_module(f"cliplib.corpus.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def concepts(names, **options):
    return {name: read.concept for name, read in read_names(names, **options).items()}


def test_a_declared_suffix_is_style_and_the_longest_wins():
    read = read_names(
        ["bed-bold", "bed-bold-duotone", "bed"],
        suffixes={"bold": "Bold", "bold-duotone": "Bold Duotone", "": "Regular"},
    )
    assert {one.concept for one in read.values()} == {"bed"}
    assert [one.style for one in read.values()] == ["bold", "bold duotone", ""]


def test_a_declared_prefix_is_style():
    read = read_names(
        ["outline-home", "twotone-home"], prefixes={"outline": "Outline", "twotone": ""}
    )
    assert read["outline-home"].concept == read["twotone-home"].concept == "home"
    assert read["outline-home"].style == "outline"


def test_an_undeclared_style_counts_only_where_the_set_makes_a_habit_of_it():
    things = ["cat", "dog", "cow", "owl", "bee", "ant", "fox", "elk"]
    habit = [*things, *(f"{thing}-filled" for thing in things)]
    assert detect_styles(set(habit)) == {"filled"}
    assert read_names(habit)["cat-filled"].style == "filled"
    # seven uses are no habit, nor are words whose plain form the set does not have
    assert detect_styles({*things, *(f"{thing}-filled" for thing in things[:7])}) == set()
    assert detect_styles({f"{thing}-filled" for thing in things}) == set()


def test_no_word_is_stripped_from_every_set():
    names = ["heart", "heart-broken", "flash", "flash-light", "x-outline"]
    assert set(concepts(names).values()) == {
        "heart",
        "heart broken",
        "flash",
        "flash light",
        "x outline",
    }


def test_skin_tones_leave_the_concept_and_stay_in_the_caption():
    names = ["judge", "judge-medium-dark-skin-tone", "man-dark-skin-tone-bald", "gem-stone"]
    read = read_names(names, emoji=True)
    assert read["judge-medium-dark-skin-tone"].concept == "judge"
    assert read["judge-medium-dark-skin-tone"].tone == "medium dark skin tone"
    assert read["man-dark-skin-tone-bald"].concept == "man bald"
    assert read["gem-stone"].concept == "gem stone"


def test_a_tone_without_the_words_skin_tone_needs_its_sisters():
    names = ["judge", "judge-light", "judge-medium-light", "judge-medium-dark", "traffic-light"]
    read = read_names(names, emoji=True)
    assert read["judge-medium-light"].concept == read["judge-light"].concept == "judge"
    assert read["traffic-light"].concept == "traffic light"


def test_captions_are_distinct_short_and_start_with_the_bare_concept():
    icon = Icon("s", "owl-bold", "owl", "bold", "", ("Wild Animals",))
    found = captions(icon, ("bird", "night", "wise"))
    assert found[0] == "owl"
    assert found == list(dict.fromkeys(found))
    assert {"wild animals: owl", "owl; bird, night", "owl; wise"} <= set(found)
    long = Icon("s", "n", "one two three four five six seven eight nine ten", "", "")
    assert captions(long) == [long.concept]


def test_tags_that_only_repeat_the_name_are_left_out():
    thesaurus = Thesaurus(tags={"owl box": ("owl", "nest", "box owl", "bird")})
    assert choose_tags("owl box", thesaurus) == ("nest", "bird")


def test_class_synonyms_stay_among_the_classes():
    thesaurus = Thesaurus(
        synonyms={"bin": frozenset({"trash", "crate"}), "trash": frozenset({"bin"})}
    )
    assert class_synonyms(["bin", "owl", "trash"], thesaurus) == {0: [2], 2: [0]}


@pytest.mark.parametrize(
    ("prefix", "name", "categories", "brand"),
    [
        ("tabler", "brand-adobe", (), True),
        ("mdi", "ansible", ("Brand / Logo",), True),
        ("ion", "logo-android", (), True),
        ("la", "accessible-icon", (), True),
        ("mdi", "accessible-icon", (), False),
        ("mdi", "brandy", (), False),
        ("tabler", "rebrand", (), False),
    ],
)
def test_brand_names(prefix, name, categories, brand):
    listed = {"fa-brands": frozenset({"accessible-icon"})}
    assert is_brand(prefix, name, categories, listed) is brand


def information(**changes):
    plain = {"name": "A", "license": {"spdx": "MIT"}, "category": "UI 24px", "palette": False}
    return plain | changes


def test_sets_are_refused_for_a_reason_and_families_are_held_out_whole():
    chosen, refused = select_sets(
        {
            "good": information(palette=True),
            "ph": information(),
            "gpl": information(license={"spdx": "GPL-3.0-or-later"}),
            "nameless": information(license={}),
            "logos": information(category="Logos"),
            "reicon": information(),
            "fa-brands": information(category="Archive / Unmaintained"),
        }
    )
    assert refused == {
        "gpl": "licence",
        "nameless": "licence",
        "logos": "logos_and_programming",
        "reicon": "doubtful",
        "fa-brands": "brand_sets",
    }
    assert (chosen["good"].role, chosen["good"].corpus) == ("train", "colour")
    assert (chosen["ph"].role, chosen["ph"].corpus) == ("test", "mono")


def test_no_family_is_on_both_sides_and_every_task_is_held_out():
    roles = {}
    for row in table("families.csv"):
        assert roles.setdefault(row["family"], row["role"]) == row["role"]
    held = {row["prefix"] for row in table("families.csv") if row["role"] == "test"}
    assert {row["set"] for row in table("tasks.csv")} == held
