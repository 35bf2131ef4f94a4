"""Padding to the strides of a model."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.data.padding import padded, reflected, whole_size
from smalti.modalities.image.modality import ImageConfig
from smalti.modalities.video.modality import VideoConfig

PICTURES, CLIPS = ImageConfig.tiny().build().native(), VideoConfig.tiny().build().native()
SIDES = st.integers(1, 12)


@given(length=SIDES, more=st.integers(0, 40))
def test_a_line_is_reflected_as_numpy_does(length, more):
    expected = np.pad(np.arange(length), (0, more), mode="reflect")
    np.testing.assert_array_equal(reflected(length, length + more), expected)


@given(height=SIDES, width=SIDES, stride=st.integers(1, 9))
def test_pictures(height, width, stride):
    levels = torch.arange(height * width).view(1, 1, height, width).to(torch.uint8)
    whole = whole_size((height, width), (stride, stride))
    assert all(side % stride == 0 for side in whole)
    more = [(0, side - own) for side, own in zip(whole, (height, width), strict=True)]
    expected = np.pad(levels, [(0, 0), (0, 0), *more], mode="reflect")
    signal = padded(PICTURES, PICTURES.to_model(levels), (stride, stride))
    np.testing.assert_array_equal(PICTURES.to_stored(signal), expected)


def test_time_of_clips_is_filled_with_black_frames():
    clip = torch.full((1, 3, 3, 2, 3), 200, dtype=torch.uint8)
    filled = CLIPS.to_stored(padded(CLIPS, CLIPS.to_model(clip), (2, 4, 4)))
    assert filled.shape == (1, 3, 4, 4, 4)
    assert (filled[:, :, :3] == 200).all()
    assert (filled[:, :, 3] == 0).all()
