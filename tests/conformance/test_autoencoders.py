"""Properties of every model with codes, beside those of `test_models.py`. A new one is a line in `CASES`."""

import contextlib
import math

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder
from smalti.evaluation.bounds import measure
from tests.conformance.classes import concrete
from tests.conformance.models import CASES, SPEC, cases, everywhere, signals, trained, uniform

EVERY = cases(Autoencoder)
DETERMINISTIC = cases(Autoencoder, is_deterministic=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_autoencoder_is_in_the_table():
    assert concrete(Autoencoder) == {c.kind for c in CASES.values() if issubclass(c.kind, Autoencoder)}


@everywhere(Autoencoder)
@torch.no_grad()
def test_signal_to_codes_and_back(case, spec):
    model, x = trained(case, spec), signals(spec)
    codes = model.encode(x)
    for made in (codes, model.draw_codes(x)):
        assert made.dtype == torch.int64
        assert made.shape == (3, model.num_codebooks, *model.grid)
        assert 0 <= made.min() <= made.max() < model.num_codes
    decoded = model.decode(codes)
    assert decoded.shape == x.shape
    assert decoded.abs().max() <= 1 + 1e-6
    assert torch.equal(model.reconstruct(x), decoded)
    torch.testing.assert_close(model.likelihood(codes).mean(), decoded, rtol=1e-4, atol=1e-5)
    assert torch.equal(measure(model, Batch(x)).codes, codes)


@everywhere(Autoencoder)
@torch.no_grad()
def test_the_distortion_is_of_the_codes_that_are_drawn(case, spec):
    model, x = trained(case, spec), signals(spec)
    bound = measure(model, Batch(x), uniform(model), 1, generator()).bounds["uniform"]
    of_elements = model.likelihood(model.draw_codes(x, generator())).log_prob(x)
    assert (of_elements <= 0).all()
    expected = -of_elements.flatten(1).sum(1)
    torch.testing.assert_close(bound.distortion, expected.to(bound.distortion))


@EVERY
@torch.no_grad()
def test_an_item_is_encoded_as_it_is_alone(case):
    model, x = trained(case), signals(SPEC, 5)
    codes = model.encode(x)
    for item in range(5):
        assert torch.equal(model.encode(x[[item]])[0], codes[item])


@EVERY
@torch.no_grad()
def test_drawn_codes_follow_the_generator(case):
    model, x = trained(case), signals(SPEC, 8)
    first, same, other = (model.draw_codes(x, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert torch.equal(first, other) == case.is_deterministic
    assert torch.equal(first, model.encode(x)) == case.is_deterministic


@EVERY
def test_bad_codes_get_a_sentence(case):
    model = trained(case)
    codes = model.encode(signals(SPEC))
    for bad in (codes + model.num_codes, codes - model.num_codes, codes.repeat(1, 2, 1, 1)):
        with pytest.raises(InputError, match=r"expected codes .* received"):
            model.likelihood(bad)


@everywhere(Autoencoder, is_deterministic=True)
@torch.no_grad()
def test_the_uniform_rate_is_n_ln_k(case, spec):
    """The rate is ln q / p, and all of a deterministic posterior is on its one code."""
    model, x = trained(case, spec), signals(spec)
    bound = measure(model, Batch(x), uniform(model)).bounds["uniform"]
    nats = math.prod(model.grid) * model.num_codebooks * math.log(model.num_codes)
    torch.testing.assert_close(bound.rate, torch.full((3,), nats))


@DETERMINISTIC
@torch.no_grad()
def test_the_loss_of_an_item_does_not_depend_on_the_batch(case):
    model, x = trained(case), signals(SPEC, 4)
    alone = torch.stack([model.loss(Batch(x[[item]])).total for item in range(4)])
    torch.testing.assert_close(alone.mean(), model.loss(Batch(x)).total)


@contextlib.contextmanager
def settings_of_the_caller():
    """Settings of torch that a caller may have made for its own networks."""
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")


@EVERY
def test_autocast_and_default_dtype_of_the_caller_change_nothing(case):
    model, x = trained(case), signals(SPEC, 8)
    priors = uniform(model)

    def made():
        codes = model.encode(x)
        results = (codes, model.draw_codes(x, generator()), model.decode(codes), model.reconstruct(x))
        bound = measure(model, Batch(x), priors, 2, generator()).bounds["uniform"]
        return (*results, bound.rate, bound.distortion)

    expected = made()
    with settings_of_the_caller():
        received = made()
        assert torch.get_default_dtype() == torch.float64
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    for one, other in zip(expected, received, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
