"""Folders with more than data: runs, litter, broken links, pipes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from smalti.core.errors import InputError
from smalti.data.sources import Source, open_source
from smalti.data.sources.walk import LEDGER

EXTENSIONS = (".png",)


def fill(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    return root


def names(source: Source) -> list[str]:
    return [item.name for split in source.splits for item in source.items(split)]


def write_run(folder: Path) -> Path:
    """The files of a run that matter here."""
    fill(folder, "figures/usage.png", "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"format": 2, "kind": "autoencoder", "smalti": "0.2.0"}))
    return folder


def test_a_run_inside_the_data_is_neither_data_nor_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.png", "dog/b.png")
    before = open_source(str(tmp_path), EXTENSIONS)
    write_run(tmp_path / "runs" / "mine")
    after = open_source(str(tmp_path), EXTENSIONS)
    assert names(after) == names(before) == ["cat/a.png", "dog/b.png"]
    assert after.description == before.description
    assert {item.label for item in after.items("all")} == {"cat", "dog"}
    assert before.notes("all") == []
    assert ["runs/mine" in note for note in after.notes("all")] == [True]


def test_a_store_that_a_killed_run_left_is_no_data(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "run/data/index.json", "run/data/signals.bin", "run/data/b.png")
    assert names(open_source(str(tmp_path), EXTENSIONS)) == ["a.png"]


def test_output_of_commands_below_the_data_is_no_data(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.png", "dog/b.png", f"decoded/{LEDGER}", "decoded/a.png", "decoded/sub/b.png")
    source = open_source(str(tmp_path), EXTENSIONS)
    assert names(source) == ["cat/a.png", "dog/b.png"]
    assert ["decoded" in note for note in source.notes("all")] == [True]
    # Named by the user, it is data.
    assert names(open_source(str(tmp_path / "decoded"), EXTENSIONS)) == ["a.png", "sub/b.png"]


def test_nothing_but_output_of_commands(tmp_path: Path) -> None:
    fill(tmp_path, f"decoded/{LEDGER}", "decoded/a.png")
    with pytest.raises(InputError, match="decoded"):
        open_source(str(tmp_path), EXTENSIONS)


def test_another_config_file_makes_no_run(tmp_path: Path) -> None:
    fill(tmp_path, "set/a.png", "set/config.json")
    assert names(open_source(str(tmp_path), EXTENSIONS)) == ["set/a.png"]
    (tmp_path / "set" / "config.json").write_text('{"kind": "autoencoder", "model_type": "bert"}')
    assert names(open_source(str(tmp_path), EXTENSIONS)) == ["set/a.png"]


def test_a_run_is_refused_as_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run of smalti"):
        open_source(str(write_run(tmp_path / "run")), EXTENSIONS)
    with pytest.raises(InputError, match="run"):
        open_source(str(tmp_path), EXTENSIONS)


@pytest.mark.parametrize(
    "file",
    [
        "__MACOSX/a.png",
        "Thumbs.db",
        "desktop.ini",
        "$RECYCLE.BIN/x.png",
        "@eaDir/a.png/SYNO.png",
        ".DS_Store",
    ],
)
def test_litter_is_left_out_without_a_word(tmp_path: Path, file: str) -> None:
    source = open_source(str(fill(tmp_path, "a.png", file)), EXTENSIONS)
    assert (names(source), source.notes("all")) == (["a.png"], [])


def test_broken_entries_are_items_to_report_and_others_stay(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    (tmp_path / "itself.png").symlink_to("itself.png")
    (tmp_path / "one.png").symlink_to("two.png")
    (tmp_path / "two.png").symlink_to("one.png")
    (tmp_path / "gone.png").symlink_to("nothing.png")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "loop").symlink_to(tmp_path)
    source = open_source(str(tmp_path), EXTENSIONS)
    assert names(source) == ["a.png", "gone.png", "itself.png", "one.png", "two.png"]


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    source = open_source(str(tmp_path), EXTENSIONS)
    assert names(source) == ["a.png"]
    assert ["pipe.png" in note for note in source.notes("all")] == [True]
    with pytest.raises(InputError):
        open_source(str(tmp_path / "pipe.png"), EXTENSIONS)
