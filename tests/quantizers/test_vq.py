"""The quantizer: its loss and gradients against NumPy, codes and latents against each other."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.codebooks.gradient import GradientCodebookConfig
from smalti.quantizers.vq import VectorQuantizer, VectorQuantizerConfig

GRADIENT, EMA = GradientCodebookConfig(), EMACodebookConfig()
KINDS = pytest.mark.parametrize("codebook", [GRADIENT, EMA], ids=lambda config: config.kind)
CODEBOOKS = pytest.mark.parametrize("num_codebooks", [1, 3])
GRIDS = pytest.mark.parametrize("grid", [(7,), (3, 5), (2, 3, 4)], ids=len)


def quantizer(num_codebooks: int = 1, codebook=GRADIENT, **settings) -> VectorQuantizer:
    torch.manual_seed(0)
    sizes = {"num_codes": 11, "code_dim": 4} | settings
    return VectorQuantizerConfig(num_codebooks=num_codebooks, codebook=codebook, **sizes).build()


def latents_for(quantizer: VectorQuantizer, *grid: int, batch_size: int = 3) -> torch.Tensor:
    return torch.randn(batch_size, quantizer.dim, *grid, generator=torch.Generator().manual_seed(1))


def chosen_by_hand(quantizer: VectorQuantizer, latents: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes `(B, G, *grid)` and latents `(B, D, *grid)` by loops over every position, in float64."""
    e, z = quantizer.codebook.codes.detach().double().numpy(), latents.detach().double().numpy()
    dim = e.shape[2]
    codes = np.empty((z.shape[0], len(e), *z.shape[2:]), np.int64)
    z_q = np.empty_like(z)
    for b, g, *place in np.ndindex(codes.shape):
        part = (b, slice(g * dim, (g + 1) * dim), *place)
        codes[b, g, *place] = ((z[part] - e[g]) ** 2).sum(1).argmin()
        z_q[part] = e[g, codes[b, g, *place]]
    return codes, z_q


@GRIDS
@CODEBOOKS
@KINDS
def test_codes_and_latents_are_the_nearest(codebook, num_codebooks, grid):
    layer = quantizer(num_codebooks, codebook).eval()
    latents = latents_for(layer, *grid)
    codes, z_q = chosen_by_hand(layer, latents)
    quantized = layer(latents)
    np.testing.assert_array_equal(quantized.codes.numpy(), codes)
    np.testing.assert_array_equal(quantized.latents.detach().numpy(), z_q.astype(np.float32))


@GRIDS
@CODEBOOKS
@KINDS
def test_the_decoded_index_is_the_quantizers_own_output(codebook, num_codebooks, grid):
    layer = quantizer(num_codebooks, codebook)
    latents = 100 * latents_for(layer, *grid)
    layer(latents)
    layer.eval()
    quantized = layer(latents)
    assert torch.equal(layer.decode(quantized.codes), quantized.latents)
    assert torch.equal(layer.encode(latents), quantized.codes)
    assert torch.equal(layer.encode(quantized.latents), quantized.codes)


def test_gradient_training_output_is_exactly_the_codes():
    layer = quantizer(2)
    quantized = layer(1e4 * latents_for(layer, 4, 4))
    assert torch.equal(quantized.latents, layer.decode(quantized.codes))


@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
@CODEBOOKS
def test_gradient_loss_and_gradients_by_hand(num_codebooks, beta):
    """d loss / d z_e = 2 beta (z_e - e) / n; d loss / d e_k = -2 / n sum over its tokens of (z_e - e_k)."""
    layer = quantizer(num_codebooks, commitment_weight=beta)
    latents = latents_for(layer, 3, 5).requires_grad_()
    quantized = layer(latents)
    quantized.loss.backward()
    codes, z_q = chosen_by_hand(layer, latents)
    z = latents.detach().double().numpy()
    squared_error = ((z - z_q) ** 2).mean()
    np.testing.assert_allclose(quantized.loss.item(), (1 + beta) * squared_error, rtol=1e-5)
    assert set(quantized.terms) == {"codebook", "commitment", "batch_usage"}
    for name in ("codebook", "commitment"):
        np.testing.assert_allclose(quantized.terms[name].item(), squared_error, rtol=1e-5)
    np.testing.assert_allclose(latents.grad.numpy(), 2 * beta * (z - z_q) / z.size, rtol=1e-4, atol=1e-8)
    expected = np.zeros(layer.codebook.codes.shape)
    dim = expected.shape[2]
    for b, g, *place in np.ndindex(codes.shape):
        part = (b, slice(g * dim, (g + 1) * dim), *place)
        expected[g, codes[b, g, *place]] -= 2 * (z[part] - z_q[part]) / z.size
    np.testing.assert_allclose(layer.codebook.codes.grad.numpy(), expected, rtol=1e-4, atol=1e-7)


def test_ema_loss_is_the_commitment_alone():
    layer = quantizer(2, EMA, commitment_weight=0.5)
    layer(latents_for(layer, 3, 3))
    latents = latents_for(layer, 3, 3)
    _, z_q = chosen_by_hand(layer, latents)
    quantized = layer(latents)
    np.testing.assert_allclose(quantized.loss.item(), 0.5 * ((latents.numpy() - z_q) ** 2).mean(), rtol=1e-5)
    assert set(quantized.terms) == {"commitment", "batch_usage"}
    assert not list(layer.parameters())


@KINDS
def test_the_reconstructions_gradient_passes_straight_through_and_never_reaches_the_codes(codebook):
    layer = quantizer(2, codebook)
    latents = latents_for(layer, 3, 5).requires_grad_()
    gradient = torch.randn(latents.shape)
    layer(latents).latents.backward(gradient)
    assert torch.equal(latents.grad, gradient)
    assert layer.codebook.codes.grad is None


def test_terms_are_detached_and_usage_is_of_the_batch():
    layer = quantizer(2)
    quantized = layer(latents_for(layer, 2, 2, batch_size=1).requires_grad_())
    assert not any(term.requires_grad for term in quantized.terms.values())
    used = sum(len(of_codebook.unique()) for of_codebook in quantized.codes[0])
    assert quantized.terms["batch_usage"].item() == pytest.approx(used / 22)


@KINDS
def test_evaluation_changes_no_state(codebook):
    layer = quantizer(2, codebook)
    layer(latents_for(layer, 4, 4))
    layer.eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    for _ in range(12):
        layer(10 + latents_for(layer, 4, 4))
        layer.encode(10 + latents_for(layer, 4, 4))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_encode_changes_no_state_in_training_mode():
    layer = quantizer(2, EMA)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.encode(latents_for(layer, 4, 4))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_a_loaded_codebook_is_not_initialised_again():
    trained = quantizer(2, EMA)
    trained(latents_for(trained, 4, 4))
    loaded = quantizer(2, EMA)
    loaded.load_state_dict(trained.state_dict())
    far = 100 + latents_for(trained, 4, 4)
    one, other = trained(far), loaded(far)
    assert torch.equal(one.codes, other.codes)
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@KINDS
@pytest.mark.parametrize("offset", [0, 10, 100])
def test_autocast_on_the_cpu_gives_the_same_in_float32(codebook, offset):
    layer = quantizer(2, codebook, num_codes=64).eval()
    layer.codebook.codes.data += offset
    latents = offset + latents_for(layer, 8, 8)
    expected = layer(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized, codes = layer(latents), layer.encode(latents)
    assert torch.equal(quantized.codes, expected.codes)
    assert torch.equal(codes, expected.codes)
    assert torch.equal(quantized.latents, expected.latents)
    assert torch.equal(quantized.loss, expected.loss)


def test_latents_in_bfloat16_are_quantized_in_float32():
    layer = quantizer(2)
    latents = latents_for(layer, 4, 4).bfloat16()
    quantized = layer(latents)
    assert quantized.latents.dtype == torch.float32
    assert torch.equal(quantized.codes, layer.encode(latents.float()))


@KINDS
def test_one_item_and_one_position(codebook):
    layer = quantizer(2, codebook)
    for _ in range(12):
        quantized = layer(latents_for(layer, 1, 1, batch_size=1))
    assert quantized.codes.shape == (1, 2, 1, 1)
    assert quantized.loss.isfinite()
    assert all(value.isfinite().all() for value in layer.state_dict().values())


def test_a_latent_that_is_not_a_number_poisons_no_code():
    layer = quantizer(1, EMA)
    for at in range(12):
        latents = latents_for(layer, 5, 5)
        latents[0, at % 4, 2, 2] = torch.nan
        layer(latents)
    assert all(value.isfinite().all() for value in layer.state_dict().values())
    assert len(layer.encode(latents_for(layer, 5, 5)).unique()) > 5


@pytest.mark.parametrize("wrong", [-1, 11])
def test_codes_out_of_range(wrong):
    layer = quantizer(2)
    codes = torch.zeros(1, 2, 3, 3, dtype=torch.int64)
    codes[0, 1, 2, 2] = wrong
    with pytest.raises(InputError, match=rf"expected codes from 0 to 10, received .*{wrong}"):
        layer.decode(codes)


def test_another_number_of_codebooks():
    layer = quantizer(2)
    with pytest.raises(InputError, match="expected codes with 2 codebooks, received codes of shape"):
        layer.decode(torch.zeros(1, 3, 3, 3, dtype=torch.int64))


def test_no_codes_at_all():
    layer = quantizer(2)
    assert layer.decode(torch.zeros(0, 2, 3, 3, dtype=torch.int64)).shape == (0, 8, 3, 3)


@pytest.mark.parametrize(
    "wrong",
    [{"num_codes": 1}, {"num_codebooks": 0}, {"commitment_weight": -1.0}, {"codebook": {"kind": "other"}}],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValidationError):
        VectorQuantizerConfig(**wrong)


def test_ema_training_brings_the_codes_to_the_data():
    layer = quantizer(1, EMA, num_codes=32)
    latents = 5 + 2 * latents_for(layer, 8, 8, batch_size=8)
    for _ in range(30):
        quantized = layer(latents)
    assert quantized.terms["commitment"] < 0.35 * latents.var()
    assert quantized.terms["batch_usage"] == 1.0
