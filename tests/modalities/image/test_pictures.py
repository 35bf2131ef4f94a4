"""Reading pictures: every kind of file, exact where nothing changes, a reason where nothing can be read."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.image.fit import Cover
from smalti.modalities.image.formats import EXTENSIONS
from smalti.modalities.image.pictures import read_picture

HEIGHT, WIDTH = 6, 9
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def reader(channels=3, size=(HEIGHT, WIDTH), filter="lanczos", background="white") -> Callable:
    size = (size, size) if isinstance(size, int) else size
    return partial(read_picture, channels=channels, fit=Cover(*size), filter=filter, background=background)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_every_extension_is_one_that_pillow_reads():
    assert set(EXTENSIONS) <= set(Image.registered_extensions())


class TestDecodeExactly:
    """An image of the size keeps its pixels, whatever the file."""

    @pytest.mark.parametrize(
        ("file_format", "options"),
        [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})],
    )
    def test_colour(self, file_format, options):
        decoded = reader()(encoded(Image.fromarray(RGB), file_format, **options))
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, RGB.transpose(2, 0, 1))

    @pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
    def test_grey(self, file_format):
        data = encoded(Image.fromarray(GREY), file_format)
        np.testing.assert_array_equal(reader(1)(data)[0], GREY)
        np.testing.assert_array_equal(reader(3)(data), np.stack([GREY] * 3))

    def test_file_on_disk(self, tmp_path: Path):
        path = tmp_path / "picture.png"
        Image.fromarray(RGB).save(path)
        np.testing.assert_array_equal(reader()(path), RGB.transpose(2, 0, 1))

    def test_jpeg_is_what_pillow_decodes(self):
        data = encoded(Image.fromarray(RGB), "JPEG", quality=95)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(reader()(data), expected.transpose(2, 0, 1))

    def test_colour_to_grey_is_pillows_l(self):
        expected = np.asarray(Image.fromarray(RGB).convert("L"))
        np.testing.assert_array_equal(reader(1)(encoded(Image.fromarray(RGB), "PNG"))[0], expected)

    def test_palette(self):
        palette = Image.fromarray(GREY // 128, "L").convert("P")
        palette.putpalette([250, 20, 30, 10, 200, 90])
        expected = np.array([[250, 20, 30], [10, 200, 90]], np.uint8)[np.asarray(palette)]
        for file_format in ("PNG", "GIF"):
            decoded = reader()(encoded(palette, file_format))
            np.testing.assert_array_equal(decoded, expected.transpose(2, 0, 1))

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
    def test_one_bit(self, file_format):
        bits = GREY > 127
        decoded = reader(1)(encoded(Image.fromarray(bits), file_format))
        np.testing.assert_array_equal(decoded[0], bits.astype(np.uint8) * 255)

    def test_first_frame_of_an_animation(self):
        frames = [Image.fromarray(np.full((HEIGHT, WIDTH), level, np.uint8)) for level in (10, 200)]
        for file_format, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
            data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
            assert (reader(1)(data) == 10).all(), file_format

    def test_cmyk_jpeg(self):
        cmyk = Image.fromarray(np.full((HEIGHT, WIDTH, 3), (200, 40, 90), np.uint8)).convert("CMYK")
        decoded = reader()(encoded(cmyk, "JPEG", quality=100))
        np.testing.assert_allclose(decoded.reshape(3, -1).T, [[200, 40, 90]] * (HEIGHT * WIDTH), atol=4)


class TestSixteenBits:
    LEVELS = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    EXACT = np.round(np.arange(65536) / 257).astype(np.uint8).reshape(256, 256)

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
    def test_every_level_is_rounded_exactly(self, file_format):
        data = encoded(Image.fromarray(self.LEVELS), file_format)
        np.testing.assert_array_equal(reader(1, 256)(data)[0], self.EXACT)

    def test_every_level_of_an_array(self):
        for dtype in ("<u2", ">u2"):
            np.testing.assert_array_equal(reader(1, 256)(self.LEVELS.astype(dtype))[0], self.EXACT)

    def test_big_endian_mode(self):
        image = Image.frombytes("I;16B", (256, 256), self.LEVELS.astype(">u2").tobytes())
        np.testing.assert_array_equal(reader(1, 256)(image)[0], self.EXACT)

    def test_its_transparent_level_shows_the_background(self):
        data = encoded(Image.fromarray(self.LEVELS), "PNG", transparency=500)
        expected = self.EXACT.copy()
        expected[self.LEVELS == 500] = 255
        np.testing.assert_array_equal(reader(1, 256)(data)[0], expected)

    def test_32_bits_within_16(self):
        values = np.array([[0, 257], [1000, 65535]], np.int32)
        decoded = reader(1, 2)(encoded(Image.fromarray(values), "TIFF"))
        np.testing.assert_array_equal(decoded[0], [[0, 1], [4, 255]])

    @pytest.mark.parametrize("extreme", [-1, 65536])
    def test_32_bits_beyond_16(self, extreme):
        values = np.array([[0, extreme]], np.int32)
        with pytest.raises(UnreadableItem, match=f"{extreme}.*not 16-bit"):
            reader()(encoded(Image.fromarray(values), "TIFF"))


class TestTransparency:
    ALPHA = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)

    @pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
    def test_rgba(self, background, level, file_format):
        options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
        data = encoded(Image.fromarray(np.dstack([RGB, self.ALPHA])), file_format, **options)
        alpha = self.ALPHA[..., None] / 255
        expected = RGB * alpha + level * (1 - alpha)
        decoded = reader(background=background)(data).transpose(1, 2, 0)
        np.testing.assert_allclose(decoded, expected, atol=1)
        np.testing.assert_array_equal(decoded[self.ALPHA == 255], RGB[self.ALPHA == 255])

    @pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
    def test_grey_with_alpha(self, background, level):
        data = encoded(Image.fromarray(np.dstack([GREY, self.ALPHA])), "PNG")
        assert Image.open(io.BytesIO(data)).mode == "LA"
        alpha = self.ALPHA / 255
        expected = GREY * alpha + level * (1 - alpha)
        for channels in (1, 3):
            decoded = reader(channels, background=background)(data)
            np.testing.assert_allclose(decoded, np.stack([expected] * channels), atol=1)

    def test_opaque_alpha_changes_nothing(self):
        data = encoded(Image.fromarray(np.dstack([RGB, np.full_like(GREY, 255)])), "PNG")
        np.testing.assert_array_equal(reader()(data), RGB.transpose(2, 0, 1))

    @pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
    def test_palette(self, background, level):
        palette = Image.new("P", (3, 1))
        palette.putpalette([250, 20, 30, 10, 200, 90, 1, 2, 3])
        for index in range(3):
            palette.putpixel((index, 0), index)
        data = encoded(palette, "PNG", transparency=bytes([0, 128, 255]))
        half = [round(value * 128 / 255 + level * 127 / 255) for value in (10, 200, 90)]
        decoded = reader(size=(1, 3), background=background)(data)[:, 0].T
        np.testing.assert_allclose(decoded, [[level] * 3, half, [1, 2, 3]], atol=1)

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_one_transparent_colour(self, mode):
        image = Image.new(mode, (2, 1), 7 if mode == "L" else (7, 7, 7))
        image.putpixel((0, 0), 90 if mode == "L" else (90, 90, 90))
        data = encoded(image, "PNG", transparency=7 if mode == "L" else (7, 7, 7))
        np.testing.assert_array_equal(reader(size=(1, 2))(data), [[[90, 255]]] * 3)

    @pytest.mark.parametrize("depth", [1, 2, 4])
    @pytest.mark.parametrize("grey", [0, 1])
    def test_one_transparent_grey_of_few_bits(self, depth, grey):
        def chunk(name: bytes, content: bytes) -> bytes:
            checksum = zlib.crc32(name + content)
            return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

        greys = np.arange(8) % 2**depth
        row = int("".join(f"{value:0{depth}b}" for value in greys), 2).to_bytes(depth, "big")
        data = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, depth, 0, 0, 0, 0))
            + chunk(b"tRNS", struct.pack(">H", grey))
            + chunk(b"IDAT", zlib.compress(b"\0" + row))
            + chunk(b"IEND", b"")
        )
        for background, level in (("white", 255), ("black", 0)):
            expected = np.where(greys == grey, level, greys * 255 // (2**depth - 1))
            decoded = reader(channels=1, size=(1, 8), background=background)(data)
            np.testing.assert_array_equal(decoded[0, 0], expected)

    def test_gif(self):
        image = Image.new("P", (2, 1))
        image.putpalette([5, 6, 7, 8, 9, 10])
        image.putpixel((1, 0), 1)
        data = encoded(image, "GIF", transparency=0)
        np.testing.assert_array_equal(reader(size=(1, 2))(data)[:, 0].T, [[255] * 3, [8, 9, 10]])


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
        decoded = reader()(encoded(stored, file_format, exif=exif, **options))
        np.testing.assert_array_equal(decoded, RGB.transpose(2, 0, 1))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_jpeg(self, orientation):
        scene = np.zeros((16, 24, 3), np.uint8)
        scene[:8, :12] = 255
        scene[8:, 12:] = (200, 0, 0)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](scene)))
        decoded = reader(size=(16, 24))(encoded(stored, "JPEG", exif=exif, quality=100, subsampling=0))
        np.testing.assert_allclose(decoded.astype(int), scene.transpose(2, 0, 1), atol=6)

    def test_agrees_with_pillow(self):
        exif = Image.Exif()
        for orientation in range(1, 9):
            exif[0x0112] = orientation
            with Image.open(io.BytesIO(encoded(Image.fromarray(RGB), "PNG", exif=exif))) as image:
                expected = np.asarray(ImageOps.exif_transpose(image))
                size = expected.shape[:2]
                decoded = reader(size=size)(encoded(Image.fromarray(RGB), "PNG", exif=exif))
            np.testing.assert_array_equal(decoded, expected.transpose(2, 0, 1))

    @pytest.mark.parametrize("exif", [b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"nonsense"])
    def test_damaged_metadata_counts_as_upright(self, exif):
        data = encoded(Image.fromarray(RGB), "PNG", exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(reader()(data), RGB.transpose(2, 0, 1))


class TestFit:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 13), (301, 17), (64, 65)])
    @pytest.mark.parametrize("name", ["lanczos", "bicubic", "bilinear", "box", "nearest"])
    def test_odd_sizes(self, shape, name):
        pixels = np.full((*shape, 3), (3, 120, 250), np.uint8)
        decoded = reader(size=(12, 10), filter=name)(encoded(Image.fromarray(pixels), "PNG"))
        assert decoded.shape == (3, 12, 10)
        np.testing.assert_array_equal(decoded.reshape(3, -1), np.repeat([[3], [120], [250]], 120, axis=1))

    def test_crop_is_central(self):
        ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None], 8, axis=0)
        np.testing.assert_array_equal(reader(1, (8, 8))(ramp)[0], ramp[:, 8:16])
        np.testing.assert_array_equal(reader(1, (8, 8))(ramp.T.copy())[0], ramp.T[8:16])

    def test_box_halves_by_the_mean_of_four(self):
        pixels = RNG.integers(0, 256, (8, 8), np.uint8)
        expected = np.floor(pixels.reshape(4, 2, 4, 2).mean((1, 3)) + 0.5)
        decoded = reader(1, 4, filter="box")(pixels)[0]
        np.testing.assert_allclose(decoded, expected, atol=1)

    def test_filters_differ(self):
        pixels = RNG.integers(0, 256, (16, 16), np.uint8)
        names = ("lanczos", "bicubic", "bilinear", "box", "nearest")
        assert len({reader(1, 6, filter=name)(pixels).tobytes() for name in names}) == 5


class TestArrays:
    @pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3)])
    def test_uint8(self, shape):
        pixels = RNG.integers(0, 256, shape, np.uint8)
        channels = 1 if len(shape) == 2 else shape[-1]
        decoded = reader(channels, (5, 4))(pixels)
        np.testing.assert_array_equal(decoded, pixels.reshape(5, 4, -1).transpose(2, 0, 1))

    def test_four_channels_are_composited(self):
        pixels = np.zeros((5, 4, 4), np.uint8)
        assert (reader(size=(5, 4))(pixels) == 255).all()

    def test_not_contiguous_and_read_only(self):
        view = RGB[::-1, ::-1]
        view.flags.writeable = False
        np.testing.assert_array_equal(reader()(view), view.transpose(2, 0, 1))

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
            reader()(pixels)


class TestUnreadable:
    def reason(self, content) -> str:
        with pytest.raises(UnreadableItem) as caught:
            reader()(content)
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

    def test_floating_point_beyond_1(self):
        assert "floating point" in self.reason(encoded(Image.new("F", (4, 4), 1.5), "TIFF"))

    def test_decompression_bomb(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        assert "decompression bomb" in self.reason(encoded(Image.fromarray(RGB), "PNG"))

    def test_a_size_that_pillow_only_warns_of_is_read(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB.size // 3 - 1)
        data = encoded(Image.fromarray(RGB), "PNG")
        with pytest.warns(Image.DecompressionBombWarning):
            np.testing.assert_array_equal(reader()(data), RGB.transpose(2, 0, 1))

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
            decoded = reader()(bytes(content))
        except UnreadableItem:
            return
        assert decoded.shape == (3, HEIGHT, WIDTH)
