"""Archives: read back whole or in parts; truncated, altered and foreign files are refused in one sentence."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.coding import archive as archive_module
from smalti.coding.archive import Archive, ArchiveInfo, ArchiveWriter, digest
from smalti.core.errors import InputError

INFO = ArchiveInfo(
    lossless=True,
    model="ab",
    prior="uniform",
    prior_model=None,
    arithmetic="cd",
    software={"torch": "1"},
    num_codes=16,
    code_shape=(1, 4, 4),
    item_shape=(3, 8, 8),
)


def written(path: Path, names: list[str], labels: list[int] | None = None) -> Path:
    with ArchiveWriter(path, INFO) as writer:
        for begin in range(0, len(names), 4):
            own = names[begin : begin + 4]
            content = os.urandom(8 + 4 * begin)
            writer.add(own, content, digest(content), 4, 8, labels[begin : begin + 4] if labels else ())
    assert writer.size == path.stat().st_size
    return path


@pytest.mark.parametrize("names", [[f"{i:04d}.png" for i in range(9)], ["b", "a\n7x", "ü", "z9", "9"], []])
def test_names_labels_and_blocks_come_back(names: list[str], tmp_path: Path):
    labels = [index % 3 - 1 for index in range(len(names))]
    with Archive(written(tmp_path / "a.sma", names, labels)) as archive:
        assert archive.info == INFO
        assert archive.names == names
        assert archive.labels == labels
        for index, block in enumerate(archive.blocks):
            content = archive.read(index)
            assert digest(content) == block.digest
            last = archive.items(index).stop - 1
            assert archive.find([archive.names[last]]) == [last]
        with pytest.raises(InputError):
            archive.find(["unknown"])


def test_numbered_names_take_no_room(tmp_path: Path):
    few = written(tmp_path / "few.sma", [f"{i:05d}.png" for i in range(4)]).stat().st_size
    with ArchiveWriter(tmp_path / "many.sma", INFO) as writer:
        for begin in range(0, 10_000, 1000):
            writer.add([f"{i:05d}.png" for i in range(begin, begin + 1000)], b"", digest(), 4, 8)
    assert writer.size < few + 10 * 44 + 32


def test_no_file_is_left_when_writing_fails(tmp_path: Path):
    with pytest.raises(KeyError), ArchiveWriter(tmp_path / "a.sma", INFO):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def everything(path: Path) -> None:
    with Archive(path) as archive:
        for index in range(len(archive.blocks)):
            archive.read(index)


def test_every_flipped_bit_is_noticed(tmp_path: Path):
    path = written(tmp_path / "a.sma", ["x", "y", "7"], [0, 1, 2])
    content = path.read_bytes()
    everything(path)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(InputError):
            everything(path)
    for place in range(len(content)):
        path.write_bytes(content[:place])
        with pytest.raises(InputError):
            everything(path)


@settings(max_examples=60)
@given(data=st.data())
def test_altered_files_raise_input_errors_only(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    path = written(tmp_path_factory.mktemp("a") / "a.sma", ["x", "y", "7", "8", "9"])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(content)))
        content[begin : begin + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path.write_bytes(bytes(content))
    try:
        everything(path)
    except InputError:
        return


def test_a_short_pattern_cannot_claim_long_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = [f"{'a' * 4000}{index}.png" for index in range(8)]
    path = written(tmp_path / "a.sma", names)
    with Archive(path) as archive:
        assert archive.names == names
    monkeypatch.setattr(archive_module, "LISTING_BYTES", 8 * 4000)
    monkeypatch.setattr(archive_module, "LISTING_RATIO", 1)
    with pytest.raises(InputError, match="names"):
        Archive(path)


def test_blocks_have_the_shape_in_the_header(tmp_path: Path):
    for sides in ((4, 9), (5, 8)):
        with ArchiveWriter(tmp_path / "a.sma", INFO) as writer:
            writer.add(["a"], b"", digest(), *sides)
        with pytest.raises(InputError, match="shape"):
            Archive(tmp_path / "a.sma")
    shapes = {"code_shape": (1, None, 4), "item_shape": (3, None, 8)}
    with ArchiveWriter(tmp_path / "a.sma", INFO.model_copy(update=shapes)) as writer:
        writer.add(["a"], b"", digest(), 5, 9)
    with Archive(tmp_path / "a.sma") as archive:
        assert (archive.blocks[0].grid_length, archive.blocks[0].length) == (5, 9)


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no file"):
        Archive(tmp_path / "none.sma")
    path = tmp_path / "text.sma"
    path.write_bytes(b"words " * 100)
    with pytest.raises(InputError, match="not one"):
        Archive(path)
    content = written(path, ["a"]).read_bytes()
    path.write_bytes(content[:8] + b"\x02" + content[9:])
    with pytest.raises(InputError, match="newer"):
        Archive(path)


def test_a_small_file_cannot_claim_many_items(tmp_path: Path):
    content = written(tmp_path / "a.sma", [f"{index}.png" for index in range(8)]).read_bytes()
    with Archive(tmp_path / "a.sma") as archive:
        own = [struct.pack("<II", block.num, block.size) for block in archive.blocks]
    for each in own:
        content = content.replace(each, struct.pack("<I", 1 << 16) + each[4:])
    tail = struct.Struct("<III8s")
    num, size, _, end = tail.unpack(content[-tail.size :])
    begin = len(content) - tail.size - 44 * num - size
    crc = zlib.crc32(content[begin:-12])
    (tmp_path / "a.sma").write_bytes(content[:-12] + struct.pack("<I", crc) + end)
    with pytest.raises(InputError, match="131072"):
        Archive(tmp_path / "a.sma")
