"""Read images of all common file types as uint8 arrays of one size.

Images that cannot be read raise `UnreadableItem` with the reason.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from smalti.data.sources.base import UnreadableItem

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}
MODES = {1: "L", 3: "RGB"}
BACKGROUNDS = {"white": 255, "black": 0}

# The transposition that undoes each EXIF orientation (Exif 2.3, tag 0x0112); 1 is upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(
    content: Path | bytes | np.ndarray | Image.Image,
    channels: int,
    size: tuple[int, int],
    filter: str,
    background: str,
) -> UInt8[np.ndarray, "c h w"]:
    """Read one image, scale it to cover the size, and crop it at the centre.

    EXIF orientation is applied, and transparent pixels show the background. An image that already has the
    size keeps its exact pixels. Only the first frame of an animation is read.

    Args:
        content: a file, its bytes, a PIL image, or pixels: uint8 or uint16, `(H, W)` or `(H, W, C)`, 1 to 4
            channels.
        channels: 1 for greyscale, 3 for colour; other images are converted.
        size: height and width of the result.
        filter: one of `FILTERS`, for resizing.
        background: one of `BACKGROUNDS`, the colour behind transparent pixels.

    Raises:
        UnreadableItem: with the reason, if the image cannot be read.
    """

    def fitted(image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
        return _fit(_upright(image, BACKGROUNDS[background]), channels, size, FILTERS[filter])

    if isinstance(content, np.ndarray):
        return fitted(_from_pixels(content))
    with _pillow():
        if isinstance(content, Image.Image):
            return fitted(content)
        data = content.read_bytes() if isinstance(content, Path) else content
        if not data:
            raise UnreadableItem("the file is empty")
        with Image.open(io.BytesIO(data)) as image:
            return fitted(image)


def to_picture(pixels: np.ndarray) -> Image.Image:
    """Convert uint8 pixels `(H, W)` or `(H, W, C)` to a PIL image."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _upright(image: Image.Image, background: int) -> Image.Image:
    """Convert an image to mode L or RGB, applying transparency and EXIF orientation."""
    image.load()
    if 0 in image.size:
        raise UnreadableItem("the image has no pixels")
    # Read the orientation after loading: Pillow rotates TIFF files itself while loading.
    orientation = _orientation(image)
    if image.mode == "F":
        raise UnreadableItem("floating point pixels have no defined range: save the image with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _from_16_bits(image, background)
    elif image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (background,) * 3 + (255,))
        image = Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _fit(
    image: Image.Image, channels: int, size: tuple[int, int], resampling: Image.Resampling
) -> UInt8[np.ndarray, "c h w"]:
    """Scale an upright image to cover the size, and crop it at the centre."""
    height, width = size
    if image.mode != MODES[channels]:
        image = image.convert(MODES[channels])
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=resampling)
    pixels = np.asarray(image).reshape(height, width, channels)
    return np.array(pixels.transpose(2, 0, 1), order="C")


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 2, 3, 4)):
        raise UnreadableItem(f"expected pixels (H, W) or (H, W, 1 to 4), received the shape {pixels.shape}")
    if 0 in pixels.shape:
        raise UnreadableItem("the image has no pixels")
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        raise UnreadableItem(f"expected pixels of type uint8 or uint16, received {pixels.dtype}")
    return to_picture(pixels if pixels.dtype == np.uint8 else _to_8_bits(pixels))


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Convert 0..65535 to the nearest of 0..255: 65535 = 257 * 255, and the odd divisor has no ties."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_16_bits(image: Image.Image, background: int) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableItem(
            f"pixels from {values.min()} to {values.max()} are not 16-bit: save it with 8 or 16 bits"
        )
    pixels = _to_8_bits(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = background
    return Image.fromarray(pixels)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if the metadata is damaged."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1


def _reason(error: Exception) -> str:
    """Describe an error of Pillow in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than Pillow's safety limit (a decompression bomb?)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""The entry that `warnings.filterwarnings` adds to the list of filters."""

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_within: list[Any] | None = None
"""The list of filters that our filter was added to, or None if none was added."""


@contextmanager
def _pillow() -> Iterator[None]:
    """Suppress warnings of Pillow, and convert every exception to `UnreadableItem`."""
    try:
        with _quiet():
            yield
    except UnreadableItem:
        raise
    # Its decoders raise errors of a dozen types for damaged files (struct.error, SyntaxError, ...).
    except Exception as error:
        raise UnreadableItem(_reason(error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings: unreadable files are listed anyway, and readable ones need none.

    Warning filters are global to the process and several threads decode files, so the first thread to enter
    adds the filter and the last one to leave removes it. The filter is added to and removed from the existing
    list instead of replacing the list: another thread may replace the list meanwhile
    (`warnings.catch_warnings`) and would restore one that contains our filter.
    """
    global _quiet_depth, _quiet_within
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_within = None if _QUIET in warnings.filters else cast("list[Any]", warnings.filters)
            if _quiet_within is not None:
                warnings.filterwarnings("ignore", module=_QUIET[3].pattern)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_within is not None:
                for filters in (_quiet_within, cast("list[Any]", warnings.filters)):
                    if _QUIET in filters:
                        filters.remove(_QUIET)
