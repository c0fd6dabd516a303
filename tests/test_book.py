import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import nbformat
import pytest
import yaml

from cliplib import InputError, book
from cliplib.book import build as building
from cliplib.book import prepare
from cliplib.book.check import check_site, typed_results

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
CONFIG = yaml.safe_load((BOOK / "_config.yml").read_text())
TOC = yaml.safe_load((BOOK / "_toc.yml").read_text())
ENTRIES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]
CHAPTERS = [BOOK / f"{e}.md" for e in ENTRIES if f"{e}.ipynb" != prepare.EXAMPLE.as_posix()]


# ------------------------------------------------------------------------ the book's own files


def test_every_entry_of_the_contents_exists():
    assert prepare.EXAMPLE.with_suffix("").as_posix() in ENTRIES
    assert [c for c in CHAPTERS if not c.is_file()] == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.relative_to(BOOK).as_posix())
def test_no_result_is_typed_by_hand(chapter):
    assert typed_results(chapter.read_text()) == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.relative_to(BOOK).as_posix())
def test_chapters_with_code_name_their_kernel(chapter):
    text = chapter.read_text()
    if "{code-cell}" in text:
        front = yaml.safe_load(text.split("---\n")[1])
        assert front["kernelspec"]["name"] == "python3"
        assert front["jupytext"]["text_representation"]["format_name"] == "myst"


def test_engine_and_theme_are_the_pair_that_needs_no_network():
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {"jupyter-book==1.0.4.post1", "sphinx-book-theme==1.1.4"} <= set(pins)


def test_a_failing_chapter_and_a_stale_result_cannot_pass():
    assert CONFIG["execute"]["execute_notebooks"] == "cache"
    assert CONFIG["execute"]["allow_errors"] is False
    sphinx = CONFIG["sphinx"]["config"]
    assert sphinx["nb_execution_raise_on_error"] is True
    assert "cliplib.book" in sphinx["extensions"]
    assert "suppress_warnings" not in sphinx


def test_nothing_is_asked_from_outside_by_configuration():
    sphinx = CONFIG["sphinx"]["config"]
    assert "sphinx_thebe" not in sphinx["extensions"]
    assert sphinx["nb_ipywidgets_js"] == {}
    assert Path("_assets", sphinx["mathjax_path"].removeprefix("../")) == prepare.MATHJAX
    assert prepare.MATHJAX.parts[0] in sphinx["html_extra_path"]


def test_static_files_are_local_styles_and_pictures():
    files = [path for path in (BOOK / "_static").rglob("*") if path.is_file()]
    # a .js would go on every page
    assert {path.suffix for path in files} == {".css", ".svg", ".png"}
    assert (BOOK / CONFIG["html"]["favicon"]) in files
    assert (BOOK / CONFIG["logo"]) in files
    for path in files:
        assert not re.search(rb"(?<!xmlns=\")https?://", path.read_bytes())
        if path.suffix == ".svg":
            ElementTree.parse(path)


def test_the_way_out_to_plain_sphinx_is_open(tmp_path):
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(BOOK / name, tmp_path)
    code = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    subprocess.run(
        [sys.executable, "-c", code, "config", "sphinx", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    conf: dict = {}
    exec((tmp_path / "conf.py").read_text(), conf)
    assert conf["html_theme"] == "sphinx_book_theme"
    assert conf["mathjax_path"] == CONFIG["sphinx"]["config"]["mathjax_path"]
    assert "myst_nb" in conf["extensions"]


# ------------------------------------------------------------------------------------- MathJax


def archive(path, content):
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("package/es5/tex-svg.js")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return path


def test_mathjax_is_taken_from_its_package_once(tmp_path, monkeypatch):
    calls = []

    def fetch(name, version, integrity, *, offline):
        calls.append((name, version, integrity[:7], offline))
        return archive(tmp_path / "mathjax.tgz", b"/* MathJax */")

    monkeypatch.setattr("cliplib.corpus.fetch.fetch_npm", fetch)
    for _ in range(2):
        prepare.place_mathjax(tmp_path / "book", offline=True)
    assert calls == [("mathjax", "3.2.2", "sha512-", True)]
    assert (tmp_path / "book" / prepare.MATHJAX).read_bytes() == b"/* MathJax */"


# ----------------------------------------------------------------------- the executed run as a page


def finished(runs, name, scale, samples, notebook=True):
    folder = runs / name
    folder.mkdir(parents=True)
    record = {"run": {"scale": scale}, "gmacs_per_pair": 2.0, "samples_seen": samples}
    (folder / "train.json").write_text(json.dumps(record))
    (folder / "eval.json").write_text("{}")
    if notebook:
        (folder / "train.ipynb").write_text(f'"{name}"')
    return folder


def test_the_example_is_the_largest_finished_run_of_the_scale(tmp_path):
    runs = tmp_path / "runs"
    finished(runs, "a", "nano", 10)
    largest = finished(runs, "b", "nano", 30)
    finished(runs, "c", "nano", 30)
    finished(runs, "other-scale", "micro", 99)
    finished(runs, "no-notebook", "nano", 99, notebook=False)
    (finished(runs, "not-evaluated", "nano", 99) / "eval.json").unlink()
    assert prepare.example_run(runs, "nano") == largest
    prepare.place_example(tmp_path / "book", "nano")
    assert (tmp_path / "book" / prepare.EXAMPLE).read_text() == '"b"'


def test_without_a_run_a_page_says_how_to_make_one(tmp_path):
    prepare.place_example(tmp_path / "book", "smoke")
    page = nbformat.read(tmp_path / "book" / prepare.EXAMPLE, as_version=4)
    nbformat.validate(page)
    assert page.cells[0].source.startswith("# ")
    assert "make study SCALE=smoke" in page.cells[0].source


def test_an_unchanged_example_is_not_written_again(tmp_path):
    finished(tmp_path / "runs", "a", "nano", 10)
    prepare.place_example(tmp_path / "book", "nano")
    page = tmp_path / "book" / prepare.EXAMPLE
    os.utime(page, (1, 1))
    prepare.place_example(tmp_path / "book", "nano")
    assert page.stat().st_mtime == 1


# ------------------------------------------------------------------------------- nothing stale


@pytest.fixture
def project(tmp_path):
    """A project whose book has been built once."""
    for name in (
        "book/data/runs.csv",
        "book/data/ranks/a.npz",
        "book/_static/book.css",
        "book/_toc.yml",
        "book/chapter.md",
        "cliplib/laws/fitting.py",
        "cliplib/ladder_table.toml",
        "runs/a/train.json",
        "runs/a/log.txt",
        "data/icons/manifest.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    prepare.drop_stale(tmp_path / "book")
    rebuild(tmp_path)
    return tmp_path


def rebuild(project):
    for kept in (".jupyter_cache", ".doctrees", "html"):
        (project / "book/_build" / kept).mkdir(exist_ok=True)


def test_nothing_is_dropped_when_nothing_has_changed(project):
    for path in project.rglob("*"):
        os.utime(path, (1, 1))
    (project / "runs/a/log.txt").write_text("changed")
    (project / "book/chapter.md").write_text("the engine sees this itself")
    assert prepare.drop_stale(project / "book") == []


@pytest.mark.parametrize(
    "name",
    [
        "book/data/runs.csv",
        "book/data/ranks/a.npz",
        "book/data/new.json",
        "cliplib/laws/fitting.py",
        "cliplib/ladder_table.toml",
        "runs/a/train.json",
        "runs/b/eval.json",
        "data/icons/manifest.json",
    ],
)
def test_changed_results_drop_executed_chapters(project, name):
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("2")
    assert prepare.drop_stale(project / "book") == [".jupyter_cache", ".doctrees"]
    assert not (project / "book/_build/.jupyter_cache").exists()
    rebuild(project)
    assert prepare.drop_stale(project / "book") == []


def test_a_result_that_is_gone_counts_as_changed(project):
    (project / "runs/a/train.json").unlink()
    assert ".jupyter_cache" in prepare.drop_stale(project / "book")


@pytest.mark.parametrize("name", ["book/_static/book.css", "book/_toc.yml"])
def test_a_changed_frame_renders_anew_without_executing(project, name):
    (project / name).write_text("2")
    assert prepare.drop_stale(project / "book") == [".doctrees", "html"]


def test_another_package_version_drops_executed_chapters(project, monkeypatch):
    packages = project / "site-packages"
    (packages / "seaborn-9.9.dist-info").mkdir(parents=True)
    monkeypatch.setattr(prepare.sysconfig, "get_path", lambda _: str(packages))
    assert ".jupyter_cache" in prepare.drop_stale(project / "book")


def test_the_extension_drops_stale_results_however_the_build_starts(project):
    app = SimpleNamespace(srcdir=str(project / "book"))
    with pytest.raises(Exception, match="MathJax is missing"):
        book.setup(app)
    (project / "book" / prepare.MATHJAX).parent.mkdir(parents=True)
    (project / "book" / prepare.MATHJAX).write_text("")
    (project / "book/data/runs.csv").write_text("2")
    book.setup(app)
    assert not (project / "book/_build/.jupyter_cache").exists()


# ------------------------------------------------------------------------------ a real small build

CHAPTER = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
# Small

```{code-cell} ipython3
from pathlib import Path
from cliplib.figures import glue
value = float(Path("data/value.txt").read_text())
assert value > 0, "value must be positive"
glue("value", value)
```

The value is {glue:text}`value:.3f`.
"""


def test_a_real_build_sees_changed_data_and_stops_at_a_failing_cell(tmp_path, capfd):
    small = tmp_path / "book"
    shutil.copytree(BOOK / "_static", small / "_static")
    for name in ("_config.yml", "references.bib"):
        shutil.copy(BOOK / name, small)
    (small / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (small / "index.md").write_text(CHAPTER)
    (small / prepare.MATHJAX).parent.mkdir(parents=True)
    (small / prepare.MATHJAX).write_text("")
    (small / "data").mkdir()
    (small / "data/value.txt").write_text("0.125")
    assert building.build(small) == 0
    page = re.sub(r"</?span[^>]*>", "", (small / "_build/html/index.html").read_text())
    assert "The value is 0.125." in page
    (small / "data/value.txt").write_text("-1")  # same code: the engine alone would not look
    assert building.build(small) == 1
    message = capfd.readouterr().err
    assert "index.md" in message
    assert "value must be positive" in message
    assert "Traceback" not in message


def test_a_folder_without_a_book_is_refused(tmp_path):
    args = SimpleNamespace(book=tmp_path, part="build")
    with pytest.raises(InputError, match="_config"):
        book.run(args)


def test_progress_lines_are_readable():
    lines = [
        "\x1b[01mbuild succeeded\x1b[39m\n",
        "\n",
        "[IPKernelApp] WARNING | Kernel is\n",
        "a\n",
    ]
    assert list(building.clean(lines)) == ["build succeeded", "a"]


# ------------------------------------------------------------------------------ checks of a site


def site(tmp_path, body, **others):
    (tmp_path / "index.html").write_text(f"<html><body>{body}</body></html>")
    for name, text in others.items():
        path = tmp_path / name.replace("__", ".").replace("_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return check_site(tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<script src="//cdn.example/a.js"></script>',
        '<link rel="stylesheet" href="https://fonts.example/a.css">',
        '<link rel="preload" as="font" href="http://fonts.example/a.woff2">',
        '<img alt="x" src="https://img.example/a.png">',
        '<iframe src="https://example.org"></iframe>',
        '<div style="background: url(https://img.example/a.png)"></div>',
        '<svg><image href="https://img.example/a.png"/></svg>',
    ],
)
def test_an_outside_address_that_would_be_fetched_is_a_fault(tmp_path, body):
    (fault,) = site(tmp_path, body)
    assert "from outside" in fault
    assert fault.startswith("index.html")


def test_a_style_sheet_from_outside_is_a_fault(tmp_path):
    faults = site(tmp_path, "", a__css="@import 'https://fonts.example/a.css'; b{}")
    assert len(faults) == 1
    assert faults[0].startswith("a.css")


@pytest.mark.parametrize(
    "body",
    [
        '<a href="https://example.org">a link may lead outside</a>',
        '<a href="mailto:a@example.org">mail</a>',
        '<a href="sub/page.html#there">page</a> <a href="#here">here</a><p id="here">',
        '<a href="sub/">folder</a><a href="./sub/page.html?x=1">page</a>',
        '<img alt="a dot" src="data:image/png;base64,AAAA">',
        '<img alt="a dot" src="sub/../a.png?v=1">',
        '<svg role="img" aria-label="a line"></svg><svg aria-hidden="true"></svg>',
    ],
)
def test_sound_pages_have_no_fault(tmp_path, body):
    there = '<p id="there"></p><a href="../index.html">up</a>'
    assert site(tmp_path, body, sub_page__html=there, sub_index__html="", a__png="") == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="gone.html">x</a>', "gone.html"),
        ('<a href="sub/page.html#gone">x</a>', "no such place"),
        ('<a href="#gone">x</a>', "no such place"),
        ('<img alt="x" src="gone.png">', "gone.png"),
        ('<img src="data:image/png;base64,AAAA">', "no alt text"),
        ('<img alt=" " src="data:image/png;base64,AAAA">', "no alt text"),
        ('<svg role="img" class="ink"></svg>', "no alt text"),
        ('<p id="a"></p><p id="a"></p>', "twice"),
    ],
)
def test_dead_links_and_silent_pictures_are_faults(tmp_path, body, fault):
    (found,) = site(tmp_path, body, sub_page__html="")
    assert fault in found


def test_an_empty_site_is_a_fault(tmp_path):
    assert len(check_site(tmp_path)) == 1


# -------------------------------------------------------------------------------- typed results


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("The exponent is -0.112.", ["-0.112"]),
        ("It falls by 18% or 18 per cent.", ["18%", "18 per cent"]),
        ("About 1,234 runs and 3e9 pairs, 34B of them", ["1,234", "3e9", "34B"]),
        ("Typed as code: `0.112`", ["0.112"]),
        ("| a | 0.5 |\n| --- | --- |", ["0.5"]),
        ("- {math}`x` then 0.25", ["0.25"]),
    ],
)
def test_typed_results_are_found(text, numbers):
    assert [number for _, number in typed_results(text)] == numbers


@pytest.mark.parametrize(
    "text",
    [
        "Two cores, 29 models, 32 by 32 pixels, in 2023, a 95% interval.",
        "{glue:text}`alpha:.3f` and {cite:p}`cherti2023`",
        "`jupyter-book==1.0.4.post1` and CC-BY-4.0, LAION-80M, ViT-B/32",
        "```{code-cell} ipython3\nx = 0.5\n```\n",
        "```bash\nmake book  # 3.5 GB\n```\n",
        "---\nkernelspec: 0.13\n---\ntext",
        "[a link](https://example.org/1.2.3)",
        "% typed: a definition of the paper\nThe weight decay is 0.2 in all runs.\n",
    ],
)
def test_settings_names_and_code_are_no_typed_results(text):
    assert typed_results(text) == []


def test_an_excuse_holds_for_its_paragraph_only():
    text = "% typed: a setting\nThe rate is 0.2\nor 0.3.\n\nThe result is 0.4."
    assert typed_results(text) == [(5, "0.4")]
