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


@final
@dataclass(frozen=True)
class Whole(Fit):
    """Keeps the whole picture, at its own size."""

    @property
    def sides(self) -> tuple[None, None]:
        return None, None

    def apply(self, image: Image.Image, aspect: float, resampling: Image.Resampling) -> Image.Image:
        # The shorter side of a pixel is enlarged, so that no detail is lost.
        wide, high = max(1.0, aspect), max(1.0, 1 / aspect)
        size = (round(image.width * wide), round(image.height * high))
        return image if image.size == size else image.resize(size, resampling)

    def protocol(self) -> dict[str, Any]:
        return {"size": "native", "crop": "none"}
