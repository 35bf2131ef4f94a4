"""What every model does with codes and labels that it is given: check them, and hide labels in training."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.nn.collectives import rand_over_ranks


def check_counts(num_codes: int, num_codebooks: int, num_classes: int) -> None:
    """Refuse sizes that no network can be built with.

    Raises:
        InputError: when there is no code or codebook, or a negative number of classes.
    """
    if num_codes < 1 or num_codebooks < 1 or num_classes < 0:
        raise InputError(
            "expected num_codes and num_codebooks of at least 1 and num_classes of at least 0, received "
            f"{num_codes}, {num_codebooks} and {num_classes}; take them from the codes to learn"
        )


def check_codes(codes: Int64[Tensor, "b g *grid"], num_codebooks: int, num_codes: int) -> None:
    """Refuse codes that a model has no embedding for; in a compiled graph, only another number of codebooks.

    Raises:
        InputError: when a code is out of range, or the number of codebooks is another.
    """
    if codes.shape[1] != num_codebooks:
        raise InputError(
            f"expected codes with {num_codebooks} codebooks, received codes of shape {tuple(codes.shape)}; "
            "were they made by another model?"
        )
    # In a graph there are no values yet.
    if torch.compiler.is_compiling() or not codes.numel():
        return
    low, high = (int(bound) for bound in codes.aminmax())
    if low < 0 or high >= num_codes:
        raise InputError(
            f"expected codes from 0 to {num_codes - 1}, received codes from {low} to {high}; "
            "were they made by another model?"
        )


def check_turn(previous: Tensor | None, symbols: int) -> None:
    """Refuse a step without the code before it, or a first step with one; `symbols` steps were made.

    Raises:
        InputError: as said.
    """
    if (previous is None) != (symbols == 0):
        raise InputError(
            f"expected the previous code at every step but the first, received {previous} after "
            f"{symbols} symbols; pass what was drawn from the last logits"
        )


def label_indices(
    conditions: Conditions | None, batch_size: int, num_classes: int, device: torch.device
) -> Int64[Tensor, " b"]:
    """Indices into a table of `num_classes + 1` labels, the last of which stands for "not given".

    Without classes the labels are ignored, and every index is 0.

    Raises:
        InputError: when a label is out of range, or their number is not the batch's.
    """
    labels = conditions.tensor("label") if conditions is not None else None
    if labels is None or not num_classes:
        return torch.full((batch_size,), num_classes, device=device)
    if len(labels) != batch_size:
        raise InputError(f"expected {batch_size} labels, one for each item, received {len(labels)}")
    low, high = (int(bound) for bound in labels.aminmax())
    if low < -1 or high >= num_classes:
        raise InputError(
            f"expected labels from 0 to {num_classes - 1}, or -1 for none, "
            f"received labels from {low} to {high}"
        )
    labels = labels.to(device)
    return labels.where(labels >= 0, num_classes)


def hide_labels(labels: Int64[Tensor, " b"], share: float, num_classes: int) -> Int64[Tensor, " b"]:
    """Make each label "not given" with probability `share`: so a network learns both p(z) and p(z | class).

    Every rank draws for the batch of all ranks and takes its own part: several processes hide what one would.
    """
    if not num_classes:
        return labels
    return labels.masked_fill(rand_over_ranks(labels.shape, labels.device) < share, num_classes)
