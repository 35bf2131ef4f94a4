"""A prior over codes that another program made: `python examples/own_codes.py`."""

import torch

import smalti

# int64 (B, G, h, w); here every grid repeats one code.
codes = torch.randint(0, 8, (256, 1, 1, 1)).expand(-1, 1, 6, 6).contiguous()
prior = smalti.LearnedPrior(smalti.GatedPixelCNN(num_codes=8, channels=16, layers=3), grid=(6, 6))
optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)

for _ in range(60):
    loss = prior.loss(smalti.Batch(codes[torch.randint(256, (32,))])).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

drawn = prior.eval().sample(4, generator=torch.Generator().manual_seed(0))
print(f"{loss.item():.3f} nats per code; 4 new grids {tuple(drawn.shape)}: {drawn[:, 0, 0, 0].tolist()}")
