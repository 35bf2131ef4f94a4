"""Causal layers: what they see, against kernels masked by hand, and the two speeds against each other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from smalti.nn.causal import DilatedConv1d, HorizontalConv2d, VerticalConv2d

GRIDS = [(5, 6), (6, 5), (1, 7), (7, 1), (1, 1), (3, 2)]
KERNELS = [3, 5, 7]
DILATED = pytest.mark.parametrize(
    ("kernel_size", "dilation"), [(1, 1), (1, 4), (2, 1), (2, 4), (3, 1), (3, 3), (4, 2), (2, 30)]
)


def square_kernel(layer: VerticalConv2d | HorizontalConv2d, kernel_size: int) -> torch.Tensor:
    """The layer's weights inside the full square kernel, at the places that they stand for."""
    weight = layer.conv.weight.detach()
    square = weight.new_zeros(*weight.shape[:2], kernel_size, kernel_size)
    if isinstance(layer, VerticalConv2d):
        square[:, :, : weight.shape[2]] = weight
    else:
        square[:, :, kernel_size // 2, : weight.shape[3]] = weight[:, :, 0]
    return square


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", [VerticalConv2d, HorizontalConv2d])
def test_forward_is_a_square_convolution_whose_future_is_masked(kind, strict, kernel_size, grid):
    torch.manual_seed(0)
    layer = kind(2, 3, kernel_size, strict).double()
    x = torch.randn(2, 2, *grid, dtype=torch.float64)
    expected = F.conv2d(x, square_kernel(layer, kernel_size), layer.conv.bias, padding=kernel_size // 2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kernel_size", "strict"), [(3, True), (3, False), (7, True), (7, False)])
def test_kernels_hold_every_past_tap_and_no_other(kernel_size, strict):
    half = kernel_size // 2
    vertical = VerticalConv2d(1, 1, kernel_size, strict).conv.weight
    horizontal = HorizontalConv2d(1, 1, kernel_size, strict).conv.weight
    assert vertical.shape == (1, 1, half + (not strict), kernel_size)
    assert horizontal.shape == (1, 1, 1, half + (not strict))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize("strict", [True, False])
@torch.no_grad()
def test_vertical_rows_are_those_of_the_whole_grid(strict, kernel_size, grid):
    torch.manual_seed(0)
    layer = VerticalConv2d(2, 3, kernel_size, strict).double()
    x = torch.randn(2, 2, *grid, dtype=torch.float64)
    state = layer.start(2, grid[1])
    rows = x.unbind(2)
    if strict:
        rows = (torch.zeros_like(rows[0]), *rows[:-1])
    by_row = torch.stack([layer.row(row.transpose(1, 2), state).transpose(1, 2) for row in rows], 2)
    torch.testing.assert_close(by_row, layer(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize("strict", [True, False])
@torch.no_grad()
def test_horizontal_steps_are_those_of_the_whole_grid(strict, kernel_size, grid):
    torch.manual_seed(0)
    layer = HorizontalConv2d(2, 3, kernel_size, strict).double()
    x = torch.randn(2, 2, *grid, dtype=torch.float64)
    whole = layer(x)
    state = layer.start(2, grid[1])
    state.row.fill_(torch.nan)  # what lies to the right must never be read
    for row in range(grid[0]):
        for column in range(grid[1]):
            if not strict:
                state.slots[column].copy_(x[:, :, row, column])
            onto = torch.ones(2, 3, dtype=torch.float64)
            layer.step(column, state, onto)
            torch.testing.assert_close(onto - 1, whole[:, :, row, column], rtol=0, atol=1e-12)
            state.slots[column].copy_(x[:, :, row, column])
        torch.testing.assert_close(state.row, x[:, :, row].transpose(1, 2))
        state.row.fill_(torch.nan)


def test_steps_read_the_weights_as_they_are_at_the_start():
    layer = HorizontalConv2d(1, 1, 3, strict=False)
    with torch.no_grad():
        layer.conv.weight.fill_(2.0)
    assert layer.start(1, 4).weight.eq(2).all()


def dilated(kernel_size: int, dilation: int) -> DilatedConv1d:
    torch.manual_seed(0)
    return DilatedConv1d(2, 3, kernel_size, dilation).double()


@DILATED
def test_dilated_forward_is_a_sum_over_the_taps(kernel_size, dilation):
    layer = dilated(kernel_size, dilation)
    x = torch.randn(2, 2, 11, dtype=torch.float64)
    weight, bias = layer.conv.weight.detach().numpy(), layer.conv.bias.detach().numpy()
    expected = np.zeros((2, 3, 11)) + bias[:, None]
    for at in range(11):
        for tap in range(kernel_size):
            source = at - (kernel_size - 1 - tap) * dilation
            if source >= 0:
                expected[:, :, at] += x.numpy()[:, :, source] @ weight[:, :, tap].T
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=0, atol=1e-12)
    assert layer.reach == (kernel_size - 1) * dilation


@DILATED
@torch.no_grad()
def test_dilated_steps_are_those_of_the_whole_line(kernel_size, dilation):
    layer = dilated(kernel_size, dilation)
    x = torch.randn(2, 2, 23, dtype=torch.float64)
    whole, state = layer(x), layer.start(2)
    for at in range(23):
        torch.testing.assert_close(layer.step(x[:, :, at], state), whole[:, :, at], rtol=0, atol=1e-12)
    assert state.ring.shape == (layer.reach, 2, 2)


@torch.no_grad()
def test_two_dilated_states_do_not_disturb_each_other():
    layer = dilated(3, 2)
    x = torch.randn(2, 2, 9, dtype=torch.float64)
    whole, one, other = layer(x), layer.start(2), layer.start(2)
    for at in range(9):
        torch.testing.assert_close(layer.step(x[:, :, at], one), whole[:, :, at], rtol=0, atol=1e-12)
        layer.step(-x[:, :, at], other)
