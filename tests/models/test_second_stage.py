"""The second stage: codes of codes, what they are worth, and what is drawn from them."""

import math

import pytest
import torch

from smalti.app.recipes import get_recipe
from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.decoders.autoregressive import PixelCNNDecoderConfig
from smalti.encoders.code_grid import CodeGridEncoderConfig
from smalti.evaluation.bounds import measure
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.levels import from_levels
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from smalti.models.vae import VAEConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.priors.uniform import UniformPrior
from smalti.quantizers.vq import VectorQuantizerConfig

SPEC = SignalSpec(1, (6, 6), levels=16)
NETWORKS = {
    "encoder": CodeGridEncoderConfig.tiny(),
    "decoder": PixelCNNDecoderConfig.tiny(),
    "likelihood": CategoricalConfig(),
}


def stage(**changes) -> VQVAE:
    torch.manual_seed(0)
    quantizer = VectorQuantizerConfig(num_codebooks=3, num_codes=8, code_dim=4)
    return VQVAEConfig(**NETWORKS, quantizer=quantizer, code_dropout=0.2, **changes).build(SPEC)


def grids(num: int = 64, seed: int = 0) -> torch.Tensor:
    """Signals of one code each, so that three bits determine a grid; half of the codes never occur."""
    generator = torch.Generator().manual_seed(seed)
    codes = 2 * torch.randint(8, (num, 1, 1, 1), generator=generator).expand(-1, 1, 6, 6)
    return from_levels(codes, 16)


@torch.no_grad()
def test_its_likelihood_sums_to_one_over_the_next_code():
    model = stage().eval()
    x = grids(1)
    codes = model.encode(x)
    assert codes.shape == (1, 3, 1, 1)
    total = 0.0
    for code in range(16):
        other = x.clone()
        other[0, 0, 2, 3] = from_levels(torch.tensor(code), 16)
        total += model.likelihood(codes).log_prob(other)[0, 0, 2, 3].exp().item()
    assert total == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_draws_are_grids_of_codes_that_a_seed_decides():
    model = stage().eval()
    codes = model.encode(grids(2))
    one, same, other = (
        model.decode(codes, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert one.shape == (2, 1, 6, 6)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    levels = (one + 1) * 7.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_it_learns_to_use_its_codes():
    """Nats a grid: with its own codes below those of another grid and below none."""
    model = stage()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(300):
        loss = model.loss(Batch(grids(seed=step))).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    x = grids(seed=1000)
    with torch.no_grad():
        codes = model.encode(x)
        without = model.likelihood_without_codes(len(x), (1, 1))
        assert without is not None
        true, shuffled, none = (
            -likelihood.log_prob(x).flatten(1).sum(1).mean().item()
            for likelihood in (model.likelihood(codes), model.likelihood(codes.roll(1, 0)), without)
        )
    # Eight grids that are equally likely: the first code alone is worth ln 8 nats.
    assert true < 0.5
    assert shuffled > true + 1
    assert none > true + 0.7 * math.log(8)
    assert none == pytest.approx(math.log(8), abs=0.5)


@torch.no_grad()
def test_the_continuous_control_has_the_same_networks():
    torch.manual_seed(0)
    model = VAEConfig(**NETWORKS, latent_dim=3).build(SPEC).eval()
    measured = measure(model, Batch(grids(4)), draws=2)
    assert measured.reconstruction is None
    assert all((bound.distortion > 0).all() for bound in measured.bounds.values())
    assert model.reconstruct(grids(4)).shape == (4, 1, 6, 6)


@torch.no_grad()
def test_the_bound_of_27_bits():
    recipe = get_recipe("second-stage")
    quantizer = recipe.model.quantizer
    prior = UniformPrior(quantizer.num_codes, quantizer.num_codebooks, (1, 1))
    rate = -prior.log_prob(torch.zeros(1, 3, 1, 1, dtype=torch.int64)).item() / math.log(2)
    assert rate == pytest.approx(27)


@pytest.mark.parametrize(
    ("spec", "changes", "sentence"),
    [
        (SignalSpec(1, (6,), levels=16), {}, "expected grids of two axes"),
        (SPEC, {"likelihood": LogisticMixtureConfig()}, "expected a likelihood of codes"),
        (
            SPEC,
            {"decoder": PixelCNNDecoderConfig.tiny().model_copy(update={"upsample": (4,)})},
            "expected decoder.upsample to divide the encoder's stride of 6",
        ),
    ],
)
def test_parts_that_do_not_fit(spec, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        VQVAEConfig(**{**NETWORKS, **changes}).build(spec)
