"""What a model's name stands for: a folder, an architecture of a library, a repository, an entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from cliplib import InputError
from cliplib.model import CONFIG
from cliplib.pretrained.registry import Entry, entries, find

FOLDER, HUB, TIMM = "local-dir:", "hf-hub:", "timm:"


@dataclass(frozen=True)
class Named:
    """Where a model's configuration is; of arch, folder and hub one is set.

    Attributes:
        name: as it was asked for.
        loader: "open_clip" or "timm".
        arch: the library's name of the architecture.
        tag: the library's name of the weights, where one was given or the entry has one.
        folder: with open_clip_config.json.
        hub: repository with the same.
        entry: of the registry.
    """

    name: str
    loader: str
    arch: str = ""
    tag: str = ""
    folder: Path | None = None
    hub: str = ""
    entry: Entry | None = None

    @property
    def identifier(self) -> str:
        """What open_clip's own functions take."""
        if self.folder:
            return FOLDER + str(self.folder)
        return HUB + self.hub if self.hub else self.arch


def named(name: str, pretrained: str | None = None) -> Named:
    """Find out what ``name`` is; ``pretrained`` is one of the library's tags for it.

    Raises:
        InputError: unknown name or tag (near ones are named), a folder without a configuration,
            ``pretrained`` for a model that has its own weights.
    """
    found = find(name.removeprefix(HUB).removeprefix(TIMM))
    what = Named(name, found.loader, found.arch, found.tag, entry=found) if found else _other(name)
    if not pretrained:
        return what
    if found or what.folder or what.hub:
        raise InputError(f"{name} has weights of its own: leave out --pretrained {pretrained}")
    return _with_tag(what, pretrained)


def _other(name: str) -> Named:
    import open_clip

    if name.startswith(FOLDER):
        return _folder(name, Path(name.removeprefix(FOLDER)))
    if name.startswith(HUB):
        return Named(name, "open_clip", hub=name.removeprefix(HUB))
    if name.startswith(TIMM):
        return _timm(name, name.removeprefix(TIMM))
    arch = name.replace("/", "-")  # "ViT-B/32", as open_clip takes it
    if arch in open_clip.list_models():
        return Named(name, "open_clip", arch)
    path = Path(name)
    if path.is_dir():
        return _folder(name, path)
    if path.is_file():
        raise InputError(f"{name} is a file: name the model first, then pass --weights {name}")
    known = [*open_clip.list_models(), *(one.name for one in entries())]
    raise InputError(
        f"no model or folder {name!r}{_near(name, known)}; a model is a checkpoint folder, a name of "
        "open_clip's, hf-hub:ORG/REPOSITORY, timm:NAME or one of: cliplib models"
    )


def _folder(name: str, path: Path) -> Named:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a folder that holds {CONFIG}")
    if not (path / CONFIG).is_file():
        raise InputError(
            f"{path}: no {CONFIG}, so the architecture is not known; name a model of open_clip's "
            f"instead, with --weights {path}"
        )
    return Named(name, "open_clip", folder=path)


def _timm(name: str, wanted: str) -> Named:
    import timm

    arch, _, tag = wanted.partition(".")
    if not timm.is_model(arch):
        raise InputError(f"timm has no model {arch!r}{_near(arch, timm.list_models())}")
    what = Named(name, "timm", arch)
    return _with_tag(what, tag) if tag else what


def _with_tag(what: Named, tag: str) -> Named:
    known = tags(what)
    if what.loader == "open_clip":
        tag = tag.lower().replace("-", "_")  # as open_clip takes it
    if tag not in known:
        listed = ", ".join(known) or "none"
        raise InputError(
            f"{what.arch} has no pretrained weights {tag!r}{_near(tag, known)}; known: {listed}"
        )
    return Named(what.name, what.loader, what.arch, tag)


def tags(what: Named) -> list[str]:
    """The library's pretrained weights for the architecture."""
    if what.loader == "timm":
        import timm

        full = timm.list_pretrained(f"{what.arch}.*")
        return [one.partition(".")[2] for one in full]
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(what.arch))


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; near it: {', '.join(near)}" if near else ""
