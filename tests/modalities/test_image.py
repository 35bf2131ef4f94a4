"""Reading images: every kind of file, exact where nothing changes, a reason where nothing can be read."""

import io
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps
from pydantic import ValidationError

from smalti.data.sources.base import UnreadableItem
from smalti.interfaces import InputError, SignalSpec
from smalti.modalities import image as image_module
from smalti.modalities.image import EXTENSIONS, Config, ImageModality

HEIGHT, WIDTH = 6, 9
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def modality(channels=3, size=(HEIGHT, WIDTH), **options) -> ImageModality:
    return ImageModality(Config(channels=channels, size=size, **options))


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
        assert Config(size=given_size).size == size

    @pytest.mark.parametrize("size", ["", "64x", "a", "1x2x3", "-4", "0", 0, -1, (1, 2, 3), 1.5, True, "6.5"])
    def test_bad_size(self, size):
        with pytest.raises(ValidationError, match="size"):
            Config(size=size)

    def test_json_round_trip(self):
        config = Config(channels=1, size="64x48", filter="box", background="black")
        assert Config.model_validate_json(config.model_dump_json()) == config

    def test_open_size_is_refused(self):
        with pytest.raises(InputError, match="size is needed"):
            ImageModality(Config(size=None))

    def test_spec_and_protocol(self):
        one = modality(channels=1, size="4x6", filter="box", background="black")
        assert one.spec == SignalSpec(channels=1, size=(4, 6), levels=256)
        assert one.protocol() == {
            "channels": 1,
            "size": [4, 6],
            "crop": "centre",
            "filter": "box",
            "background": "black",
            "range": [-1.0, 1.0],
            "levels": 256,
        }
        assert ImageModality(Config.tiny()).spec.size == (8, 8)

    def test_every_extension_is_one_that_pillow_reads(self):
        assert set(EXTENSIONS) <= set(Image.registered_extensions())


class TestDecodeExactly:
    """An image of the size keeps its pixels, whatever the file."""

    @pytest.mark.parametrize(
        ("file_format", "options"),
        [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})],
    )
    def test_colour(self, file_format, options):
        decoded = modality().decode(encoded(Image.fromarray(RGB), file_format, **options))
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, RGB.transpose(2, 0, 1))

    @pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
    def test_grey(self, file_format):
        data = encoded(Image.fromarray(GREY), file_format)
        np.testing.assert_array_equal(modality(1).decode(data)[0], GREY)
        np.testing.assert_array_equal(modality(3).decode(data), np.stack([GREY] * 3))

    def test_file_on_disk(self, tmp_path: Path):
        path = tmp_path / "picture.png"
        Image.fromarray(RGB).save(path)
        np.testing.assert_array_equal(modality().decode(path), RGB.transpose(2, 0, 1))

    def test_jpeg_is_what_pillow_decodes(self):
        data = encoded(Image.fromarray(RGB), "JPEG", quality=95)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(modality().decode(data), expected.transpose(2, 0, 1))

    def test_colour_to_grey_is_pillows_l(self):
        expected = np.asarray(Image.fromarray(RGB).convert("L"))
        np.testing.assert_array_equal(modality(1).decode(encoded(Image.fromarray(RGB), "PNG"))[0], expected)

    def test_palette(self):
        palette = Image.fromarray(GREY // 128, "L").convert("P")
        palette.putpalette([250, 20, 30, 10, 200, 90])
        expected = np.array([[250, 20, 30], [10, 200, 90]], np.uint8)[np.asarray(palette)]
        for file_format in ("PNG", "GIF"):
            decoded = modality().decode(encoded(palette, file_format))
            np.testing.assert_array_equal(decoded, expected.transpose(2, 0, 1))

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
    def test_one_bit(self, file_format):
        bits = GREY > 127
        decoded = modality(1).decode(encoded(Image.fromarray(bits), file_format))
        np.testing.assert_array_equal(decoded[0], bits.astype(np.uint8) * 255)

    def test_first_frame_of_an_animation(self):
        frames = [Image.fromarray(np.full((HEIGHT, WIDTH), level, np.uint8)) for level in (10, 200)]
        for file_format, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
            data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
            assert (modality(1).decode(data) == 10).all(), file_format

    def test_cmyk_jpeg(self):
        cmyk = Image.fromarray(np.full((HEIGHT, WIDTH, 3), (200, 40, 90), np.uint8)).convert("CMYK")
        decoded = modality().decode(encoded(cmyk, "JPEG", quality=100))
        np.testing.assert_allclose(decoded.reshape(3, -1).T, [[200, 40, 90]] * (HEIGHT * WIDTH), atol=4)


class TestSixteenBits:
    LEVELS = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    EXACT = np.round(np.arange(65536) / 257).astype(np.uint8).reshape(256, 256)

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
    def test_every_level_is_rounded_exactly(self, file_format):
        data = encoded(Image.fromarray(self.LEVELS), file_format)
        np.testing.assert_array_equal(modality(1, 256).decode(data)[0], self.EXACT)

    def test_every_level_of_an_array(self):
        for dtype in ("<u2", ">u2"):
            np.testing.assert_array_equal(modality(1, 256).decode(self.LEVELS.astype(dtype))[0], self.EXACT)

    def test_big_endian_mode(self):
        image = Image.frombytes("I;16B", (256, 256), self.LEVELS.astype(">u2").tobytes())
        np.testing.assert_array_equal(modality(1, 256).check(image)[0, 0], self.EXACT / np.float32(127.5) - 1)

    def test_its_transparent_level_shows_the_background(self):
        data = encoded(Image.fromarray(self.LEVELS), "PNG", transparency=500)
        expected = self.EXACT.copy()
        expected[self.LEVELS == 500] = 255
        np.testing.assert_array_equal(modality(1, 256).decode(data)[0], expected)

    def test_32_bits_within_16(self):
        values = np.array([[0, 257], [1000, 65535]], np.int32)
        decoded = modality(1, 2).decode(encoded(Image.fromarray(values), "TIFF"))
        np.testing.assert_array_equal(decoded[0], [[0, 1], [4, 255]])

    @pytest.mark.parametrize("extreme", [-1, 65536])
    def test_32_bits_beyond_16(self, extreme):
        values = np.array([[0, extreme]], np.int32)
        with pytest.raises(UnreadableItem, match=f"{extreme}.*not 16-bit"):
            modality().decode(encoded(Image.fromarray(values), "TIFF"))


class TestTransparency:
    ALPHA = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)

    @pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
    def test_rgba(self, background, level, file_format):
        options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
        data = encoded(Image.fromarray(np.dstack([RGB, self.ALPHA])), file_format, **options)
        alpha = self.ALPHA[..., None] / 255
        expected = RGB * alpha + level * (1 - alpha)
        decoded = modality(background=background).decode(data).transpose(1, 2, 0)
        np.testing.assert_allclose(decoded, expected, atol=1)
        np.testing.assert_array_equal(decoded[self.ALPHA == 255], RGB[self.ALPHA == 255])

    @pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
    def test_grey_with_alpha(self, background, level):
        data = encoded(Image.fromarray(np.dstack([GREY, self.ALPHA])), "PNG")
        assert Image.open(io.BytesIO(data)).mode == "LA"
        alpha = self.ALPHA / 255
        expected = GREY * alpha + level * (1 - alpha)
        for channels in (1, 3):
            decoded = modality(channels, background=background).decode(data)
            np.testing.assert_allclose(decoded, np.stack([expected] * channels), atol=1)

    def test_opaque_alpha_changes_nothing(self):
        data = encoded(Image.fromarray(np.dstack([RGB, np.full_like(GREY, 255)])), "PNG")
        np.testing.assert_array_equal(modality().decode(data), RGB.transpose(2, 0, 1))

    @pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
    def test_palette(self, background, level):
        palette = Image.new("P", (3, 1))
        palette.putpalette([250, 20, 30, 10, 200, 90, 1, 2, 3])
        for index in range(3):
            palette.putpixel((index, 0), index)
        data = encoded(palette, "PNG", transparency=bytes([0, 128, 255]))
        half = [round(value * 128 / 255 + level * 127 / 255) for value in (10, 200, 90)]
        decoded = modality(size=(1, 3), background=background).decode(data)[:, 0].T
        np.testing.assert_allclose(decoded, [[level] * 3, half, [1, 2, 3]], atol=1)

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_one_transparent_colour(self, mode):
        image = Image.new(mode, (2, 1), 7 if mode == "L" else (7, 7, 7))
        image.putpixel((0, 0), 90 if mode == "L" else (90, 90, 90))
        data = encoded(image, "PNG", transparency=7 if mode == "L" else (7, 7, 7))
        np.testing.assert_array_equal(modality(size=(1, 2)).decode(data), [[[90, 255]]] * 3)

    def test_gif(self):
        image = Image.new("P", (2, 1))
        image.putpalette([5, 6, 7, 8, 9, 10])
        image.putpixel((1, 0), 1)
        data = encoded(image, "GIF", transparency=0)
        np.testing.assert_array_equal(modality(size=(1, 2)).decode(data)[:, 0].T, [[255] * 3, [8, 9, 10]])


# What a camera does to the upright scene when it stores it, for each orientation (Exif 2.3, "Orientation").
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.swapaxes(0, 1),
    6: lambda scene: scene.swapaxes(0, 1)[::-1],
    7: lambda scene: scene[::-1, ::-1].swapaxes(0, 1),
    8: lambda scene: scene.swapaxes(0, 1)[:, ::-1],
}


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
    def test_all_eight_exactly(self, orientation, file_format):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](RGB)))
        options = {"lossless": True} if file_format == "WEBP" else {}
        decoded = modality().decode(encoded(stored, file_format, exif=exif, **options))
        np.testing.assert_array_equal(decoded, RGB.transpose(2, 0, 1))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_jpeg(self, orientation):
        scene = np.zeros((16, 24, 3), np.uint8)
        scene[:8, :12] = 255
        scene[8:, 12:] = (200, 0, 0)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](scene)))
        decoded = modality(size=(16, 24)).decode(
            encoded(stored, "JPEG", exif=exif, quality=100, subsampling=0)
        )
        np.testing.assert_allclose(decoded.astype(int), scene.transpose(2, 0, 1), atol=6)

    def test_agrees_with_pillow(self):
        exif = Image.Exif()
        for orientation in range(1, 9):
            exif[0x0112] = orientation
            with Image.open(io.BytesIO(encoded(Image.fromarray(RGB), "PNG", exif=exif))) as image:
                expected = np.asarray(ImageOps.exif_transpose(image))
                size = expected.shape[:2]
                decoded = modality(size=size).decode(encoded(Image.fromarray(RGB), "PNG", exif=exif))
            np.testing.assert_array_equal(decoded, expected.transpose(2, 0, 1))

    @pytest.mark.parametrize("exif", [b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"nonsense"])
    def test_damaged_metadata_counts_as_upright(self, exif):
        data = encoded(Image.fromarray(RGB), "PNG", exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(modality().decode(data), RGB.transpose(2, 0, 1))


class TestFit:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 13), (301, 17), (64, 65)])
    @pytest.mark.parametrize("name", ["lanczos", "bicubic", "bilinear", "box", "nearest"])
    def test_odd_sizes(self, shape, name):
        pixels = np.full((*shape, 3), (3, 120, 250), np.uint8)
        decoded = modality(size=(12, 10), filter=name).decode(encoded(Image.fromarray(pixels), "PNG"))
        assert decoded.shape == (3, 12, 10)
        np.testing.assert_array_equal(decoded.reshape(3, -1), np.repeat([[3], [120], [250]], 120, axis=1))

    def test_crop_is_central(self):
        ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None], 8, axis=0)
        np.testing.assert_array_equal(modality(1, (8, 8)).decode(ramp)[0], ramp[:, 8:16])
        np.testing.assert_array_equal(modality(1, (8, 8)).decode(ramp.T.copy())[0], ramp.T[8:16])

    def test_box_halves_by_the_mean_of_four(self):
        pixels = RNG.integers(0, 256, (8, 8), np.uint8)
        expected = np.floor(pixels.reshape(4, 2, 4, 2).mean((1, 3)) + 0.5)
        decoded = modality(1, 4, filter="box").decode(pixels)[0]
        np.testing.assert_allclose(decoded, expected, atol=1)

    def test_filters_differ(self):
        pixels = RNG.integers(0, 256, (16, 16), np.uint8)
        names = ("lanczos", "bicubic", "bilinear", "box", "nearest")
        assert len({modality(1, 6, filter=name).decode(pixels).tobytes() for name in names}) == 5


class TestArrays:
    @pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3)])
    def test_uint8(self, shape):
        pixels = RNG.integers(0, 256, shape, np.uint8)
        channels = 1 if len(shape) == 2 else shape[-1]
        decoded = modality(channels, (5, 4)).decode(pixels)
        np.testing.assert_array_equal(decoded, pixels.reshape(5, 4, -1).transpose(2, 0, 1))

    def test_four_channels_are_composited(self):
        pixels = np.zeros((5, 4, 4), np.uint8)
        assert (modality(size=(5, 4)).decode(pixels) == 255).all()

    def test_not_contiguous_and_read_only(self):
        view = RGB[::-1, ::-1]
        view.flags.writeable = False
        np.testing.assert_array_equal(modality().decode(view), view.transpose(2, 0, 1))

    @pytest.mark.parametrize(
        ("pixels", "reason"),
        [
            (np.zeros((4, 4), np.float32), "float32"),
            (np.zeros((4, 4), np.int64), "int64"),
            (np.zeros(4, np.uint8), "shape"),
            (np.zeros((4, 4, 5), np.uint8), "shape"),
            (np.zeros((2, 4, 4, 3), np.uint8), "shape"),
            (np.zeros((0, 4), np.uint8), "no pixels"),
        ],
    )
    def test_others_are_unreadable(self, pixels, reason):
        with pytest.raises(UnreadableItem, match=reason):
            modality().decode(pixels)


class TestUnreadable:
    def reason(self, content) -> str:
        with pytest.raises(UnreadableItem) as caught:
            modality().decode(content)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_empty(self, tmp_path: Path):
        (tmp_path / "empty.png").touch()
        assert self.reason(b"") == self.reason(tmp_path / "empty.png") == "the file is empty"

    def test_text_renamed(self, tmp_path: Path):
        path = tmp_path / "notes.jpg"
        path.write_text("not a picture")
        assert self.reason(path) == "not an image that Pillow can read"

    def test_missing_file_and_folder(self, tmp_path: Path):
        assert self.reason(tmp_path / "gone.png") == "No such file or directory"
        assert self.reason(tmp_path) == "Is a directory"

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
    def test_truncated(self, file_format):
        pixels = RNG.integers(0, 256, (80, 80, 3), np.uint8)
        data = encoded(Image.fromarray(pixels), file_format)
        assert self.reason(data[: len(data) // 2])

    def test_floating_point(self):
        assert "floating point" in self.reason(encoded(Image.new("F", (4, 4)), "TIFF"))

    def test_decompression_bomb(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        assert "decompression bomb" in self.reason(encoded(Image.fromarray(RGB), "PNG"))

    def test_large_is_read_without_a_warning(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB.size // 3 - 1)
        data = encoded(Image.fromarray(RGB), "PNG")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(modality().decode(data), RGB.transpose(2, 0, 1))

    @pytest.mark.parametrize("content", [b"P5 0 0 255\n", b"P5 0 3 255\n", b"GIF89a" + bytes(20)])
    def test_without_pixels(self, content):
        assert self.reason(content)

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]), st.data())
    def test_damage_gives_an_image_or_a_reason(self, file_format, data):
        content = bytearray(encoded(Image.fromarray(RGB), file_format))
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            decoded = modality().decode(bytes(content))
        except UnreadableItem:
            return
        assert decoded.shape == (3, HEIGHT, WIDTH)


def test_threads_leave_the_warning_filters_as_they_were():
    with warnings.catch_warnings():
        before = list(warnings.filters)
        data = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "PNG")
        threads = [
            threading.Thread(target=lambda: [modality().decode(data) for _ in range(20)]) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(warnings.filters) == before
    assert image_module._quiet_depth == 0


class TestRange:
    def test_all_levels_round_trip(self):
        levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
        signal = modality(1, 16).to_model(levels)
        assert signal.dtype == torch.float32
        assert (signal.min(), signal.max()) == (-1.0, 1.0)
        assert torch.equal(modality(1, 16).to_pixels(signal), levels)

    @settings(max_examples=30, deadline=None)
    @given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=6)))
    def test_round_trip(self, pixels):
        one = modality()
        assert torch.equal(one.to_pixels(one.to_model(torch.from_numpy(pixels))), torch.from_numpy(pixels))

    def test_nearest_level_and_clipping(self):
        signal = torch.tensor([-2.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 3.0]).reshape(1, 1, 1, 6)
        assert modality(1).to_pixels(signal).flatten().tolist() == [0, 0, 0, 1, 255, 255]

    def test_half_precision(self):
        assert modality(1).to_pixels(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)).item() == 255


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
        ids=str,
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
            (torch.zeros(2, 2, 3, HEIGHT, WIDTH), "Expected images of shape"),
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
            (b"text", "What was passed cannot be read as an image: not an image.*check the file"),
            ("nowhere.png", "nowhere.png cannot be read as an image: No such file"),
            (Image.new("F", (4, 4)), "floating point"),
            (Image.new("RGB", (0, 4)), "no pixels"),
        ],
        ids=str,
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
        "rows", [[], [torch.zeros(0, 3, 2, 2)], [torch.zeros(1, 3, 2, 2), torch.zeros(2, 3, 2, 2)]], ids=str
    )
    def test_unequal_rows(self, rows):
        with pytest.raises(InputError, match="rows of images of one shape"):
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
