"""Where items come from.

Folders, tar files, Parquet, tables of episodes, the Hugging Face Hub, idx files, CIFAR's own archives, grids
of tiles, and files of codes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from smalti.core.errors import InputError
from smalti.data.sources.archive import TAR_ENDINGS, TarSource
from smalti.data.sources.base import Item, Source, UnreadableItem
from smalti.data.sources.cifar import CifarSource
from smalti.data.sources.codes import CodesSource
from smalti.data.sources.episodes import EpisodesSource
from smalti.data.sources.folder import FRAMES_ENDING, FolderSource
from smalti.data.sources.grids import TileGridSource
from smalti.data.sources.hub import HubSource
from smalti.data.sources.idx import IdxSource
from smalti.data.sources.parquet import ParquetSource
from smalti.data.sources.speech import SpeechSource
from smalti.data.sources.table import TableSource

__all__ = ["Item", "Source", "UnreadableItem", "open_source"]

CODES_ENDING = ".parquet"
"""Among the endings that are wanted where codes themselves are the signal; else they lie beside what is."""
ARRAYS_ENDING = ".npy"
"""Among the endings that are wanted where arrays are the signal; in a table they are nested lists."""
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")


def open_source(text: str, extensions: Sequence[str], pattern: str | None = None) -> Source:
    """The source that a user named.

    Args:
        text: a folder or file; or "owner/name" of a data set of the Hugging Face Hub, with
            ":config" after it where it has several. What exists here goes before what the Hub may have.
        extensions: endings of the files that a folder or a tar file is searched for, such as ".png".
        pattern: of a folder's file names, with a group `speaker` or `label`; see `SpeechSource`.

    Raises:
        InputError: when there is no such thing, or nothing in it that can be used.
    """
    path = Path(text).expanduser()
    if text and path.exists():
        return _open_path(path, extensions, pattern)
    names_file = text.lower().endswith((".parquet", *TAR_ENDINGS, *map(str.lower, extensions)))
    if HUB_NAME.fullmatch(text) and not names_file:
        return HubSource(text)
    raise InputError(
        f"no such folder or file: {text!r}; expected a folder, a file, or a data set of "
        "the Hugging Face Hub as owner/name, such as ylecun/mnist"
    )


def _open_path(path: Path, extensions: Sequence[str], pattern: str | None) -> Source:
    if pattern is not None:
        return SpeechSource(path, extensions, pattern)
    if IdxSource.accepts(path):
        return IdxSource(path)
    if CifarSource.accepts(path):
        return CifarSource(path)
    if TileGridSource.accepts(path):
        return TileGridSource(path)
    if TableSource.accepts(path, extensions):
        return TableSource(path, extensions)
    if SpeechSource.accepts(path, extensions):
        return SpeechSource(path, extensions)
    if CODES_ENDING in extensions and CodesSource.accepts(path):
        return CodesSource(path)
    if FRAMES_ENDING in extensions and EpisodesSource.accepts(path):
        return EpisodesSource(path)
    if ParquetSource.accepts(path):
        return ParquetSource(path, of_arrays=ARRAYS_ENDING in extensions)
    if TarSource.accepts(path):
        return TarSource(path, extensions)
    return FolderSource(path, extensions)
