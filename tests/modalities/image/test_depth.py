"""Pictures of more than 8 bits against exact integer arithmetic, and the range of their values."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.image import depth
from smalti.modalities.image.depth import survey
from smalti.modalities.image.fit import Cover
from smalti.modalities.image.modality import ImageConfig
from smalti.modalities.image.pictures import read_picture
from smalti.modalities.video.modality import VideoConfig
from tests.runs import TINY, Result

LEVELS = np.arange(65536, dtype=np.uint16)
NEAREST = np.array([(2 * value * 255 + 65535) // (2 * 65535) for value in range(65536)], np.uint8)
COLOUR = np.stack([LEVELS, LEVELS[::-1], np.roll(LEVELS, 777)], axis=-1).reshape(256, 256, 3)
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Channels of each colour type of PNG."""


def read(content, channels: int = 3, size: tuple[int, int] = (256, 256), **options) -> np.ndarray:
    options = {"filter": "lanczos", "background": "white", **options}
    return read_picture(content, channels, Cover(*size), **options).transpose(1, 2, 0)


def png(pixels: np.ndarray, kind: int, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG file of 16 bits, made by hand since Pillow writes none in colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    clear = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + clear + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, order: str = "<", **tags: int) -> bytes:
    """An uncompressed TIFF file, made by hand since Pillow writes no colour of 16 bits."""
    height, width = pixels.shape[:2]
    num = pixels.shape[2] if pixels.ndim == 3 else 1
    photometric = tags.get("photometric", {1: 1, 3: 2, 4: 2}[num])
    body = pixels.astype(f"{order}u2").tobytes()
    depths_at = 8 + len(body)
    depths = struct.pack(f"{order}{num}H", *[16] * num)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, num, 16 if num == 1 else depths_at),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 8),
        (277, 3, 1, num),
        (278, 4, 1, height),
        (279, 4, 1, len(body)),
        *([(284, 3, 1, tags["planar"])] if "planar" in tags else []),
        *([(338, 3, 1, tags["extra"])] if "extra" in tags else []),
    ]
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        packed = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else None
        directory += struct.pack(f"{order}HHI", tag, kind, count) + (
            packed or struct.pack(f"{order}I", value)
        )
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, depths_at + len(depths))
    return start + body + depths + directory + struct.pack(f"{order}I", 0)


def twelve_bits(shape: tuple[int, ...] = (16, 16), seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 4096, shape).astype(np.uint16)
    values.flat[0] = 4095
    return values


def file_of(pixels: np.ndarray, name: str = "TIFF", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


class TestColourOf16Bits:
    @pytest.mark.parametrize("order", "<>")
    def test_every_level_of_tiff(self, order):
        np.testing.assert_array_equal(read(tiff(COLOUR, order)), NEAREST[COLOUR])

    def test_every_level_of_png(self):
        np.testing.assert_array_equal(read(png(COLOUR, 2)), NEAREST[COLOUR])

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
    def test_compressed_tiff_by_libtiff(self, compression):
        # Pillow writes no 16-bit colour; the samples of one row of three greys are those of one colour pixel.
        grey = file_of(COLOUR.reshape(256, -1), compression=compression)
        data = _recoloured(grey)
        np.testing.assert_array_equal(read(data), NEAREST[COLOUR])

    def test_opaque_alpha_changes_nothing(self):
        opaque = np.full((256, 256, 1), 65535, np.uint16)
        pixels = np.concatenate([COLOUR, opaque], axis=2)
        for data in (png(pixels, 6), tiff(pixels, extra=2), tiff(pixels, extra=1)):
            np.testing.assert_array_equal(read(data), NEAREST[COLOUR])

    def test_grey_with_alpha(self):
        grey = LEVELS.reshape(256, 256)
        alpha = np.where(np.arange(256) < 128, 0, 65535).astype(np.uint16)
        pixels = np.stack([grey, np.broadcast_to(alpha, grey.shape)], axis=-1)
        expected = np.where(alpha == 0, 255, NEAREST[grey])
        np.testing.assert_array_equal(read(png(pixels, 4), 1)[..., 0], expected)

    def test_transparent_colour(self):
        red, green, blue = (int(value) for value in COLOUR[3, 5])
        decoded = read(png(COLOUR, 2, (red, green, blue)), background="white")
        assert (decoded[3, 5] == 255).all()
        assert (decoded != NEAREST[COLOUR]).any(-1).sum() == 1

    def test_separate_planes_are_refused(self):
        with pytest.raises(UnreadableItem, match="planes"):
            read(tiff(COLOUR, planar=2))

    def test_lowest_value_white(self):
        grey = LEVELS.reshape(256, 256)
        np.testing.assert_array_equal(read(tiff(grey, photometric=0), 1)[..., 0], 255 - NEAREST[grey])


def _recoloured(grey: bytes) -> bytes:
    """Change the header of a grey TIFF of (H, 3 W) to colour of (H, W)."""
    (at,) = struct.unpack("<I", grey[4:8])
    (count,) = struct.unpack("<H", grey[at : at + 2])
    entries = []
    for index in range(count):
        begin = at + 2 + 12 * index
        entries.append([*struct.unpack("<HHII", grey[begin : begin + 12])])
    data = bytearray(grey)
    depths_at = len(data)
    data += struct.pack("<3H", 16, 16, 16)
    changed = {256: (4, 1, 256), 258: (3, 3, depths_at), 262: (3, 1, 2), 277: (3, 1, 3)}
    tags = {entry[0] for entry in entries}
    entries = [[tag, *changed.get(tag, rest)] for tag, *rest in entries]
    entries += [[tag, *changed[tag]] for tag in changed if tag not in tags]
    start = len(data)
    data += struct.pack("<H", len(entries))
    for entry in sorted(entries):
        data += struct.pack("<HHII", *entry)
    data += struct.pack("<I", 0)
    data[4:8] = struct.pack("<I", start)
    return bytes(data)


class TestRange:
    def test_explicit_bounds(self):
        values = twelve_bits()
        expected = np.array([(2 * int(v) * 255 + 4095) // (2 * 4095) for v in values.flat]).reshape(16, 16)
        for content in (file_of(values), file_of(values, "PNG"), values):
            decoded = read(content, 1, (16, 16), pixel_range="0:4095")
            np.testing.assert_array_equal(decoded[..., 0], expected)

    def test_a_depth_reads_its_values_and_refuses_larger_ones(self):
        values = twelve_bits()
        for content in (file_of(values), values):
            np.testing.assert_array_equal(
                read(content, 1, (16, 16), pixel_range="12bit"),
                read(content, 1, (16, 16), pixel_range="0:4095"),
            )
        values[3, 4] = 4096
        for content in (file_of(values), values, png(np.stack([values] * 3, axis=-1), 2)):
            with pytest.raises(UnreadableItem, match="12 bits"):
                read(content, 1, (16, 16), pixel_range="12bit")

    def test_a_depth_does_not_affect_floats(self):
        values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
        decoded = read(file_of(values), 1, (4, 4), pixel_range="12bit")
        np.testing.assert_array_equal(decoded[..., 0], np.arange(16).reshape(4, 4) * 17)

    def test_signed_and_clipped(self):
        values = np.array([[-2000, -1000], [0, 1000]], np.int32)
        decoded = read(file_of(values), 1, (2, 2), pixel_range="-1000:1000")
        np.testing.assert_array_equal(decoded[..., 0], [[0, 0], [128, 255]])

    def test_floats_of_0_to_1_need_no_range(self):
        values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
        np.testing.assert_array_equal(
            read(file_of(values), 1, (4, 4))[..., 0], np.arange(16).reshape(4, 4) * 17
        )

    def test_floats_by_an_explicit_range(self):
        values = np.array([[0.5, 1.0], [1.5, 9.0]], np.float32)
        decoded = read(file_of(values), 1, (2, 2), pixel_range="0.5:1.5")
        np.testing.assert_array_equal(decoded[..., 0], [[0, 128], [255, 255]])

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_missing_floats_are_refused(self, value):
        with pytest.raises(UnreadableItem, match="missing or infinite"):
            read(file_of(np.array([[0, value]], np.float32)), 1, (1, 2), pixel_range="0:1")

    def test_8_bits_are_not_affected(self):
        grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
        decoded = read(file_of(grey, "PNG"), 1, (16, 16), pixel_range="0:4095")
        np.testing.assert_array_equal(decoded[..., 0], grey)

    def test_a_stated_maximum_is_used(self):
        values = np.arange(4096).reshape(64, 64)
        content = b"P5 64 64 4095\n" + values.astype(">u2").tobytes()
        expected = np.round(values / 4095 * 255)
        for pixel_range in ("auto", "0:100"):
            decoded = read(content, 1, (64, 64), pixel_range=pixel_range)[..., 0]
            np.testing.assert_allclose(decoded, expected, atol=1)
        assert survey([content]) == ("full", [])

    @pytest.mark.parametrize(
        "text", ["0:4095:1", "wide", "5:5", "9:1", "nan:1", "0:1e999", "-:3", "9bit", "bit"]
    )
    def test_mistakes(self, text):
        with pytest.raises(ValidationError):
            ImageConfig(range=text)

    @pytest.mark.parametrize(
        ("largest", "chosen"),
        [(200, "8bit"), (1000, "10bit"), (4095, "12bit"), (4096, "14bit"), (16384, "full"), (0, "full")],
    )
    def test_auto_takes_the_depth_that_holds_the_largest(self, largest, chosen):
        contents = [file_of(np.full((2, 2), level, np.uint16), "PNG") for level in (0, largest)]
        assert survey(contents)[0] == chosen
        assert survey([np.full((2, 2, 3), largest, np.uint16)])[0] == chosen
        assert survey([png(np.full((2, 2, 3), largest, np.uint16), 2)])[0] == chosen

    def test_auto_looks_at_few_of_many_pictures_but_at_all_parts_of_them(self, monkeypatch):
        monkeypatch.setattr(depth, "SURVEYED", 5)
        monkeypatch.setattr(depth, "SPARSE", 10)
        looked_at = []

        def values(number: int) -> np.ndarray:
            looked_at.append(number)
            return np.full((1, 1), 4095 if number > 900 else 100, np.uint16)

        monkeypatch.setattr(depth, "_largest", lambda number: int(values(number).max()))
        assert survey(range(1000))[0] == "12bit"
        assert looked_at[:10] == [*range(10)]
        assert len(looked_at) < 80

    def test_pictures_of_8_bits_say_nothing(self, tmp_path: Path):
        path = tmp_path / "a.tif"
        path.write_bytes(file_of(np.zeros((2, 2), np.uint8)))
        contents = [path, b"", b"\x89PNG\r\n\x1a\n", file_of(np.zeros((2, 2), np.uint8), "PNG")]
        assert survey(contents) == ("full", [])


def test_a_run_chooses_once_and_saves_the_range(
    tmp_path: Path, smalti: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = tmp_path / "scans", tmp_path / "run"
    data.mkdir()
    for index in range(8):
        (data / f"{index}.tif").write_bytes(file_of(twelve_bits(seed=index)))
    words = ("train", "image", "--data", data, "--out", run, *TINY, "training.steps=1")
    result = smalti(*words)
    assert result.status == 0, result.err
    assert result.err.count("data.range=12bit") == 1
    assert json.loads((run / "config.json").read_text())["recipe"]["data"]["range"] == "12bit"
    again = smalti(*words)
    assert again.status == 0
    assert "data.range" not in again.err
    # One dark picture is read as the run reads the others, and the report says how.
    dark = tmp_path / "dark.tif"
    dark.write_bytes(file_of(np.full((16, 16), 200, np.uint16)))
    report = json.loads(smalti("evaluate", run, "--data", dark, "--json").out)
    assert report["protocol"]["data pixel_range"] == "12bit"
    # A picture that is brighter than all that the choice was made by is named, and is not clipped.
    (data / "bright.tif").write_bytes(file_of(np.full((16, 16), 40_000, np.uint16)))
    encoded = smalti("encode", run, "--data", data, "--out", tmp_path / "codes.parquet")
    assert encoded.status == 0
    assert "bright.tif" in encoded.err
    assert len(pq.read_table(tmp_path / "codes.parquet")) == 8


@pytest.mark.parametrize("form", ["folder", "tuple", "array"])
def test_frames_of_12_bits_are_surveyed_too(form: str, tmp_path: Path) -> None:
    frames = np.stack([twelve_bits(seed=seed) for seed in range(3)])
    files = [file_of(frame, "PNG") for frame in frames]
    folder = tmp_path / "a.frames"
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number}.png").write_bytes(data)
    shallow = (file_of(np.zeros((16, 16), np.uint8), "PNG"),) * 2
    clip = {"folder": folder, "tuple": tuple(files), "array": frames}[form]
    config, notes = VideoConfig(size=(16, 16), channels=1).surveyed([shallow, tmp_path / "missing.mp4", clip])
    assert config.range == "12bit"
    assert len(notes) == 1
    decoded = config.build().decode(clip)
    np.testing.assert_array_equal(decoded[0], np.floor(frames * (255 / 4095) + 0.5).astype(np.uint8))
