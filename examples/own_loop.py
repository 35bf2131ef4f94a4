"""A quantizer in your own training loop, around your own networks: `python examples/own_loop.py`."""

import torch
from torch import nn

import smalti

encoder, decoder = nn.Conv2d(3, 16, 4, 4), nn.ConvTranspose2d(16, 3, 4, 4)
quantizer = smalti.VectorQuantizer(dim=16, num_codes=64)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
images = torch.rand(64, 3, 16, 16)

for _ in range(50):
    quantized = quantizer(encoder(images))
    loss = (decoder(quantized.latents) - images).square().mean() + quantized.loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

codes = quantizer.eval().encode(encoder(images))
print(f"loss {loss.item():.3f}, codes {tuple(codes.shape)}, {len(codes.unique())} of 64 used")
