"""The packed file: what is packed is unpacked, its bits never move, and no altered file is believed."""

import errno
import json
import math
import os
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from smalti.core import files
from smalti.core.errors import InputError
from smalti.data.packed import (
    ENDING,
    FORMAT,
    PackedInfo,
    Units,
    bits_of,
    overhead,
    pack,
    read_packed,
    unpack,
    write_packed,
)

INFO = PackedInfo(
    num_codes=5,
    num_codebooks=2,
    grid=(3,),
    model="ab12",
    name="kōan.wav",
    label="cat",
    units=Units(seconds=0.5),
    size=(8000,),
    version="0.1.0",
)
CODES = np.array([[0, 1, 2], [3, 4, 0]])

GOLDEN_HEADER = (
    '{"num_codes":5,"num_codebooks":2,"grid":[3],"model":"ab12","name":"kōan.wav","label":"cat",'
    '"units":{"seconds":0.5},"size":[8000],"version":"0.1.0"}'
).encode()
# Three bits a code, in the order 0 3 | 1 4 | 2 0, and six bits of padding.
GOLDEN_PAYLOAD = bytes([0b000_011_00, 0b1_100_010_0, 0b00_000000])
GOLDEN_CHECKSUM = bytes.fromhex("5db994b5")
GOLDEN = b"SMALTI\x00\x02\x94\x00\x00\x00" + GOLDEN_HEADER + GOLDEN_PAYLOAD + GOLDEN_CHECKSUM

HEADER_1 = GOLDEN_HEADER.replace(b'"size":[8000]', b'"length":8000')
VERSION_1 = b"SMALTI\x00\x01\x94\x00\x00\x00" + HEADER_1 + GOLDEN_PAYLOAD + bytes.fromhex("e60a0ffe")


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def crafted(header: dict | bytes, payload: bytes = GOLDEN_PAYLOAD) -> bytes:
    """A file with any header, with a checksum that fits, as an enemy would make it."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return sealed(b"SMALTI\0\2" + struct.pack("<I", len(content)) + content + payload)


def altered(**fields) -> dict:
    return json.loads(GOLDEN_HEADER) | fields


def info_of(num_codes: int, num_codebooks: int, grid: tuple[int, ...]) -> PackedInfo:
    return PackedInfo(num_codes=num_codes, num_codebooks=num_codebooks, grid=grid, model="0", name="item")


def random_codes(info: PackedInfo, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, info.num_codes, info.shape)


def bits_by_hand(codes: np.ndarray, num_codes: int) -> str:
    """The payload as a string of zeros and ones, one code at a time."""
    width = math.ceil(math.log2(num_codes))
    positions = [codes[(slice(None), *index)] for index in np.ndindex(codes.shape[1:])]
    return "".join(f"{code:0{width}b}" for position in positions for code in position) if width else ""


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fails when the block allocates more than `limit` bytes at any time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


edges = [num_codes for power in range(17) for num_codes in (2**power, 2**power + 1)]
infos = st.builds(
    info_of,
    st.sampled_from(edges) | st.integers(1, 70_000),
    st.integers(1, 4),
    st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
)


class TestRoundTrip:
    @settings(deadline=None)
    @given(infos, st.integers(0, 2**32 - 1))
    def test_any_codes(self, info: PackedInfo, seed: int):
        codes = random_codes(info, seed)
        content = pack(codes, info)
        read = unpack(content, "item.smc")
        assert read.info == info
        assert read.codes.dtype == np.int64
        np.testing.assert_array_equal(read.codes, codes)
        bits = bits_by_hand(codes, info.num_codes)
        payload = int(bits.ljust(-(-len(bits) // 8) * 8, "0") or "0", 2).to_bytes(-(-len(bits) // 8), "big")
        assert bits_of(info) == len(bits)
        assert len(content) == overhead(info) + math.ceil(len(bits) / 8)
        assert content[overhead(info) - 4 : -4] == payload

    @pytest.mark.parametrize("num_codes", [1, 2, 3, 512, 513, 2**31 - 1])
    @pytest.mark.parametrize("count", [2**16 - 1, 2**16, 2**16 + 1, 2**17 + 3])
    def test_many_codes(self, num_codes: int, count: int):
        info = info_of(num_codes, 1, (count,))
        codes = random_codes(info)
        np.testing.assert_array_equal(unpack(pack(codes, info), "c").codes, codes)

    @pytest.mark.parametrize("grid", [(), (1,) * 8])
    def test_unusual_grids(self, grid: tuple[int, ...]):
        info = info_of(9, 3, grid)
        np.testing.assert_array_equal(unpack(pack(random_codes(info), info), "c").codes, random_codes(info))

    def test_all_of_the_header(self):
        assert unpack(pack(CODES, INFO), "c").info == INFO
        assert overhead(INFO) == 8 + 4 + len(GOLDEN_HEADER) + 4

    def test_codes_are_ours_to_change(self):
        codes = unpack(pack(CODES, INFO), "c").codes
        assert codes.flags.writeable
        assert codes.flags.c_contiguous

    def test_strided_codes(self):
        info = info_of(5, 3, (2,))
        np.testing.assert_array_equal(unpack(pack(CODES.T, info), "c").codes, CODES.T)

    def test_one_entry_takes_no_bits(self):
        info = info_of(1, 2, (4, 4))
        assert bits_of(info) == 0
        assert len(pack(np.zeros(info.shape, np.int64), info)) == overhead(info)


class TestLayout:
    def test_the_bytes_are_fixed_forever(self):
        assert pack(CODES, INFO) == GOLDEN
        np.testing.assert_array_equal(unpack(GOLDEN, "c").codes, CODES)

    @pytest.mark.parametrize("header", [HEADER_1, HEADER_1.replace(b"8000", b"null")], ids=["sound", "image"])
    def test_version_1(self, header: bytes):
        body = b"SMALTI\0\1" + struct.pack("<I", len(header)) + header + GOLDEN_PAYLOAD
        content = sealed(body)
        assert (content == VERSION_1) == (header == HEADER_1)
        expected = INFO if header == HEADER_1 else INFO.model_copy(update={"size": None})
        assert unpack(content, "c").info == expected
        np.testing.assert_array_equal(unpack(content, "c").codes, CODES)

    def test_others_may_write_the_header_in_their_way(self):
        spaced = json.dumps(json.loads(GOLDEN_HEADER), indent=2, sort_keys=True).encode()
        assert unpack(crafted(spaced), "c").info == INFO

    def test_a_million_codes(self):
        info = info_of(1025, 2, (500_000,))
        codes = random_codes(info)
        start = time.process_time()
        content = pack(codes, info)
        assert time.process_time() - start < 0.5
        start = time.process_time()
        with memory_below(3 * codes.nbytes):
            read = unpack(content, "c")
        assert time.process_time() - start < 1
        np.testing.assert_array_equal(read.codes, codes)


class TestFile:
    def test_what_is_written_is_read(self, tmp_path: Path):
        path = tmp_path / f"item{ENDING}"
        assert write_packed(path, CODES, INFO) == len(GOLDEN)
        assert path.read_bytes() == GOLDEN
        read = read_packed(str(path))
        assert read.info == INFO
        np.testing.assert_array_equal(read.codes, CODES)
        assert os.listdir(tmp_path) == ["item.smc"]

    def test_full_disk_keeps_the_old_file(self, tmp_path: Path, monkeypatch):
        def full(file):
            raise OSError(errno.ENOSPC, "No space left on device")

        (tmp_path / "c.smc").write_bytes(b"before")
        monkeypatch.setattr(files, "_sync", full)
        with pytest.raises(InputError, match="the disk is full"):
            write_packed(tmp_path / "c.smc", CODES, INFO)
        assert os.listdir(tmp_path) == ["c.smc"]
        assert (tmp_path / "c.smc").read_bytes() == b"before"

    def test_refused_codes_leave_nothing(self, tmp_path: Path):
        with pytest.raises(InputError, match="expected codes from 0 to 4"):
            write_packed(tmp_path / "c.smc", CODES + 1, INFO)
        assert os.listdir(tmp_path) == []

    def test_missing(self, tmp_path: Path):
        with pytest.raises(InputError, match=r"gone\.smc does not exist: make one with smalti encode"):
            read_packed(tmp_path / "gone.smc")
        with pytest.raises(InputError, match="does not exist"):
            read_packed(tmp_path)

    def test_unreadable(self, tmp_path: Path, monkeypatch):
        def failing(*_):
            raise OSError(errno.EIO, "Input/output error")

        (tmp_path / "c.smc").write_bytes(GOLDEN)
        monkeypatch.setattr(Path, "open", failing)
        with pytest.raises(InputError, match=r"c\.smc cannot be read \(Input/output error\)"):
            read_packed(tmp_path / "c.smc")

    def test_a_large_file_of_somebody_else_is_not_read(self, tmp_path: Path):
        with (tmp_path / "film.mp4").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(InputError, match=r"film\.mp4 is not one that smalti wrote"):
            read_packed(tmp_path / "film.mp4")


class TestPackRefuses:
    @pytest.mark.parametrize("code", [-1, 5, 2**32])
    def test_out_of_range(self, code: int):
        codes = CODES.copy()
        codes[1, 2] = code
        with pytest.raises(InputError, match=f"expected codes from 0 to 4, received .*{code}"):
            pack(codes, INFO)

    @pytest.mark.parametrize("shape", [(2, 4), (3, 2), (2, 3, 1), (6,), (2, 0)], ids=str)
    def test_shapes(self, shape: tuple[int, ...]):
        with pytest.raises(InputError, match=r"expected codes of shape \(2, 3\), received"):
            pack(np.zeros(shape, np.int64), INFO)

    def test_long_names(self):
        with pytest.raises(InputError, match=r"at most 1048576 bytes, .* shorter name"):
            pack(CODES, INFO.model_copy(update={"name": "a" * (1 << 20)}))

    def test_names_that_are_no_unicode(self):
        with pytest.raises(InputError, match=r"expected .* valid Unicode, received"):
            pack(CODES, INFO.model_copy(update={"name": os.fsdecode(b"\xff.wav")}))

    def test_many_codes_without_bits(self):
        info = info_of(1, 1, ((1 << 20) + 1,))
        with pytest.raises(InputError, match="expected at most 1048576 codes in the codes to write"):
            pack(np.zeros(info.shape, np.int64), info)

    @pytest.mark.parametrize(
        "fields",
        [
            {"num_codes": 0},
            {"num_codes": 2**31},
            {"num_codebooks": 0},
            {"grid": (3, 0)},
            {"grid": (1,) * 9},
            {"units": {"seconds": 0.0}},
            {"units": {"seconds": math.inf}},
            {"units": {"frames": 1}},
            {"size": (0,)},
            {"size": ()},
            {"extra": 1},
        ],
        ids=str,
    )
    def test_info(self, fields: dict):
        with pytest.raises(ValidationError):
            PackedInfo.model_validate(INFO.model_dump() | fields)


class TestUnpackRefuses:
    def refused(self, content: bytes, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            unpack(content, "stranger.smc")
        assert "stranger.smc" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_every_altered_byte(self):
        for index in range(len(GOLDEN)):
            for flip in (*(1 << bit for bit in range(8)), 0xFF):
                content = bytearray(GOLDEN)
                content[index] ^= flip
                self.refused(bytes(content), r": \w")

    def test_every_truncation(self):
        for size in range(len(GOLDEN)):
            self.refused(GOLDEN[:size], r": \w")

    @pytest.mark.parametrize("tail", [b"\0", b"garbage", GOLDEN])
    def test_trailing_bytes(self, tail: bytes):
        self.refused(
            GOLDEN + tail, rf"expected 3 bytes of codes in .*, received {3 + len(tail)}: the file is"
        )

    def test_trailing_bytes_under_a_fitting_checksum(self):
        self.refused(crafted(GOLDEN_HEADER, GOLDEN_PAYLOAD + b"\0"), "expected 3 bytes .*, received 4")

    @pytest.mark.parametrize(
        "content", [b"", b"SMALTI", b"SMALTI\0", b"RIFF....WAVE", b"smalti\0\1" + b"\0" * 90]
    )
    def test_other_files(self, content: bytes):
        self.refused(content, r"is not one that smalti wrote: make one with smalti encode")

    @pytest.mark.parametrize("layout", [FORMAT + 1, 255])
    def test_newer_version(self, layout: int):
        body = b"SMALTI\0" + bytes([layout]) + b"a layout that is not known yet"
        words = rf"newer version of smalti \(format {layout}; this one reads up to 2\): run pip install -U"
        self.refused(body, words)
        self.refused(body[:8], words)

    def test_version_zero(self):
        self.refused(b"SMALTI\0\0" + GOLDEN[8:], "expected a format from 1 to 2 in .*, received 0")

    def test_prefix_alone(self):
        self.refused(GOLDEN[:10], "expected at least 12 bytes in .*, received 10")

    @pytest.mark.parametrize("header_bytes", [(1 << 20) + 1, 2**32 - 1])
    def test_absurd_header_lengths(self, header_bytes: int):
        self.refused(
            sealed(GOLDEN[:8] + struct.pack("<I", header_bytes) + GOLDEN[12:-4]),
            f"expected a header of at most 1048576 bytes in .*, received a length of {header_bytes}",
        )

    @pytest.mark.parametrize("header_bytes", [len(GOLDEN) - 15, 1 << 20])
    def test_header_beyond_the_file(self, header_bytes: int):
        self.refused(
            sealed(GOLDEN[:8] + struct.pack("<I", header_bytes) + GOLDEN[12:-4]),
            f"expected at least {header_bytes + 16} bytes .*, received {len(GOLDEN)}: the file is damaged",
        )

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"{}",
            b"\xff",
            b"[" * 100_000,
            GOLDEN_HEADER + b"}",
            GOLDEN_HEADER.replace(b"[3]", b"[" + b"9" * 10_000 + b"]"),
            GOLDEN_HEADER.replace(b"0.5", b"NaN"),
            GOLDEN_HEADER.replace(b"cat", b"\\udcff"),
            *(
                altered(**fields)
                for fields in (
                    {"num_codes": "5"},
                    {"num_codes": 5.0},
                    {"num_codes": True},
                    {"num_codes": 0},
                    {"num_codebooks": None},
                    {"grid": 3},
                    {"grid": [-3]},
                    {"grid": [1] * 70 + [3]},
                    {"grid": [2**63]},
                    {"model": 1},
                    {"name": None},
                    {"label": ["cat"]},
                    {"units": 0.5},
                    {"units": {"seconds": -1}},
                    {"units": {"seconds": 1, "metres": 1}},
                    {"size": 0.5},
                    {"size": [0.5]},
                    {"length": 8000},
                    {"version": None},
                    {"future": 1},
                )
            ),
        ],
        ids=lambda header: str(header)[:40],
    )
    def test_headers(self, header: dict | bytes):
        self.refused(crafted(header), "expected a smalti header in .*, received")

    @pytest.mark.parametrize(
        ("num_codes", "payload", "words"),
        [
            (5, GOLDEN_PAYLOAD, r"expected \d+ bytes of codes in .*, received 3"),
            (2, GOLDEN_PAYLOAD, r"expected \d+ bytes of codes in .*, received 3"),
            (1, b"", r"expected at most 1048576 codes in .*, received \d+: use a codebook of two"),
        ],
    )
    @pytest.mark.parametrize("grid", [[10**12], [2**62] * 8, [2**20, 2**20]], ids=str)
    def test_grids_beyond_the_file(self, grid: list[int], num_codes: int, payload: bytes, words: str):
        content = crafted(altered(grid=grid, num_codes=num_codes), payload)
        with memory_below(1 << 20):
            self.refused(content, words)

    def test_checksum(self):
        content = GOLDEN[:-5] + b"\x40" + GOLDEN[-4:]
        self.refused(content, "expected the checksum [0-9a-f]{8} of .*, received [0-9a-f]{8}")

    @pytest.mark.parametrize("bit", range(6))
    def test_padding(self, bit: int):
        payload = GOLDEN_PAYLOAD[:-1] + bytes([GOLDEN_PAYLOAD[-1] | 1 << bit])
        self.refused(
            crafted(GOLDEN_HEADER, payload), "expected zero bits after the last code .*, received ones"
        )

    def test_codes_beyond_the_codebook(self):
        payload = bytes([0b000_011_00, 0b1_101_010_0, 0])
        self.refused(crafted(GOLDEN_HEADER, payload), "expected codes from 0 to 4, received 0 to 5: stranger")

    @pytest.mark.parametrize(
        ("num_codes", "words"),
        [
            (4, "expected 2 bytes of codes in .* out of 4\\), received 3"),
            (9, "expected codes from 0 to 8, received 0 to 12: stranger"),
            (257, "expected 7 bytes of codes in .* out of 257\\), received 3"),
        ],
    )
    def test_another_codebook_size(self, num_codes: int, words: str):
        self.refused(crafted(altered(num_codes=num_codes)), words)
