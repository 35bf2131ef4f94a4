"""smalti: learned discrete codes for images, audio and video, and priors that generate from them.

import smalti
tokenizer = smalti.load("runs/mine")
codes = tokenizer.encode(images)        # int64 (B, G, h, w)
images = tokenizer.decode(codes)        # uint8 (B, C, H, W)
images = tokenizer.sample(16)
"""

from __future__ import annotations

import functools
import importlib
import warnings
from importlib.metadata import version
from typing import Any

from smalti.core.late_imports import when_imported

__version__ = version("smalti")

_MODULES = {
    "autoregressive.frame_pixelcnn": "FramePixelCNN FramePixelCNNConfig",
    "autoregressive.hierarchy": "HierarchicalPixelCNN HierarchicalPixelCNNConfig",
    "autoregressive.pixelcnn": "GatedPixelCNN GatedPixelCNNConfig",
    "autoregressive.sampling": "draw_codes sample",
    "autoregressive.transformer": "Transformer TransformerConfig",
    "autoregressive.wavenet": "WaveNet WaveNetConfig",
    "coding.archive": "Archive",
    "coding.codec": "Codec",
    "coding.files": "compress restore",
    "conditioners.cross_attention": "CrossAttention CrossAttentionConfig",
    "conditioners.embedding": "Embedding EmbeddingConfig",
    "conditioners.field": "UpsampledField UpsampledFieldConfig",
    "conditioners.projection": "Projection ProjectionConfig",
    "core.conditioners": "CONDITIONERS Conditioner ConditionerConfig",
    "core.conditions": "Batch Conditions DenseField PerFrame PerItem TokenSequence",
    "core.config": "Configuration",
    "core.errors": "InputError UnknownKind",
    "core.hub": "shipped",
    "core.locality": "Extent ReceptiveField",
    "core.modality": "MODALITIES Modality ModalityConfig",
    "core.models": "Autoencoder ForwardPass LatentVariableModel MODELS ModelConfig Trainable",
    "core.parts": (
        "DECODERS Decoder DecoderConfig ENCODERS Encoder EncoderConfig LIKELIHOODS Likelihood "
        "LikelihoodConfig LikelihoodFamily QUANTIZERS Quantizer QuantizerConfig"
    ),
    "core.phases": "Phase",
    "core.priors": "AutoregressiveNetwork DensityPrior NETWORKS NetworkConfig Prior TrainablePrior",
    "core.results": "Bound Loss Quantized",
    "core.signals": "Continuous Levels SignalSpec",
    "data.sources.base": "UnreadableItem",
    "decoders.autoregressive": "AutoregressiveFamily LocalDecoder PixelCNNDecoderConfig WaveNetDecoderConfig",
    "decoders.conditioned": "ConditionedDecoder",
    "decoders.conv": "ConvDecoder ConvDecoderConfig",
    "decoders.harmonic": "HarmonicDecoder HarmonicDecoderConfig",
    "decoders.resnet": "ResNetDecoder ResNetDecoderConfig",
    "decoders.seanet": "SEANetDecoder SEANetDecoderConfig",
    "decoders.spectral": "SpectralDecoder SpectralDecoderConfig",
    "decoders.vit": "ViTDecoder ViTDecoderConfig",
    "encoders.code_grid": "CodeGridEncoder CodeGridEncoderConfig",
    "encoders.context": "ContextEncoder ContextEncoderConfig",
    "encoders.conv": "ConvEncoder ConvEncoderConfig",
    "encoders.log_mel": "LogMelEncoder LogMelEncoderConfig",
    "encoders.resnet": "ResNetEncoder ResNetEncoderConfig",
    "encoders.seanet": "SEANetEncoder SEANetEncoderConfig",
    "encoders.spectral": "SpectralEncoder SpectralEncoderConfig",
    "encoders.strided": "StridedEncoder",
    "encoders.vit": "ViTEncoder ViTEncoderConfig",
    "encoding": "encode_items",
    "evaluation.bounds": "measure",
    "evaluation.evaluate": "evaluate",
    "evaluation.features": "FeatureStatistics frechet_distance",
    "evaluation.neighbours": "NearestNeighbours precision_and_recall",
    "likelihoods.categorical": "Categorical CategoricalConfig CategoricalFamily",
    "likelihoods.coupled_logistic_mixture": (
        "CoupledLogisticMixture CoupledLogisticMixtureConfig CoupledLogisticMixtureFamily"
    ),
    "likelihoods.gaussian": "Gaussian GaussianConfig GaussianFamily",
    "likelihoods.logistic_mixture": "LogisticMixture LogisticMixtureConfig LogisticMixtureFamily",
    "likelihoods.normal": "Normal NormalConfig NormalFamily",
    "modalities.arrays.modality": "ArrayConfig ArrayModality",
    "modalities.audio.modality": "AudioConfig AudioModality",
    "modalities.audio.spectrogram": "LogMel LogMelConfig LogMelModality",
    "modalities.codes.modality": "CodeGridConfig CodeGridModality",
    "modalities.image.modality": "ImageConfig ImageModality",
    "modalities.video.modality": "VideoConfig VideoModality",
    "models.hierarchy": "Hierarchy HierarchyConfig",
    "models.vae": "VAE VAEConfig",
    "models.vimco": "VIMCO VIMCOConfig",
    "models.vqvae": "VQVAE VQVAEConfig",
    "objectives.adversarial": "Adversarial AdversarialConfig",
    "objectives.base": "TERMS Term TermConfig",
    "objectives.discriminators.base": "DISCRIMINATORS Discriminator DiscriminatorConfig Verdict",
    "objectives.discriminators.patch": "PatchDiscriminator PatchDiscriminatorConfig",
    "objectives.discriminators.waveform": "WaveformDiscriminator WaveformDiscriminatorConfig",
    "objectives.objective": "Objective ObjectiveConfig",
    "objectives.perceptual": "Perceptual PerceptualConfig",
    "objectives.pitch": "Pitch PitchConfig",
    "objectives.pixel": "L1 L1Config L2 L2Config",
    "objectives.spectral": "FrequencyDistance FrequencyDistanceConfig MelDistance MelDistanceConfig",
    "objectives.structural": "MultiScaleSSIM MultiScaleSSIMConfig",
    "priors.autoregressive": "AutoregressivePriorConfig LearnedPrior",
    "priors.base": "PRIORS PriorConfig",
    "priors.masked": "MaskedPrior MaskedPriorConfig",
    "priors.uniform": "UniformPrior",
    "priors.unigram": "UnigramPrior",
    "quantizers.bsq": "BSQ BSQConfig",
    "quantizers.codebooks.base": "CODEBOOKS Codebook CodebookConfig",
    "quantizers.codebooks.ema": "EMACodebook EMACodebookConfig",
    "quantizers.codebooks.frozen": "FrozenCodebook FrozenCodebookConfig",
    "quantizers.codebooks.gradient": "GradientCodebook GradientCodebookConfig",
    "quantizers.codebooks.simvq": "SimVQCodebook SimVQCodebookConfig",
    "quantizers.estimators.base": "ESTIMATORS GradientEstimator GradientEstimatorConfig",
    "quantizers.estimators.diveq": "DiVeQ DiVeQConfig",
    "quantizers.estimators.nsvq": "NSVQ NSVQConfig",
    "quantizers.estimators.rotation": "Rotation RotationConfig",
    "quantizers.estimators.straight_through": "StraightThrough StraightThroughConfig",
    "quantizers.fsq": "FSQ FSQConfig",
    "quantizers.ibq": "IBQ IBQConfig",
    "quantizers.lfq": "LFQ LFQConfig",
    "quantizers.multi_scale": "MultiScaleVQ MultiScaleVQConfig",
    "quantizers.nearest": "nearest_codes",
    "quantizers.residual": "ResidualVQ ResidualVQConfig",
    "quantizers.residual_fsq": "ResidualFSQ ResidualFSQConfig",
    "quantizers.vq": "VectorQuantizer VectorQuantizerConfig",
    "recipe": "Recipe register_recipe",
    "rollouts": "Rollouts",
    "streaming": "EncodingStream",
    "tokenizer": "Tokenizer load",
    "tokens.layout": "TokenLayout",
    "training.checkpoints": "RunDirectory",
    "training.engine": "Engine",
    "training.loop": "TrainingConfig fit",
    "world": "VectorWorld World",
}
"""Public names by the module that defines them; `__init__.pyi` declares them for type checkers."""

# Imported at first use, so that `smalti --help` does not wait for torch.
_PUBLIC = {name: f"smalti.{module}" for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'smalti' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def _register(module: str) -> None:
    try:
        # A module that is being imported itself registers at its end.
        getattr(importlib.import_module(f"smalti.{module}"), "register", lambda: None)()
    except Exception as error:
        text = f"smalti is not registered with transformers, of which it needs version 5 or newer: {error}"
        warnings.warn(text, stacklevel=2)


# So that AutoConfig and AutoModel of the package transformers know the tokenizers, without importing it here.
for _name, _module in {"configuration_auto": "auto_config", "modeling_auto": "auto_model"}.items():
    when_imported(f"transformers.models.auto.{_name}", functools.partial(_register, _module))
