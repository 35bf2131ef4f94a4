"""Recipes for video. Each states its command, its cost and the expected result."""

from __future__ import annotations

from smalti.app.recipes.training import cosine
from smalti.autoregressive.transformer import TransformerConfig
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.modalities.video.modality import VideoConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.priors.autoregressive import AutoregressivePriorConfig
from smalti.recipe import Recipe


def video() -> Recipe:
    """Your clips, 64x64 RGB at 10 frames per second, each frame to 8x8 codes out of 512.

    Command: smalti train video --data FOLDER --out runs/clips
    Cost: seconds per step on 2 CPU cores, so days in total: use a GPU. training.steps=1000 gives a preview.
    Expect: slightly soft reconstructions. Each frame is encoded separately, so its codes depend on no other
    frame; encoder.per_frame=false encoder.time_strides=1,2,2 encodes four frames together instead. The prior
    is trained on chunks of 16 frames.
    """
    return Recipe(
        name="video",
        data=VideoConfig(size=(64, 64), frames=16, frame_rate_hz=10.0),
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(strides=(2, 2, 2), per_frame=True),
            decoder=ConvDecoderConfig(),
            likelihood=GaussianConfig(),
        ),
        training=cosine(steps=20_000, batch_size=4),
        prior=AutoregressivePriorConfig(
            network=TransformerConfig(channels=256, layers=8, heads=8),
            training=cosine(steps=20_000, batch_size=4),
        ),
    )
