"""File types of pictures: those that Pillow reads by itself, less what is no picture."""

from __future__ import annotations

import io

from PIL import Image

NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"})
"""Pillow's names of types that are left out: it only identifies weather data, HDF5 and MPEG, and renders WMF
on Windows alone; IPTC is metadata; PostScript would be executed by Ghostscript."""

Image.init()
FORMATS = tuple(sorted(set(Image.OPEN) - NOT_READ))
"""Pillow's names of the types that are read."""
EXTENSIONS = tuple(
    sorted(
        ending
        for ending, name in Image.registered_extensions().items()
        # MPO, several JPEGs in one file, is opened as JPEG.
        if name in FORMATS or name == "MPO"
    )
)
"""Endings of the files that are read, in lower case with the dot."""


def open_picture(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open the bytes of a file without decoding its pixels; the content decides on its type."""
    return Image.open(io.BytesIO(data), formats=formats)
