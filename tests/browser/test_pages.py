"""Every page of the built book in a headless Chromium: light and dark, desk and phone.

`make book` first. The browser is $CHROMIUM, else the system's chromium; playwright only drives it.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

BOOK = Path(__file__).resolve().parents[2] / "book"
SITE = BOOK / "_build/html"
SHOTS = BOOK / "_build/screenshots"
WIDTHS = {"desk": 1280, "phone": 390}
# Said once on a first visit by the theme, before it stores a choice; not a fault.
HARMLESS = ("Got invalid theme mode",)

pytestmark = pytest.mark.browser


def pages() -> list[str]:
    """Root, chapters and search page, as addresses below the site."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    files = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"]), "search"]
    return [f"{file}.html" for file in files]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The site, served on the loopback interface at a free port."""
    assert (SITE / "index.html").exists(), "no book yet: run `make book` first"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    assert Path(program).exists(), "no Chromium: install Debian's chromium or set CHROMIUM"
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()


def watch(page: Page, address: str) -> list[str]:
    """A list that fills with what goes wrong while the page is used."""
    faults: list[str] = []

    def outside(request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            faults.append(f"asks outside: {request.url}")

    def said(message) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(HARMLESS):
            faults.append(f"console {message.type}: {message.text}")

    def answered(response) -> None:
        if response.status >= 400:
            faults.append(f"status {response.status}: {response.url}")

    page.on("request", outside)
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    page.on("response", answered)
    page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
    page.on("console", said)
    return faults


@pytest.mark.parametrize("name", pages())
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page(browser: Browser, address: str, theme: str, width: str, name: str) -> None:
    size = {"width": WIDTHS[width], "height": 900}
    context = browser.new_context(color_scheme=theme, viewport=size)
    page = context.new_page()
    faults = watch(page, address)
    page.goto(f"{address}/{name}", wait_until="networkidle")
    page.evaluate("window.MathJax?.startup?.promise")
    SHOTS.mkdir(parents=True, exist_ok=True)
    shot = f"{name.removesuffix('.html').replace('/', '_')}-{theme}-{WIDTHS[width]}.png"
    page.screenshot(path=SHOTS / shot, full_page=True)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert invisible_figures(page) == []
    assert unset_formulas(page) == 0
    assert min(ink_contrasts(page), default=21) > 4.5
    assert overflow(page) <= 0, f"{name} scrolls sideways by {overflow(page)} px: {widest(page)}"
    context.close()
    assert faults == []


def invisible_figures(page: Page) -> list[str]:
    """Figures and pictures of the article that are not folded away and yet take no space."""
    script = """els => els
        .filter(e => !e.closest('details:not([open])') && !e.closest('.hidden, .d-none'))
        .filter(e => { const b = e.getBoundingClientRect();
                       return b.width < 8 || b.height < 8 || !e.checkVisibility()
                              || (e.tagName === 'IMG' && !e.naturalWidth); })
        .map(e => e.outerHTML.slice(0, 120))"""
    return page.eval_on_selector_all("article svg.ink, article img", script)


def unset_formulas(page: Page) -> int:
    """Formulas of the article that MathJax has not set."""
    return page.eval_on_selector_all(
        "article .math", "els => els.filter(e => !e.querySelector('mjx-container')).length"
    )


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window (positive: it scrolls sideways)."""
    return page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")


def widest(page: Page) -> str:
    """The outermost element that sticks out on the right, for the message of a failed test."""
    script = """() => { const e = [...document.querySelectorAll('article *')]
        .filter(e => !e.closest('details:not([open]), pre, .wide-table'))
        .find(e => e.getBoundingClientRect().right > window.innerWidth + 1);
        return e ? e.outerHTML.slice(0, 200) : 'nothing in the article'; }"""
    return page.evaluate(script)


def ink_contrasts(page: Page) -> list[float]:
    """Contrast (WCAG) of each figure's text and caption with what is painted behind them."""
    script = """els => els.map(e => {
        const parts = c => c.match(/[0-9.]+/g).map(Number);
        const light = c => { const [r, g, b] = parts(c).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        let behind = e;
        while (behind.parentElement && (parts(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0)
            behind = behind.parentElement;
        const style = getComputedStyle(e);
        const a = light(e.tagName === 'text' ? style.fill : style.color);
        const b = light(getComputedStyle(behind).backgroundColor);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })"""
    where = "article svg.ink text:first-of-type, article figure.ink-figure figcaption"
    return page.eval_on_selector_all(where, script)


def test_search_finds_a_word_without_a_network(browser: Browser, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    faults = watch(page, address)
    page.goto(f"{address}/search.html?q=compute")
    page.wait_for_selector("ul.search li")
    assert page.locator("ul.search li").count() >= 3
    context.close()
    assert faults == []
