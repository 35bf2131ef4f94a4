"""Recipes for first-person worlds: frames, second-stage codes of frames, and clips with actions."""

from __future__ import annotations

from typing import Any

from smalti.app.recipes.training import short_cosine
from smalti.autoregressive.frame_pixelcnn import FramePixelCNNConfig
from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.decoders.autoregressive import PixelCNNDecoderConfig
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.code_grid import CodeGridEncoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.modalities.codes.modality import CodeGridConfig
from smalti.modalities.image.modality import ImageConfig
from smalti.modalities.video.modality import VideoConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.priors.autoregressive import AutoregressivePriorConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.recipe import Recipe
from smalti.training.loop import TrainingConfig


def frames() -> Recipe:
    """Frames of a first-person world, 84x84 RGB, to 21x21 codes out of 512 (42.7 times fewer bits).

    The shapes are those of van den Oord et al. 2017, section 4.2, for DeepMind Lab; the widths are chosen for
    two CPU cores.

    Command: smalti train frames --data FOLDER_OF_COLLECT --out runs/frames
    Cost: see results/video.jsonl.
    Expect: reconstructions that are hard to distinguish from the originals.
    """
    return _frames(
        "frames",
        side=84,
        channels=64,
        training=short_cosine(steps=3000, batch_size=16),
        prior=AutoregressivePriorConfig(
            network=GatedPixelCNNConfig(channels=48, layers=6, head_channels=192),
            training=short_cosine(steps=2000, batch_size=16),
        ),
    )


def frames128() -> Recipe:
    """Frames of first-person worlds, 128x128 RGB, to 32x32 codes out of 512, and a prior for each scenario.

    The shapes are those of van den Oord et al. 2017, section 4.2, for ImageNet: 42.7 times fewer bits, and a
    PixelCNN conditioned on the class, here the scenario. The widths are chosen for two CPU cores.

    Command: smalti train frames128 --data WORLDS --out runs/frames128, where WORLDS is the output of
    `smalti collect doom --scenario my_way_home,take_cover --size 128 --out WORLDS`.
    Cost: not measured yet; about 2.3 times that of `frames` for each frame.
    Expect: not measured yet; `frames` has the same kind of networks.
    """
    return _frames(
        "frames128",
        side=128,
        channels=48,
        training=short_cosine(steps=3000, batch_size=8),
        prior=AutoregressivePriorConfig(
            network=GatedPixelCNNConfig(channels=48, layers=8, head_channels=192),
            training=short_cosine(steps=3000, batch_size=4),
        ),
    )


def _frames(
    name: str, side: int, channels: int, training: TrainingConfig, prior: AutoregressivePriorConfig
) -> Recipe:
    """Return a recipe for square frames to codes of a quarter of their side."""
    width: dict[str, Any] = {
        "channels": channels,
        "residual_channels": channels // 2,
        "residual_blocks": 2,
    }
    return Recipe(
        name=name,
        data=ImageConfig(channels=3, size=(side, side)),
        validation_fraction=0.02,
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(**width, strides=(2, 2)),
            decoder=ConvDecoderConfig(**width),
            quantizer=VectorQuantizerConfig(num_codes=512, code_dim=32),
            likelihood=GaussianConfig(),
        ),
        training=training,
        prior=prior,
    )


def second_stage() -> Recipe:
    """A second-stage VQ-VAE over 21x21 code grids: three codes (27 bits) per frame, with a PixelCNN decoder.

    van den Oord et al. 2017, section 4.2: the decoder can model grids without latents, but the latents do not
    collapse. Training decodes a tenth of the grids without codes, to measure how much the decoder relies on
    them.

    Command: smalti train second-stage --data CODES --out runs/stage2, where CODES is the output of
    `smalti encode runs/frames --data FOLDER --split train --out CODES/train.parquet` (and test).
    Cost: see results/video.jsonl.
    Expect: fewer nats per grid with its own three codes than with those of another grid or none, by at most
    27 bits.
    """
    return Recipe(
        name="second-stage",
        data=CodeGridConfig(size=(21, 21), num_codes=512),
        validation_fraction=0.02,
        model=VQVAEConfig(
            encoder=CodeGridEncoderConfig(
                channels=64,
                network=ConvEncoderConfig(
                    channels=128, residual_channels=64, residual_blocks=1, strides=(3, 7)
                ),
            ),
            decoder=PixelCNNDecoderConfig(
                channels=128,
                residual_channels=64,
                residual_blocks=2,
                network=GatedPixelCNNConfig(channels=48, layers=6, head_channels=192),
            ),
            quantizer=VectorQuantizerConfig(num_codebooks=3, num_codes=512, code_dim=32),
            likelihood=CategoricalConfig(),
            code_dropout=0.1,
        ),
        training=short_cosine(steps=2000, batch_size=16),
        prior=AutoregressivePriorConfig(
            network=GatedPixelCNNConfig(channels=64, layers=2, head_channels=256),
            training=short_cosine(steps=1000, batch_size=64, weight_ema=0.0),
        ),
    )


def walks() -> Recipe:
    """Walks through a first-person world, 64x64 RGB, each frame to 8x8 codes out of 512, from two codebooks.

    The prior is trained on chunks of 16 frames and predicts each frame from the previous ones and the
    actions. `smalti rollout` continues a clip under given actions.

    Command: smalti train walks --data FOLDER_OF_COLLECT --out runs/walks
    Cost: see results/video.jsonl. It needs many walks (smalti collect doom --num 100000 --size 64).
    Expect: soft rollouts that mostly follow the actions, without memory of what left the view.
    """
    width: dict[str, Any] = {"channels": 64, "residual_channels": 64, "residual_blocks": 2}
    training = short_cosine(steps=4000, batch_size=4)
    return Recipe(
        name="walks",
        data=VideoConfig(channels=3, size=(64, 64), frames=16),
        validation_fraction=0.05,
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(**width, strides=(2, 2, 2), per_frame=True),
            decoder=ConvDecoderConfig(**width),
            quantizer=VectorQuantizerConfig(num_codebooks=2, num_codes=512, code_dim=32),
            likelihood=GaussianConfig(),
        ),
        training=training,
        prior=AutoregressivePriorConfig(
            network=FramePixelCNNConfig(
                frame=GatedPixelCNNConfig(channels=64, layers=6, head_channels=256, dropout=0.1),
                memory_channels=96,
                history_noise=0.05,
            ),
            training=training,
        ),
    )
