"""File names for items: distinct, within the folder, and possible on every system."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.app import names
from smalti.app.names import OutputNames, portable
from smalti.core.files import atomic_directory, atomic_file


def chosen(*names: str, ending: str = ".png") -> list[str]:
    output = OutputNames()
    return [output.choose(name, ending) for name in names]


def test_names_that_need_no_change_keep_theirs() -> None:
    assert chosen("train/a.jpg", "b.wav", "data.parquet#3") == ["train/a.png", "b.png", "data.png"]


def test_the_same_stem_twice() -> None:
    assert chosen("a.jpg", "a.png", "a.jpg", "a.jpg") == ["a.png", "a.png.png", "a.jpg.png", "a.jpg2.png"]


def test_many_equal_names_are_numbered_without_trying_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    monkeypatch.setattr(names, "_key", lambda path, key=names._key: compared.append(path) or key(path))
    assert chosen(*["a.jpg"] * 300)[-1] == "a.jpg299.png"
    assert len(compared) < 10 * 300


@pytest.mark.parametrize(
    "names", [("a.png", "a.png/b.png"), ("a.png/b.png", "a.png"), ("a.png", "A.PNG/b.png", "a.png/b.png")]
)
def test_a_name_that_is_a_file_and_a_folder(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in chosen(*names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        "é" * 125 + ".wav",
        "x" * 250,
        "x" * 255 + "/a.wav",
        "a/" * 3000 + "b.wav",
        "." * 254,
        "a" * 99 + "." + "b" * 154,
    ],
)
@pytest.mark.parametrize("ending", [".png", ".smc"])
def test_long_names_are_written(tmp_path: Path, name: str, ending: str) -> None:
    for choice in chosen(name, name, f"{name}2", ending=ending):
        target = tmp_path / choice
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            temporary.write_bytes(b"content")
        assert target.read_bytes() == b"content"


def test_a_deep_name_keeps_its_last_part_and_one_extension() -> None:
    (name,) = chosen("a/" * 3000 + "b.jpg")
    assert name.startswith("b-")
    assert name.count(".") == 1


def test_long_names_that_begin_alike_differ_in_any_order() -> None:
    one, two = "x" * 240 + "1.wav", "x" * 240 + "2.wav"
    assert chosen(one, two) == chosen(two, one)[::-1]
    assert portable(one).suffix == ".wav"


@pytest.mark.parametrize(
    "name", ["CON", "nul.wav", "a:b?.wav", "clips\\a.wav", "end. ", "a\nb", "\udcff.wav", "..", ""]
)
def test_names_that_other_systems_refuse(name: str) -> None:
    (choice,) = chosen(name)
    assert not set(choice) & set('<>:"|?*\\\n')
    assert choice.split(".")[0].lower() not in ("con", "nul")
    choice.encode()


@given(st.lists(st.text(max_size=6, alphabet="aA./é\u0301\\ "), max_size=8))
def test_names_are_distinct_and_stay_inside(names: list[str]) -> None:
    result = [unicodedata.normalize("NFC", name).casefold() for name in chosen(*names)]
    assert len(set(result)) == len(result)
    folders = {str(parent) for name in result for parent in PurePosixPath(name).parents}
    assert not folders & set(result)
    assert not any(part in ("..", "/") for name in result for part in PurePosixPath(name).parts)


def test_atomic_writes_of_the_longest_name(tmp_path: Path) -> None:
    with atomic_file(tmp_path / ("x" * 255)) as temporary:
        temporary.write_bytes(b"content")
    with atomic_directory(tmp_path / ("é" * 127)) as temporary:
        (temporary / "a").write_bytes(b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x" * 255, "é" * 127]
