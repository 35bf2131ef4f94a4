"""Folders of files: splits, classes, order, and what is said of files that are left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smalti.core.errors import InputError
from smalti.data.sources.folder import FolderSource

EXTENSIONS = (".png", ".jpg")


def fill(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    return root


def listed(source: FolderSource, split: str) -> list[tuple[str, str | None]]:
    return [(item.name, item.label) for item in source.items(split)]


def test_flat_folder_is_one_split_without_labels(tmp_path):
    source = FolderSource(fill(tmp_path, "b.png", "a.JPG", "c.jpg"), EXTENSIONS)
    assert source.splits == ("all",)
    assert source.count("all") == 3
    assert listed(source, "all") == [("a.JPG", None), ("b.png", None), ("c.jpg", None)]
    assert [item.content for item in source.items("all")] == [
        tmp_path / name for name in ("a.JPG", "b.png", "c.jpg")
    ]
    assert source.notes("all") == []


def test_class_folders_label_their_files_at_any_depth(tmp_path):
    source = FolderSource(fill(tmp_path, "dog/1.png", "cat/deep/er/2.png", "cat/1.png"), EXTENSIONS)
    assert listed(source, "all") == [("cat/1.png", "cat"), ("cat/deep/er/2.png", "cat"), ("dog/1.png", "dog")]


@pytest.mark.parametrize(
    "files",
    [("cat/1.png", "dog/1.png", "loose.png"), ("cat/1.png", "cat/sub/2.png")],
    ids=["loose", "single"],
)
def test_no_labels_when_folders_do_not_tell_classes(tmp_path, files):
    source = FolderSource(fill(tmp_path, *files), EXTENSIONS)
    assert {label for _, label in listed(source, "all")} == {None}


def test_split_folders_are_normalised_ordered_and_labelled_each_on_its_own(tmp_path):
    fill(
        tmp_path,
        "Test/x.png",
        "valid/cat/1.png",
        "valid/dog/1.png",
        "training/cat/1.png",
        "training/dog/2.png",
    )
    source = FolderSource(tmp_path, EXTENSIONS)
    assert source.splits == ("train", "validation", "test")
    assert listed(source, "train") == [("training/cat/1.png", "cat"), ("training/dog/2.png", "dog")]
    assert listed(source, "validation") == [("valid/cat/1.png", "cat"), ("valid/dog/1.png", "dog")]
    assert listed(source, "test") == [("Test/x.png", None)]


def test_a_split_with_one_class_of_another_split_is_labelled(tmp_path):
    fill(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "test/photos/4.png")
    source = FolderSource(tmp_path, EXTENSIONS)
    assert listed(source, "validation") == [("val/cat/3.png", "cat")]
    assert listed(source, "test") == [("test/photos/4.png", None)]


def test_one_folder_in_each_split_is_no_class(tmp_path):
    source = FolderSource(fill(tmp_path, "train/images/1.png", "test/photos/2.png"), EXTENSIONS)
    assert listed(source, "train") == [("train/images/1.png", None)]
    assert listed(source, "test") == [("test/photos/2.png", None)]


@pytest.mark.parametrize(
    ("folder", "split"), [("", "all"), ("train/", "train")], ids=["without splits", "with splits"]
)
def test_a_few_files_beside_classes_are_reported(tmp_path, folder, split):
    files = [f"{folder}{name}/{number}.png" for name in ("cat", "dog") for number in range(5)]
    source = FolderSource(fill(tmp_path, *files, f"{folder}loose.png"), EXTENSIONS)
    assert {label for _, label in listed(source, split)} == {None}
    (note,) = source.notes(split)
    assert "loose.png" in note


def test_folders_of_splits_beside_another_folder_are_reported(tmp_path):
    source = FolderSource(fill(tmp_path, "train/1.png", "Test/1.png", "extra/1.png"), EXTENSIONS)
    assert source.splits == ("all",)
    (note,) = source.notes("all")
    assert "Test, train" in note
    assert "extra" in note


def test_two_folders_of_the_same_split_are_merged(tmp_path):
    source = FolderSource(fill(tmp_path, "val/a.png", "valid/b.png"), EXTENSIONS)
    assert [name for name, _ in listed(source, "validation")] == ["val/a.png", "valid/b.png"]


def test_a_folder_that_is_no_split_makes_all_of_them_classes(tmp_path):
    source = FolderSource(fill(tmp_path, "train/1.png", "plane/1.png"), EXTENSIONS)
    assert source.splits == ("all",)
    assert listed(source, "all") == [("plane/1.png", "plane"), ("train/1.png", "train")]


def test_folders_without_wanted_files_do_not_hide_splits(tmp_path):
    source = FolderSource(fill(tmp_path, "train/1.png", "test/1.png", "docs/readme.txt"), EXTENSIONS)
    assert source.splits == ("train", "test")
    assert source.notes("train") == ["1 file outside the folders of the splits was ignored: docs/readme.txt"]
    assert source.notes("test") == []


def test_wanted_files_beside_the_splits_are_reported(tmp_path):
    source = FolderSource(fill(tmp_path, "train/1.png", "cover.png"), EXTENSIONS)
    assert source.count("train") == 1
    assert source.notes("train") == [
        "1 file of a known extension, but outside the folders of the splits, was ignored: cover.png"
    ]


def test_ignored_files_are_counted_and_hidden_ones_are_not(tmp_path):
    fill(tmp_path, "a.png", "notes.txt", "z.csv", "sub/.DS_Store", ".git/x.png", "._a.png", "sub/data.json")
    source = FolderSource(tmp_path, EXTENSIONS)
    assert listed(source, "all") == [("a.png", None)]
    assert source.notes("all") == ["3 files were left out (1 .csv, 1 .json, 1 .txt), such as notes.txt"]


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    names = [f"{folder}/{i}.png" for folder in ("b", "a-c", "a") for i in (10, 9, 1)]
    fill(tmp_path, *names)
    forwards = listed(FolderSource(tmp_path, EXTENSIONS), "all")
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: reversed(list(scandir(folder))))
    assert listed(FolderSource(tmp_path, EXTENSIONS), "all") == forwards
    assert [name for name, _ in forwards] == sorted(names)


def test_extensions_may_come_without_a_dot(tmp_path):
    assert FolderSource(fill(tmp_path, "a.png"), ["PNG"]).count("all") == 1


def test_links_are_followed_and_loops_end(tmp_path):
    data = fill(tmp_path / "data", "cat/1.png", "dog/1.png")
    (data / "cat" / "up").symlink_to(data)
    (data / "dog" / "self").symlink_to(data / "dog")
    fill(tmp_path / "elsewhere", "2.png")
    (data / "emu").symlink_to(tmp_path / "elsewhere")
    source = FolderSource(data, EXTENSIONS)
    assert listed(source, "all") == [("cat/1.png", "cat"), ("dog/1.png", "dog"), ("emu/2.png", "emu")]


def test_a_link_that_leads_nowhere_stays_an_item(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    assert [name for name, _ in listed(FolderSource(tmp_path, EXTENSIONS), "all")] == ["a.png", "gone.png"]


def test_a_pipe_is_not_opened(tmp_path):
    fill(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert FolderSource(tmp_path, EXTENSIONS).count("all") == 1


def test_a_folder_that_cannot_be_opened_is_reported(tmp_path, monkeypatch):
    fill(tmp_path, "a.png", "closed/b.png")
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "closed":
            raise PermissionError("closed")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    source = FolderSource(tmp_path, EXTENSIONS)
    assert source.count("all") == 1
    assert source.notes("all") == ["1 folder that cannot be opened was ignored: closed"]


def test_single_file(tmp_path):
    fill(tmp_path, "one.png", "other.png")
    source = FolderSource(tmp_path / "one.png", EXTENSIONS)
    assert source.splits == ("all",)
    assert [(item.name, item.content, item.label) for item in source.items("all")] == [
        ("one.png", tmp_path / "one.png", None)
    ]


def test_missing_path(tmp_path):
    with pytest.raises(InputError, match=r"expected a folder or a file, got .*absent, which does not exist"):
        FolderSource(tmp_path / "absent", EXTENSIONS)


def test_file_of_another_kind(tmp_path):
    fill(tmp_path, "data.zip")
    with pytest.raises(InputError, match=r"ends in one of \.jpg, \.png, got .*data\.zip: unpack an archive"):
        FolderSource(tmp_path / "data.zip", EXTENSIONS)


def test_no_wanted_file_names_what_is_there(tmp_path):
    fill(tmp_path, "a.txt", "b.txt", "c.csv", "LICENSE")
    with pytest.raises(
        InputError,
        match=r"end in one of \.jpg, \.png below .*, found only 2 of \.txt, 1 of .*",
    ):
        FolderSource(tmp_path, EXTENSIONS)


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match="found no files"):
        FolderSource(tmp_path, EXTENSIONS)


def test_folder_that_cannot_be_opened_at_all(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError("closed")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"folders that cannot be opened, such as \."):
        FolderSource(tmp_path, EXTENSIONS)


@pytest.mark.parametrize("ask", ["count", "notes", "items"])
def test_unknown_split(tmp_path, ask):
    source = FolderSource(fill(tmp_path, "train/a.png", "test/a.png"), EXTENSIONS)
    with pytest.raises(InputError, match=r"expected one of the splits train, test of folder .*, got 'dev'"):
        list(getattr(source, ask)("dev"))


def test_a_folder_of_frames_is_one_item_where_such_are_wanted(tmp_path):
    for name in ("cat/a.frames/0.png", "cat/a.frames/1.png", "dog/b.mp4", "dog/c.frames.mp4"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    clips = FolderSource(tmp_path, [".mp4", ".frames"])
    assert listed(clips, "all") == [
        ("cat/a.frames", "cat"),
        ("dog/b.mp4", "dog"),
        ("dog/c.frames.mp4", "dog"),
    ]
    assert clips.notes("all") == []
    (one,) = FolderSource(tmp_path / "cat" / "a.frames", [".mp4", ".frames"]).items("all")
    assert one.content == tmp_path / "cat" / "a.frames"
    pictures = FolderSource(tmp_path, [".png"])
    assert [name for name, _ in listed(pictures, "all")] == ["cat/a.frames/0.png", "cat/a.frames/1.png"]
