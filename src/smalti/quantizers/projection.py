"""Linear map of tokens in float32."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class TokenProjection(nn.Linear):
    """Linear map of each token, computed item by item in float32, also under autocast.

    One product over all tokens of a batch would round differently for another number of items.

    Args:
        in_features: dimension of the tokens.
        out_features: dimension of the result.
    """

    def forward(self, input: Float[Tensor, "1 n d"], num_items: int = 1) -> Float[Tensor, "1 n e"]:
        """Map the tokens of `num_items` items, which are equally many."""
        items = input[0].float().reshape(num_items, input.shape[1] // max(1, num_items), self.in_features)
        weight = self.weight.float().t().expand(num_items, -1, -1)
        with torch.autocast(input.device.type, enabled=False):
            return torch.baddbmm(self.bias.float(), items, weight).flatten(0, 1).unsqueeze(0)
