"""LFQ and BSQ against NumPy: signs, bits, losses and gradients."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from smalti.core.errors import InputError
from smalti.quantizers.bsq import BSQ
from smalti.quantizers.lfq import LFQ

KINDS = pytest.mark.parametrize("kind", [LFQ, BSQ])


def latents_for(num: int, dim: int) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(0))


def by_hand(kind: type, z: np.ndarray, temperature: float) -> tuple[np.ndarray, ...]:
    """The vectors that are quantized, their codes' values, and the softmax over all codes, in float64."""
    bits = z.shape[1]
    scale = 1.0 if kind is LFQ else bits**-0.5
    if kind is BSQ:
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
    codebook = scale * np.array([c[::-1] for c in itertools.product((-1, 1), repeat=bits)])
    scores = -((z[:, None] - codebook) ** 2).sum(2) / temperature
    p = np.exp(scores - scores.max(1, keepdims=True))
    return z, codebook, p / p.sum(1, keepdims=True)


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


@KINDS
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_codes_latents_and_loss_over_all_codes(kind, temperature):
    """The nearest of 2^L codes, and softmax(2 z.c / T) = softmax(-|z - c|^2 / T), since all |c| are equal."""
    quantizer = kind(4, commitment_weight=0.3, temperature=temperature, entropy_anneal_steps=0)
    latents = latents_for(50, 4)
    quantized = quantizer(latents)
    z, codebook, p = by_hand(kind, latents.double().numpy(), temperature)
    codes = ((z[:, None] - codebook) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(quantized.codes[:, 0].numpy(), codes)
    np.testing.assert_allclose(quantized.latents.numpy(), codebook[codes], rtol=1e-6)
    commitment = ((z - codebook[codes]) ** 2).mean()
    certain, even = entropy(p).mean(), entropy(p.mean(0))
    terms = {name: term.item() for name, term in quantized.terms.items()}
    expected = {"commitment": commitment, "code_entropy": certain, "batch_entropy": even}
    assert terms == pytest.approx({**expected, "batch_usage": len(np.unique(codes)) / 16}, rel=1e-5)
    np.testing.assert_allclose(quantized.loss.item(), 0.3 * commitment + 0.1 * (certain - even), rtol=1e-5)


@KINDS
def test_the_gradient_of_the_loss_is_that_over_all_codes(kind):
    """Against autograd in float64 through the softmax over all codes."""
    quantizer = kind(3, commitment_weight=0.3, temperature=0.7, entropy_weight=0.4, entropy_start=1.0)
    latents = latents_for(20, 3).requires_grad_()
    quantizer(latents).loss.backward()
    z = latents.detach().double().requires_grad_()
    u = z if kind is LFQ else z / z.norm(dim=1, keepdim=True)
    codebook = torch.from_numpy(by_hand(kind, z.detach().numpy(), 1.0)[1])
    p = (2 * u @ codebook.t() / 0.7).softmax(1)
    q = codebook[torch.cdist(u.detach(), codebook).argmin(1)]
    mean = p.mean(0)
    entropies = -(p * p.log()).sum(1).mean() + (mean * mean.log()).sum()
    (0.3 * (u - q).square().mean() + 0.4 * entropies).backward()
    torch.testing.assert_close(latents.grad, z.grad.float(), rtol=1e-4, atol=1e-6)


def test_the_gradient_of_latents():
    """Straight through the sign; for BSQ then through the projection to the sphere."""
    weights = torch.randn(20, 3)
    for kind in (LFQ, BSQ):
        latents = latents_for(20, 3).requires_grad_()
        (kind(3)(latents).latents * weights).sum().backward()
        expected = weights
        if kind is BSQ:
            norm = latents.detach().norm(dim=1, keepdim=True)
            u = latents.detach() / norm
            expected = (weights - u * (u * weights).sum(1, keepdim=True)) / norm
        torch.testing.assert_close(latents.grad, expected)


def test_latents_of_zero_have_a_finite_gradient():
    """Also in float16, whose largest number is 65,504."""
    latents = torch.zeros(3, 4, dtype=torch.float16, requires_grad=True)
    quantized = BSQ(4)(latents)
    (quantized.latents.sum() + quantized.loss).backward()
    assert quantized.codes.flatten().tolist() == [0, 0, 0]
    assert latents.grad.isfinite().all()


@KINDS
@pytest.mark.parametrize("bits", [1, 18, 36, 63])
def test_bits_return_in_any_precision(kind, bits):
    """Codes of all bits, from latents of bfloat16 and from their own decoded latents."""
    quantizer = kind(bits).eval()
    codes = torch.randint(2**63 - 1, (64, 1), generator=torch.Generator().manual_seed(0)) >> (63 - bits)
    codes[:2] = torch.tensor([[0], [2**bits - 1]])
    latents = quantizer.decode(codes)
    assert torch.equal(quantizer.encode(latents.bfloat16()), codes)
    assert torch.equal(quantizer.encode(latents.half()), codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = quantizer(latents)
    assert torch.equal(quantized.codes, codes)
    assert torch.equal(quantized.latents, latents)
    assert latents.square().sum(1).tolist() == pytest.approx([bits if kind is LFQ else 1.0] * 64)
    assert quantized.terms["batch_usage"].item() == pytest.approx(len(codes.unique()) / 2.0**bits)
    assert quantized.loss.isfinite()


@KINDS
def test_codebooks_are_quantized_apart(kind):
    latents = latents_for(30, 6)
    both = kind(3, num_codebooks=2)(latents)
    parts = [kind(3)(part) for part in latents.split(3, 1)]
    assert torch.equal(both.codes, torch.cat([part.codes for part in parts], 1))
    assert torch.equal(both.latents, torch.cat([part.latents for part in parts], 1))
    torch.testing.assert_close(both.loss, torch.stack([part.loss for part in parts]).mean())


@KINDS
def test_what_is_not_a_number_has_a_code_and_stays_seen(kind):
    latents = torch.tensor([[torch.nan, 1.0], [torch.inf, -torch.inf], [0.0, 1.0]])
    quantized = kind(2)(latents)
    assert quantized.codes.flatten().tolist() == [2, 1, 2]
    assert quantized.latents.isnan().tolist() == [[True, False], [False, False], [False, False]]
    assert quantized.loss.isnan()


@KINDS
def test_out_of_range(kind):
    with pytest.raises(InputError, match="63 bits"):
        kind(64)
    for settings in ({"bits": 0}, {"temperature": 0.0}, {"group_bits": 19}, {"num_codebooks": 0}):
        with pytest.raises(InputError):
            kind(**settings)


@KINDS
def test_every_code_is_used_where_the_data_ask_for_it(kind):
    """A linear autoencoder of 16 equally frequent clusters, the corners of a rotated cube, from few codes."""
    torch.manual_seed(3)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4).repeat(8, 1)
    rotation = torch.linalg.qr(torch.randn(4, 4)).Q
    data = (corners + 0.1 * torch.randn_like(corners)) @ rotation
    encoder, decoder = nn.Linear(4, 4), nn.Linear(4, 4)
    encoder.bias.data.fill_(1.0)
    quantizer = kind(4)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-2)
    used = []
    for _ in range(100):
        quantized = quantizer(encoder(data))
        used.append(quantized.codes.unique().numel())
        loss = (decoder(quantized.latents) - data).square().mean() + quantized.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert used[0] < 8
    assert used[-1] == 16


BUILD = {LFQ: partial(LFQ, 4, 2), BSQ: partial(BSQ, 4, 2)}


@KINDS
def test_steps_of_the_weight_are_saved(kind):
    quantizer = BUILD[kind](entropy_anneal_steps=4)
    for _ in range(3):
        quantizer(latents_for(5, 8))
    assert quantizer.state_dict()["entropy.steps"].item() == 3
    other = BUILD[kind](entropy_anneal_steps=4)
    other.load_state_dict(quantizer.state_dict())
    latents = latents_for(5, 8)
    assert other(latents).loss == quantizer(latents).loss != BUILD[kind]()(latents).loss
