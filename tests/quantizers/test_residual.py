"""Residual vector quantization against NumPy, stage by stage, and its dropout."""

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.quantizers.residual import ResidualVQ
from smalti.quantizers.vq import VectorQuantizer
from tests.nn.test_collectives import on_ranks

KINDS = pytest.mark.parametrize("codebook", ["gradient", "ema"])


def residual_vq(**settings) -> ResidualVQ:
    torch.manual_seed(0)
    return ResidualVQ(**({"dim": 4, "num_codes": 11, "num_quantizers": 3} | settings))


def latents_for(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def by_hand(quantizer: ResidualVQ, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes `(N, G)`, the code of each stage `(G, N, D)` and what it leaves `(G, N, D)`, in float64."""
    codes, chosen, left = [], [], []
    residual = tokens.astype(np.float64)
    for codebook in quantizer.codebooks:
        e = codebook.codes[0].detach().double().numpy()
        codes.append(((residual[:, None] - e) ** 2).sum(-1).argmin(1))
        chosen.append(e[codes[-1]])
        residual = residual - chosen[-1]
        left.append(residual)
    return np.stack(codes, 1), np.stack(chosen), np.stack(left)


@KINDS
def test_codes_latents_and_loss_stage_by_stage(codebook):
    quantizer = residual_vq(codebook=codebook, commitment_weight=0.5)
    latents = latents_for(3, 4, 5, 2)
    quantizer(latents)
    quantizer.eval()
    codes, chosen, left = by_hand(quantizer, latents.movedim(1, -1).reshape(-1, 4).numpy())
    quantized = quantizer(latents)
    np.testing.assert_array_equal(quantized.codes.movedim(1, -1).reshape(-1, 3).numpy(), codes)
    z_q = quantized.latents.movedim(1, -1).reshape(-1, 4)
    np.testing.assert_allclose(z_q.detach().numpy(), chosen.sum(0), rtol=1e-5, atol=1e-6)
    squared_error = (left**2).mean()
    weight = 0.5 + (codebook == "gradient")
    np.testing.assert_allclose(quantized.loss.item(), weight * squared_error, rtol=1e-5)
    np.testing.assert_allclose(quantized.terms["commitment"].item(), squared_error, rtol=1e-5)


def test_gradients_by_hand():
    """d loss / d z_e = 2 beta (sum of what stages leave) / (n G); each code has that of its own tokens."""
    quantizer = residual_vq(codebook="gradient", commitment_weight=0.5)
    latents = latents_for(20, 4).requires_grad_()
    codes, _, left = by_hand(quantizer, latents.detach().numpy())
    quantizer(latents).loss.backward()
    size = left.size
    np.testing.assert_allclose(latents.grad.numpy(), 2 * 0.5 * left.sum(0) / size, rtol=1e-4, atol=1e-7)
    for stage, codebook in enumerate(quantizer.codebooks):
        expected = np.zeros((11, 4))
        np.add.at(expected, codes[:, stage], -2 * left[stage] / size)
        np.testing.assert_allclose(codebook.codes.grad[0].numpy(), expected, rtol=1e-4, atol=1e-7)


@KINDS
def test_one_stage_is_plain_vector_quantization(codebook):
    one, plain = residual_vq(num_quantizers=1, codebook=codebook), VectorQuantizer(4, 11, codebook=codebook)
    plain.codebook.load_state_dict(one.codebooks[0].state_dict())
    for at in range(3):
        latents = latents_for(3, 4, 5 + at)
        quantized, expected = one(latents), plain(latents)
        assert torch.equal(quantized.codes, expected.codes)
        assert torch.equal(quantized.latents, expected.latents)
        assert quantized.loss == expected.loss


def test_every_stage_of_the_ema_codebook_learns_what_is_left():
    quantizer = residual_vq(num_codes=32)
    latents = 5 + 2 * latents_for(400, 4)
    for _ in range(20):
        quantizer(latents)
    _, _, left = by_hand(quantizer, latents.numpy())
    errors = (left**2).mean((1, 2))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def partial_sums(quantizer: ResidualVQ, codes: torch.Tensor) -> torch.Tensor:
    """Latents of the first 1, 2, ... stages, `(G, N, D)`."""
    chosen = [book.codes[0].detach()[codes[:, stage]] for stage, book in enumerate(quantizer.codebooks)]
    return torch.stack(chosen).cumsum(0)


class TestDropout:
    def test_a_share_of_the_items_has_the_first_n_stages_n_uniform(self):
        quantizer = residual_vq(quantizer_dropout=0.6, codebook="frozen")
        latents = latents_for(3000, 4)
        quantized = quantizer(latents)
        assert torch.equal(quantized.codes, quantizer.encode(latents)), "codes are those of all stages"
        sums = partial_sums(quantizer, quantized.codes)
        distance = (sums - quantized.latents).abs().amax(2)
        stages, counts = distance.argmin(0).unique(return_counts=True)
        assert distance.amin(0).max() < 1e-6
        assert stages.tolist() == [0, 1, 2]
        np.testing.assert_allclose(counts.numpy() / 3000, [0.2, 0.2, 0.6], atol=0.04)

    def test_all_positions_of_an_item_have_the_same_stages(self):
        quantizer = residual_vq(quantizer_dropout=1.0, codebook="frozen")
        latents = latents_for(40, 4, 3, 2)
        quantized = quantizer(latents)
        codes = quantized.codes.movedim(1, -1).reshape(-1, 3)
        z_q = quantized.latents.movedim(1, -1).reshape(-1, 4)
        stages = (partial_sums(quantizer, codes) - z_q).abs().amax(2).argmin(0).view(40, 6)
        assert (stages == stages[:, :1]).all()
        assert len(stages.unique()) == 3

    def test_not_in_evaluation(self):
        quantizer = residual_vq(quantizer_dropout=1.0).eval()
        quantized = quantizer(latents_for(40, 4))
        assert torch.equal(quantized.latents, quantizer.decode(quantized.codes))

    def test_learning_is_that_of_all_stages(self):
        one, other = residual_vq(quantizer_dropout=1.0), residual_vq()
        for _ in range(3):
            dropped, whole = one(latents_for(50, 4)), other(latents_for(50, 4))
        assert torch.equal(dropped.loss, whole.loss)
        assert not torch.equal(dropped.latents, whole.latents)
        for name, value in other.state_dict().items():
            assert torch.equal(one.state_dict()[name], value), name

    def test_two_ranks_draw_what_one_process_draws(self):
        shares = on_ranks(dropped_rank, 2)
        torch.manual_seed(3)
        whole = residual_vq_of_ranks()(latents_for(16, 4, 3)).latents
        torch.testing.assert_close(torch.cat(shares), whole)


def residual_vq_of_ranks() -> ResidualVQ:
    quantizer = residual_vq(quantizer_dropout=0.8)
    torch.manual_seed(3)
    return quantizer


def dropped_rank(rank: int) -> torch.Tensor:
    return residual_vq_of_ranks()(latents_for(16, 4, 3)[8 * rank : 8 * rank + 8]).latents


def test_no_items_at_all():
    quantizer = residual_vq(quantizer_dropout=0.5, codebook="frozen")
    assert quantizer(torch.zeros(0, 4, 3)).codes.shape == (0, 3, 3)
    assert quantizer.decode(torch.zeros(0, 3, 5, dtype=torch.int64)).shape == (0, 4, 5)


@pytest.mark.parametrize("wrong", [{"num_quantizers": 0}, {"quantizer_dropout": 1.5}, {"num_codes": 1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(InputError):
        residual_vq(**wrong)


def test_an_unknown_codebook():
    with pytest.raises(InputError, match="did you mean gradient"):
        residual_vq(codebook="gradiant")


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_its_distortion_on_a_gaussian_is_within_a_factor_of_the_shannon_bound(stages):
    """D(R) = 2^(-2R) of a unit Gaussian, R = stages * log2(K) / dim bits per dimension; 2.5 a stage."""
    torch.manual_seed(0)
    quantizer = ResidualVQ(dim=2, num_codes=16, num_quantizers=stages)
    for _ in range(30):
        quantizer(torch.randn(1024, 2))
    quantizer.eval()
    held_out = torch.randn(8192, 2)
    distortion = (quantizer(held_out).latents - held_out).square().mean().item()
    bound = 2.0 ** (-2 * stages * 4 / 2)
    assert bound < distortion < 2.5**stages * bound
