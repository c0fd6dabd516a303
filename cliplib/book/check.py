"""Static checks: of a built site (nothing from outside, no dead link), of prose (no typed result).

What scripts fetch while they run is not seen here; tests/browser opens every page for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that make a browser fetch an address; <a href> is a link and may point outside.
FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "use": ("href",),
    "image": ("href",),
}
# <link rel> values that only name another page
UNFETCHED_RELS = {"canonical", "next", "prev", "search", "index", "author", "license", "alternate"}
# Ids that the search page and sphinx-exercise repeat; nothing refers to them
REPEATED_BY_ENGINE = {"search-input", "exercise-content", "solution-content"}
_OUTSIDE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_CSS_ADDRESS = re.compile(r"""(?:url\(\s*|@import\s+)['"]?((?:https?:)?//[^'")\s]+)""")


@dataclass
class Page:
    """What one HTML page asks for, links to, defines and shows."""

    fetched: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    repeated_ids: list[str] = field(default_factory=list)
    pictures_without_alt: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    """Fills a `Page` while the parser walks through the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self._identify(values)
        self.page.fetched += [values[key] for key in FETCHED.get(tag, ()) if values.get(key)]
        self.page.fetched += _CSS_ADDRESS.findall(values.get("style", ""))
        if tag == "link" and not set(values.get("rel", "").split()) <= UNFETCHED_RELS:
            self.page.fetched.append(values.get("href", ""))
        if tag in ("a", "area", "link") and "href" in values:
            self.page.links.append(values["href"])
        if tag == "img" and not values.get("alt", "").strip():
            self.page.pictures_without_alt.append(values.get("src", "")[:80])
        if tag == "svg" and values.get("role") == "img" and not values.get("aria-label"):
            self.page.pictures_without_alt.append(values.get("class", "an inline svg"))

    def _identify(self, values: dict[str, str]) -> None:
        identifier = values.get("id")
        if identifier in self.page.ids and identifier not in REPEATED_BY_ENGINE:
            self.page.repeated_ids.append(str(identifier))
        if identifier:
            self.page.ids.add(identifier)


def read_page(text: str) -> Page:
    """Parse one page of HTML."""
    reader = _Reader()
    reader.feed(text)
    return reader.page


def check_site(site: Path) -> list[str]:
    """All faults of the built site, one line each, naming page and address; empty if sound.

    Faults: an address outside the site that a page or style sheet would fetch, a link, anchor or
    picture that is not there, a picture without alt text, an id used twice on a page.
    """
    found = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    pages = {path: read_page(path.read_text()) for path in found}  # _static: the theme's templates
    if not pages:
        return [f"{site}: no page found; build the book first"]
    faults = []
    for path, page in pages.items():
        where = path.relative_to(site).as_posix()
        faults += [f"{where}: {fault}" for fault in _page_faults(path, page, pages, site)]
    for sheet in sorted(site.rglob("*.css")):
        where = sheet.relative_to(site).as_posix()
        addresses = _CSS_ADDRESS.findall(sheet.read_text())
        faults += [f"{where}: fetches {address} from outside" for address in addresses]
    return faults


def _page_faults(path: Path, page: Page, pages: dict[Path, Page], site: Path) -> Iterator[str]:
    for address in page.fetched:
        if _OUTSIDE.match(address):
            yield f"fetches {address} from outside"
        elif not address.startswith("data:") and not _target(path, address, site).exists():
            yield f"{address} is not there"
    for address in page.links:
        yield from _link_faults(path, address, pages, site)
    yield from (f"no alt text: {picture}" for picture in page.pictures_without_alt)
    yield from (f"id {identifier!r} twice" for identifier in page.repeated_ids)


def _link_faults(path: Path, address: str, pages: dict[Path, Page], site: Path) -> Iterator[str]:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return
    target = _target(path, parts.path, site)
    if not target.exists():
        yield f"link to {address}, which is not there"
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
        yield f"link to {address}: no such place on that page"


def _target(page: Path, address: str, site: Path) -> Path:
    """The file an address on `page` means; a folder means its index page."""
    name = unquote(urlsplit(address).path)
    if not name:
        return page
    target = site / name.lstrip("/") if name.startswith("/") else page.parent / name
    target = Path(*_without_dots(target.parts))
    return target / "index.html" if target.is_dir() else target


def _without_dots(parts: Iterable[str]) -> list[str]:
    """Resolve ``..`` as a browser does: by text, not through the file system."""
    kept: list[str] = []
    for part in parts:
        if part == ".." and kept:
            kept.pop()
        elif part != ".":
            kept.append(part)
    return kept


# ------------------------------------------------------------------------------ typed results

# A result looks like a decimal, a percentage (95% is a convention), a power of ten, or thousands.
_START = r"(?:(?<![\w.])[-−]|(?<![\w.−-]))"  # not inside a name such as LAION-80M or CC-BY-4.0
_RESULT = re.compile(
    _START + r"\d+(?:[.,]\d+)+(?:[eE][-+]?\d+)?"  # 0.112, 1,234, 3.2e9
    rf"|{_START}\d+[eE][-+]?\d+"
    rf"|{_START}(?!95%)\d+(?:\s?%|\s?per cent|[kKMB]\b)"
)
_NOT_PROSE = (
    re.compile(r"^---\n.*?\n---\n", re.DOTALL),  # front matter
    re.compile(r"^(```+|~~~+|:::+)\{code-cell\}.*?^\1\s*$", re.DOTALL | re.MULTILINE),
    re.compile(r"^(```+|~~~+)[a-z]*\n.*?^\1\s*$", re.DOTALL | re.MULTILINE),  # commands, listings
    re.compile(r"\{(?:glue|cite|ref|numref|eq|doc|label|math)[^}]*\}`[^`]*`"),
    re.compile(r"\]\([^)]*\)|<https?:[^>]*>|https?://\S+"),
    re.compile(r"`[^`\n]*[A-Za-z_][^`\n]*`"),  # code and versions; a bare number stays visible
)
_EXCUSED = re.compile(r"^% typed: \S.*\n(?:.+\n?)+", re.MULTILINE)


def typed_results(markdown: str) -> list[tuple[int, str]]:
    """Numbers in a chapter's prose that look like results typed by hand: (line, number).

    Results come from a table through ``glue``. A definition or a setting may be typed where the
    paragraph begins with the comment ``% typed: why``.

    >>> typed_results("The exponent is -0.112 here.")
    [(1, '-0.112')]
    >>> typed_results("The exponent is {glue:text}`alpha:.3f` on 2 cores.")
    []
    """
    text = markdown
    for pattern in (*_NOT_PROSE, _EXCUSED):
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)
    return [(text.count("\n", 0, m.start()) + 1, m.group()) for m in _RESULT.finditer(text)]
