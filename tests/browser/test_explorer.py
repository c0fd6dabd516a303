"""The explorers of the built book, operated as a reader does: keys, presses, a phone, no scripts.

`make book` first; see test_pages.py for the browser.
"""

import os
import re
import shutil
from collections.abc import Iterator

import pytest
import test_pages as pages
from playwright.sync_api import Browser, Page, sync_playwright

from cliplib import laws, published

address = pages.address
pytestmark = pytest.mark.browser

CHAPTER = "paper/explore.html"
LAW, CURVES = '[data-explorer="law"]', '[data-explorer="curves"]'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser that is closed before another module starts its own: two at once would clash."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Browser, address: str):
    """Open the chapter as asked; at the end nothing may have gone wrong or been asked outside."""
    contexts, faults = [], []

    def open_page(**options) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        faults.append(pages.watch(page, address))
        page.goto(f"{address}/{CHAPTER}", wait_until="networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for some in faults for fault in some] == []


def answer(page: Page, explorer: str = LAW) -> str:
    return page.locator(f"{explorer} .explorer-answer").inner_text()


def exponent(page: Page) -> float:
    found = re.search(r"exponent (\S+),", answer(page))
    assert found, answer(page)
    return float(found.group(1).replace("\N{MINUS SIGN}", "-"))


# ------------------------------------------------------------------------------- the right numbers


def test_it_opens_with_the_paper_s_law_and_a_drawing(opened) -> None:
    page = opened()
    runs = published.openclip_runs("imagenet1k")
    assert exponent(page) == round(laws.Recipe("power", "bins")(runs)["alpha"], 4)
    assert page.locator(f"{LAW} .run").count() == len(runs)
    for explorer in (LAW, CURVES):
        box = page.locator(f"{explorer} svg.explorer-chart").bounding_box()
        assert box["width"] > 400
        assert page.locator(f"{explorer} svg.explorer-chart").get_attribute("aria-label")
        assert not page.locator(f"{explorer} .explorer-facts").evaluate("e => e.open")


@pytest.mark.parametrize("how", laws.HOW)
def test_choices_give_the_exponent_of_cliplib(opened, how: str) -> None:
    page = opened()
    law = page.locator(LAW)
    law.get_by_role("combobox", name="Frontier", exact=True).select_option(how)
    law.get_by_role("combobox", name="Task", exact=True).select_option("flickr30k")
    law.get_by_role("combobox", name="Direction", exact=True).select_option("text")
    law.get_by_label("LAION-80M", exact=True).uncheck()
    runs = published.openclip_runs("flickr30k", "text_retrieval_recall_at_5")
    runs = runs[runs["data"] != "LAION-80M"]
    assert exponent(page) == round(laws.Recipe("power", how)(runs)["alpha"], 4)
    assert f"{len(runs)} of 29 runs" in answer(page)
    law.get_by_role("button", name="All runs back").click()
    assert "29 of 29 runs" in answer(page)


def test_predictions_stand_beside_what_was_published(opened) -> None:
    page = opened()
    table = page.locator(f"{LAW} .explorer-results table").nth(1).inner_text()
    row = published.later_models().query("pretrained_tag == 'laion2b_s39b_b160k'").iloc[0]
    assert f"{100 * row['in1k_top1']:.2f}" in table
    runs = published.openclip_runs("imagenet1k")
    (predicted,) = laws.Recipe("power", "bins").fit(runs).predict(row["gmacs_total"])
    assert f"{100 * (1 - predicted):.2f}" in table
    page.locator(LAW).get_by_role("combobox", name="Task", exact=True).select_option("mnist")
    assert "none" in page.locator(f"{LAW} .explorer-results table").nth(1).inner_text()


def test_three_models_have_no_bootstrap_and_two_have_no_law(opened) -> None:
    page = opened()
    law = page.locator(LAW)
    law.get_by_role("combobox", name="Models", exact=True).select_option("OpenAI")
    law.get_by_role("combobox", name="Frontier", exact=True).select_option("all")
    runs = published.errors("imagenet1k").query("family == 'OpenAI'")
    fitted = laws.Recipe("power", "all").fit(runs)
    low, high, *_ = laws.t_interval(fitted)["alpha"]
    assert f"95% interval {low:.3f} to {high:.3f}".replace("-", "\N{MINUS SIGN}") in answer(page)
    assert "No bootstrap" in law.inner_text()
    law.get_by_label("L/14", exact=True).uncheck()
    assert answer(page).startswith("Left out: L/14 WIT-400M 13B. No law")


def test_another_resample_changes_the_interval_a_little_and_not_the_law(opened) -> None:
    page = opened()
    before, exact = answer(page), exponent(page)
    table = page.locator(f"{LAW} .explorer-results").inner_text()
    page.locator(LAW).get_by_role("button", name="Resample again").click()
    assert exponent(page) == exact
    assert page.locator(f"{LAW} .explorer-results").inner_text() != table
    assert "seed 1" in page.locator(f"{LAW} .explorer-results").inner_text()
    assert before.split(";")[1] == answer(page).split(";")[1]


def test_a_choice_is_answered_at_once(opened) -> None:
    page = opened()
    script = """() => {
        const select = [...document.querySelectorAll('[data-explorer=law] select')].at(-1);
        return ['all', 'pareto', 'hull', 'bins_own', 'bins'].map(how => {
            select.value = how;
            const from = performance.now();
            select.dispatchEvent(new Event('change'));
            return performance.now() - from; }); }"""
    page.evaluate(script)  # the first round compiles
    assert max(page.evaluate(script)) < 300  # ms


# --------------------------------------------------------------------------------- keys, presses


def test_every_control_has_a_name_and_shows_its_focus(opened) -> None:
    page = opened()
    for details in page.locator(".explorer details").all():
        details.evaluate("e => { e.open = true; }")
    unnamed = """els => els.filter(e => !(e.labels?.length && e.labels[0].innerText.trim())
        && !e.getAttribute('aria-label') && !e.innerText?.trim()).map(e => e.outerHTML)"""
    controls = page.locator(".explorer :is(select, input, button)")
    assert controls.count() > 60
    assert controls.evaluate_all(unnamed) == []
    page.locator(f"{LAW} select").first.focus()
    reached: list[str] = []
    while "BUTTON" not in reached and len(reached) < 60:
        look = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
                return [e.tagName, e.closest('.explorer') !== null, s.outlineStyle,
                        parseFloat(s.outlineWidth), e.matches(':disabled')]; }"""
        )
        assert look[1:3] == [True, "solid"]
        assert look[3] >= 2
        reached.append(look[0])
        page.keyboard.press("Tab")
    assert {"SELECT", "INPUT", "SUMMARY", "BUTTON"} == set(reached)


def test_the_law_explorer_is_operated_by_keys_alone(opened) -> None:
    page = opened()
    first = answer(page)
    page.locator(LAW).get_by_role("combobox", name="Task", exact=True).focus()
    page.keyboard.press("ArrowDown")
    second = answer(page)
    assert second.startswith("robustness")
    assert second != first
    page.locator(LAW).get_by_label("g/14", exact=True).focus()
    page.keyboard.press("Space")
    assert answer(page).startswith("Left out: g/14 2B 13B. robustness")
    assert page.evaluate("document.activeElement.type") == "checkbox"
    page.locator(LAW).get_by_role("spinbutton", name="Bins").focus()
    page.keyboard.press("ArrowUp")
    assert answer(page).split("; ")[1].startswith("6 points")
    page.locator(f"{LAW} summary", has_text="Single runs").focus()
    page.keyboard.press("Enter")
    page.locator(LAW).get_by_label("B/32 80M 3B").focus()
    page.keyboard.press("Space")
    assert "27 of 29 runs" in answer(page)
    role = page.locator(f"{LAW} .explorer-answer")
    assert (role.get_attribute("role"), role.get_attribute("aria-live")) == ("status", "polite")


def test_a_group_with_some_of_its_runs_out_says_so(opened) -> None:
    page = opened()
    page.locator(f"{LAW} summary", has_text="Single runs").click()
    page.locator(LAW).get_by_label("B/32 80M 3B").uncheck()
    mixed = page.locator(f"{LAW} fieldset input").evaluate_all(
        "els => els.map(e => e.indeterminate)"
    )
    assert sum(mixed) == 2  # its data and its architecture


def test_a_press_on_a_mark_leaves_the_run_out_and_takes_it_back(opened) -> None:
    page = opened()
    page.locator(f"{LAW} svg.explorer-chart").scroll_into_view_if_needed()
    for said, out in (("Left out", 1), ("Back in", 0)):
        mark = page.locator(f"{LAW} .run", has_text="H/14 2B 34B")  # with no other run beside it
        box = mark.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert answer(page).startswith(f"{said}: H/14 2B 34B.")
        assert page.locator(f"{LAW} .run.out").count() == out


def test_up_to_six_curves_are_chosen_by_keys(opened) -> None:
    page = opened()
    curves = page.locator(CURVES)
    curves.get_by_role("combobox", name="Compare", exact=True).select_option("none")
    assert answer(page, CURVES).startswith("0 of 29 runs shown")
    for name in ("B/32 80M 3B", "B/32 80M 13B", "B/32 80M 34B", "B/16 2B 3B", "H/14 2B 34B"):
        curves.get_by_label(name, exact=True).focus()
        page.keyboard.press("Space")
    assert curves.locator("table input:disabled").count() == 0
    curves.get_by_label("g/14 2B 13B", exact=True).focus()
    page.keyboard.press("Space")
    assert curves.locator("table input:disabled").count() == 29 - 6
    assert "Untick one" in answer(page, CURVES)
    assert curves.locator(".explorer-results tbody tr").count() == 6
    marked = curves.locator("svg.explorer-chart polygon[stroke='currentColor']").count()
    assert f"spikes: {marked} drops" in answer(page, CURVES)
    curves.get_by_role("spinbutton", name="Spike").fill("5")
    fewer = curves.locator("svg.explorer-chart polygon[stroke='currentColor']").count()
    assert 0 < fewer < marked
    for label, values in {
        "Across": ("compute", "share", "samples"),
        "Scale across": ("linear", "log"),
        "Up": ("accuracy", "error"),
        "Scale up": ("linear", "log"),
    }.items():
        for value in values:
            curves.get_by_role("combobox", name=label, exact=True).select_option(value)
            ticks = curves.locator("svg.explorer-chart > text")
            assert ticks.count() > 6, (label, value)
            assert "NaN" not in curves.locator("svg.explorer-chart").inner_html()


# ------------------------------------------------------------------- dark, a phone, no motion


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_text_is_legible_and_nothing_sticks_out(opened, theme: str, width: int) -> None:
    page = opened(color_scheme=theme, viewport={"width": width, "height": 844})
    assert pages.overflow(page) <= 0, pages.widest(page)
    for explorer in (LAW, CURVES):
        text = page.locator(f"{explorer} svg.explorer-chart text")
        sizes = text.evaluate_all("els => els.map(e => parseFloat(getComputedStyle(e).fontSize))")
        assert min(sizes) >= 12
        scale = page.locator(f"{explorer} svg.explorer-chart").evaluate(
            "e => e.getBoundingClientRect().width / e.viewBox.baseVal.width"
        )
        assert scale == pytest.approx(1, abs=0.01)
        inside = text.evaluate_all(
            """els => els.every(e => { const t = e.getBoundingClientRect(),
                s = e.ownerSVGElement.getBoundingClientRect();
                return t.left >= s.left - 1 && t.right <= s.right + 1; })"""
        )
        assert inside
    assert contrast(page, ".explorer :is(p, label, legend, caption, td, th, text, summary)") > 4.5
    assert contrast(page, ".explorer :is(select, button:enabled, input[type=number]:enabled)") > 4.5
    small = page.locator(".explorer :is(select, button, .tick)").evaluate_all(
        "els => els.filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 24).length"
    )
    assert small == 0


def contrast(page: Page, selector: str) -> float:
    """The lowest contrast (WCAG) of visible text with what is painted behind it."""
    script = """els => Math.min(...els.filter(e => e.checkVisibility()
            && !e.closest('label:has(:disabled)')).map(e => {
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
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }))"""
    return page.locator(selector).evaluate_all(script)


def test_the_drawing_follows_the_window(opened) -> None:
    page = opened()
    wide = page.locator(f"{LAW} svg.explorer-chart").bounding_box()["width"]
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function(
        f"document.querySelector('{LAW} svg.explorer-chart').getBoundingClientRect().width < 360"
    )
    assert wide > 400
    assert page.locator(f"{LAW} .run").count() == 29
    assert pages.overflow(page) <= 0


def test_nothing_moves(opened) -> None:
    page = opened(reduced_motion="reduce")
    page.locator(LAW).get_by_role("combobox", name="Frontier", exact=True).select_option("pareto")
    moving = """els => els.filter(e => e.getAnimations().length
        || parseFloat(getComputedStyle(e).transitionDuration) > 0
        || getComputedStyle(e).animationName !== 'none').length"""
    assert page.locator(".explorer, .explorer *").evaluate_all(moving) == 0


def test_without_scripts_the_tables_are_there(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/{CHAPTER}")
    for explorer in (LAW, CURVES):
        block = page.locator(explorer)
        assert "needs a browser that runs scripts" in block.inner_text()
        assert block.locator(".explorer-facts table").is_visible()
        assert block.locator("select, input, button").count() == 0
    assert page.locator(f"{LAW} .explorer-facts tbody tr").count() == 43
    assert "ImageNet" in page.locator(f"{LAW} .explorer-facts").inner_text()
    context.close()


def test_the_page_is_light(address: str) -> None:
    size = (pages.SITE / CHAPTER).stat().st_size
    assert size < 600_000
