"""Models whose codes are the bits of the latents, so that equal codes mean equal latents."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.core.parts import Encoder, Quantizer
from smalti.core.results import Quantized
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoder
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.models.vqvae import VQVAE

DIM = 3
TINY = {"channels": 8, "residual_channels": 4, "residual_blocks": 1}


class Bits(Quantizer):
    """Codes are the bits of float32 latents."""

    num_codebooks, num_codes, dim = DIM, 1 << 32, DIM

    def forward(self, latents: Tensor) -> Quantized:
        raise NotImplementedError

    def encode(self, latents: Tensor) -> Tensor:
        return latents.contiguous().view(torch.int32).long()

    def decode(self, codes: Tensor) -> Tensor:
        return codes.int().view(torch.float32)


def bits_model(encoder: Encoder, signal: SignalSpec) -> VQVAE:
    """A model of signals with random weights."""
    torch.manual_seed(1)
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    likelihood = GaussianConfig().build(signal)
    settings = {
        "strides": encoder.strides[::-1],
        "time_strides": encoder.time_strides[::-1],
        "per_frame": encoder.is_per_frame,
    }
    decoder = ConvDecoder(DIM, likelihood.num_parameters, signal.ndim, **TINY, **settings)
    return VQVAE(encoder, Bits(), decoder, likelihood, signal).eval()
