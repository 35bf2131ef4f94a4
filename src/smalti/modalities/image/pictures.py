"""Pictures: files of every common kind, their bytes or their pixels, as uint8 arrays of one size.

All that Pillow is needed for stands here. What cannot be read is an `UnreadableItem` with the reason.
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

# What undoes each EXIF orientation (Exif 2.3, tag 0x0112); 1 is upright.
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
    """One picture, upright, without transparency, scaled to cover the size and cropped about the centre.

    A picture that has the size already keeps its pixels exactly. Of an animation it is the first frame.

    Args:
        content: a file, its bytes, a PIL image, or pixels: uint8 or uint16, `(H, W)` or `(H, W, C)`, 1 to 4
            channels.
        channels: 1 for grey, 3 for colour; a picture of the other kind is converted.
        size: height and width.
        filter: one of `FILTERS`, for a picture of another size.
        background: one of `BACKGROUNDS`, which shows through transparent pixels.

    Raises:
        UnreadableItem: with the reason, when there is no such picture in it.
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
    """uint8 `(H, W)` or `(H, W, C)` as a PIL image."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _upright(image: Image.Image, background: int) -> Image.Image:
    """The image in mode L or RGB, its transparency and its EXIF orientation applied."""
    image.load()
    if 0 in image.size:
        raise UnreadableItem("the image has no pixels")
    # Asked after loading: Pillow turns TIFF files itself while it loads them.
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
    """Cover the size with the upright image and crop about the centre."""
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
    """0..65535 to the nearest of 0..255: 65535 = 257 * 255, and an odd divisor leaves no ties."""
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
    """EXIF orientation, 1 to 8. Damaged metadata is no reason to lose a picture: it counts as upright."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1


def _reason(error: Exception) -> str:
    """Why Pillow could not read a file, in few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than Pillow's safety limit (a decompression bomb?)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""The filter, as `warnings.filterwarnings` makes it."""

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_within: list[Any] | None = None
"""The list of filters that ours stands in, or None where there was no need to set one."""


@contextmanager
def _pillow() -> Iterator[None]:
    """Pillow's complaints, all in one form: no warnings, and `UnreadableItem` for whatever it raises."""
    try:
        with _quiet():
            yield
    except UnreadableItem:
        raise
    # Its decoders answer a damaged file with errors of a dozen types (struct.error, SyntaxError, ...).
    except Exception as error:
        raise UnreadableItem(_reason(error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings from the user's terminal: a bad file is skipped and listed, or was read well.

    Warning filters belong to the process and files are decoded by several threads, so the first to come
    sets the filter and the last to leave takes it out. It is put into the list that there is, and taken out
    of it, instead of exchanging the list: another thread may do that meanwhile (`warnings.catch_warnings`),
    and would bring ours back when it restores what it found.
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
