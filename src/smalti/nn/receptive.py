"""Receptive fields of stacks of convolutions along the first axis, and their outputs within windows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.core.locality import Extent, ReceptiveField
from smalti.nn.blocks import ResidualBlock
from smalti.nn.convnext import ConvNeXtBlock
from smalti.nn.frames import MelFrames, SpectraToWaveform
from smalti.nn.seanet import ResidualUnit, Snake, TimeConvolution, TimeUpsampling

Interval = tuple[int, int]
"""First position, and the one after the last."""
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@singledispatch
def inputs_of(layer: nn.Module, outputs: Interval) -> Interval | None:
    """Input positions that a layer's outputs in an interval depend on; None if it may be all of them."""
    del layer, outputs
    return None


@inputs_of.register(nn.ReLU)
@inputs_of.register(nn.SiLU)
@inputs_of.register(nn.GELU)
@inputs_of.register(Snake)
def _of_activation(layer: nn.Module, outputs: Interval) -> Interval | None:
    del layer
    return outputs


@inputs_of.register(nn.Conv1d)
@inputs_of.register(nn.Conv2d)
@inputs_of.register(nn.Conv3d)
def _of_convolution(layer: Convolution, outputs: Interval) -> Interval | None:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    begin, end = outputs
    last = (end - 1) * stride - padding + (kernel - 1) * layer.dilation[0]
    return begin * stride - padding, last + 1


@inputs_of.register(nn.ConvTranspose1d)
@inputs_of.register(nn.ConvTranspose2d)
@inputs_of.register(nn.ConvTranspose3d)
def _of_transposed_convolution(layer: TransposedConvolution, outputs: Interval) -> Interval | None:
    stride, padding = layer.stride[0], int(layer.padding[0])
    reach = (layer.kernel_size[0] - 1) * layer.dilation[0]
    begin, end = outputs
    # Output o is a sum over the inputs i with o + padding - reach <= i * stride <= o + padding.
    return -((reach - begin - padding) // stride), (end - 1 + padding) // stride + 1


@inputs_of.register(TimeConvolution)
@inputs_of.register(MelFrames)
def _of_time_convolution(layer: TimeConvolution | MelFrames, outputs: Interval) -> Interval | None:
    begin, end = outputs
    return begin * layer.stride - layer.before, end * layer.stride + layer.after


@inputs_of.register(TimeUpsampling)
def _of_time_upsampling(layer: TimeUpsampling, outputs: Interval) -> Interval | None:
    # Output o is a sum over the inputs i with o + cut - 2s + 1 <= i * s <= o + cut.
    stride, (begin, end) = layer.stride, outputs
    return -((2 * stride - 1 - begin - layer.cut) // stride), (end - 1 + layer.cut) // stride + 1


@inputs_of.register(SpectraToWaveform)
def _of_overlapped_frames(layer: SpectraToWaveform, outputs: Interval) -> Interval | None:
    # Output o is a sum over the inputs i with o + cut - length + 1 <= i * s <= o + cut.
    stride, (begin, end) = layer.stride, outputs
    return -((layer.length - 1 - begin - layer.cut) // stride), (end - 1 + layer.cut) // stride + 1


@inputs_of.register(ConvNeXtBlock)
def _of_convnext_block(layer: ConvNeXtBlock, outputs: Interval) -> Interval | None:
    return outputs[0] - layer.before, outputs[1] + layer.after


@inputs_of.register(ResidualBlock)
@inputs_of.register(ResidualUnit)
def _of_residual_block(layer: ResidualBlock | ResidualUnit, outputs: Interval) -> Interval | None:
    return inputs_of(layer.layers, outputs)


@inputs_of.register(nn.Sequential)
def _of_sequence(layers: nn.Sequential, outputs: Interval) -> Interval | None:
    interval: Interval | None = outputs
    for layer in reversed(layers):
        if interval is None:
            return None
        interval = inputs_of(layer, interval)
    return interval


def receptive_field(layers: nn.Sequential, outputs: int, inputs: int) -> ReceptiveField | None:
    """Receptive field of layers that turn each `inputs` positions into `outputs`; None if unbounded."""
    interval = inputs_of(layers, (0, outputs))
    if interval is None:
        return None
    return ReceptiveField(max(0, -interval[0]), max(0, interval[1] - inputs))


@torch.no_grad()
def within(
    layers: Iterable[nn.Module], x: Float[Tensor, "b c n *size"], extent: Extent
) -> Float[Tensor, "b d m *other"]:
    """Apply layers to windows of longer signals, as if each signal ended where its extent does; no gradients.

    What lies beyond the ends is zero for every layer, as its own padding is. Outputs near the borders of a
    window that lie within a signal depend on what the window does not hold.

    Args:
        layers: of a bounded receptive field; their padding is zero.
        x: windows.
        extent: of the signals.
    """
    is_clear = extent.is_whole or extent.is_clear
    x = x if is_clear else x.clone()
    for layer in layers:
        if not is_clear and inputs_of(layer, (0, 1)) != (0, 1):
            extent.clear(x)
        x, is_clear = layer(x), extent.is_whole
    return x
