"""How pictures are scaled and cropped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from smalti.modalities.image.fit import Cover, Whole

LANCZOS = Image.Resampling.LANCZOS
SIDES = st.integers(1, 40)


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@given(width=SIDES, height=SIDES, side=SIDES)
def test_cover_is_pillows_fit(width, height, side):
    image = picture(width, height)
    fitted = Cover(side, 7).apply(image, 1.0, LANCZOS)
    assert fitted.size == (7, side)
    np.testing.assert_array_equal(fitted, ImageOps.fit(image, (7, side), LANCZOS))


@given(width=SIDES, height=SIDES)
def test_whole_pictures_keep_their_pixels(width, height):
    image = picture(width, height)
    assert Whole().apply(image, 1.0, LANCZOS) is image


@pytest.mark.parametrize(("aspect", "size"), [(2.0, (20, 6)), (0.5, (10, 12))])
def test_pixels_become_square_without_a_loss(aspect, size):
    assert Whole().apply(picture(10, 6), aspect, LANCZOS).size == size


def test_protocols_differ():
    assert Cover(4, 6).protocol() == {"size": [4, 6], "crop": "centre"}
    assert Whole().protocol() == {"size": "native", "crop": "none"}
