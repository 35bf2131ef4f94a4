"""Likelihood families by their config."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from smalti.core.parts import LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.likelihoods.categorical import CategoricalConfig, CategoricalFamily
from smalti.likelihoods.gaussian import GaussianConfig, GaussianFamily
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig, LogisticMixtureFamily
from smalti.likelihoods.normal import NormalConfig

LikelihoodConfig = Annotated[
    LogisticMixtureConfig | CategoricalConfig | GaussianConfig | NormalConfig, Field(discriminator="kind")
]


def build_likelihood(config: LikelihoodConfig, signal: SignalSpec) -> LikelihoodFamily:
    """The family that a config names."""
    if config.kind == "normal":
        return config.build(signal)
    families = {
        "gaussian": GaussianFamily,
        "logistic_mixture": LogisticMixtureFamily,
        "categorical": CategoricalFamily,
    }
    return families[config.kind](config, signal)
