"""Keep messages of libtiff off standard error: a file that cannot be read is reported with its reason."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def silence_libtiff() -> None:
    """Remove libtiff's error and warning handlers, which print to standard error, for the whole process.

    The library is the one that Pillow is linked with, and Pillow still learns of errors from return values.
    Nothing happens where the library cannot be found, for example if it is linked statically.
    """
    from PIL import _imaging

    try:
        # A look-up in Pillow's extension module covers the libraries that it depends on.
        library = ctypes.CDLL(_imaging.__file__)
        handlers = [library.TIFFSetErrorHandler, library.TIFFSetWarningHandler]
    except (OSError, AttributeError):
        return
    for handler in handlers:
        handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        handler(None)
