"""Recipes for speech. Each states its command, its cost and the result to expect."""

from __future__ import annotations

from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.decoders.autoregressive import WaveNetDecoderConfig
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.context import ContextEncoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.encoders.log_mel import LogMelEncoderConfig
from smalti.likelihoods import CategoricalConfig, LogisticMixtureConfig
from smalti.modalities.audio import AudioConfig
from smalti.modalities.spectrogram import LogMelConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.quantizers.codebooks import FrozenCodebookConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.recipes.recipe import Pretraining, PriorRecipe, Recipe
from smalti.training.loop import TrainingConfig


def digits() -> Recipe:
    """The Free Spoken Digit Dataset, 8 kHz: log-mel in, 50 codes a second, a WaveNet told the speaker.

    Command: smalti train digits --data FOLDER --out runs/digits
    Cost: see results/speech.jsonl.
    Expect: digits that are still understood, in the voice of whichever speaker is asked for.
    """
    return Recipe(
        name="digits",
        data=AudioConfig(sample_rate_hz=8000, length=3200),
        validation_fraction=0.03,
        model=VQVAEConfig(
            encoder=LogMelEncoderConfig(
                sample_rate_hz=8000,
                hop=80,
                window=256,
                num_mels=40,
                network=ConvEncoderConfig(channels=96, residual_channels=48, residual_blocks=2, strides=(2,)),
            ),
            decoder=WaveNetDecoderConfig(
                channels=64,
                residual_channels=48,
                residual_blocks=1,
                upsample=(2,),
                network=WaveNetConfig(
                    channels=32,
                    gate_channels=32,
                    skip_channels=48,
                    head_channels=96,
                    layers=8,
                    stacks=2,
                    label_dropout=0.1,
                ),
            ),
            quantizer=VectorQuantizerConfig(num_codes=128, code_dim=32),
            likelihood=CategoricalConfig(),
            jitter=0.12,
            code_dropout=0.05,
        ),
        training=TrainingConfig(
            steps=5000,
            batch_size=6,
            learning_rate=1e-3,
            warmup_steps=100,
            schedule="cosine",
            weight_ema=0.999,
            validate_every=500,
            checkpoint_every=250,
        ),
        prior=PriorRecipe(
            length=32,
            network=WaveNetConfig(
                channels=96,
                gate_channels=96,
                skip_channels=96,
                head_channels=128,
                layers=5,
                stacks=2,
                dropout=0.1,
            ),
            training=TrainingConfig(
                steps=4000,
                batch_size=32,
                learning_rate=1e-3,
                warmup_steps=50,
                schedule="cosine",
                weight_ema=0.99,
            ),
        ),
    )


def units() -> Recipe:
    """Units of speech without labels: 128 codes, 25 a second, for phonemes and as tokens.

    An encoder of log-mels learns by masked prediction of clusters, one of its layers is clustered into the
    codebook, and a decoder that is told the speaker learns the spectrogram from the codes.

    Command: smalti train units --data FOLDER --out runs/units
    Cost: see results/speech.jsonl.
    Expect: on AN4 more than half of the windows with the right phone; see docs/speech.md.
    """
    return Recipe(
        name="units",
        data=LogMelConfig(sample_rate_hz=16_000, num_mels=40, normalise="none", length=256),
        validation_fraction=0.03,
        model=VQVAEConfig(
            encoder=ContextEncoderConfig(),
            quantizer=VectorQuantizerConfig(num_codes=128, code_dim=48, codebook=FrozenCodebookConfig()),
            decoder=ConvDecoderConfig(channels=128, residual_channels=64, residual_blocks=2, use_labels=True),
            likelihood=LogisticMixtureConfig(components=3),
        ),
        pretraining=Pretraining(
            training=TrainingConfig(
                steps=600,
                batch_size=32,
                learning_rate=1e-3,
                warmup_steps=50,
                schedule="cosine",
                checkpoint_every=100,
                validate_every=0,
            )
        ),
        training=TrainingConfig(
            steps=1000,
            batch_size=16,
            learning_rate=1e-3,
            warmup_steps=50,
            schedule="cosine",
            weight_ema=0.99,
            validate_every=250,
            checkpoint_every=250,
        ),
        prior=PriorRecipe(
            length=64,
            network=WaveNetConfig(
                channels=128,
                gate_channels=128,
                skip_channels=128,
                head_channels=192,
                layers=5,
                stacks=2,
                dropout=0.1,
            ),
            training=TrainingConfig(
                steps=3000,
                batch_size=32,
                learning_rate=1e-3,
                warmup_steps=50,
                schedule="cosine",
                weight_ema=0.99,
            ),
        ),
    )
