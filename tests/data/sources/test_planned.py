"""Stored listings: any section is what was listed, and changed files are noticed."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.core.errors import InputError
from smalti.data.sources import planned
from smalti.data.sources.folder import FolderSource
from smalti.data.sources.local import LocalFiles, state_of
from smalti.data.sources.planned import (
    PlannedSource,
    digest_of,
    read_listing,
    write_listing,
)

NAMES = ["a.png", "b/1.png", "b/2.png", "c\udcff.png", "d.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return tmp_path / "data"


entries = st.lists(
    st.tuples(
        st.text(min_size=1).filter(lambda name: "\0" not in name), st.tuples(st.integers(0), st.integers(0))
    ).map(
        lambda entry: (
            entry[0].encode("utf-8", "ignore").decode(),
            (entry[1][0] % 2**63, entry[1][1] % 2**63),
        )
    ),
    max_size=20,
)


@given(entries, st.integers(1, 5), st.integers(0, 20), st.integers(0, 20))
def test_sections_are_those_of_the_list(
    tmp_path_factory: pytest.TempPathFactory, listed: list, rows: int, begin: int, end: int
) -> None:
    path = tmp_path_factory.mktemp("listing") / "files.arrow"
    begin, end = sorted((min(begin, len(listed)), min(end, len(listed))))
    with mock.patch.object(planned, "ROWS", rows):
        assert write_listing(path, listed) == digest_of(listed)
        assert list(read_listing(path, begin, end)) == listed[begin:end]
        assert list(read_listing(path)) == listed


def test_items_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    source = FolderSource(folder, (".png",))
    files = source.files("all")
    write_listing(tmp_path / "files.arrow", files.entries())
    place = LocalFiles(folder, class_depth=files.class_depth)
    planned_source = PlannedSource(tmp_path / "files.arrow", place, "all", 5, "pictures")
    assert list(planned_source.items("all")) == list(source.items("all"))
    assert list(planned_source.section("all", 1, 3)) == list(source.section("all", 1, 3))
    assert planned_source.changed("all", 0, 5) is None
    (folder / "b" / "2.png").write_bytes(b"")
    assert planned_source.changed("all", 0, 2) is None
    assert planned_source.changed("all", 0, 5) == "b/2.png"
    with pytest.raises(InputError):
        list(planned_source.items("all"))


def test_states_tell_files_apart(folder: Path) -> None:
    assert state_of(folder / "a.png")[0] == 5
    assert state_of(folder / "b")[0] == 14
    assert state_of(folder / "none") == (-1, -1)
    assert digest_of([("a", (1, 2))]) != digest_of([("a", (1, 3))])
    assert digest_of([("a", (1, 2)), ("b", (1, 2))]) != digest_of([("a\0b", (1, 2))])


def test_a_damaged_listing(tmp_path: Path) -> None:
    (tmp_path / "files.arrow").write_bytes(b"Dear Anna")
    with pytest.raises(InputError):
        list(read_listing(tmp_path / "files.arrow"))
