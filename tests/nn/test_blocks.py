"""Lengths that the strided convolutions promise, and the residual block by hand."""

import pytest
import torch
import torch.nn.functional as F

from smalti.nn.blocks import NormalizedResidualBlock, ResidualBlock, downsample, num_groups, upsample

STRIDES = pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
NDIMS = pytest.mark.parametrize("ndim", [1, 2, 3])


@NDIMS
@STRIDES
def test_downsampling_divides_every_length_and_upsampling_multiplies_it(stride, ndim):
    grid = (1, 2, 3)[3 - ndim :]
    size = tuple(stride * length for length in grid)
    down, up = downsample(ndim, 2, 3, stride), upsample(ndim, 3, 2, stride)
    assert down(torch.randn(2, 2, *size)).shape == (2, 3, *grid)
    assert up(torch.randn(2, 3, *grid)).shape == (2, 2, *size)


@STRIDES
def test_every_element_counts_and_each_output_sees_the_same_on_both_sides(stride):
    """The kernel is centred: mirrored weights of a mirrored signal give the mirrored output."""
    down, up = downsample(1, 1, 1, stride), upsample(1, 1, 1, stride)
    for layer, length in ((down, 6 * stride), (up, 6)):
        x = torch.randn(1, 1, length, requires_grad=True)
        layer(x).sum().backward()
        assert (x.grad != 0).all()
        forward = layer(x.detach())
        layer.weight.data = layer.weight.data.flip(2)
        torch.testing.assert_close(layer(x.detach().flip(2)).flip(2), forward)


def test_stride_2_is_the_papers_kernel():
    for layer in (downsample(2, 3, 8, 2), upsample(2, 3, 8, 2)):
        assert layer.kernel_size == (4, 4)
        assert layer.stride == (2, 2)


@NDIMS
def test_the_residual_block_by_hand(ndim):
    block = ResidualBlock(ndim, 3, 2)
    conv = (F.conv1d, F.conv2d, F.conv3d)[ndim - 1]
    x = torch.randn(2, 3, *(4, 5, 3)[:ndim])
    _, first, _, second = block.layers
    assert first.kernel_size == (3,) * ndim
    hidden = conv(x.clamp_min(0), first.weight, first.bias, padding=1)
    expected = x + conv(hidden.clamp_min(0), second.weight, second.bias)
    before = x.clone()
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)


@NDIMS
def test_a_normalized_block_starts_as_the_identity_and_learns(ndim):
    block = NormalizedResidualBlock(ndim, 6, 4)
    x = torch.randn(2, 6, *(3,) * ndim)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    last = block.layers[-1]
    assert last.weight.grad.any()


def test_a_normalized_block_by_hand():
    block = NormalizedResidualBlock(1, 4, 6)
    first, last = block.layers[2], block.layers[5]
    torch.nn.init.normal_(last.weight)
    x = torch.randn(2, 4, 5)
    inner = F.conv1d(F.silu(F.group_norm(x, 4)), first.weight, first.bias, padding=1)
    expected = x + F.conv1d(F.silu(F.group_norm(inner, 6)), last.weight, last.bias)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (7, 7), (8, 8), (12, 6), (96, 8), (11, 1)])
def test_groups_divide_the_channels(channels, groups):
    assert num_groups(channels) == groups
