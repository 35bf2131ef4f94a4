"""Sources at addresses of fsspec, on its file system in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import fsspec
import pytest

from smalti.core.errors import InputError
from smalti.data.sources import open_source
from smalti.data.sources.folder import FolderSource
from smalti.data.sources.planned import digest_of
from smalti.data.sources.remote import RemoteFiles, RemoteSource

ADDRESS = "memory://bucket/pictures"
NAMES = [".hidden/x.png", "cat/1.png", "cat/2.PNG", "dog/1.jpg", "dog/notes.txt"]
EXTENSIONS = (".png", ".jpg")


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.pipe({f"/bucket/pictures/{name}": name.encode() for name in NAMES})
    yield system
    system.rm("/bucket", recursive=True)


@pytest.mark.usefixtures("bucket")
def test_items_are_those_of_a_folder(tmp_path: Path) -> None:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    remote, local = open_source(ADDRESS, EXTENSIONS), FolderSource(tmp_path, EXTENSIONS)
    assert isinstance(remote, RemoteSource)
    assert remote.splits == local.splits
    assert remote.count("all") == local.count("all") == 3
    assert remote.notes("all") == local.notes("all")
    expected = [(item.name, item.label, Path(str(item.content)).read_bytes()) for item in local.items("all")]
    assert [(item.name, item.label, item.content) for item in remote.items("all")] == expected
    assert [item.name for item in remote.section("all", 1, 3)] == ["cat/2.PNG", "dog/1.jpg"]


def test_states_change_with_the_files(bucket: fsspec.AbstractFileSystem) -> None:
    files = RemoteSource(ADDRESS, EXTENSIONS).files("all")
    before = digest_of(files.entries())
    assert digest_of(files.entries()) == before
    bucket.pipe("/bucket/pictures/cat/1.png", b"other")
    assert digest_of(files.entries()) != before


def spoil_size(system: fsspec.AbstractFileSystem) -> None:
    system.pipe("/bucket/pictures/dog/1.jpg", b"much longer than before")


def remove(system: fsspec.AbstractFileSystem) -> None:
    system.rm("/bucket/pictures/dog/1.jpg")


@pytest.mark.parametrize("change", [spoil_size, remove], ids=lambda one: one.__name__)
def test_changed_files_are_noticed(
    change: Callable[[fsspec.AbstractFileSystem], None], bucket: fsspec.AbstractFileSystem
) -> None:
    source = RemoteSource(ADDRESS, EXTENSIONS)
    change(bucket)
    with pytest.raises(InputError):
        list(source.items("all"))


def test_many_files_keep_their_order(bucket: fsspec.AbstractFileSystem) -> None:
    names = [f"{index:03d}.png" for index in range(100)]
    bucket.pipe({f"/bucket/many/{name}": name.encode() for name in names})
    items = RemoteSource("memory://bucket/many", EXTENSIONS).items("all")
    assert [(item.name, item.content) for item in items] == [(name, name.encode()) for name in names]


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    "address",
    ["memory://bucket/none", "memory://bucket/pictures/dog/1.jpg", "nonsense://bucket/pictures", "memory://"],
)
def test_what_cannot_be_opened(address: str) -> None:
    with pytest.raises(InputError):
        RemoteSource(address, (".webp",) if address == "memory://" else EXTENSIONS)


@pytest.mark.usefixtures("bucket")
def test_a_failing_network_stops_with_a_sentence() -> None:
    source = RemoteSource(ADDRESS, EXTENSIONS)
    with (
        mock.patch.object(RemoteFiles, "_read", side_effect=TimeoutError("no answer")),
        pytest.raises(InputError),
    ):
        list(source.items("all"))
