"""Models so small that everything they can say can be listed, and how to list it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from smalti.core.models import Autoencoder, LatentVariableModel
from smalti.core.signals import SignalSpec
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.likelihoods.levels import from_levels
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig

LIKELIHOODS = pytest.mark.parametrize(
    "likelihood",
    [LogisticMixtureConfig(components=2), CategoricalConfig(), GaussianConfig()],
    ids=lambda config: config.kind,
)


def signals(spec: SignalSpec, num: int = 4, seed: int = 1) -> Tensor:
    """Random ones."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(spec.levels, (num, spec.channels, *spec.size), generator=generator)
    return from_levels(levels, spec.levels)


def all_signals(spec: SignalSpec) -> Tensor:
    """Every signal that there is."""
    levels = itertools.product(range(spec.levels), repeat=spec.dims)
    return from_levels(torch.tensor(list(levels)), spec.levels).view(-1, spec.channels, *spec.size)


def all_grids(model: Autoencoder) -> Tensor:
    """Every grid of codes that there is."""
    symbols = math.prod(model.grid) * model.num_codebooks
    every = itertools.product(range(model.num_codes), repeat=symbols)
    return torch.tensor(list(every)).view(-1, model.num_codebooks, *model.grid)


@torch.no_grad()
def exaggerate(*networks: nn.Module, times: float = 2) -> None:
    """Make the conditions matter more to the output of a network."""
    for network in networks:
        for parameter in network.parameters():
            parameter.mul_(times)


def gradients(model: LatentVariableModel, total: Tensor) -> dict[str, Tensor]:
    """Of each parameter, by name; zeros where there is none."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if grad is None else grad
        for (name, p), grad in zip(named.items(), found, strict=True)
    }
