"""Pixels that are not square by the stated resolution are shown with their proportions."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from smalti.modalities.image.fit import Cover
from smalti.modalities.image.pictures import read_picture

HALVES = np.repeat(np.array([[0, 255]], np.uint8), 32, axis=0).repeat(16, axis=1)
"""32x32, the left half black."""


def encoded(pixels: np.ndarray, name: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


def read(content: bytes, size: tuple[int, int], channels: int = 1) -> np.ndarray:
    return read_picture(content, channels, Cover(*size), "box", "white")[0]


@pytest.mark.parametrize("name", ["PNG", "TIFF", "JPEG", "BMP"])
def test_pixels_twice_as_tall_as_wide(name):
    # 200 pixels per inch across and 100 down: 32x32 pixels are shown as 16 wide and 32 tall.
    data = encoded(HALVES, name, dpi=(200, 100))
    shown = read(data, (32, 16))
    assert (shown[:, :8] < 8).all()
    assert (shown[:, 8:] > 247).all()
    # A square result is cut from the middle of the height, over the whole width.
    square = read(encoded(HALVES.T.copy(), name, dpi=(200, 100)), (16, 16))
    assert (square[:8] < 8).all()
    assert (square[8:] > 247).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_resolution_belongs_to_the_stored_axes(name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(
        np.zeros((32, 32), np.uint8) + np.arange(32, dtype=np.uint8)[:, None], name, exif=exif, dpi=(200, 100)
    )
    # Twice as many pixels across as down: turned by 90 degrees, it is shown wide instead of tall.
    size = (32, 16) if orientation == 1 else (16, 32)
    shown = read(data, size)
    expected = np.arange(32)[:, None] if orientation == 1 else np.arange(32)[None, ::-1]
    np.testing.assert_allclose(shown, np.broadcast_to(expected, size))


@pytest.mark.parametrize("dpi", [(72, 72), (72, 72.3), (0, 0), (1000, 1), (300, 0)])
def test_equal_or_implausible_resolutions_change_no_pixel(dpi):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    np.testing.assert_array_equal(read(encoded(pixels, "PNG", dpi=dpi), (16, 16)), pixels)
