"""Encoding of 200 recordings of 0.3 to 20 s, compared with the network on batches without padding.

The network of the recipe `digits-spectral`, untrained, on spectrograms in memory. Smalti encodes the
recordings together. It is compared with the encoder and code search on batches of 16 spectrograms of one
length, as many frames in total, and with the encoder and code search on one recording after the other. Run as
`python benchmarks/ragged.py`; takes about a minute.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import typer
from record import record
from timing import interleaved

from smalti.app.recipes.speech import digits_spectral
from smalti.core.allocator import keep_freed_memory
from smalti.encoding import encode_signals

NUM, SHORTEST_S, LONGEST_S = 200, 0.3, 20.0
BATCH = 16
SHARE = 0.8
"""Target rate, as a fraction of that of the network on equal lengths."""


@torch.no_grad()
def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Compare on the same number of frames."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    recipe = digits_spectral()
    modality = recipe.data.build()
    torch.manual_seed(0)
    model = recipe.model.build(modality.spec, {"label": 2}).eval()
    seconds = np.random.default_rng(0).uniform(SHORTEST_S, LONGEST_S, NUM)
    rate = 1 / (modality.seconds(1) or 1)
    lengths = [int(each * rate) // model.stride * model.stride for each in seconds]
    channels = modality.spec.channels
    signals = [torch.rand(1, channels, length) * 2 - 1 for length in lengths]
    mean = sum(lengths) // NUM // model.stride * model.stride
    batch = torch.rand(BATCH, channels, mean) * 2 - 1
    num_batches = round(sum(lengths) / batch.shape[0] / batch.shape[2])

    def bare(signal: torch.Tensor) -> torch.Tensor:
        return model.quantizer.encode(model.encoder(signal))

    works = {
        "": lambda: encode_signals(model, modality, signals),
        f"encoder and code search, batches of {BATCH} of one length": lambda: [
            bare(batch) for _ in range(num_batches)
        ],
        "encoder and code search, one by one": lambda: [bare(signal) for signal in signals],
    }
    ours, *others = interleaved(list(works.values()), repeats)
    others[0] = others[0].times(sum(lengths) / (num_batches * batch.shape[0] * batch.shape[2]))
    for number, (peer, theirs) in enumerate(zip(list(works)[1:], others, strict=True)):
        record(
            "ragged",
            work=f"encode {NUM} recordings of {SHORTEST_S} to {LONGEST_S:g} s, recipe digits-spectral, "
            "spectrograms in memory",
            peer=peer,
            threads=threads,
            ours=ours,
            theirs=theirs,
            benchmark="encode-ragged",
            target=SHARE if number == 0 else None,
            frames=sum(lengths),
            repeats=repeats,
        )


if __name__ == "__main__":
    typer.run(main)
