"""How a picture is brought to the size of an item: scaled, and cropped at the centre or left whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

from PIL import Image, ImageOps


class Fit(ABC):
    """A rule by which upright pictures are scaled and cropped."""

    @property
    @abstractmethod
    def sides(self) -> tuple[int | None, int | None]:
        """Height and width of the result; None where pictures keep their own."""

    @abstractmethod
    def apply(self, image: Image.Image, aspect: float, resampling: Image.Resampling) -> Image.Image:
        """Scale and crop an image.

        Args:
            image: upright.
            aspect: width of its pixels divided by their height; those of the result are square.
            resampling: filter.
        """

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

    def apply(self, image: Image.Image, aspect: float, resampling: Image.Resampling) -> Image.Image:
        size = (self.width, self.height)
        if aspect == 1:
            return image if image.size == size else ImageOps.fit(image, size, method=resampling)
        # The largest central part that has the shape of the result when it is shown.
        shape = self.width / self.height / aspect
        part = (min(image.width, image.height * shape), min(image.height, image.width / shape))
        left, top = (image.width - part[0]) / 2, (image.height - part[1]) / 2
        box = (left, top, min(left + part[0], image.width), min(top + part[1], image.height))
        return image.resize(size, resampling, box=box)

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

    def apply(self, image: Image.Image, aspect: float, resampling: Image.Resampling) -> Image.Image:
        # The shorter side of a pixel is enlarged, so that no detail is lost.
        width, height = image.width * max(1.0, aspect), image.height * max(1.0, 1 / aspect)
        scale = 1.0 if self.shorter is None else self.shorter / min(width, height)
        least_height, least_width = self.least
        scale = max(scale, least_width / width, least_height / height)
        size = (max(least_width, round(width * scale)), max(least_height, round(height * scale)))
        return image if image.size == size else image.resize(size, resampling)

    def protocol(self) -> dict[str, Any]:
        if self == Whole():
            return {"size": "native", "crop": "none"}
        return {"size": "native", "crop": "none", "resize": self.shorter, "least": list(self.least)}

    def portion(self, plural_name: str) -> str:
        return f"whole {plural_name}, {self.scale}"

    @property
    def scale(self) -> str:
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

    def apply(self, image: Image.Image, aspect: float, resampling: Image.Resampling) -> Image.Image:
        scaled = self.whole.apply(image, aspect, resampling)
        height, width = self.sides
        left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
        return scaled.crop((left, top, left + width, top + height))

    def protocol(self) -> dict[str, Any]:
        return {"size": list(self.sides), "crop": "middle", "resize": self.whole.shorter}

    def portion(self, plural_name: str) -> str:
        height, width = self.sides
        return f"the middle {height}x{width} (height x width) of {plural_name} {self.whole.scale}"
