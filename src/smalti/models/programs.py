"""Export of a model's encoder and decoder as `torch.export` programs, which run without this package."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.models import Autoencoder

MORE_THAN_ONE = 2
"""Batch size of the example inputs: `torch.export` would specialise on a batch of one."""


@final
class _Encode(nn.Module):
    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, signal: Float[Tensor, "b c *size"]) -> Int64[Tensor, "b g *grid"]:
        return self.autoencoder.encode(signal)


@final
class _Decode(nn.Module):
    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, codes: Int64[Tensor, "b g *grid"]) -> Float[Tensor, "b c *size"]:
        return self.autoencoder.decode(codes)


@torch.no_grad()
def programs(autoencoder: Autoencoder) -> tuple[ExportedProgram, ExportedProgram]:
    """Export `encode` and `decode` as graphs of plain operations, for any batch size.

    The first maps signals `(B, C, *size)` in [-1, 1] to codes int64 `(B, G, *grid)`, the second maps codes to
    the mean of p(x | codes) without a label. Codes out of range are not checked and give meaningless output.
    Sizes are those of the training data. The programs run on the CPU and find the nearest code in float64,
    with a score for every token and code.

    Args:
        autoencoder: the model; it is not modified.

    Raises:
        InputError: if the decoder draws sample by sample, which is a loop and cannot be exported as a graph.
    """
    autoencoder = copy.deepcopy(autoencoder).cpu().eval()
    spec = autoencoder.signal
    codes = torch.zeros(MORE_THAN_ONE, autoencoder.num_codebooks, *autoencoder.grid, dtype=torch.int64)
    if autoencoder.likelihood(codes).known_mean() is None:
        raise InputError(
            "expected a decoder whose likelihood has a known mean, received one that draws sample by sample: "
            "use this package to decode, or train with decoder.kind=conv"
        )
    signal = torch.zeros(MORE_THAN_ONE, spec.channels, *spec.size)
    batch = {0: Dim("batch", min=1)}
    return (
        torch.export.export(_Encode(autoencoder), (signal,), dynamic_shapes=(batch,)),
        torch.export.export(_Decode(autoencoder), (codes,), dynamic_shapes=(batch,)),
    )


def save_programs(autoencoder: Autoencoder, directory: Path) -> None:
    """Write the `programs` of a model, `encode.pt2` and `decode.pt2`.

    Raises:
        InputError: as `programs`.
    """
    for name, program in zip(("encode", "decode"), programs(autoencoder), strict=True):
        with atomic_file(directory / f"{name}.pt2") as temporary:
            torch.export.save(program, temporary)
