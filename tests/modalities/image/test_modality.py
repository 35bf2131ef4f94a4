"""Images as a modality: what it promises, ranges, what it refuses, and figures."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.modalities.image.modality import ImageConfig, ImageModality
from smalti.modalities.image.pictures import BACKGROUNDS, FILTERS, MODES
from smalti.modalities.image.pixels import JPEG

HEIGHT, WIDTH = 6, 9
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def modality(channels=3, size=(HEIGHT, WIDTH), **options) -> ImageModality:
    return ImageModality(ImageConfig(channels=channels, size=size, **options))


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


class TestConfig:
    @pytest.mark.parametrize(
        ("given_size", "size"),
        [
            (64, (64, 64)),
            ("64", (64, 64)),
            ("64x48", (64, 48)),
            (" 8 X 6 ", (8, 6)),
            ([8, 6], (8, 6)),
            (None, None),
        ],
    )
    def test_size(self, given_size, size):
        assert ImageConfig(size=given_size).size == size

    @pytest.mark.parametrize("size", ["", "64x", "a", "1x2x3", "-4", "0", 0, -1, (1, 2, 3), 1.5, True, "6.5"])
    def test_bad_size(self, size):
        with pytest.raises(ValidationError, match="size"):
            ImageConfig(size=size)

    def test_json_round_trip(self):
        config = ImageConfig(channels=1, size="64x48", filter="box", background="black")
        assert ImageConfig.model_validate_json(config.model_dump_json()) == config

    def test_open_size_is_refused(self):
        with pytest.raises(InputError, match="expected a size"):
            ImageModality(ImageConfig(size=None))

    def test_spec_and_protocol(self):
        one = modality(channels=1, size="4x6", filter="box", background="black")
        assert one.spec == SignalSpec(channels=1, size=(4, 6), levels=256)
        assert one.protocol() == {
            "channels": 1,
            "size": [4, 6],
            "crop": "centre",
            "filter": "box",
            "background": "black",
            "jpeg": JPEG,
            "pixel_range": "auto",
            "range": [-1.0, 1.0],
            "levels": 256,
        }
        assert ImageModality(ImageConfig.tiny()).spec.size == (8, 8)


def test_every_choice_of_the_configuration_reaches_the_pixels():
    clear = np.dstack([RGB, np.repeat(np.arange(WIDTH, dtype=np.uint8)[None] * 28, HEIGHT, axis=0)])
    choices = [
        {"channels": channels, "filter": name, "background": background}
        for channels in MODES
        for name in FILTERS
        for background in BACKGROUNDS
    ]
    decoded = [modality(size=(4, 5), **choice).decode(clear) for choice in choices]
    assert {array.shape for array in decoded} == {(1, 4, 5), (3, 4, 5)}
    assert len({array.tobytes() for array in decoded}) == len(choices)


class TestRange:
    def test_all_levels_round_trip(self):
        levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
        signal = modality(1, 16).to_model(levels)
        assert signal.dtype == torch.float32
        assert (signal.min(), signal.max()) == (-1.0, 1.0)
        assert torch.equal(modality(1, 16).to_stored(signal), levels)

    @settings(max_examples=30, deadline=None)
    @given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=6)))
    def test_round_trip(self, pixels):
        one = modality()
        assert torch.equal(one.to_stored(one.to_model(torch.from_numpy(pixels))), torch.from_numpy(pixels))

    def test_nearest_level_and_clipping(self):
        signal = torch.tensor([-2.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 3.0]).reshape(1, 1, 1, 6)
        assert modality(1).to_stored(signal).flatten().tolist() == [0, 0, 0, 1, 255, 255]

    def test_half_precision(self):
        assert modality(1).to_stored(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)).item() == 255


class TestCheck:
    EXPECTED = torch.from_numpy(RGB.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)

    @pytest.mark.parametrize(
        "signal",
        [
            torch.from_numpy(RGB.transpose(2, 0, 1)[None].copy()),
            torch.from_numpy(RGB.transpose(2, 0, 1).copy()),
            RGB,
            RGB[None],
            RGB[::-1][::-1],
            RGB.transpose(2, 0, 1),
            Image.fromarray(RGB),
            encoded(Image.fromarray(RGB), "PNG"),
            EXPECTED,
            EXPECTED.double(),
            EXPECTED.numpy(),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_accepted(self, signal):
        checked = modality().check(signal)
        assert checked.dtype == torch.float32
        assert torch.equal(checked, self.EXPECTED)

    def test_files(self, tmp_path: Path):
        path = tmp_path / "a.png"
        Image.fromarray(RGB).save(path)
        assert torch.equal(modality().check([path, str(path)]), self.EXPECTED.repeat(2, 1, 1, 1))

    def test_list_of_kinds(self):
        assert modality().check([RGB, Image.fromarray(GREY), self.EXPECTED]).shape == (3, 3, HEIGHT, WIDTH)

    def test_grey_without_channel_axis(self):
        assert torch.equal(modality(1).check(GREY), modality(1).check(GREY[None, None]))

    def test_pil_images_are_fitted(self):
        assert modality().check(Image.new("RGBA", (50, 31))).shape == (1, 3, HEIGHT, WIDTH)

    def test_gradients_pass(self):
        signal = torch.zeros(1, 3, HEIGHT, WIDTH, requires_grad=True)
        modality().check(signal).sum().backward()
        assert signal.grad is not None

    @pytest.mark.parametrize(
        ("signal", "words"),
        [
            (torch.zeros(1, 1, HEIGHT, WIDTH), r"\(B, 3, 6, 9\), received \(1, 1, 6, 9\).*resize"),
            (torch.zeros(1, 3, WIDTH, HEIGHT), r"received \(1, 3, 9, 6\)"),
            (torch.zeros(2, 2, 3, HEIGHT, WIDTH), "expected images of shape"),
            (
                torch.full((1, 3, HEIGHT, WIDTH), 255.0),
                r"in \[-1, 1\], received values from 255 to 255.*uint8",
            ),
            (torch.full((1, 3, HEIGHT, WIDTH), float("nan")), "from nan to nan"),
            (torch.full((1, 3, HEIGHT, WIDTH), -1.01), "from -1.01"),
            (torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.int64), r"int64.*torch\.uint8"),
            (np.zeros((1, 3, HEIGHT, WIDTH), complex), "complex"),
            (np.array(["a"]), "array of uint8 or float"),
            ([], "empty list"),
            ({"image": 1}, "received dict"),
            (None, "received NoneType"),
            (b"text", "cannot be read as an image: not an image.*check the file"),
            ("nowhere.png", "nowhere.png cannot be read as an image: No such file"),
            (Image.new("F", (4, 4), 1.5), "floating point"),
            (Image.new("RGB", (0, 4)), "no pixels"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_refused(self, signal, words):
        with pytest.raises(InputError, match=words):
            modality().check(signal)


class TestFigures:
    def test_rows_lie_under_each_other(self):
        originals = RNG.integers(0, 256, (5, 3, HEIGHT, WIDTH), np.uint8)
        one, scale, gap = modality(), 2, 2
        reconstructions = one.to_model(torch.from_numpy(255 - originals))
        grid = np.asarray(one.preview([originals, reconstructions], columns=3, scale=scale))
        cell_height, cell_width = HEIGHT * scale + gap, WIDTH * scale + gap
        band_height = 2 * cell_height + gap
        assert grid.shape == (gap + 2 * band_height, gap + 3 * cell_width, 3)
        for index in range(5):
            for line, batch in enumerate((originals, 255 - originals)):
                top = gap + index // 3 * band_height + line * cell_height
                left = gap + index % 3 * cell_width
                cell = grid[top : top + HEIGHT * scale, left : left + WIDTH * scale]
                expected = batch[index].transpose(1, 2, 0).repeat(2, axis=0).repeat(2, axis=1)
                np.testing.assert_array_equal(cell, expected)
        assert (grid[-(cell_height + gap) :, -cell_width:] == 255).all()

    @pytest.mark.parametrize(("side", "scale"), [(8, 12), (32, 3), (64, 2), (256, 1)])
    def test_small_images_are_enlarged(self, side, scale):
        figure = modality(1, side).preview([torch.zeros(1, 1, side, side)])
        assert figure.size == (side * scale + 4, side * scale + 6)
        assert figure.mode == "L"

    @pytest.mark.parametrize(
        "rows",
        [[], [torch.zeros(0, 3, 2, 2)], [torch.zeros(1, 3, 2, 2), torch.zeros(2, 3, 2, 2)]],
        ids=["none", "empty", "unequal"],
    )
    def test_unequal_rows(self, rows):
        with pytest.raises(InputError, match="rows of images of the same shape"):
            modality().preview(rows)

    def test_two_channels(self):
        with pytest.raises(InputError, match="1 or 3 channels"):
            modality().preview([torch.zeros(1, 2, 4, 4)])

    @pytest.mark.parametrize("channels", [1, 3])
    def test_save(self, tmp_path: Path, channels):
        one = modality(channels)
        pixels = RNG.integers(0, 256, (channels, HEIGHT, WIDTH), np.uint8)
        for signal in (pixels, one.to_model(torch.from_numpy(pixels[None]))):
            one.save(signal, tmp_path / "out.png")
            np.testing.assert_array_equal(one.decode(tmp_path / "out.png"), pixels)

    def test_save_takes_one(self, tmp_path: Path):
        with pytest.raises(InputError, match="one image, received 2"):
            modality().save(torch.zeros(2, 3, 4, 4), tmp_path / "out.png")


class TestAugment:
    def test_flip(self):
        images = torch.from_numpy(RNG.integers(0, 256, (4, 3, HEIGHT, WIDTH), np.uint8))
        draws = torch.tensor([0.0, 0.49, 0.5, 0.99])
        config = modality().config
        flipped = config.model_copy(update={"flip": True}).build().augment(images, draws)
        assert torch.equal(flipped[:2], images[:2, ..., torch.arange(WIDTH - 1, -1, -1)])
        assert torch.equal(flipped[2:], images[2:])
        assert torch.equal(config.build().augment(images, draws), images)
        assert config.model_copy(update={"flip": True}).build().protocol() == modality().protocol()
