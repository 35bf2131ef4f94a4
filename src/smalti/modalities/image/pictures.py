"""Read images of all common file types as uint8 arrays.

Images that cannot be read raise `UnreadableItem` with the reason.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.image.depth import AUTO, array_levels, raw_mode, read_deep
from smalti.modalities.image.fit import Fit, Picture
from smalti.modalities.image.formats import open_picture
from smalti.modalities.image.libtiff import silence_libtiff

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}
SMOOTH = frozenset(FILTERS.values()) - {Image.Resampling.NEAREST}
"""Filters that average pixels when they scale down, so that a picture may be reduced before."""
MARGIN = 2
"""Size to which the decoder of a JPEG may reduce it, as a multiple of that to which it is scaled."""
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
_TURNED = (5, 6, 7, 8)
"""Orientations that exchange width and height."""
_MIRRORED_ACROSS, _MIRRORED_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)
"""Orientations for which the first column, or row, of the upright image was the last one of a side."""

GREY_SCALES = {"L;2": 85, "L;4": 17}
"""Factor from a stored grey of 2 or 4 bits to 0..255, by Pillow's name of the layout."""
MOST_STRETCHED = 4.0
"""Largest credible ratio of the sides of a pixel; larger ones are mistakes in the metadata."""
SQUARE_TOLERANCE = 0.01
"""Deviation of the ratio from 1 that comes from rounding, as of 72 dpi to pixels per metre."""
LARGE = 1 << 25
"""Number of pixels from which images are decoded one at a time, to bound the memory."""
_large = threading.Lock()

# Without any handler, Python prints Pillow's messages on damaged files to standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def read_picture(
    content: Path | bytes | np.ndarray | Image.Image,
    channels: int,
    fit: Fit,
    filter: str,
    background: str,
    pixel_range: str = AUTO,
) -> UInt8[np.ndarray, "c h w"]:
    """Read one image, and bring it to the size of an item.

    EXIF orientation is applied, transparent pixels show the background, and pixels that are not square by the
    stated resolution are resampled to square ones. Other images that already have the size keep their exact
    pixels. A JPEG that is scaled down to a quarter or less is reduced by its decoder first. Only the first
    frame of an animation is read.

    Args:
        content: a file, its bytes, a PIL image, or pixels: uint8 or uint16, `(H, W)` or `(H, W, C)`, 1 to 4
            channels.
        channels: 1 for greyscale, 3 for colour; other images are converted.
        fit: how it is scaled and cropped.
        filter: one of `FILTERS`, for resizing.
        background: one of `BACKGROUNDS`, the colour behind transparent pixels.
        pixel_range: the values of pictures of more than 8 bits that become 0..255: "LOW:HIGH"; "12bit" for
            0:4095, and other depths likewise; or "full" or "auto" for 0:65535. Except for "LOW:HIGH",
            floating point values from 0 to 1 become 0..255.

    Raises:
        UnreadableItem: with the reason, if the image cannot be read.
    """

    def fitted(image: Image.Image, data: bytes | None = None) -> UInt8[np.ndarray, "c h w"]:
        stated = image.size
        reduction = _reduce(image, fit) if FILTERS[filter] in SMOOTH else 1
        # One image of that size at a time, since every thread would hold several copies of it.
        with _large if image.width * image.height > LARGE else nullcontext():
            picture = _upright(image, data, BACKGROUNDS[background], pixel_range)
            if reduction > 1:
                picture = replace(picture, reduction=reduction, box=_shown(image, picture, stated, reduction))
            return _pixels(picture, channels, fit, filter)

    if isinstance(content, np.ndarray):
        return fitted(_from_pixels(content, pixel_range))
    with _pillow():
        if isinstance(content, Image.Image):
            return fitted(content)
        data = content.read_bytes() if isinstance(content, Path) else content
        if not data:
            raise UnreadableItem("the file is empty")
        with open_picture(data) as image:
            return fitted(image, data)


def to_picture(pixels: np.ndarray) -> Image.Image:
    """Convert uint8 pixels `(H, W)` or `(H, W, C)` to a PIL image."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _reduce(image: Image.Image, fit: Fit) -> int:
    """Let the decoder of a JPEG reduce it by 2, 4 or 8, if it remains large enough to be scaled down.

    The pixels then differ by less than a level on average (`MARGIN`) from those of the whole picture scaled
    down.

    Args:
        image: not loaded; it changes.
        fit: how the picture is scaled.

    Returns:
        The factor; 1 for pictures that are decoded whole.
    """
    if image.format not in ("JPEG", "MPO") or 0 in image.size or _aspect(image) != 1:
        return 1
    width, height = map(float, image.size)
    is_turned = _orientation(image) in _TURNED
    scale = MARGIN * (fit.scale(height, width) if is_turned else fit.scale(width, height))
    drafted = image.draft(image.mode, (math.ceil(scale * width), math.ceil(scale * height)))
    return 1 if drafted is None else round(width / drafted[1][2])


def _upright(image: Image.Image, data: bytes | None, background: int, pixel_range: str) -> Picture:
    """Convert an image to mode L or RGB, applying transparency and EXIF orientation."""
    if 0 in image.size:
        raise UnreadableItem("the image has no pixels")
    aspect = _aspect(image)
    # Pillow rotates TIFF files while loading; for a PNG file, asking for the orientation would load it.
    before = _orientation(image) if image.format == "TIFF" else 1
    deep = read_deep(image, data)
    if deep is None:
        _scale_transparent_grey(image)
        image.load()
        orientation = _orientation(image)
        image = _opaque(image, background)
    else:
        orientation = _orientation(deep.image)
        levels = Image.fromarray(deep.levels(pixel_range), "CMYK" if deep.image.mode == "CMYK" else None)
        image = levels.convert("RGB") if levels.mode == "CMYK" else levels
        if deep.alpha is not None:
            behind = Image.new(image.mode, image.size, (background,) * len(image.getbands()))
            image = Image.composite(image, behind, Image.fromarray(deep.alpha))
    is_turned = before in _TURNED or orientation in _TURNED
    upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
    return Picture(upright, 1 / aspect if is_turned else aspect)


def _shown(
    image: Image.Image, picture: Picture, stated: tuple[int, int], reduction: int
) -> tuple[float, float, float, float]:
    """Part of a reduced picture that shows it.

    A side that the reduction does not divide ends in a pixel that is partly beyond the picture, at the left
    or above if the image was mirrored.

    Args:
        image: with its orientation.
        picture: the same, upright.
        stated: width and height of the image before it was reduced.
        reduction: factor.
    """
    orientation, upright = _orientation(image), picture.image
    across, down = stated[::-1] if orientation in _TURNED else stated
    width, height = across / reduction, down / reduction
    left = upright.width - width if orientation in _MIRRORED_ACROSS else 0.0
    top = upright.height - height if orientation in _MIRRORED_DOWN else 0.0
    return left, top, left + width, top + height


def _scale_transparent_grey(image: Image.Image) -> None:
    """Scale the transparent grey of a PNG of 2 or 4 bits like its pixels, which Pillow does not."""
    grey, scale = image.info.get("transparency"), GREY_SCALES.get(raw_mode(image))
    if image.format == "PNG" and scale is not None and isinstance(grey, int):
        image.info["transparency"] = grey * scale


def _opaque(image: Image.Image, background: int) -> Image.Image:
    """Convert a loaded image of 8 bits to mode L or RGB, showing the background at transparent pixels."""
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (background,) * 3 + (255,))
        return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _pixels(picture: Picture, channels: int, fit: Fit, filter: str) -> np.ndarray:
    """Bring a picture of mode L or RGB to the size of an item."""
    if picture.image.mode != MODES[channels]:
        picture = replace(picture, image=picture.image.convert(MODES[channels]))
    image = fit.apply(picture, FILTERS[filter])
    pixels = np.asarray(image).reshape(image.height, image.width, channels)
    return np.array(pixels.transpose(2, 0, 1), order="C")


def _from_pixels(pixels: np.ndarray, pixel_range: str) -> Image.Image:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 2, 3, 4)):
        raise UnreadableItem(f"expected pixels (H, W) or (H, W, 1 to 4), received the shape {pixels.shape}")
    if 0 in pixels.shape:
        raise UnreadableItem("the image has no pixels")
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        raise UnreadableItem(f"expected pixels of type uint8 or uint16, received {pixels.dtype}")
    return to_picture(pixels if pixels.dtype == np.uint8 else array_levels(pixels, pixel_range))


def _aspect(image: Image.Image) -> float:
    """Return the width of a pixel divided by its height, by the stated resolution; 1 if it is implausible.

    Other formats than these use the fields of the resolution for other things.
    """
    if image.format not in ("PNG", "JPEG", "MPO", "TIFF", "BMP"):
        return 1.0
    info = image.info
    stated: Any = info.get("aspect") or info.get("dpi") or info.get("resolution") or info.get("jfif_density")
    try:
        across, down = (float(value) for value in stated)
        aspect = down / across
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0
    is_plausible = across > 0 and 1 / MOST_STRETCHED <= aspect <= MOST_STRETCHED
    return aspect if is_plausible and abs(aspect - 1) > SQUARE_TOLERANCE else 1.0


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


@contextmanager
def _pillow() -> Iterator[None]:
    """Suppress messages of libtiff, and convert every exception to `UnreadableItem`."""
    silence_libtiff()
    try:
        yield
    except UnreadableItem:
        raise
    # Its decoders raise errors of a dozen types for damaged files (struct.error, SyntaxError, ...).
    except Exception as error:
        raise UnreadableItem(_reason(error)) from error
