"""Arrays: what is read, refused, standardised and written back."""

import io
import zipfile

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.arrays.modality import ArrayConfig, ArrayModality

RNG = np.random.default_rng(0)


def array(**settings):
    return ArrayConfig(**{"channels": 2, "length": 8, **settings}).build()


def npy(values) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


class TestReading:
    @pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "i2", "u1", "?"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_every_number_and_order_is_read_as_float32(self, dtype, order):
        values = np.asarray(RNG.normal(size=(2, 5)) * 9, order=order).astype(dtype)
        read = array().decode(npy(values))
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, values.astype(np.float32))

    def test_files_bytes_and_archives_agree(self, tmp_path):
        values = RNG.normal(size=(2, 5)).astype(np.float32)
        np.save(tmp_path / "a.npy", values)
        for content in (tmp_path / "a.npy", npy(values), npz(x=values), values):
            np.testing.assert_array_equal(array().decode(content), values)
        np.testing.assert_array_equal(array(key="y").decode(npz(x=values, y=values + 1)), values + 1)

    def test_channels_may_come_last_or_be_left_out(self):
        values = RNG.normal(size=(5, 2)).astype(np.float32)
        np.testing.assert_array_equal(array(channels_first=False).decode(npy(values)), values.T)
        np.testing.assert_array_equal(array(channels=1).decode(npy(values[:, 0])), values[:, :1].T)

    @pytest.mark.parametrize(
        ("settings", "values"),
        [
            ({}, np.zeros((3, 5))),
            ({}, np.zeros((2, 0))),
            ({}, np.zeros((2, 5, 5))),
            ({}, np.zeros((2, 5), complex)),
            ({}, np.array([[np.inf, 1], [1, 1]])),
            ({}, np.array([[1e300, 1], [1, 1]])),
            ({}, np.array([[np.nan, 1], [1, 1]])),
            ({"missing": "mask"}, np.full((2, 3), np.nan)),
            ({"length": None, "size": (4, 4)}, np.zeros((2, 4, 5))),
            ({"levels": 16}, np.zeros((2, 5))),
            ({"levels": 16}, np.full((2, 5), 16)),
            ({"levels": 16, "lowest": -8}, np.full((2, 5), -9)),
        ],
    )
    def test_what_does_not_fit_is_one_unreadable_item(self, settings, values):
        with pytest.raises(UnreadableItem):
            array(**settings).decode(npy(values))

    def test_nothing_is_unpickled(self):
        stream = io.BytesIO()
        np.save(stream, np.array([[print, 1]], dtype=object), allow_pickle=True)
        with pytest.raises(UnreadableItem, match="object"):
            array().decode(stream.getvalue())

    @pytest.mark.parametrize(
        "content", [b"", b"junk", npy(np.zeros((2, 5)))[:-8], npz(x=np.zeros((2, 5)))[:-30]]
    )
    def test_damaged_files_are_unreadable(self, content):
        with pytest.raises(UnreadableItem):
            array().decode(content)

    def test_a_header_that_claims_more_than_there_is_costs_no_memory(self):
        header = npy(np.zeros((2, 5)))
        huge = header.replace(b"(2, 5), }", b"(2, 900000000000), }")
        with pytest.raises(UnreadableItem):
            array().decode(huge)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", huge)
        with pytest.raises(UnreadableItem):
            array().decode(stream.getvalue())

    def test_an_archive_of_several_needs_a_name(self):
        content = npz(x=np.zeros((2, 5)), y=np.zeros((2, 5)))
        for settings in ({}, {"key": "z"}):
            with pytest.raises(UnreadableItem, match=r"data\.key"):
                array(**settings).decode(content)


class TestRange:
    def test_levels_come_back_exactly(self, tmp_path):
        one = array(levels=300, lowest=-100)
        values = RNG.integers(-100, 200, (2, 9)).astype(np.int16)
        stored = one.decode(npy(values))
        assert stored.dtype == np.int16
        signal = one.to_model(torch.from_numpy(stored)[None])
        assert -1 <= signal.min() < signal.max() <= 1
        assert torch.equal(one.to_stored(signal)[0], torch.from_numpy(stored))
        one.save(signal, tmp_path / "a.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)
        assert one.spec.levels == 300

    @pytest.mark.parametrize("channels_first", [True, False])
    def test_continuous_data_is_standardised_by_channel_and_comes_back(self, tmp_path, channels_first):
        items = [(RNG.normal(size=(2, n)) * [[3], [0.01]] + [[1e4], [-5]]).astype("f4") for n in (7, 30, 4)]
        config = array(channels_first=channels_first).config.measured(items)
        every = np.concatenate(items, 1).astype(np.float64)
        np.testing.assert_allclose(config.mean, every.mean(1), rtol=1e-6)
        np.testing.assert_allclose(config.scale, every.std(1), rtol=1e-4)
        one = config.build()
        signal = torch.cat([one.to_model(torch.from_numpy(item)[None]) for item in items], 2)
        torch.testing.assert_close(signal.mean((0, 2)), torch.zeros(2), atol=1e-3, rtol=0)
        torch.testing.assert_close(signal.std((0, 2), correction=0), torch.ones(2), atol=1e-3, rtol=0)
        one.save(signal, tmp_path / "a.npy")
        written = np.load(tmp_path / "a.npy")
        np.testing.assert_allclose(written if channels_first else written.T, every, rtol=1e-5, atol=1e-4)

    def test_a_given_scale_is_kept_and_a_constant_channel_has_scale_1(self):
        given = array(mean=(1, 2), scale=(3, 4)).config
        assert given.measured([np.zeros((2, 3), "f4")]) == given
        assert array().config.measured([np.full((2, 9), 0.1, "f4")]).scale == (1.0, 1.0)

    def test_missing_values_are_masked_and_zero_and_do_not_count(self):
        values = np.array([[1, np.nan, 3], [np.nan, 5, 9]], "f4")
        config = array(missing="mask").config.measured([values])
        assert config.mean == (2.0, 7.0)
        assert config.scale == (1.0, 2.0)
        one = config.build()
        stored = torch.from_numpy(one.decode(npy(values)))[None]
        expected = torch.tensor([[[-1.0, 0, 1], [0, -1, 1]]])
        assert torch.equal(one.to_model(stored), expected)
        assert torch.equal(one.mask(stored), torch.from_numpy(~np.isnan(values))[None])


@pytest.mark.parametrize(
    ("settings", "axes"),
    [
        ({}, ("time",)),
        ({"size": "4x6"}, ("time", "height", "width")),
        ({"length": None, "size": "4x5x6"}, ("depth", "height", "width")),
        ({"length": None, "size": 4}, ("width",)),
        ({"length": None, "size": (4, 6), "axes": ("mass", "charge")}, ("mass", "charge")),
    ],
)
def test_axes_are_named(settings, axes):
    one = array(**settings)
    assert one.spec.axes == axes
    assert one.is_ragged == (axes[0] == "time")


@pytest.mark.parametrize(
    "settings",
    [
        {"length": None},
        {"size": (2, 2, 2)},
        {"missing": "mask", "levels": 4},
        {"mean": (1,), "scale": (1,)},
        {"scale": (1, 0)},
        {"axes": ("x", "y")},
    ],
)
def test_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises((ValidationError, InputError)):
        array(**settings)


def test_what_a_user_passes_is_checked():
    one = array(mean=(0, 1), scale=(1, 2))
    items = [RNG.normal(size=(2, n)).astype("f4") for n in (3, 5)]
    checked = one.check(items)
    assert [tuple(item.shape) for item in checked] == [(1, 2, 3), (1, 2, 5)]
    torch.testing.assert_close(checked[0][0, 1], (torch.from_numpy(items[0][1]) - 1) / 2)
    fixed = array(length=None, size=(4, 4))
    assert fixed.check(torch.zeros(3, 2, 4, 4)).shape == (3, 2, 4, 4)
    for wrong in ([], np.zeros((3, 5)), "nowhere.npy", np.full((2, 4), np.nan), object()):
        with pytest.raises(InputError):
            one.check(wrong)


@pytest.mark.parametrize(
    "settings", [{}, {"length": None, "size": (4, 5)}, {"length": None, "size": (3, 4, 5)}]
)
def test_every_number_of_axes_has_a_preview(settings):
    one: ArrayModality = array(**settings)
    rows = torch.randn(2, 3, 2, *one.spec.size)
    assert min(one.preview(list(rows)).size) > 50
    with pytest.raises(InputError):
        one.preview([rows[0], rows[1, :2]])
