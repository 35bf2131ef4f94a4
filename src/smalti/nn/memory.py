"""Causal memory of a clip's frames, at two speeds: a whole clip at once, or frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

Past = list[Float[Tensor, "b c h w"]]
"""The last input frame of each layer."""


@final
class FrameMemory(nn.Module):
    """Gated convolutions over each frame and the previous one: n layers see n + 1 frames and n positions
    around each position.

    Args:
        channels: channels of the input, the output and the condition of each frame.
        layers: number of layers.
        is_conditioned: whether each frame has a condition, such as an embedded action; it enters the gates of
            every layer.
    """

    def __init__(self, channels: int, layers: int, is_conditioned: bool) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.ModuleList(_Layer(channels, is_conditioned) for _ in range(layers))

    def start(self, batch_size: int, grid: Sequence[int]) -> Past:
        """State before a clip's first frame: zeros.

        Args:
            batch_size: number of clips.
            grid: rows and columns of a frame.
        """
        weight = next(self.parameters())
        return [weight.new_zeros(batch_size, self.channels, *grid) for _ in self.layers]

    def forward(
        self, frames: Float[Tensor, "b c f h w"], condition: Float[Tensor, "b f c"] | None, past: Past
    ) -> tuple[Float[Tensor, "b c f h w"], Past]:
        """Compute the memory after each frame, and the state before the next frame.

        Args:
            frames: embedded frames.
            condition: vector of each frame; None without conditions.
            past: from `start`, or from the call for the previous frames.
        """
        last: Past = []
        for layer, before in zip(self.layers, past, strict=True):
            last.append(frames[:, :, -1])
            frames = layer(frames, condition, before)
        return frames, last


class _Layer(nn.Module):
    def __init__(self, channels: int, is_conditioned: bool) -> None:
        super().__init__()
        self.pairs = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.condition = nn.Linear(channels, 2 * channels, bias=False) if is_conditioned else None
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(
        self,
        frames: Float[Tensor, "b c f h w"],
        condition: Float[Tensor, "b f c"] | None,
        before: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c f h w"]:
        earlier = torch.cat([before.unsqueeze(2), frames[:, :, :-1]], 2)
        pairs = torch.cat([earlier, frames], 1).transpose(1, 2).flatten(0, 1)
        pre = self.pairs(pairs)
        if self.condition is not None and condition is not None:
            pre = pre + self.condition(condition).flatten(0, 1)[:, :, None, None]
        a, b = pre.chunk(2, 1)
        out = self.out(a.tanh() * b.sigmoid())
        return frames + out.unflatten(0, (len(frames), frames.shape[2])).transpose(1, 2)
