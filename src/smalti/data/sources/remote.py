"""Files at any address that fsspec can open: `s3://`, `gs://`, `hf://`, `memory://` and others."""

from __future__ import annotations

import io
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath, PurePosixPath
from typing import Any, final

from smalti.core.errors import InputError
from smalti.data.sources.base import Entry, Files, Item, Source, State
from smalti.data.sources.conventions import ordered_splits, require_split
from smalti.data.sources.listing import Listing, class_depths, normal_endings
from smalti.data.sources.local import changed_item
from smalti.data.sources.parquet import ParquetFiles, ParquetSource
from smalti.data.sources.walk import is_hidden

AT_ONCE = 32
"""Files that are fetched at the same time; each waits for the network most of its time."""
PARQUET = ".parquet"
VERSIONS = ("ETag", "blob_id", "etag", "md5Hash", "mtime", "last_modified", "LastModified", "created")
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
        self.system, self.root = system, root

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
        found: dict[str, Any] = self.system.find(self.root, detail=True)
        if self.root in found:
            raise InputError(
                f"expected the address of a folder, received {self.root}, a file: pass its folder"
            )
        states = {path.removeprefix(f"{self.root}/"): _state(fields) for path, fields in found.items()}
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
        return self.system.cat_file(f"{self.root}/{name}")

    def _item(self, entry: Entry, content: Future[bytes]) -> Item:
        name, (size, _) = entry
        try:
            read = content.result()
        except FileNotFoundError:
            raise changed_item(name, self.root) from None
        except Exception as error:  # each file system has its own exceptions
            raise InputError(
                f"expected to read {name} of {self.root}, but that failed ({_reason(error)}): check the "
                "network, and run the same command again"
            ) from error
        if size not in (-1, len(read)):
            raise changed_item(name, self.root)
        return Item(name, read, self.label(name))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _state(fields: dict[str, Any]) -> State:
    """Size of a file, and a number that changes with its content."""
    version = next((fields[name] for name in VERSIONS if fields.get(name) is not None), "")
    size = fields.get("size")
    return -1 if size is None else int(size), zlib.crc32(str(version).encode())


@final
class RemoteParquetFiles(ParquetFiles):
    """Parquet files below an address.

    Args:
        address: the address.
        states: files below it.
    """

    def __init__(self, address: str, states: Mapping[str, State]) -> None:
        place = RemoteFiles.at(address)
        self._system, self._address, self.root = place.system, place.root, PurePosixPath(place.root)
        self._ranges: bool | None = None
        names = [name for name in states if name.lower().endswith(PARQUET)]
        self.paths = [self.root / name for name in names]
        # The description identifies the content: a plan compares it.
        version = zlib.crc32(repr([(name, states[name]) for name in names]).encode())
        self.description = f"{address} (version {version:08x})"

    def open(self, path: PurePath) -> Any:
        # Not str(path): a path joins the slashes of http://.
        address = f"{self._address}/{path.relative_to(self.root)}"
        if self._has_ranges(address):
            return self._system.open(address, "rb")
        return io.BytesIO(self._system.cat_file(address))

    def _has_ranges(self, address: str) -> bool:
        """False for a web server that sends whole files only, such as Python's `http.server`."""
        if self._ranges is None:
            is_web = address.startswith(("http://", "https://"))
            self._ranges = not is_web or len(self._system.cat_file(address, start=0, end=1)) == 1
        return self._ranges

    def content(self, cell: object, path: PurePath) -> bytes:
        """The bytes in the row; paths of other files are not followed."""
        held = cell.get("bytes") if isinstance(cell, dict) else cell
        return held if isinstance(held, bytes) else b""


def open_remote(address: str, extensions: Sequence[str], of_arrays: bool = False) -> Source:
    """Open a folder of files, or of Parquet files only, at an address. Hidden files are left out.

    Args:
        address: such as `s3://bucket/folder`, or `hf://datasets/owner/name` for a data set of the Hub.
        extensions: extensions of the wanted files.
        of_arrays: see `ParquetSource`.

    Raises:
        InputError: if the address cannot be opened, or holds nothing usable.
    """
    try:
        found = RemoteFiles.at(address).listed()
    except InputError:
        raise
    except Exception as error:  # each file system has its own exceptions
        raise InputError(
            f"expected files below {address}, but they cannot be listed ({_reason(error)}): check the "
            "address and the access to it"
        ) from error
    states = {name: state for name, state in found.items() if not any(map(is_hidden, name.split("/")))}
    names = [name for name in states if name.lower() != "readme.md"]
    if names and all(name.lower().endswith(PARQUET) for name in names):
        return ParquetSource(RemoteParquetFiles(address, states), of_arrays)
    return RemoteSource(address, states, extensions)


@final
class RemoteSource(Source):
    """The files below an address that have one of the given extensions, as `FolderSource` reads them.

    The files are fetched as they are needed, many at the same time, and not kept.

    Args:
        address: such as `s3://bucket/folder`.
        states: files below it.
        extensions: extensions of the wanted files, such as ".png", in any case.

    Raises:
        InputError: if there is no wanted file.
    """

    def __init__(self, address: str, states: Mapping[str, State], extensions: Sequence[str]) -> None:
        self._states = states
        listing = Listing(normal_endings(extensions))
        for name in states:
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
