"""Read what a user uploads, within limits, and show signals on a page without writing files."""

from __future__ import annotations

import base64
import html
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti.app.pages.page import inline, sound
from smalti.app.serving.models import Served
from smalti.core.errors import InputError, printable
from smalti.core.modality import Modality
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio.kinds import open_blocks

MOST_BYTES = 32 << 20
MOST_SECONDS = 60
MOST_FRAMES = 64
MOST_PIXELS = 1 << 20
"""Limits of an upload; pixels are those of a picture, or of a frame, in its own size."""
MOST_WHOLE_BYTES = 2 << 20
"""Of a recording in a format that is only decoded at once."""
SIDE = 320
"""Pixels to which small pictures are enlarged."""
MEBIBYTE = 1 << 20


def read_upload(served: Served, path: Path, own_size: bool = False) -> Tensor:
    """Read a file, and delete it.

    Args:
        served: the model, whose modality reads the file.
        path: the file.
        own_size: keep the height and width of a picture or clip, instead of the model's.

    Returns:
        The signal `(1, C, *size)`, in the model's range.

    Raises:
        InputError: if it cannot be read as an item of the model, or exceeds a limit.
    """
    name = printable(path.name)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"expected a file of at most {MOST_BYTES // MEBIBYTE} MiB, received {name} of "
                f"{path.stat().st_size / MEBIBYTE:.0f} MiB: choose a shorter or smaller one"
            )
        modality = served.tokenizer.modality
        if own_size and not served.is_sound:
            modality = served.tokenizer.native().modality
        stored = _decoded(served, modality, path)
    except FileNotFoundError as error:
        raise InputError(f"expected the upload {name}, which is gone already: choose it again") from error
    except UnreadableItem as error:
        raise InputError(
            f"expected a {served.item} for the model {served.name}, but {name} cannot be read as one: {error}"
        ) from error
    finally:
        path.unlink(missing_ok=True)
    if served.is_clip:
        _check_frames(stored.shape[1], name)
    if not served.is_sound:
        _check_pixels(stored, name)
    return modality.to_model(torch.from_numpy(stored).unsqueeze(0))


def _decoded(served: Served, modality: Modality, path: Path) -> np.ndarray:
    """Decode a file to stored values, after a look at its length in bounded memory."""
    if served.is_sound:
        _check_seconds(path)
    elif (frames := modality.blocks(path)) is not None:
        length = 0
        for block in frames:  # (C, F, H, W)
            length += block.shape[1]
            _check_frames(length, printable(path.name))
            _check_pixels(block, printable(path.name))
    return modality.decode(path)


def _check_seconds(path: Path) -> None:
    """Check the length of a sound, whatever the size of its file."""
    opened = open_blocks(path)
    if opened is None:
        if path.stat().st_size > MOST_WHOLE_BYTES:
            raise InputError(
                f"expected at most {MOST_WHOLE_BYTES // MEBIBYTE} MiB of sound in this format, received "
                f"{printable(path.name)}: convert it to WAV or FLAC"
            )
        return
    blocks, rate_hz = opened
    seconds = 0.0
    for block in blocks:
        seconds += len(block) / rate_hz
        if seconds > MOST_SECONDS:
            raise InputError(
                f"expected at most {MOST_SECONDS} seconds, received {printable(path.name)}, which has more: "
                "cut it"
            )


def _check_frames(frames: int, name: str) -> None:
    if frames > MOST_FRAMES:
        raise InputError(f"expected at most {MOST_FRAMES} frames, received {name}, which has more: cut it")


def _check_pixels(stored: np.ndarray, name: str) -> None:
    height, width = stored.shape[-2:]
    if height * width > MOST_PIXELS:
        raise InputError(
            f"expected at most {MOST_PIXELS:,} pixels, received {name} of {width}x{height}: scale it down, "
            "or choose the model's size"
        )


def shown(modality: Modality, signal: Tensor, title: str = "") -> str:
    """Show a signal as HTML that holds its picture, sound or clip.

    Args:
        modality: of the signal.
        signal: `(1, C, *size)`, in the model's range.
        title: below it.
    """
    with torch.no_grad():
        levels = modality.render(signal)
    if modality.sample_rate_hz is not None:
        spectrogram = inline(modality.preview([signal]))
        body = (
            f'<audio controls src="{sound(levels[0, 0].numpy(), modality.sample_rate_hz)}"></audio>'
            f'<img src="{spectrogram}" alt="log-mel spectrogram" style="max-width:100%">'
        )
    elif levels.ndim == 5:
        source = f'src="{_clip(modality, signal)}" {_scaled(levels)}'
        body = f"<video controls autoplay loop muted playsinline {source}></video>"
    else:
        picture = Image.fromarray(levels[0].expand(3, -1, -1).movedim(0, -1).to(torch.uint8).numpy())
        body = f'<img src="{inline(picture)}" alt="{html.escape(title)}" {_scaled(levels)}>'
    return f"<figure>{body}<figcaption>{html.escape(title)}</figcaption></figure>"


def gallery(modality: Modality, signals: Sequence[Tensor], titles: Sequence[str]) -> str:
    """Show several signals side by side."""
    parts = [shown(modality, signal, title) for signal, title in zip(signals, titles, strict=True)]
    return f'<div class="items">{"".join(parts)}</div>'


def sentence(text: str) -> str:
    """Return a paragraph of text."""
    return f"<p>{html.escape(text)}</p>"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names and figures."""
    lines = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="figures">{"".join(lines)}</table>'


def grid_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a head."""
    tags = itertools.chain([("th", head)], (("td", row) for row in rows))
    lines = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) for tag, cells in tags)
    return f'<table class="figures"><tr>{"</tr><tr>".join(lines)}</tr></table>'


def _scaled(levels: Tensor) -> str:
    """Return the style that enlarges a small picture without smoothing, by a whole number."""
    height, width = levels.shape[-2:]
    factor = max(1, round(SIDE / max(height, width)))
    return f'style="width:{factor * width}px;max-width:100%;image-rendering:pixelated"'


def _clip(modality: Modality, signal: Tensor) -> str:
    """Return a clip as the data URL of a video file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"clip{modality.ending}")
        modality.save(signal, path)
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:video/mp4;base64,{content}"
