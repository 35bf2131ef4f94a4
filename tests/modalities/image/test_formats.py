"""Every type and mode that Pillow writes is read right or refused in a sentence; damage does no harm."""

from __future__ import annotations

import io
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.arrays.modality import ArrayConfig
from smalti.modalities.image.fit import Cover
from smalti.modalities.image.formats import EXTENSIONS
from smalti.modalities.image.pictures import read_picture

SIDE = 32
LOSSY = {"AVIF": 12, "GIF": 12, "JPEG": 12, "MPO": 12}
"""Largest mean error of the types that are lossy by default, for smooth pictures, in levels."""
MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "I;16",
    "I;16B",
    "F",
)
SECONDS = 5.0
Image.init()
NOT_WRITTEN = {"BUFR", "GRIB", "HDF5", "WMF"}
"""Types that Pillow writes with another program only."""
RESCALED = {"ICNS"}
"""Types that Pillow writes in sizes of its own."""
WRITTEN = sorted(set(Image.SAVE) - NOT_WRITTEN - RESCALED)

read = partial(read_picture, fit=Cover(SIDE, SIDE), filter="lanczos", background="white")


def smooth(mode: str) -> Image.Image:
    """A smooth picture of a mode, with a known look."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    colour = np.stack([rows * 8, columns * 8, (rows + columns) * 4], axis=-1).astype(np.uint8)
    grey = colour[..., 0]
    if mode in ("I", "I;16", "I;16B"):
        values = grey.astype(np.int32 if mode == "I" else (">u2" if mode.endswith("B") else "<u2")) * 257
        return Image.fromarray(values)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255)
    picture = Image.fromarray(grey if mode in ("1", "L", "LA", "P", "PA") else colour)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
        converted = ImageCms.applyTransform(picture, transform)
        assert converted is not None
        return converted
    return picture.convert(mode)


def written(name: str, mode: str) -> bytes | None:
    """A picture as a file of a type; None if Pillow cannot write that mode."""
    buffer = io.BytesIO()
    options = {"lossless": True, "exact": True} if name == "WEBP" else {}
    try:
        smooth(mode).save(buffer, name, **options)
    except Exception:
        return None
    return buffer.getvalue()


def is_damaged(data: bytes) -> bool:
    """True for a file that Pillow wrote and does not read: TIFF in YCbCr, by version 12."""
    with Image.open(io.BytesIO(data)) as opened:
        try:
            opened.load()
        except OSError:
            return True
    return False


@pytest.mark.parametrize("name", WRITTEN)
def test_every_type_and_mode_is_read_right_or_refused(name):
    num_read, refused = 0, {}
    for mode in MODES:
        data = written(name, mode)
        if data is None:
            continue
        is_deep = mode in ("I", "I;16", "I;16B", "F")
        try:
            decoded = read(data, 3).astype(int)
        except UnreadableItem as error:
            refused[mode] = str(error)
            continue
        with Image.open(io.BytesIO(data)) as opened:
            if is_deep and opened.mode[0] not in "IF":
                continue  # Pillow clipped it to 8 bits while writing
        num_read += 1
        original = smooth(mode)
        if is_deep:
            expected = np.repeat(np.asarray(smooth("L"))[None], 3, axis=0)
        else:
            expected = np.asarray(original.convert("RGB")).transpose(2, 0, 1)
        error = np.abs(decoded - expected).mean()
        assert error <= LOSSY.get(name, 3), (name, mode, error)
    assert num_read or refused
    assert all(len(reason) > 10 for reason in refused.values())
    if name in ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP", "AVIF"):
        assert not [mode for mode in refused if not is_damaged(written(name, mode) or b"")]


def test_endings_are_those_of_pictures():
    assert {".png", ".jfif", ".avif", ".jp2", ".mpo", ".pbm", ".tga"} <= set(EXTENSIONS)
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".wmf"} & set(EXTENSIONS)


def test_postscript_is_not_executed():
    with pytest.raises(UnreadableItem, match="not an image"):
        read(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n", 3)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a few bytes, and in one of four cases cut the end off."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(0, min(len(data), rng.choice([64, len(data)]))))] = int(rng.integers(0, 256))
    return bytes(data[: int(rng.integers(1, len(data)))] if rng.random() < 0.25 else data)


def arrays() -> list[bytes]:
    rng, contents = np.random.default_rng(0), []
    for write in (np.save, np.savez, np.savez_compressed):
        for dtype in ("u1", ">i4", "<f4"):
            buffer = io.BytesIO()
            write(buffer, rng.integers(0, 9, (2, 16)).astype(dtype))
            contents.append(buffer.getvalue())
    return contents


@pytest.mark.parametrize("num", [300, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["pictures", "arrays"])
def test_damaged_files_are_read_or_refused_in_time(kind, num):
    if kind == "pictures":
        contents = [
            data for name in WRITTEN for mode in ("L", "P", "RGBA", "I;16") if (data := written(name, mode))
        ]
        decode, shape = partial(read, channels=3), (3, SIDE, SIDE)
    else:
        contents, shape = arrays(), (2, 16)
        decode = ArrayConfig(channels=2, length=None, size=(16,)).build().decode
    rng, reasons = np.random.default_rng(1), set()
    for index in range(num):
        data = damaged(contents[index % len(contents)], rng)
        begin = time.thread_time()
        try:
            assert decode(data).shape == shape
        except UnreadableItem as error:
            reasons.add(str(error))
        # Processor time, which a busy machine does not lengthen.
        assert time.thread_time() - begin < SECONDS
    assert reasons
    assert all(reasons)
