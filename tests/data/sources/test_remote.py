"""Sources at addresses of fsspec, on its file system in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smalti.core.errors import InputError
from smalti.data.sources import open_source
from smalti.data.sources.folder import FolderSource
from smalti.data.sources.parquet import ParquetSource
from smalti.data.sources.planned import digest_of
from smalti.data.sources.remote import RemoteFiles, RemoteSource, open_remote

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
    files = open_remote(ADDRESS, EXTENSIONS).files("all")
    assert files is not None
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
    source = open_remote(ADDRESS, EXTENSIONS)
    change(bucket)
    with pytest.raises(InputError):
        list(source.items("all"))


def test_many_files_keep_their_order(bucket: fsspec.AbstractFileSystem) -> None:
    names = [f"{index:03d}.png" for index in range(100)]
    bucket.pipe({f"/bucket/many/{name}": name.encode() for name in names})
    items = open_remote("memory://bucket/many", EXTENSIONS).items("all")
    assert [(item.name, item.content) for item in items] == [(name, name.encode()) for name in names]


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    "address",
    ["memory://bucket/none", "memory://bucket/pictures/dog/1.jpg", "nonsense://bucket/pictures", "memory://"],
)
def test_what_cannot_be_opened(address: str) -> None:
    with pytest.raises(InputError):
        open_remote(address, (".webp",) if address == "memory://" else EXTENSIONS)


@pytest.mark.usefixtures("bucket")
def test_a_failing_network_stops_with_a_sentence() -> None:
    source = open_remote(ADDRESS, EXTENSIONS)
    with (
        mock.patch.object(RemoteFiles, "_read", side_effect=TimeoutError("no answer")),
        pytest.raises(InputError),
    ):
        list(source.items("all"))


def test_parquet_files_are_streamed(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    """As the Hub lays them out: splits by name, a card beside them; rows may not name other files."""
    for index, split in enumerate(("train", "train", "test")):
        rows = [{"bytes": bytes([index, row]), "path": None} for row in range(5)]
        rows.append({"bytes": None, "path": "/etc/passwd"})
        table = pa.table({"image": pa.array(rows), "label": [row % 2 for row in range(6)]})
        pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
        name = f"/bucket/hub/data/{split}-{index:05d}-of-00002.parquet"
        bucket.pipe(name, (tmp_path / "x.parquet").read_bytes())
    bucket.pipe("/bucket/hub/README.md", b"card")
    source = open_remote("memory://bucket/hub", EXTENSIONS)
    assert isinstance(source, ParquetSource)
    assert {split: source.count(split) for split in source.splits} == {"train": 12, "test": 6}
    items = list(source.section("train", 4, 8))
    assert [(item.name, item.content, item.label) for item in items] == [
        ("data/train-00000-of-00002.parquet#4", bytes([0, 4]), "0"),
        ("data/train-00000-of-00002.parquet#5", b"", "1"),
        ("data/train-00001-of-00002.parquet#0", bytes([1, 0]), "0"),
        ("data/train-00001-of-00002.parquet#1", bytes([1, 1]), "1"),
    ]
    bucket.pipe("/bucket/hub/data/test-00002-of-00002.parquet", (tmp_path / "x.parquet").read_bytes())
    assert open_remote("memory://bucket/hub", EXTENSIONS).description != source.description
