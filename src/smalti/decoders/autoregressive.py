"""Autoregressive decoders: latents become the local condition of a network over the signal's elements.

A WaveNet over the samples of a waveform (van den Oord et al. 2017, section 4.3), or a gated PixelCNN over a
grid of codes (the second stage of section 4.2). Two parts, as every decoder here has: `LocalDecoder` turns
latents into parameters `(B, P, *coarse)`, and `AutoregressiveFamily` turns those into a likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.sampling import sample
from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.core.conditions import Conditions
from smalti.core.config import Configuration
from smalti.core.parts import Decoder, Likelihood, LikelihoodFamily
from smalti.core.priors import AutoregressiveNetwork
from smalti.core.signals import SignalSpec
from smalti.likelihoods.categorical import CategoricalFamily
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.nn.blocks import CONVOLUTIONS, ResidualBlock, upsample


class WaveNetDecoderConfig(Configuration):
    """Sizes of the autoregressive decoder.

    Attributes:
        channels: of the local condition.
        residual_channels: of the residual blocks over the latents.
        residual_blocks: number of those.
        upsample: strides of transposed convolutions after them; what they leave of the encoder's stride is
            repeated, sample for sample.
        network: the WaveNet over the samples.
    """

    kind: Literal["wavenet"] = "wavenet"
    channels: int = Field(default=64, ge=1)
    residual_channels: int = Field(default=32, ge=1)
    residual_blocks: int = Field(default=1, ge=0)
    upsample: tuple[Annotated[int, Field(ge=1)], ...] = ()
    network: WaveNetConfig = WaveNetConfig()

    @classmethod
    def tiny(cls) -> WaveNetDecoderConfig:
        """The smallest that still has every part."""
        return cls(channels=8, residual_channels=4, upsample=(2,), network=WaveNetConfig.tiny())


class PixelCNNDecoderConfig(Configuration):
    """Sizes of the autoregressive decoder of a grid of codes.

    Attributes:
        channels: of the local condition.
        residual_channels: of the residual blocks over the latents.
        residual_blocks: number of those.
        upsample: strides of transposed convolutions after them; what they leave of the encoder's stride is
            repeated.
        network: the gated PixelCNN over the codes.
    """

    kind: Literal["pixelcnn"] = "pixelcnn"
    channels: int = Field(default=128, ge=1)
    residual_channels: int = Field(default=64, ge=1)
    residual_blocks: int = Field(default=2, ge=0)
    upsample: tuple[Annotated[int, Field(ge=1)], ...] = ()
    network: GatedPixelCNNConfig = GatedPixelCNNConfig()

    @classmethod
    def tiny(cls) -> PixelCNNDecoderConfig:
        """The smallest that still has every part."""
        return cls(channels=8, residual_channels=4, residual_blocks=1, network=GatedPixelCNNConfig.tiny())


AutoregressiveDecoderConfig = WaveNetDecoderConfig | PixelCNNDecoderConfig


@final
class LocalDecoder(Decoder):
    """A 3-wide convolution from the latents, residual blocks, and transposed convolutions.

    Args:
        config: widths and depth.
        ndim: number of axes.
        dim: channels of the latents.
    """

    def __init__(self, config: AutoregressiveDecoderConfig, ndim: int, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [CONVOLUTIONS[ndim](dim, config.channels, 3, padding=1)]
        layers += [
            ResidualBlock(ndim, config.channels, config.residual_channels)
            for _ in range(config.residual_blocks)
        ]
        for stride in config.upsample:
            layers += [nn.ReLU(), upsample(ndim, config.channels, config.channels, stride)]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, latents: Float[Tensor, "b d *grid"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p *coarse"]:
        """The local condition. Labels are for the network over the signal, and are not heeded here."""
        return self.layers(latents)


@final
class AutoregressiveLikelihood(Likelihood):
    """p(x | condition) = product over i of p(x_i | x_<i, condition), each factor from a family.

    It has no mean that could be written down: `mean` is refused, draw with `sample`.

    Args:
        network: over the elements (samples, codes).
        family: of each element's factor.
        conditions: labels, and the local condition `(B, P, *coarse)`.
        size: of the signal.
        levels: of an element.
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
        """ln p of each element given those before it, by one forward pass over the whole signal."""
        outputs = self._network(to_levels(signal, self._levels), self._conditions)
        # Channel after channel, the parameters of each together: as decoders give them to families.
        return self._family(outputs.movedim(-1, 2).flatten(1, 2)).log_prob(signal)

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c *size"]:
        """A draw, element after element, from the cached step."""
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
            draw=None if isinstance(self._family, CategoricalFamily) else draw,
        )
        return from_levels(levels, self._levels)

    def mean(self) -> Float[Tensor, "b c *size"]:
        """Refused: see the class.

        Raises:
            RuntimeError: always; `has_mean` says so beforehand.
        """
        raise RuntimeError("an autoregressive likelihood has no mean in closed form: draw with sample")


@final
class AutoregressiveFamily(LikelihoodFamily):
    """From a local condition to the likelihood that an autoregressive network gives to signals under it.

    Args:
        config: of the decoder.
        family: of each element's factor (a softmax over the levels, or of samples a mixture of logistics).
        signal: channels and levels of the data.
        strides: of the encoder.
        num_classes: labels that the network is told.
    """

    def __init__(
        self,
        config: AutoregressiveDecoderConfig,
        family: LikelihoodFamily,
        signal: SignalSpec,
        strides: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        factor = torch.Size(strides).numel()
        made = torch.Size(config.upsample).numel()
        self.parameters_per_channel = config.channels
        self.frame = factor // made
        """Elements for each place of the local condition, along an axis."""
        self.levels, self.num_classes = signal.levels, num_classes
        self.family = family
        self.network = _network(config, family, signal, num_classes)

    def forward(
        self, parameters: Float[Tensor, "b p *coarse"], conditions: Conditions | None = None
    ) -> AutoregressiveLikelihood:
        """The likelihood of signals of `coarse * frame` elements along each axis."""
        labels = (conditions or Conditions()).only("label")
        return AutoregressiveLikelihood(
            self.network,
            self.family,
            Conditions(**labels, local=parameters),
            [places * self.frame for places in parameters.shape[2:]],
            self.levels,
        )


def _network(
    config: AutoregressiveDecoderConfig, family: LikelihoodFamily, signal: SignalSpec, num_classes: int
) -> AutoregressiveNetwork:
    """The network over the elements of a signal."""
    if isinstance(config, PixelCNNDecoderConfig):
        return config.network.build(
            signal.levels, signal.channels, num_classes, local_channels=config.channels
        )
    return config.network.build(
        signal.levels,
        num_classes=num_classes,
        local_channels=config.channels,
        # By its kind: a mixture may by chance have as many parameters as there are levels.
        outputs=None if isinstance(family, CategoricalFamily) else family.parameters_per_channel,
    )
