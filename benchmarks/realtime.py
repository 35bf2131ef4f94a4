"""Encoding and decoding by the networks of the speech codec, compared with the duration of the speech.

The weights are untrained, which changes no time. Run as `python benchmarks/realtime.py`; takes a minute.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import typer
from record import record
from timing import Time, interleaved

from smalti.app.recipes.speech import speech_codec
from smalti.models.vqvae import VQVAE

SECONDS, RATE_HZ = 60, 16_000


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Measure a minute of speech, both ways."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    recipe = speech_codec()
    model = recipe.model.build(recipe.data.build().spec)
    assert isinstance(model, VQVAE)
    model.eval()
    waveform = np.random.default_rng(0).uniform(-0.1, 0.1, SECONDS * RATE_HZ).astype(np.float32)
    signal = torch.from_numpy(waveform)[None, None]
    codes = model.encode(signal)
    works = {
        "encode a minute of speech by speech-codec": lambda: model.encode(signal),
        "decode a minute of speech by speech-codec, 6 codes": lambda: model.decode(codes),
        "decode a minute of speech by speech-codec, first 3 codes": lambda: first.decode(codes[:, :3]),
    }
    first = model.first_codes(3)
    with torch.no_grad():
        times = interleaved(list(works.values()), repeats)
    for work, time in zip(works, times, strict=True):
        record(
            "realtime",
            work=work,
            peer="duration of the speech",
            threads=threads,
            ours=time,
            theirs=Time(float(SECONDS), None),
            benchmark="speech-real-time",
            target=1.0,
            repeats=repeats,
        )


if __name__ == "__main__":
    typer.run(main)
