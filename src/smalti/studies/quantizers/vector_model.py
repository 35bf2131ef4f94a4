"""A quantizer between two small networks, for vectors."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.conditions import Batch
from smalti.core.models import Trainable
from smalti.core.parts import Quantizer
from smalti.core.results import Loss


@final
class ResidualMLP(nn.Module):
    """A linear map plus a network of two hidden layers, on the channels of `(B, C, 1)`.

        y = W x + b + V gelu(gelu(...)),  at first V = 0, b = 0 and W the identity, cut or filled with zeros

    A quantizer of bits needs more than the linear map: the second bit of a component is no threshold of it.

    Args:
        dim: channels of the input.
        out: channels of the output.
        hidden: units of each hidden layer.
    """

    def __init__(self, dim: int, out: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, out)
        last = nn.Linear(hidden, out)
        self.network = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), last
        )
        nn.init.eye_(self.linear.weight)
        for tensor in (self.linear.bias, last.weight, last.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Float[Tensor, "b c 1"]) -> Float[Tensor, "b d 1"]:
        """Map the channels of each vector."""
        x = x.squeeze(2)
        return (self.linear(x) + self.network(x)).unsqueeze(2)


@final
class VectorAutoencoder(Trainable):
    """A quantizer between two networks, trained for squared error.

        loss = mean (x - decoder(z_q))^2 + loss of the quantizer of z = encoder(x)

    Args:
        dimension: of the vectors.
        quantizer: of latents `(B, D, 1)`.
        hidden: units of the hidden layers of both networks.
    """

    def __init__(self, dimension: int, quantizer: Quantizer, hidden: int) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.encoder = ResidualMLP(dimension, quantizer.dim, hidden)
        self.decoder = ResidualMLP(quantizer.dim, dimension, hidden)

    def loss(self, batch: Batch) -> Loss:
        """Squared error, plus the loss of the quantizer."""
        quantized = self.quantizer(self.encoder(batch.data))
        mse = (batch.data - self.decoder(quantized.latents)).square().mean()
        return Loss(mse + quantized.loss, {"mse": mse.detach(), **quantized.terms})

    @torch.no_grad()
    def encode(self, vectors: Float[Tensor, "b n 1"]) -> Tensor:
        """Codes `(B, G, 1)` of vectors."""
        return self.quantizer.encode(self.encoder(vectors))

    @torch.no_grad()
    def reconstruct(self, codes: Tensor) -> Float[Tensor, "b n 1"]:
        """Vectors of codes."""
        return self.decoder(self.quantizer.decode(codes))
