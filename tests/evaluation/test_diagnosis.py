"""Faults that are named in runs spoiled on purpose, and sound runs without any."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from smalti.app.recipes.overrides import override
from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.evaluation.diagnosis.measurements import explained, measure_codebooks
from smalti.evaluation.diagnosis.rules import find_faults, still_falling, too_many
from smalti.modalities.image.modality import ImageConfig
from smalti.models.hierarchy import HierarchyConfig
from smalti.models.vae import VAEConfig
from smalti.models.vimco import VIMCOConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.quantizers.bsq import BSQConfig
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.codebooks.gradient import GradientCodebookConfig
from smalti.quantizers.fsq import FSQConfig
from smalti.quantizers.ibq import IBQConfig
from smalti.quantizers.lfq import LFQConfig
from smalti.quantizers.residual import ResidualVQConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.recipe import Recipe
from tests.conformance.test_quantizers import CASES
from tests.evaluation.spoiled import SETTING, Spoiled, faults, measured

VQ = partial(VectorQuantizerConfig, code_dim=8)
GRADIENT = GradientCodebookConfig()
SLOW_AVERAGES = EMACodebookConfig(decay=0.9999, revive_after=0)

SPOILED = {
    "dead-codes": Spoiled(VQ(num_codes=256, codebook=GRADIENT), 60),
    "collapse": Spoiled(VQ(num_codes=32, codebook=GRADIENT, commitment_weight=100), 60),
    "latents-outgrow-codes": Spoiled(VQ(num_codes=32, codebook=GRADIENT, commitment_weight=0), 60),
    "commitment-out-of-balance": Spoiled(VQ(num_codes=32, commitment_weight=1000), 60),
    "entropy-out-of-balance": Spoiled(LFQConfig(bits=5, entropy_weight=100), 60),
    "too-many-codes": Spoiled(VQ(num_codes=256), 60, num_items=32),
    "too-few-codes": Spoiled(VQ(num_codes=2), 150),
    "codes-lag-behind": Spoiled(VQ(num_codes=32, codebook=SLOW_AVERAGES), 150),
}
MORE_SPOILED = {
    "entropy-out-of-balance-ibq": Spoiled(IBQConfig(dim=8, num_codes=32, entropy_weight=100)),
    "entropy-out-of-balance-bsq": Spoiled(BSQConfig(bits=5, entropy_weight=1000)),
}
SOUND = {
    "ema": Spoiled(VQ(num_codes=32), 150),
    "residual": Spoiled(ResidualVQConfig(dim=8, num_codes=16, num_quantizers=2), 100),
}
MORE_SOUND = {
    "ema-64": Spoiled(VQ(num_codes=64), 150),
    "residual": Spoiled(ResidualVQConfig(dim=8, num_codes=16, num_quantizers=2), 150),
    "unit": Spoiled(VQ(num_codes=32, normalize="codes"), 150),
    "fsq": Spoiled(FSQConfig(levels=(4, 3, 3)), 150),
    "bsq": Spoiled(BSQConfig(bits=5), 150),
    "gradient": Spoiled(
        VectorQuantizerConfig(num_codes=8, code_dim=4, codebook=GRADIENT, commitment_weight=0.5), 300, 5e-3
    ),
}
TINY = SignalSpec(channels=3, size=(16, 16), levels=256)


MENDS = {
    "dead-codes": "codebook.kind=ema",
    "collapse": "commitment_weight=0.25",
    "latents-outgrow-codes": "commitment_weight=0.25",
    "commitment-out-of-balance": "commitment_weight=",
    "entropy-out-of-balance": "entropy_weight=",
    "too-many-codes": "num_codes=",
    "too-few-codes": "num_codes=8",
    "codes-lag-behind": "codebook.decay=0.99",
}
"""A setting that the advice on each fault names."""


@pytest.mark.parametrize("name", SPOILED)
def test_a_planted_fault_is_named_with_settings_that_exist(name):
    found = {finding.name: finding for finding in find_faults(measured(SPOILED[name]))}
    assert f"model.quantizer.{MENDS[name]}" in found[name].advice
    recipe = Recipe(name="x", data=ImageConfig(), model=VQVAEConfig(quantizer=SPOILED[name].quantizer))
    for finding in found.values():
        for setting in SETTING.findall(finding.advice):
            assert override(recipe, [setting]) != recipe


@pytest.mark.parametrize("kind", SOUND)
def test_nothing_is_wrong_with_a_sound_run(kind):
    assert faults(SOUND[kind]) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", SPOILED | MORE_SPOILED)
def test_a_planted_fault_is_named_for_other_seeds_and_kinds(name, seed):
    run = (SPOILED | MORE_SPOILED)[name]
    assert any(name.startswith(found) for found in faults(replace(run, seed=seed)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", MORE_SOUND)
def test_nothing_is_wrong_for_other_seeds_and_kinds(kind, seed):
    assert faults(replace(MORE_SOUND[kind], seed=seed)) == []


def tiny(quantizer):
    """An untrained model with this quantizer."""
    own = VQVAEConfig.tiny().changed(
        {"quantizer": VectorQuantizerConfig(code_dim=quantizer.dim, num_codes=2)}
    )
    model = own.build(TINY)
    return VQVAE(model.encoder, quantizer, model.decoder, model.family, TINY)


def batches(num=2):
    generator = torch.Generator().manual_seed(0)
    return [Batch(torch.rand(3, 3, 16, 16, generator=generator) * 2 - 1) for _ in range(num)]


def test_fewer_codes_are_fewer_than_there_are():
    quantizer = VectorQuantizerConfig(num_codes=16, code_dim=4).build()
    (codebook,) = measure_codebooks(tiny(quantizer), batches(), batches(1), 60).codebooks
    geometry = replace(codebook.geometry, error=1.0, held_out_error=2.0)
    finding = too_many(replace(codebook, geometry=geometry, num_tokens=28 * 16))
    assert SETTING.findall(finding.advice) == ["model.quantizer.num_codes=8"]


@pytest.mark.parametrize("name", [name for name in CASES if "many-codes" not in name])
def test_every_quantizer_is_measured(name):
    torch.manual_seed(0)
    quantizer = CASES[name]()
    model = tiny(quantizer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = measure_codebooks(model, batches(), batches(1), 60)
    (codebook,) = result.codebooks
    codes = torch.cat([model.encode(batch.data) for batch in batches()])
    ids = quantizer.codebook_ids
    assert codebook.use.counts.shape == (max(ids) + 1, quantizer.num_codes)
    assert codebook.use.counts.sum() == codes.numel()
    assert codebook.num_tokens == codes.numel() // (max(ids) + 1) * 10
    weights = {name for name in type(quantizer.config).model_fields if name.endswith("_weight")}
    assert set(codebook.gradients) == {"distortion"} | {w for w in weights if getattr(quantizer.config, w)}
    for finding in find_faults(result):
        assert finding.advice
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_gradients_are_those_of_the_terms():
    torch.manual_seed(0)
    quantizer = CASES["vq-gradient"]()
    model = tiny(quantizer)
    (batch,) = batches(1)
    found = measure_codebooks(model, [batch]).codebooks[0].gradients
    z = model.encoder(batch.data).detach().requires_grad_()
    distance = (z - quantizer(z).latents.detach()).square().mean()
    (gradient,) = torch.autograd.grad(0.25 * distance, z)
    # Mean over positions of the length of the gradient of the 3 items' sum.
    expected = np.linalg.norm(3 * gradient.numpy(), axis=1).mean()
    assert found["commitment_weight"] == pytest.approx(expected, rel=1e-4)
    likelihood = model.family(model.decoder(quantizer(z).latents))
    (gradient,) = torch.autograd.grad(-likelihood.log_prob(batch.data).mean(), z)
    expected = np.linalg.norm(3 * gradient.numpy(), axis=1).mean()
    assert found["distortion"] == pytest.approx(expected, rel=1e-4)


def test_unquantized_latents_replace_the_codes():
    model = tiny(CASES["vq-one-codebook"]())
    (batch,) = batches(1)
    result = measure_codebooks(model, [batch])
    likelihood = model.family(model.decoder(model.encoder(batch.data)))
    expected = -likelihood.log_prob(batch.data).mean().item() / np.log(2)
    assert result.unquantized == pytest.approx(expected, rel=1e-5)
    assert result.distortion == pytest.approx(model.loss(batch).terms["distortion_bits_per_dim"].item())


def test_explained_errors_equal_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 4, 200)
    noise = rng.normal(size=(200, 3))
    moved = np.array([[0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 4.0]])[indices]
    errors = noise + moved
    total = (errors**2).sum()
    within = sum(((errors[indices == k] - errors[indices == k].mean(0)) ** 2).sum() for k in range(4))
    expected = (total - within - 4 * within / 196) / total
    assert explained(torch.tensor(errors), torch.tensor(indices), 6) == pytest.approx(expected)
    assert explained(torch.tensor(noise), torch.tensor(indices), 6) < 0.05


def test_each_level_of_a_hierarchy_is_measured():
    model = HierarchyConfig.tiny().build(TINY)
    result = measure_codebooks(model, batches(), batches(1), 6)
    assert [codebook.name for codebook in result.codebooks] == ["quantizers.0", "quantizers.1"]


@pytest.mark.parametrize("config", [VAEConfig, VIMCOConfig])
def test_a_model_without_quantizer_is_refused(config):
    with pytest.raises(InputError, match="quantizer"):
        measure_codebooks(config.tiny().build(TINY), batches())


def test_weights_that_are_not_finite_are_the_only_finding():
    model = tiny(CASES["vq-ema"]())
    next(model.encoder.parameters()).data.fill_(torch.nan)
    (finding,) = find_faults(measure_codebooks(model, batches(), batches(1), 6))
    assert finding.name == "diverged"


def test_a_loss_that_still_falls():
    def lines(losses):
        return [{"step": step, "split": "train", "loss": float(loss)} for step, loss in enumerate(losses)]

    assert still_falling(lines(np.linspace(9, 1, 20))) is not None
    assert still_falling(lines([9, *[1] * 19])) is None
    assert still_falling(lines([9, 1])) is None
    assert still_falling([]) is None
