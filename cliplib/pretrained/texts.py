"""The tokenizer that belongs to a text tower, and a trial that shows that it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliplib import InputError, model
from cliplib.model import TOKENIZER, TOKENIZER_FILES
from cliplib.pretrained.clip_towers import quiet
from cliplib.pretrained.names import FOLDER, HUB, Named, named

TRIAL = ("a dog", "a photo of two black cats")  # of different length, so that the end stands out
Tokenize = Callable[[Sequence[str]], Tensor]


def tokenizer(what: Named, clip: nn.Module, asked: str | None = None) -> Tokenize:
    """Texts -> (n, context) int64, by the model's own tokenizer or that of the name ``asked``.

    A folder with our tokenizer gets `cliplib.model.tokenize`: the same ids, faster.

    Raises:
        InputError: it cannot be made, or does not fit the text tower.
    """
    source = named(asked) if asked else what
    if source.loader == "timm":
        raise InputError(f"--tokenizer {asked}: an image tower has no tokenizer; name a CLIP model")
    context = int(clip.context_length)  # type: ignore[arg-type]
    if _is_ours(source.folder):
        tokenize: Tokenize = lambda texts: _our_ids(texts, context)  # noqa: E731
        size = model.tokenizer().get_vocab_size()
    else:
        made = _library_tokenizer(source)
        tokenize = lambda texts: made(list(texts)).long()  # noqa: E731
        size = made.vocab_size if hasattr(made, "vocab_size") else len(made.tokenizer)
    check(what.name, source.name, tokenize, size, clip)
    return tokenize


def _is_ours(folder: Path | None) -> bool:
    """Whether the folder's tokenizer is the committed one, byte for byte."""
    theirs = folder / TOKENIZER_FILES[0] if folder else None
    if theirs is None or not theirs.is_file():
        return False
    return theirs.read_bytes() == (TOKENIZER / TOKENIZER_FILES[0]).read_bytes()


def _our_ids(texts: Sequence[str], context: int) -> Tensor:
    return torch.from_numpy(model.tokenize(texts, context)).long()


def _library_tokenizer(source: Named) -> Any:
    import open_clip

    name = source.identifier
    if source.hub:  # its files are fetched when they are asked for
        name = HUB + source.hub
    try:
        with quiet():
            return open_clip.get_tokenizer(name)
    except (
        Exception
    ) as error:  # transformers, the hub's client and sentencepiece have their own kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        where = source.folder if name.startswith(FOLDER) else source.name
        raise InputError(
            f"{where}: no tokenizer could be made ({reason}); put its files there, or name another "
            "with --tokenizer"
        ) from None


def check(name: str, whose: str, tokenize: Tokenize, size: int, clip: nn.Module) -> None:
    """Try the tokenizer on two texts.

    Args:
        name: of the model.
        whose: the name that the tokenizer goes by.
        tokenize: texts -> (n, L) int64.
        size: of its vocabulary.
        clip: has the text tower.

    Raises:
        InputError: more pieces than the tower knows, another context length, or an end-of-text that
            is not where the tower reads its output.
    """
    tower: Any = clip
    known = int(tower.vocab_size)
    if size > known:
        raise InputError(
            f"the tokenizer of {whose} has {size:,} pieces, the text tower of {name} knows {known:,}; "
            "name the right one with --tokenizer"
        )
    tokens = tokenize(TRIAL)
    if tokens.shape[1] != tower.context_length:
        raise InputError(
            f"the tokenizer of {whose} writes {tokens.shape[1]} tokens a text, the text tower of "
            f"{name} takes {tower.context_length}; name the right one with --tokenizer"
        )
    _check_end(name, whose, tokens, size, tower)


def _check_end(name: str, whose: str, tokens: Tensor, size: int, clip: Any) -> None:
    """The towers read their output at one token: the highest id, or a given one."""
    text = getattr(clip, "text", None)
    pool = getattr(clip, "text_pool_type", getattr(text, "pool_type", ""))
    ends = {int(row[row != 0][-1]) for row in tokens}
    if pool == "argmax" and ends != {size - 1}:
        shown = " or ".join(map(str, sorted(ends)))
        raise InputError(
            f"the text tower of {name} reads its output at the highest id, but the tokenizer of "
            f"{whose} ends a text with {shown} of {size:,}: the text after the highest would not "
            'count; name the right one with --tokenizer, or set pool_type "eos" and eos_id in text_cfg'
        )
    end = getattr(clip, "text_eos_id", getattr(text, "eos_id", None))
    if pool == "eos" and not all(end in row for row in tokens.tolist()):
        shown = " or ".join(map(str, sorted(ends)))
        raise InputError(
            f"the text tower of {name} reads its output at id {end}, but the tokenizer of {whose} "
            f"ends a text with {shown}; set eos_id in text_cfg, or name the right one with --tokenizer"
        )
