"""A small untrained tokenizer of waveforms, with a decoder that is conditioned on the speaker."""

from __future__ import annotations

from pathlib import Path

import torch

from smalti.decoders.harmonic import HarmonicDecoderConfig
from smalti.encoders.spectral import SpectralEncoderConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.modalities.audio.modality import AudioConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.recipe import Recipe
from smalti.tokenizer import Tokenizer
from smalti.trained import TrainedModel

SPEAKERS = ("anna", "ben")


def voices() -> Tokenizer:
    """At 4 kHz, 50 codes per second out of 16."""
    spectra = {"hop": 40, "window": 160, "channels": 8, "layers": 1}
    model = VQVAEConfig(
        encoder=SpectralEncoderConfig(sample_rate_hz=4000, num_mels=16, **spectra),
        decoder=HarmonicDecoderConfig(use_labels=True, **spectra),
        quantizer=VectorQuantizerConfig(num_codes=16, code_dim=4),
        likelihood=GaussianConfig(),
    )
    data = AudioConfig(sample_rate_hz=4000, length=800, encoding="linear")
    recipe = Recipe(name="voices-of-a-test", data=data, model=model)
    torch.manual_seed(0)
    built = model.build(data.build().spec, {"label": len(SPEAKERS)}).eval()
    return Tokenizer(TrainedModel(Path("nowhere"), recipe, built, SPEAKERS, None, {}, {}))
