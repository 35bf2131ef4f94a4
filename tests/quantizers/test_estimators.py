"""Gradient estimators against closed forms in NumPy."""

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError, UnknownKind
from smalti.quantizers.estimators.base import ESTIMATORS
from smalti.quantizers.estimators.diveq import DiVeQ
from smalti.quantizers.estimators.nsvq import NSVQ
from smalti.quantizers.estimators.rotation import Rotation
from smalti.quantizers.residual import ResidualVQ
from smalti.quantizers.vq import VectorQuantizer

TRAIN_CODES = pytest.mark.parametrize("kind", ["diveq", "nsvq"])


def pair(num: int = 6, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and codes `(1, N, D)`, leaves with a gradient."""
    generator = torch.Generator().manual_seed(0)
    z, e = torch.randn(2, 1, num, dim, generator=generator)
    return z.requires_grad_(), (0.5 * e).requires_grad_()


def jacobian(estimator, z: torch.Tensor, e: torch.Tensor) -> np.ndarray:
    """Derivatives `(D, D)` of the latents of one token by the token, row by row."""
    rows = []
    for axis in range(z.shape[2]):
        torch.manual_seed(0)
        rows.append(torch.autograd.grad(estimator(z, e, True)[0, 0, axis], z)[0][0, 0])
    return torch.stack(rows).double().numpy()


def test_straight_through_is_the_identity():
    z, e = pair(1)
    assert np.array_equal(jacobian(ESTIMATORS.get("straight_through")().build(), z, e), np.eye(5))


class TestRotation:
    @pytest.mark.parametrize("dim", [2, 3, 8])
    def test_its_matrix_is_a_scaled_rotation_from_token_to_code(self, dim):
        z, e = pair(1, dim)
        matrix = jacobian(Rotation(), z, e)
        token, code = z[0, 0].detach().double().numpy(), e[0, 0].detach().double().numpy()
        scale = np.linalg.norm(code) / np.linalg.norm(token)
        rotation = matrix / scale
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(dim), atol=1e-5)
        assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(matrix @ token, code, atol=1e-5)
        # The plane of both vectors turns; what is orthogonal to it stays.
        basis = np.linalg.svd(np.stack([token, code]))[2][2:]
        np.testing.assert_allclose(rotation @ basis.T, basis.T, atol=1e-5)

    def test_the_latents_are_the_codes_to_the_bit(self):
        z, e = pair(200)
        assert torch.equal(Rotation()(z, e, True), e)

    @pytest.mark.parametrize("code", [(-2.0, -4.0), (0.0, 0.0), (-2.0, -4.0 + 1e-6)])
    def test_where_it_is_undefined_the_gradient_passes_straight_through(self, code):
        z = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
        assert np.array_equal(jacobian(Rotation(), z, torch.tensor([[code]])), np.eye(2))

    def test_a_token_of_zeros_has_a_finite_gradient(self):
        z = torch.zeros(1, 1, 3, requires_grad=True)
        assert np.array_equal(jacobian(Rotation(), z, torch.ones(1, 1, 3)), np.eye(3))

    def test_the_code_itself_has_the_identity(self):
        z, _ = pair(1)
        np.testing.assert_allclose(jacobian(Rotation(), z, z.detach().clone()), np.eye(5), atol=1e-6)

    def test_autocast_does_not_round_it(self):
        z, e = pair()
        gradient = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        (expected,) = torch.autograd.grad(Rotation()(z, e, True), z, gradient)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (rotated,) = torch.autograd.grad(Rotation()(z, e, True), z, gradient)
        assert torch.equal(rotated, expected)


def noise_for(z: torch.Tensor) -> np.ndarray:
    """The standard normal numbers that an estimator draws for one codebook after `manual_seed(0)`."""
    torch.manual_seed(0)
    return torch.randn(1, z.shape[1], 1, z.shape[2])[0, :, 0].double().numpy()


class TestDirections:
    """DiVeQ and NSVQ: z + |e - z| u with a constant unit vector u."""

    def directions(self, estimator, z: torch.Tensor, e: torch.Tensor) -> np.ndarray:
        noise = noise_for(z)
        if isinstance(estimator, DiVeQ):
            noise = (e - z)[0].detach().double().numpy() + estimator.sigma * noise
        return noise / np.linalg.norm(noise, axis=1, keepdims=True)

    @pytest.mark.parametrize("estimator", [DiVeQ(), DiVeQ(0.5), NSVQ()], ids=["diveq", "noisy", "nsvq"])
    def test_latents_and_gradients_by_hand(self, estimator):
        z, e = pair()
        u = self.directions(estimator, z, e)
        token, code = z[0].detach().double().numpy(), e[0].detach().double().numpy()
        length = np.linalg.norm(code - token, axis=1, keepdims=True)
        torch.manual_seed(0)
        latents = estimator(z, e, True)
        np.testing.assert_allclose(latents[0].detach().numpy(), token + length * u, rtol=1e-5, atol=1e-5)
        gradient = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        latents.backward(gradient)
        g = gradient[0].double().numpy()
        # d|e - z| / de = (e - z) / |e - z| = -d|e - z| / dz
        of_code = (g * u).sum(1, keepdims=True) * (code - token) / length
        np.testing.assert_allclose(e.grad[0].numpy(), of_code, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(z.grad[0].numpy(), g - of_code, rtol=1e-4, atol=1e-5)

    def test_the_latents_of_diveq_are_the_codes_up_to_its_noise(self):
        z, e = pair(200)
        assert (DiVeQ(1e-3)(z, e, True) - e).abs().max() < 6e-3
        torch.testing.assert_close(DiVeQ(0.0)(z, e, True), e)

    @TRAIN_CODES
    def test_a_token_on_its_code_has_a_finite_gradient(self, kind):
        z, _ = pair()
        e = z.detach().clone().requires_grad_()
        ESTIMATORS.get(kind)().build()(z, e, True).sum().backward()
        assert z.grad.isfinite().all()
        assert e.grad.isfinite().all()

    @TRAIN_CODES
    def test_codes_learn_by_the_latents_gradient_alone(self, kind):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(8, 11, 2, codebook="gradient", gradient=kind)
        quantized = quantizer(torch.randn(3, 8, 4).requires_grad_())
        assert quantized.loss == 0
        assert quantized.terms["commitment"] > 0
        quantized.latents.square().sum().backward()
        used = torch.zeros(2, 11).scatter_(1, quantized.codes.transpose(0, 1).flatten(1), 1.0)
        assert torch.equal(quantizer.codebook.codes.grad.abs().sum(2) > 0, used > 0)

    @TRAIN_CODES
    def test_every_stage_gets_the_gradient_of_its_codes(self, kind):
        torch.manual_seed(0)
        quantizer = ResidualVQ(4, 8, 3, codebook="gradient", gradient=kind)
        quantized = quantizer(torch.randn(30, 4))
        assert quantized.loss == 0
        quantized.latents.square().sum().backward()
        totals = torch.stack([codebook.codes.grad[0].sum(0) for codebook in quantizer.codebooks])
        torch.testing.assert_close(totals, totals[:1].expand(3, -1))
        assert totals.any()


@pytest.mark.parametrize("kind", ["rotation", "diveq", "nsvq"])
def test_training_moves_codes_to_the_data(kind):
    """Reconstruction error of four clusters with four codes, from codes that are all too far out."""
    torch.manual_seed(0)
    centres = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    x = (centres + 0.05 * torch.randn(64, 4, 2)).flatten(0, 1)
    quantizer = VectorQuantizer(2, 4, codebook="gradient", gradient=kind)
    quantizer.codebook.codes.data = 2 * centres.unsqueeze(0)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    for _ in range(80):
        quantized = quantizer(x)
        ((quantized.latents - x).square().mean() + quantized.loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    quantizer.eval()
    assert len(quantizer.encode(x).unique()) == 4
    assert (quantizer(x).latents - x).square().mean() < 0.01


@TRAIN_CODES
@pytest.mark.parametrize("codebook", ["ema", "frozen"])
def test_codes_without_a_gradient_are_refused(kind, codebook):
    for build in (VectorQuantizer, ResidualVQ):
        with pytest.raises(InputError, match=codebook):
            build(codebook=codebook, gradient=kind)


def test_an_unknown_kind():
    with pytest.raises(UnknownKind, match="did you mean rotation"):
        VectorQuantizer(gradient="rotations")
