"""Gated layer of a PixelCNN: vertical and horizontal stack, with a cached sampling step.

Source: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders" (arXiv 1606.05328),
figure 2.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from smalti.nn.causal import HorizontalConv2d, HorizontalState, VerticalConv2d, VerticalState


def gate(maps: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*gated"]:
    """tanh(a) * sigmoid(b) of the two halves a and b along `dim` (equation 2 of the paper)."""
    a, b = maps.chunk(2, dim)
    return a.tanh() * b.sigmoid()


@dataclass(slots=True)
class LayerState:
    """Cache of one layer while sampling a grid. All tensors are buffers reused for every row.

    Attributes:
        above: the last input rows of the vertical stack.
        left: the current input row of the horizontal stack.
        shifts: bias of the conditions on the pre-gate maps, of the vertical stack `(R, B, C, 2p)` and of the
            horizontal one `(R, C, B, 2p)`, where R and C divide rows and columns; or None.
        rows: number of rows of the grid.
        row: index of the next row.
        pre: pre-gate maps of the current row, `(W, B, 2p)`, initialised with the input from the vertical
            stack.
        pre_at: pre-gate maps of each column, whole and in halves.
        gated: gated maps of the current position, `(B, p)`.
        out_weight: the output projection as a matrix `(p, p)`.
        skips: tensor that the output of each column is added to.
    """

    above: VerticalState
    left: HorizontalState
    shifts: tuple[Tensor, Tensor] | None
    rows: int
    row: int
    pre: Tensor
    pre_at: list[tuple[Tensor, Tensor, Tensor]]
    gated: Tensor
    out_weight: Tensor
    skips: list[Tensor]


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2 of the paper).

    Args:
        channels: maps p of each stack.
        kernel_size: odd.
        first: whether this layer reads the codes directly: its kernels then exclude the current position,
            and it has no residual connection, which would leak it.
        num_classes: number of labels, including "not given"; 0 for none.
        dropout: dropout of the gated horizontal maps.
    """

    def __init__(
        self, channels: int, kernel_size: int, first: bool, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.vertical = VerticalConv2d(channels, 2 * channels, kernel_size, strict=first)
        self.horizontal = HorizontalConv2d(channels, 2 * channels, kernel_size, strict=first)
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        # Further biases would add to the same residual sum, so one is enough.
        self.out = nn.Conv2d(channels, channels, 1, bias=first)
        self.condition = nn.Embedding(num_classes, 4 * channels) if num_classes else None
        self.dropout = nn.Dropout(dropout)
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=0.1)

    def forward(
        self,
        v: Float[Tensor, "b p h w"],
        h: Float[Tensor, "b p h w"],
        labels: Int64[Tensor, " b"],
        local: Float[Tensor, "b p4 r c"] | None = None,
    ) -> tuple[Float[Tensor, "b p h w"], Float[Tensor, "b p h w"]]:
        """Apply the layer to the maps of both stacks.

        Args:
            v: maps of the vertical stack.
            h: maps of the horizontal stack.
            labels: of the items.
            local: bias of the local condition on the pre-gate maps of both stacks.
        """
        pre_v = self.vertical(v)
        pre_h = self.horizontal(h) + self.link(pre_v)
        shifts = self.shifts(labels, local)
        if shifts is not None:
            shifts = _expand(_expand(shifts, 2, v.shape[2]), 3, v.shape[3])
            of_v, of_h = shifts.chunk(2, 1)
            pre_v, pre_h = pre_v + of_v, pre_h + of_h
        out = self.out(self.dropout(gate(pre_h, 1)))
        return gate(pre_v, 1), out if self.horizontal.strict else h + out

    def shifts(
        self, labels: Int64[Tensor, " b"], local: Float[Tensor, "b p4 r c"] | None
    ) -> Float[Tensor, "b p4 r c"] | None:
        """Bias of class (V h of equation 4) and local condition on the pre-gate maps of both stacks."""
        if self.condition is None:
            return local
        of_class = self.condition(labels)[..., None, None]
        return of_class if local is None else of_class + local

    def start(
        self,
        rows: int,
        width: int,
        labels: Int64[Tensor, " b"],
        local: Float[Tensor, "b p4 r c"] | None = None,
    ) -> LayerState:
        """State before the first row; it uses the current weights."""
        shifts = self.shifts(labels, local)
        batch_size, channels = len(labels), self.out.out_channels
        left = self.horizontal.start(batch_size, width)
        pre = left.line.new_empty(width, batch_size, 2 * channels)
        bias = self.out.bias
        return LayerState(
            above=self.vertical.start(batch_size, width),
            left=left,
            shifts=None if shifts is None else _by_row(shifts),
            rows=rows,
            row=0,
            pre=pre,
            pre_at=[(maps, maps[:, :channels], maps[:, channels:]) for maps in pre],
            gated=left.line.new_empty(batch_size, channels),
            out_weight=self.out.weight.detach().flatten(1).t().contiguous(),
            skips=left.slots if bias is None else [bias.detach()] * width,
        )

    def start_row(self, newest: Float[Tensor, "b w p"], state: LayerState) -> Float[Tensor, "b w p"]:
        """Run the vertical stack over the next row; store its input to the horizontal stack in the state."""
        pre_v = self.vertical.row(newest, state.above)
        link = nn.functional.linear(pre_v, self.link.weight.flatten(1), self.link.bias).transpose(0, 1)
        if state.shifts is None:
            state.pre.copy_(link)
        else:
            of_v, of_h = (part[state.row * len(part) // state.rows] for part in state.shifts)
            torch.add(link, _expand(of_h, 0, len(link)), out=state.pre)
            pre_v = pre_v + _expand(of_v, 1, len(link))
        state.row += 1
        return gate(pre_v, 2)

    def step(self, column: int, state: LayerState, out: Float[Tensor, "b p"]) -> None:
        """Run the horizontal stack at one position. This is the inner loop: five calls, no allocation."""
        pre, a, b = state.pre_at[column]
        self.horizontal.step(column, state.left, pre)
        torch.mul(a.tanh_(), b.sigmoid_(), out=state.gated)
        torch.addmm(state.skips[column], state.gated, state.out_weight, out=out)


def _by_row(shifts: Float[Tensor, "b p4 r c"]) -> tuple[Tensor, Tensor]:
    """Row by row, in the memory order of each stack's maps."""
    of_v, of_h = shifts.chunk(2, 1)
    return of_v.permute(2, 0, 3, 1).contiguous(), of_h.permute(2, 3, 0, 1).contiguous()


def _expand(coarse: Tensor, dim: int, length: int) -> Tensor:
    """Repeat the entries of an axis to `length`; leave a single entry to broadcasting."""
    given = coarse.shape[dim]
    return coarse if given in (1, length) else coarse.repeat_interleave(length // given, dim)


def transposed(head: nn.Module) -> nn.Module:
    """Copy a head with its matrices stored transposed, which is fastest for products with few rows."""
    head = copy.deepcopy(head)
    for parameter in head.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.t().contiguous().t()
    return head
