"""Where items come from: folders, Parquet, the Hugging Face Hub, idx files, and drawn letters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from smalti.data.sources.base import Item, Source, UnreadableItem
from smalti.data.sources.folder import FolderSource
from smalti.data.sources.hub import HubSource
from smalti.data.sources.idx import IdxSource
from smalti.data.sources.letters import LettersSource
from smalti.data.sources.parquet import ParquetSource
from smalti.interfaces import InputError

__all__ = ["Item", "Source", "UnreadableItem", "open_source"]

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")


def open_source(text: str, extensions: Sequence[str]) -> Source:
    """The source that a user named.

    Args:
        text: "letters"; a folder or file; or "owner/name" of a data set of the Hugging Face Hub, with
            ":config" after it where it has several. What exists here goes before what the Hub may have.
        extensions: endings of the files that a folder is searched for, such as ".png".

    Raises:
        InputError: when there is no such thing, or nothing in it that can be used.
    """
    if text == "letters":
        return LettersSource()
    path = Path(text).expanduser()
    if text and path.exists():
        return _open_path(path, extensions)
    names_file = path.suffix.lower() in {".parquet", *(extension.lower() for extension in extensions)}
    if HUB_NAME.fullmatch(text) and not names_file:
        return HubSource(text)
    raise InputError(
        f"no such folder or file: {text!r}; expected a folder, a file, the word letters, or a data set of "
        "the Hugging Face Hub as owner/name, such as ylecun/mnist"
    )


def _open_path(path: Path, extensions: Sequence[str]) -> Source:
    if IdxSource.accepts(path):
        return IdxSource(path)
    if ParquetSource.accepts(path):
        return ParquetSource(path)
    return FolderSource(path, extensions)
