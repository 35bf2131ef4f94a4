"""File names for the items of a corpus that every file system can store, each different."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from itertools import chain, count
from pathlib import PurePosixPath
from typing import final

from smalti.data.ingest import readable

MOST_NAME_BYTES = 200
"""Longest name written. File systems allow 255 bytes, of which extensions and temporary names need some."""

MOST_PATH_BYTES = 1000
"""Longest relative path written; longer ones keep only their last part."""

FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
"""Characters that some system does not allow in a name."""

RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
"""Names of devices on Windows, with or without an extension."""


@final
class OutputNames:
    """Chooses a distinct relative path for each item: a.jpg and a.png become a.png and a.png.png.

    Paths that differ only in case are not distinct, and no path is a folder of another one, so that the files
    can be copied to any system. A name with an absolute path or `..` stays inside the output folder.
    """

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._numbers: dict[str, int] = {}
        """The next number to try, by name: many items may have the same one."""

    def choose(self, name: str, ending: str) -> str:
        """Return an unused path for an item.

        Args:
            name: of the item, any text.
            ending: extension of the file, such as ".png".
        """
        path = self._beside_files(portable(name))
        plain = (str(path.with_suffix(ending)), f"{path}{ending}")
        base = _key(plain[1])
        first = self._numbers.get(base, 2)
        numbered = (f"{path}{number}{ending}" for number in count(first))
        for tried, candidate in enumerate(chain(plain, numbered), 1 - len(plain)):
            key = _key(candidate)
            if key not in self._files and key not in self._folders:
                self._numbers[base] = first + max(0, tried)
                self._files.add(key)
                self._folders.update(_key(str(parent)) for parent in PurePosixPath(candidate).parents)
                return candidate
        raise AssertionError("the numbers have no end")

    def _beside_files(self, path: PurePosixPath) -> PurePosixPath:
        """Return the path with other folders where a file has the name of one."""
        folder = PurePosixPath()
        for part in path.parts[:-1]:
            while _key(str(folder / part)) in self._files:
                part += "_"
            folder /= part
        return folder / path.name


def portable(name: str) -> PurePosixPath:
    """Return a relative path that every file system can store."""
    parts = [_portable_part(part) for part in readable(name).split("/") if part not in ("", ".", "..")]
    path = PurePosixPath(*(parts or ["unnamed"]))
    if len(str(path).encode()) > MOST_PATH_BYTES:
        return PurePosixPath(_shortened(path.name, name, always=True))
    return path


def _portable_part(part: str) -> str:
    cleaned = FORBIDDEN.sub("_", part).rstrip(" .") or "_"
    if RESERVED.match(cleaned):
        cleaned = f"_{cleaned}"
    return _shortened(cleaned, part)


def _shortened(part: str, whole: str, always: bool = False) -> str:
    """Cut a long name, and add a digest of the whole text that keeps it distinct; the extension stays."""
    if len(part.encode()) <= MOST_NAME_BYTES and not always:
        return part
    digest = hashlib.sha256(whole.encode("utf-8", "backslashreplace")).hexdigest()[:12]
    suffix = PurePosixPath(part).suffix
    suffix = suffix if len(suffix.encode()) <= 16 else ""
    room = MOST_NAME_BYTES - len(suffix.encode()) - len(digest) - 1
    stem = part.removesuffix(suffix).encode()[:room].decode("utf-8", "ignore")
    return f"{stem}-{digest}{suffix}"


def _key(path: str) -> str:
    """Return what systems that ignore case and the form of accents compare."""
    return unicodedata.normalize("NFC", path).casefold()
