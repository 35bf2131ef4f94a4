"""Large JPEGs are reduced by their decoder before they are scaled down."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smalti.modalities.image import pictures
from smalti.modalities.image.fit import Cover, Fit, Middle, Whole
from smalti.modalities.image.pictures import read_picture

WIDTH, HEIGHT = 333, 250
FITS = [Cover(24, 24), Cover(16, 40), Whole(24, (24, 24)), Middle(Whole(30, (24, 24)))]


def photograph(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image.Image:
    """Colours on several scales, and edges."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(5):
        coarse = rng.normal(128, 50 * 0.6**octave, (2 + 3 * 2**octave, 2 + 4 * 2**octave, 3))
        levels = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
        total += np.asarray(levels.resize((width, height), Image.Resampling.BICUBIC), float) - 128
    for _ in range(20):
        y, x = rng.integers(0, height), rng.integers(0, width)
        total[y : y + rng.integers(9, 90), x : x + rng.integers(9, 90)] += rng.normal(0, 30, 3)
    return Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, orientation: int = 1, **options: object) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, "JPEG", quality=95, exif=exif, **options)
    return buffer.getvalue()


def both(
    content: bytes, fit: Fit, channels: int = 3, filter: str = "lanczos"
) -> tuple[np.ndarray, np.ndarray]:
    """The picture as it is read, and as it is read from a file of its decoded pixels."""
    whole = Image.open(io.BytesIO(content))
    buffer = io.BytesIO()
    whole.save(buffer, "PNG", exif=whole.getexif())
    read = (read_picture(each, channels, fit, filter, "white") for each in (content, buffer.getvalue()))
    reduced, expected = (each.astype(float) for each in read)
    return reduced, expected


@pytest.fixture
def reductions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Factors by which decoders reduced pictures."""
    seen: list[int] = []
    real = pictures._reduce

    def reduce(image: Image.Image, fit: Fit) -> int:
        seen.append(real(image, fit))
        return seen[-1]

    monkeypatch.setattr(pictures, "_reduce", reduce)
    return seen


@pytest.mark.parametrize("fit", FITS, ids=str)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_differ_by_less_than_a_level(reductions: list[int], fit: Fit, orientation: int) -> None:
    reduced, expected = both(jpeg(photograph(), orientation), fit)
    assert reduced.shape == expected.shape
    assert max(reductions) >= 2
    assert np.abs(reduced - expected).mean() < 1


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_modes(reductions: list[int], mode: str, channels: int) -> None:
    content = jpeg(photograph().convert(mode))
    whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGB" if channels == 3 else "L"), float)
    read = read_picture(content, channels, Cover(25, 33), "box", "white").astype(float)
    assert max(reductions) >= 2
    coarse = whole.reshape(HEIGHT, WIDTH, -1)[: 10 * 25, : 10 * 33].reshape(25, 10, 33, 10, -1).mean((1, 3))
    assert np.abs(read.transpose(1, 2, 0) - coarse)[:, 2:-2].mean() < 6


@pytest.mark.parametrize(
    ("fit", "filter"),
    [
        (Cover(100, 100), "lanczos"),
        (Whole(), "lanczos"),
        (Cover(HEIGHT, WIDTH), "box"),
        (Cover(8, 8), "nearest"),
    ],
    ids=str,
)
def test_others_are_decoded_whole(reductions: list[int], fit: Fit, filter: str) -> None:
    reduced, expected = both(jpeg(photograph()), fit, filter=filter)
    assert not reductions or max(reductions) == 1
    np.testing.assert_array_equal(reduced, expected)


@settings(max_examples=30)
@given(width=st.integers(1, 90), height=st.integers(1, 90), shorter=st.integers(1, 12))
def test_sizes_are_those_of_the_whole_picture(width: int, height: int, shorter: int) -> None:
    reduced, expected = both(jpeg(photograph(width, height)), Whole(shorter))
    assert reduced.shape == expected.shape


def test_no_picture_is_decoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    content, loaded = jpeg(photograph(), 6), []
    real = Image.core.jpeg_decoder  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(Image.core, "jpeg_decoder", lambda *given: loaded.append(given) or real(*given))
    read_picture(content, 3, Cover(24, 24), "lanczos", "white")
    assert len(loaded) == 1
