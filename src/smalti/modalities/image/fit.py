"""How a picture is brought to the size of an item: scaled, and cropped at the centre or left whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

from PIL import Image, ImageOps


@final
@dataclass(frozen=True)
class Picture:
    """An upright picture.

    Attributes:
        image: its pixels.
        aspect: width of a pixel divided by its height.
        reduction: factor by which the decoder has reduced the picture.
        box: part of the reduced image that shows the picture, since its sides need not divide; None for all.
    """

    image: Image.Image
    aspect: float = 1.0
    reduction: int = 1
    box: tuple[float, float, float, float] | None = None

    @property
    def part(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower side of the picture in its image."""
        return self.box or (0.0, 0.0, float(self.image.width), float(self.image.height))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as the file states them."""
        left, top, right, bottom = self.part
        return round((right - left) * self.reduction), round((bottom - top) * self.reduction)

    def resized(self, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
        """Return the image at a size; unchanged if it has that size."""
        if self.image.size == size and self.box is None:
            return self.image
        return self.image.resize(size, resampling, box=self.box)


class Fit(ABC):
    """A rule by which upright pictures are scaled and cropped."""

    @property
    @abstractmethod
    def sides(self) -> tuple[int | None, int | None]:
        """Height and width of the result; None where pictures keep their own."""

    @abstractmethod
    def scale(self, width: float, height: float) -> float:
        """Return the factor by which a picture of square pixels is scaled."""

    @abstractmethod
    def apply(self, picture: Picture, resampling: Image.Resampling) -> Image.Image:
        """Scale and crop a picture; the pixels of the result are square."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Return the rule as plain JSON values: the keys `size` and `crop`, and further ones."""

    @abstractmethod
    def portion(self, plural_name: str) -> str:
        """Say which part of items the results show."""


@final
@dataclass(frozen=True)
class Cover(Fit):
    """Scales a picture to cover a size, and crops it at the centre.

    Attributes:
        height, width: of the result.
    """

    height: int
    width: int

    @property
    def sides(self) -> tuple[int, int]:
        return self.height, self.width

    def scale(self, width: float, height: float) -> float:
        return max(self.width / width, self.height / height)

    def apply(self, picture: Picture, resampling: Image.Resampling) -> Image.Image:
        size = (self.width, self.height)
        if picture.aspect == 1 and picture.box is None:
            image = picture.image
            return image if image.size == size else ImageOps.fit(image, size, method=resampling)
        # The largest central part that has the shape of the result when it is shown.
        first, top, last, bottom = picture.part
        shape = self.width / self.height / picture.aspect
        width = min(last - first, (bottom - top) * shape)
        height = min(bottom - top, (last - first) / shape)
        left, upper = (first + last - width) / 2, (top + bottom - height) / 2
        box = (left, upper, min(left + width, last), min(upper + height, bottom))
        return picture.image.resize(size, resampling, box=box)

    def protocol(self) -> dict[str, Any]:
        return {"size": [self.height, self.width], "crop": "centre"}

    def portion(self, plural_name: str) -> str:
        size = f"{self.height}x{self.width} (height x width)"
        return f"{plural_name} scaled to cover {size}, and cropped at the centre"


@final
@dataclass(frozen=True)
class Whole(Fit):
    """Keeps the whole picture.

    Attributes:
        shorter: length to which the shorter side is scaled; None for pictures of their own size.
        least: height and width that the result has at least; smaller pictures are enlarged.
    """

    shorter: int | None = None
    least: tuple[int, int] = (1, 1)

    @property
    def sides(self) -> tuple[None, None]:
        return None, None

    def scale(self, width: float, height: float) -> float:
        least_height, least_width = self.least
        wanted = 1.0 if self.shorter is None else self.shorter / min(width, height)
        return max(wanted, least_width / width, least_height / height)

    def apply(self, picture: Picture, resampling: Image.Resampling) -> Image.Image:
        # The shorter side of a pixel is enlarged, so that no detail is lost.
        width = picture.size[0] * max(1.0, picture.aspect)
        height = picture.size[1] * max(1.0, 1 / picture.aspect)
        scale = self.scale(width, height)
        least_height, least_width = self.least
        size = (max(least_width, round(width * scale)), max(least_height, round(height * scale)))
        return picture.resized(size, resampling)

    def protocol(self) -> dict[str, Any]:
        if self == Whole():
            return {"size": "native", "crop": "none"}
        return {"size": "native", "crop": "none", "resize": self.shorter, "least": list(self.least)}

    def portion(self, plural_name: str) -> str:
        return f"whole {plural_name}, {self.working_size}"

    @property
    def working_size(self) -> str:
        """Says how pictures are scaled."""
        return "at their own size" if self.shorter is None else f"scaled to a shorter side of {self.shorter}"


@final
@dataclass(frozen=True)
class Middle(Fit):
    """Cuts out the middle of a picture.

    Attributes:
        whole: how the picture is scaled before; its `least` is the size of the result.
    """

    whole: Whole

    @property
    def sides(self) -> tuple[int, int]:
        return self.whole.least

    def scale(self, width: float, height: float) -> float:
        return self.whole.scale(width, height)

    def apply(self, picture: Picture, resampling: Image.Resampling) -> Image.Image:
        scaled = self.whole.apply(picture, resampling)
        height, width = self.sides
        left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
        return scaled.crop((left, top, left + width, top + height))

    def protocol(self) -> dict[str, Any]:
        return {"size": list(self.sides), "crop": "middle", "resize": self.whole.shorter}

    def portion(self, plural_name: str) -> str:
        height, width = self.sides
        return f"the middle {height}x{width} (height x width) of {plural_name} {self.whole.working_size}"
