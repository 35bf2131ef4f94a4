"""Everything that is measured of an autoencoder and its priors, in one pass over a split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalti.evaluation.codebook import CodebookUse
from smalti.evaluation.density import Density, PriorDensity
from smalti.evaluation.reconstruction import Reconstruction
from smalti.interfaces import Autoencoder, Batch, Prior


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        num: items.
        density: for each prior its bits_per_dim, rate, distortion, stderr, nats_per_code.
        reconstruction: psnr, psnr_pooled, ssim, mse, mse_over_variance.
        codebook: usage, perplexity.
        counts: how often each code occurred, int64 `(G, K)`.
        protocol: what each figure means.
    """

    num: int
    density: dict[str, PriorDensity]
    reconstruction: dict[str, float | None]
    codebook: dict[str, float]
    counts: Tensor
    protocol: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """All but the counts, as plain JSON."""
        return {
            "num": self.num,
            "bits_per_dim": self.density,
            "reconstruction": self.reconstruction,
            "codebook": self.codebook,
            "protocol": self.protocol,
        }


@torch.no_grad()
def evaluate(autoencoder: Autoencoder, priors: Mapping[str, Prior], batches: Iterable[Batch]) -> Evaluation:
    """Measure an autoencoder with each prior on a split; the models are put into evaluation mode.

    Args:
        autoencoder: the model.
        priors: by reported name.
        batches: the split, each item once.
    """
    autoencoder.eval()
    for prior in priors.values():
        prior.eval()
    density = Density(autoencoder, priors)
    reconstruction = Reconstruction()
    use = CodebookUse(autoencoder.num_codebooks, autoencoder.num_codes)
    num = 0
    for batch in batches:
        codes = autoencoder.encode(batch.data)
        likelihood = autoencoder.likelihood(codes)
        density.update(batch, codes, likelihood)
        reconstruction.update(batch.data, likelihood.mean())
        use.update(codes)
        num += len(codes)
    protocol = {
        "bits_per_dim": "upper bound on -log2 p(x) / dims: rate -log2 p(z) + distortion -log2 p(x|z) at the "
        "item's own codes, exact uint8 levels; stderr over items",
        "dims": f"{autoencoder.signal.dims} = channels x {'x'.join(str(n) for n in autoencoder.signal.size)}",
        **Reconstruction.protocol(),
        **CodebookUse.protocol(),
    }
    return Evaluation(num, density.compute(), reconstruction.compute(), use.compute(), use.counts, protocol)
