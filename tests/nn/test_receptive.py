"""Receptive fields of stacks of convolutions, against the gradients of their outputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smalti.core.locality import Extent, ReceptiveField
from smalti.nn.blocks import CONVOLUTIONS, NormalizedResidualBlock, ResidualBlock, downsample, upsample
from smalti.nn.receptive import receptive_field, within

STRIDES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


def stack(ndim: int, strides: list[int], blocks: int, make=downsample) -> nn.Sequential:
    """Layers whose every output grows with every input in its receptive field."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [CONVOLUTIONS[ndim](1, 2, 3, padding=1)]
    for stride in strides:
        layers += [nn.ReLU(), make(ndim, 2, 2, stride)]
    layers += [ResidualBlock(ndim, 2, 2) for _ in range(blocks)]
    network = nn.Sequential(*layers).double()
    for weight in network.parameters():
        weight.data.abs_().add_(0.01)
    return network


def inputs_seen(network: nn.Sequential, length: int, outputs: slice) -> list[int]:
    """Positions of the input on which any of some outputs depends."""
    x = torch.rand(1, 1, length, dtype=torch.float64, requires_grad=True)
    network(x)[:, :, outputs].sum().backward()
    assert x.grad is not None
    return x.grad[0, 0].nonzero()[:, 0].tolist()


@settings(max_examples=25, deadline=None)
@given(STRIDES, st.integers(0, 2))
def test_an_encoder_sees_the_positions_of_its_receptive_field(strides: list[int], blocks: int) -> None:
    network = stack(1, strides, blocks)
    stride = torch.Size(strides).numel()
    field = receptive_field(network, 1, stride)
    assert field is not None
    middle = field.before // stride + 2
    seen = inputs_seen(network, stride * (middle + field.after // stride + 3), slice(middle, middle + 1))
    assert seen[0] == middle * stride - field.before
    assert seen[-1] == (middle + 1) * stride - 1 + field.after


@settings(max_examples=25, deadline=None)
@given(STRIDES, st.integers(0, 2))
def test_a_decoder_sees_the_latents_of_its_receptive_field(strides: list[int], blocks: int) -> None:
    network = stack(1, strides, blocks, upsample)
    stride = torch.Size(strides).numel()
    field = receptive_field(network, stride, 1)
    assert field is not None
    middle = field.before + 1
    outputs = slice(middle * stride, (middle + 1) * stride)
    seen = inputs_seen(network, middle + field.after + 2, outputs)
    assert (seen[0], seen[-1]) == (1, middle + field.after)


@pytest.mark.parametrize(
    "layer",
    [
        NormalizedResidualBlock(1, 4, 4),
        nn.GroupNorm(1, 4),
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(1, 1, 3, padding="same"),
        nn.MultiheadAttention(4, 1),
    ],
)
def test_the_receptive_field_of_other_layers_is_unbounded(layer: nn.Module) -> None:
    assert receptive_field(nn.Sequential(nn.ReLU(), layer, nn.Conv1d(1, 1, 3)), 1, 1) is None


def test_activations_and_narrow_convolutions_see_one_position() -> None:
    assert receptive_field(nn.Sequential(nn.GELU(), nn.Conv1d(1, 1, 1)), 1, 1) == ReceptiveField(0, 0)


@pytest.mark.parametrize(("ndim", "make"), [(1, downsample), (3, downsample), (1, upsample)])
def test_within_a_window_a_signal_ends_as_it_does_alone(ndim: int, make) -> None:
    network, num_codes = stack(ndim, [2, 3], 1, make), 6
    scale = 6 if make is downsample else 1
    x = torch.rand(2, 1, num_codes * scale, *(6,) * (ndim - 1), dtype=torch.float64)
    bounds = ((1, 5), (0, 6))
    made = within(network, x, Extent(bounds, num_codes))
    for row, out, (begin, end) in zip(x, made, bounds, strict=True):
        alone = network(row[None, :, begin * scale : end * scale])[0]
        per_code = out.shape[1] // num_codes
        torch.testing.assert_close(out[:, begin * per_code : end * per_code], alone)
