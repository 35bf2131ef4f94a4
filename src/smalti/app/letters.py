"""Pictures of letters drawn with matplotlib's fonts: demo data that needs no download."""

from __future__ import annotations

import io
import math
import string
from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from smalti.core.errors import InputError
from smalti.core.files import atomic_directory
from smalti.data.sources.base import Item, Source
from smalti.data.sources.conventions import require_split

TRAIN_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-BoldItalic",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "cmb10",
    "cmmi10",
    "cmr10",
    "cmti10",
    "cmtt10",
)
TEST_FONTS = ("DejaVuSansMono-Bold", "DejaVuSerif-Bold", "STIXGeneralItalic", "cmss10")
"""Held-out fonts, absent from training pictures. Four styles: mono, serif, italic and sans."""

COLOURS = (
    ("#f4efe3", "#1f3a5f"),
    ("#f2c14e", "#7a1e2c"),
    ("#2a6f4e", "#f4efe3"),
    ("#d7e8ef", "#a3271f"),
)
"""High-contrast pairs of background and ink.

Only a few: each pair needs codes of its own, and a prior has to learn the letters in each pair's codes.
"""

SUPERSAMPLING = 3
PADDING = 2
"""Empty pixels around a glyph's mask, so that its edges stay smooth under rotation."""


@final
class LettersSource(Source):
    """RGB pictures of single characters; the class is the character.

    Pictures vary in font, weight, colours, size, position, rotation and shear. Classes alternate, so they are
    balanced. Picture i of a split depends only on the arguments, the split and i, so the order of access and
    the number of processes do not change it.

    Args:
        num_train: number of training pictures, drawn with `TRAIN_FONTS`.
        num_test: number of test pictures, drawn with `TEST_FONTS`.
        seed: seed of all pictures, 0 or above.
        characters: the classes.
        image_size: width and height, pixels.

    Raises:
        InputError: when an argument is out of range, or no font has one of the characters.
    """

    def __init__(
        self,
        num_train: int = 20_000,
        num_test: int = 2_000,
        seed: int = 0,
        characters: str = string.ascii_lowercase,
        image_size: int = 32,
    ):
        if min(num_train, num_test, seed) < 0 or num_train + num_test == 0:
            raise InputError(
                "expected a number of letters above 0 and a seed of at least 0, "
                f"received {num_train} for train, {num_test} for test and seed {seed}"
            )
        if not characters or len(set(characters)) < len(characters):
            raise InputError(f"expected distinct characters, received {characters!r}")
        if image_size < 8:
            raise InputError(f"expected an image size of at least 8 pixels, received {image_size}")
        self._counts = {name: num for name, num in (("train", num_train), ("test", num_test)) if num}
        self.splits = tuple(self._counts)
        self._seed = seed
        self._characters = characters
        self._size = image_size
        # Before scaling, a glyph's longer side is at most 5/6 of the picture.
        glyph_size = 5 / 6 * image_size * SUPERSAMPLING
        self._glyphs = {
            split: _glyphs(TRAIN_FONTS if split == "train" else TEST_FONTS, characters, glyph_size)
            for split in self.splits
        }
        sizes = ", ".join(f"{name} {self._counts[name]:,}" for name in self.splits)
        shown = characters if len(characters) <= 40 else f"{characters[:37]}..."
        self.description = f"drawn letters {shown}, seed {seed} ({sizes})"

    def count(self, split: str) -> int:
        require_split(split, self.splits, self.description)
        return self._counts[split]

    def items(self, split: str) -> Iterator[Item]:
        for index in range(self.count(split)):
            yield self.item(split, index)

    def item(self, split: str, index: int) -> Item:
        """Draw picture `index` of a split, uint8 `(H, W, 3)`."""
        if not 0 <= index < self.count(split):
            raise IndexError(f"expected an index below {self.count(split)}, received {index}")
        character = self._characters[index % len(self._characters)]
        # The index of a split does not depend on which splits exist.
        rng = np.random.default_rng((self._seed, ("train", "test").index(split), index))
        glyphs = self._glyphs[split][character]
        coverage = self._place(glyphs[rng.integers(len(glyphs))], rng)
        background, ink = _colours(rng)
        picture = background + coverage[..., None] * (ink - background)
        return Item(f"{split}/{index:06d}", (picture + 0.5).astype(np.uint8), character)

    def notes(self, split: str) -> list[str]:
        require_split(split, self.splits, self.description)
        return [f"fonts of the test split only: {', '.join(TEST_FONTS)}"] if split == "test" else []

    def _place(self, glyph: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Rotate, shear, scale and shift a glyph so that it stays inside the picture.

        Returns:
            Coverage of each pixel, float32 `(H, W)` in [0, 1].
        """
        turn, shear, scale, stretch, shift_x, shift_y = rng.uniform(-1, 1, 6).tolist()
        angle = math.radians(6) * turn
        scale = 1 + 0.08 * scale
        # Forward map of an offset from the glyph's centre: rotation . shear . scale.
        cos, sin = math.cos(angle), math.sin(angle)
        sheared = 0.08 * shear
        across, along = scale * (1 + 0.05 * stretch), scale * (1 - 0.05 * stretch)
        xx, xy = cos * across, (cos * sheared - sin) * along
        yx, yy = sin * across, (sin * sheared + cos) * along

        canvas = self._size * SUPERSAMPLING
        width, height = glyph.size[0] - 2 * PADDING, glyph.size[1] - 2 * PADDING
        extent_x = abs(xx) * width + abs(xy) * height
        extent_y = abs(yx) * width + abs(yy) * height
        # Leave one pixel free on each side, plus the fraction of a pixel that interpolation adds to the edge.
        room = canvas - 2 * (SUPERSAMPLING + 2)
        fit = min(1.0, room / max(extent_x, extent_y))
        xx, xy, yx, yy = xx * fit, xy * fit, yx * fit, yy * fit
        reach = canvas / 20
        centre_x = canvas / 2 + shift_x * min(reach, (room - fit * extent_x) / 2)
        centre_y = canvas / 2 + shift_y * min(reach, (room - fit * extent_y) / 2)

        # Pillow expects the inverse map, from a position in the picture to one in the glyph's mask.
        determinant = xx * yy - xy * yx
        back_xx, back_xy = yy / determinant, -xy / determinant
        back_yx, back_yy = -yx / determinant, xx / determinant
        data = (
            back_xx,
            back_xy,
            glyph.size[0] / 2 - back_xx * centre_x - back_xy * centre_y,
            back_yx,
            back_yy,
            glyph.size[1] / 2 - back_yx * centre_x - back_yy * centre_y,
        )
        placed = glyph.transform(
            (canvas, canvas), Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR
        )
        return np.asarray(placed.reduce(SUPERSAMPLING), np.float32) / 255


def write_folder(
    directory: Path,
    num: int,
    seed: int = 0,
    split: str = "train",
    characters: str = string.ascii_lowercase,
    image_size: int = 32,
) -> None:
    """Write letters as PNG files in one folder per class, such as `a/000001.png`.

    The folder appears when all of them are written.

    Args:
        directory: a new or empty folder.
        num: number of pictures.
        seed: seed of `LettersSource`.
        split: "train" or "test"; selects the fonts.
        characters: the classes.
        image_size: width and height, pixels.

    Raises:
        InputError: when the folder is not empty, or an argument is out of range.
    """
    require_split(split, ("train", "test"), "the letters")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            f"expected a new or empty folder for the letters, received {directory}: choose another"
        )
    counts = {"num_train": 0, "num_test": 0, f"num_{split}": num}
    source = LettersSource(**counts, seed=seed, characters=characters, image_size=image_size)
    with atomic_directory(directory, durable=False) as temporary:
        for index, item in enumerate(source.items(split)):
            assert item.label is not None
            folder = temporary / _folder_name(item.label, characters)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(item.content)).save(
                folder / f"{index // len(characters) + 1:06d}.png", compress_level=1
            )


def _folder_name(character: str, characters: str) -> str:
    """Name the folder of a class: the character, unless a file system rejects it or ignores its case."""
    alone = sum(other.casefold() == character.casefold() for other in characters) == 1
    return character if character.isalnum() and alone else f"U+{ord(character):04X}"


def _glyphs(fonts: tuple[str, ...], characters: str, size: float) -> dict[str, list[Image.Image]]:
    """Draw masks of each character, one per font that contains it, with an empty border.

    Args:
        fonts: names of fonts included with matplotlib.
        characters: the characters to draw.
        size: longer side of the largest glyph of each font, pixels.
    """
    glyphs: dict[str, list[Image.Image]] = {character: [] for character in characters}
    for name in fonts:
        for character, mask in _font_glyphs(name, characters, size).items():
            glyphs[character].append(mask)
    missing = [character for character, masks in glyphs.items() if not masks]
    if missing:
        raise InputError(
            "expected characters that matplotlib's fonts contain, received "
            f"{', '.join(map(repr, missing))}: remove these characters"
        )
    return glyphs


def _font_glyphs(name: str, characters: str, size: float) -> dict[str, Image.Image]:
    """Draw masks of the characters that the font contains."""
    probe = _font(name, 100.0)
    # A missing character is drawn as a box or not at all; U+FFFF, a noncharacter, is missing in every font.
    box = _mask(probe, "\uffff")
    masks = {character: _mask(probe, character) for character in characters}
    drawn = [character for character, mask in masks.items() if mask.getbbox() and mask != box]
    if not drawn:
        return {}
    longest = max(max(_framed(masks[character]).size) for character in drawn) - 2 * PADDING
    font = _font(name, 100.0 * size / longest)
    return {character: _framed(_mask(font, character)) for character in drawn}


def _font(name: str, size: float) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    try:
        # Opened from bytes: for a missing path, Pillow would load a system font of the same name.
        # Raqm, if available, is slower and shapes single characters no better.
        data = io.BytesIO(path.read_bytes())
        return ImageFont.truetype(data, size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise InputError(f"matplotlib's font {path} cannot be read: reinstall matplotlib") from error


def _mask(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Draw the character in white on black, with the font's own margins."""
    left, top, right, bottom = font.getbbox(character)
    mask = Image.new("L", (math.ceil(right - left) + 1, math.ceil(bottom - top) + 1))
    ImageDraw.Draw(mask).text((-left, -top), character, fill=255, font=font)
    return mask


def _framed(mask: Image.Image) -> Image.Image:
    """Replace the font's margins of a mask with the border common to all glyphs."""
    core = mask.crop(mask.getbbox())
    framed = Image.new("L", (core.width + 2 * PADDING, core.height + 2 * PADDING))
    framed.paste(core, (PADDING, PADDING))
    return framed


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a background and an ink colour, float32 `(3,)` in 0..255."""
    background, ink = COLOURS[rng.integers(len(COLOURS))]
    return np.array(ImageColor.getrgb(background), np.float32), np.array(ImageColor.getrgb(ink), np.float32)
