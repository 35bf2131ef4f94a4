"""Properties of every family of likelihoods. A new one is a line in `CASES`, or in `DENSITIES`."""

import itertools
import math
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch

from smalti.coding.streams import Decoder, Encoder
from smalti.core.errors import InputError
from smalti.core.parts import LIKELIHOODS, Likelihood, LikelihoodFamily
from smalti.core.signals import Continuous, Levels, SignalSpec
from smalti.decoders.autoregressive import AutoregressiveFamily, AutoregressiveLikelihood
from smalti.likelihoods.categorical import Categorical, CategoricalFamily
from smalti.likelihoods.coupled_logistic_mixture import CoupledLogisticMixture, CoupledLogisticMixtureFamily
from smalti.likelihoods.gaussian import Gaussian, GaussianFamily
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureFamily
from smalti.likelihoods.normal import Normal, NormalFamily
from smalti.models.hierarchy import _Maps
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
DENSITIES: dict[type[LikelihoodFamily], tuple[type[Likelihood], Callable[[SignalSpec], LikelihoodFamily]]] = {
    NormalFamily: (Normal, lambda spec: NormalFamily(spec.channels)),
}
"""Families for continuous data."""
UNREGISTERED = {AutoregressiveFamily: AutoregressiveLikelihood}
"""Made by decoders rather than by a config: see tests/decoders."""
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
REAL = SignalSpec(2, (3,), domain=Continuous())
DENSITY = pytest.mark.parametrize(
    "build", [build for _, build in DENSITIES.values()], ids=[kind.__name__ for kind in DENSITIES]
)
ANY = pytest.mark.parametrize(
    ("build", "spec"),
    [(build, SMALL) for _, build in CASES.values()] + [(build, REAL) for _, build in DENSITIES.values()],
    ids=[kind.__name__ for kind in (*CASES, *DENSITIES)],
)


def parameters_for(
    family: LikelihoodFamily, spec: SignalSpec, num: int = 3, scale: float = 1.0
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(num, family.num_parameters, *spec.size, generator=generator)


def signals(spec: SignalSpec, num: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if spec.is_continuous:
        return torch.randn(num, spec.channels, *spec.size, generator=generator)
    return from_levels(
        torch.randint(spec.levels, (num, spec.channels, *spec.size), generator=generator), spec.levels
    )


def registered(spec: SignalSpec) -> set[type[LikelihoodFamily]]:
    """Families of all registered kinds that accept signals of a domain."""
    families = set()
    for config in LIKELIHOODS.kinds().values():
        # Tests of plugins may have registered others.
        if config.__module__.startswith("smalti."):
            with suppress(InputError):
                families.add(type(config().build(spec)))
    return families


def test_every_registered_kind_is_in_the_table_of_each_domain_that_it_accepts():
    assert registered(SMALL) == set(CASES)
    assert registered(REAL) == set(DENSITIES)
    # Decoders between levels have no likelihood.
    assert concrete(LikelihoodFamily) - {_Maps} == {*CASES, *DENSITIES, *UNREGISTERED}
    assert concrete(Likelihood) == {
        *(likelihood for likelihood, _ in (*CASES.values(), *DENSITIES.values())),
        *UNREGISTERED.values(),
    }


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


@DENSITY
@torch.no_grad()
def test_a_density_integrates_to_one_and_samples_follow_it(build):
    family = build(REAL)
    one = parameters_for(family, REAL, num=1)
    grid = torch.linspace(-60, 60, 24_001)
    log_density = family(one.expand(len(grid), -1, -1)).log_prob(grid.view(-1, 1, 1).expand(-1, 2, 3))
    below = torch.cumulative_trapezoid(log_density.double().exp(), dx=120 / 24_000, dim=0)
    torch.testing.assert_close(below[-1], torch.ones(2, 3).double(), rtol=1e-4, atol=0)
    drawn = family(one.expand(8000, -1, -1)).sample(torch.Generator().manual_seed(0))
    for share in (0.1, 0.5, 0.9):
        threshold = grid[1:][(below < share).sum(0)]
        frequency = (drawn < threshold).double().mean(0)
        torch.testing.assert_close(frequency, torch.full_like(frequency, share), rtol=0, atol=0.02)


@ANY
@torch.no_grad()
def test_a_low_temperature_keeps_to_what_is_probable(build, spec):
    family = build(spec)
    one = parameters_for(family, spec, num=1)
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
@ANY
def test_gradients_are_finite_also_for_a_decoder_gone_wild(build, spec, scale):
    spec = SignalSpec(3, (4, 6), domain=Continuous() if spec.is_continuous else Levels())
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
    changes_nothing_under_autocast(build, spec)


@DENSITY
def test_autocast_changes_nothing_of_a_density(build):
    changes_nothing_under_autocast(build, REAL)


def changes_nothing_under_autocast(build: Callable[[SignalSpec], LikelihoodFamily], spec: SignalSpec) -> None:
    family = build(spec)
    parameters, x = parameters_for(family, spec), signals(spec)
    expected = family(parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        likelihood = family(parameters)
        log_prob, mean = likelihood.log_prob(x), likelihood.mean()
    torch.testing.assert_close(log_prob, expected.log_prob(x))
    torch.testing.assert_close(mean, expected.mean())


@ANY
def test_parameters_in_bfloat16_are_taken_in_float32(build, spec):
    family = build(spec)
    parameters = parameters_for(family, spec).bfloat16()
    log_prob = family(parameters).log_prob(signals(spec))
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, family(parameters.float()).log_prob(signals(spec)))


@ANY
@torch.no_grad()
def test_a_loaded_state_gives_the_same(build, spec):
    saved, loaded = build(spec), build(spec)
    for parameter in saved.parameters():
        parameter.add_(0.3)
    loaded.load_state_dict(saved.state_dict())
    parameters, x = parameters_for(saved, spec), signals(spec)
    assert torch.equal(saved(parameters).log_prob(x), loaded(parameters).log_prob(x))
    assert torch.equal(saved(parameters).mean(), loaded(parameters).mean())


@SPECS
@EVERY
@pytest.mark.parametrize("length", [1, None])
@torch.no_grad()
def test_entropy_coding_is_exact_and_takes_the_bits_of_log_prob(build, spec, length):
    family = build(spec)
    likelihood = family(parameters_for(family, spec))
    levels = to_levels(signals(spec), spec.levels)
    log_prob = likelihood.log_prob(from_levels(levels, spec.levels))[:, :, :length]
    levels = levels[:, :, :length]
    encoder = Encoder()
    likelihood.code(levels.clone(), encoder)
    bits = -log_prob.double().sum().item() / math.log(2)
    # A level is never more improbable than the precision of the coder.
    if log_prob.min() > -14:
        assert encoder.bits == pytest.approx(bits, rel=1e-4)
    decoded = torch.zeros_like(levels)
    decoder = Decoder(encoder.finish())
    likelihood.code(decoded, decoder)
    decoder.check_end()
    assert torch.equal(decoded, levels)


@pytest.mark.parametrize("build", [build for _, build in DENSITIES.values()])
def test_densities_cannot_be_entropy_coded(build):
    family = build(REAL)
    with pytest.raises(InputError, match="levels"):
        family(parameters_for(family, REAL)).code(torch.zeros(3, 2, 3, dtype=torch.int64), Encoder())
