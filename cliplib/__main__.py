"""The command line: ``python -m cliplib VERB`` (also installed as ``cliplib``)."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from typing import NoReturn

from cliplib import InputError, __version__

#: verb -> (module that has add_arguments and run, what it does)
VERBS = {
    "corpus": ("cliplib.corpus.cli", "build the corpus of icons with names: shards and manifest"),
    "study": ("cliplib.study", "run a named scale: every run that is not current"),
    "train": ("cliplib.cli_runs:train", "train one run (also under torchrun)"),
    "evaluate": ("cliplib.cli_evaluate:evaluate", "test a model zero-shot and in retrieval"),
    "probe": ("cliplib.cli_evaluate:probe", "linear probes and few-shot on a model's features"),
    "finetune": ("cliplib.finetune.cli", "fine-tune a model: directly, in two stages, patched"),
    "export": ("cliplib.cli_evaluate:export", "write the icon tasks as CLIP_benchmark reads them"),
    "models": (
        "cliplib.pretrained.cli",
        "list the published models that can be opened; count them",
    ),
    "sweep": ("cliplib.sweep", "choose learning rates on validation"),
    "publish": ("cliplib.collect", "make the book's tables from the records of a finished scale"),
    "fit": ("cliplib.laws.cli", "fit a scaling law to a table of runs"),
    "forecast": ("cliplib.laws.cli_forecast", "predict a run before it is made; score it after"),
    "compare": ("cliplib.laws.cli_compare", "compare slopes and levels of groups of runs"),
    "plan": ("cliplib.laws.cli_plan", "choose the next runs, or the best model size and samples"),
    "paper": ("cliplib.laws.cli:paper", "print the paper's exponents beside ours"),
    "book": ("cliplib.book", "build the book from chapters and committed tables"),
    "doctor": ("cliplib.doctor", "check environment, corpus, checkpoints and records"),
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; see: python -m {self.prog} --help")


def parser() -> Parser:
    """The parser of all verbs; a verb's own module is imported only when it is asked for."""
    top = Parser(prog="cliplib", description="Reproducible scaling laws for CLIP.")
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, (_, what) in VERBS.items():
        verbs.add_parser(verb, help=what, description=what, add_help=False)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a verb. Bad input prints one line and returns 2; an interrupt returns 130."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        chosen, rest = parser().parse_known_args(arguments[:1])[0].verb, arguments[1:]
        place, what = VERBS[chosen]
        name, _, prefix = place.partition(":")
        module = importlib.import_module(name)
        own = Parser(prog=f"cliplib {chosen}", description=what)
        getattr(module, f"add_{prefix}_arguments" if prefix else "add_arguments")(own)
        status = getattr(module, f"run_{prefix}" if prefix else "run")(own.parse_args(rest))
        return int(status or 0)
    except InputError as error:
        print(f"cliplib: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as in `cliplib ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ConnectionError as error:  # a process of a run was lost; the message names it
        print(f"cliplib: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(
            f"cliplib: no space left on the disk; free some and run it again ({error})",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("cliplib: interrupted; run it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
