"""Recipes for images. Each states its command, its cost and the expected result."""

from __future__ import annotations

from typing import Any

from smalti.app.recipes.training import cosine, short_cosine
from smalti.autoregressive.hierarchy import HierarchicalPixelCNNConfig
from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.decoders.autoregressive import PixelCNNDecoderConfig
from smalti.decoders.conv import ConvDecoderConfig
from smalti.decoders.resnet import ResNetDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.encoders.resnet import ResNetEncoderConfig
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.coupled_logistic_mixture import CoupledLogisticMixtureConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from smalti.modalities.image.modality import ImageConfig
from smalti.models.hierarchy import HierarchyConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.objectives.objective import ObjectiveConfig
from smalti.objectives.perceptual import PerceptualConfig
from smalti.priors.autoregressive import AutoregressivePriorConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.recipe import Recipe
from smalti.training.loop import TrainingConfig


def image() -> Recipe:
    """Your images, 64x64 RGB, to 16x16 codes out of 512.

    Command: smalti train image --data FOLDER --out runs/mine
    Cost: about 0.5 s per step on 2 CPU cores (3 hours in total), minutes on a GPU; training.steps=2000 gives
    a preview.
    Expect: slightly soft reconstructions, most codes in use; bits/dim depends on the images. The Gaussian
    likelihood reaches good reconstructions fastest; model.likelihood.kind=logistic_mixture gives fewer
    bits/dim.
    """
    return Recipe(
        name="image",
        data=ImageConfig(channels=3, size=(64, 64)),
        model=VQVAEConfig(likelihood=GaussianConfig()),
        training=cosine(steps=20_000, batch_size=32),
        prior=AutoregressivePriorConfig(training=cosine(steps=20_000, batch_size=32)),
    )


def photos() -> Recipe:
    """Your photographs, crops of 256x256 RGB, to 32x32 codes out of 1024 (154 times fewer bits).

    A residual network with normalization and attention, after one strided convolution of the pixels, and a
    perceptual term beside the likelihood (`pip install 'smalti[perceptual]'`). A trained run takes pictures
    of any size. `objective.terms.adversarial.weight=0.1 objective.terms.adversarial.start=100000` adds an
    adversarial phase; with `start=0`, to the decoder of a finished run (`--from RUN --freeze codes`).

    Command: smalti train photos --data FOLDER --out runs/photos
    Cost: seconds per step on a CPU, so days in total: use a GPU. Not measured yet.
    Expect: not measured yet at this size; docs/objectives.md has the same networks and terms on frames of
    64x64.
    """
    width: dict[str, Any] = {"size": "S", "full_resolution": False}
    training = cosine(steps=200_000, batch_size=16)
    return Recipe(
        name="photos",
        data=ImageConfig(channels=3, size=(256, 256), crop="random", resize=320, flip=True),
        model=VQVAEConfig(
            encoder=ResNetEncoderConfig(**width, strides=(2, 2, 2)),
            decoder=ResNetDecoderConfig(**width),
            quantizer=VectorQuantizerConfig(num_codes=1024, code_dim=16),
            likelihood=GaussianConfig(),
        ),
        objective=ObjectiveConfig(terms={"perceptual": PerceptualConfig(weight=2.0)}),
        training=training,
        prior=AutoregressivePriorConfig(training=training),
    )


def hierarchy() -> Recipe:
    """Your images, 128x128 RGB, to 16x16 codes out of 512, plus 32x32 codes for detail.

    Two levels, as in VQ-VAE-2 (Razavi et al. 2019, arXiv 1906.00446): the prior samples the coarse grid, then
    the fine grid given the coarse one. Each coarse position has five codes: its own and those of its four
    fine positions.

    Command: smalti train hierarchy --data FOLDER --out runs/levels
    Cost: seconds per step on 2 CPU cores, so days in total: use a GPU. training.steps=1000 gives a preview.
    Expect: sharper reconstructions than with the coarse grid alone, and globally coherent samples.
    """
    training = cosine(steps=50_000, batch_size=32)
    return Recipe(
        name="hierarchy",
        data=ImageConfig(channels=3, size=(128, 128)),
        model=HierarchyConfig(likelihood=GaussianConfig()),
        training=training,
        prior=AutoregressivePriorConfig(network=HierarchicalPixelCNNConfig(), training=training),
    )


def letters() -> Recipe:
    """The demo's letters, 32x32 RGB, to 8x8 codes out of 64.

    Command: smalti train letters --out runs/letters
    Cost: about 1 minute for the autoencoder and 3.5 for the prior on one CPU thread (two are no faster).
    Expect: legible letters of every class with `--guidance 2` (81 to 89 % named rightly by a classifier, see
    results/samples.jsonl); bits/dim decreases from uniform to unigram to learned prior.
    """
    width: dict[str, Any] = {"channels": 64, "residual_channels": 32, "residual_blocks": 2}
    return Recipe(
        name="letters",
        data=ImageConfig(channels=3, size=(32, 32)),
        validation_fraction=0.02,
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(**width, strides=(2, 2)),
            decoder=ConvDecoderConfig(**width),
            quantizer=VectorQuantizerConfig(num_codes=64, code_dim=8),
            likelihood=GaussianConfig(),
        ),
        training=short_cosine(steps=800, batch_size=32, validate_every=200, checkpoint_every=200),
        prior=AutoregressivePriorConfig(
            network=GatedPixelCNNConfig(channels=64, layers=6, head_channels=128),
            training=short_cosine(
                steps=1900, batch_size=32, learning_rate=2e-3, validate_every=250, checkpoint_every=250
            ),
        ),
    )


def mnist() -> Recipe:
    """MNIST, or your own data like it, 28x28 greyscale, to 7x7 codes out of 512.

    The data may be idx files (`train-images-idx3-ubyte.gz`, ...), or folders of pictures, one per class;
    pictures of another size are resized. 5 % of the training items are held out for validation.

    Command: smalti train mnist --data FOLDER --out runs/mnist
    Cost: about 30 minutes on 2 CPU cores (12,000 steps); training.steps=2000 gives a preview.
    Expect: at least 95 % of the codes used on 60,000 pictures; use fewer codes (num_codes=128) for a few
    thousand.
    """
    return _grey28("mnist", validation_fraction=0.05)


def mnist_lossless() -> Recipe:
    """Greyscale 28x28, lossless compression: 1x1 codes out of 256, and a PixelCNN over the pixels.

    The likelihood is that of a PixelCNN decoder, so few codes are worth their bits. Pixels are drawn and
    coded one by one: 10,000 pictures take minutes. It also compresses Fashion-MNIST.

    Command: smalti train mnist-lossless --data FOLDER --out runs/lossless, train-prior and then compress
    Cost: about half an hour of one core.
    Expect: below 3.15 bits/dim on Fashion-MNIST's test split; see results/files.jsonl.
    """
    return _grey28("mnist-lossless", validation_fraction=0.05).changed(
        {
            "model.encoder.strides": (2, 2, 7),
            "model.quantizer.num_codes": 256,
            "model.decoder": PixelCNNDecoderConfig(
                channels=64,
                ordered=True,
                network=GatedPixelCNNConfig(channels=48, layers=6, head_channels=128),
            ),
            "model.likelihood": CategoricalConfig(),
            "training": cosine(steps=3_000, batch_size=32, learning_rate=1e-3),
            "prior.training": cosine(steps=500, batch_size=64, learning_rate=1e-3),
        }
    )


def fashion_mnist() -> Recipe:
    """Fashion-MNIST, 28x28 greyscale, to 7x7 codes out of 512.

    For other data of this kind, use the recipe mnist. The class names come from the data: idx files of
    Fashion-MNIST are recognised.

    Command: smalti train fashion-mnist --data FOLDER_OF_IDX_FILES --out runs/fashion
    Cost: see results/images.jsonl.
    Expect: at least 95 % of the codes used; see results/images.jsonl.
    """
    return _grey28("fashion-mnist", validation_fraction=0.0)


def _grey28(name: str, validation_fraction: float) -> Recipe:
    """A recipe for greyscale pictures of the size of MNIST."""
    width: dict[str, Any] = {"channels": 64, "residual_channels": 32, "residual_blocks": 2}
    return Recipe(
        name=name,
        data=ImageConfig(channels=1, size=(28, 28)),
        validation_fraction=validation_fraction,
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(**width, strides=(2, 2)),
            decoder=ConvDecoderConfig(**width),
            quantizer=VectorQuantizerConfig(num_codes=512, code_dim=16),
            likelihood=LogisticMixtureConfig(components=5),
        ),
        training=cosine(steps=12_000, batch_size=64, learning_rate=1e-3),
        prior=AutoregressivePriorConfig(
            network=GatedPixelCNNConfig(channels=64, layers=8, head_channels=256),
            training=cosine(steps=8_000, batch_size=64, learning_rate=1e-3),
        ),
    )


def cifar10() -> Recipe:
    """CIFAR-10 at the paper's sizes: 8x8x10 latents, 256-way softmax, 250k steps of batch 128.

    Command: smalti train cifar10 --data FOLDER --out runs/cifar10
    Cost: hours on a GPU, weeks on a CPU (reduce training.steps).
    Expect: the paper reports 4.67 bits/dim with the uniform prior (van den Oord et al. 2017, section 4.1). It
    does not give K and the code dimension; 128 and 16 are chosen here.
    """
    width: dict[str, Any] = {"channels": 256, "residual_channels": 256, "residual_blocks": 2}
    return Recipe(
        name="cifar10",
        data=ImageConfig(channels=3, size=(32, 32)),
        validation_fraction=0.02,
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(**width, strides=(2, 2)),
            decoder=ConvDecoderConfig(**width, head_channels=64),
            quantizer=VectorQuantizerConfig(num_codebooks=10, num_codes=128, code_dim=16),
            likelihood=CategoricalConfig(),
        ),
        training=TrainingConfig(steps=250_000, batch_size=128, learning_rate=2e-4, checkpoint_every=5_000),
        prior=AutoregressivePriorConfig(
            network=GatedPixelCNNConfig(channels=128, layers=15, head_channels=256, dropout=0.1),
            training=TrainingConfig(
                steps=100_000, batch_size=128, learning_rate=3e-4, warmup_steps=500, weight_ema=0.9995
            ),
        ),
    )


def cifar10_coupled() -> Recipe:
    """CIFAR-10 to 16x16 codes out of 256 (0.667 bits/dim), with a likelihood that couples the channels.

    Group-normalized networks of 96 units. The likelihood is not the paper's: each position has one mixture
    over its three channels.

    Command: smalti train cifar10-coupled --data FOLDER --out runs/coupled
    Cost: about 0.25 s per step on one CPU core, four hours in total.
    Expect: see models/cifar10-coupled/README.md, with weights that were also trained on lossless images, and
    have a deeper decoder; `--from models/cifar10-coupled decoder.residual_blocks=6
    decoder.residual_channels=96` initializes from them.
    """
    width: dict[str, Any] = {
        "channels": 96,
        "residual_channels": 48,
        "residual_blocks": 2,
        "norm": "group",
    }
    return Recipe(
        name="cifar10-coupled",
        data=ImageConfig(channels=3, size=(32, 32)),
        validation_fraction=0.02,
        model=VQVAEConfig(
            encoder=ConvEncoderConfig(**width, strides=(2,)),
            decoder=ConvDecoderConfig(**width),
            quantizer=VectorQuantizerConfig(num_codes=256, code_dim=8),
            likelihood=CoupledLogisticMixtureConfig(components=5),
        ),
        training=cosine(60_000, 32, 8e-4, checkpoint_every=1_000),
        prior=AutoregressivePriorConfig(
            network=GatedPixelCNNConfig(channels=64, layers=8, head_channels=256, dropout=0.1),
            training=cosine(20_000, 32, 1e-3),
        ),
    )


def imagenet128() -> Recipe:
    """ImageNet at 128x128 to 32x32 codes out of 512, the sizes of the paper's section 4.2.

    Command: smalti train imagenet128 --data FOLDER_OF_CLASS_FOLDERS --out runs/imagenet128
    Cost: days on a GPU.
    Expect: reconstructions slightly softer than the originals; the paper gives no figure. The codebook is
    `ema`; model.quantizer.codebook.kind=gradient training.clip_norm=0 trains as in the paper.
    """
    return Recipe(
        name="imagenet128",
        data=ImageConfig(channels=3, size=(128, 128)),
        validation_fraction=0.005,
        model=VQVAEConfig(likelihood=GaussianConfig()),
        training=TrainingConfig(steps=250_000, batch_size=128, learning_rate=2e-4, checkpoint_every=5_000),
        prior=AutoregressivePriorConfig(
            network=GatedPixelCNNConfig(channels=384, layers=20, kernel_size=5, head_channels=512),
            training=TrainingConfig(
                steps=250_000, batch_size=128, learning_rate=3e-4, warmup_steps=1_000, weight_ema=0.9999
            ),
        ),
    )
