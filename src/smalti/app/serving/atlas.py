"""Atlas of a codebook: each code decoded alone, and its share of the training codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from smalti.app.pages.page import inline
from smalti.core.errors import InputError
from smalti.tokenizer import Tokenizer

COLUMNS = 32
MOST_TILES = 4096
"""Codes of all codebooks for which tiles are drawn."""
BATCH = 128
AROUND = 3
"""Side of the grid of one code whose middle is a tile."""
SOUND_S = 0.5


@dataclass(frozen=True)
class Atlas:
    """Tiles and frequencies of all codes of a model.

    Attributes:
        sprite: tiles of all codes in one picture, as `code_map` reads it; None for sounds and some models.
        shares: share of each code in the training codes, one codebook after the other; None if they were not
            counted, or are too many.
    """

    sprite: dict[str, Any] | None
    shares: list[float] | None


def atlas(tokenizer: Tokenizer) -> Atlas:
    """Make the atlas of a model: each code decoded alone, see `single_codes`."""
    counts = code_counts(tokenizer)
    shares = None
    if counts is not None and counts.numel() <= MOST_TILES:
        shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).flatten().tolist()
    return Atlas(_sprite(tokenizer), shares)


def code_counts(tokenizer: Tokenizer) -> Int64[Tensor, "g k"] | None:
    """Return how often each code occurs in the training split; None if it was not counted."""
    unigram = tokenizer.trained.unigram
    return None if unigram is None else unigram.counts.cpu()


def single_codes(tokenizer: Tokenizer, grid: tuple[int, ...]) -> Int64[Tensor, "all g *grid"]:
    """Return one grid filled with each code of each codebook.

    The codes of the other codebooks are their most frequent ones.
    """
    model, counts = tokenizer.autoencoder, code_counts(tokenizer)
    books, size = model.num_codebooks, model.num_codes
    common = torch.zeros(books, dtype=torch.int64) if counts is None else counts.argmax(1)
    codes = common.repeat(books * size, 1)
    for book in range(books):
        codes[book * size : (book + 1) * size, book] = torch.arange(size)
    return codes.view(*codes.shape, *(1,) * len(grid)).expand(-1, -1, *grid).contiguous()


def sound_of(tokenizer: Tokenizer, place: int, code: int, codes: Tensor, class_name: str | None) -> Tensor:
    """Decode one code of a sound alone, for half a second.

    Args:
        tokenizer: of sounds.
        place: of the code, an index into the flattened codes of an item.
        code: which one.
        codes: of the item, int64 `(1, G, n)`; the codes of other codebooks are those at the same time.
        class_name: the speaker, for a decoder that needs one.

    Returns:
        The signal `(1, C, T)`, in the model's range.
    """
    model = tokenizer.autoencoder
    num = codes.shape[2]
    seconds = tokenizer.modality.seconds(model.signal.size[0]) or 1.0
    length = max(1, round(SOUND_S * model.grid[0] / seconds))
    one = codes[:, :, place % num : place % num + 1].expand(-1, -1, length).clone()
    one[:, place // num] = code
    return tokenizer.decode_signals(one, class_name=class_name)


def tile_pictures(tokenizer: Tokenizer) -> np.ndarray | None:
    """Decode each code alone to the picture of its position, uint8 `(G * K, height, width, 3)`.

    Returns:
        None for sounds, and for models whose codes do not stand for a position of a picture.
    """
    model = tokenizer.autoencoder
    spec, num = model.signal, model.num_codebooks * model.num_codes
    has_places = getattr(getattr(model, "quantizer", None), "is_per_position", False)
    has_pictures = spec.has_pictures and not spec.is_continuous and spec.channels in (1, 3)
    if not has_places or not has_pictures or num > MOST_TILES:
        return None
    tiles = []
    for grid in ((*(1,) * (len(model.grid) - 2), AROUND, AROUND), model.grid):
        try:
            tiles = [_tiles(tokenizer, codes) for codes in single_codes(tokenizer, grid).split(BATCH)]
            break
        except (InputError, RuntimeError):  # a model of one size
            continue
    return np.concatenate(tiles) if tiles else None


def _tiles(tokenizer: Tokenizer, codes: Int64[Tensor, "b g *grid"]) -> np.ndarray:
    """Decode grids of one code each, and cut out the middle position of the first frame."""
    model, modality = tokenizer.autoencoder, tokenizer.modality
    given = tokenizer.trained.decoder_conditions(len(codes), _any_class(tokenizer), None)
    with torch.no_grad():
        signals = model.likelihood(codes.to(tokenizer.device), given.to(tokenizer.device)).mean().cpu()
    pictures = modality.to_stored(signals)
    pictures = pictures[:, :, 0] if pictures.ndim == 5 else pictures
    height, width = (
        side // places for side, places in zip(pictures.shape[-2:], codes.shape[-2:], strict=True)
    )
    top, left = codes.shape[-2] // 2 * height, codes.shape[-1] // 2 * width
    cut = pictures[..., top : top + height, left : left + width].expand(-1, 3, -1, -1)
    return cut.movedim(1, -1).to(torch.uint8).numpy()


def _any_class(tokenizer: Tokenizer) -> str | None:
    """Return a class for a decoder that reads one."""
    return tokenizer.classes[0] if tokenizer.autoencoder.num_label_classes else None


def _sprite(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Arrange the tiles in one picture, row by row."""
    tiles = tile_pictures(tokenizer)
    if tiles is None:
        return None
    num, height, width, _ = tiles.shape
    columns, rows = min(COLUMNS, num), -(-num // COLUMNS)
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[:num] = tiles
    sheet = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    picture = Image.fromarray(sheet.reshape(rows * height, columns * width, 3))
    return {"src": inline(picture), "width": width, "height": height, "columns": columns, "rows": rows}
