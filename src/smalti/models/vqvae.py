"""The VQ-VAE: encoder, quantizer, decoder and likelihood, trained by the paper's three-term loss."""

from __future__ import annotations

from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.interfaces import Autoencoder, Batch, Likelihood, Loss, SignalSpec
from smalti.likelihoods import bits_per_dim
from smalti.models.networks import TINY, NetworksConfig, build_networks
from smalti.quantizers.vq import VectorQuantizer, VectorQuantizerConfig


class VQVAEConfig(NetworksConfig):
    """The four parts of a `VQVAE`."""

    kind: Literal["vqvae"] = "vqvae"
    quantizer: VectorQuantizerConfig = VectorQuantizerConfig()

    @classmethod
    def tiny(cls) -> VQVAEConfig:
        """The smallest that still has every part."""
        return cls(**dict(TINY), quantizer=VectorQuantizerConfig.tiny())


@final
class VQVAE(Autoencoder):
    """Neural Discrete Representation Learning, van den Oord et al. 2017.

        loss = -log p(x | z_q) / dims + |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2

    The first term is in nats per dimension and the others are averaged over elements, so that beta means
    the same at every image size. The uniform prior's rate is a constant and is left out of the loss.

    Args:
        config: the parts.
        signal: channels, size and levels of the data.

    Raises:
        InputError: when the encoder's strides do not divide the signal's size.
    """

    def __init__(self, config: VQVAEConfig, signal: SignalSpec) -> None:
        super().__init__()
        self.config, self.signal = config, signal
        self.quantizer = VectorQuantizer(config.quantizer)
        dim = self.quantizer.dim
        self.encoder, self.decoder, self.family = build_networks(config, signal, encoded=dim, decoded=dim)
        self.num_codebooks, self.num_codes = self.quantizer.num_codebooks, self.quantizer.num_codes
        self._grid = self.encoder.grid(signal.size)

    @property
    def title(self) -> str:
        """Its name and the mode of its codebook."""
        return f"VQ-VAE, {self.config.quantizer.codebook.mode} codebook"

    @property
    def grid(self) -> tuple[int, ...]:
        """Grid of the codes of one signal."""
        return self._grid

    def loss(self, batch: Batch) -> Loss:
        """The paper's three terms; also reported: the distortion in bits/dim."""
        quantized = self.quantizer(self.encoder(batch.data))
        log_prob = self.family(self.decoder(quantized.latents)).log_prob(batch.data)
        distortion = -log_prob.mean()
        terms = {"distortion_bits_per_dim": bits_per_dim(distortion.detach(), 1), **quantized.terms}
        return Loss(total=distortion + quantized.loss, terms=terms)

    @torch.no_grad()
    def encode(self, signal: Float[Tensor, "b c *size"]) -> Int64[Tensor, "b g *grid"]:
        """Codes of signals in [-1, 1]."""
        return self.quantizer.encode(self.encoder(signal))

    @torch.no_grad()
    def neighbours(self, signal: Float[Tensor, "b c *size"], num: int) -> Int64[Tensor, "num b g *grid"]:
        """For every place the codes that are next nearest to the encoder's output, the nearest first."""
        return self.quantizer.neighbours(self.encoder(signal), num)

    def likelihood(self, codes: Int64[Tensor, "b g *grid"]) -> Likelihood:
        """p(x | codes).

        Raises:
            InputError: for codes out of range, or of another number of codebooks.
        """
        return self.family(self.decoder(self.quantizer.decode(codes)))
