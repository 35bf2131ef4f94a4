"""Validation of codes and labels, and dropout of labels during training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.nn.collectives import rand_over_ranks

MOST_CODES = 1 << 22
"""Maximum number of codes per codebook of tables with a row for each code, such as counts and embeddings."""


def check_counts(num_codes: int, num_codebooks: int) -> None:
    """Check the sizes of a table or network with a row for each code.

    Raises:
        InputError: if there is no code or codebook, or more than `MOST_CODES`.
    """
    if num_codes < 1 or num_codebooks < 1:
        raise InputError(
            f"expected num_codes and num_codebooks of at least 1, received {num_codes} and {num_codebooks}: "
            "pass the sizes of the codes to model"
        )
    if num_codes > MOST_CODES:
        raise InputError(
            f"expected at most {MOST_CODES:,} codes per codebook, received {num_codes:,}: use several "
            "smaller codebooks, since counts and priors are tables over all codes"
        )


def check_tensor(given: object, noun: str) -> None:
    """Refuse anything but a tensor.

    Args:
        given: what a user passed.
        noun: its name in the message, in the plural.

    Raises:
        InputError: for another type.
    """
    if not isinstance(given, Tensor):
        raise InputError(
            f"expected {noun} as a tensor, received a {type(given).__name__}: convert them with "
            "torch.as_tensor"
        )


def check_kept(codes: Tensor, keep: object, axes: int) -> None:
    """Check codes of which some are kept and the others drawn.

    Args:
        codes: `(B, G, *grid)`, not empty.
        keep: the mask of those that are kept.
        axes: number of axes of the grid.

    Raises:
        InputError: if the codes are no integers, or the mask is no bool tensor of their shape.
    """
    check_code_type(codes)
    is_mask = isinstance(keep, Tensor) and keep.dtype == torch.bool and keep.shape == codes.shape
    if not is_mask or not codes.numel() or codes.ndim != 2 + axes:
        given = f"{getattr(keep, 'dtype', type(keep).__name__)} {tuple(getattr(keep, 'shape', ()))}"
        raise InputError(
            f"expected codes (B, G, *grid) of {axes} axes and a bool tensor of the same shape, received "
            f"codes of shape {tuple(codes.shape)} and {given}: pass what is kept of each code"
        )


def as_codes(given: Any) -> Int64[Tensor, "b g *grid"]:
    """Convert codes of any integer type, in a tensor, an array or nested lists, to an int64 tensor.

    Raises:
        InputError: for another type, lists of unequal length, or fewer than two axes.
    """
    if not isinstance(given, Tensor):
        given = torch.from_numpy(_integers(given))
    elif given.dtype == torch.uint64:
        given = torch.from_numpy(_integers(given.cpu().numpy()))
    is_whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    codes = given.to(torch.int64) if is_whole and not given.is_quantized else given
    check_code_type(codes)
    return codes


def _integers(given: Any) -> Int64[np.ndarray, ...]:
    try:
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        array = np.empty(0, object)
    if array.dtype.kind not in "iu":
        raise InputError(
            f"expected codes as integers in a tensor, an array or nested lists of equal length, received a "
            f"{type(given).__name__} of {array.dtype}: pass codes of shape (B, G, *grid)"
        )
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(
            f"expected codes below the number of codes, received {array.max()}: pass codes of this model"
        )
    return array.astype(np.int64)


def check_code_type(codes: Tensor) -> None:
    """Refuse codes that are no int64 tensor `(B, G, *grid)`, or `(B, *grid, G)`.

    Raises:
        InputError: for another type, or fewer axes.
    """
    check_tensor(codes, "codes")
    if codes.dtype != torch.int64 or codes.ndim < 2:
        raise InputError(
            f"expected codes as an int64 tensor (B, G, *grid), received {codes.dtype} of shape "
            f"{tuple(codes.shape)}: pass what `encode` returned, or convert integers with .long()"
        )


def check_codes(codes: Tensor, num_codebooks: int, num_codes: int) -> None:
    """Check the type of codes, the number of codebooks and, outside compiled graphs, the values.

    Args:
        codes: int64 `(B, G, *grid)`.
        num_codebooks: G.
        num_codes: codes K of each codebook.

    Raises:
        InputError: if the type or the number of codebooks is wrong, or a code is out of range.
    """
    check_code_type(codes)
    if codes.shape[1] != num_codebooks:
        raise InputError(
            f"expected codes with {num_codebooks} codebooks, received codes of shape {tuple(codes.shape)}: "
            "pass codes made by this model"
        )
    if not has_values(codes):
        return
    low, high = (int(bound) for bound in codes.aminmax())
    if low < 0 or high >= num_codes:
        raise InputError(
            f"expected codes from 0 to {num_codes - 1}, received codes from {low} to {high}: "
            "pass codes made by this model"
        )


def has_values(integers: Tensor) -> bool:
    """False while a graph is traced, on the meta device, and for an empty tensor."""
    return not (torch.compiler.is_compiling() or integers.is_meta) and integers.numel() > 0


def check_turn(previous: Tensor | None, symbols: int) -> None:
    """Check that the first step has no previous code and every later step has one.

    Args:
        previous: previous code, or None.
        symbols: number of steps made so far.

    Raises:
        InputError: if the previous code is missing, or given at the first step.
    """
    if (previous is None) != (symbols == 0):
        raise InputError(
            f"expected the previous code at every step but the first, received {previous} after "
            f"{symbols} symbols: pass the symbol that was drawn from the last logits"
        )


def label_indices(
    conditions: Conditions | None, batch_size: int | torch.SymInt, num_classes: int, device: torch.device
) -> Int64[Tensor, " b"]:
    """Convert labels to indices into a table of `num_classes + 1` rows, the last of which is "not given".

    Without classes, labels are ignored, and every index is 0.

    Raises:
        InputError: if a label is out of range, or the number of labels differs from the batch size.
    """
    labels = conditions.tensor("label") if conditions is not None else None
    if labels is None or not num_classes:
        return torch.full((batch_size,), num_classes, device=device)
    # Not `len`, which makes the size of a batch a constant of a traced graph.
    if labels.shape[0] != batch_size:
        raise InputError(f"expected {batch_size} labels, one for each item, received {len(labels)}")
    if has_values(labels):
        low, high = (int(bound) for bound in labels.aminmax())
        if low < -1 or high >= num_classes:
            raise InputError(
                f"expected labels from 0 to {num_classes - 1}, or -1 for none, "
                f"received labels from {low} to {high}"
            )
    labels = labels.to(device)
    return labels.where(labels >= 0, num_classes)


def hide_labels(labels: Int64[Tensor, " b"], share: float, num_classes: int) -> Int64[Tensor, " b"]:
    """Set each label to "not given" with probability `share`, so that a network learns p(z) and p(z | class).

    Every rank draws for the batch of all ranks and uses its own share, so the result does not depend on the
    number of processes.
    """
    if not num_classes:
        return labels
    return labels.masked_fill(rand_over_ranks(labels.shape, labels.device) < share, num_classes)
