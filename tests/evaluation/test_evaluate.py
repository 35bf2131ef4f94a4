"""One pass over a split gives what its items give one by one."""

import json
import math

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.models import Autoencoder
from smalti.core.priors import DensityPrior
from smalti.core.signals import SignalSpec
from smalti.evaluation.bounds import measure
from smalti.evaluation.evaluate import evaluate
from smalti.evaluation.reconstruction import Reconstruction
from smalti.likelihoods.levels import from_levels
from smalti.models.vae import VAE, VAEConfig
from smalti.models.vimco import VIMCO, VIMCOConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior


@pytest.fixture
def model() -> VQVAE:
    torch.manual_seed(0)
    model = VQVAEConfig.tiny().build(SignalSpec(3, (12, 16)))
    model.loss(Batch(signals(8, seed=5)))
    return model


def signals(num: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return from_levels(torch.randint(256, (num, 3, 12, 16), generator=generator), 256)


def priors(model: Autoencoder) -> list[DensityPrior]:
    sizes = (model.num_codes, model.num_codebooks, model.grid)
    return [UniformPrior(*sizes), UnigramPrior(*sizes)]


def test_one_pass_equals_item_by_item(model):
    x, both = signals(7), priors(model)
    both[1].count(model.encode(x))
    result = evaluate(model.train(), both, (Batch(part) for part in x.split(3)))
    assert not model.training
    assert result.num == 7
    items = [x[[i]] for i in range(7)]
    assert list(result.density) == ["uniform", "unigram"]
    for name in result.density:
        bounds = [-measure(model, Batch(item), both).bounds[name].log_prob for item in items]
        bits = torch.cat(bounds).detach().double() / (3 * 12 * 16 * math.log(2))
        assert result.density[name]["bits_per_dim"] == pytest.approx(bits.mean().item(), rel=1e-5)
        assert result.density[name]["stderr"] == pytest.approx(bits.std().item() / math.sqrt(7), rel=1e-3)
    meter = Reconstruction(model.signal)
    for item in items:
        meter.update(item, model.reconstruct(item))
    assert result.reconstruction == pytest.approx(meter.compute(), rel=1e-5)
    codes = torch.cat([model.encode(item) for item in items])
    counts = torch.stack([torch.bincount(codes[:, g].flatten(), minlength=16) for g in range(2)])
    assert torch.equal(result.counts, counts)
    assert result.codebook["usage"] == pytest.approx((counts > 0).double().mean().item())


def test_the_decoder_runs_once_a_batch(model):
    calls = []
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    evaluate(model, priors(model), (Batch(part) for part in signals(7).split(3)))
    assert len(calls) == 3


def test_uniform_rate_is_the_compression_ratios_bits(model):
    density = evaluate(model, priors(model), [Batch(signals(2))]).density["uniform"]
    assert density["rate"] == pytest.approx(2 * 3 * 4 * math.log2(16) / (3 * 12 * 16), rel=1e-5)
    assert density["nats_per_code"] == pytest.approx(math.log(16), rel=1e-5)
    assert density["bits_per_dim"] == pytest.approx(density["rate"] + density["distortion"])


def test_nothing_learns_and_no_prior_stays_in_training_mode(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    both = priors(model)
    evaluate(model.train(), both, [Batch(signals(4))])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(prior.training for prior in both)


def test_the_result_is_json_and_says_what_it_means(model):
    result = json.loads(json.dumps(evaluate(model, priors(model), [Batch(signals(2))]).to_json()))
    assert result["num"] == 2
    assert set(result["bits_per_dim"]) == {"uniform", "unigram"}
    assert "576 = channels x 12x16" in result["protocol"]["dims"]
    assert {"bits_per_dim", "psnr", "ssim", "usage", "perplexity"} <= set(result["protocol"])


def stochastic(kind: str) -> VAE | VIMCO:
    torch.manual_seed(0)
    spec = SignalSpec(3, (12, 16))
    return VAEConfig.tiny().build(spec) if kind == "vae" else VIMCOConfig.tiny().build(spec)


@pytest.mark.parametrize("kind", ["vae", "vimco"])
def test_draws_of_the_posterior_follow_the_seed(kind):
    model = stochastic(kind)
    both = priors(model) if isinstance(model, Autoencoder) else []
    batches = [Batch(part) for part in signals(7).split(3)]
    first, same, other = (evaluate(model, both, batches, draws=4, seed=seed) for seed in (1, 1, 2))
    names = [prior.name for prior in both] or ["normal"]
    assert list(first.density) == [n for name in names for n in (name, f"{name}, 4 draws")]
    assert first.density == same.density
    for name in names:
        assert all(first.density[row] != other.density[row] for row in (name, f"{name}, 4 draws"))
        plain, weighted = first.density[name], first.density[f"{name}, 4 draws"]
        assert weighted["bits_per_dim"] < plain["bits_per_dim"]
        assert plain["rate"] + plain["distortion"] == pytest.approx(plain["bits_per_dim"])
        assert ("nats_per_code" in plain) == (kind == "vimco")
    assert "4 draws" in first.protocol["bits_per_dim"]


@pytest.mark.parametrize("kind", ["vae", "vimco"])
def test_the_draws_of_a_batch_go_on_where_those_of_the_last_ended(kind):
    model = stochastic(kind)
    both = priors(model) if isinstance(model, Autoencoder) else []
    parts = signals(6).split(2)
    result = evaluate(model, both, [Batch(part) for part in parts], draws=3, seed=5)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        measured = [measure(model, Batch(part), both, 3, generator).bounds for part in parts]
    for name, row in result.density.items():
        nats = -torch.cat([bounds[name].log_prob for bounds in measured]).double().mean().item()
        assert row["bits_per_dim"] == pytest.approx(nats / (3 * 12 * 16 * math.log(2)), rel=1e-6)


def test_a_model_without_codes_has_no_codebook():
    result = evaluate(stochastic("vae"), [], [Batch(signals(3))], draws=1)
    assert result.codebook == {}
    assert result.counts is None
    assert list(result.density) == ["normal"]
    assert not {"usage", "perplexity"} & set(result.protocol)
    assert json.loads(json.dumps(result.to_json()))["codebook"] == {}


def test_the_codes_of_a_stochastic_posterior_are_counted_at_its_mode():
    model = stochastic("vimco")
    x = signals(5)
    result = evaluate(model, [], [Batch(part) for part in x.split(2)])
    codes = model.encode(x)
    counts = torch.stack([torch.bincount(codes[:, g].flatten(), minlength=5) for g in range(2)])
    assert torch.equal(result.counts, counts)
