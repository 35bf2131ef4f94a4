"""The paper's convolutional encoder, for any number of spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, final

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.locality import Extent, ReceptiveField
from smalti.core.parts import ENCODERS, Encoder, EncoderConfig
from smalti.core.signals import SignalSpec
from smalti.nn.blocks import (
    ACTIVATIONS,
    BLOCKS,
    CONVOLUTIONS,
    Norm,
    channels_last,
    downsample,
    each_frame,
    stage_strides,
)
from smalti.nn.receptive import receptive_field, within

Stride = Annotated[int, Field(ge=1)]


@final
class ConvEncoder(Encoder):
    """Strided convolutions (4x4 at stride 2), residual blocks, then a 1x1 convolution to the latents.

    van den Oord et al. 2017, section 4.1. The 1x1 projection is an addition that sets the dimension of the
    codes. The default widths are those of the authors' published notebook.

    Args:
        in_channels: channels of the signal.
        dim: channels of the latents.
        ndim: axes of the signal: 1 (audio), 2 (images) or 3 (video, volumes).
        channels: channels of every layer.
        residual_channels: hidden channels of the residual blocks.
        residual_blocks: number of residual blocks.
        norm: normalisation in the residual blocks: "none" as in the paper, or "group" (group
            normalization, and SiLU in place of ReLU), which learns faster.
        strides: downsampling factor of each stage.
        time_strides: for clips, the stride over frames at each stage, as many as `strides` (which then apply
            to height and width); a stride of 1 keeps every frame, with neighbouring frames in its receptive
            field. () applies `strides` to time too.
        per_frame: for clips, encode each frame separately, as an image: its codes depend on no other frame.

    Raises:
        InputError: if time_strides or per_frame is set and the signal does not have three axes.
    """

    def __init__(
        self,
        in_channels: int = 3,
        dim: int = 64,
        ndim: int = 2,
        *,
        channels: int = 128,
        residual_channels: int = 32,
        residual_blocks: int = 2,
        norm: Norm = "none",
        strides: Sequence[int] = (2, 2),
        time_strides: Sequence[int] = (),
        per_frame: bool = False,
    ) -> None:
        super().__init__()
        self.config = ConvEncoderConfig(
            channels=channels,
            residual_channels=residual_channels,
            residual_blocks=residual_blocks,
            norm=norm,
            strides=tuple(strides),
            time_strides=tuple(time_strides),
            per_frame=per_frame,
        )
        if (time_strides or per_frame) and ndim != 3:
            raise InputError(
                f"expected clips (three axes) for time_strides or per_frame, received signals of {ndim}: "
                "leave both out"
            )
        self.strides, self.is_per_frame = tuple(strides), per_frame
        self.time_strides = (1,) * len(self.strides) if per_frame else tuple(time_strides)
        ndim = 2 if per_frame else ndim
        activation = ACTIVATIONS[norm]
        layers: list[nn.Module] = []
        width = in_channels
        for stride in stage_strides(ndim, self.strides, tuple(time_strides)):
            layers += [downsample(ndim, width, channels, stride), activation()]
            width = channels
        layers.pop()  # the residual block starts with its own ReLU
        for _ in range(residual_blocks):
            layers.append(BLOCKS[norm](ndim, width, residual_channels))
        layers += [activation(), CONVOLUTIONS[ndim](width, dim, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Encode a signal to latents; `*grid` is `*size` divided by the product of the strides."""
        return each_frame(self._latents, signal) if self.is_per_frame else self._latents(signal)

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Of the convolutions; None with group normalization, whose statistics cover all frames."""
        if self.is_per_frame:
            return ReceptiveField(0, 0)
        return receptive_field(self.layers, 1, math.prod(self.time_strides or self.strides))

    def within(
        self, signal: Float[Tensor, "b c *size"], extent: Extent, conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Encode windows of longer signals to latents."""
        return self(signal) if self.is_per_frame else within(self.layers, channels_last(signal), extent)

    def _latents(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b d *grid"]:
        return self.layers(channels_last(signal))

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides, self.time_strides)


@ENCODERS.register
class ConvEncoderConfig(EncoderConfig):
    """Settings of a `ConvEncoder`."""

    kind: Literal["conv"] = "conv"
    channels: int = Field(default=128, ge=1)
    residual_channels: int = Field(default=32, ge=1)
    residual_blocks: int = Field(default=2, ge=0)
    norm: Norm = "none"
    strides: tuple[Stride, ...] = Field(default=(2, 2), min_length=1, max_length=32)
    time_strides: tuple[Stride, ...] = Field(default=(), max_length=32)
    per_frame: bool = False

    @model_validator(mode="after")
    def _one_for_each_stage(self) -> ConvEncoderConfig:
        if self.time_strides and self.per_frame:
            raise ValueError("expected no time_strides together with per_frame; leave one of them out")
        if self.time_strides and len(self.time_strides) != len(self.strides):
            raise ValueError(
                f"expected as many time_strides as strides, {len(self.strides)}; received "
                f"{len(self.time_strides)}"
            )
        return self

    @classmethod
    def tiny(cls) -> ConvEncoderConfig:
        """The smallest config with every part, for tests."""
        return cls(channels=8, residual_channels=4, residual_blocks=1, strides=(2, 2))

    def build(self, signal: SignalSpec, dim: int) -> ConvEncoder:
        """Build the encoder of such signals.

        Raises:
            InputError: if time_strides or per_frame is set and the signal does not have three axes.
        """
        return ConvEncoder(signal.channels, dim, signal.ndim, **self.model_dump(exclude={"kind"}))


def fitting_grid(
    size: Sequence[int], strides: Sequence[int], time_strides: Sequence[int] = ()
) -> tuple[int, ...]:
    """Latent grid of a signal of this size: its sides divided by the product of the strides.

    Args:
        size: of the signal; for clips the first side is the number of frames.
        strides: of the stages.
        time_strides: strides over the first side, if they differ.

    Raises:
        InputError: if the strides do not divide the size.
    """
    factors = [math.prod(strides)] * len(size)
    if time_strides:
        factors[0] = math.prod(time_strides)
    if any(length % factor for length, factor in zip(size, factors, strict=True)):
        fitting = [
            max(1, round(length / factor)) * factor for length, factor in zip(size, factors, strict=True)
        ]
        of_frames = f"a number of frames that is a multiple of {factors[0]} and " if len(size) == 3 else ""
        raise InputError(
            f"expected {of_frames}a size whose sides are multiples of {factors[-1]} "
            f"(strides {tuple(strides)}), received {_by(size)}: set {_settings(fitting)}, "
            "or change the encoder strides"
        )
    return tuple(length // factor for length, factor in zip(size, factors, strict=True))


def _by(size: Sequence[int]) -> str:
    return "x".join(str(length) for length in size)


def _settings(size: Sequence[int]) -> str:
    """Data settings that produce signals of this size."""
    match len(size):
        case 1:
            return f"data.length={size[0]}"
        case 3:
            return f"data.frames={size[0]} data.size={_by(size[1:])}"
        case _:
            return f"data.size={_by(size)}"
