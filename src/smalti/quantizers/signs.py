"""Codes whose bits are the signs of the channels."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.core.errors import InputError

MOST_BITS = 63
"""Bits of a code that int64 can hold."""


def check_bits(bits: int) -> None:
    """Check the number of bits of a code.

    Raises:
        InputError: if the codes exceed int64.
    """
    if isinstance(bits, int) and bits > MOST_BITS:
        raise InputError(
            f"expected codes of at most {MOST_BITS} bits, received {bits}: use several codebooks with "
            f"num_codebooks={-(-bits // MOST_BITS)} or more, and fewer bits in each"
        )


def signs(z: Float[Tensor, "g n d"], scale: float = 1.0) -> Float[Tensor, "g n d"]:
    """Replace each value by `scale` with its sign; 0 is negative, and NaN stays NaN."""
    return torch.where(z.isnan(), z, _values(z > 0, scale))


def sign_codes(z: Float[Tensor, "g n d"]) -> Int64[Tensor, "g n"]:
    """Compute sum_i 2^i [z_i > 0], with the lowest bit for the first channel; the bit of NaN is 0."""
    places = torch.arange(z.shape[2], device=z.device)
    return torch.bitwise_left_shift((z > 0).to(torch.int64), places).sum(2)


def signs_of_codes(codes: Int64[Tensor, "g n"], bits: int, scale: float = 1.0) -> Float[Tensor, "g n d"]:
    """Decode codes to their signs, equal to those of `signs` bit for bit."""
    places = torch.arange(bits, device=codes.device)
    return _values(torch.bitwise_right_shift(codes.unsqueeze(2), places) & 1, scale)


def _values(bits: Tensor, scale: float) -> Float[Tensor, "g n d"]:
    # Exact: 2 scale - scale is not rounded.
    return bits.to(torch.float32) * (2 * scale) - scale
