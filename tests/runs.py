"""Shared by tests of whole runs: settings that train in a second, made pictures, digests of folders."""

from __future__ import annotations

import contextlib
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

LEDGER = ".smalti.json"
"""As in `smalti.app.outputs`, which may not be imported before jaxtyping has installed its hook."""
UNREADABLE = "cat/004.png"
"""Of the fixture `data`, an item that is no picture."""
WIDTHS = [
    f"{part}.{width}" for part in ("encoder", "decoder") for width in ("channels=8", "residual_channels=4")
]
MODEL = [
    "size=16",
    *WIDTHS,
    "num_codes=16",
    "code_dim=4",
    "model.likelihood.kind=logistic_mixture",
    "components=2",
]
TRAINING = [
    "training.steps=10",
    "training.batch_size=8",
    "training.log_every=5",
    "training.checkpoint_every=5",
]
TINY = [*MODEL, *TRAINING]
TINY_PRIOR = [
    *TRAINING,
    "network.channels=8",
    "network.layers=2",
    "network.head_channels=8",
    "network.first_kernel_size=3",
]

TINY_WALKS = [
    *TRAINING,
    *WIDTHS,
    "size=16",
    "encoder.strides=2,2",
    "data.frames=6",
    "num_codes=16",
    "code_dim=4",
    "validation_fraction=0.2",
]
TINY_WALKS_PRIOR = [*TRAINING, "frame.channels=8", "frame.layers=2", "memory_channels=8", "memory_layers=2"]


@dataclass(frozen=True)
class Result:
    """Exit status of a command, and the text that it printed."""

    status: int
    out: str
    err: str


def command(*words: object) -> Result:
    """The real entry point, for fixtures that outlive a test; a test takes the fixture `smalti`."""
    from smalti.app.cli import main

    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch("sys.argv", ["smalti", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 0
    return Result(status, out.getvalue(), err.getvalue())


def smooth(rng: np.random.Generator, width: int = 16, height: int = 16) -> Image.Image:
    """A smooth random colour picture."""
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BILINEAR)


def digests(directory: Path) -> dict[str, str]:
    """Every file below a directory but ledgers of commands, with a digest of its bytes."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != LEDGER
    }
