"""Checks that a model takes signals of other sizes than that of its training."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.models import Autoencoder, LatentVariableModel
from smalti.core.parts import Quantizer
from smalti.core.precision import in_full_precision


@torch.no_grad()
@in_full_precision
def check_any_size(model: Autoencoder) -> None:
    """Encode and decode zeros of a slightly larger size than in training, different along each axis.

    A decoder that needs conditions, other than labels, is not run.

    Args:
        model: in evaluation mode.

    Raises:
        InputError: if the model fails, or its codes have another grid than the strides imply.
    """
    grid = tuple(side // stride + axis for axis, (side, stride) in enumerate(_sides(model), 1))
    size = tuple(places * stride for places, stride in zip(grid, model.strides, strict=True))
    weights = next(model.parameters())
    try:
        codes = model.encode(weights.new_zeros(1, model.signal.channels, *size))
    # Networks of anybody may be given, and fail in any way.
    except Exception as error:
        raise _only_own_size(model) from error
    if tuple(codes.shape[2:]) != grid:
        raise _only_own_size(model)
    try:
        label = torch.full((1,), -1, device=weights.device) if model.num_label_classes else None
        mean: Tensor | None = model.likelihood(codes, Conditions(label=label)).known_mean()
    except InputError:
        return  # a decoder that requires a condition cannot be run without one
    except Exception as error:
        raise _only_own_size(model) from error
    if mean is not None and tuple(mean.shape[2:]) != size:
        raise _only_own_size(model)


def takes_any_size(model: Autoencoder) -> bool:
    """Return whether a model takes signals of other sizes than in training; see `check_any_size`."""
    try:
        check_any_size(model)
    except InputError:
        return False
    return True


def check_any_length(model: LatentVariableModel, noun: str) -> None:
    """Check that no quantizer takes latents of one grid only, as those of the training crops.

    Args:
        model: for signals that may differ in length.
        noun: of the signals, in the plural, for the message.

    Raises:
        InputError: if one does.
    """
    other = tuple(side + 1 for side in model.signal.size)  # longer than any grid of latents
    for part in model.modules():
        if not isinstance(part, Quantizer):
            continue
        try:
            part.code_grid(other)
        except InputError as error:
            raise InputError(
                f"expected a quantizer of latents of any length, since {noun} differ in length, received "
                f"{part.title}, which takes one grid only: use another quantizer, such as kind=residual"
            ) from error


def _sides(model: Autoencoder) -> list[tuple[int, int]]:
    return list(zip(model.signal.size, model.strides, strict=True))


def _only_own_size(model: Autoencoder) -> InputError:
    size = "x".join(str(side) for side in model.signal.size)
    return InputError(
        f"expected a model that takes any size, received one that takes {size} only ({model.title}): use "
        "the size of its training (--size model), or train a convolutional model"
    )
