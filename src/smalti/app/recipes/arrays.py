"""Recipe for numeric arrays: time series, multichannel images and volumes."""

from __future__ import annotations

from smalti.app.recipes.training import cosine
from smalti.autoregressive.transformer import TransformerConfig
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.normal import NormalConfig
from smalti.modalities.arrays.modality import ArrayConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.priors.autoregressive import AutoregressivePriorConfig
from smalti.recipe import Recipe


def array() -> Recipe:
    """Your time series: `.npy` or `.npz` files `(C, T)`, one code out of 512 per four time steps.

    Command: smalti train array --data FOLDER --out runs/series data.channels=8
    Volumes: data.length=none data.size=32x32x32; multichannel images: data.length=none data.size=64x64.
    Integers in a known range: data.levels=256 likelihood.kind=gaussian, for results in bits/dim.
    Cost: an hour on 2 CPU cores for one axis; use a GPU for three axes.
    Expect: nats/dim of the standardised data well below 1.42, the value for a standard normal; the margin
    depends on the data.
    """
    return Recipe(
        name="array",
        data=ArrayConfig(channels=1, length=256),
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(strides=(2, 2)),
            decoder=ConvDecoderConfig(),
            likelihood=NormalConfig(),
        ),
        training=cosine(steps=20_000, batch_size=32),
        prior=AutoregressivePriorConfig(
            network=TransformerConfig(channels=128, layers=4, heads=4),
            training=cosine(steps=10_000, batch_size=32),
        ),
    )
