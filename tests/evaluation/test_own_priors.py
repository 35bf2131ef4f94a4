"""Priors through `evaluate`: densities against an enumeration of all grids, and priors that only sample."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import smalti
from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.priors import DensityPrior, Prior
from smalti.core.signals import SignalSpec
from smalti.evaluation.evaluate import evaluate
from smalti.likelihoods.categorical import CategoricalFamily
from smalti.models.vqvae import VQVAE
from smalti.priors.autoregressive import LearnedPrior
from smalti.priors.labelled import LabelledPrior
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior
from smalti.quantizers.fsq import FSQ
from tests.models.tiny import all_grids, all_signals
from tests.priors.test_priors import GRID, NUM_CLASSES, NUM_CODES, learned, unigram

SPEC = SignalSpec(1, GRID, levels=NUM_CODES)


class Amplified(nn.Module):
    """So much that each level of a signal rounds to a code of its own."""

    def forward(self, signal: Tensor) -> Tensor:
        return 5 * signal


@pytest.fixture(scope="module")
def model() -> VQVAE:
    """Its codes are the levels of the signal: all signals have all code grids, each once."""
    torch.manual_seed(0)
    likelihood = CategoricalFamily(channels=1, levels=NUM_CODES)
    decoder = nn.Conv2d(1, likelihood.num_parameters, 1)
    return VQVAE(Amplified(), FSQ(levels=(NUM_CODES,)), decoder, likelihood, SPEC).eval()


def labels(label: int, num: int) -> Conditions:
    return Conditions(label=torch.full((num,), label))


def by_counts(prior: UnigramPrior, codes: Tensor, conditions: Conditions) -> Tensor:
    smoothed = [count + prior.smoothing for count in prior.counts[0].tolist()]
    return torch.tensor(
        [sum(math.log(smoothed[code] / sum(smoothed)) for code in grid.flatten()) for grid in codes]
    )


def by_steps(prior: LearnedPrior, codes: Tensor, conditions: Conditions) -> Tensor:
    """Symbol by symbol, with the cached step of sampling."""
    state = prior.network.start(len(codes), GRID, conditions)
    previous, total = None, torch.zeros(len(codes))
    for symbol in codes.flatten(1).unbind(1):
        logits = prior.network.step(previous, state).double()
        total = total + logits.log_softmax(1).gather(1, symbol.unsqueeze(1)).squeeze(1)
        previous = symbol
    return total


Oracle = Callable[[DensityPrior, Tensor, Conditions], Tensor]
DENSITIES: dict[str, tuple[DensityPrior, Oracle]] = {
    "uniform": (
        UniformPrior(NUM_CODES, 1, GRID),
        lambda _, codes, __: torch.full((len(codes),), -2 * math.log(NUM_CODES)),
    ),
    "unigram": (unigram(1), by_counts),
    "learned": (learned(1), by_steps),
    "learned, with classes": (
        learned(1, NUM_CLASSES),
        lambda prior, codes, _: by_steps(prior, codes, Conditions()),
    ),
    "labelled": (
        LabelledPrior(learned(1, NUM_CLASSES)),
        lambda prior, codes, given: by_steps(prior.prior, codes, given) - math.log(NUM_CLASSES),
    ),
}


def reported(model: VQVAE, prior: DensityPrior, x: Tensor, conditions: Conditions) -> dict[str, float]:
    return evaluate(model, [prior], [Batch(x, conditions)]).density[prior.name]


@pytest.mark.parametrize("name", DENSITIES)
@torch.no_grad()
def test_the_reported_bits_are_those_of_an_enumeration(name: str, model: VQVAE) -> None:
    prior, oracle = DENSITIES[name]
    x, nats_per_bit = all_signals(SPEC), math.log(2)
    codes = model.encode(x)
    assert sorted(codes.flatten(1).tolist()) == all_grids(model).flatten(1).tolist()
    latents = codes.double() - 1  # three levels of FSQ: -1, 0, 1
    weight, bias = (p.double().flatten() for p in model.decoder.module.parameters())
    logits = weight * latents.flatten(1).unsqueeze(2) + bias
    distortion = -logits.log_softmax(2).gather(2, codes.flatten(1).unsqueeze(2)).flatten(1).sum(1)
    for label in range(NUM_CLASSES):
        conditions = labels(label, len(x))
        rate = -oracle(prior, codes, conditions).double()
        row = reported(model, prior, x, conditions)
        assert row["rate"] == pytest.approx(rate.mean().item() / SPEC.dims / nats_per_bit, rel=1e-5)
        total = (rate + distortion).mean().item() / SPEC.dims / nats_per_bit
        assert row["bits_per_dim"] == pytest.approx(total, rel=1e-5)
        assert row["nats_per_code"] == pytest.approx(rate.mean().item() / math.prod(GRID), rel=1e-5)


@pytest.mark.parametrize("name", DENSITIES)
def test_the_probabilities_in_the_reported_rates_sum_to_one(name: str, model: VQVAE) -> None:
    """Over all grids; over all grids and classes for a prior over both."""
    prior, _ = DENSITIES[name]
    given = range(NUM_CLASSES) if name == "labelled" else [0]
    bits = [
        reported(model, prior, one.unsqueeze(0), labels(label, 1))["rate"] * SPEC.dims
        for label in given
        for one in all_signals(SPEC)
    ]
    assert len(set(bits)) > 1 or name == "uniform"
    assert sum(2.0**-each for each in bits) == pytest.approx(1, rel=1e-5)


class Stripes(Prior):
    """Grids with constant rows. It has no log_prob."""

    name = "stripes"

    def __init__(self, num_codes: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.num_codes, self.grid = num_codes, grid
        self.calls: list[tuple] = []

    def sample(self, num, conditions=None, temperature=1.0, top_k=None, top_p=None, generator=None):
        label = None if conditions is None else conditions.tensor("label")
        self.calls.append((num, label if label is None else label.tolist(), temperature, top_k, top_p))
        rows = torch.randint(self.num_codes, (num, 1, self.grid[0], 1), generator=generator)
        return rows.expand(num, 1, *self.grid).contiguous()


def test_evaluation_leaves_a_prior_without_a_density_out_and_says_so(model: VQVAE) -> None:
    batches = [Batch(all_signals(SPEC))]
    density = UniformPrior(NUM_CODES, 1, GRID)
    alone = evaluate(model, [density], batches)
    result = evaluate(model, [Stripes(NUM_CODES, GRID), density], batches)
    assert list(result.density) == ["uniform"]
    assert result.density == alone.density
    assert "no density" in result.protocol.pop("prior stripes")
    assert result.without_density == ("stripes",)
    assert result.to_json()["without_density"] == ["stripes"]
    assert "without_density" not in alone.to_json()
    assert result.protocol == alone.protocol
    json.dumps(result.to_json())


def test_a_tokenizer_samples_from_a_prior_without_a_density(trained: Path) -> None:
    tokenizer = smalti.load(trained, "cpu")
    prior = Stripes(tokenizer.autoencoder.num_codes, tokenizer.autoencoder.grid)
    codes = tokenizer.sample_codes(5, prior=prior, seed=3, batch_size=2, temperature=0.5, top_k=4, top_p=0.9)
    assert codes.shape == (5, *tokenizer.code_shape)
    assert prior.calls == [(num, None, 0.5, 4, 0.9) for num in (2, 2, 1)]
    assert (codes == codes[..., :1]).all()
    assert torch.equal(tokenizer.sample_codes(5, prior=prior, seed=3, batch_size=2), codes)
    assert not torch.equal(tokenizer.sample_codes(5, prior=prior, seed=4, batch_size=2), codes)
    images = tokenizer.sample(3, prior=prior, seed=3)
    assert torch.equal(images, tokenizer.decode(tokenizer.sample_codes(3, prior=prior, seed=3), seed=3))
    tokenizer.sample_codes(2, "dog", prior=prior)
    assert prior.calls[-1][1] == [tokenizer.label("dog")] * 2


def test_a_learned_prior_in_memory_is_sampled_like_a_saved_one(trained: Path) -> None:
    tokenizer = smalti.load(trained, "cpu")
    assert tokenizer.learned is not None
    by_name = tokenizer.sample_codes(3, "cat", seed=1)
    assert torch.equal(tokenizer.sample_codes(3, "cat", seed=1, prior=tokenizer.learned), by_name)


def test_a_prior_of_ones_own_has_one_length(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = smalti.load(trained, "cpu")
    monkeypatch.setattr(tokenizer.modality, "is_ragged", True)
    with pytest.raises(InputError, match="received 9"):
        tokenizer.sample_codes(2, prior=Stripes(16, (4, 4)), length=9)
