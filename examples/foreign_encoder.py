"""An encoder of another library inside a `VQVAE`: `python examples/foreign_encoder.py`.

Any module that maps `(B, C, H, W)` to `(B, D, h, w)` will do, such as a backbone of timm with
`features_only=True` behind a small wrapper. Here a few layers stand for it: the model measures the
downsampling and never asks where the module came from.
"""

import torch
from torch import nn

import smalti

signal = smalti.SignalSpec(3, (32, 32))
backbone = nn.Sequential(
    nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.Hardswish(), nn.Conv2d(24, 32, 3, 2, 1)
)
likelihood = smalti.LogisticMixtureFamily(channels=3, components=2)
model = smalti.VQVAE(
    encoder=backbone,
    quantizer=smalti.ResidualVQ(dim=32, num_codes=64, num_quantizers=2),
    decoder=smalti.ConvDecoder(dim=32, out_channels=likelihood.num_parameters, channels=32),
    likelihood=likelihood,
    signal=signal,
)
images = torch.rand(8, 3, 32, 32) * 2 - 1
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(5):
    loss = model.loss(smalti.Batch(images)).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
codes = model.eval().encode(images)
print(f"{model.title}: codes {tuple(codes.shape)}, reconstruction {tuple(model.decode(codes).shape)}")
