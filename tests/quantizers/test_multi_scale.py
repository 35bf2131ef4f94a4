"""Multi-scale residual quantization against NumPy, scale by scale."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.models.hierarchy import HierarchyConfig
from smalti.models.vqvae import VQVAEConfig
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.multi_scale import SCALES, MultiScaleVQ, MultiScaleVQConfig
from smalti.quantizers.vq import VectorQuantizer


def multi_scale(**settings) -> MultiScaleVQ:
    torch.manual_seed(0)
    return MultiScaleVQ(**({"dim": 3, "num_codes": 11, "scales": (1, 2, 3, 5)} | settings))


def latents_for(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def area(side: int, small: int) -> np.ndarray:
    """Matrix `(small, side)` of averages over intervals from floor(i side / small) to ceil((i + 1) ...)."""
    matrix = np.zeros((small, side))
    for i in range(small):
        begin, end = i * side // small, -(-(i + 1) * side // small)
        matrix[i, begin:end] = 1 / (end - begin)
    return matrix


def cubic(small: int, side: int) -> np.ndarray:
    """Matrix `(side, small)` of cubic convolution (Keys 1981) with a = -3/4 and repeated edges."""
    a, matrix = -0.75, np.zeros((side, small))

    def weight(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    for i in range(side):
        at = (i + 0.5) * small / side - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            matrix[i, min(max(j, 0), small - 1)] += weight(at - j)
    return matrix


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
def test_codes_latents_and_loss_scale_by_scale(codebook):
    quantizer, latents = multi_scale(codebook=codebook, commitment_weight=0.5), latents_for(4, 3, 5, 5)
    quantizer(latents)
    quantized = quantizer.eval()(latents)
    e = quantizer.codebook.codes[0].detach().double().numpy()
    z = latents.double().numpy()
    total, codes, errors = np.zeros_like(z), [], []
    for side in (1, 2, 3, 5):
        down, up = area(5, side), cubic(side, 5)
        tokens = np.einsum("ih,jw,bdhw->bijd", down, down, z - total).reshape(4, side * side, 3)
        chosen = ((tokens[:, :, None] - e) ** 2).sum(-1).argmin(-1)
        codes.append(chosen)
        maps = e[chosen].reshape(4, side, side, 3)
        total = total + np.einsum("hi,wj,bijd->bdhw", up, up, maps)
        errors.append(((z - total) ** 2).mean())
    assert quantized.codes.shape == (4, 1 + 4 + 9 + 25, 1, 1)
    np.testing.assert_array_equal(quantized.codes.flatten(1).numpy(), np.concatenate(codes, 1))
    np.testing.assert_allclose(quantized.latents.detach().numpy(), total, rtol=1e-4, atol=1e-5)
    weight = 0.5 + (codebook == "gradient")
    np.testing.assert_allclose(quantized.loss.item(), weight * np.mean(errors), rtol=1e-4)


def test_one_scale_is_plain_vector_quantization():
    one, plain = multi_scale(scales=(4,)), VectorQuantizer(3, 11)
    plain.codebook.load_state_dict(one.codebook.state_dict())
    for _ in range(3):
        latents = latents_for(5, 3, 4, 4)
        quantized, expected = one(latents), plain(latents)
        assert torch.equal(quantized.codes.flatten(), expected.codes.flatten())
        assert torch.equal(quantized.latents, expected.latents)
        torch.testing.assert_close(quantized.loss, expected.loss)


def test_the_codebook_learns_from_all_scales_at_once():
    codebook = EMACodebookConfig(revive_after=0)
    quantizer = multi_scale(scales=(1, 2, 4), num_codes=32, codebook=codebook)
    latents = latents_for(16, 3, 4, 4) + 5 * latents_for(16, 3, 1, 1)
    first = quantizer(latents).terms["commitment"]
    for _ in range(60):
        last = quantizer(latents).terms["commitment"]
    assert quantizer.codebook.counts.sum().item() == pytest.approx(16 * 21, rel=1e-3)
    assert last < 0.8 * first


@pytest.mark.parametrize(
    "scales", [((1,), (3,), (6,)), ((1, 1, 1), (2, 2, 3)), ((1, 2), (2, 4))], ids=["1d", "3d", "oblong"]
)
def test_grids_of_other_shapes(scales):
    quantizer, latents = multi_scale(scales=scales).eval(), latents_for(2, 3, *scales[-1])
    codes = quantizer.encode(latents)
    assert codes.shape == (2, quantizer.num_codebooks, *(1,) * len(scales[-1]))
    assert torch.equal(quantizer(latents).latents, quantizer.decode(codes))


def test_the_papers_scales():
    quantizer = multi_scale(scales=SCALES)
    assert (quantizer.num_codebooks, quantizer.grid) == (680, (16, 16))
    assert set(quantizer.codebook_ids) == {0}


@pytest.mark.parametrize("scales", [(1, (2, 2, 2)), ((4, 1), (3, 2)), ((1, 1, 1, 1),)])
def test_scales_that_do_not_fit(scales):
    with pytest.raises(InputError, match="scale"):
        multi_scale(scales=scales)


def test_scales_out_of_range():
    with pytest.raises(ValidationError):
        MultiScaleVQConfig(scales=(0, 2))


def test_latents_and_codes_of_another_grid():
    quantizer = multi_scale()
    for use in (quantizer, quantizer.encode):
        with pytest.raises(InputError, match="grid"):
            use(latents_for(2, 3, 4, 5))
    with pytest.raises(InputError, match="axes"):
        quantizer.decode(torch.zeros(1, 39, 2, 1, dtype=torch.int64))


def test_no_items_at_all():
    quantizer = multi_scale(codebook="frozen")
    assert quantizer.encode(torch.zeros(0, 3, 5, 5)).shape == (0, 39, 1, 1)
    assert quantizer.decode(torch.zeros(0, 39, 1, 1, dtype=torch.int64)).shape == (0, 3, 5, 5)


class TestInAModel:
    SPEC = SignalSpec(3, (8, 8))

    def config(self, **settings) -> VQVAEConfig:
        side = VQVAEConfig.tiny().build(self.SPEC).grid[0]
        quantizer = MultiScaleVQConfig(dim=4, num_codes=8, scales=(1, side))
        return VQVAEConfig.tiny().model_copy(update={"quantizer": quantizer, **settings})

    def test_its_codes_have_one_position(self):
        model = self.config().build(self.SPEC).eval()
        x = 2 * torch.rand(2, 3, 8, 8) - 1
        codes = model.encode(x)
        assert model.grid == (1, 1)
        assert codes.shape == (2, model.num_codebooks, 1, 1)
        assert set(model.codebook_ids) == {0}
        assert model.decode(codes).shape == x.shape

    def test_code_dropout_is_refused(self):
        with pytest.raises(InputError, match="code_dropout"):
            self.config(code_dropout=0.5).build(self.SPEC)

    def test_a_hierarchy_refuses_it(self):
        quantizer = MultiScaleVQConfig(dim=4, num_codes=8, scales=(1, 4))
        with pytest.raises(InputError):
            HierarchyConfig.tiny().model_copy(update={"quantizer": quantizer}).build(self.SPEC)
