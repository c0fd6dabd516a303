"""The command line: one line and status 2 for bad input, help for everything."""

import errno
import sys
import types

import pytest

from cliplib import InputError, __version__
from cliplib.__main__ import VERBS, main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "VERB"),
        (["nope"], "'nope'"),
        (["study", "--scael", "nano"], "--scale"),
        (["study", "--scale", "pico"], "smoke, nano"),
        (["fit"], "TABLE.csv"),
        (["train", "--config", "no.json", "--out", "x"], "no.json"),
        (["evaluate", "no/checkpoint", "--out", "x/other.json"], "eval.json"),
        (["sweep", "--rungs", "XS", "--samples", "many"], "whole numbers"),
        (["publish", "--scale", "nano", "--runs", "no-runs"], "not finished"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words, said, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


def fake_verb(monkeypatch, error):
    def run(args):
        raise error

    module = types.SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(VERBS, "fake", ("fake_module", "fails"))
    monkeypatch.setitem(sys.modules, "fake_module", module)


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    fake_verb(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    assert main(["fake"]) == 2
    assert "no space left" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    fake_verb(monkeypatch, KeyboardInterrupt())
    assert main(["fake"]) == 130
    assert "again to go on" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    fake_verb(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["fake"])


def test_input_errors_pass_as_one_line(monkeypatch, capsys):
    fake_verb(monkeypatch, InputError("what, where, what to do"))
    assert main(["fake"]) == 2
    assert capsys.readouterr().err == "cliplib: what, where, what to do\n"


def test_version_is_the_packages():
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and __version__


def test_help_is_instant():
    import subprocess

    code = "import sys, cliplib.__main__ as m; m.parser(); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
