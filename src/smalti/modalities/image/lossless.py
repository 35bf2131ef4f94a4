"""Sizes of pictures in common lossless formats, to compare a model's bits/dim with."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from smalti.modalities.image.pictures import to_picture

CODECS = {
    "PNG": ("PNG", {"optimize": True}),
    "WebP lossless": ("WEBP", {"lossless": True, "quality": 100, "method": 4, "exact": True}),
}


def lossless_bits_per_dim(pictures: Iterable[UInt8[np.ndarray, "c h w"]]) -> dict[str, float]:
    """Return the size of the pictures' files in bits per value of a pixel, for each of `CODECS`.

    Args:
        pictures: levels of 1 or 3 channels, at least one picture. Each is one file, header included.
    """
    num_bits, dims = dict.fromkeys(CODECS, 0), 0
    for levels in pictures:
        picture = to_picture(levels.transpose(1, 2, 0))
        dims += levels.size
        for name, (format_name, options) in CODECS.items():
            buffer = io.BytesIO()
            picture.save(buffer, format_name, **options)
            num_bits[name] += 8 * buffer.tell()
    return {name: bits / dims for name, bits in num_bits.items()}
