"""IBQ against its formula, written out with whole arrays in float64."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from smalti.quantizers import soft_indices
from smalti.quantizers.ibq import IBQ, IBQConfig
from smalti.quantizers.soft_indices import largest_products
from tests.memory import LargestTensor


@pytest.fixture
def small_chunks(monkeypatch):
    """Three rows of 11 codes at a time."""
    monkeypatch.setitem(soft_indices.CHUNK_BYTES, "cpu", 3 * 11 * 4)


def latents_for(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def ibq(**settings) -> IBQ:
    torch.manual_seed(0)
    return IBQ(**({"dim": 4, "num_codes": 11} | settings))


def written_out(quantizer: IBQ, z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices, latents and loss of tokens `(N, D)`, by autograd through the formula."""
    config = quantizer.config
    logits = z @ codes.t()
    p = logits.softmax(1)
    hard = torch.nn.functional.one_hot(logits.argmax(1), len(codes)).to(p)
    z_q, e = (hard - p.detach() + p) @ codes, hard @ codes
    q = (logits / config.entropy_temperature).softmax(1)
    mean = q.mean(0)
    entropy = -torch.special.xlogy(q, q).sum(1).mean() + torch.special.xlogy(mean, mean).sum()
    loss = (z_q - z).square().mean() + (e - z.detach()).square().mean()
    loss = loss + config.commitment_weight * (z - e.detach()).square().mean()
    return logits.argmax(1), z_q, loss + config.entropy_weight * entropy


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_codes_latents_loss_and_gradients(temperature, small_chunks):
    quantizer = ibq(entropy_weight=0.3, entropy_temperature=temperature)
    z = latents_for(20, 4).requires_grad_()
    quantized = quantizer(z)
    weight = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    ((quantized.latents * weight).sum() + 3 * quantized.loss).backward()
    precise = z.detach().double().requires_grad_()
    codes = quantizer.codes.detach().double().requires_grad_()
    indices, latents, loss = written_out(quantizer, precise, codes)
    ((latents * weight).sum() + 3 * loss).backward()
    assert torch.equal(quantized.codes[:, 0], indices)
    np.testing.assert_allclose(quantized.latents.detach(), latents.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quantized.loss.item(), loss.item(), rtol=1e-5)
    np.testing.assert_allclose(z.grad, precise.grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(quantizer.codes.grad, codes.grad, rtol=1e-4, atol=1e-5)


def test_no_array_of_tokens_times_codes_is_made_at_once(monkeypatch):
    """In the operations themselves, which a dispatch mode does not look into."""
    budget, (num, num_codes) = 16 * 512 * 4, (600, 512)
    monkeypatch.setitem(soft_indices.CHUNK_BYTES, "cpu", budget)
    z, codes = latents_for(num, 4), latents_for(num_codes, 4)
    scalar = torch.ones(())
    with LargestTensor() as largest:
        soft_indices._largest_products._init_fn(z, codes)
        _, indices, _, _, mean, log_sums = soft_indices._select._init_fn(z, codes, 0.5, True)
        soft_indices._select_backward._init_fn(
            z, scalar, scalar, z, codes, indices, mean, log_sums, 0.5, True
        )
    assert largest.nbytes == budget


def test_the_entropies_by_hand():
    """Two tokens on opposite codes: each is certain of its code, and both codes are equally frequent."""
    quantizer = ibq(dim=1, num_codes=2)
    quantizer.codes.data = torch.tensor([[1.0], [-1.0]])
    terms = quantizer(torch.tensor([[1.0], [-1.0]])).terms
    assert terms["sample_entropy"].item() == pytest.approx(0, abs=1e-6)
    assert terms["batch_entropy"].item() == pytest.approx(np.log(2), rel=1e-5)


def test_without_the_entropy_loss():
    quantizer, z = ibq(entropy_weight=0.0), latents_for(20, 4)
    quantized = quantizer(z)
    assert "sample_entropy" not in quantized.terms
    expected = written_out(quantizer, z.double(), quantizer.codes.double())[2]
    np.testing.assert_allclose(quantized.loss.item(), expected.item(), rtol=1e-5)


def test_every_code_has_a_gradient_and_not_only_those_in_use():
    quantizer = ibq(num_codes=64)
    quantized = quantizer(latents_for(3, 4))
    quantized.latents.sum().backward()
    assert (quantizer.codes.grad.abs().sum(1) > 0).all()


class TestLargestProducts:
    def test_it_equals_a_float64_search(self, small_chunks):
        """Also for pairs of codes that float32 cannot tell apart by their products."""
        generator = torch.Generator().manual_seed(0)
        tokens, codes = torch.randn(500, 6, generator=generator), torch.randn(20, 6, generator=generator)
        codes = torch.cat([codes, codes * (1 + 1e-7), codes])
        expected = (tokens.double() @ codes.double().t()).argmax(1)
        found = largest_products(tokens, codes)
        values = tokens.double() @ codes.double().t()
        best = values.amax(1)
        chosen = values.gather(1, found.unsqueeze(1)).squeeze(1)
        np.testing.assert_allclose(chosen, best, rtol=1e-13)
        assert (found <= expected).all(), "of equal products the lowest index wins"

    def test_a_token_that_is_not_finite_gets_index_0(self):
        tokens = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [1.0, 1.0]])
        assert largest_products(tokens, torch.tensor([[-1.0, 0.0], [1.0, 0.0]])).tolist() == [0, 0, 1]


def test_a_latent_that_is_not_a_number_is_seen_in_the_loss():
    z = latents_for(20, 4)
    z[3, 2] = torch.nan
    assert ibq()(z).loss.isnan()


def test_the_codes_begin_with_the_length_of_normal_vectors():
    """Of length 1, as other codebooks, 256 codes collapsed on correlated Gaussian vectors."""
    codes = ibq(dim=64, num_codes=512).codes
    assert codes.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_training_uses_the_codes_of_a_source_that_asks_for_them(weight):
    """16 clusters and 16 codes, which start close together; a pair or two may stay merged."""
    torch.manual_seed(0)
    centres = torch.cat([torch.eye(8), -torch.eye(8)])
    quantizer = IBQ(8, 16, entropy_weight=weight)
    quantizer.codes.data *= 0.1
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    for _ in range(150):
        x = (centres + 0.05 * torch.randn(8, 16, 8)).flatten(0, 1)
        quantized = quantizer(x)
        ((quantized.latents - x).square().mean() + quantized.loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert len(quantizer.encode(centres).unique()) >= 14
    assert (quantizer(centres).latents - centres).square().mean() < 0.05


@pytest.mark.parametrize("wrong", [{"num_codes": 1}, {"entropy_temperature": 0.0}, {"entropy_weight": -1.0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValidationError):
        IBQConfig(**wrong)
