"""Weights from the hub, by the libraries' own clients; a failure is one line that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cliplib import InputError


def from_hub(repository: str, files: Sequence[str]) -> Path:
    """The first of ``files`` that the repository has, from the local cache where it is there.

    Raises:
        InputError: it has none of them, or the hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repo_id=repository, filename=file))
        except LocalEntryNotFoundError as error:  # no network, and not in the cache
            raise _failed(f"{repository}/{file}", error) from None
        except EntryNotFoundError:
            continue
        except Exception as error:  # the client's own kinds, its transport's, the file system's
            raise _failed(f"{repository}/{file}", error) from None
    raise InputError(f"{repository}: has none of {', '.join(files)}; pass --weights FILE")


def tagged(arch: str, tag: str, known: Mapping[str, Any]) -> Path:
    """The weights of one of open_clip's tags, ``known`` being its row of their table.

    Raises:
        InputError: they cannot be fetched.
    """
    from open_clip import download_pretrained

    try:
        return Path(download_pretrained(dict(known)))
    except Exception as error:  # as above
        raise _failed(f"{arch} {tag}", error) from None


def _failed(what: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return InputError(
        f"{what}: could not be downloaded ({reason}); with the file on disk, pass --weights FILE"
    )
