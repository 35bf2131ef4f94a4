"""Export of a model's encoder and decoder to ONNX, for onnxruntime in any language and in browsers."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from smalti.core.errors import InputError
from smalti.core.extras import needs_extra
from smalti.core.files import atomic_file
from smalti.core.models import Autoencoder
from smalti.models.programs import free_sides, programs

TOLERANCE, TOLERANCE_OF_SOUND = 1e-4, 1e-3
"""Largest accepted differences of a decoded value, in the range [-1, 1]. Phases of harmonics are sums over
time, in which rounding errors add up."""
MOST_CODES_APART = 1e-3
"""Largest accepted share of codes that differ: rounding decides between codes that are equally near."""
CHECKED = 3
"""Signals of a check; another number than that of the examples of `programs`."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def save_onnx(autoencoder: Autoencoder, directory: Path, about: Mapping[str, str] | None = None) -> bool:
    """Write `encode.onnx` and `decode.onnx`, after comparing both with the model in onnxruntime.

    Inputs and outputs are those of `smalti.models.programs.programs`, named `signal`, `codes` and `label`.
    The nearest code is found in float64.

    Args:
        autoencoder: the model; it is not modified.
        directory: receives the files.
        about: metadata of both files, by name.

    Returns:
        Whether both take other sizes than that of the training data.

    Raises:
        InputError: if a package is missing, the decoder draws sample by sample, an operation of the model has
            no form in ONNX, or the results differ from those of the model.
    """
    with needs_extra("onnx"):
        for package in PACKAGES:
            import_module(package)
    encode, decode = programs(autoencoder)
    signals, codes, decoded = _examples(autoencoder, bool(free_sides(encode)))
    labels = {"label": torch.full((CHECKED,), -1)} if autoencoder.num_label_classes else {}
    most = TOLERANCE if autoencoder.signal.sample_rate_hz is None else TOLERANCE_OF_SOUND
    _write(encode, directory / "encode.onnx", {"signal": signals}, ("codes", codes), most, about or {})
    _write(
        decode, directory / "decode.onnx", {"codes": codes, **labels}, ("signal", decoded), most, about or {}
    )
    return all(map(free_sides, (encode, decode)))


@torch.no_grad()
def _examples(autoencoder: Autoencoder, has_free_size: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return random signals, their codes, and these decoded; of another size than in training if possible."""
    spec = autoencoder.signal
    size = [
        side + stride if has_free_size else side
        for side, stride in zip(spec.size, autoencoder.strides, strict=True)
    ]
    generator = torch.Generator().manual_seed(0)
    signals = torch.rand(CHECKED, spec.channels, *size, generator=generator) * 2 - 1
    codes = autoencoder.encode(signals.to(next(autoencoder.parameters()).device))
    return signals, codes.cpu(), autoencoder.decode(codes).cpu()


def _write(
    program: ExportedProgram,
    path: Path,
    inputs: Mapping[str, Tensor],
    expected: tuple[str, Tensor],
    tolerance: float,
    about: Mapping[str, str],
) -> None:
    """Convert, compare and write one program."""
    output, wanted = expected
    try:
        with _quiet():
            made: Any = torch.onnx.export(program, input_names=list(inputs), output_names=[output])
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(
            f"expected a model that has a form in ONNX, received one with an operation in {path.stem!r} that "
            "has none: export it by --torch"
        ) from error
    made.model.metadata_props.update(about)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        made.save(str(temporary))
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = runtime.InferenceSession(str(temporary), options, providers=["CPUExecutionProvider"])
        (received,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        _compare(path.stem, received, wanted.numpy(), tolerance)


def _compare(name: str, received: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """Check what onnxruntime computed.

    Raises:
        InputError: if it is not what the model computes.
    """
    if received.shape == wanted.shape:
        if wanted.dtype.kind == "i":
            apart = float((received != wanted).mean())
            if apart <= MOST_CODES_APART:
                return
            found = f"{apart:.1%} of the codes differ"
        else:
            apart = float(np.abs(received - wanted).max(initial=0))
            if apart <= tolerance:
                return
            found = f"values differ by up to {apart:.2g}"
    else:
        found = f"the shape is {received.shape} instead of {wanted.shape}"
    raise InputError(
        f"expected the same results of {name!r} in onnxruntime as in torch, but {found}: export by --torch"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress, and its warnings about packages that it does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
