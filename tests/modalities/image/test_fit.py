"""How pictures are scaled and cropped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from smalti.modalities.image.fit import Cover, Middle, Picture, Whole

LANCZOS = Image.Resampling.LANCZOS
SIDES = st.integers(1, 40)


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@given(width=SIDES, height=SIDES, side=SIDES)
def test_cover_is_pillows_fit(width, height, side):
    image = picture(width, height)
    fitted = Cover(side, 7).apply(Picture(image), LANCZOS)
    assert fitted.size == (7, side)
    np.testing.assert_array_equal(fitted, ImageOps.fit(image, (7, side), LANCZOS))


@given(width=SIDES, height=SIDES)
def test_whole_pictures_keep_their_pixels(width, height):
    image = picture(width, height)
    assert Whole().apply(Picture(image), LANCZOS) is image


@pytest.mark.parametrize(("aspect", "size"), [(2.0, (20, 6)), (0.5, (10, 12))])
def test_pixels_become_square_without_a_loss(aspect, size):
    assert Whole().apply(Picture(picture(10, 6), aspect), LANCZOS).size == size


@given(width=SIDES, height=SIDES, shorter=st.none() | SIDES, least=st.tuples(SIDES, SIDES))
def test_scaled_pictures_cover_the_least_size(width, height, shorter, least):
    scaled = Whole(shorter, least).apply(Picture(picture(width, height)), LANCZOS)
    assert scaled.height >= least[0]
    assert scaled.width >= least[1]
    if shorter is not None and min(width, height) * max(least) <= shorter * min(width, height):
        assert min(scaled.size) == shorter
    ratio = scaled.width / scaled.height * height / width
    assert abs(ratio - 1) <= 1 / min(scaled.size) + 1e-9


@given(width=SIDES, height=SIDES, shorter=st.none() | SIDES, least=st.tuples(SIDES, SIDES))
def test_the_middle_is_that_of_the_scaled_picture(width, height, shorter, least):
    whole, image = Whole(shorter, least), picture(width, height)
    middle = np.asarray(Middle(whole).apply(Picture(image), LANCZOS))
    scaled = np.asarray(whole.apply(Picture(image), LANCZOS))
    top, left = ((scaled.shape[axis] - least[axis]) // 2 for axis in (0, 1))
    np.testing.assert_array_equal(middle, scaled[top : top + least[0], left : left + least[1]])


FITS = [
    Cover(4, 6),
    Whole(),
    Whole(8, (4, 6)),
    Whole(9, (4, 6)),
    Middle(Whole(8, (4, 6))),
    Middle(Whole(None, (4, 6))),
]


def test_protocols_differ():
    texts = {str(fit.protocol()) for fit in FITS}
    assert len(texts) == len(FITS)
    assert Cover(4, 6).protocol() == {"size": [4, 6], "crop": "centre"}, "that of runs of earlier versions"


def test_portions_differ():
    assert len({fit.portion("pictures") for fit in FITS}) == len(FITS)
