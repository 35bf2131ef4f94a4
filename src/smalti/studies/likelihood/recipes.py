"""Likelihood studies: sets of models that are trained and evaluated alike and compared in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import Field

from smalti.app.recipes.images import cifar10, cifar10_coupled, fashion_mnist
from smalti.app.recipes.training import cosine
from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.transformer import TransformerConfig
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.models import ModelConfig
from smalti.core.parts import LikelihoodConfig
from smalti.core.suggestions import suggestion
from smalti.data.sources.idx import FASHION_MNIST
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from smalti.models.networks import NetworksConfig
from smalti.models.vae import VAEConfig
from smalti.models.vimco import VIMCOConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.priors.autoregressive import AutoregressivePriorConfig
from smalti.priors.base import AnyPrior
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.codebooks.gradient import GradientCodebookConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.recipe import Recipe
from smalti.training.loop import TrainingConfig

PIXELCNN, TRANSFORMER = "learned", "transformer"
"""Names of the two learned priors; the gated PixelCNN is a run's main prior."""


class Entry(Configuration):
    """One model of a study.

    Attributes:
        name: row of the table, unique within the study.
        recipe: model and training, without the seed.
        priors: learned priors over its codes, by name.
        fine_tuning: training on the study's data, for a model pretrained on other data.
        most_seeds: maximum number of seeds; None for no limit.
    """

    name: str
    recipe: Recipe
    priors: dict[str, AnyPrior] = Field(default_factory=dict)
    fine_tuning: TrainingConfig | None = None
    most_seeds: int | None = Field(default=None, ge=1)


class Study(Configuration):
    """A set of models compared on one data set.

    Attributes:
        name: name of the folder and of the records.
        dataset: name of the data set.
        question: question or subject of the table.
        entries: the models.
        paper: figures of the paper in bits/dim, by kind of model and row.
        draws: posterior samples per item, for stochastic posteriors; 50 in the paper.
        swaps: number of neighbouring codes whose terms are added to the paper's approximation.
        swapped_items: number of items for that sum; each one takes hundreds of decoder passes.
    """

    name: str
    dataset: str
    question: str
    entries: tuple[Entry, ...]
    paper: dict[str, float] = Field(default_factory=dict)
    draws: int = Field(default=50, ge=1)
    swaps: int = Field(default=0, ge=0)
    swapped_items: int = Field(default=100, ge=1)


class Scale(Configuration):
    """Model sizes and training lengths for one data set and one budget.

    Attributes:
        recipe: the VQ-VAE that all other models are derived from.
        latent_dim: dimension of the VAE's latent at each position.
        vimco: training settings of VIMCO, whose step decodes each item once per sample.
        vimco_samples: number of samples in its bound; 50 in the paper.
        sweep: training settings of each model of a sweep.
        transformer: the second learned prior, or None if it is too slow.
        fine_tuning: training on the study's data after pretraining on other data.
        others: additional VQ-VAEs in the table, by name.
        draws, swapped_items: as in `Study`.
    """

    recipe: Recipe
    others: dict[str, Recipe] = Field(default_factory=dict)
    draws: int = 50
    swapped_items: int = 100
    latent_dim: int
    vimco: TrainingConfig
    vimco_samples: int = Field(default=50, ge=2)
    sweep: TrainingConfig
    transformer: TransformerConfig | None
    fine_tuning: TrainingConfig


PAPER = {"vae normal": 4.51, "vqvae uniform": 4.67, "vimco uniform, draws": 5.14}
"""Table in section 4.1 of the paper, CIFAR-10. The paper does not say which of VIMCO's bounds is reported."""

CODEBOOKS = {
    "gradient": GradientCodebookConfig(),
    "ema": EMACodebookConfig(data_init=False, revive_after=0),
    "ema, data init": EMACodebookConfig(revive_after=0),
    "ema, data init, revival": EMACodebookConfig(),
}
LIKELIHOODS: dict[str, LikelihoodConfig] = {
    "logistic_mixture": LogisticMixtureConfig(),
    "categorical": CategoricalConfig(),
    "gaussian": GaussianConfig(),
}
OTHER_STUDIES = ("speech", "conversion", "phonemes", "lab", "video")
"""Names that `smalti reproduce` knows besides data sets."""
BETAS = (0.1, 0.25, 0.5, 1.0, 2.0)


def study(data: str, part: str, budget: str) -> Study:
    """Return a study of a data set at a budget.

    Raises:
        InputError: when the data set, the part or the budget is unknown.
    """
    budgets = SCALES.get(data, {})
    named = (("data set", data, SCALES), ("part", part, PARTS), ("budget", budget, budgets))
    for what, given, known in named:
        others = OTHER_STUDIES if what == "data set" else ()
        if given not in known:
            raise InputError(
                f"expected a {what} to reproduce, received {given!r}: {suggestion(given, [*known, *others])}"
            )
    scale = budgets[budget]()
    entries, question = PARTS[part](scale)
    return Study(
        name=f"{data}-{part}",
        dataset=DATASETS[data],
        question=question,
        entries=entries,
        paper=PAPER if data == "cifar10" and part == "table" else {},
        draws=scale.draws,
        swaps=4 if part == "table" else 0,
        swapped_items=scale.swapped_items,
    )


Entries = tuple[tuple[Entry, ...], str]
"""Models of a study, and the question that they answer."""


def _table(scale: Scale) -> Entries:
    recipe = scale.recipe
    quantizer = _quantizer(recipe)
    parts = {name: getattr(recipe.model, name) for name in NetworksConfig.model_fields}
    vae = VAEConfig(**parts, latent_dim=scale.latent_dim)
    vimco = VIMCOConfig(
        **parts,
        num_codebooks=quantizer.num_codebooks,
        num_codes=quantizer.num_codes,
        code_dim=quantizer.code_dim,
        num_samples=scale.vimco_samples,
    )
    priors = {PIXELCNN: recipe.prior}
    if scale.transformer is not None:
        priors[TRANSFORMER] = recipe.prior.model_copy(update={"network": scale.transformer})
    tuning = scale.fine_tuning
    entries = (
        Entry(name="vqvae", recipe=recipe, priors=priors, fine_tuning=tuning),
        *(
            Entry(name=name, recipe=other, priors=priors, fine_tuning=tuning)
            for name, other in scale.others.items()
        ),
        Entry(name="vae", recipe=_with(recipe, vae), fine_tuning=tuning),
        Entry(name="vimco", recipe=_with(recipe, vimco, scale.vimco), fine_tuning=scale.vimco, most_seeds=1),
    )
    return entries, "VAE, VQ-VAE and VIMCO with the same encoder, decoder and likelihood"


def _codes(scale: Scale) -> Entries:
    quantizers = {
        f"{codebooks} x K={codes}": {"num_codebooks": codebooks, "num_codes": codes}
        for codebooks in (1, 4)
        for codes in (32, 128, 512)
    }
    return _sweep("number of codes per position, and codebook size", scale, _quantizers(scale, quantizers))


def _beta(scale: Scale) -> Entries:
    settings = {
        f"beta={beta}": {"commitment_weight": beta, "codebook": GradientCodebookConfig()} for beta in BETAS
    }
    return _sweep("weight of the commitment loss", scale, _quantizers(scale, settings))


def _codebook(scale: Scale) -> Entries:
    settings = {name: {"codebook": config} for name, config in CODEBOOKS.items()}
    return _sweep("codebook updates and extensions", scale, _quantizers(scale, settings))


def _likelihood(scale: Scale) -> Entries:
    model = scale.recipe.model
    models = {
        name: model.changed({"likelihood": config, "decoder.head_channels": 32})
        for name, config in LIKELIHOODS.items()
    }
    return _sweep("likelihoods of the decoder", scale, models)


def _sweep(question: str, scale: Scale, models: Mapping[str, ModelConfig]) -> Entries:
    entries = tuple(
        Entry(name=name, recipe=_with(scale.recipe, model, scale.sweep)) for name, model in models.items()
    )
    return entries, question


def _quantizers(scale: Scale, settings: Mapping[str, Mapping[str, object]]) -> dict[str, ModelConfig]:
    model = scale.recipe.model
    quantizer = _quantizer(scale.recipe)
    return {
        name: model.model_copy(update={"quantizer": quantizer.model_copy(update=update)})
        for name, update in settings.items()
    }


def _quantizer(recipe: Recipe) -> VectorQuantizerConfig:
    """Return the vector-quantizer config of a VQ-VAE recipe."""
    return cast("VQVAEConfig", recipe.model).quantizer  # pyright: ignore[reportReturnType]  every recipe of a study has a vector quantizer


def _with(recipe: Recipe, model: ModelConfig, training: TrainingConfig | None = None) -> Recipe:
    return recipe.model_copy(update={"model": model, "training": training or recipe.training})


def _changed(training: TrainingConfig, **settings: object) -> TrainingConfig:
    return TrainingConfig.model_validate({**training.model_dump(), **settings})


def _fashion_mnist() -> Scale:
    """Hours of two CPU cores."""
    recipe = fashion_mnist()
    training = _changed(recipe.training, steps=2_500, validate_every=0)
    prior = _changed(recipe.prior.training, steps=1_000, validate_every=0)
    return Scale(
        recipe=recipe.model_copy(
            update={
                "training": training,
                "prior": recipe.prior.model_copy(update={"training": prior}),
            }
        ),
        latent_dim=16,
        vimco=_changed(training, steps=1_200, batch_size=32),
        sweep=_changed(training, steps=400),
        transformer=TransformerConfig(channels=96, layers=4, heads=4, dropout=0.1),
        fine_tuning=training,
    )


def _cifar10() -> Scale:
    """Less than an hour of one CPU core."""
    recipe = cifar10()
    width: dict[str, Any] = {"channels": 96, "residual_channels": 48, "residual_blocks": 2}
    model = VQVAEConfig(
        encoder=ConvEncoderConfig(**width, strides=(2, 2)),
        decoder=ConvDecoderConfig(**width),
        quantizer=_quantizer(recipe).model_copy(update={"num_codes": 128, "code_dim": 8}),
        # A softmax doubles the time per step, and the budget allows few steps.
        likelihood=LogisticMixtureConfig(components=5),
    )
    training = cosine(steps=3_500, batch_size=32, learning_rate=1e-3, checkpoint_every=250)
    tuning = _changed(training, steps=600, learning_rate=3e-4, weight_ema=0.99, validate_every=100)
    network = GatedPixelCNNConfig(channels=64, layers=8, head_channels=128, dropout=0.1)
    return Scale(
        recipe=recipe.model_copy(
            update={
                "model": model,
                "training": training,
                "prior": AutoregressivePriorConfig(network=network, training=_changed(training, steps=1_000)),
            }
        ),
        latent_dim=32,
        vimco=_changed(training, steps=300, batch_size=8, warmup_steps=20),
        sweep=_changed(training, steps=300),
        transformer=None,
        swapped_items=10,
        fine_tuning=tuning,
    )


def _cifar10_long() -> Scale:
    """Return the recipe found by search on validation images: one code per position, coupled channels.

    Pretrain on JPEG images and give lossless ones as data, flipped at random in both trainings.

    Command: smalti reproduce cifar10 --data LOSSLESS --pretrain JPEG --budget cpu-long --out OUT
    Cost: 0.25 s per step on one CPU core, about 2.5 hours for each of the three models beside VIMCO.
    Expect: about 4.72 bits/dim under the uniform prior, that of these networks after 36,500 steps (4.719 on
    1,017 lossless test images), and about 4.52 with the PixelCNN (4.517 after 3,400 steps); the paper has
    4.67. A deeper decoder for the same codes gains 0.037 (models/cifar10-coupled/README.md).
    """
    recipe = cifar10_coupled()
    training = _changed(recipe.training, steps=24_000)
    prior = _changed(recipe.prior.training, steps=5_000)
    recipe = recipe.changed({"data.flip": True, "training": training, "prior.training": prior})
    independent = recipe.changed({"model.likelihood": LogisticMixtureConfig(components=5)})
    return Scale(
        recipe=recipe,
        others={"vqvae, independent channels": independent},
        latent_dim=8,
        vimco=_changed(training, steps=1_000, batch_size=8),
        sweep=_changed(training, steps=1_000),
        transformer=None,
        swapped_items=10,
        fine_tuning=_changed(training, steps=12_000),
    )


def _paper(recipe: Recipe, latent_dim: int) -> Scale:
    """Section 4.1: 250k steps of batch 128, Adam at 2e-4, 256 units, softmax, codebook loss.

    The paper gives no further settings; the row "vqvae, ema" adds the extensions of the preset `ema`. VIMCO
    and the sweeps train a tenth as long to limit cost, since a step of VIMCO decodes 50 times.
    """
    width: dict[str, Any] = {"channels": 256, "residual_channels": 256, "residual_blocks": 2}
    ema = recipe.model.model_copy(
        update={
            "encoder": ConvEncoderConfig(**width, strides=(2, 2)),
            "decoder": ConvDecoderConfig(**width, head_channels=64),
            "likelihood": CategoricalConfig(),
        }
    )
    quantizer = _quantizer(recipe).model_copy(update={"codebook": GradientCodebookConfig()})
    gradient = ema.model_copy(update={"quantizer": quantizer})
    training = TrainingConfig(
        steps=250_000, batch_size=128, learning_rate=2e-4, clip_norm=0, checkpoint_every=5_000
    )
    averaged = _changed(training, weight_ema=0.9995, clip_norm=1)
    return Scale(
        recipe=_with(recipe, gradient, training),
        others={"vqvae, ema": _with(recipe, ema, averaged)},
        latent_dim=latent_dim,
        vimco=_changed(training, steps=25_000),
        sweep=_changed(training, steps=25_000),
        transformer=TransformerConfig(channels=512, layers=12, heads=8, dropout=0.1),
        fine_tuning=_changed(training, steps=5_000, learning_rate=5e-5),
    )


def _tiny(recipe: Recipe) -> Scale:
    """Return settings that run in seconds, as a smoke test of every part."""
    width: dict[str, Any] = {"channels": 8, "residual_channels": 4, "residual_blocks": 1}
    model = VQVAEConfig(
        encoder=ConvEncoderConfig(**width, strides=(2, 2)),
        decoder=ConvDecoderConfig(**width, head_channels=8),
        quantizer=VectorQuantizerConfig(num_codebooks=2, num_codes=8, code_dim=4),
        likelihood=cast("VQVAEConfig", recipe.model).likelihood,
    )
    training = TrainingConfig(steps=4, batch_size=8, learning_rate=1e-3, log_every=2, weight_ema=0.9)
    network = GatedPixelCNNConfig.tiny()
    return Scale(
        recipe=recipe.model_copy(
            update={
                "model": model,
                "training": training,
                "prior": AutoregressivePriorConfig(network=network, training=training),
            }
        ),
        latent_dim=3,
        vimco=training,
        vimco_samples=3,
        draws=5,
        swapped_items=1,
        sweep=training,
        transformer=TransformerConfig.tiny(),
        fine_tuning=training,
    )


SCALES: dict[str, dict[str, Callable[[], Scale]]] = {
    "fashion-mnist": {
        "tiny": lambda: _tiny(fashion_mnist()),
        "cpu": _fashion_mnist,
        "paper": lambda: _paper(fashion_mnist(), latent_dim=64),
    },
    "cifar10": {
        "tiny": lambda: _tiny(cifar10()),
        "cpu": _cifar10,
        "cpu-long": _cifar10_long,
        "paper": lambda: _paper(cifar10(), latent_dim=64),
    },
}
"""Budgets of each data set, in ascending order."""
DATASETS = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
CLASSES = {
    "fashion-mnist": FASHION_MNIST,
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
HUB_NAMES = {"fashion-mnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
"""Default source of each data set."""
PARTS: dict[str, Callable[[Scale], Entries]] = {
    "table": _table,
    "codes": _codes,
    "beta": _beta,
    "codebook": _codebook,
    "likelihood": _likelihood,
}
