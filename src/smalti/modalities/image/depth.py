"""Pictures of more than 8 bits per channel: their exact values, and the range that becomes 0..255.

Pillow reduces colour of 16 bits to the high byte of each value. Here, the high and the low bytes are read one
after the other and combined, so that every value is rounded once, to the nearest of 256 levels.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.image.formats import open_picture

AUTO, FULL = "auto", "full"
WHOLE = (0, 65535)
BITS = (8, 10, 12, 14)
"""Depths that `auto` recognises in 16-bit files, beside 16 bits: those of cameras and scanners."""

Bounds = tuple[int, int] | tuple[float, float]

SURVEYED = 2_000
"""Number of deep pictures after which `survey` looks only at some of the others, ever fewer of them."""
SPARSE = 1_000
"""Then, one in N / SPARSE pictures is looked at around picture N, so that their number grows like ln N."""
SHALLOW_ARRAYS = 16
"""Number of uint8 arrays after which `survey` takes a source for one of uint8 arrays."""

_BOUND = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_BOUND}):({_BOUND})", re.ASCII)
_DEPTH = re.compile(r"(\d+)bit", re.ASCII)
_HEAD_BYTES = 32
_SHALLOW = (b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")
"""First bytes of JPEG, GIF, WebP and BMP, which have 8 bits per channel."""
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24
"""Offset of the bit depth in a PNG file."""
_MIN_IS_WHITE_TAG = 262


@dataclass(frozen=True)
class Deep:
    """Values of a picture of more than 8 bits.

    Attributes:
        values: `(H, W)` or `(H, W, C)`, integers or float32.
        alpha: opacity 0..255, `(H, W)`; None if opaque.
        stated: lowest and highest value by the file's header; None if it does not tell.
        inverted: True if the lowest value is white.
        image: the loaded image, for its metadata.
    """

    values: np.ndarray
    alpha: UInt8[np.ndarray, "h w"] | None
    stated: Bounds | None
    inverted: bool
    image: Image.Image

    def levels(self, pixel_range: str) -> UInt8[np.ndarray, "h w *c"]:
        """Convert the values to levels 0..255.

        Args:
            pixel_range: "auto", "full", "LOW:HIGH", or a depth such as "12bit".

        Raises:
            UnreadableItem: if the range is unknown, or values exceed the depth.
        """
        low, high = self.stated or _bounds_for(self.values, pixel_range)
        levels = to_levels(self.values, low, high)
        return 255 - levels if self.inverted else levels


def parse_range(text: Any) -> Any:
    """Normalise "auto", "full", "LOW:HIGH" or "12bit" (a depth of `BITS`); leave other types to pydantic.

    Raises:
        ValueError: for another text, or if LOW is not below HIGH.
    """
    if not isinstance(text, str):
        return text
    text = text.strip().lower()
    if text not in (AUTO, FULL) and _depth(text) not in BITS:
        bounds = explicit(text)
        if bounds is None or not (bounds[0] < bounds[1] and all(map(math.isfinite, bounds))):
            depths = ", ".join(f'"{bits}bit"' for bits in BITS)
            raise ValueError(
                f'expected "auto", "full", "LOW:HIGH" such as "0:4095", or a depth ({depths}), got "{text}"'
            )
    return text


def explicit(text: str) -> Bounds | None:
    """Return the bounds of "LOW:HIGH", as integers if both are; None for another text."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    low, high = (float(part) for part in match.groups())
    # Beyond that, the arithmetic of 64 bits in `to_levels` would overflow.
    if all(part.lstrip("+-").isdecimal() for part in match.groups()) and max(abs(low), abs(high)) < 1 << 50:
        return int(low), int(high)
    return low, high


def to_levels(values: np.ndarray, low: int | float, high: int | float) -> UInt8[np.ndarray, " *shape"]:
    """Map low..high to the nearest of 0..255, halves upwards; values outside are clipped."""
    if values.dtype.kind in "iu" and isinstance(low, int) and isinstance(high, int):
        shifted = np.clip(values.astype(np.int64), low, high) - low
        return ((shifted * 510 + (high - low)) // (2 * (high - low))).astype(np.uint8)
    scaled = (np.clip(values.astype(np.float64), low, high) - low) * (255 / (high - low))
    return np.floor(scaled + 0.5).astype(np.uint8)


def array_levels(pixels: np.ndarray, pixel_range: str) -> UInt8[np.ndarray, "h w *c"]:
    """Convert uint16 pixels `(H, W)` or `(H, W, C)` to levels; opacity always has the full range."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        colour, alpha = pixels[:, :, :-1], pixels[:, :, -1:]
        return np.concatenate([array_levels(colour, pixel_range), to_levels(alpha, *WHOLE)], axis=2)
    return to_levels(pixels, *_bounds_for(pixels, pixel_range))


def read_deep(image: Image.Image, data: bytes | None) -> Deep | None:
    """Read a picture of more than 8 bits exactly; None if it has no more than 8.

    Args:
        image: from `open_picture`, not loaded; or an image in memory.
        data: the bytes of its file, if it has one.

    Raises:
        UnreadableItem: for a layout in which the low bytes cannot be read.
    """
    rawmode = raw_mode(image)
    if data is not None and image.format == "TIFF":
        depths = image.tag_v2.get(258, ())  # pyright: ignore[reportAttributeAccessIssue]
        # Pillow would take every byte of such a plane for a pixel.
        if isinstance(depths, tuple) and max(depths, default=8) > 8 and rawmode in tuple("RGBACMYK"):
            raise UnreadableItem(
                "16-bit colour in separate planes is not supported: save it with interleaved channels"
            )
    if data is not None and (match := re.fullmatch(r"(LA|RGB|RGBA|RGBa|RGBX|CMYK);16([BLN])", rawmode)):
        return _colour(data, image, *match.groups())
    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return None
    codec = image.tile[0][0] if isinstance(getattr(image, "tile", None), list) and image.tile else ""  # pyright: ignore[reportAttributeAccessIssue]
    image.load()
    values = np.asarray(image)
    transparent = image.info.get("transparency")
    alpha = None
    if isinstance(transparent, int):
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
    # These decoders scale by the maximum that the header states: Netpbm's below 65535, JPEG 2000's depth.
    stated = WHOLE if image.mode != "F" and (codec.startswith("ppm") or image.format == "JPEG2000") else None
    stated = (0, 4095) if rawmode == "I;12" else stated
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return Deep(values, alpha, stated, tags.get(_MIN_IS_WHITE_TAG) == 0, image)


def survey(contents: Iterable[Any]) -> tuple[str, list[str]]:
    """Choose the range of 16-bit pictures for `auto`, from the first ones and a sample of the others.

    The range is the smallest of 8, 10, 12, 14 and 16 bits that holds their largest value. Brighter
    pictures are unreadable later, rather than clipped.

    Args:
        contents: files, their bytes, or arrays; other kinds and unreadable files are passed over.

    Returns:
        "full" or a depth such as "12bit", and notes for the user.
    """
    largest = num = num_arrays = following = 0
    for number, content in enumerate(contents):
        if number < following:
            continue
        if isinstance(content, np.ndarray) and content.dtype == np.uint8:
            num_arrays += 1
            if num_arrays == SHALLOW_ARRAYS and not num:
                break
        top = _largest(content)
        if top is None:
            continue
        largest, num = max(largest, top), num + 1
        if largest >= 1 << BITS[-1]:
            break
        if num >= SURVEYED:
            following = number + max(1, number // SPARSE)
    bits = next((bits for bits in BITS if 0 < largest < 1 << bits), None)
    if bits is None:
        words = "0 to 65535 become 0 to 255 (data.range=full)"
        return FULL, [f"Some pictures have 16 bits: {words}."] if largest else []
    chosen = f"{bits}bit"
    return chosen, [
        f"The values of 16-bit pictures reach {largest:,}: they are read as {bits} bits "
        f"(data.range={chosen}); data.range=full reads them as 16 bits."
    ]


def may_be_deep(content: Path | bytes) -> bool:
    """Return False if the first bytes of a file show that it has at most 8 bits per channel.

    Raises:
        OSError, ValueError: if the file cannot be opened.
    """
    if isinstance(content, Path):
        with content.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    else:
        head = content[:_HEAD_BYTES]
    if head.startswith(_PNG) and len(head) > _PNG_DEPTH:
        return head[_PNG_DEPTH] == 16
    return not head.startswith(_SHALLOW)


def _bounds_for(values: np.ndarray, pixel_range: str) -> Bounds:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableItem("it has pixels that are missing or infinite")
    bounds = explicit(pixel_range)
    if bounds is not None:
        return bounds
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if low < 0 or high > 1:
            raise UnreadableItem(
                f"floating point pixels from {low:g} to {high:g} are outside 0 to 1: set data.range=LOW:HIGH"
            )
        return 0.0, 1.0
    if low < WHOLE[0] or high > WHOLE[1]:
        raise UnreadableItem(f"pixels from {low} to {high} are not 16-bit: set data.range=LOW:HIGH")
    bits = _depth(pixel_range)
    if bits is None:
        return WHOLE
    if high >= 1 << bits:
        raise UnreadableItem(
            f"its values reach {high:,}, more than the {bits} bits of data.range={pixel_range}: convert it, "
            "or train with data.range=full"
        )
    return 0, (1 << bits) - 1


def _depth(pixel_range: str) -> int | None:
    """Return the number of bits of a depth such as "12bit"; None for another text."""
    match = _DEPTH.fullmatch(pixel_range)
    return int(match[1]) if match else None


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for the layout of a file's pixels; "" if the image is in memory."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    args = tiles[0][3]
    name = args[0] if isinstance(args, tuple) and args else args
    return name if isinstance(name, str) else ""


def _colour(data: bytes, image: Image.Image, name: str, order: str) -> Deep:
    """Read 16-bit colour; `name` and `order` are the channels and the byte order of its layout."""
    kind = (image.format or "",)
    if name == "LA":
        # Read as four channels of 8 bits, it gives the high and low byte of both channels.
        loaded = _load(open_picture(data, kind), "RGBA", "RGBA")
        pairs = np.asarray(loaded).astype(np.uint16)
        values = pairs[:, :, ::2] << 8 | pairs[:, :, 1::2]
    else:
        # Premultiplied values are read as they are and divided below, at full depth.
        mode, layout = {"RGBa": ("RGBA", "RGBA"), "RGBX": ("RGB", "RGBX")}.get(name, (name, name))
        order = {"little": "L", "big": "B"}[sys.byteorder] if order == "N" else order
        other = "L" if order == "B" else "B"
        loaded = _load(open_picture(data, kind), mode, f"{layout};16{order}")
        low = _load(open_picture(data, kind), mode, f"{layout};16{other}")
        values = np.asarray(loaded).astype(np.uint16) << 8 | np.asarray(low)
    alpha = None
    if name in ("LA", "RGBA", "RGBa"):
        opacity = values[:, :, -1:].astype(np.uint32)
        values = values[:, :, :-1]
        alpha = to_levels(opacity[:, :, 0], *WHOLE)
        if name == "RGBa":
            whole = values.astype(np.uint32) * 65535 // np.maximum(opacity, 1)
            values = np.minimum(whole, 65535).astype(np.uint16)
    transparent = loaded.info.get("transparency")
    if isinstance(transparent, tuple) and len(transparent) == values.shape[-1]:
        alpha = np.where((values == np.array(transparent)).all(-1), 0, 255).astype(np.uint8)
    values = values[:, :, 0] if values.shape[-1] == 1 else values
    return Deep(values, alpha, WHOLE if name == "CMYK" else None, False, loaded)


def _load(image: Any, mode: str, rawmode: str) -> Image.Image:
    """Load an image with another layout of its pixels."""
    image._mode = mode
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]
    image.load()
    return image


def _largest(content: Any) -> int | None:
    """Return the largest value of a 16-bit picture whose header leaves the range open; None for others."""
    if isinstance(content, np.ndarray):
        return int(content.max()) if content.dtype == np.uint16 and content.size else None
    try:
        if not isinstance(content, (Path, bytes)) or not may_be_deep(content):
            return None
        content = content.read_bytes() if isinstance(content, Path) else content
        with open_picture(content) as image:
            deep = read_deep(image, content)
    # An unreadable file is named where it is decoded.
    except Exception:
        return None
    if deep is None or deep.stated is not None or deep.values.dtype.kind == "f":
        return None
    low, high = int(deep.values.min()), int(deep.values.max())
    return high if WHOLE[0] <= low and high <= WHOLE[1] else None
