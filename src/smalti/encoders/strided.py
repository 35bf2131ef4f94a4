"""Base of encoders that divide every side of a signal by the product of their strides."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.parts import Encoder, EncoderConfig
from smalti.nn.blocks import Stride, each_frame, stage_strides


class StridedEncoder(Encoder):
    """An encoder whose grid is the size of the signal divided by its strides, and that ignores conditions.

    Args:
        ndim: axes of the signal: 1 (audio), 2 (images) or 3 (video, volumes).
        strides: downsampling factor of each stage.
        time_strides: for clips, the stride over frames at each stage, as many as `strides` (which then apply
            to height and width); a stride of 1 keeps every frame, with neighbouring frames in its receptive
            field. () applies `strides` to time too.
        per_frame: for clips, encode each frame separately, as an image: its codes depend on no other frame.

    Raises:
        InputError: if time_strides or per_frame is set and the signal does not have three axes.
    """

    def __init__(
        self, ndim: int, strides: Sequence[int], time_strides: Sequence[int] = (), per_frame: bool = False
    ) -> None:
        super().__init__()
        if (time_strides or per_frame) and ndim != 3:
            raise InputError(
                f"expected clips (three axes) for time_strides or per_frame, received signals of {ndim}: "
                "leave both out"
            )
        self.strides, self.is_per_frame = tuple(strides), per_frame
        self.time_strides = (1,) * len(self.strides) if per_frame else tuple(time_strides)
        self.network_ndim = 2 if per_frame else ndim
        """Axes of what `latents` is given."""
        self.stages = stage_strides(self.network_ndim, self.strides, () if per_frame else tuple(time_strides))
        """Stride of each axis at each stage of the network."""

    @abstractmethod
    def latents(self, signal: Float[Tensor, "b c *size"]) -> Float[Tensor, "b d *grid"]:
        """Compute the latents of signals, or of single frames if each is encoded separately."""

    def forward(
        self, signal: Float[Tensor, "b c *size"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b d *grid"]:
        """Encode a signal to latents; `*grid` is `*size` divided by the product of the strides."""
        return each_frame(self.latents, signal) if self.is_per_frame else self.latents(signal)

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return fitting_grid(size, self.strides, self.time_strides)


class StridedEncoderConfig(EncoderConfig):
    """Settings of a `StridedEncoder`; a subclass with another default of `strides` declares it again."""

    strides: tuple[Stride, ...] = Field(default=(2, 2), min_length=1, max_length=32)
    time_strides: tuple[Stride, ...] = Field(default=(), max_length=32)
    per_frame: bool = False

    @model_validator(mode="after")
    def _one_for_each_stage(self) -> StridedEncoderConfig:
        if self.time_strides and self.per_frame:
            raise ValueError("expected no time_strides together with per_frame; leave one of them out")
        if self.time_strides and len(self.time_strides) != len(self.strides):
            raise ValueError(
                f"expected as many time_strides as strides, {len(self.strides)}; received "
                f"{len(self.time_strides)}"
            )
        return self


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
