"""The convolutional encoder: what it looks like, its grid, and the sizes that it refuses."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from smalti.encoders.conv import ConvEncoder, ConvEncoderConfig
from smalti.interfaces import InputError, SignalSpec


def encoder(size: tuple[int, ...], strides=(2, 2), **settings) -> ConvEncoder:
    config = ConvEncoderConfig(channels=6, residual_channels=4, strides=strides, **settings)
    return ConvEncoder(config, SignalSpec(channels=3, size=size), dim=5)


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((20,), (4, 5)),
        ((8, 12), (2, 2)),
        ((6, 18), (3, 2)),
        ((10, 5), (5,)),
        ((12, 24), (2, 2, 3)),
        ((4, 8, 12), (2, 2)),
        ((4, 4), (4,)),
    ],
)
def test_the_grid_is_the_shape_of_the_latents(size, strides):
    layer = encoder(size, strides)
    latents = layer(torch.randn(2, 3, *size))
    assert latents.shape == (2, 5, *layer.grid(size))


@pytest.mark.parametrize(
    ("size", "strides", "given", "advice"),
    [
        ((30, 32), (2, 2), "30x32", "32x32"),
        ((33, 50), (2, 2, 2), "33x50", "32x48"),
        ((2, 2), (2, 2), "2x2", "4x4"),
        ((7,), (3, 2), "7", "6"),
        ((6, 8, 9), (2, 2), "6x8x9", "8x8x8"),
    ],
)
def test_a_size_that_does_not_divide_is_refused_with_an_advice_that_works(size, strides, given, advice):
    layer = encoder(size, strides)
    key = "data.length" if len(size) == 1 else "data.size"
    with pytest.raises(InputError, match=rf"multiples of \d+ .*received {given}: set {key}={advice},"):
        layer.grid(size)
    assert layer.grid([int(side) for side in advice.split("x")])


def test_the_papers_encoder():
    layer = ConvEncoder(
        ConvEncoderConfig(channels=256, residual_channels=256), SignalSpec(3, (32, 32)), dim=64
    )
    convolutions = [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convolutions] == [4, 4, 3, 1, 3, 1, 1]
    assert [conv.stride[0] for conv in convolutions] == [2, 2, 1, 1, 1, 1, 1]
    assert layer.grid((32, 32)) == (8, 8)


def test_every_parameter_learns():
    layer = encoder((8, 8))
    layer(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_without_residual_blocks():
    assert encoder((8, 8), residual_blocks=0)(torch.randn(1, 3, 8, 8)).shape == (1, 5, 2, 2)


@pytest.mark.parametrize("wrong", [{"strides": ()}, {"strides": (2, 0)}, {"strides": (-2,)}, {"channels": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValidationError):
        ConvEncoderConfig(**wrong)
