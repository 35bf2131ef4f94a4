"""The code-grid modality: the codes of one autoencoder are the signals of a second stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from PIL import Image
from pydantic import Field, PositiveInt
from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.modality import MODALITIES, Modality, ModalityConfig
from smalti.core.signals import Levels, SignalSpec
from smalti.data.sources.base import UnreadableItem
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.nn.symbols import MOST_CODES

PREVIEW_SIDE = 84
PREVIEW_GAP = 4
COLUMNS = 8


@MODALITIES.register
class CodeGridConfig(ModalityConfig):
    """Settings of `CodeGridModality`, which must match the first stage.

    Attributes:
        size: rows and columns of a grid.
        num_codes: entries K of each codebook, up to 2^22, which float32 can tell apart as levels.
        num_codebooks: codes G at each position.
    """

    kind: Literal["code_grid"] = "code_grid"
    size: tuple[PositiveInt, PositiveInt] = (21, 21)
    num_codes: int = Field(default=512, ge=2, le=MOST_CODES)
    num_codebooks: int = Field(default=1, ge=1)

    @classmethod
    def tiny(cls) -> CodeGridConfig:
        """Return the smallest useful settings, for tests."""
        return cls(size=(6, 6), num_codes=16)

    def build(self) -> CodeGridModality:
        """Build the modality."""
        return CodeGridModality(self)


@final
class CodeGridModality(Modality):
    """Code grids `(B, G, rows, columns)` in K levels, which a model sees in [-1, 1].

    The levels are categories without order: use an encoder that embeds each code (`CodeGridEncoder`) and a
    categorical likelihood.
    """

    extensions = (".parquet",)
    ending = ".npy"
    plural_name = "code grids"

    def __init__(self, config: CodeGridConfig) -> None:
        self.config = config

    @property
    def spec(self) -> SignalSpec:
        """One channel per codebook, the size of the grid, and one level per code."""
        config = self.config
        return SignalSpec(
            channels=config.num_codebooks,
            size=config.size,
            domain=Levels(config.num_codes),
            axes=("height", "width"),
        )

    def protocol(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return self.config.model_dump(mode="json")

    def decode(self, content: Any) -> np.ndarray:
        """Check one code grid `(G, rows, columns)`, an item of `CodesSource`.

        Raises:
            UnreadableItem: if it is not an array of codes of this shape and range.
        """
        config, spec = self.config, self.spec
        expected = (spec.channels, *spec.size)
        if not isinstance(content, np.ndarray) or content.dtype.kind not in "iu":
            raise UnreadableItem("not an array of codes: encode the data first")
        if content.shape != expected or content.min() < 0 or content.max() >= config.num_codes:
            raise UnreadableItem(
                f"codes of shape {content.shape} from {content.min()} to {content.max()}, expected shape "
                f"{expected} and {config.num_codes} codes"
            )
        return content.astype(spec.domain.dtype)

    def to_model(self, levels: Tensor) -> Float32[Tensor, "b g h w"]:
        """Convert codes to [-1, 1]."""
        return from_levels(levels, self.config.num_codes)

    def to_stored(self, signal: Float[Tensor, "b g h w"]) -> Int64[Tensor, "b g h w"]:
        """Convert [-1, 1] to codes: the exact inverse of `to_model`."""
        return to_levels(signal.detach(), self.config.num_codes)

    def check(self, signal: Any) -> Float32[Tensor, "b g h w"]:
        """Validate user input and convert it to the model's range.

        Args:
            signal: integer codes `(B, G, rows, columns)` or `(G, rows, columns)`, a tensor or an array.

        Raises:
            InputError: for another type, shape or range.
        """
        if not isinstance(signal, Tensor | np.ndarray) or (
            isinstance(signal, np.ndarray) and signal.dtype.kind not in "iuf"
        ):
            raise InputError(
                f"expected code grids as an integer tensor or array, received {type(signal).__name__}: read "
                "a file of codes with smalti.data.codes.read_codes"
            )
        codes = torch.as_tensor(signal)
        spec = self.spec
        shape = (spec.channels, *spec.size)
        if codes.is_floating_point() or codes.ndim not in (3, 4) or codes.shape[-3:] != shape:
            raise InputError(
                f"expected integer codes of shape (B, {', '.join(map(str, shape))}), received {codes.dtype} "
                f"of shape {tuple(codes.shape)}: encode signals with the first stage"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < spec.levels:
            raise InputError(
                f"expected codes from 0 to {spec.levels - 1}, received {int(codes.min())} to "
                f"{int(codes.max())}: encode signals with the first stage"
            )
        return self.to_model(codes.reshape(-1, *shape))

    def preview(self, rows: Sequence[Any]) -> Image.Image:
        """Draw the codes of the first codebook, one colour per code: one row per element of `rows`.

        Args:
            rows: batches `(B, G, rows, columns)`, or lists of `(G, rows, columns)`; codes or floats in
                [-1, 1]. The first eight grids are shown.

        Raises:
            InputError: if a row is empty.
        """
        if not rows or not all(len(row) for row in rows):
            raise InputError("expected code grids to show, received none: pass at least one")
        maps = [np.stack([self._codes(one)[0] for one in row][:COLUMNS]) for row in rows]
        height, width = self.config.size
        scale = max(1, round(PREVIEW_SIDE / max(height, width)))
        # Hues are shuffled, because neighbouring numbers are not similar codes.
        hues = np.random.default_rng(0).permutation(self.config.num_codes) / self.config.num_codes
        cells = [[_painted(hues[codes], scale) for codes in row] for row in maps]
        step = (height * scale + PREVIEW_GAP, width * scale + PREVIEW_GAP)
        canvas = Image.new(
            "RGB", (step[1] * len(cells[0]) + PREVIEW_GAP, step[0] * len(cells) + PREVIEW_GAP), "white"
        )
        for y, row in enumerate(cells):
            for x, cell in enumerate(row):
                canvas.paste(cell, (PREVIEW_GAP + x * step[1], PREVIEW_GAP + y * step[0]))
        return canvas

    def save(self, signal: Tensor | np.ndarray, path: str | Path) -> None:
        """Write the codes of one grid as `.npy`, int64 `(G, rows, columns)`.

        Raises:
            InputError: if the signal is not one grid.
        """
        np.save(path, self._codes(signal))

    def _codes(self, signal: Tensor | np.ndarray) -> Int64[np.ndarray, "g h w"]:
        given = torch.as_tensor(signal)
        codes = to_levels(given, self.config.num_codes) if given.is_floating_point() else given
        shape = (self.spec.channels, *self.spec.size)
        if codes.numel() != torch.Size(shape).numel():
            raise InputError(f"expected one code grid of shape {shape}, received {tuple(given.shape)}")
        return codes.reshape(shape).cpu().numpy().astype(np.int64)


def _painted(hues: np.ndarray, scale: int) -> Image.Image:
    """Draw hues in [0, 1) as an image, enlarged by `scale`."""
    hsv = np.stack([hues * 255, np.full_like(hues, 150), np.full_like(hues, 220)], 2).astype(np.uint8)
    return Image.fromarray(hsv.repeat(scale, 0).repeat(scale, 1), "HSV").convert("RGB")
