"""Commands that write many files: stopped in the middle and repeated, they complete their own files only."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smalti.app import letters
from smalti.app.commands import encode as encode_command
from smalti.modalities.image.modality import ImageModality
from tests.runs import Result, digests

Smalti = Callable[..., Result]
FAILS_AT = 3


class FullDisk:
    """A writer that leaves half a file and reports a full disk at its `FAILS_AT`-th call."""

    def __init__(self, write: Callable[..., Any], path_at: int) -> None:
        self.write, self.path_at, self.calls = write, path_at, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == FAILS_AT:
            Path(args[self.path_at]).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.write(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any) -> Any:
        return lambda *args, **kwargs: self(instance, *args, **kwargs)


@pytest.fixture(scope="module")
def few(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of the pictures, one of them unreadable."""
    folder = tmp_path_factory.mktemp("few")
    for index in range(6):
        shutil.copy(pictures / ("cat", "dog")[index % 2] / f"{index:03d}.png", folder)
    (folder / "002.png").write_bytes(b"Dear Anna")
    return folder


@pytest.fixture(scope="module")
def table(trained: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codes") / "codes.parquet"
    encode_command.encode(str(trained), str(few), path, quiet=True)
    return path


@pytest.fixture
def words(trained: Path, few: Path, table: Path) -> dict[str, list[object]]:
    """The command of each verb, without --out."""
    return {
        "decode": ["decode", trained, table],
        "encode": ["encode", trained, "--data", few],
        "sample": ["sample", trained, "--num", 5],
        "reconstruct": ["reconstruct", trained, few],
    }


@pytest.mark.parametrize("verb", ["decode", "encode", "sample", "reconstruct"])
def test_a_command_that_a_full_disk_stopped_can_be_repeated(
    verb: str,
    words: dict[str, list[object]],
    tmp_path: Path,
    smalti: Smalti,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert smalti(*words[verb], "--out", whole, "--quiet").status == 0
    expected = digests(whole)
    assert len(expected) >= 5
    with monkeypatch.context() as patch:
        if verb == "encode":
            patch.setattr(encode_command, "write_packed", FullDisk(encode_command.write_packed, 0))
        else:
            patch.setattr(ImageModality, "save", FullDisk(ImageModality.save, 2))
        stopped = smalti(*words[verb], "--out", out, "--quiet")
    assert stopped.status == 2
    assert "full" in stopped.err
    first = digests(out)
    assert first.items() < expected.items()
    times = {name: (out / name).stat().st_mtime_ns for name in first}
    assert smalti(*words[verb], "--out", out, "--quiet").status == 0
    assert digests(out) == expected
    assert {name: (out / name).stat().st_mtime_ns for name in first} == times
    # A finished command has nothing left to do.
    assert smalti(*words[verb], "--out", out, "--quiet").status == 0
    assert digests(out) == expected


@pytest.mark.parametrize("verb", ["decode", "encode", "sample", "reconstruct"])
def test_files_of_another_command_are_refused(
    verb: str,
    words: dict[str, list[object]],
    few: Path,
    tmp_path: Path,
    smalti: Smalti,
    mistake: Callable[..., str],
) -> None:
    out = tmp_path / "out"
    assert smalti(*words[verb], "--out", out, "--quiet").status == 0
    before = digests(out)
    # The same names, made with other settings or from other data.
    others = Path(shutil.copytree(few, tmp_path / "others"))
    other: dict[str, list[object]] = {
        "decode": [*words["decode"], "--seed", 1],
        "encode": [*words["encode"][:-1], others],
        "sample": [*words["sample"], "--temperature", 0.5],
        "reconstruct": [*words["reconstruct"][:-1], others],
    }
    assert "exists already" in mistake(*other[verb], "--out", out)
    assert digests(out) == before


def test_damaged_codes_are_not_taken_for_complete_ones(
    words: dict[str, list[object]], tmp_path: Path, smalti: Smalti, mistake: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    assert smalti(*words["encode"], "--out", out, "--quiet").status == 0
    whole = digests(out)
    (out / "003.smc").write_bytes((out / "003.smc").read_bytes()[:-2])
    assert "003.smc" in mistake(*words["encode"], "--out", out)
    (out / "003.smc").unlink()
    assert smalti(*words["encode"], "--out", out, "--quiet").status == 0
    assert digests(out) == whole


def test_codes_of_changed_items_are_written_again(
    words: dict[str, list[object]], few: Path, pictures: Path, tmp_path: Path, smalti: Smalti
) -> None:
    data, out = Path(shutil.copytree(few, tmp_path / "data")), tmp_path / "out"
    encode = [*words["encode"][:-1], data, "--out", out, "--quiet"]
    assert smalti(*encode).status == 0
    before = digests(out)
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    shutil.copy2(pictures / "cat" / "038.png", data / "004.png")  # with its older time of modification
    assert smalti(*encode).status == 0
    after = digests(out)
    assert {name for name in after if after[name] != before[name]} == {"004.smc"}
    assert {name for name in after if (out / name).stat().st_mtime_ns != times[name]} == {"004.smc"}


def test_codes_of_a_changed_table_are_written_again(
    trained: Path, few: Path, tmp_path: Path, smalti: Smalti
) -> None:
    data, out = tmp_path / "data.tar", tmp_path / "out"
    with tarfile.open(data, "w") as archive:
        for name in ("000.png", "001.png"):
            archive.add(few / name, name)
    assert smalti("encode", trained, "--data", data, "--out", out, "--quiet").status == 0
    before = digests(out)
    with tarfile.open(data, "w") as archive:
        for name, other in (("000.png", "001.png"), ("001.png", "000.png")):
            archive.add(few / other, name)
    assert smalti("encode", trained, "--data", data, "--out", out, "--quiet").status == 0
    assert digests(out) != before


def test_an_existing_table_is_not_replaced(
    trained: Path, few: Path, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    table = tmp_path / "photos.parquet"
    table.write_bytes(b"mine")
    assert "exists already" in mistake("encode", trained, "--data", few, "--out", table)
    assert table.read_bytes() == b"mine"


def test_letters_appear_when_all_are_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(letters, "_folder_name", fail)
        with pytest.raises(KeyboardInterrupt):
            letters.write_folder(tmp_path / "letters", 4)
    assert list(tmp_path.iterdir()) == []
    letters.write_folder(tmp_path / "letters", 4)
    assert len(list((tmp_path / "letters").rglob("*.png"))) == 4


def test_reconstruct_a_folder(
    words: dict[str, list[object]], pictures: Path, trained: Path, tmp_path: Path, smalti: Smalti
) -> None:
    result = smalti("reconstruct", trained, pictures, pictures / "cat" / "000.png", "--out", tmp_path / "out")
    assert result.status == 0
    assert "41 reconstructions" in result.err
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert {"cat/000.png", "dog/001.png", "000.png", "comparison.png"} < names
    assert len(names) == 42
