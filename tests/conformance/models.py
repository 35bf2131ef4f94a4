"""The table of models whose properties are tested. A new one is a line in `CASES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.models import Autoencoder, LatentVariableModel
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoder
from smalti.encoders.conv import ConvEncoder, ConvEncoderConfig
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.likelihoods.levels import from_levels
from smalti.likelihoods.logistic_mixture import LogisticMixtureFamily
from smalti.models.hierarchy import Hierarchy, HierarchyConfig
from smalti.models.vae import VAE, VAEConfig
from smalti.models.vimco import VIMCO, VIMCOConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.priors.uniform import UniformPrior
from smalti.quantizers.codebooks.gradient import GradientCodebookConfig
from smalti.quantizers.fsq import FSQConfig
from smalti.quantizers.residual import ResidualVQConfig
from smalti.quantizers.vq import VectorQuantizer


@dataclass(frozen=True)
class Case:
    """Recipe for building one model.

    Attributes:
        kind: its class.
        build: makes the untrained model of signals of a spec.
        is_deterministic: whether its posterior has one code for each signal, so that it draws nothing.
    """

    kind: type[Any]
    build: Callable[[SignalSpec], LatentVariableModel]
    is_deterministic: bool = False


GRADIENT = VQVAEConfig.tiny().quantizer.model_copy(update={"codebook": GradientCodebookConfig()})
LIKELIHOODS = {"": {}, "-categorical": CategoricalConfig(), "-gaussian": GaussianConfig()}
KINDS: dict[str, tuple[type[Any], Any]] = {
    "vqvae": (VQVAE, VQVAEConfig.tiny()),
    "hierarchy": (Hierarchy, HierarchyConfig.tiny()),
    "vae": (VAE, VAEConfig.tiny()),
    "vimco": (VIMCO, VIMCOConfig.tiny()),
}
DRAW_NOTHING = (VQVAE, Hierarchy)


def changed(config: Any, **settings: Any) -> Callable[[SignalSpec], LatentVariableModel]:
    """The `build` of a config with other settings."""
    return config.model_copy(update=settings).build


def of_parts(spec: SignalSpec) -> VQVAE:
    """A model of parts that no config has built."""
    sizes = {"channels": 8, "residual_channels": 4, "residual_blocks": 1}
    likelihood = LogisticMixtureFamily(channels=spec.channels, levels=spec.levels, components=2)
    return VQVAE(
        encoder=ConvEncoder(spec.channels, 8, spec.ndim, **sizes),
        quantizer=VectorQuantizer(dim=8, num_codes=16, num_codebooks=2),
        decoder=ConvDecoder(8, likelihood.num_parameters, spec.ndim, **sizes),
        likelihood=likelihood,
        signal=spec,
    )


CASES: dict[str, Case] = {
    f"{name}{suffix}": Case(
        kind, changed(config, **({"likelihood": likelihood} if likelihood else {})), kind in DRAW_NOTHING
    )
    for name, (kind, config) in KINDS.items()
    for suffix, likelihood in LIKELIHOODS.items()
}
CASES |= {
    f"vqvae-{name}": Case(VQVAE, changed(VQVAEConfig.tiny(), quantizer=quantizer), is_deterministic=True)
    for name, quantizer in {
        "gradient": GRADIENT,
        # So fine that the latents of an untrained encoder do not all round to zero.
        "fsq": FSQConfig(levels=(32, 32, 32)),
        "residual": ResidualVQConfig(dim=6, num_codes=16, num_quantizers=3),
    }.items()
}
CASES["vqvae-of-parts"] = Case(VQVAE, of_parts, is_deterministic=True)


def cases(of: type[LatentVariableModel], is_deterministic: bool | None = None) -> pytest.MarkDecorator:
    """Run a test for every case of an interface, or for those that draw nothing (or something)."""
    chosen = {
        name: case
        for name, case in CASES.items()
        if issubclass(case.kind, of) and is_deterministic in (None, case.is_deterministic)
    }
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen)


CLIP = SignalSpec(2, (4, 8, 4), levels=16)
SPECS = (SignalSpec(3, (8, 12)), SignalSpec(1, (16,)), CLIP)
SPEC = SignalSpec(3, (8, 8))
OF_TIME = {"per_frame": {"per_frame": True}, "time_strides": {"time_strides": (1, 2)}}
"""Settings of the encoder that only clips have."""


def everywhere(of: type[LatentVariableModel], is_deterministic: bool | None = None) -> pytest.MarkDecorator:
    """Run a test for every case as `cases` picks them, on signals of every number of axes."""
    chosen = {
        f"{name}-{len(spec.size)}d": (case, spec)
        for name, case in CASES.items()
        for spec in SPECS
        if issubclass(case.kind, of) and is_deterministic in (None, case.is_deterministic)
    }
    for name, settings in OF_TIME.items():
        encoder = ConvEncoderConfig.tiny().model_copy(update=settings)
        case = Case(VQVAE, changed(VQVAEConfig.tiny(), encoder=encoder), is_deterministic=True)
        if is_deterministic is not False:
            chosen[f"vqvae-{name}"] = (case, CLIP)
    return pytest.mark.parametrize(("case", "spec"), chosen.values(), ids=chosen)


def signals(spec: SignalSpec, num: int = 3, seed: int = 1) -> torch.Tensor:
    """Random ones."""
    generator = torch.Generator().manual_seed(seed)
    return from_levels(
        torch.randint(spec.levels, (num, spec.channels, *spec.size), generator=generator), spec.levels
    )


def trained(case: Case, spec: SignalSpec = SPEC) -> Any:
    """A model that has seen a batch, in evaluation mode."""
    torch.manual_seed(0)
    model = case.build(spec)
    model.loss(Batch(signals(spec, seed=5)))
    return model.eval()


def seeded_loss(model: LatentVariableModel, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The loss, with the draws of a seed."""
    torch.manual_seed(seed)
    return model.loss(Batch(x)).total


def uniform(model: LatentVariableModel) -> list[UniformPrior]:
    """The prior that every model with codes has."""
    if not isinstance(model, Autoencoder):
        return []
    return [UniformPrior(model.num_codes, model.num_codebooks, model.grid)]
