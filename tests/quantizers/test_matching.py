"""Unit vectors, cosine search, projections and the stage apart, against NumPy."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.quantizers.residual import ResidualVQ, ResidualVQConfig
from smalti.quantizers.vq import VectorQuantizer


def latents_for(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def vq(**settings) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(4, 11, codebook="gradient", commitment_weight=0.5, **settings)


def codes_of(quantizer: VectorQuantizer) -> np.ndarray:
    return quantizer.codebook.codes[0].detach().double().numpy()


class TestUnitVectors:
    def test_codes_latents_and_loss_by_hand(self):
        quantizer, z = vq(normalize="codes"), latents_for(50, 4)
        u, e = unit(z.double().numpy()), unit(codes_of(quantizer))
        codes = (u @ e.T).argmax(1)
        quantized = quantizer(z)
        np.testing.assert_array_equal(quantized.codes[:, 0].numpy(), codes)
        np.testing.assert_allclose(quantized.latents.detach().numpy(), e[codes], atol=1e-6)
        np.testing.assert_allclose(quantized.loss.item(), 1.5 * ((u - e[codes]) ** 2).mean(), rtol=1e-5)

    def test_gradients_by_hand(self):
        """Through v / |v|, whose derivative is (I - u u^T) / |v|, for tokens and codes."""
        quantizer, z = vq(normalize="codes"), latents_for(50, 4).requires_grad_()
        quantizer(z).loss.backward()
        u, e = unit(z.detach().double().numpy()), unit(codes_of(quantizer))
        codes = (u @ e.T).argmax(1)
        error = 2 * (u - e[codes]) / u.size

        def through(vectors: np.ndarray, gradient: np.ndarray) -> np.ndarray:
            v = unit(vectors)
            along = (v * gradient).sum(-1, keepdims=True)
            return (gradient - v * along) / np.linalg.norm(vectors, axis=-1, keepdims=True)

        of_tokens = through(z.detach().double().numpy(), 0.5 * error)
        np.testing.assert_allclose(z.grad.numpy(), of_tokens, rtol=1e-3, atol=1e-7)
        of_codes = np.zeros_like(e)
        np.add.at(of_codes, codes, -error)
        expected = through(codes_of(quantizer), of_codes)
        np.testing.assert_allclose(quantizer.codebook.codes.grad[0].numpy(), expected, rtol=1e-3, atol=1e-7)

    def test_moving_averages_are_spherical_k_means(self):
        """With decay 0, a code is the direction of the sum of its unit tokens."""
        torch.manual_seed(0)
        codebook = {"kind": "ema", "decay": 0.0, "data_init": False, "revive_after": 0.0}
        config = type(vq().config)(num_codes=5, code_dim=3, codebook=codebook, normalize="codes")
        quantizer, z = config.build(), latents_for(200, 3)
        codes = quantizer(z).codes[:, 0].numpy()
        u = unit(z.double().numpy())
        expected = unit(np.stack([u[codes == code].sum(0) for code in range(5)]))
        every = torch.arange(5).view(5, 1)
        np.testing.assert_allclose(quantizer.decode(every).numpy(), expected, atol=1e-4)

    def test_training_uses_all_codes_of_a_source_that_asks_for_them(self):
        """Directions on a circle, with lengths over three orders of magnitude."""
        torch.manual_seed(0)
        quantizer = VectorQuantizer(2, 32, normalize="codes")
        angle, length = 2 * np.pi * torch.rand(1024), 10 ** (3 * torch.rand(1024))
        z = torch.stack([angle.cos(), angle.sin()], 1) * length.unsqueeze(1)
        for _ in range(20):
            quantizer(z)
        quantizer.eval()
        assert len(quantizer.encode(z).unique()) == 32
        # Arcs of equal length have an error of 2 (1 - sin(x) / x) with x = pi / 32, over two channels.
        best = 1 - np.sin(np.pi / 32) / (np.pi / 32)
        assert best < quantizer(z).terms["commitment"] < 1.5 * best

    @pytest.mark.parametrize("normalize", ["codes", "search"])
    def test_a_token_without_a_direction(self, normalize):
        quantizer, z = vq(normalize=normalize), torch.zeros(2, 4, requires_grad=True)
        quantized = quantizer(z)
        (quantized.loss + quantized.latents.sum()).backward()
        assert z.grad.abs().max() < 10
        assert quantizer.codebook.codes.grad.isfinite().all()

    def test_lengths_change_no_code(self):
        for normalize in ("codes", "search"):
            quantizer, z = vq(normalize=normalize), latents_for(50, 4)
            assert torch.equal(quantizer.encode(1000 * z), quantizer.encode(z))


def test_a_cosine_search_leaves_the_codes_their_length():
    quantizer, z = vq(normalize="search"), latents_for(50, 4)
    e = codes_of(quantizer)
    codes = (unit(z.double().numpy()) @ unit(e).T).argmax(1)
    quantized = quantizer(z)
    np.testing.assert_array_equal(quantized.codes[:, 0].numpy(), codes)
    np.testing.assert_allclose(quantized.latents.detach().numpy(), e[codes], atol=1e-6)
    np.testing.assert_allclose(quantized.loss.item(), 1.5 * ((z.numpy() - e[codes]) ** 2).mean(), rtol=1e-5)


def residual_vq(**settings) -> ResidualVQ:
    torch.manual_seed(0)
    defaults = {"dim": 6, "num_codes": 11, "num_quantizers": 3, "code_dim": 2, "codebook": "gradient"}
    return ResidualVQ(**(defaults | settings))


class TestProjections:
    @pytest.mark.parametrize("split_first", [False, True])
    @pytest.mark.parametrize("normalize", ["none", "codes", "search"])
    def test_codes_latents_and_loss_stage_by_stage(self, normalize, split_first):
        quantizer = residual_vq(normalize=normalize, split_first=split_first, commitment_weight=0.5)
        latents = latents_for(3, 6, 5, 2)
        z = latents.movedim(1, -1).reshape(-1, 6).double().numpy()
        residual, total, errors = z, 0, []
        quantized = quantizer(latents)
        codes = quantized.codes.movedim(1, -1).reshape(-1, 3).numpy()
        for stage in range(3):
            down, up = quantizer.down[stage], quantizer.up[stage]
            a, b = down.weight.detach().double().numpy(), up.weight.detach().double().numpy()
            p = residual @ a.T + down.bias.detach().double().numpy()
            e = quantizer.codebooks[stage].codes[0].detach().double().numpy()
            near, far = (p, e) if normalize == "none" else (unit(p), unit(e))
            chosen = ((near[:, None] - far) ** 2).sum(-1).argmin(1)
            np.testing.assert_array_equal(codes[:, stage], chosen)
            if normalize == "codes":
                p, e = near, far
            errors.append(((p - e[chosen]) ** 2).mean())
            out = e[chosen] @ b.T + up.bias.detach().double().numpy()
            residual, total = (z if split_first and stage == 0 else residual - out), total + out
        z_q = quantized.latents.movedim(1, -1).reshape(-1, 6).detach().numpy()
        np.testing.assert_allclose(z_q, total, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(quantized.loss.item(), 1.5 * np.mean(errors), rtol=1e-4)

    def test_the_reconstruction_trains_all_projections(self):
        quantizer = residual_vq()
        quantizer(latents_for(20, 6)).latents.square().mean().backward()
        for projection in (*quantizer.down, *quantizer.up):
            assert projection.weight.grad.any()

    @pytest.mark.parametrize("num", [1, 2, 3])
    def test_an_item_is_projected_as_in_a_batch(self, num):
        quantizer = residual_vq(dim=64, num_quantizers=1).eval()
        latents = latents_for(40, 64, num)
        whole = quantizer(latents).latents
        for item in range(40):
            assert torch.equal(quantizer(latents[[item]]).latents[0], whole[item])

    def test_the_second_stage_does_not_depend_on_a_first_stage_apart(self):
        quantizer, latents = residual_vq(split_first=True), latents_for(20, 6)
        before = quantizer.encode(latents)
        quantizer.codebooks[0].codes.data.neg_()
        after = quantizer.encode(latents)
        assert torch.equal(after[:, 1:], before[:, 1:])
        assert not torch.equal(after[:, 0], before[:, 0])

    def test_no_items_at_all(self):
        quantizer = residual_vq(codebook="frozen")
        assert quantizer(torch.zeros(0, 6, 3)).codes.shape == (0, 3, 3)
        assert quantizer.decode(torch.zeros(0, 3, 5, dtype=torch.int64)).shape == (0, 6, 5)


@pytest.mark.parametrize("wrong", [{"normalize": "codes"}, {"split_first": True}])
def test_settings_that_need_projections(wrong):
    with pytest.raises(InputError, match="code_dim"):
        residual_vq(code_dim=None, **wrong)


@pytest.mark.parametrize("wrong", [{"normalize": "both"}, {"code_dim": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValidationError):
        ResidualVQConfig(**wrong)
