"""What is known of the frames up to each one, at two speeds: of a whole clip at once, or frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

Past = list[Float[Tensor, "b c h w"]]
"""For each layer the last frame of its input."""


@final
class FrameMemory(nn.Module):
    """Gated convolutions over each frame and the one before it: n layers see n + 1 frames, n places around.

    Args:
        channels: of input and output, and of what is told of each frame.
        layers: number of layers.
        is_told: whether something is told of each frame (what is done at it), which then opens and shuts the
            gates of every layer.
    """

    def __init__(self, channels: int, layers: int, is_told: bool) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.ModuleList(_Layer(channels, is_told) for _ in range(layers))

    def start(self, batch_size: int, grid: Sequence[int]) -> Past:
        """The past of a clip's first frame, where there is nothing.

        Args:
            batch_size: clips.
            grid: rows and columns of a frame.
        """
        weight = next(self.parameters())
        return [weight.new_zeros(batch_size, self.channels, *grid) for _ in self.layers]

    def forward(
        self, frames: Float[Tensor, "b c f h w"], told: Float[Tensor, "b f c"] | None, past: Past
    ) -> tuple[Float[Tensor, "b c f h w"], Past]:
        """What is known after each frame, and the past of the frame that comes next."""
        last: Past = []
        for layer, before in zip(self.layers, past, strict=True):
            last.append(frames[:, :, -1])
            frames = layer(frames, told, before)
        return frames, last


class _Layer(nn.Module):
    def __init__(self, channels: int, is_told: bool) -> None:
        super().__init__()
        self.pairs = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.told = nn.Linear(channels, 2 * channels, bias=False) if is_told else None
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(
        self,
        frames: Float[Tensor, "b c f h w"],
        told: Float[Tensor, "b f c"] | None,
        before: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c f h w"]:
        earlier = torch.cat([before.unsqueeze(2), frames[:, :, :-1]], 2)
        pairs = torch.cat([earlier, frames], 1).transpose(1, 2).flatten(0, 1)
        pre = self.pairs(pairs)
        if self.told is not None and told is not None:
            pre = pre + self.told(told).flatten(0, 1)[:, :, None, None]
        a, b = pre.chunk(2, 1)
        out = self.out(a.tanh() * b.sigmoid())
        return frames + out.unflatten(0, (len(frames), frames.shape[2])).transpose(1, 2)
