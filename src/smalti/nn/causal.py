"""Causal convolutions over a grid, at two speeds: the whole grid at once, or a row or a position at a time.

A kernel here covers exactly the part of an odd square kernel that lies in the past. Nothing is masked, so
nothing is computed to be thrown away, and the slow and the fast form read the same weights.
Source: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders" (arXiv 1606.05328).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(slots=True)
class VerticalState:
    """The last input rows with their padding, `(B, C, rows, padding + W + padding)`, and the kernel."""

    rows: Tensor
    weight: Tensor


class VerticalConv2d(nn.Module):
    """Convolution over the rows up to the present one, in all columns within reach.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd size k of the square kernel whose upper half this is. It spans k columns.
        strict: leave the present row out. A first layer must, because its input is what is to be predicted.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, strict: bool) -> None:
        super().__init__()
        self.side = kernel_size // 2
        self.rows = self.side + (not strict)
        self.strict = strict
        self.conv = nn.Conv2d(in_channels, out_channels, (self.rows, kernel_size))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """All rows at once. Row r of the output depends on rows <= r of the input, or < r when strict."""
        # A strict layer reads one row further up; padding by -1 cuts off the row that it may not see.
        bottom = -1 if self.strict else 0
        return self.conv(F.pad(x, (self.side, self.side, self.rows - 1 - bottom, bottom)))

    def start(self, batch_size: int, width: int) -> VerticalState:
        """State before the first row, with the weights as they are now. The rows above the grid are zeros."""
        weight = self.conv.weight.detach()
        shape = (batch_size, weight.shape[1], self.rows, width + 2 * self.side)
        # Channels innermost: so the rows come, and so the convolution wants them.
        inner = torch.channels_last
        return VerticalState(
            rows=weight.new_zeros(shape).to(memory_format=inner),
            weight=weight.contiguous(memory_format=inner),
        )

    def row(self, newest: Float[Tensor, "b w c"], state: VerticalState) -> Float[Tensor, "b w o"]:
        """The output of the next row.

        Args:
            newest: the input row that becomes visible: the one above when strict, else the present one.
            state: what `start` gave; it is updated in place.
        """
        rows = state.rows
        for older in range(self.rows - 1):
            rows[:, :, older] = rows[:, :, older + 1]
        rows[:, :, -1, self.side : self.side + newest.shape[1]] = newest.transpose(1, 2)
        return F.conv2d(rows, state.weight, self.conv.bias).squeeze(2).transpose(1, 2)


@dataclass(slots=True)
class HorizontalState:
    """One row of inputs with room for the padding, seen through views that are made once for all rows.

    Attributes:
        line: the present row, `(B, padding + W, C)`.
        slots: for each column the view `(B, C)` where its input is written.
        windows: for each column the view `(B, taps * C)` that its output is computed from.
        weight: the kernel as a matrix `(taps * C, O)`.
    """

    line: Tensor
    slots: list[Tensor]
    windows: list[Tensor]
    weight: Tensor

    @property
    def row(self) -> Float[Tensor, "b w c"]:
        """The inputs of the row, without the padding."""
        return self.line[:, -len(self.slots) :]


class HorizontalConv2d(nn.Module):
    """Convolution over the positions to the left in the same row, with the present one unless it is strict.

    It has no bias of its own: it is always added to a term that has one.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd size k of the kernel whose left half this is.
        strict: leave the present position out (mask A); else it is seen (mask B).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, strict: bool) -> None:
        super().__init__()
        self.taps = kernel_size // 2 + (not strict)
        self.strict = strict
        self.conv = nn.Conv2d(in_channels, out_channels, (1, self.taps), bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """All positions at once. Column c of a row depends on columns <= c, or < c when strict."""
        right = -1 if self.strict else 0
        return self.conv(F.pad(x, (self.taps - 1 - right, right)))

    def start(self, batch_size: int, width: int) -> HorizontalState:
        """State before the first row, with the weights as they are now.

        It serves for every row: what is left of the row above lies to the right, and is never read.
        """
        weight = self.conv.weight.detach()
        channels = weight.shape[1]
        padding = self.taps - (not self.strict)
        line = weight.new_zeros(batch_size, padding + width, channels)
        return HorizontalState(
            line=line,
            slots=[line[:, padding + column] for column in range(width)],
            # A slot and its left neighbours are adjacent in memory: a window is a matrix without a copy.
            windows=[
                line.as_strided((batch_size, self.taps * channels), (line.stride(0), 1), column * channels)
                for column in range(width)
            ],
            weight=weight.squeeze(2).permute(2, 1, 0).flatten(0, 1).contiguous(),
        )

    def step(self, column: int, state: HorizontalState, into: Float[Tensor, "b o"]) -> None:
        """Add the output at `column` to `into`, given that the slots that it depends on are filled."""
        into.addmm_(state.windows[column], state.weight)


@dataclass(slots=True)
class DilatedState:
    """The inputs within reach, in a ring, `(reach, B, C)`, and where in it the next input goes.

    Attributes:
        ring: slot `at` holds the oldest input, the one that is `reach` positions back.
        at: moves on by one, and round, with each step.
    """

    ring: Tensor
    at: int = 0


class DilatedConv1d(nn.Module):
    """Convolution over the present position and every `dilation`-th one before it.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps k.
        dilation: distance of the taps d, so that the oldest is (k - 1) d positions back.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.reach = (kernel_size - 1) * dilation
        self.dilation = dilation
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b o t"]:
        """All positions at once. Position t of the output depends on positions <= t of the input."""
        return self.conv(F.pad(x, (self.reach, 0)))

    def start(self, batch_size: int) -> DilatedState:
        """State before the first position. What lies before it are zeros."""
        return DilatedState(self.conv.weight.new_zeros(self.reach, batch_size, self.conv.in_channels))

    def step(self, x: Float[Tensor, "b c"], state: DilatedState) -> Float[Tensor, "b o"]:
        """The output of the next position (le Paine et al. 2016, arXiv 1611.09482).

        Args:
            x: the input there.
            state: what `start` gave; it is updated in place.
        """
        weight = self.conv.weight
        out = F.linear(x, weight[:, :, -1], self.conv.bias)
        for tap in range(weight.shape[2] - 1):
            out = out + F.linear(state.ring[(state.at + tap * self.dilation) % self.reach], weight[:, :, tap])
        if self.reach:
            state.ring[state.at] = x
            state.at = (state.at + 1) % self.reach
        return out
