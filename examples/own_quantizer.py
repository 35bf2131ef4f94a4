"""A quantizer of your own, used by name, in the folder that holds this file:
smalti train image --plugin own_quantizer --data FOLDER --out RUN model.quantizer.kind=sign bits=8
"""

from typing import Literal

import torch

import smalti


class SignQuantizer(smalti.Quantizer):
    """One code of 2^bits at each position: the signs of `bits` channels, with a straight-through gradient."""

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.config = SignConfig(bits=bits)
        self.num_codebooks, self.num_codes, self.dim = 1, 2**bits, bits
        self.register_buffer("weights", 2 ** torch.arange(bits))

    def forward(self, latents):
        signs = torch.where(latents > 0, 1.0, -1.0)
        loss = 0.25 * (latents - signs).square().mean()
        straight_through = latents + (signs - latents).detach()
        return smalti.Quantized(straight_through, self.encode(latents), loss, {"commitment": loss.detach()})

    def encode(self, latents):
        return torch.einsum("bd...,d->b...", (latents > 0).long(), self.weights).unsqueeze(1)

    def decode(self, codes):
        return ((codes.movedim(1, -1) // self.weights % 2) * 2.0 - 1).movedim(-1, 1)


@smalti.QUANTIZERS.register
class SignConfig(smalti.QuantizerConfig):
    kind: Literal["sign"] = "sign"
    bits: int = 8

    def build(self):
        return SignQuantizer(self.bits)
