"""Layout of latents and codes: channels first, as in the models, or channels last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.errors import InputError
from smalti.nn.symbols import check_code_type, check_tensor


@final
@dataclass(frozen=True)
class Layout:
    """Position of the channel axis, besides a batch axis and any number of grid axes.

    Attributes:
        dim: D, channels of the latents.
        channel_last: latents `(B, *grid, D)` and codes `(B, *grid, G)`; otherwise `(B, D, *grid)` and
            `(B, G, *grid)`.
    """

    dim: int
    channel_last: bool = False

    def places(self, x: Tensor) -> tuple[Any, ...]:
        """Shape `(B, *grid)` of latents or codes."""
        return tuple(x.shape[:-1]) if self.channel_last else (x.shape[0], *x.shape[2:])

    def tokens(self, latents: Tensor, num_codebooks: int = 1) -> Float[Tensor, "g n d"]:
        """Rearrange latents into float32 tokens of each codebook: the channels are split into G equal parts.

        Raises:
            InputError: for anything but a real tensor, or latents with the wrong number of channels.
        """
        check_tensor(latents, "latents")
        if latents.is_complex():
            raise InputError(
                f"expected real latents, received {latents.dtype}: pass their real and imaginary parts as "
                "channels, for example by torch.view_as_real"
            )
        axis = -1 if self.channel_last else 1
        if latents.ndim < 2 or latents.shape[axis] != self.dim:
            shape = f"(B, *grid, {self.dim})" if self.channel_last else f"(B, {self.dim}, *grid)"
            other = "without channel_last" if self.channel_last else "with channel_last=True"
            raise InputError(
                f"expected latents of shape {shape}, received {tuple(latents.shape)}: build the quantizer "
                f"with their number of channels as dim, or {other}"
            )
        split = latents.float().unflatten(axis, (num_codebooks, self.dim // num_codebooks))
        axes = (-2, -1) if self.channel_last else (1, 2)
        return split.movedim(axes, (0, -1)).flatten(1, -2)

    def latents(self, tokens: Float[Tensor, "g n d"], places: Sequence[Any]) -> Tensor:
        """Rearrange tokens into latents; the inverse of `tokens`."""
        split = tokens.unflatten(1, places)
        if self.channel_last:
            return split.movedim(0, -2).flatten(-2)
        return split.movedim((0, -1), (1, 2)).flatten(1, 2)

    def codes(self, indices: Int64[Tensor, "g n"], places: Sequence[Any]) -> Tensor:
        """Rearrange the indices of each codebook into codes."""
        return indices.unflatten(1, places).movedim(0, -1 if self.channel_last else 1).contiguous()

    def channels_first(self, codes: Tensor) -> Int64[Tensor, "b g *grid"]:
        """Move the codebook axis of codes after the batch axis.

        Raises:
            InputError: for anything but a tensor of int64 codes with a batch axis and one of codebooks.
        """
        check_code_type(codes)
        return codes.movedim(-1, 1) if self.channel_last else codes
