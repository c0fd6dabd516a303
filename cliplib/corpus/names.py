"""From an icon's file name to its concept and its style, set by set.

Each set has its own habit of writing style into names, so every rule is applied per set: first the
prefixes and suffixes that the set declares, then skin tones (emoji), then trailing style words that
the set itself shows to be a habit. A stop list over all sets would be wrong: it would turn
`heart-broken` into `heart`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Words that may be a style, if a set uses them as one (detected) or declares them.
STYLE_WORDS = {
    *("outline", "outlined", "filled", "fill", "solid", "line", "linear", "bold", "thin", "light"),
    *("duotone", "twotone", "regular", "rounded", "round", "sharp", "broken", "flat", "color"),
    *("mono", "rtl", "ltr", "o", "s", "l", "alt"),
}
# Style words that say something about the picture, in the words a caption uses.
VISIBLE = {
    **{word: word for word in ("solid", "bold", "thin", "light", "duotone", "rounded", "sharp")},
    **{word: word for word in ("broken", "flat", "line", "outline", "filled", "remix", "print")},
    **{"outlined": "outline", "linear": "line", "fill": "filled"},
    **{"twotone": "two tone", "round": "rounded"},
}
TONE = r"(?:medium-light|medium-dark|light|medium|dark)"
TONE_WORDS = re.compile(rf"-({TONE})-skin-tone")
BARE_TONE = re.compile(rf"^(.+?)-({TONE})$")
# A trailing word is a set's style when this share of its names (and at least MIN_USES) carry it.
MIN_SHARE, MIN_USES = 0.05, 8
PAIRED_STYLES = ("outline", "fill", "filled", "solid")


@dataclass(frozen=True, slots=True)
class Name:
    """What a file name says: the concept (spaces, no style), the visible style, the skin tone."""

    concept: str
    style: str = ""
    tone: str = ""


def read_names(
    names: Iterable[str],
    prefixes: Mapping[str, str] | None = None,
    suffixes: Mapping[str, str] | None = None,
    *,
    emoji: bool = False,
) -> dict[str, Name]:
    """Concept, style and tone of every name of one set.

    `prefixes` and `suffixes` are the set's declared style variants (token -> label, as in the icon
    data); `emoji` also reads skin tones.

    >>> read_names(["home", "home-outline", "heart-broken"], suffixes={"outline": "Outline"})
    {'home': Name(concept='home', style='', tone=''), \
'home-outline': Name(concept='home', style='outline', tone=''), \
'heart-broken': Name(concept='heart broken', style='', tone='')}
    """
    names = list(names)
    known = set(names)
    stripped: dict[str, tuple[str, str, str]] = {}
    for name in names:
        base, label = _strip_declared(name, prefixes or {}, suffixes or {})
        base, tone = _strip_tone(base, known) if emoji else (base, "")
        stripped[name] = (base, label, tone)
    detected = detect_styles({base for base, _, _ in stripped.values()})
    read = {}
    for name, (base, label, tone) in stripped.items():
        base, words = _strip_detected(base, detected)
        style = visible_style(f"{' '.join(words)} {label}")
        read[name] = Name(re.sub(r"[-_]+", " ", base).strip(), style, tone)
    return read


def detect_styles(bases: set[str]) -> set[str]:
    """Trailing style words that a set uses as a habit, with the plain name also present."""
    uses: Counter[str] = Counter()
    for base in bases:
        head, _, word = base.rpartition("-")
        if not head or word not in STYLE_WORDS:
            continue
        others = (f"{head}-{style}" for style in PAIRED_STYLES if style != word)
        if head in bases or any(other in bases for other in others):
            uses[word] += 1
    enough = max(MIN_USES, MIN_SHARE * len(bases))
    return {word for word, count in uses.items() if count >= enough}


def visible_style(label: str) -> str:
    """The words of a style label that a picture shows, without sizes and names of defaults.

    >>> visible_style("24 Filled"), visible_style("Bold Duotone"), visible_style("Regular")
    ('filled', 'bold duotone', '')
    """
    words = re.split(r"[^a-z]+", label.lower().replace("two-tone", "twotone"))
    return " ".join(dict.fromkeys(VISIBLE[word] for word in words if word in VISIBLE))


def _strip_declared(
    name: str, prefixes: Mapping[str, str], suffixes: Mapping[str, str]
) -> tuple[str, str]:
    """The name without its declared prefix and suffix (longest first), and their labels."""
    labels = []
    for prefix in sorted(filter(None, prefixes), key=len, reverse=True):
        if name.startswith(f"{prefix}-"):
            name = name[len(prefix) + 1 :]
            labels.append(prefixes[prefix])
            break
    for suffix in sorted(filter(None, suffixes), key=len, reverse=True):
        if name.endswith(f"-{suffix}"):
            name = name[: -len(suffix) - 1]
            labels.append(suffixes[suffix])
            break
    else:
        labels.append(suffixes.get("", ""))  # the label of the undecorated style
    return name, " ".join(labels)


def _strip_tone(base: str, known: set[str]) -> tuple[str, str]:
    """An emoji's name without skin tones, and the tones as words.

    Some sets write the tone without the words "skin tone"; then its sisters must be there too, or
    `traffic-light` would lose its light.
    """
    tones = TONE_WORDS.findall(base)
    if tones:
        base = TONE_WORDS.sub("", base)
    elif (bare := BARE_TONE.match(base)) and f"{bare[1]}-medium-dark" in known:
        base, tones = bare[1], [bare[2]]
    if not tones:
        return base, ""
    # the same tone twice is one look
    return base, f"{' and '.join(dict.fromkeys(tones)).replace('-', ' ')} skin tone"


def _strip_detected(base: str, detected: set[str]) -> tuple[str, list[str]]:
    """The name without its trailing style words, and those words in reading order."""
    words: list[str] = []
    while "-" in base and base.rpartition("-")[2] in detected:
        base, _, word = base.rpartition("-")
        words.insert(0, word)
    return base, words
