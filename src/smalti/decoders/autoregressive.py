"""The autoregressive decoder: latents become the local condition of a WaveNet over the samples.

van den Oord et al. 2017, section 4.3. Two parts, as every decoder here has: `LocalDecoder` turns latents into
parameters `(B, P, frames)`, and `AutoregressiveFamily` turns those into a likelihood of the signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from smalti.autoregressive.sampling import sample
from smalti.autoregressive.wavenet import WaveNet, WaveNetConfig
from smalti.interfaces import (
    Conditions,
    Configuration,
    Decoder,
    Likelihood,
    LikelihoodFamily,
    SignalSpec,
)
from smalti.likelihoods import CategoricalFamily, from_levels, to_levels
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


@final
class LocalDecoder(Decoder):
    """A 3-wide convolution from the latents, residual blocks, and transposed convolutions.

    Args:
        config: widths and depth.
        dim: channels of the latents.
    """

    def __init__(self, config: WaveNetDecoderConfig, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [CONVOLUTIONS[1](dim, config.channels, 3, padding=1)]
        layers += [
            ResidualBlock(1, config.channels, config.residual_channels) for _ in range(config.residual_blocks)
        ]
        for stride in config.upsample:
            layers += [nn.ReLU(), upsample(1, config.channels, config.channels, stride)]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, latents: Float[Tensor, "b d t"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b p frames"]:
        """The local condition. Labels are for the network over the samples, and are not heeded here."""
        return self.layers(latents)


@final
class AutoregressiveLikelihood(Likelihood):
    """p(x | condition) = product over t of p(x_t | x_<t, condition), each factor from a family.

    It has no mean that could be written down: `mean` is refused, draw with `sample`.

    Args:
        network: over the samples.
        family: of each sample's factor.
        conditions: labels, and the local condition `(B, P, frames)`.
        length: samples T.
        levels: of a sample.
    """

    has_mean = False

    def __init__(
        self,
        network: WaveNet,
        family: LikelihoodFamily,
        conditions: Conditions,
        length: int,
        levels: int,
    ) -> None:
        self._network, self._family, self._conditions = network, family, conditions
        self._length, self._levels = length, levels

    def log_prob(self, signal: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        """ln p of each sample given those before it, by one forward pass over the whole signal."""
        outputs = self._network(to_levels(signal, self._levels), self._conditions)
        return self._family(outputs.squeeze(1).movedim(2, 1)).log_prob(signal)

    def sample(
        self, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Float[Tensor, "b c t"]:
        """A draw, sample after sample, from the cached step."""
        local = self._conditions.local
        assert local is not None

        def draw(outputs: Float[Tensor, "b p"], generator: torch.Generator | None) -> Tensor:
            drawn = self._family(outputs.unsqueeze(2)).sample(generator, temperature)
            return to_levels(drawn, self._levels).flatten()

        levels = sample(
            self._network,
            len(local),
            (self._length,),
            self._conditions,
            temperature,
            generator=generator,
            draw=None if self._network.gives_logits else draw,
        )
        return from_levels(levels, self._levels)

    def mean(self) -> Float[Tensor, "b c t"]:
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
        family: of each sample's factor (a softmax over the levels, or a mixture of logistics).
        signal: levels of the data; it has one channel and one axis.
        strides: of the encoder.
        num_classes: labels that the network is told.
    """

    def __init__(
        self,
        config: WaveNetDecoderConfig,
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
        """Samples for each frame of the local condition."""
        self.levels, self.num_classes = signal.levels, num_classes
        self.family = family
        outputs = family.parameters_per_channel
        self.network = WaveNet(
            config.network,
            signal.levels,
            num_classes=num_classes,
            local_channels=config.channels,
            # By its kind: a mixture may by chance have as many parameters as there are levels.
            outputs=None if isinstance(family, CategoricalFamily) else outputs,
        )

    def forward(
        self, parameters: Float[Tensor, "b p frames"], conditions: Conditions | None = None
    ) -> AutoregressiveLikelihood:
        """The likelihood of signals of `frames * frame` samples."""
        labels = conditions.labels if conditions is not None else None
        return AutoregressiveLikelihood(
            self.network,
            self.family,
            Conditions(labels, parameters),
            parameters.shape[2] * self.frame,
            self.levels,
        )
