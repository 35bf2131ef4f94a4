"""Convolutional blocks in any number of dimensions (1: audio, 2: images, 3: video)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

FRAMES_AT_ONCE = 256
"""Frames of clips that pass a network together: a long clip is not to fill the memory."""

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
    """Strided convolution of kernel 2s (by axis), length n -> n/s: the paper's 4x4 at stride 2."""
    kernel, strides, padding = _windows(ndim, stride)
    return CONVOLUTIONS[ndim](in_channels, out_channels, kernel, strides, padding)


def upsample(ndim: int, in_channels: int, out_channels: int, stride: int | Sequence[int]) -> nn.Module:
    """Transposed convolution of kernel 2s (by axis), length n -> n*s: the paper's 4x4 at stride 2."""
    kernel, strides, padding = _windows(ndim, stride)
    return TRANSPOSED[ndim](in_channels, out_channels, kernel, strides, padding)


def _windows(ndim: int, stride: int | Sequence[int]) -> tuple[Any, Any, Any]:
    """Kernel, stride and padding of each axis, tuples of `ndim`: a number that no annotation knows."""
    strides = (stride,) * ndim if isinstance(stride, int) else tuple(stride)
    # A kernel of 2s cannot be centred for odd s; 2s+1 with padding (s+1)/2 can.
    return tuple(2 * s + s % 2 for s in strides), strides, tuple((s + 1) // 2 for s in strides)


def stage_strides(
    ndim: int, strides: Sequence[int], time_strides: Sequence[int] = ()
) -> list[tuple[int, ...]]:
    """The strides of each stage by axis; those of the first axis are others where `time_strides` has them."""
    first = time_strides or strides
    return [(time, *(stride,) * (ndim - 1)) for time, stride in zip(first, strides, strict=True)]


def channels_last(x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
    """The same values; of pictures, with the channels of a place beside each other in memory.

    Convolutions keep that order, and the tokens of a quantizer need no copy. On CPUs it is the faster one.
    """
    is_faster = x.ndim == 4 and x.device.type == "cpu"
    return x.contiguous(memory_format=torch.channels_last) if is_faster else x


def each_frame(
    network: Callable[[Tensor], Tensor], clips: Float[Tensor, "b c f *size"]
) -> Float[Tensor, "b d f *other"]:
    """What a network makes of each frame by itself.

    Args:
        network: `(N, C, *size)` -> `(N, D, *other)`.
        clips: of F frames.
    """
    frames = clips.movedim(2, 1).flatten(0, 1)
    # A graph serves every number of clips, and has no loop over them.
    parts = (frames,) if torch.compiler.is_exporting() else frames.split(FRAMES_AT_ONCE)
    made = torch.cat([network(part) for part in parts])
    return made.unflatten(0, (clips.shape[0], clips.shape[2])).movedim(1, 2)


@final
class ResidualBlock(nn.Module):
    """x + conv1x1(ReLU(conv3x3(ReLU(x)))): the paper's residual block (section 4.1).

    Args:
        ndim: number of spatial dimensions.
        channels: of input and output.
        hidden_channels: between the two convolutions.
    """

    def __init__(self, ndim: int, channels: int, hidden_channels: int) -> None:
        super().__init__()
        conv = CONVOLUTIONS[ndim]
        # Not in place: the first ReLU's input is also the skip.
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
    """x + conv1x1(SiLU(norm(conv3x3(SiLU(norm(x)))))): the residual block with group normalization.

    Wu & He 2018 (arXiv 1803.08494). The last convolution starts at zero, so that the block starts as
    the identity.

    Args:
        ndim: number of spatial dimensions.
        channels: of input and output.
        hidden_channels: between the two convolutions.
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
"""Normalization of residual blocks: the paper's have none; "group" is group normalization with SiLU."""
BLOCKS: dict[str, type[ResidualBlock] | type[NormalizedResidualBlock]] = {
    "none": ResidualBlock,
    "group": NormalizedResidualBlock,
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.ReLU, "group": nn.SiLU}


def num_groups(channels: int, most: int = 8) -> int:
    """The largest number of groups, at most `most`, that divides the channels."""
    return max(groups for groups in range(1, most + 1) if channels % groups == 0)
