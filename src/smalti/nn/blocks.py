"""Convolutional blocks in any number of dimensions (1: audio, 2: images, 3: video)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

Stride = Annotated[int, Field(ge=1)]
"""Stride of a stage, in a config."""
FRAMES_AT_ONCE = 256
"""Maximum number of frames in one pass through a network, which bounds the memory for long clips."""

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
TRANSPOSED: dict[int, type[nn.ConvTranspose1d] | type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


def downsample(ndim: int, in_channels: int, out_channels: int, stride: int | Sequence[int]) -> nn.Module:
    """Build a strided convolution with kernel size 2s for stride s, per axis: length n -> n/s.

    At stride 2 it is the paper's 4x4 convolution. An odd stride has kernel size 2s + 1.

    Args:
        ndim: number of axes after the channels.
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride s of every axis, or of each.
    """
    kernel, strides, padding = _windows(ndim, stride)
    return CONVOLUTIONS[ndim](in_channels, out_channels, kernel, strides, padding)


def upsample(ndim: int, in_channels: int, out_channels: int, stride: int | Sequence[int]) -> nn.Module:
    """Build a transposed convolution with kernel size 2s for stride s, per axis: length n -> n*s.

    The inverse in shape of `downsample`; at stride 2 it is the paper's 4x4 convolution.
    """
    kernel, strides, padding = _windows(ndim, stride)
    return TRANSPOSED[ndim](in_channels, out_channels, kernel, strides, padding)


def _windows(ndim: int, stride: int | Sequence[int]) -> tuple[Any, Any, Any]:
    """Kernel sizes, strides and paddings, each a tuple of length `ndim`, which annotations cannot express."""
    strides = (stride,) * ndim if isinstance(stride, int) else tuple(stride)
    # A kernel of size 2s cannot be centred for odd s; one of 2s + 1 with padding (s + 1) / 2 can.
    return tuple(2 * s + s % 2 for s in strides), strides, tuple((s + 1) // 2 for s in strides)


def stage_strides(
    ndim: int, strides: Sequence[int], time_strides: Sequence[int] = ()
) -> list[tuple[int, ...]]:
    """Return the strides of each stage by axis; `time_strides`, if given, replace those of the first axis."""
    first = time_strides or strides
    return [(time, *(stride,) * (ndim - 1)) for time, stride in zip(first, strides, strict=True)]


def channels_last(x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
    """Convert images on the CPU to the channels-last memory format; return other tensors unchanged.

    Convolutions preserve this format and are faster with it on CPUs, and a quantizer needs no copy of its
    tokens.
    """
    is_faster = x.ndim == 4 and x.device.type == "cpu"
    return x.contiguous(memory_format=torch.channels_last) if is_faster else x


def each_frame(
    network: Callable[[Tensor], Tensor], clips: Float[Tensor, "b c f *size"]
) -> Float[Tensor, "b d f *other"]:
    """Apply a network to each frame of clips independently.

    Args:
        network: maps `(N, C, *size)` to `(N, D, *other)`.
        clips: clips with F frames.
    """
    frames = clips.movedim(2, 1).flatten(0, 1)
    # An exported graph must work for any number of clips, so it has no loop over parts.
    parts = (frames,) if torch.compiler.is_exporting() else frames.split(FRAMES_AT_ONCE)
    made = torch.cat([network(part) for part in parts])
    return made.unflatten(0, (clips.shape[0], clips.shape[2])).movedim(1, 2)


@final
class ResidualBlock(nn.Module):
    """The paper's residual block (section 4.1): x + conv1x1(ReLU(conv3x3(ReLU(x)))).

    Args:
        ndim: number of axes after the channels.
        channels: channels of the input and the output.
        hidden_channels: channels between the two convolutions.
    """

    def __init__(self, ndim: int, channels: int, hidden_channels: int) -> None:
        super().__init__()
        conv = CONVOLUTIONS[ndim]
        # The first ReLU is not in place, because its input is also the skip connection.
        self.layers = nn.Sequential(
            nn.ReLU(),
            conv(channels, hidden_channels, 3, padding=1),
            nn.ReLU(),
            conv(hidden_channels, channels, 1),
        )

    def forward(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Same shape as the input."""
        return x + self.layers(x)


@final
class NormalizedResidualBlock(nn.Module):
    """Residual block with group normalization: x + conv1x1(SiLU(norm(conv3x3(SiLU(norm(x)))))).

    The last convolution is initialised to zero, so the block starts as the identity. Source of the
    normalization: Wu & He 2018 (arXiv 1803.08494).

    Args:
        ndim: number of axes after the channels.
        channels: channels of the input and the output.
        hidden_channels: channels between the two convolutions.
    """

    def __init__(self, ndim: int, channels: int, hidden_channels: int) -> None:
        super().__init__()
        conv = CONVOLUTIONS[ndim]
        last = conv(hidden_channels, channels, 1)
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.GroupNorm(num_groups(channels), channels),
            nn.SiLU(),
            conv(channels, hidden_channels, 3, padding=1),
            nn.GroupNorm(num_groups(hidden_channels), hidden_channels),
            nn.SiLU(),
            last,
        )

    def forward(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Same shape as the input."""
        return x + self.layers(x)


Norm = Literal["none", "group"]
"""Normalization of residual blocks: "none", as in the paper, or "group", group normalization with SiLU."""
BLOCKS: dict[str, type[ResidualBlock] | type[NormalizedResidualBlock]] = {
    "none": ResidualBlock,
    "group": NormalizedResidualBlock,
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.ReLU, "group": nn.SiLU}


def num_groups(channels: int, most: int = 8) -> int:
    """Return the largest divisor of `channels` that is at most `most`."""
    return max(groups for groups in range(1, most + 1) if channels % groups == 0)
