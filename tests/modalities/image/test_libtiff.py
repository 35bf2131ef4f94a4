"""Damaged TIFF files print nothing: their reason is reported with their name."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.image.fit import Cover
from smalti.modalities.image.pictures import read_picture


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "TIFF", compression="tiff_lzw")
    content = bytearray(buffer.getvalue())
    content[500:540] = b"\xff" * 40
    with pytest.raises(UnreadableItem):
        read_picture(bytes(content), 3, Cover(64, 64), "lanczos", "white")
    assert capfd.readouterr().err == ""


def test_messages_that_pillow_logs_are_not_printed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python prints messages that no handler receives; pytest has added its own.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded")
    assert capfd.readouterr().err == ""
