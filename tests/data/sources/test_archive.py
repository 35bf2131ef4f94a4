"""Tar files of pictures: the layouts of folders, in one pass, and damage that must not pass unseen."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.core.errors import InputError
from smalti.data.sources import archive as archive_module
from smalti.data.sources.archive import TarSource, read_members

EXTENSIONS = (".png", ".jpg")


def write(path: Path, *names: str, links: dict[str, str] | None = None, mode: str = "w:") -> Path:
    """An archive whose files hold their own names."""
    with tarfile.open(path, mode) as archive:
        for name in names:
            add(archive, name, name.encode())
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def listed(source: TarSource, split: str) -> list[tuple[str, str | None]]:
    return [(item.name, item.label) for item in source.items(split)]


SPLIT = ("test/dog/1.png", "train/dog/2.png", "train/cat/1.png", "test/cat/9.png", "train/cat/0.JPG")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.xz", "txz", "tar.bz2", "TAR.GZ"])
def test_splits_and_classes_in_the_order_of_the_archive(tmp_path, ending):
    compression = {"g": "gz", "x": "xz", "b": "bz2"}
    mode = "w:" + next((word for key, word in compression.items() if key in ending.lower().strip("tar")), "")
    path = write(tmp_path / f"a.{ending}", *SPLIT, mode=mode)
    assert TarSource.accepts(path)
    source = TarSource(path, EXTENSIONS)
    assert source.splits == ("train", "test")
    assert (source.count("train"), source.count("test")) == (3, 2)
    for _ in range(2):
        assert listed(source, "train") == [
            ("train/dog/2.png", "dog"),
            ("train/cat/1.png", "cat"),
            ("train/cat/0.JPG", "cat"),
        ]
        assert listed(source, "test") == [("test/dog/1.png", "dog"), ("test/cat/9.png", "cat")]
    assert [item.content for item in source.items("test")] == [b"test/dog/1.png", b"test/cat/9.png"]
    assert source.description == f"archive {path} (train 3, test 2)"
    assert source.notes("train") == []


def test_exact_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        for index, picture in enumerate(pixels):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            add(archive, f"{index}.png", buffer.getvalue())
    items = list(TarSource(tmp_path / "a.tar.xz", EXTENSIONS).items("all"))
    read = [np.asarray(Image.open(io.BytesIO(item.content))) for item in items]
    np.testing.assert_array_equal(np.stack(read), pixels)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("b.png", "a.png"), [("b.png", None), ("a.png", None)]),
        (("dog/1.png", "cat/x/1.png"), [("dog/1.png", "dog"), ("cat/x/1.png", "cat")]),
        (("./pets/dog/1.png", "./pets/cat/1.png"), [("dog/1.png", "dog"), ("cat/1.png", "cat")]),
        (("/home/me/dog/1.png", "/home/me/cat/1.png"), [("dog/1.png", "dog"), ("cat/1.png", "cat")]),
        (("cat/1.png", "cat/2.png"), [("1.png", None), ("2.png", None)]),
        (("cat/1.png", "dog/2.png", "3.png"), [("cat/1.png", None), ("dog/2.png", None), ("3.png", None)]),
    ],
    ids=["flat", "classes", "top", "absolute", "single", "loose"],
)
def test_layouts_without_splits(tmp_path, names, expected):
    source = TarSource(write(tmp_path / "a.tar", *names), EXTENSIONS)
    assert source.splits == ("all",)
    assert listed(source, "all") == expected
    assert [item.content for item in source.items("all")] == [name.encode() for name in names]


@pytest.mark.parametrize("top", ["", "cifar/", "./", "data/cifar/"])
def test_splits_below_a_common_folder(tmp_path, top):
    names = [f"{top}{name}" for name in SPLIT]
    source = TarSource(write(tmp_path / "a.tar.gz", f"{top}README", *names, mode="w:gz"), EXTENSIONS)
    assert listed(source, "test") == [("test/dog/1.png", "dog"), ("test/cat/9.png", "cat")]
    assert source.notes("train") == ["1 file outside the folders of the splits was ignored: README"]


def test_a_single_split_is_no_common_folder(tmp_path):
    source = TarSource(write(tmp_path / "a.tar", "x/train/cat/1.png", "x/train/dog/1.png"), EXTENSIONS)
    assert listed(source, "train") == [("train/cat/1.png", "cat"), ("train/dog/1.png", "dog")]


def test_what_is_left_out(tmp_path):
    names = ("a.png", "notes.txt", ".hidden.png", "._a.png", ".git/b.png", "../up.png", "x/c.csv")
    links = {"link.png": "/etc/passwd", "link.txt": "a.png"}
    source = TarSource(write(tmp_path / "a.tar", *names, links=links), EXTENSIONS)
    assert listed(source, "all") == [("a.png", None)]
    assert source.notes("all") == [
        "3 files were left out (2 .txt, 1 .csv), such as link.txt",
        "1 link in the archive was ignored: link.png",
        "1 file whose path leads out of its folder was ignored: ../up.png",
    ]


def test_large_members_are_left_out_and_never_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "MOST_BYTES", 1 << 20)
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "a.png", b"a")
        add(archive, "large.png", bytes(archive_module.MOST_BYTES + 1))
        add(archive, "full.png", bytes(archive_module.MOST_BYTES))
    source = TarSource(path, EXTENSIONS)
    assert [(item.name, len(item.content)) for item in source.items("all")] == [
        ("a.png", 1),
        ("full.png", archive_module.MOST_BYTES),
    ]
    assert source.notes("all") == ["1 file of more than 1 MiB was ignored: large.png"]
    for member, read in read_members(path):
        if member.name == "large.png":
            with pytest.raises(
                InputError,
                match=r"at most 1,048,576 bytes in large\.png of .*, got 1,048,577",
            ):
                read()


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_headers_of_many_bytes_are_damage(tmp_path, kind):
    header = tarfile.TarInfo("a.png")
    header.type, header.size = kind, 8 << 30
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(InputError, match=r"damaged or of another format \(header of 8,589,934,592 bytes\)"):
        TarSource(tmp_path / "a.tar", EXTENSIONS)


def test_of_two_members_of_a_name_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("a.png", b"old"), ("b.png", b"b"), ("a.png", b"new")):
            add(archive, name, content)
    source = TarSource(tmp_path / "a.tar", EXTENSIONS)
    assert source.count("all") == 2
    assert [(item.name, item.content) for item in source.items("all")] == [("b.png", b"b"), ("a.png", b"new")]


def test_long_and_foreign_names(tmp_path):
    names = [f"{'folder/' * 40}ä.png", f"{'folder/' * 40}{'n' * 150}.png"]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
            for name in names:
                add(archive, name, b"x")
        source = TarSource(tmp_path / "a.tar", EXTENSIONS)
        assert [name for name, _ in listed(source, "all")] == ["ä.png", f"{'n' * 150}.png"]


def test_one_pass_that_ends_with_the_last_item(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar.xz", *(f"test/{n}.png" for n in range(50)), *SPLIT[1:3], mode="w:xz")
    source = TarSource(path, EXTENSIONS)
    seen = []
    read_members = archive_module.read_members

    def spy(path):
        for member, read in read_members(path):
            seen.append(member.name)
            yield member, read

    monkeypatch.setattr(archive_module, "read_members", spy)
    assert len(listed(source, "test")) == 50
    assert seen == [f"test/{n}.png" for n in range(50)]


def test_a_pass_may_be_left_early(tmp_path):
    source = TarSource(write(tmp_path / "a.tar.gz", "a.png", "b.png", mode="w:gz"), EXTENSIONS)
    items = source.items("all")
    assert next(items).name == "a.png"
    items.close()
    assert len(listed(source, "all")) == 2


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_archives_compressed_in_pieces_and_called_otherwise(tmp_path, compress):
    raw = write(tmp_path / "a.tar", *SPLIT).read_bytes()
    (tmp_path / "b.tar").write_bytes(compress(raw[:1000]) + compress(raw[1000:]))
    assert listed(TarSource(tmp_path / "b.tar", EXTENSIONS), "test") == [
        ("test/dog/1.png", "dog"),
        ("test/cat/9.png", "cat"),
    ]


def large(path: Path, mode: str) -> bytes:
    rng = np.random.default_rng(0)
    with tarfile.open(path, mode) as archive:
        for index in range(20):
            add(archive, f"{index}.png", rng.bytes(1024))
    return path.read_bytes()


@pytest.mark.parametrize("compression", ["", "gz", "xz", "bz2"])
@pytest.mark.parametrize("part", [0, 1, 100, 0.3, 0.5, 0.7])
def test_archive_cut_off(tmp_path, compression, part):
    path = tmp_path / "a.tar"
    raw = large(path, f"w:{compression}")
    path.write_bytes(raw[: part if isinstance(part, int) else int(part * len(raw))])
    with pytest.raises(
        InputError, match=r"expected a complete tar file, got .*a\.tar, which is truncated, .*"
    ):
        TarSource(path, EXTENSIONS)


def test_cut_off_between_members(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(large(path, "w:")[: 5 * 1536])
    with pytest.raises(InputError, match=r"truncated, damaged or of another format \(empty header\)"):
        TarSource(path, EXTENSIONS)


@pytest.mark.parametrize("compression", ["", "gz", "xz", "bz2"])
def test_damaged_inside(tmp_path, compression):
    path = tmp_path / "a.tar"
    raw = bytearray(large(path, f"w:{compression}"))
    # Of the plain archive it is a header: there is no checksum of what members hold.
    raw[5 * 1536 : 5 * 1536 + 8] = b"\xff" * 8
    path.write_bytes(raw)
    with pytest.raises(InputError, match="truncated, damaged or of another format"):
        TarSource(path, EXTENSIONS)


def test_a_wrong_checksum_at_the_very_end(tmp_path):
    path = tmp_path / "a.tar.gz"
    raw = bytearray(large(path, "w:gz"))
    raw[-6] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match="CRC check failed"):
        TarSource(path, EXTENSIONS)


def test_damage_that_comes_later_is_reported_when_it_is_read(tmp_path):
    path = tmp_path / "a.tar"
    raw = large(path, "w:")
    source = TarSource(path, EXTENSIONS)
    path.write_bytes(raw[: 3 * 1536 + 700])
    items = source.items("all")
    assert [next(items).name for _ in range(3)] == ["0.png", "1.png", "2.png"]
    with pytest.raises(InputError, match=r"expected a complete tar file, got .*\(unexpected end of data\)"):
        next(items)


def test_no_wanted_file(tmp_path):
    path = write(tmp_path / "a.tar", "a.txt", "b.txt", "LICENSE")
    with pytest.raises(
        InputError, match=r"end in one of \.jpg, \.png in .*a\.tar, found only 2 of \.txt, 1 of no extension:"
    ):
        TarSource(path, EXTENSIONS)
    with pytest.raises(InputError, match=r"a\.tar, found no files"):
        TarSource(write(path), EXTENSIONS)


def test_accepts_files_by_their_names(tmp_path):
    (tmp_path / "folder.tar").mkdir()
    assert not TarSource.accepts(tmp_path / "folder.tar")
    for name, accepted in {"a.tar": True, "a.zip": False, "a.gz": False, "star": False}.items():
        (tmp_path / name).write_bytes(b"")
        assert TarSource.accepts(tmp_path / name) is accepted


@pytest.mark.parametrize("ask", ["count", "notes", "items"])
def test_unknown_split(tmp_path, ask):
    source = TarSource(write(tmp_path / "a.tar", *SPLIT), EXTENSIONS)
    with pytest.raises(InputError, match=r"expected one of the splits train, test of archive .*, got 'dev'"):
        list(getattr(source, ask)("dev"))


@pytest.mark.skipif(
    "SMALTI_DATA" not in os.environ, reason="SMALTI_DATA does not name the folder of real data"
)
def test_real_cifar10_as_jpeg():
    source = TarSource(Path(os.environ["SMALTI_DATA"]) / "cifar10" / "jpeg_q75.tar.xz", EXTENSIONS)
    assert (source.count("train"), source.count("test")) == (50_000, 10_000)
    labels, counts = np.unique([item.label for item in source.items("test")], return_counts=True)
    assert labels.tolist()[:3] == ["airplane", "automobile", "bird"]
    assert set(counts.tolist()) == {1000}


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize(("begin", "end"), [(0, 0), (0, 5), (1, 3), (4, 9), (5, 5)])
def test_sections(tmp_path, ending, begin, end):
    path = tmp_path / f"data.{ending}"
    with tarfile.open(path, "w:gz" if ending.endswith("gz") else "w") as tar:
        for index in (3, 0, 4, 1, 2):
            member = tarfile.TarInfo(f"{index}.png")
            member.size = index
            tar.addfile(member, io.BytesIO(bytes(index)))
    source = TarSource(path, (".png",))
    items = list(source.items("all"))
    assert [item.name for item in items] == ["3.png", "0.png", "4.png", "1.png", "2.png"]
    assert [item.content for item in items] == [bytes(index) for index in (3, 0, 4, 1, 2)]
    assert list(source.section("all", begin, end)) == items[begin:end]
