"""Write self-contained HTML pages with embedded pictures and sounds."""

from __future__ import annotations

import base64
import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from smalti.core.files import atomic_file


def write_page(path: Path, template: str, *, package: str = "smalti.app.pages", **values: Any) -> None:
    """Render a template into a self-contained page, with pictures embedded as data URLs.

    Args:
        path: path of the page.
        template: file name of the template, such as "demo.html.j2".
        package: the Python package whose folder holds the template.
        values: variables of the template; a `Path` to a PNG or a Pillow image becomes a data URL.
    """
    environment = Environment(loader=PackageLoader(package, ""), autoescape=True, undefined=StrictUndefined)
    inlined = {
        name: inline(value) if isinstance(value, Path | Image.Image) else value
        for name, value in values.items()
    }
    with atomic_file(path) as temporary:
        temporary.write_text(environment.get_template(template).render(**inlined), encoding="utf-8")


def inline(picture: Path | Image.Image) -> str:
    """Encode a PNG file or a Pillow image as a data URL."""
    if isinstance(picture, Path):
        data = picture.read_bytes()
    else:
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        data = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def gif(content: bytes) -> str:
    """Encode the content of a GIF file as a data URL."""
    return "data:image/gif;base64," + base64.b64encode(content).decode("ascii")


def sound(waveform: np.ndarray, sample_rate_hz: int) -> str:
    """Encode a waveform `(T,)` in [-1, 1] as the data URL of a 16-bit WAV file."""
    levels = (np.clip(waveform, -1, 1) * 32767).round().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(levels.tobytes())
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
