"""Convolutions over time with weight normalization, and Snake: the layers of EnCodec and DAC.

Sources: Tagliasacchi et al. 2020, SEANet (arXiv 2009.02095); Defossez et al. 2022, EnCodec (2210.13438);
Kumar et al. 2023, DAC (2306.06546).
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

DILATIONS = (1, 3, 9)
"""Of the residual units of a stage."""


@final
class Snake(nn.Module):
    """x + sin^2(a x) / a, with one learned frequency a per channel (Ziyin et al. 2020, arXiv 2006.08195).

    Args:
        channels: of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        """Same shape as the input; 0 stays 0."""
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)


@final
class TimeConvolution(nn.Module):
    """Convolution with weight normalization that divides the length by its stride.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: number of taps.
        stride: output n stands for inputs `[n * stride, (n + 1) * stride)`.
        dilation: distance between taps.
        causal: whether no output depends on inputs after those that it stands for.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation)
        self.conv = weight_norm(conv)
        beyond = (kernel_size - 1) * dilation - (stride - 1)
        self.after = 0 if causal else beyond // 2
        self.before = beyond - self.after
        """Inputs that the outputs depend on, beside those that they stand for."""
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d n"]:
        """Pad with zeros and convolve; the stride divides the length."""
        return self.conv(F.pad(x, (self.before, self.after)))


@final
class TimeUpsampling(nn.Module):
    """Transposed convolution with weight normalization and kernel size 2s, which multiplies the length by s.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: s.
        causal: whether no output depends on inputs after its own.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, causal: bool = False) -> None:
        super().__init__()
        self.conv = weight_norm(nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride))
        self.stride = stride
        self.cut = 0 if causal else (stride + 1) // 2
        """Number of outputs that are removed at the beginning."""

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b d t"]:
        """Convolve, and remove the outputs before and after the signal."""
        length = x.shape[-1] * self.stride
        return self.conv(x)[..., self.cut : self.cut + length]


@final
class ResidualUnit(nn.Module):
    """x + conv1(Snake(conv7(Snake(x)))), the first convolution with a dilation.

    Args:
        channels: channels of the input and the output.
        dilation: of the first convolution.
        causal: whether no output depends on later inputs.
    """

    def __init__(self, channels: int, dilation: int, causal: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Snake(channels),
            TimeConvolution(channels, channels, 7, dilation=dilation, causal=causal),
            Snake(channels),
            TimeConvolution(channels, channels, 1),
        )

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        """Same shape as the input."""
        return x + self.layers(x)
