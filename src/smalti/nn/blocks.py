"""Convolutional blocks in any number of dimensions (1: audio, 2: images, 3: video)."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

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


def downsample(ndim: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Strided convolution of kernel 2s, length n -> n/s: the paper's 4x4 at stride 2."""
    padding, odd = divmod(stride, 2)
    if odd:  # a kernel of 2s cannot be centred for odd s; 2s+1 with padding (s+1)/2 can
        return CONVOLUTIONS[ndim](in_channels, out_channels, 2 * stride + 1, stride, (stride + 1) // 2)
    return CONVOLUTIONS[ndim](in_channels, out_channels, 2 * stride, stride, padding)


def upsample(ndim: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Transposed convolution of kernel 2s, length n -> n*s: the paper's 4x4 at stride 2."""
    padding, odd = divmod(stride, 2)
    if odd:
        return TRANSPOSED[ndim](in_channels, out_channels, 2 * stride + 1, stride, (stride + 1) // 2)
    return TRANSPOSED[ndim](in_channels, out_channels, 2 * stride, stride, padding)


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
