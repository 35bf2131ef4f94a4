"""An encoder of another library inside a `VQVAE`: `python examples/foreign_encoder.py`.

Any module that maps `(B, C, H, W)` to `(B, D, h, w)` will do. This one is EfficientNet-Lite0 of the package
efficientnet-lite-pytorch (`pip install efficientnet-lite-pytorch`), which knows nothing of smalti. The model
measures its downsampling, 32 here, and never asks where it came from.
"""

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

import smalti


class Backbone(nn.Module):
    """Features of EfficientNet-Lite0, `(B, 1280, H / 32, W / 32)`, projected to `dim` channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.projection = nn.Conv2d(1280, dim, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.projection(self.network.extract_features(images))


signal = smalti.SignalSpec(3, (64, 64))
likelihood = smalti.LogisticMixtureFamily(channels=3, components=2)
model = smalti.VQVAE(
    encoder=Backbone(dim=32),
    quantizer=smalti.ResidualVQ(dim=32, num_codes=64, num_quantizers=2),
    decoder=smalti.ConvDecoder(
        dim=32, out_channels=likelihood.num_parameters, channels=32, strides=(2, 2, 2, 2, 2)
    ),
    likelihood=likelihood,
    signal=signal,
)
images = torch.rand(8, 3, 64, 64) * 2 - 1
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(5):
    loss = model.loss(smalti.Batch(images)).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
codes = model.eval().encode(images)
print(f"{model.title}: codes {tuple(codes.shape)}, reconstruction {tuple(model.decode(codes).shape)}")
