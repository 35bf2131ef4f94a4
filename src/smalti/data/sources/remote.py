"""Files at any address that fsspec can open: `s3://`, `gs://`, `hf://`, `memory://` and others."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, final

from smalti.core.errors import InputError
from smalti.data.sources.base import Entry, Files, Item, Source, State
from smalti.data.sources.conventions import ordered_splits, require_split
from smalti.data.sources.listing import Listing, class_depths, normal_endings
from smalti.data.sources.local import changed_item
from smalti.data.sources.walk import is_hidden

AT_ONCE = 32
"""Files that are fetched at the same time; each waits for the network most of its time."""
VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "last_modified", "LastModified", "created")
"""Fields of file systems that change with a file's content, the most reliable ones first."""


def is_remote(address: str) -> bool:
    """Return True for an address with a protocol."""
    return "://" in address


@final
class RemoteFiles(Files):
    """Files below an address.

    Args:
        system: file system of fsspec.
        root: path in it.
        names: as in `Files`.
        class_depth: as in `Files`.
    """

    def __init__(
        self, system: Any, root: str, names: Sequence[str] = (), class_depth: int | None = None
    ) -> None:
        super().__init__(names, class_depth)
        self._system, self._root = system, root

    @classmethod
    def at(cls, address: str, names: Sequence[str] = (), class_depth: int | None = None) -> RemoteFiles:
        """Open an address without listing it.

        Raises:
            InputError: if its protocol is unknown, or its package is not installed.
        """
        # Imported here: a command that reads local files does without.
        from fsspec.core import url_to_fs

        try:
            system, root = url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"expected an address that fsspec can open, received {address} ({error}): install the "
                "package of its protocol, such as s3fs for s3://, or check the address"
            ) from error
        return cls(system, root.rstrip("/"), names, class_depth)

    def listed(self) -> dict[str, State]:
        """States of all files by path, sorted."""
        found: dict[str, Any] = self._system.find(self._root, detail=True)
        if self._root in found:
            raise InputError(
                f"expected the address of a folder, received {self._root}, a file: pass its folder"
            )
        states = {path.removeprefix(f"{self._root}/"): _state(fields) for path, fields in found.items()}
        return dict(sorted(states.items()))

    def entries(self) -> Iterator[Entry]:
        states = self.listed()
        return ((name, states.get(name, (-1, -1))) for name in self.names)

    def items(self, entries: Iterable[Entry]) -> Iterator[Item]:
        waiting: deque[tuple[Entry, Future[bytes]]] = deque()
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")
        try:
            for entry in entries:
                waiting.append((entry, pool.submit(self._read, entry[0])))
                if len(waiting) == AT_ONCE:
                    yield self._item(*waiting.popleft())
            while waiting:
                yield self._item(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def changed(self, entries: Iterable[Entry]) -> str | None:
        """None: to ask for each file again takes as long as to read it. `items` compares the sizes."""
        return None

    def has_same_folders(self, times: Iterable[tuple[str, int]]) -> bool:
        """True: a place without folders' times is not listed again."""
        return True

    def _read(self, name: str) -> bytes:
        return self._system.cat_file(f"{self._root}/{name}")

    def _item(self, entry: Entry, content: Future[bytes]) -> Item:
        name, (size, _) = entry
        try:
            read = content.result()
        except FileNotFoundError:
            raise changed_item(name, self._root) from None
        except Exception as error:  # each file system has its own exceptions
            raise InputError(
                f"expected to read {name} of {self._root}, but that failed ({_reason(error)}): check the "
                "network, and run the same command again"
            ) from error
        if size not in (-1, len(read)):
            raise changed_item(name, self._root)
        return Item(name, read, self.label(name))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _state(fields: dict[str, Any]) -> State:
    """Size of a file, and a number that changes with its content."""
    version = next((fields[name] for name in VERSIONS if fields.get(name) is not None), "")
    size = fields.get("size")
    return -1 if size is None else int(size), zlib.crc32(str(version).encode())


@final
class RemoteSource(Source):
    """The files below an address that have one of the given extensions, as `FolderSource` reads them.

    Hidden files are left out. The files are fetched as they are needed, many at the same time, and not kept.

    Args:
        address: such as `s3://bucket/folder`.
        extensions: extensions of the wanted files, such as ".png", in any case.

    Raises:
        InputError: if the address cannot be opened, or holds no wanted file.
    """

    def __init__(self, address: str, extensions: Sequence[str]) -> None:
        self._place = RemoteFiles.at(address)
        listing = Listing(normal_endings(extensions))
        try:
            self._states = self._place.listed()
        except InputError:
            raise
        except Exception as error:  # each file system has its own exceptions
            raise InputError(
                f"expected files below {address}, but they cannot be listed ({_reason(error)}): check the "
                "address and the access to it"
            ) from error
        for name in self._states:
            if not any(is_hidden(part) for part in PurePosixPath(name).parts):
                (listing.wanted if listing.wants(name) else listing.others).append(name)
        if not listing.wanted:
            raise listing.none_wanted(f"below {address}")
        names, self._notes = listing.by_split()
        depths = class_depths(names)
        self._files = {split: RemoteFiles.at(address, names[split], depths[split]) for split in names}
        self.splits = ordered_splits(names)
        sizes = ", ".join(f"{name} {len(names[name]):,}" for name in self.splits)
        self.description = f"{address} ({sizes})"

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return len(self._files[split].names)

    def items(self, split: str) -> Iterator[Item]:
        return self.section(split, 0, self.count(split))

    def section(self, split: str, begin: int, end: int) -> Iterator[Item]:
        files = self.files(split)
        return files.items((name, self._states[name]) for name in files.names[begin:end])

    def files(self, split: str) -> RemoteFiles:
        require_split(split, self.splits, self.description)
        return self._files[split]

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return list(self._notes[split])
