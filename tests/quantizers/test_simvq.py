"""SimVQ against NumPy, and its use of codes that a gradient codebook never reaches."""

import numpy as np
import torch

from smalti.quantizers.vq import VectorQuantizer


def latents_for(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def simvq() -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(8, 11, 2, commitment_weight=0.5, codebook="simvq")


def test_codes_loss_and_gradient_by_hand():
    """d loss / dW = -2 / n sum over tokens of (their basis vector)^T (z - e)."""
    quantizer, latents = simvq(), latents_for(40, 8)
    z = latents.double().numpy().reshape(40, 2, 4)
    basis = quantizer.codebook.basis.double().numpy()
    weight = quantizer.codebook.weight.detach().double().numpy()
    quantized = quantizer(latents)
    quantized.loss.backward()
    error, gradient = np.empty_like(z), np.zeros_like(weight)
    for g in range(2):
        e = basis[g] @ weight[g]
        codes = ((z[:, g, None] - e) ** 2).sum(-1).argmin(1)
        np.testing.assert_array_equal(quantized.codes[:, g].numpy(), codes)
        error[:, g] = z[:, g] - e[codes]
        gradient[g] = -2 * basis[g][codes].T @ error[:, g] / z.size
        np.testing.assert_allclose(
            quantized.latents.view(40, 2, 4)[:, g].detach().numpy(), e[codes], rtol=1e-5
        )
    np.testing.assert_allclose(quantized.loss.item(), 1.5 * (error**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(quantizer.codebook.weight.grad.numpy(), gradient, rtol=1e-4, atol=1e-7)


def test_the_basis_is_fixed_and_has_vectors_of_unit_length_on_average():
    torch.manual_seed(0)
    codebook = VectorQuantizer(64, 1000, codebook="simvq").codebook
    assert [name for name, _ in codebook.named_parameters()] == ["weight"]
    assert "basis" in codebook.state_dict()
    assert abs(codebook.basis.square().sum(2).mean().item() - 1) < 0.02


def use_after_training(kind: str) -> float:
    """Share of 256 codes in use for latents of a much larger scale than the initial codes."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(4, 256, codebook=kind)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.1)
    for _ in range(100):
        quantizer(10 * torch.randn(512, 4)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return len(quantizer.encode(10 * torch.randn(8192, 4)).unique()) / 256


def test_it_uses_codes_that_a_gradient_codebook_never_reaches():
    assert use_after_training("gradient") < 0.5
    assert use_after_training("simvq") > 0.95
