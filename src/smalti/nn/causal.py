"""Causal convolutions over a grid: over the whole grid at once, or one row or position at a time.

Each kernel covers exactly the past part of an odd square kernel. No kernel is masked, so no computation is
wasted, and both forms use the same weights.
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
    """State of a `VerticalConv2d`.

    Attributes:
        rows: the last input rows with their padding, `(B, C, rows, padding + W + padding)`.
        weight: the kernel.
    """

    rows: Tensor
    weight: Tensor


class VerticalConv2d(nn.Module):
    """Convolution over the rows up to the current one: the upper half of a square kernel, k columns wide.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd size k of the square kernel.
        strict: whether to exclude the current row. A first layer must, because it would see its own target.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, strict: bool) -> None:
        super().__init__()
        self.side = kernel_size // 2
        self.rows = self.side + (not strict)
        self.strict = strict
        self.conv = nn.Conv2d(in_channels, out_channels, (self.rows, kernel_size))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Compute all rows at once; output row r depends on input rows <= r, or < r if strict."""
        # A strict layer reads one row further up; padding by -1 removes the row that it must not see.
        bottom = -1 if self.strict else 0
        return self.conv(F.pad(x, (self.side, self.side, self.rows - 1 - bottom, bottom)))

    def start(self, batch_size: int, width: int) -> VerticalState:
        """Create the state before the first row, with the current weights; rows above the grid are zeros."""
        weight = self.conv.weight.detach()
        shape = (batch_size, weight.shape[1], self.rows, width + 2 * self.side)
        # Channels last, which is the format of new rows and the faster one for the convolution.
        inner = torch.channels_last
        return VerticalState(
            rows=weight.new_zeros(shape).to(memory_format=inner),
            weight=weight.contiguous(memory_format=inner),
        )

    def row(self, newest: Float[Tensor, "b w c"], state: VerticalState) -> Float[Tensor, "b w o"]:
        """Compute the output of the next row.

        Args:
            newest: the input row that becomes visible: the row above if strict, otherwise the current row.
            state: from `start`; updated in place.
        """
        rows = state.rows
        for older in range(self.rows - 1):
            rows[:, :, older] = rows[:, :, older + 1]
        rows[:, :, -1, self.side : self.side + newest.shape[1]] = newest.transpose(1, 2)
        return F.conv2d(rows, state.weight, self.conv.bias).squeeze(2).transpose(1, 2)


@dataclass(slots=True)
class HorizontalState:
    """State of a `HorizontalConv2d`: one padded row of inputs, and views of it that are reused for all rows.

    Attributes:
        line: the current row, `(B, padding + W, C)`.
        slots: view `(B, C)` of each column, to which its input is written.
        windows: view `(B, taps * C)` for each column, from which its output is computed.
        weight: the kernel as a matrix `(taps * C, O)`.
    """

    line: Tensor
    slots: list[Tensor]
    windows: list[Tensor]
    weight: Tensor

    @property
    def row(self) -> Float[Tensor, "b w c"]:
        """Inputs of the row, without the padding."""
        return self.line[:, -len(self.slots) :]


class HorizontalConv2d(nn.Module):
    """Convolution over the positions to the left in the same row: the left half of a kernel.

    It has no bias, because its output is always added to a term with a bias.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd size k of the kernel.
        strict: whether to exclude the current position (mask A) or include it (mask B).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, strict: bool) -> None:
        super().__init__()
        self.taps = kernel_size // 2 + (not strict)
        self.strict = strict
        self.conv = nn.Conv2d(in_channels, out_channels, (1, self.taps), bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Compute all positions at once; output column c depends on input columns <= c, or < c if strict."""
        right = -1 if self.strict else 0
        return self.conv(F.pad(x, (self.taps - 1 - right, right)))

    def start(self, batch_size: int, width: int) -> HorizontalState:
        """Create the state before the first row, with the current weights.

        It is reused for every row: values of the previous row remain only at columns that are not read yet.
        """
        weight = self.conv.weight.detach()
        channels = weight.shape[1]
        padding = self.taps - (not self.strict)
        line = weight.new_zeros(batch_size, padding + width, channels)
        return HorizontalState(
            line=line,
            slots=[line[:, padding + column] for column in range(width)],
            # A slot and its left neighbours are adjacent in memory, so a window needs no copy.
            windows=[
                line.as_strided((batch_size, self.taps * channels), (line.stride(0), 1), column * channels)
                for column in range(width)
            ],
            weight=weight.squeeze(2).permute(2, 1, 0).flatten(0, 1).contiguous(),
        )

    def step(self, column: int, state: HorizontalState, into: Float[Tensor, "b o"]) -> None:
        """Add the output at `column` to `into`; the slots that it depends on must be filled."""
        into.addmm_(state.windows[column], state.weight)


@dataclass(slots=True)
class DilatedState:
    """State of a `DilatedConv1d`: a ring buffer of the inputs within reach.

    Attributes:
        ring: the inputs, `(reach, B, C)`; slot `at` holds the oldest one, `reach` positions back.
        at: slot of the next input; each step advances it by one, modulo `reach`.
    """

    ring: Tensor
    at: int = 0


class DilatedConv1d(nn.Module):
    """Causal dilated convolution: over the current position and every `dilation`-th position before it.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: number of taps k.
        dilation: distance d between taps; the oldest is (k - 1) d positions back.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.reach = (kernel_size - 1) * dilation
        self.dilation = dilation
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b o t"]:
        """Compute all positions at once; output position t depends on input positions <= t."""
        return self.conv(F.pad(x, (self.reach, 0)))

    def start(self, batch_size: int) -> DilatedState:
        """Create the state before the first position; earlier inputs are zeros."""
        return DilatedState(self.conv.weight.new_zeros(self.reach, batch_size, self.conv.in_channels))

    def step(self, x: Float[Tensor, "b c"], state: DilatedState) -> Float[Tensor, "b o"]:
        """Compute the output of the next position (Le Paine et al. 2016, arXiv 1611.09482).

        Args:
            x: input at this position.
            state: from `start`; updated in place.
        """
        weight = self.conv.weight
        out = F.linear(x, weight[:, :, -1], self.conv.bias)
        for tap in range(weight.shape[2] - 1):
            out = out + F.linear(state.ring[(state.at + tap * self.dilation) % self.reach], weight[:, :, tap])
        if self.reach:
            state.ring[state.at] = x
            state.at = (state.at + 1) % self.reach
        return out
