"""Export of a model's encoder and decoder as `torch.export` programs, which run without this package."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from smalti.core.conditioners import readable_conditions
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.models import Autoencoder
from smalti.models.sizes import takes_any_size

MORE_THAN_ONE = 2
"""Batch size of the example inputs: `torch.export` would specialise on a batch of one."""


@final
class _Encode(nn.Module):
    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, signal: Float[Tensor, "b c *size"]) -> Int64[Tensor, "b g *grid"]:
        return self.autoencoder.encode(signal)


@final
class _Decode(nn.Module):
    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(
        self, codes: Int64[Tensor, "b g *grid"], label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c *size"]:
        return self.autoencoder.decode(codes, None if label is None else Conditions(label=label))


@torch.no_grad()
def programs(autoencoder: Autoencoder) -> tuple[ExportedProgram, ExportedProgram]:
    """Export `encode` and `decode` as graphs of plain operations, for any batch size.

    The first maps signals `(B, C, *size)` in [-1, 1] to codes int64 `(B, G, *grid)`. The second maps codes,
    and for a class-conditional decoder labels int64 `(B,)`, of which -1 is no class, to the mean of
    p(x | codes). Codes and labels out of range are not checked and give meaningless output.

    Any size that is a multiple of the strides is accepted if the model accepts other sizes than that of its
    training data (`takes_any_size`) and its networks can be exported for them (`free_sides`). The programs
    run on the CPU and find the nearest code in float64, with a score for every token and code.

    Args:
        autoencoder: the model; it is not modified.

    Raises:
        InputError: if the decoder draws sample by sample, which is a loop and cannot be exported as a graph,
            or reads other conditions than the label.
    """
    autoencoder = copy.deepcopy(autoencoder).cpu().eval()
    spec = autoencoder.signal
    codes = torch.zeros(MORE_THAN_ONE, autoencoder.num_codebooks, *autoencoder.grid, dtype=torch.int64)
    if autoencoder.likelihood(codes).known_mean() is None:
        raise InputError(
            "expected a decoder whose likelihood has a known mean, received one that draws sample by sample: "
            "use this package to decode, or train with decoder.kind=conv"
        )
    if others := sorted(readable_conditions(autoencoder.decoder) - {"label"}):
        raise InputError(
            f"expected a decoder with no condition but the label, received one that reads "
            f"{', '.join(others)}: use this package to decode"
        )
    signal = torch.zeros(MORE_THAN_ONE, spec.channels, *spec.size)
    labels = (torch.full((MORE_THAN_ONE,), -1),) if autoencoder.num_label_classes else ()
    places, sides = [], []
    if takes_any_size(autoencoder):
        places = [Dim(name, min=1) for name in spec.axes]
        sides = [
            stride * place if stride > 1 else place
            for place, stride in zip(places, autoencoder.strides, strict=True)
        ]
    return (
        _exported(_Encode(autoencoder), (signal,), sides),
        _exported(_Decode(autoencoder), (codes, *labels), places),
    )


def _exported(module: nn.Module, arguments: tuple[Tensor, ...], sides: Sequence[Any]) -> ExportedProgram:
    """Export for any batch size, and for any size of the first argument if its networks allow it."""
    from torch._dynamo.exc import UserError  # the tracer takes a second to import

    batch = Dim("batch", min=1)

    def export(sides: Sequence[Any]) -> ExportedProgram:
        free = ({0: batch, **dict(enumerate(sides, 2))}, *({0: batch},) * (len(arguments) - 1))
        return torch.export.export(module, arguments, dynamic_shapes=free)

    try:
        return export(sides)
    except UserError:  # some network computes with the size as a number
        pass
    try:
        return export(())
    except Exception as error:
        raise InputError(
            f"expected networks that torch.export can trace, received others ({type(error).__name__}): "
            "use this package to encode and decode"
        ) from error


def free_sides(program: ExportedProgram) -> list[str]:
    """Sides of the first input of an exported program, after the channels, that may have any size."""
    (first, *_) = program.graph_signature.user_inputs
    (node,) = (node for node in program.graph.nodes if node.name == first)
    return [str(side) for side in node.meta["val"].shape[2:] if not isinstance(side, int)]


def save_programs(autoencoder: Autoencoder, directory: Path) -> bool:
    """Write the `programs` of a model, `encode.pt2` and `decode.pt2`.

    Returns:
        Whether both take other sizes than that of the training data.

    Raises:
        InputError: as `programs`.
    """
    made = programs(autoencoder)
    for name, program in zip(("encode", "decode"), made, strict=True):
        with atomic_file(directory / f"{name}.pt2") as temporary:
            torch.export.save(program, temporary)
    return all(map(free_sides, made))
