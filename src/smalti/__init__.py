"""smalti: learned discrete codes for images, audio and video, and priors that generate from them.

import smalti
tokenizer = smalti.load("runs/mine")
codes = tokenizer.encode(images)        # int64 (B, G, h, w)
images = tokenizer.decode(codes)        # uint8 (B, C, H, W)
images = tokenizer.sample(16)
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smalti.autoregressive.pixelcnn import GatedPixelCNN
    from smalti.autoregressive.sampling import sample
    from smalti.autoregressive.transformer import Transformer
    from smalti.core.errors import InputError
    from smalti.models.vae import VAE
    from smalti.models.vimco import VIMCO
    from smalti.models.vqvae import VQVAE
    from smalti.priors.autoregressive import LearnedPrior
    from smalti.priors.uniform import UniformPrior
    from smalti.priors.unigram import UnigramPrior
    from smalti.quantizers.fsq import FSQ, FSQConfig
    from smalti.quantizers.nearest import nearest_codes
    from smalti.quantizers.residual import ResidualVQ, ResidualVQConfig
    from smalti.quantizers.vq import VectorQuantizer, VectorQuantizerConfig
    from smalti.tokenizer import Tokenizer, load

__version__ = version("smalti")

# Imported when first asked for, so that `smalti --help` does not wait for torch.
_PUBLIC = {
    "FSQ": "smalti.quantizers.fsq",
    "FSQConfig": "smalti.quantizers.fsq",
    "GatedPixelCNN": "smalti.autoregressive.pixelcnn",
    "InputError": "smalti.core.errors",
    "LearnedPrior": "smalti.priors.autoregressive",
    "ResidualVQ": "smalti.quantizers.residual",
    "ResidualVQConfig": "smalti.quantizers.residual",
    "Tokenizer": "smalti.tokenizer",
    "Transformer": "smalti.autoregressive.transformer",
    "UniformPrior": "smalti.priors.uniform",
    "UnigramPrior": "smalti.priors.unigram",
    "VAE": "smalti.models.vae",
    "VIMCO": "smalti.models.vimco",
    "VQVAE": "smalti.models.vqvae",
    "VectorQuantizer": "smalti.quantizers.vq",
    "VectorQuantizerConfig": "smalti.quantizers.vq",
    "load": "smalti.tokenizer",
    "nearest_codes": "smalti.quantizers.nearest",
    "sample": "smalti.autoregressive.sampling",
}

__all__ = [
    "FSQ",
    "VAE",
    "VIMCO",
    "VQVAE",
    "FSQConfig",
    "GatedPixelCNN",
    "InputError",
    "LearnedPrior",
    "ResidualVQ",
    "ResidualVQConfig",
    "Tokenizer",
    "Transformer",
    "UniformPrior",
    "UnigramPrior",
    "VectorQuantizer",
    "VectorQuantizerConfig",
    "load",
    "nearest_codes",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'smalti' has no attribute {name!r}")
