"""The transformer's compiled loop, against its step and its forward."""

import math

import numpy as np
import pytest
import torch

from smalti.autoregressive import transformer
from smalti.autoregressive.sampling import sample
from smalti.autoregressive.transformer import (
    MAX_COMPILED_BATCH,
    WORTH_COMPILING,
    Transformer,
    TransformerConfig,
)
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.kernels import sampling as kernels
from smalti.kernels.transformer import TransformerKernel

GRID, NUM_CODES, NUM_CLASSES = (3, 5), 11, 3


def network(num_codebooks: int = 1, num_classes: int = 0, **changes: object) -> Transformer:
    """Small, with weights large enough that all of it matters."""
    torch.manual_seed(0)
    config = TransformerConfig.tiny().model_copy(update=changes)
    made = config.build(NUM_CODES, num_codebooks, {"label": num_classes}).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def uniform(num: int, lines: int) -> np.ndarray:
    return np.random.default_rng(0).random((num, lines), np.float32)


@torch.no_grad()
@pytest.mark.parametrize("lines", [1, 3, 5])
@pytest.mark.parametrize(("num_codebooks", "num_classes"), [(1, 0), (2, NUM_CLASSES)])
@pytest.mark.parametrize("changes", [{}, {"channels": 96, "heads": 3}], ids=["tiny", "wide"])
def test_every_symbol_has_the_logits_of_a_step(lines, num_codebooks, num_classes, changes):
    made = network(num_codebooks, num_classes, **changes)
    known = Conditions(label=torch.arange(lines) % NUM_CLASSES) if num_classes else Conditions()
    kernel = TransformerKernel(made, made.start(lines, GRID, known))
    state, previous = made.start(lines, GRID, known), None
    for numbers in uniform(num_codebooks * math.prod(GRID), lines):
        (symbols,) = kernel.draw(numbers[np.newaxis].copy())
        logits = made.step(previous, state)
        np.testing.assert_allclose(kernel.logits, logits.numpy(), rtol=0, atol=5e-5)
        p = np.exp(kernel.logits.astype(np.float64))
        cumulative = (p / p.sum(1, keepdims=True)).cumsum(1)
        assert (cumulative[range(lines), symbols] >= numbers - 1e-6).all()
        assert (
            cumulative[range(lines), symbols] - (p / p.sum(1, keepdims=True))[range(lines), symbols]
            <= numbers + 1e-6
        ).all()
        previous = torch.from_numpy(symbols.copy())


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_seed_draws_what_it_draws_step_by_step(monkeypatch, temperature):
    made = network(num_codebooks=2)

    def draw() -> torch.Tensor:
        return sample(made, 3, GRID, temperature=temperature, generator=torch.Generator().manual_seed(1))

    stepped = draw()
    monkeypatch.setattr(transformer, "WORTH_COMPILING", 1)
    assert made.kernel(made.start(3, GRID)) is not None
    assert torch.equal(draw(), stepped)


@torch.no_grad()
def test_parts_of_a_drawing_are_the_whole():
    made = network()
    numbers = uniform(math.prod(GRID), 2)
    whole = TransformerKernel(made, made.start(2, GRID)).draw(numbers)
    kernel = TransformerKernel(made, made.start(2, GRID))
    parts = [kernel.draw(part.copy()) for part in np.split(numbers, [1, 7])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@torch.no_grad()
def test_many_places_do_not_add_up_errors():
    made = network(channels=64, heads=2)
    kernel = TransformerKernel(made, made.start(2, (32, 32)))
    drawn = torch.from_numpy(kernel.draw(uniform(1024, 2)).T.copy()).view(2, 1, 32, 32)
    last = made(drawn)[:, 0, -1, -1]
    np.testing.assert_allclose(kernel.logits, last.numpy(), rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="expected at most 0 further symbols, received 1"):
        kernel.draw(uniform(1, 2))


@torch.no_grad()
def test_it_is_taken_where_it_can_be_and_is_worth_it():
    made = network()
    assert isinstance(made.kernel(made.start(1, (WORTH_COMPILING,))), TransformerKernel)
    assert made.kernel(made.start(1, (WORTH_COMPILING - 1,))) is None
    assert made.kernel(made.start(MAX_COMPILED_BATCH, (WORTH_COMPILING,))) is not None
    assert made.kernel(made.start(MAX_COMPILED_BATCH + 1, (WORTH_COMPILING,))) is None
    double = network().double()
    assert double.kernel(double.start(1, (WORTH_COMPILING,))) is None


def test_functions_that_vectorise():
    x = np.linspace(-30, 0, 3001).astype(np.float32)
    np.testing.assert_allclose([kernels.exp_of_negative(v) for v in x], np.exp(x), rtol=0, atol=3e-7)
    x = np.linspace(-8, 8, 3201).astype(np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose([kernels.gelu(v) for v in x], expected, rtol=0, atol=2e-6)
