"""Gated PixelCNN: its exact receptive field, its labels, its rules of use."""

import pytest
import torch
from pydantic import ValidationError

from smalti.autoregressive.pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError


def tiny(num_codes: int = 5, num_codebooks: int = 1, num_classes: int = 0, **changes) -> GatedPixelCNN:
    torch.manual_seed(0)
    config = GatedPixelCNNConfig(**{**GatedPixelCNNConfig.tiny().model_dump(), **changes})
    return config.build(num_codes, num_codebooks, {"label": num_classes}).double().eval()


@pytest.mark.parametrize(
    ("layers", "kernel_size", "first_kernel_size", "reach"), [(1, 3, 5, 2), (2, 3, 3, 2), (2, 5, 3, 3)]
)
@torch.no_grad()
def test_receptive_field_is_the_whole_rectangle_above_and_the_row_to_the_left(
    layers, kernel_size, first_kernel_size, reach
):
    network = tiny(layers=layers, kernel_size=kernel_size, first_kernel_size=first_kernel_size)
    assert network.reach == reach
    rows, columns = 6, 9
    at_row, at_column = 5, 4
    codes = torch.randint(5, (1, 1, rows, columns))
    base = network(codes)[0, 0, at_row, at_column]
    for row in range(rows):
        for column in range(columns):
            effect = 0.0
            for shift in range(1, 5):
                other = codes.clone()
                other[0, 0, row, column] = (other[0, 0, row, column] + shift) % 5
                changed = network(other)[0, 0, at_row, at_column]
                effect = max(effect, float((changed - base).abs().max()))
            up, left = at_row - row, at_column - column
            # What is above is also seen further left, through the horizontal stack: that is not claimed.
            claimed = (up > 0 and up <= reach and abs(left) <= reach) or (up == 0 and 0 < left <= reach)
            never = row > at_row or (up == 0 and left <= 0) or up > reach or -left > reach
            if claimed:
                assert effect > 1e-10, (row, column)
            if never:
                assert effect < 1e-12, (row, column)


def test_a_residual_in_the_first_layer_would_be_noticed():
    """The classic fault: perturbation must be able to see it."""
    network = tiny()
    first = network.layers[0]
    codes = torch.randint(5, (1, 1, 3, 3))
    other = codes.clone()
    other[0, 0, 1, 1] = (other[0, 0, 1, 1] + 1) % 5
    first.horizontal.strict = False  # shifts the kernel onto the present column, and adds the residual
    assert (network(codes) - network(other))[0, 0, 1, 1].abs().max() > 1e-6


def test_sizes_of_the_paper_are_the_defaults():
    config = GatedPixelCNNConfig()
    assert (config.kind, config.channels, config.layers, config.kernel_size) == ("gated_pixelcnn", 64, 15, 3)
    assert config.build(8).reach == 3 + 14


@pytest.mark.parametrize(
    "changes", [{"kernel_size": 4}, {"first_kernel_size": 2}, {"layers": 0}, {"dropout": 1}]
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ValidationError):
        GatedPixelCNNConfig(**changes)


@pytest.mark.parametrize("sizes", [(0, 1, {}), (5, 0, {}), (5, 1, {"label": -1})])
def test_impossible_counts_are_refused(sizes):
    with pytest.raises(InputError, match="received"):
        GatedPixelCNNConfig.tiny().build(*sizes)


@torch.no_grad()
def test_dropout_acts_in_training_only_and_never_in_steps():
    network = tiny(dropout=0.5)
    codes = torch.randint(5, (2, 1, 3, 3))
    first_step = network.step(None, network.start(2, (3, 3)))
    calm = network(codes)
    network.train()
    assert not torch.allclose(network(codes), calm)
    torch.testing.assert_close(network.step(None, network.start(2, (3, 3))), first_step)
    torch.testing.assert_close(first_step, calm[:, 0, 0, 0], rtol=0, atol=1e-12)


def test_a_little_training_learns_a_pattern_that_needs_the_row_above():
    """Each code is the one above it plus one: after the first row nothing is left to guess."""
    torch.manual_seed(0)
    network = GatedPixelCNNConfig.tiny().build(4)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        top = torch.randint(4, (16, 1, 1, 5))
        codes = (top + torch.arange(4)[:, None]) % 4
        logits = network(codes)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), codes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    below = torch.nn.functional.cross_entropy(logits[:, :, 1:].flatten(0, -2), codes[:, :, 1:].flatten())
    above = torch.nn.functional.cross_entropy(logits[:, :, :1].flatten(0, -2), codes[:, :, :1].flatten())
    assert below < 0.05
    assert above > 1.2  # ln 4 = 1.386: the first row cannot be known


@pytest.mark.parametrize("grid", [(4,), (2, 2, 2), (0, 3)])
def test_grids_of_other_ranks_are_refused(grid):
    with pytest.raises(InputError, match="rows and columns"):
        tiny().start(1, grid)
    with pytest.raises(InputError, match="rows and columns"):
        tiny()(torch.zeros(1, 1, *grid, dtype=torch.int64))


def conditioned(num_classes: int = 0, num_codebooks: int = 1) -> GatedPixelCNN:
    torch.manual_seed(0)
    network = GatedPixelCNNConfig.tiny().build(5, num_codebooks, {"label": num_classes}, local_channels=3)
    return network.double().eval()


class TestLocalCondition:
    GRID = (4, 6)

    @pytest.mark.parametrize("coarse", [(1, 1), (2, 3), (4, 6), (1, 6), (2, 1)])
    @pytest.mark.parametrize(("num_classes", "num_codebooks"), [(0, 1), (3, 2)])
    @torch.no_grad()
    def test_steps_give_what_forward_gives(self, coarse, num_classes, num_codebooks):
        network = conditioned(num_classes, num_codebooks)
        codes = torch.randint(5, (2, num_codebooks, *self.GRID))
        labels = torch.tensor([0, 2]) if num_classes else None
        conditions = Conditions(label=labels, local=torch.randn(2, 3, *coarse, dtype=torch.float64))
        expected = network(codes, conditions).flatten(2, -2).transpose(1, 2).flatten(1, 2)
        state = network.start(2, self.GRID, conditions)
        symbols = codes.flatten(2).transpose(1, 2).flatten(1)
        previous = None
        for index in range(symbols.shape[1]):
            logits = network.step(previous, state)
            torch.testing.assert_close(logits, expected[:, index], rtol=0, atol=1e-9)
            previous = symbols[:, index]

    @torch.no_grad()
    def test_a_place_tells_its_part_of_the_grid_and_what_follows_of_it(self):
        network = conditioned()
        codes = torch.randint(5, (1, 1, *self.GRID))
        local = torch.randn(1, 3, 2, 2, dtype=torch.float64)
        other = local.clone()
        other[0, :, 1, 1] += 1
        changed = (network(codes, Conditions(local=local)) - network(codes, Conditions(local=other))).abs()
        differs = changed.amax((0, 1, 4)) > 1e-12
        assert not differs[:2].any()
        assert differs[2:, 3:].all()

    @torch.no_grad()
    def test_a_single_place_tells_everywhere(self):
        network, codes = conditioned(), torch.randint(5, (1, 1, *self.GRID))
        one, other = (
            network(codes, Conditions(local=torch.full((1, 3, 1, 1), value, dtype=torch.float64)))
            for value in (0.0, 1.0)
        )
        assert ((one - other).abs().amax(4) > 1e-9).all()

    @pytest.mark.parametrize("shape", [None, (2, 4, 1, 1), (1, 3, 1, 1), (2, 3, 3, 1), (2, 3, 0, 1)])
    def test_another_shape_is_refused(self, shape):
        network = conditioned()
        local = None if shape is None else torch.zeros(shape, dtype=torch.float64)
        with pytest.raises(InputError, match=r"expected a local condition of shape \(2, 3, rows, columns\)"):
            network(torch.zeros(2, 1, *self.GRID, dtype=torch.int64), Conditions(local=local))
        with pytest.raises(InputError, match="expected a local condition"):
            network.start(2, self.GRID, Conditions(local=local))
