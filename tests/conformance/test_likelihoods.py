"""Properties of every family of likelihoods. A new one is a line in `CASES`."""

import itertools
from collections.abc import Callable

import pytest
import torch

from smalti.core.parts import Likelihood, LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.decoders.autoregressive import AutoregressiveFamily, AutoregressiveLikelihood
from smalti.likelihoods.categorical import Categorical, CategoricalFamily
from smalti.likelihoods.coupled_logistic_mixture import CoupledLogisticMixture, CoupledLogisticMixtureFamily
from smalti.likelihoods.gaussian import Gaussian, GaussianFamily
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureFamily
from smalti.likelihoods.normal import Normal, NormalFamily
from tests.conformance.classes import concrete

CASES: dict[type[LikelihoodFamily], tuple[type[Likelihood], Callable[[SignalSpec], LikelihoodFamily]]] = {
    GaussianFamily: (Gaussian, lambda spec: GaussianFamily(spec.channels, spec.levels)),
    LogisticMixtureFamily: (
        LogisticMixture,
        lambda spec: LogisticMixtureFamily(spec.channels, spec.levels, components=2),
    ),
    CategoricalFamily: (Categorical, lambda spec: CategoricalFamily(spec.channels, spec.levels)),
    CoupledLogisticMixtureFamily: (
        CoupledLogisticMixture,
        lambda spec: CoupledLogisticMixtureFamily(spec.channels, spec.levels, components=2),
    ),
}
OTHERS = {AutoregressiveFamily: AutoregressiveLikelihood, NormalFamily: Normal}
"""Without parameters for each element, or a density: see tests/decoders and tests/likelihoods."""
EVERY = pytest.mark.parametrize(
    "build", [build for _, build in CASES.values()], ids=[kind.__name__ for kind in CASES]
)
INDEPENDENT = pytest.mark.parametrize(
    "build",
    [build for kind, (_, build) in CASES.items() if kind is not CoupledLogisticMixtureFamily],
    ids=[kind.__name__ for kind in CASES if kind is not CoupledLogisticMixtureFamily],
)
"""Families whose channels are independent given the parameters."""
SPECS = pytest.mark.parametrize(
    "spec",
    [SignalSpec(3, (4, 6)), SignalSpec(1, (12,)), SignalSpec(2, (2, 3, 4), levels=16), SignalSpec(1, (1, 1))],
    ids=lambda spec: "x".join(map(str, (spec.channels, *spec.size))),
)
SMALL = SignalSpec(2, (3,), levels=5)


def parameters_for(
    family: LikelihoodFamily, spec: SignalSpec, num: int = 3, scale: float = 1.0
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(num, family.num_parameters, *spec.size, generator=generator)


def signals(spec: SignalSpec, num: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return from_levels(
        torch.randint(spec.levels, (num, spec.channels, *spec.size), generator=generator), spec.levels
    )


def test_every_family_and_every_likelihood_is_in_the_table():
    assert concrete(LikelihoodFamily) == {*CASES, *OTHERS}
    assert concrete(Likelihood) == {likelihood for likelihood, _ in CASES.values()} | {*OTHERS.values()}


@SPECS
@EVERY
def test_shapes_ranges_and_signs(build, spec):
    family = build(spec)
    likelihood = family(parameters_for(family, spec))
    x = signals(spec)
    log_prob, mean, drawn = likelihood.log_prob(x), likelihood.mean(), likelihood.sample()
    assert log_prob.shape == mean.shape == drawn.shape == x.shape
    assert (log_prob <= 0).all()
    assert log_prob.isfinite().all()
    assert mean.abs().max() <= 1 + 1e-6
    assert torch.equal(from_levels(to_levels(drawn, spec.levels), spec.levels), drawn)


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
@INDEPENDENT
@torch.no_grad()
def test_probabilities_of_all_levels_sum_to_one(build, scale):
    family = build(SMALL)
    likelihood = family(parameters_for(family, SMALL, scale=scale))
    every = [from_levels(torch.full((3, 2, 3), level), 5) for level in range(5)]
    total = sum(likelihood.log_prob(x).double().exp() for x in every)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=0)


@EVERY
@torch.no_grad()
def test_elements_are_independent_given_the_parameters(build):
    """The joint over all signals of a tiny size sums to one; an element's log_prob sees no other element."""
    spec = SignalSpec(1, (3,), levels=4)
    family = build(spec)
    every = from_levels(torch.tensor(list(itertools.product(range(4), repeat=3))), 4).unsqueeze(1)
    parameters = parameters_for(family, spec, num=1).expand(64, -1, -1)
    joint = family(parameters).log_prob(every).sum((1, 2)).exp().sum()
    torch.testing.assert_close(joint, torch.tensor(1.0), rtol=1e-4, atol=0)


@INDEPENDENT
@torch.no_grad()
def test_samples_follow_the_probabilities(build):
    family = build(SMALL)
    one = parameters_for(family, SMALL, num=1)
    likelihood = family(one.expand(8000, -1, -1))
    drawn = to_levels(likelihood.sample(torch.Generator().manual_seed(0)), 5)
    for level in range(5):
        probability = family(one).log_prob(from_levels(torch.full((1, 2, 3), level), 5)).exp()[0]
        frequency = (drawn == level).float().mean(0)
        torch.testing.assert_close(frequency, probability, rtol=0, atol=0.03)


@EVERY
@torch.no_grad()
def test_a_low_temperature_keeps_to_what_is_probable(build):
    family = build(SMALL)
    one = parameters_for(family, SMALL, num=1)
    likelihood = family(one.expand(2000, -1, -1))

    def draw(temperature: float, seed: int = 0) -> torch.Tensor:
        return likelihood.sample(torch.Generator().manual_seed(seed), temperature)

    assert torch.equal(draw(1.0), likelihood.sample(torch.Generator().manual_seed(0)))
    assert torch.equal(draw(0.0), draw(0.0, seed=1))
    assert len(draw(0.0).unique(dim=0)) == 1
    probable = [likelihood.log_prob(draw(temperature)).mean().item() for temperature in (2.0, 1.0, 0.5)]
    assert probable == sorted(probable)
    assert probable[2] > probable[0] + 0.05


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
@EVERY
def test_gradients_are_finite_also_for_a_decoder_gone_wild(build, scale):
    spec = SignalSpec(3, (4, 6))
    family = build(spec)
    parameters = parameters_for(family, spec, scale=scale).requires_grad_()
    log_prob = family(parameters).log_prob(signals(spec))
    log_prob.mean().backward()
    assert log_prob.isfinite().all()
    assert parameters.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in family.parameters())


@SPECS
@EVERY
def test_autocast_changes_nothing(build, spec):
    family = build(spec)
    parameters, x = parameters_for(family, spec), signals(spec)
    expected = family(parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        likelihood = family(parameters)
        log_prob, mean = likelihood.log_prob(x), likelihood.mean()
    torch.testing.assert_close(log_prob, expected.log_prob(x))
    torch.testing.assert_close(mean, expected.mean())


@EVERY
def test_parameters_in_bfloat16_are_taken_in_float32(build):
    family = build(SMALL)
    parameters = parameters_for(family, SMALL).bfloat16()
    log_prob = family(parameters).log_prob(signals(SMALL))
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, family(parameters.float()).log_prob(signals(SMALL)))


@EVERY
@torch.no_grad()
def test_a_loaded_state_gives_the_same(build):
    saved, loaded = build(SMALL), build(SMALL)
    for parameter in saved.parameters():
        parameter.add_(0.3)
    loaded.load_state_dict(saved.state_dict())
    parameters, x = parameters_for(saved, SMALL), signals(SMALL)
    assert torch.equal(saved(parameters).log_prob(x), loaded(parameters).log_prob(x))
    assert torch.equal(saved(parameters).mean(), loaded(parameters).mean())
