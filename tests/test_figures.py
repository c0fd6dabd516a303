import base64
import io
import itertools
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from cliplib import figures

WHITE, DARK_PAGE = "#ffffff", "#14181e"
# Machado et al. 2009, full severity, on linear RGB
VISION = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.fixture(autouse=True)
def clean_matplotlib():
    with mpl.rc_context():
        yield
    plt.close("all")


# ------------------------------------------------------------------------------------ palette


def linear(colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ rgb / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("colour", figures.PALETTE)
def test_colours_stand_out_on_both_pages(colour):
    assert contrast(colour, WHITE) >= 3
    assert contrast(colour, DARK_PAGE) >= 3


@pytest.mark.parametrize("eyes", VISION)
def test_colours_differ_for_all_eyes(eyes):
    seen = [lab(np.clip(VISION[eyes] @ linear(c), 0, 1)) for c in figures.PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_colours_differ_in_grey():
    lightness = sorted(lab(np.full(3, luminance(c)))[0] for c in figures.PALETTE)
    assert np.diff(lightness).min() > 2.5


def test_looks_differ_without_colour():
    looks = [figures.look(i) for i in range(len(figures.PALETTE))]
    assert len({look["marker"] for look in looks}) == len(looks)
    assert len({look["linestyle"] for look in looks}) == len(looks)
    assert figures.look(len(looks)) == looks[0]


# ---------------------------------------------------------------------------------------- SVG


def line(y=(1, 2), label="loss"):
    figures.style()
    fig, ax = plt.subplots()
    ax.plot([0, 1], y, marker="o")
    ax.set_ylabel(label)
    return fig


def test_ink_is_the_page_s_colour():
    svg = figures.svg_markup(line(), "a line")
    assert "currentColor" in svg
    assert figures.INK not in svg


def test_labels_stay_text():
    text = [e.text for e in ElementTree.fromstring(figures.svg_markup(line(), "a")).iter()]
    assert "loss" in text


def test_alt_text_survives_hostile_characters():
    alt = "error < 5% & \"small\" 'x' </svg><script>"
    root = ElementTree.fromstring(figures.svg_markup(line(), alt))
    assert root.get("aria-label") == alt
    assert root.get("role") == "img"


def test_nothing_applies_to_the_whole_page():
    root = ElementTree.fromstring(figures.svg_markup(line(), "a"))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"style", "metadata", "script"}


def test_same_figure_same_bytes_and_no_date():
    first, second = (figures.svg_markup(line(), "a", salt="1") for _ in range(2))
    assert first == second
    assert not re.search(r"20\d\d-\d\d-\d\d", first)


def test_two_figures_share_no_id_and_every_reference_resolves():
    both = [figures.svg_markup(line(), "a", salt=s) for s in "12"]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in both]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, known in zip(both, ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) == known


def test_text_is_legible_on_a_phone():
    root = ElementTree.fromstring(figures.svg_markup(line(), "a"))
    width = float(root.get("viewBox").split()[2])
    figures.style()
    assert mpl.rcParams["ytick.labelsize"] * 340 / width > 8.5  # px, on a 340 px wide column


# --------------------------------------------------------------------------------------- show


@pytest.fixture
def shown(monkeypatch):
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: outputs.append(data))
    return outputs


def csv_of(block):
    address = re.search(r'href="data:text/csv;charset=utf-8,([^"]*)"', block).group(1)
    return pd.read_csv(io.StringIO(unquote(address)))


def test_show_gives_one_output_with_its_twin(shown):
    figures.show(line(), "a rising line", source="tables & <figures>")
    (output,) = shown
    assert set(output) == {"text/html", "image/png", "text/plain"}
    assert base64.b64decode(output["image/png"]).startswith(b"\x89PNG")
    assert output["text/plain"] == "a rising line"
    assert "Source: tables &amp; &lt;figures&gt;" in output["text/html"]
    assert plt.get_fignums() == []


def test_the_table_behind_a_figure_comes_back_from_its_link(shown):
    table = pd.DataFrame({"name": ['a "b", <c>', "d & é"], "x": [0.1, np.nan]})
    figures.show(line(), "a", table=table, name='odd "name"/é')
    block = shown[0]["text/html"]
    pd.testing.assert_frame_equal(csv_of(block), table)
    assert 'download="odd-name.csv"' in block
    assert "<c>" not in block
    ElementTree.fromstring(block.replace("&nbsp;", " "))


def test_a_long_table_is_offered_but_not_printed(shown):
    for rows, folded in ((figures.TABLE_ROWS_SHOWN, 1), (figures.TABLE_ROWS_SHOWN + 1, 0)):
        figures.show(line(), "a", table=pd.DataFrame({"x": range(rows)}))
        assert shown[-1]["text/html"].count("<details>") == folded
        assert len(csv_of(shown[-1]["text/html"])) == rows


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_without_alt_text_is_refused(shown, alt):
    with pytest.raises(ValueError, match="alt text"):
        figures.show(line(), alt)
    assert shown == []


# --------------------------------------------------------------------------------------- glue


@pytest.fixture
def glued(monkeypatch):
    kept = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, value, display: kept.update({name: value}))
    return kept


@pytest.mark.parametrize(
    ("value", "spec", "printed"),
    [
        (np.float64(-0.1234), ".3f", "-0.123"),
        (np.float32(0.5), ".2f", "0.50"),
        (np.int64(12345), ",d", "12,345"),
        (29, "d", "29"),
        ("a text", "s", "a text"),
        (np.array(0.25), ".0%", "25%"),
    ],
)
def test_glued_values_print_plainly(glued, value, spec, printed):
    from myst_nb.core.variables import format_plain_text

    figures.glue("key", value)
    assert format_plain_text(repr(glued["key"]), spec) == printed


@pytest.mark.parametrize("value", [np.nan, float("inf"), np.float32("-inf")])
def test_a_number_that_is_none_is_not_glued(glued, value):
    with pytest.raises(ValueError, match="key"):
        figures.glue("key", value)


@pytest.mark.parametrize("value", [None, [1, 2], {"a": 1}, pd.Series(["a", "b"]).tolist()])
def test_only_numbers_and_texts_are_glued(glued, value):
    with pytest.raises(TypeError, match="key"):
        figures.glue("key", value)


# ----------------------------------------------------------------------------- recurring figures


def runs(rungs=("XS", "S"), n=3):
    compute = np.geomspace(10, 1000, n)
    table = pd.DataFrame([{"rung": r, "compute_gmac": c} for r in rungs for c in compute])
    error = 0.9 * table.compute_gmac**-0.1
    return table.assign(error=error, low=error - 0.02, high=error + 0.02, guessing=0.95)


def test_error_against_compute_shows_runs_readers_own_runs_and_laws():
    law = pd.DataFrame({"compute_gmac": [10, 1000], "error": [0.7, 0.4]}).assign(low=0.3, high=0.8)
    mine = runs(rungs=("XS", "M"))
    fig = figures.error_against_compute(runs(), mine, {"power law": law}, response="an error")
    ax = fig.axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert "GMAC" in ax.get_xlabel()
    assert ax.get_ylabel() == "an error"
    assert {"XS", "S", "your machine", "power law"} == {t.get_text() for t in ax.get_legend().texts}
    hollow = [c for c in ax.containers if c.lines[0].get_markerfacecolor() == "none"]
    assert len(hollow) == 2


@pytest.mark.parametrize("yours", [None, runs().iloc[:0]])
def test_error_against_compute_without_own_runs(yours):
    ax = figures.error_against_compute(runs(), yours).axes[0]
    assert [t.get_text() for t in ax.get_legend().texts] == ["XS", "S"]
    assert len(ax.get_yticks()) >= 3


def test_learning_curves_have_one_line_a_run_and_one_name_a_rung():
    steps = pd.DataFrame(
        {"run_id": list("aabbcc"), "rung": list("XXXXYY"), "samples_seen": [1, 2] * 3, "loss": 3.0}
    )
    ax = figures.learning_curves(steps).axes[0]
    assert len(ax.lines) == 3
    assert [t.get_text() for t in ax.get_legend().texts] == ["X", "Y"]
