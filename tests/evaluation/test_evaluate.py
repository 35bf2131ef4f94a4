"""One pass over a split gives what its items give one by one."""

import json
import math

import pytest
import torch

from smalti.evaluation.evaluate import evaluate
from smalti.evaluation.reconstruction import Reconstruction
from smalti.interfaces import Batch, SignalSpec
from smalti.likelihoods import from_levels
from smalti.models.prior import UniformPrior, UnigramPrior
from smalti.models.vqvae import VQVAE, VQVAEConfig


@pytest.fixture
def model() -> VQVAE:
    torch.manual_seed(0)
    model = VQVAE(VQVAEConfig.tiny(), SignalSpec(3, (12, 16)))
    model.loss(Batch(signals(8, seed=5)))
    return model


def signals(num: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return from_levels(torch.randint(256, (num, 3, 12, 16), generator=generator), 256)


def priors(model: VQVAE) -> dict:
    sizes = (model.num_codes, model.num_codebooks, model.grid)
    return {"uniform": UniformPrior(*sizes), "unigram": UnigramPrior(*sizes)}


def test_one_pass_equals_item_by_item(model):
    x, by_name = signals(7), priors(model)
    by_name["unigram"].count(model.encode(x))
    result = evaluate(model.train(), by_name, (Batch(part) for part in x.split(3)))
    assert not model.training
    assert result.num == 7
    items = [x[[i]] for i in range(7)]
    for name, prior in by_name.items():
        bounds = torch.cat([-model.log_prob(item, prior).log_prob for item in items]).detach()
        bits = bounds.double() / (3 * 12 * 16 * math.log(2))
        assert result.density[name]["bits_per_dim"] == pytest.approx(bits.mean().item(), rel=1e-5)
        assert result.density[name]["stderr"] == pytest.approx(bits.std().item() / math.sqrt(7), rel=1e-3)
    meter = Reconstruction()
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
    by_name = priors(model)
    evaluate(model.train(), by_name, [Batch(signals(4))])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(prior.training for prior in by_name.values())


def test_the_result_is_json_and_says_what_it_means(model):
    result = json.loads(json.dumps(evaluate(model, priors(model), [Batch(signals(2))]).to_json()))
    assert result["num"] == 2
    assert set(result["bits_per_dim"]) == {"uniform", "unigram"}
    assert "576 = channels x 12x16" in result["protocol"]["dims"]
    assert {"bits_per_dim", "psnr", "ssim", "usage", "perplexity"} <= set(result["protocol"])
