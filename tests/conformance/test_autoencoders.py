"""Properties of every autoencoder. A new one is a line in `CASES`."""

import math
from collections.abc import Callable

import pytest
import torch

from smalti.interfaces import Autoencoder, Batch, InputError, SignalSpec
from smalti.likelihoods import CategoricalConfig, GaussianConfig, from_levels
from smalti.models.prior import UniformPrior
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.quantizers.codebooks import FaithfulCodebookConfig
from tests.conformance.classes import concrete

TINY = VQVAEConfig.tiny()
FAITHFUL = TINY.quantizer.model_copy(update={"codebook": FaithfulCodebookConfig()})
CONFIGS = {
    "vqvae": TINY,
    "vqvae-faithful": TINY.model_copy(update={"quantizer": FAITHFUL}),
    "vqvae-categorical": TINY.model_copy(update={"likelihood": CategoricalConfig()}),
    "vqvae-gaussian": TINY.model_copy(update={"likelihood": GaussianConfig()}),
}
CASES: dict[str, tuple[type[Autoencoder], Callable[[SignalSpec], Autoencoder]]] = {
    name: (VQVAE, lambda spec, config=config: VQVAE(config, spec)) for name, config in CONFIGS.items()
}
EVERY = pytest.mark.parametrize("build", [build for _, build in CASES.values()], ids=CASES)
SPECS = pytest.mark.parametrize(
    "spec",
    [SignalSpec(3, (8, 12)), SignalSpec(1, (16,)), SignalSpec(2, (4, 8, 4), levels=16)],
    ids=lambda spec: "x".join(map(str, (spec.channels, *spec.size))),
)
SPEC = SignalSpec(3, (8, 8))


def signals(spec: SignalSpec, num: int = 3, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return from_levels(
        torch.randint(spec.levels, (num, spec.channels, *spec.size), generator=generator), spec.levels
    )


def trained(build: Callable[[SignalSpec], Autoencoder], spec: SignalSpec = SPEC) -> Autoencoder:
    """A model whose codebook has seen a batch, in evaluation mode."""
    torch.manual_seed(0)
    model = build(spec)
    model.loss(Batch(signals(spec, seed=5)))
    return model.eval()


def test_every_autoencoder_is_in_the_table():
    assert concrete(Autoencoder) == {kind for kind, _ in CASES.values()}


@SPECS
@EVERY
@torch.no_grad()
def test_signal_to_codes_and_back(build, spec):
    model, x = trained(build, spec), signals(spec)
    codes = model.encode(x)
    assert codes.dtype == torch.int64
    assert codes.shape == (3, model.num_codebooks, *model.grid)
    assert 0 <= codes.min() <= codes.max() < model.num_codes
    decoded = model.decode(codes)
    assert decoded.shape == x.shape
    assert decoded.abs().max() <= 1 + 1e-6
    assert torch.equal(model.reconstruct(x), decoded)
    assert torch.equal(model.likelihood(codes).mean(), decoded)


@SPECS
@EVERY
@torch.no_grad()
def test_log_prob_is_of_probabilities_and_adds_up(build, spec):
    model, x = trained(build, spec), signals(spec)
    bound = model.log_prob(x, UniformPrior(model.num_codes, model.num_codebooks, model.grid))
    of_elements = model.likelihood(model.encode(x)).log_prob(x)
    assert (of_elements <= 0).all()
    torch.testing.assert_close(bound.distortion, -of_elements.flatten(1).sum(1))
    nats = math.prod(model.grid) * model.num_codebooks * math.log(model.num_codes)
    torch.testing.assert_close(bound.rate, torch.full((3,), nats))


@SPECS
@EVERY
def test_every_parameter_learns_from_the_loss(build, spec):
    torch.manual_seed(0)
    model = build(spec)
    loss = model(Batch(signals(spec, 8)))
    loss.total.backward()
    assert loss.total.isfinite()
    assert not any(term.requires_grad for term in loss.terms.values())
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@EVERY
@torch.no_grad()
def test_the_loss_of_an_item_does_not_depend_on_the_batch(build):
    model, x = trained(build), signals(SPEC, 4)
    alone = torch.stack([model.loss(Batch(x[[item]])).total for item in range(4)])
    torch.testing.assert_close(alone.mean(), model.loss(Batch(x)).total)


@EVERY
@torch.no_grad()
def test_a_loaded_state_gives_the_same(build):
    saved, loaded = trained(build), build(SPEC).eval()
    loaded.load_state_dict(saved.state_dict())
    x = signals(SPEC)
    assert torch.equal(saved.encode(x), loaded.encode(x))
    assert torch.equal(saved.reconstruct(x), loaded.reconstruct(x))
    assert torch.equal(saved.loss(Batch(x)).total, loaded.loss(Batch(x)).total)


@EVERY
def test_works_under_autocast_and_stays_near(build):
    model, x = trained(build), signals(SPEC)
    expected = model.loss(Batch(x)).total
    codes = model.encode(x)
    mean = model.decode(codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(Batch(x)).total
        decoded = model.decode(codes)
        assert model.encode(x).dtype == torch.int64
    loss.backward()
    assert loss.dtype == decoded.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(decoded, mean, rtol=0, atol=0.05)


@EVERY
def test_evaluation_learns_nothing(build):
    model = trained(build)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.loss(Batch(signals(SPEC)))
    model.reconstruct(signals(SPEC))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@EVERY
def test_bad_sizes_and_codes_get_a_sentence(build):
    with pytest.raises(InputError, match=r"expected a size .* received 7x9"):
        build(SignalSpec(3, (7, 9)))
    model = trained(build)
    codes = model.encode(signals(SPEC))
    for bad in (codes + model.num_codes, codes - model.num_codes, codes.repeat(1, 2, 1, 1)):
        with pytest.raises(InputError, match=r"expected codes .* received"):
            model.likelihood(bad)
