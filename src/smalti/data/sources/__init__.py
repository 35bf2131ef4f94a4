"""Sources of items.

Folders, tar files, WebDataset shards, Parquet files, tables of episodes, data sets of the Hugging Face Hub,
idx files, the CIFAR archives, tile grids, and codes files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
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
from smalti.data.sources.remote import is_remote, open_remote
from smalti.data.sources.speech import SpeechSource
from smalti.data.sources.table import TableSource
from smalti.data.sources.webdataset import WebDatasetSource

__all__ = ["Item", "Source", "UnreadableItem", "open_source"]

CODES_ENDING = ".parquet"
"""Extension of a modality whose signals are codes; for other modalities, codes are not the signal."""
ARRAYS_ENDING = ".npy"
"""Extension of a modality whose signals are arrays, which a table holds as nested lists."""
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")

SPEAKER_TABLES = ("speaker-info.txt", "speakers.txt")
"""Tables of speakers in VCTK and LibriSpeech, in lower case. They name no files: their folder is read, whose
paths state the speakers."""


def open_source(text: str, extensions: Sequence[str], pattern: str | None = None) -> Source:
    """Open a local path, an address, or a data set of the Hugging Face Hub as a source.

    Args:
        text: path of a folder or file, an address such as `s3://bucket/folder` (see `open_remote`), or
            "owner/name" (or "owner/name:config") of a data set of the Hub. A
            local path takes precedence, and a text whose first part is a local folder is a path.
        extensions: extensions of the files to look for in a folder or a tar file, such as ".png".
        pattern: regular expression over the file paths in a folder, with a group `speaker` or `label`; see
            `SpeechSource`.

    Raises:
        InputError: if the path or the data set does not exist, or holds nothing usable.
    """
    if is_remote(text):
        return open_remote(text, extensions, of_arrays=ARRAYS_ENDING in extensions)
    path = _local(text)
    if path is not None:
        return _open_path(path, extensions, pattern)
    names_file = text.lower().endswith((".parquet", *TAR_ENDINGS, *map(str.lower, extensions)))
    if HUB_NAME.fullmatch(text) and not names_file and not os.path.lexists(text.partition("/")[0]):
        return HubSource(text)
    raise InputError(
        f"no such folder or file: {text!r}; expected a folder, a file, or a data set of "
        f"the Hugging Face Hub as owner/name, such as ylecun/mnist{_guess(text)}"
    )


def _local(text: str) -> Path | None:
    """Return the path that a text names, or None if nothing is there.

    Raises:
        InputError: if something is there that cannot be opened.
    """
    if not text:
        return None
    try:
        path = Path(text).expanduser()
        if stat.S_ISDIR(path.stat().st_mode):
            os.scandir(path).close()
    except (FileNotFoundError, NotADirectoryError, ValueError, RuntimeError):
        # Also a NUL byte, and the home of an unknown user.
        return None
    except OSError as error:
        raise InputError(
            f"expected a folder or a file, got {text!r}, which cannot be opened ({error.strerror}): check "
            "the path and its permissions"
        ) from error
    return path


def _guess(text: str) -> str:
    """Return a question with the most similar entry of the nearest folder that exists, or nothing."""
    path = Path(text)
    with suppress(OSError, ValueError):
        near = get_close_matches(path.name, sorted(entry.name for entry in os.scandir(path.parent)), 1, 0.7)
        return f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""
    return ""


def _open_path(path: Path, extensions: Sequence[str], pattern: str | None) -> Source:
    if path.is_file() and path.name.lower() in SPEAKER_TABLES:
        path = path.parent
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
    if WebDatasetSource.accepts(path):
        return WebDatasetSource(path, extensions)
    if TarSource.accepts(path):
        return TarSource(path, extensions)
    return FolderSource(path, extensions)
