"""Damaged TIFF files print nothing: their reason is reported with their name."""

import io

import numpy as np
import pytest
from PIL import Image

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.image.pictures import read_picture


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "TIFF", compression="tiff_lzw")
    content = bytearray(buffer.getvalue())
    content[500:540] = b"\xff" * 40
    with pytest.raises(UnreadableItem):
        read_picture(bytes(content), 3, (64, 64), "lanczos", "white")
    assert capfd.readouterr().err == ""
