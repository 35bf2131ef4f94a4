"""The README's picture: letters, a spoken digit and a frame of a virtual world, each with its codes.

Run as `.venv/bin/python benchmarks/media.py LETTERS_RUN FRAMES_RUN FRAMES_DATA`, with the run of
`smalti demo`, a run of the recipe `frames128` that has a prior, and its data. Speech is drawn by the model
`spoken-digits` of the package; no recording is shown.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import smalti
from smalti.app.data import open_data
from smalti.app.letters import LettersSource
from smalti.data.sources.base import Source
from smalti.evaluation.figures import save_figure

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SPEAKERS = ("george", "lucas", "theo")
LETTER, SEED = 6, 5


def show(axes: Axes, picture: np.ndarray, title: str, **settings: Any) -> None:
    """Show a picture or a map of codes."""
    axes.imshow(picture, interpolation="nearest", **settings)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def show_codes(axes: Axes, codes: torch.Tensor, num_codes: int, title: str) -> None:
    """Colour codes at random, so that neighbouring numbers differ."""
    colours = np.random.default_rng(0).permutation(num_codes)[np.atleast_2d(codes.numpy())]
    aspect = "auto" if codes.ndim == 1 else "equal"
    show(axes, colours, title, cmap="turbo", vmin=0, vmax=num_codes - 1, aspect=aspect)


def picture_row(
    axes: Sequence[Axes],
    run: str,
    source: Source,
    index: int,
    class_name: str,
    item: str,
    guidance: float = 1.0,
) -> None:
    """Show an item, its codes, its reconstruction, and an item that the prior draws."""
    tokenizer = smalti.load(run)
    content = next(itertools.islice(source.items("test"), index, None)).content
    picture = torch.from_numpy(tokenizer.modality.decode(content))
    codes = tokenizer.encode(picture)
    drawn = tokenizer.sample(1, class_name, seed=SEED, temperature=0.8, guidance=guidance)[0]
    pictures = [picture, tokenizer.decode(codes)[0], drawn]
    titles = [item, "decoded from its codes", f"drawn by a prior: {class_name}"]
    for each, one, title in zip([axes[0], axes[2], axes[3]], pictures, titles, strict=True):
        show(each, one.movedim(0, -1).numpy(), title)
    places = "x".join(map(str, codes.shape[2:]))
    show_codes(axes[1], codes[0, 0], tokenizer.autoencoder.num_codes, f"its codes, {places}")


def main(letters: str, frames: str, frames_data: str) -> None:
    """Write docs/images/media.png."""
    figure = Figure(figsize=(7.8, 5.4), layout="constrained")
    rows = figure.subplots(3, 4)
    picture_row(rows[0], letters, LettersSource(), LETTER, "g", "a picture", guidance=2.0)
    picture_row(
        rows[2], frames, open_data(frames_data, smalti.load(frames).modality), 0, "take_cover", "a frame"
    )
    digits = smalti.load("spoken-digits")
    codes = digits.sample_codes(1, SPEAKERS[0], seed=SEED, temperature=0.8)
    title = f"a spoken digit as {codes.shape[2]} codes"
    show_codes(rows[1][0], codes[0, 0], digits.autoencoder.num_codes, title)
    for axes, name in zip(rows[1][1:], SPEAKERS, strict=True):
        spoken = digits.decode(codes, class_name=name)[0, 0].numpy()
        rate_hz = digits.modality.sample_rate_hz
        axes.specgram(spoken, NFFT=256, Fs=rate_hz, noverlap=192, cmap="magma", vmin=-110, vmax=-35)
        axes.set_title(f"in the voice of {name}", fontsize=8)
        axes.set_axis_off()
    path = IMAGES / "media.png"
    save_figure(figure, path)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
