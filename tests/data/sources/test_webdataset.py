"""WebDataset shards: samples, classes, splits, and sections that read no more than they need."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from smalti.core.errors import InputError
from smalti.data.sources import open_source
from smalti.data.sources.archive import TarSource
from smalti.data.sources.webdataset import WebDatasetSource

EXTENSIONS = (".png", ".jpg")


def write(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def listed(source: WebDatasetSource, split: str = "all") -> list[tuple[str, bytes, str | None]]:
    return [(item.name, item.content, item.label) for item in source.items(split)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards: classes as text, then as fields; samples without a signal among them."""
    root = tmp_path / "shards"
    write(
        root / "data-000000.tar",
        {
            "a/000.jpg": b"0",
            "a/000.cls": b"3\n",
            "a/001.txt": b"no picture",
            "a/002.cls": b"5",
            "a/002.png": b"2",
        },
    )
    write(
        root / "data-000001.tar.gz",
        {
            "003.json": json.dumps({"label": "cat", "url": "-"}).encode(),
            "003.JPG": b"3",
            "004.json": b"not json",
            "004.seg.png": b"4",
            "004.jpg": b"second signal",
            ".hidden.jpg": b"",
            "005.jpg": b"5",
        },
        "w:gz",
    )
    (root / "README.md").write_text("Pictures")
    return root


EXPECTED = [
    ("data-000000.tar/a/000.jpg", b"0", "3"),
    ("data-000000.tar/a/002.png", b"2", "5"),
    ("data-000001.tar.gz/003.JPG", b"3", "cat"),
    ("data-000001.tar.gz/004.seg.png", b"4", None),
    ("data-000001.tar.gz/005.jpg", b"5", None),
]


def test_samples_of_a_folder(folder: Path) -> None:
    source = open_source(str(folder), EXTENSIONS)
    assert isinstance(source, WebDatasetSource)
    assert source.splits == ("all",)
    assert source.count("all") == 5
    assert listed(source) == EXPECTED


@pytest.mark.parametrize("begin", range(6))
@pytest.mark.parametrize("end", range(6))
def test_sections(folder: Path, begin: int, end: int) -> None:
    source = WebDatasetSource(folder, EXTENSIONS)
    section = [(item.name, item.content, item.label) for item in source.section("all", begin, end)]
    assert section == EXPECTED[begin:end]


def test_names_of_files_state_the_split(tmp_path: Path) -> None:
    for name in ("train-000000", "train-000001", "val-000000"):
        write(tmp_path / f"{name}.tar", {f"{name}.jpg": b""})
    source = WebDatasetSource(tmp_path, EXTENSIONS)
    assert {split: source.count(split) for split in source.splits} == {"train": 2, "validation": 1}


def test_a_single_file_needs_classes(tmp_path: Path) -> None:
    samples = write(tmp_path / "samples.tar", {"0.jpg": b"0", "0.cls": b"1"})
    source = open_source(str(samples), EXTENSIONS)
    assert isinstance(source, WebDatasetSource)
    assert listed(source) == [("0.jpg", b"0", "1")]
    pictures = write(tmp_path / "pictures.tar", {"cat/0.jpg": b"0", "cat/0.json": b"{}", "dog/0.jpg": b"0"})
    assert isinstance(open_source(str(pictures), EXTENSIONS), TarSource)


def test_no_signal_and_damage(tmp_path: Path) -> None:
    write(tmp_path / "none" / "0.tar", {"0.txt": b"0"})
    with pytest.raises(InputError):
        WebDatasetSource(tmp_path / "none", EXTENSIONS)
    cut = write(tmp_path / "cut" / "0.tar", {"0.jpg": bytes(2000), "1.jpg": bytes(2000)})
    cut.write_bytes(cut.read_bytes()[:4000])
    with pytest.raises(InputError):
        WebDatasetSource(tmp_path / "cut", EXTENSIONS)
