"""The convolutional encoder: what it looks like, its grid, and the sizes that it refuses."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.encoders.conv import ConvEncoder, ConvEncoderConfig


def encoder(size: tuple[int, ...], strides=(2, 2), **settings) -> ConvEncoder:
    config = ConvEncoderConfig(channels=6, residual_channels=4, strides=strides, **settings)
    return config.build(SignalSpec(channels=3, size=size), dim=5)


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
    ],
)
def test_a_size_that_does_not_divide_is_refused_with_an_advice_that_works(size, strides, given, advice):
    layer = encoder(size, strides)
    key = "data.length" if len(size) == 1 else "data.size"
    with pytest.raises(InputError, match=rf"multiples of \d+ .*received {given}: set {key}={advice},"):
        layer.grid(size)
    assert layer.grid([int(side) for side in advice.split("x")])


@pytest.mark.parametrize(
    ("size", "settings", "advice"),
    [
        ((6, 8, 9), {}, "data.frames=8 data.size=8x8"),
        ((5, 8, 9), {"per_frame": True}, "data.frames=5 data.size=8x8"),
        ((5, 8, 8), {"time_strides": (1, 2)}, "data.frames=4 data.size=8x8"),
    ],
)
def test_of_clips_the_frames_are_distinguished_from_their_sides(size, settings, advice):
    factor = 1 if settings.get("per_frame") else 2 if settings else 4
    words = rf"frames that is a multiple of {factor} and .* multiples of 4 .*received [\dx]+: set {advice},"
    with pytest.raises(InputError, match=words):
        encoder(size, **settings).grid(size)


@pytest.mark.parametrize(
    ("settings", "grid"),
    [
        ({"time_strides": (1, 1)}, (6, 2, 3)),
        ({"time_strides": (3, 1)}, (2, 2, 3)),
        ({"per_frame": True}, (6, 2, 3)),
    ],
)
def test_time_has_strides_of_its_own(settings, grid):
    layer = encoder((6, 8, 12), **settings)
    assert layer(torch.randn(2, 3, 6, 8, 12)).shape == (2, 5, *grid)
    assert layer.grid((6, 8, 12)) == grid


def test_with_a_stride_of_1_over_time_neighbours_are_seen_and_per_frame_none():
    for settings, seen in (({"time_strides": (1, 1)}, True), ({"per_frame": True}, False)):
        layer, clip = encoder((4, 8, 8), **settings), torch.randn(1, 3, 4, 8, 8)
        other = clip.clone()
        other[:, :, 2] += 1
        changed = (layer(clip) != layer(other)).flatten(3).any(3).any(1)[0]
        assert changed[2]
        assert changed[1].item() == seen
        assert changed[[0, 1, 3]].any().item() == seen


def test_per_frame_is_the_network_of_pictures(monkeypatch):
    """With the same weights, by the same names; however many frames pass it together."""
    clips, pictures = encoder((3, 8, 8), per_frame=True), encoder((8, 8))
    pictures.load_state_dict(clips.state_dict())
    x = torch.randn(2, 3, 5, 8, 8)
    for at_once in (256, 3):
        monkeypatch.setattr("smalti.nn.blocks.FRAMES_AT_ONCE", at_once)
        expected = torch.stack([pictures(frame) for frame in x.unbind(2)], 2)
        torch.testing.assert_close(clips(x), expected)


def test_only_clips_have_time():
    for settings in ({"per_frame": True}, {"time_strides": (1, 1)}):
        with pytest.raises(InputError, match=r"expected clips \(three axes\).* signals of 2"):
            encoder((8, 8), **settings)


def test_the_papers_encoder():
    layer = ConvEncoder(3, dim=64, channels=256, residual_channels=256)
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"strides": ()},
        {"strides": (2, 0)},
        {"strides": (-2,)},
        {"channels": 0},
        {"time_strides": (1,)},
        {"time_strides": (1, 0)},
        {"time_strides": (1, 1), "per_frame": True},
    ],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValidationError):
        ConvEncoderConfig(**wrong)
