"""Reading of 200 photographs of 12 megapixels at 256x256, compared with a plain Pillow loop.

The loop decodes each JPEG whole, and scales and crops it by `ImageOps.fit`, in one thread. Smalti lets the
decoder reduce each picture first. The mean and the largest difference of the pixels from those of the loop
are recorded. The photographs are generated, some of a size that the reduction does not divide, and are in
the page cache. Run as `python benchmarks/photos.py`; takes about twenty minutes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageOps
from record import record
from timing import interleaved

from smalti.data.ingest import decode_ahead
from smalti.data.sources.base import Item
from smalti.modalities.image.modality import ImageConfig

SIZES = ((4000, 3000), (3000, 4000), (4032, 3024), (4001, 3007))
"""Widths and heights."""
OCTAVES, DISTINCT, SIDE = 9, 8, 256
SENSOR = 4.0
"""Standard deviation of the noise, levels, with which files are as large as those of a camera."""
FASTER = 3.0
"""Target ratio to the loop, on one thread."""
LARGEST_MEAN_ERROR = 1.0
"""Target of the mean difference from the loop, in levels."""


def photograph(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Generate structure on all scales, rectangles with edges, and the noise of a sensor."""
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(OCTAVES):
        coarse = rng.normal(0, 0.62**octave, (2 + 3 * 2**octave // 2, 2 + 2**octave * 2, 3))
        for channel in range(3):
            plane = Image.fromarray(coarse[..., channel].astype(np.float32))
            total[..., channel] += plane.resize((width, height), Image.Resampling.BICUBIC)
    total = total / total.std() * 55 + 128
    for _ in range(60):
        x, y = rng.integers(0, width), rng.integers(0, height)
        right, below = x + rng.integers(20, width // 3), y + rng.integers(20, height // 3)
        total[y:below, x:right] += rng.normal(0, 40, 3)
    total += rng.normal(0, SENSOR, (height, width, 1))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def make_photographs(directory: Path, num: int) -> list[Path]:
    """Write photographs as JPEG of quality 90; after the first `DISTINCT`, as copies."""
    rng = np.random.default_rng(0)
    files = [directory / f"{index:03}.jpg" for index in range(num)]
    for index, file in enumerate(files):
        if index < DISTINCT:
            photograph(*SIZES[index % len(SIZES)], rng).save(file, quality=90)
        else:
            file.write_bytes(files[index % DISTINCT].read_bytes())
    return files


def read_whole(file: Path) -> np.ndarray:
    """Decode a whole file, and scale it down."""
    image = Image.open(file).convert("RGB")
    return np.asarray(ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 3,
    threads: Annotated[int, typer.Option(help="Decoding threads of smalti.")] = 1,
    num: Annotated[int, typer.Option(help="Number of photographs.")] = 200,
) -> None:
    """Compare the times, and the pixels."""
    modality = ImageConfig(size=(SIDE, SIDE)).build()
    with tempfile.TemporaryDirectory() as directory:
        files = make_photographs(Path(directory), num)
        items = [Item(file.name, file) for file in files]

        def read() -> None:
            for _ in decode_ahead(items, modality.decode, threads):
                pass

        def read_all_whole() -> None:
            for file in files:
                read_whole(file)

        errors = [
            np.abs(modality.decode(file).astype(float) - read_whole(file).astype(float))
            for file in files[:DISTINCT]
        ]
        ours, theirs = interleaved([read, read_all_whole], repeats)
    mean = float(np.mean([error.mean() for error in errors]))
    record(
        "photos",
        work=f"read {num} photographs of 12 megapixels (JPEG) at {SIDE}x{SIDE}",
        peer="Pillow, whole pictures, 1 thread",
        threads=threads,
        ours=ours,
        theirs=theirs,
        packages=("pillow",),
        benchmark="encode-photos",
        target=FASTER if threads == 1 else None,
        mean_error=mean,
        max_error=float(max(error.max() for error in errors)),
        is_close=mean < LARGEST_MEAN_ERROR,
        repeats=repeats,
    )


if __name__ == "__main__":
    typer.run(main)
