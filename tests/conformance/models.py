"""The table of models whose properties are tested. A new one is a line in `CASES`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.models import Autoencoder, LatentVariableModel
from smalti.core.signals import SignalSpec
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.likelihoods.levels import from_levels
from smalti.models.hierarchy import Hierarchy, HierarchyConfig
from smalti.models.vae import VAE, VAEConfig
from smalti.models.vimco import VIMCO, VIMCOConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.priors.uniform import UniformPrior
from smalti.quantizers.codebooks.gradient import GradientCodebookConfig


@dataclass(frozen=True)
class Case:
    """How one model is built.

    Attributes:
        kind: its class.
        config: its settings.
        is_deterministic: whether its posterior has one code for each signal, so that it draws nothing.
    """

    kind: type[Any]
    config: Any
    is_deterministic: bool = False

    def build(self, spec: SignalSpec) -> LatentVariableModel:
        """Untrained."""
        return self.config.build(spec)


GRADIENT = VQVAEConfig.tiny().quantizer.model_copy(update={"codebook": GradientCodebookConfig()})
LIKELIHOODS = {"": {}, "-categorical": CategoricalConfig(), "-gaussian": GaussianConfig()}
KINDS = {
    "vqvae": Case(VQVAE, VQVAEConfig.tiny(), is_deterministic=True),
    "hierarchy": Case(Hierarchy, HierarchyConfig.tiny(), is_deterministic=True),
    "vae": Case(VAE, VAEConfig.tiny()),
    "vimco": Case(VIMCO, VIMCOConfig.tiny()),
}
CASES: dict[str, Case] = {
    f"{name}{suffix}": Case(
        case.kind,
        case.config.model_copy(update={"likelihood": likelihood} if likelihood else {}),
        case.is_deterministic,
    )
    for name, case in KINDS.items()
    for suffix, likelihood in LIKELIHOODS.items()
}
CASES["vqvae-gradient"] = Case(
    VQVAE, VQVAEConfig.tiny().model_copy(update={"quantizer": GRADIENT}), is_deterministic=True
)


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
        case = Case(VQVAE, VQVAEConfig.tiny().model_copy(update={"encoder": encoder}), is_deterministic=True)
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
