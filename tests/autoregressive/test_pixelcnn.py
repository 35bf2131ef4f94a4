"""Gated PixelCNN: its exact receptive field, its labels, its rules of use."""

import pytest
import torch
from pydantic import ValidationError

from smalti.autoregressive.pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from smalti.interfaces import InputError


def tiny(num_codes: int = 5, num_codebooks: int = 1, num_classes: int = 0, **changes) -> GatedPixelCNN:
    torch.manual_seed(0)
    config = GatedPixelCNNConfig(**{**GatedPixelCNNConfig.tiny().model_dump(), **changes})
    return GatedPixelCNN(config, num_codes, num_codebooks, num_classes).double().eval()


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
    assert GatedPixelCNN(config, 8).reach == 3 + 14


@pytest.mark.parametrize(
    "changes", [{"kernel_size": 4}, {"first_kernel_size": 2}, {"layers": 0}, {"dropout": 1}]
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ValidationError):
        GatedPixelCNNConfig(**changes)


@pytest.mark.parametrize("sizes", [(0, 1, 0), (5, 0, 0), (5, 1, -1)])
def test_impossible_counts_are_refused(sizes):
    with pytest.raises(InputError, match="received"):
        GatedPixelCNN(GatedPixelCNNConfig.tiny(), *sizes)


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
    network = GatedPixelCNN(GatedPixelCNNConfig.tiny(), 4)
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
