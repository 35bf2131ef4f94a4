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
    from smalti.core.signals import Continuous, Levels, SignalSpec
    from smalti.likelihoods.normal import NormalConfig, NormalFamily
    from smalti.modalities.arrays.modality import ArrayConfig, ArrayModality
    from smalti.modalities.audio.modality import AudioConfig, AudioModality
    from smalti.modalities.audio.spectrogram import LogMelConfig, LogMelModality
    from smalti.modalities.codes.modality import CodeGridConfig, CodeGridModality
    from smalti.modalities.image.modality import ImageConfig, ImageModality
    from smalti.modalities.video.modality import VideoConfig, VideoModality
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
    "ArrayConfig": "smalti.modalities.arrays.modality",
    "ArrayModality": "smalti.modalities.arrays.modality",
    "AudioConfig": "smalti.modalities.audio.modality",
    "AudioModality": "smalti.modalities.audio.modality",
    "CodeGridConfig": "smalti.modalities.codes.modality",
    "CodeGridModality": "smalti.modalities.codes.modality",
    "Continuous": "smalti.core.signals",
    "FSQ": "smalti.quantizers.fsq",
    "FSQConfig": "smalti.quantizers.fsq",
    "GatedPixelCNN": "smalti.autoregressive.pixelcnn",
    "ImageConfig": "smalti.modalities.image.modality",
    "ImageModality": "smalti.modalities.image.modality",
    "InputError": "smalti.core.errors",
    "LearnedPrior": "smalti.priors.autoregressive",
    "Levels": "smalti.core.signals",
    "LogMelConfig": "smalti.modalities.audio.spectrogram",
    "LogMelModality": "smalti.modalities.audio.spectrogram",
    "NormalConfig": "smalti.likelihoods.normal",
    "NormalFamily": "smalti.likelihoods.normal",
    "ResidualVQ": "smalti.quantizers.residual",
    "ResidualVQConfig": "smalti.quantizers.residual",
    "SignalSpec": "smalti.core.signals",
    "Tokenizer": "smalti.tokenizer",
    "Transformer": "smalti.autoregressive.transformer",
    "UniformPrior": "smalti.priors.uniform",
    "UnigramPrior": "smalti.priors.unigram",
    "VAE": "smalti.models.vae",
    "VIMCO": "smalti.models.vimco",
    "VQVAE": "smalti.models.vqvae",
    "VectorQuantizer": "smalti.quantizers.vq",
    "VectorQuantizerConfig": "smalti.quantizers.vq",
    "VideoConfig": "smalti.modalities.video.modality",
    "VideoModality": "smalti.modalities.video.modality",
    "load": "smalti.tokenizer",
    "nearest_codes": "smalti.quantizers.nearest",
    "sample": "smalti.autoregressive.sampling",
}

__all__ = [
    "FSQ",
    "VAE",
    "VIMCO",
    "VQVAE",
    "ArrayConfig",
    "ArrayModality",
    "AudioConfig",
    "AudioModality",
    "CodeGridConfig",
    "CodeGridModality",
    "Continuous",
    "FSQConfig",
    "GatedPixelCNN",
    "ImageConfig",
    "ImageModality",
    "InputError",
    "LearnedPrior",
    "Levels",
    "LogMelConfig",
    "LogMelModality",
    "NormalConfig",
    "NormalFamily",
    "ResidualVQ",
    "ResidualVQConfig",
    "SignalSpec",
    "Tokenizer",
    "Transformer",
    "UniformPrior",
    "UnigramPrior",
    "VectorQuantizer",
    "VectorQuantizerConfig",
    "VideoConfig",
    "VideoModality",
    "load",
    "nearest_codes",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'smalti' has no attribute {name!r}")
