"""Autoregressive decoders: latents become the local condition of a network over the signal's elements.

A WaveNet over the samples of a waveform (van den Oord et al. 2017, section 4.3), or a gated PixelCNN over a
grid of codes (the second stage of section 4.2) or over pixels. `LocalDecoder` maps latents to parameters
`(B, P, *coarse)`, and `AutoregressiveFamily` maps these to a likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.sampling import code, sample
from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.core.coders import SymbolCoder
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.parts import DECODERS, Decoder, DecoderConfig, Encoder, Likelihood, LikelihoodFamily
from smalti.core.priors import AutoregressiveNetwork
from smalti.core.signals import SignalSpec
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.nn.blocks import CONVOLUTIONS, ResidualBlock, upsample

NUM_FREQUENCIES = 8
"""Cosines in the first embedding of ordered levels."""


@final
class LocalDecoder(Decoder):
    """A convolution of width 3 over the latents, residual blocks, and transposed convolutions.

    Args:
        dim: channels of the latents.
        ndim: axes of the signal.
        channels: channels of the local condition.
        residual_channels: hidden channels of the residual blocks over the latents.
        residual_blocks: number of residual blocks.
        upsample_strides: strides of the transposed convolutions after them.
    """

    def __init__(
        self,
        dim: int = 64,
        ndim: int = 1,
        *,
        channels: int = 64,
        residual_channels: int = 32,
        residual_blocks: int = 1,
        upsample_strides: Sequence[int] = (),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [CONVOLUTIONS[ndim](dim, channels, 3, padding=1)]
        layers += [ResidualBlock(ndim, channels, residual_channels) for _ in range(residual_blocks)]
        for stride in upsample_strides:
            layers += [nn.ReLU(), upsample(ndim, channels, channels, stride)]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *coarse"]:
        """The local condition. Labels condition the network over the signal and are ignored here."""
        return self.layers(latents)


@final
class AutoregressiveLikelihood(Likelihood):
    """p(x | condition) = product over i of p(x_i | x_<i, condition), each factor from a family.

    Its mean has no closed form: `mean` raises, use `sample`.

    Args:
        network: over the elements (samples, codes).
        family: likelihood family of each factor.
        conditions: labels, and the local condition `(B, P, *coarse)`.
        size: of the signal.
        levels: number of levels of an element.
    """

    has_mean = False

    def __init__(
        self,
        network: AutoregressiveNetwork,
        family: LikelihoodFamily,
        conditions: Conditions,
        size: Sequence[int],
        levels: int,
    ) -> None:
        self._network, self._family, self._conditions = network, family, conditions
        self._size, self._levels = tuple(size), levels

    def log_prob(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """ln p of each element given the previous ones, in one forward pass over the whole signal."""
        outputs = self._network(to_levels(signal, self._levels), self._conditions)
        # Channel by channel, with the parameters of each together: the layout that families expect.
        return self._family(outputs.movedim(-1, 2).flatten(1, 2)).log_prob(signal)

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """Draw element by element with the cached step."""
        local = self._conditions.tensor("local")
        assert local is not None

        def draw(outputs: Float[Tensor, "b p"], generator: torch.Generator | None) -> Tensor:
            drawn = self._family(outputs.unsqueeze(2)).sample(generator, temperature)
            return to_levels(drawn, self._levels).flatten()

        levels = sample(
            self._network,
            len(local),
            self._size,
            self._conditions,
            temperature,
            generator=generator,
            draw=None if self._family.gives_logits else draw,
        )
        return from_levels(levels, self._levels)

    def code(self, levels: Int64[Tensor, "b c *size"], coder: SymbolCoder) -> None:
        """Code element by element with the cached step."""

        def code_symbol(outputs: Tensor, symbols: Tensor) -> None:
            self._family(outputs.unsqueeze(2)).code(symbols.view(-1, 1, 1), coder)

        own = None if self._family.gives_logits else code_symbol
        code(self._network, levels, coder, self._conditions, self._size, own)

    def mean(self) -> Float[Tensor, "b c *size"]:
        """Not available; see the class.

        Raises:
            RuntimeError: always; check `has_mean` first.
        """
        raise RuntimeError("an autoregressive likelihood has no mean in closed form: draw with sample")


@final
class AutoregressiveFamily(LikelihoodFamily):
    """Maps a local condition to the likelihood that an autoregressive network gives to signals.

    Args:
        network: over the elements, conditioned on `channels` local channels.
        likelihood: of each factor: a softmax over the levels, or a mixture of logistics.
        channels: channels of the local condition.
        frame: elements per position of the local condition, along an axis.
        levels: number of levels of an element.
    """

    def __init__(
        self,
        network: AutoregressiveNetwork,
        likelihood: LikelihoodFamily,
        channels: int,
        frame: int,
        levels: int = 256,
    ) -> None:
        super().__init__()
        self.num_parameters, self.frame, self.levels = channels, frame, levels
        self.condition_sizes = network.condition_sizes
        self.family, self.network = likelihood, network
        self.kind = f"autoregressive, {likelihood.kind}"

    def forward(
        self, parameters: Float[Tensor, "b p *coarse"], conditions: Conditions | None = None
    ) -> AutoregressiveLikelihood:
        """The likelihood of signals of `coarse * frame` elements along each axis."""
        return AutoregressiveLikelihood(
            self.network,
            self.family,
            Conditions(**{**(conditions or {}), "local": parameters}),
            [places * self.frame for places in parameters.shape[2:]],
            self.levels,
        )


@torch.no_grad()
def init_ordered(embedding: nn.Embedding) -> None:
    """Initialize the embedding of ordered levels: neighbouring levels get similar vectors.

    Each channel is a random sum of eight cosines of the level, the amplitude of frequency f falling as 1/f,
    of mean square 1 over the channels' weights. An embedding of independent vectors must learn the order.
    """
    weight = embedding.weight
    frequencies = torch.arange(1, NUM_FREQUENCIES + 1, dtype=weight.dtype, device=weight.device)
    phases = torch.linspace(0, math.pi, len(weight), dtype=weight.dtype, device=weight.device)
    amplitudes = torch.randn_like(weight[:1].expand(NUM_FREQUENCIES, -1)) / frequencies.unsqueeze(1)
    amplitudes = amplitudes / amplitudes.norm(dim=0)
    weight.copy_((phases.unsqueeze(1) * frequencies).cos() @ amplitudes * math.sqrt(2))


class _LocalDecoderConfig(DecoderConfig):
    """Settings shared by autoregressive decoders.

    Attributes:
        channels: channels of the local condition.
        residual_channels: hidden channels of the residual blocks over the latents.
        residual_blocks: number of residual blocks.
        upsample: strides of the transposed convolutions after them; the remaining factor of the encoder's
            stride is covered by repetition.
    """

    channels: int = Field(default=64, ge=1)
    residual_channels: int = Field(default=32, ge=1)
    residual_blocks: int = Field(default=1, ge=0)
    upsample: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), max_length=32)

    def local(self, dim: int, ndim: int) -> LocalDecoder:
        """Build the part that maps latents to the local condition."""
        return LocalDecoder(
            dim,
            ndim,
            channels=self.channels,
            residual_channels=self.residual_channels,
            residual_blocks=self.residual_blocks,
            upsample_strides=self.upsample,
        )

    def frame(self, encoder: Encoder) -> int:
        """Elements per position of the local condition, along an axis.

        Raises:
            InputError: if `upsample` does not divide the encoder's stride.
        """
        factor, made = math.prod(encoder.strides), math.prod(self.upsample)
        if factor % made:
            raise InputError(
                f"expected decoder.upsample to divide the encoder's stride of {factor}, received "
                f"{self.upsample}: choose strides whose product divides it"
            )
        return factor // made


@DECODERS.register
class WaveNetDecoderConfig(_LocalDecoderConfig):
    """Settings of an autoregressive decoder of waveforms.

    Attributes:
        network: the WaveNet over the samples.
    """

    kind: Literal["wavenet"] = "wavenet"
    network: WaveNetConfig = WaveNetConfig()

    @classmethod
    def tiny(cls) -> WaveNetDecoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=8, residual_channels=4, upsample=(2,), network=WaveNetConfig.tiny())

    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None = None,
    ) -> tuple[LocalDecoder, AutoregressiveFamily]:
        """Build the decoder, and the likelihood of whole waveforms."""
        if (signal.channels, signal.ndim) != (1, 1):
            raise InputError(
                f"expected a waveform (one channel, one axis) for a WaveNet decoder, received "
                f"{signal.channels} channels and {signal.ndim} axes: use decoder.kind=conv"
            )
        if not likelihood.is_per_element:
            raise InputError(
                "expected a likelihood with separate parameters per sample, received one with a shared "
                "scale: use likelihood.kind=categorical or logistic_mixture"
            )
        local = self.local(dim, signal.ndim)
        network = self.network.build(
            signal.levels,
            conditions=conditions,
            local_channels=self.channels,
            # Not by number: a mixture may happen to have as many parameters as there are levels.
            outputs=None if likelihood.gives_logits else likelihood.num_parameters,
        )
        frame = self.frame(encoder)
        family = AutoregressiveFamily(network, likelihood, self.channels, frame, signal.levels)
        return local, family


@DECODERS.register
class PixelCNNDecoderConfig(_LocalDecoderConfig):
    """Settings of an autoregressive decoder of code grids, or of images.

    Attributes:
        ordered: whether the levels are ordered, as those of pixels are and codes are not; their embeddings
            begin accordingly (`init_ordered`).
        network: the gated PixelCNN over the codes or pixels.
    """

    kind: Literal["pixelcnn"] = "pixelcnn"
    channels: int = Field(default=128, ge=1)
    residual_channels: int = Field(default=64, ge=1)
    residual_blocks: int = Field(default=2, ge=0)
    ordered: bool = False
    network: GatedPixelCNNConfig = GatedPixelCNNConfig()

    @classmethod
    def tiny(cls) -> PixelCNNDecoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=8, residual_channels=4, residual_blocks=1, network=GatedPixelCNNConfig.tiny())

    def build(
        self,
        signal: SignalSpec,
        dim: int,
        encoder: Encoder,
        likelihood: LikelihoodFamily,
        conditions: Mapping[str, int] | None = None,
    ) -> tuple[LocalDecoder, AutoregressiveFamily]:
        """Build the decoder, and the likelihood of whole grids."""
        if signal.ndim != 2:
            raise InputError(
                f"expected grids of two axes for a PixelCNN decoder, received {signal.ndim}: use "
                "decoder.kind=conv"
            )
        if not likelihood.gives_logits:
            raise InputError(
                f"expected a likelihood of codes, a softmax, received a {type(likelihood).__name__}: use "
                "likelihood.kind=categorical, or set gives_logits in a softmax of your own"
            )
        local = self.local(dim, signal.ndim)
        network = self.network.build(signal.levels, signal.channels, conditions, local_channels=self.channels)
        if self.ordered:
            for embedding in (*network.embeddings, *network.prefixes):
                assert isinstance(embedding, nn.Embedding)
                init_ordered(embedding)
        frame = self.frame(encoder)
        family = AutoregressiveFamily(network, likelihood, self.channels, frame, signal.levels)
        return local, family
