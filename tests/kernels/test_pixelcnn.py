"""The compiled loop of the PixelCNN, against its step and its forward."""

import math

import numpy as np
import pytest
import torch

from smalti.autoregressive import pixelcnn
from smalti.autoregressive.pixelcnn import (
    MAX_COMPILED_BATCH,
    WORTH_COMPILING,
    GatedPixelCNN,
    GatedPixelCNNConfig,
)
from smalti.autoregressive.sampling import sample
from smalti.conditioners.embedding import Embedding
from smalti.core.conditions import Conditions, PerItem
from smalti.core.errors import InputError
from smalti.kernels.pixelcnn import PixelCNNKernel

GRID, NUM_CODES, NUM_CLASSES, LOCAL = (4, 6), 11, 3, 2


def network(num_codebooks: int = 1, num_classes: int = 0, local: int = 0, **changes: object) -> GatedPixelCNN:
    """Small, with weights large enough that all of it matters."""
    torch.manual_seed(0)
    config = GatedPixelCNNConfig.tiny().model_copy(update=changes)
    made = config.build(NUM_CODES, num_codebooks, {"label": num_classes}, local).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def uniform(num: int, lines: int) -> np.ndarray:
    return np.random.default_rng(0).random((num, lines), np.float32)


@torch.no_grad()
@pytest.mark.parametrize("lines", [1, 3, 5])
@pytest.mark.parametrize(
    ("num_codebooks", "num_classes", "local"),
    [(1, 0, None), (2, 3, None), (1, 0, (4, 6)), (3, 3, (2, 3)), (1, 3, (1, 1))],
)
@pytest.mark.parametrize(
    "changes",
    [{}, {"layers": 1}, {"layers": 2, "kernel_size": 5, "first_kernel_size": 3}, {"channels": 40}],
    ids=["tiny", "one layer", "other kernels", "wide"],
)
def test_every_symbol_has_the_logits_of_a_step(lines, num_codebooks, num_classes, local, changes):
    made = network(num_codebooks, num_classes, LOCAL if local else 0, **changes)
    label = torch.arange(lines) % NUM_CLASSES if num_classes else None
    latents = torch.randn(lines, LOCAL, *local) if local else None
    known = Conditions(label=label, local=latents)
    kernel = PixelCNNKernel(made, made.start(lines, GRID, known))
    state, previous = made.start(lines, GRID, known), None
    for numbers in uniform(num_codebooks * math.prod(GRID), lines):
        (symbols,) = kernel.draw(numbers[np.newaxis].copy())
        logits = made.step(previous, state)
        np.testing.assert_allclose(kernel.logits, logits.numpy(), rtol=0, atol=1e-4)
        p = np.exp(kernel.logits.astype(np.float64))
        p /= p.sum(1, keepdims=True)
        cumulative, drawn = p.cumsum(1), (range(lines), symbols)
        assert (cumulative[drawn] >= numbers - 1e-6).all()
        assert (cumulative[drawn] - p[drawn] <= numbers + 1e-6).all()
        previous = torch.from_numpy(symbols.copy())


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_seed_draws_what_it_draws_step_by_step(monkeypatch, temperature):
    made = network(num_codebooks=2)

    def draw() -> torch.Tensor:
        return sample(made, 3, GRID, temperature=temperature, generator=torch.Generator().manual_seed(1))

    stepped = draw()
    monkeypatch.setattr(pixelcnn, "WORTH_COMPILING", 1)
    assert made.kernel(made.start(3, GRID)) is not None
    assert torch.equal(draw(), stepped)


@torch.no_grad()
def test_parts_of_a_drawing_are_the_whole():
    made = network(num_codebooks=2)
    numbers = uniform(2 * math.prod(GRID), 2)
    whole = PixelCNNKernel(made, made.start(2, GRID)).draw(numbers)
    kernel = PixelCNNKernel(made, made.start(2, GRID))
    parts = [kernel.draw(part.copy()) for part in np.split(numbers, [1, 7, 24])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@torch.no_grad()
def test_many_places_do_not_add_up_errors():
    made = network(channels=16)
    kernel = PixelCNNKernel(made, made.start(2, (32, 32)))
    drawn = torch.from_numpy(kernel.draw(uniform(1024, 2)).T.copy()).view(2, 1, 32, 32)
    last = made(drawn)[:, 0, -1, -1]
    np.testing.assert_allclose(kernel.logits, last.numpy(), rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="expected at most 0 further symbols, received 1"):
        kernel.draw(uniform(1, 2))


@torch.no_grad()
def test_it_is_taken_where_it_can_be_and_is_worth_it():
    made, grid = network(), (1, WORTH_COMPILING)
    assert isinstance(made.kernel(made.start(1, grid)), PixelCNNKernel)
    assert made.kernel(made.start(1, (1, WORTH_COMPILING - 1))) is None
    assert made.kernel(made.start(MAX_COMPILED_BATCH, grid)) is not None
    assert made.kernel(made.start(MAX_COMPILED_BATCH + 1, grid)) is None
    double = network().double()
    assert double.kernel(double.start(1, grid)) is None
    channels = GatedPixelCNNConfig.tiny().channels
    conditioned = GatedPixelCNN(
        NUM_CODES, channels=channels, layers=1, conditioners={"pose": Embedding(channels, num_ids=2)}
    )
    known = Conditions(pose=PerItem(torch.zeros(1, dtype=torch.int64)))
    assert conditioned.kernel(conditioned.start(1, grid, known)) is None
