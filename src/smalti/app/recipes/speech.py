"""Recipes for speech. Each states its command, its cost and the expected result."""

from __future__ import annotations

from smalti.app.recipes.training import cosine, short_cosine
from smalti.autoregressive.transformer import TransformerConfig
from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.decoders.autoregressive import WaveNetDecoderConfig
from smalti.decoders.conv import ConvDecoderConfig
from smalti.decoders.harmonic import HarmonicDecoderConfig
from smalti.encoders.context import ContextEncoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.encoders.log_mel import LogMelEncoderConfig
from smalti.encoders.spectral import SpectralEncoderConfig
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from smalti.modalities.audio.modality import AudioConfig
from smalti.modalities.audio.spectrogram import LogMelConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.objectives.objective import ObjectiveConfig
from smalti.objectives.pitch import PitchConfig
from smalti.objectives.spectral import MelDistanceConfig
from smalti.priors.autoregressive import AutoregressivePriorConfig
from smalti.quantizers.codebooks.frozen import FrozenCodebookConfig
from smalti.quantizers.residual import ResidualVQConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.recipe import Pretraining, Recipe


def digits() -> Recipe:
    """Free Spoken Digit Dataset, 8 kHz: log-mel encoder, 50 codes per second, speaker-conditioned WaveNet.

    Command: smalti train digits --data FOLDER --out runs/digits
    Cost: see results/speech.jsonl.
    Expect: intelligible digits, in the voice of the selected speaker.
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
                    dropout=0.1,
                    label_dropout=0.1,
                ),
            ),
            quantizer=VectorQuantizerConfig(num_codes=128, code_dim=32),
            likelihood=CategoricalConfig(),
            jitter=0.12,
            code_dropout=0.05,
        ),
        training=cosine(steps=5000, batch_size=6, learning_rate=1e-3, checkpoint_every=250),
        prior=_prior_of_digits(),
    )


def digits_spectral() -> Recipe:
    """Digits, 8 kHz, 50 codes per second, with log-mel input and output: Griffin-Lim reconstructs the phase.

    The decoder outputs the whole spectrogram in one pass, so training takes minutes instead of a WaveNet's
    hours; the output has Griffin-Lim artefacts.

    Command: smalti train digits-spectral --data FOLDER --out runs/digits
    Cost: see results/speech.jsonl.
    Expect: digits nearly as intelligible as the recordings, in the voice of the selected speaker.
    """
    return Recipe(
        name="digits-spectral",
        data=LogMelConfig(sample_rate_hz=8000, num_mels=64, hop=80, window=256, normalise="none", length=48),
        validation_fraction=0.03,
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(channels=128, residual_channels=64, residual_blocks=2, strides=(2,)),
            decoder=ConvDecoderConfig(channels=160, residual_channels=96, residual_blocks=3, use_labels=True),
            quantizer=VectorQuantizerConfig(num_codes=128, code_dim=48),
            likelihood=LogisticMixtureConfig(components=1),
        ),
        training=short_cosine(steps=1500, batch_size=32, checkpoint_every=250),
        prior=_prior_of_digits(),
    )


def _prior_of_digits() -> AutoregressivePriorConfig:
    """Return a prior with a short training, which stops before it overfits 20 minutes of speech."""
    return AutoregressivePriorConfig(
        length=32,
        network=WaveNetConfig(
            channels=96,
            gate_channels=96,
            skip_channels=96,
            head_channels=128,
            layers=5,
            stacks=2,
            dropout=0.2,
        ),
        training=short_cosine(steps=1000, batch_size=32),
    )


def units() -> Recipe:
    """Speech units learned without labels: 128 codes, 25 per second, for phoneme content and as tokens.

    A log-mel encoder is pre-trained by masked prediction of clusters, the output of one of its layers is
    clustered into the codebook, and a speaker-conditioned decoder learns the spectrogram from the codes.

    Command: smalti train units --data FOLDER --out runs/units
    Cost: see results/speech.jsonl.
    Expect: on AN4, phoneme accuracy above 50 %; see docs/speech.md.
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
            training=short_cosine(
                steps=600, batch_size=32, weight_ema=0.0, validate_every=0, checkpoint_every=100
            )
        ),
        training=short_cosine(steps=800, batch_size=16, checkpoint_every=250),
        prior=AutoregressivePriorConfig(
            length=64,
            network=WaveNetConfig(
                channels=128,
                gate_channels=128,
                skip_channels=128,
                head_channels=192,
                layers=5,
                stacks=2,
                dropout=0.2,
            ),
            training=short_cosine(steps=800, batch_size=32),
        ),
    )


def speech_codec() -> Recipe:
    """Speech at 16 kHz to 3 or 1.5 kbit/s: six codes of 1024 at 50 per second, and waveforms back.

    Log-mels of the waveform to latents, and harmonics of a predicted pitch with other spectra back; distances
    of log-mels, and of the pitch. The first three of the six codes give 1.5 kbit/s.

    Command: smalti train speech-codec --data FOLDER --out runs/codec
    Cost: 30 to 40 minutes on one CPU core.
    Expect: intelligible, voiced speech; DNSMOS 2.8 at both rates (recordings 3.1), see results/codec.jsonl.
    """
    return Recipe(
        name="speech-codec",
        data=AudioConfig(sample_rate_hz=16_000, length=16_000, encoding="linear"),
        validation_fraction=0.02,
        model=VQVAEConfig(
            encoder=SpectralEncoderConfig(),
            decoder=HarmonicDecoderConfig(),
            quantizer=ResidualVQConfig(
                dim=32, num_codes=1024, num_quantizers=6, quantizer_dropout=0.5, commitment_weight=1.0
            ),
            likelihood=GaussianConfig(),
        ),
        objective=_spectra_and_pitch(),
        training=cosine(steps=6000, batch_size=8, learning_rate=1e-3, checkpoint_every=250),
        prior=AutoregressivePriorConfig(
            length=100,
            network=TransformerConfig(channels=192, layers=4, heads=4, dropout=0.1),
            training=short_cosine(steps=1500, batch_size=16),
        ),
    )


def voices_codec() -> Recipe:
    """Your recordings, 16 kHz, to 50 codes per second, and waveforms in the voice of any speaker of the data.

    `speech-codec` with one code of 128 instead of six of 1024, too few for the voice, and a decoder that is
    conditioned on the speaker, for voice conversion. A waveform comes out in one pass.

    Command: smalti train voices-codec --data FOLDER --out runs/voices
    Cost: 30 to 40 minutes on one CPU core (not trained at 16 kHz; at 8 kHz see results/speech.jsonl).
    Expect: the words of the recording, in the voice and at the pitch of the selected speaker.
    """
    return Recipe(
        name="voices-codec",
        data=AudioConfig(sample_rate_hz=16_000, length=16_000, encoding="linear"),
        validation_fraction=0.03,
        model=VQVAEConfig(
            encoder=SpectralEncoderConfig(),
            decoder=HarmonicDecoderConfig(use_labels=True),
            quantizer=VectorQuantizerConfig(num_codes=128, code_dim=48),
            likelihood=GaussianConfig(),
        ),
        objective=_spectra_and_pitch(through_codes=False),
        training=cosine(steps=6000, batch_size=8, learning_rate=1e-3, checkpoint_every=250),
        prior=_prior_of_digits(),
    )


def digits_codec() -> Recipe:
    """`voices-codec` for spoken digits at 8 kHz, in crops of 0.48 s.

    Command: smalti reproduce voices-codec --data FSDD
    Cost: half an hour on one CPU core.
    Expect: see results/speech.jsonl.
    """
    recipe = voices_codec()
    encoder = SpectralEncoderConfig(sample_rate_hz=8000, num_mels=64, hop=80, window=320)
    decoder = HarmonicDecoderConfig(use_labels=True, hop=80, window=320)
    return recipe.model_copy(
        update={
            "data": AudioConfig(sample_rate_hz=8000, length=3840, encoding="linear"),
            "model": recipe.model.changed({"encoder": encoder, "decoder": decoder}),
            "training": cosine(steps=4000, batch_size=16, learning_rate=1e-3, checkpoint_every=100),
        }
    )


def _spectra_and_pitch(through_codes: bool = True) -> ObjectiveConfig:
    """Distances of log-mels, by windows too long to see where in a period the harmonics have their peak."""
    return ObjectiveConfig(
        likelihood=0.0,
        terms={
            "mel": MelDistanceConfig(weight=15.0, windows_ms=(16.0, 32.0, 64.0, 128.0)),
            "pitch": PitchConfig(weight=4.0, through_codes=through_codes),
        },
    )


def voices() -> Recipe:
    """Your recordings, 16 kHz: log-mel encoder, 50 codes per second, speaker-conditioned WaveNet.

    Log-mel input, 50 codes per second and jitter follow van Niekerk et al. 2020 (arXiv 2005.09409), who found
    them best for units; a WaveNet replaces their recurrent vocoder.

    Command: smalti train voices --data FOLDER --out runs/voices
    Cost: days on two CPU cores, hours on a GPU; `digits` is sized for CPUs.
    Expect: intelligible speech, and voice conversion between the speakers of the data.
    """
    return _waveform(
        name="voices",
        data=AudioConfig(sample_rate_hz=16_000, length=15_360),
        encoder=LogMelEncoderConfig(
            network=ConvEncoderConfig(channels=256, residual_channels=128, residual_blocks=4, strides=(2,))
        ),
        quantizer=VectorQuantizerConfig(num_codes=512, code_dim=64),
        upsample=(2,),
        jitter=0.5,
        prior_length=128,
    )


def vctk() -> Recipe:
    """The paper's VCTK model: 109 speakers, six strided convolutions (64x), 512 codes, one-hot speaker.

    Section 4.3: the encoder has 6 strided convolutions of stride 2 and window 4, the latents are one feature
    map, and the decoder is dilated and conditioned on latents and speaker. Not specified there and chosen
    here: 16 kHz, mu-law, widths, three stacks of ten layers, EMA codebook, and jitter of 0.12 so that the
    decoder does not ignore the codes.

    Command: smalti train vctk --data FOLDER_OF_VCTK --out runs/vctk
    Cost: a day on a GPU.
    Expect: reconstructions with the same words and a different waveform; another voice with another label.
    """
    return _waveform(
        name="vctk",
        data=AudioConfig(sample_rate_hz=16_000, length=15_360, trim=True),
        encoder=ConvEncoderConfig(
            channels=256, residual_channels=128, residual_blocks=2, strides=(2, 2, 2, 2, 2, 2)
        ),
        quantizer=VectorQuantizerConfig(num_codes=512, code_dim=64),
        upsample=(2, 2),
        jitter=0.12,
        prior_length=640,
    )


def librispeech() -> Recipe:
    """The paper's model for unconditional speech: 128x, and a prior over 320 codes (2.56 s at 16 kHz).

    Command: smalti train librispeech --data FOLDER_OF_LIBRISPEECH --out runs/librispeech, then train-prior
    Cost: days on a GPU.
    Expect: samples with clear words and partial sentences, which the paper reports for 460 hours of speech.
    """
    return _waveform(
        name="librispeech",
        data=AudioConfig(sample_rate_hz=16_000, length=20_480),
        encoder=ConvEncoderConfig(
            channels=256, residual_channels=128, residual_blocks=2, strides=(2, 2, 2, 2, 2, 2, 2)
        ),
        quantizer=VectorQuantizerConfig(num_codes=512, code_dim=64),
        upsample=(2, 2),
        jitter=0.12,
        prior_length=320,
    )


def _waveform(
    name: str,
    data: AudioConfig,
    encoder: ConvEncoderConfig | LogMelEncoderConfig,
    quantizer: VectorQuantizerConfig,
    upsample: tuple[int, ...],
    jitter: float,
    prior_length: int,
) -> Recipe:
    """Return a GPU-sized recipe with a 30-layer WaveNet decoder over samples."""
    training = cosine(
        steps=200_000,
        batch_size=16,
        warmup_steps=1000,
        weight_ema=0.9995,
        validate_every=2000,
        checkpoint_every=1000,
    )
    return Recipe(
        name=name,
        data=data,
        validation_fraction=0.01,
        model=VQVAEConfig(
            encoder=encoder,
            decoder=WaveNetDecoderConfig(
                channels=128,
                residual_channels=64,
                residual_blocks=2,
                upsample=upsample,
                network=WaveNetConfig(
                    channels=128,
                    gate_channels=128,
                    skip_channels=128,
                    head_channels=256,
                    layers=10,
                    stacks=3,
                ),
            ),
            quantizer=quantizer,
            likelihood=CategoricalConfig(),
            jitter=jitter,
            code_dropout=0.02,
        ),
        training=training,
        prior=AutoregressivePriorConfig(
            length=prior_length,
            network=WaveNetConfig(
                channels=256,
                gate_channels=256,
                skip_channels=256,
                head_channels=512,
                layers=8,
                stacks=2,
                dropout=0.1,
            ),
            training=training.model_copy(update={"steps": 100_000, "batch_size": 64}),
        ),
    )
