"""Code grids as signals: exact, checked, shown and written."""

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.codes.modality import CodeGridConfig, CodeGridModality

MODALITY = CodeGridModality(CodeGridConfig(size=(4, 6), num_codes=512, num_codebooks=2))


def grids(num: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 512, (num, 2, 4, 6))


def test_every_code_survives_the_range_of_a_model():
    codes = torch.arange(512).view(1, 1, 16, 32)
    assert torch.equal(MODALITY.to_stored(MODALITY.to_model(codes)), codes)
    assert MODALITY.to_model(codes).aminmax() == (-1, 1)
    assert (MODALITY.spec.channels, MODALITY.spec.size, MODALITY.spec.levels) == (2, (4, 6), 512)


def test_decode_keeps_codes_in_the_smallest_type():
    decoded = MODALITY.decode(grids()[0])
    assert decoded.dtype == np.int16
    np.testing.assert_array_equal(decoded, grids()[0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG", "array of codes"),
        (np.zeros((2, 4, 6)), "array of codes"),
        (np.zeros((2, 4, 5), np.int64), "shape"),
        (np.full((2, 4, 6), 512), "512 codes"),
        (np.full((2, 4, 6), -1), "512 codes"),
    ],
)
def test_what_is_no_such_grid_is_unreadable(content, reason):
    with pytest.raises(UnreadableItem, match=reason):
        MODALITY.decode(content)


def test_check_takes_one_or_several_tensors_or_arrays():
    expected = MODALITY.to_model(torch.from_numpy(grids()))
    assert torch.equal(MODALITY.check(grids()), expected)
    assert torch.equal(MODALITY.check(torch.from_numpy(grids()[0])), expected[:1])


@pytest.mark.parametrize(
    ("codes", "sentence"),
    [
        ("codes.parquet", "expected code grids as an integer tensor or array, received str"),
        (None, "received NoneType"),
        (np.array([["a"]]), "received ndarray"),
        (torch.zeros(2, 4, 6), "expected integer codes of shape"),
        (torch.zeros(4, 6, dtype=torch.int64), "expected integer codes of shape"),
        (torch.full((2, 4, 6), 512), "expected codes from 0 to 511, received 512 to 512"),
    ],
)
def test_check_refuses(codes, sentence):
    with pytest.raises(InputError, match=sentence):
        MODALITY.check(codes)


def test_equal_codes_are_painted_alike_and_others_otherwise():
    codes = np.zeros((1, 2, 4, 6), np.int64)
    codes[0, 0, 0, 0] = 1
    pixels = np.asarray(MODALITY.preview([codes, codes]))
    scale = round(84 / 6)
    first, second, other = (pixels[4 + scale // 2, 4 + scale // 2 + scale * column] for column in (0, 1, 2))
    assert (first != second).any()
    np.testing.assert_array_equal(second, other)
    assert pixels.shape == (2 * (4 * scale + 4) + 4, 6 * scale + 8, 3)


@pytest.mark.parametrize("rows", [[], [[]]])
def test_nothing_to_show_is_refused(rows):
    with pytest.raises(InputError, match="expected code grids to show"):
        MODALITY.preview(rows)


def test_save_writes_the_codes(tmp_path):
    MODALITY.save(MODALITY.to_model(torch.from_numpy(grids()[:1])), tmp_path / "one.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), grids()[0])
    with pytest.raises(InputError, match="expected one code grid"):
        MODALITY.save(grids(), tmp_path / "three.npy")
