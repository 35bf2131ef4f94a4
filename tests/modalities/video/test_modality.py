"""Clips: what is read from every kind of file, what is refused and how, what is written and shown."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.codec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.data.sources.base import UnreadableItem
from smalti.modalities.video import clips, modality
from smalti.modalities.video.clips import at_rate, clip_blocks
from smalti.modalities.video.files import write_clip
from smalti.modalities.video.modality import VideoConfig, VideoModality
from tests import videos

MODALITY = VideoModality(VideoConfig(size=(16, 24), frames=4))
GREY = VideoModality(VideoConfig(size=(16, 16), frames=4))


def levels(clip: np.ndarray) -> list[int]:
    """The level of each frame of a clip of one level a frame."""
    return clip.reshape(3, clip.shape[1], -1).mean((0, 2)).round().astype(int).tolist()


class TestReading:
    @pytest.mark.parametrize("kind", videos.KINDS, ids=lambda kind: kind.ending)
    def test_every_kind_of_file(self, tmp_path: Path, kind: videos.Kind) -> None:
        frames = videos.moving(12, 16, 24)
        file = videos.save(tmp_path / "clip", frames, kind)
        clip = MODALITY.decode(file)
        assert clip.dtype == np.uint8
        assert clip.shape == (3, 12, 16, 24)
        error = np.abs(clip.astype(int) - frames.transpose(3, 0, 1, 2)).mean()
        assert error == 0 if kind is videos.LOSSLESS else error < 12
        np.testing.assert_array_equal(MODALITY.decode(file.read_bytes()), clip)

    @pytest.mark.parametrize("kind", videos.KINDS[:3], ids=lambda kind: kind.ending)
    def test_blocks_are_the_whole(
        self, tmp_path: Path, kind: videos.Kind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = videos.save(tmp_path / "clip", videos.moving(12, 16, 24), kind)
        assert MODALITY.blocks(file) is None  # short
        monkeypatch.setattr(modality, "LONG_BYTES", 1)
        monkeypatch.setattr(clips, "BLOCK_BYTES", 5 * 16 * 24 * 3)
        blocks = list(MODALITY.blocks(file) or ())
        assert [block.shape[1] for block in blocks] == [5, 5, 2]
        np.testing.assert_array_equal(np.concatenate(blocks, 1), MODALITY.decode(file))
        assert MODALITY.blocks(file.read_bytes()) is None
        assert MODALITY.native().blocks(file) is not None

    def test_blocks_of_one_frame_are_refused(self, tmp_path: Path) -> None:
        file = videos.save(tmp_path / "clip", videos.moving(1, 16, 24), videos.LOSSLESS)
        with pytest.raises(UnreadableItem):
            list(clip_blocks(file, None, lambda pixels: pixels.transpose(2, 0, 1)))

    def test_an_animated_gif_keeps_its_pixels(self, tmp_path: Path) -> None:
        frames = videos.moving(5, 16, 24)
        file = videos.save_gif(tmp_path / "clip", frames)
        np.testing.assert_array_equal(MODALITY.decode(file), frames.transpose(3, 0, 1, 2))

    def test_a_folder_of_frames_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        frames = videos.moving(12, 16, 24)
        folder = videos.save_folder(tmp_path / "clip", frames)
        (folder / "notes.txt").write_text("no frame")
        (folder / ".hidden.png").write_text("no frame")
        np.testing.assert_array_equal(MODALITY.decode(folder), frames.transpose(3, 0, 1, 2))

    @pytest.mark.parametrize("kind", videos.KINDS[1:3], ids=lambda kind: kind.ending)
    @pytest.mark.parametrize("size", [(17, 25), (33, 15), (9, 9)])
    def test_odd_sizes(self, tmp_path: Path, kind: videos.Kind, size: tuple[int, int]) -> None:
        file = videos.save(tmp_path / "clip", videos.moving(3, *size), kind)
        assert MODALITY.decode(file).shape == (3, 3, 16, 24)

    def test_frames_with_the_same_numbers_have_one_order_everywhere(self, tmp_path: Path) -> None:
        folder = tmp_path / "clip.frames"
        folder.mkdir()
        for name, frame in zip(("2", "1", "01"), videos.grey(200, 100, 0), strict=True):
            Image.fromarray(frame).save(folder / f"{name}.png")
        assert levels(GREY.decode(folder)) == [0, 100, 200]

    def test_a_clip_that_was_cut_without_coding_it_again(self, tmp_path: Path) -> None:
        """The file still holds the frames before the cut, from the last whole one on, and shows them not."""
        kind = videos.Kind(".mp4", "mpeg4", "yuv420p")
        whole = videos.save(tmp_path / "whole", videos.moving(24, 16, 24), kind)
        cut = tmp_path / "cut.mp4"
        with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None and packet.pts is not None and packet.time_base is not None:
                    shift = round(1.2 / packet.time_base)
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                    packet.stream = stream
                    target.mux(packet)
        with av.open(str(cut)) as container:
            assert container.streams.video[0].frames == 24
        every = VideoModality(VideoConfig(size=(16, 24), frame_rate_hz=None))
        assert every.decode(cut).shape == (3, 12, 16, 24)

    def test_frames_are_fitted_as_pictures_are(self, tmp_path: Path) -> None:
        frames = videos.moving(3, 40, 44)
        clip = MODALITY.decode(videos.save(tmp_path / "clip", frames, videos.LOSSLESS))
        for index, frame in enumerate(frames):
            np.testing.assert_array_equal(clip[:, index], MODALITY.config.read(frame))

    def test_grey_files_and_grey_signals(self, tmp_path: Path) -> None:
        file = videos.save(tmp_path / "clip", videos.grey(0, 100, 250), videos.Kind(".mkv", "ffv1", "gray"))
        assert levels(GREY.decode(file)) == [0, 100, 250]
        one = VideoModality(VideoConfig(size=(16, 16), channels=1)).decode(file)
        assert one[:, :, 0, 0].tolist() == [[0, 100, 250]]

    @pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
    def test_transparency_shows_the_background(self, tmp_path: Path, background: Any, level: int) -> None:
        frames = np.concatenate([videos.grey(50, 60), np.zeros((2, 16, 16, 1), np.uint8)], 3)
        frames[:, :8, :, 3] = 255
        file = videos.save(tmp_path / "clip", frames, videos.Kind(".mov", "png", "rgba"))
        clip = VideoModality(VideoConfig(size=(16, 16), background=background)).decode(file)
        assert clip[0, :, 0, 0].tolist() == [50, 60]
        assert clip[0, :, 15, 0].tolist() == [level, level]

    @pytest.mark.parametrize(("degrees", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1))])
    def test_what_a_camera_says_of_how_it_was_held(self, tmp_path: Path, degrees, matrix) -> None:
        """The matrix of a track's header is the one that players use; this one turns clockwise."""
        frames = videos.moving(3, 16, 16)
        file = videos.save(tmp_path / "clip", frames, videos.Kind(".mov", "png", "rgb24"))
        content = bytearray(file.read_bytes())
        at = content.index(b"tkhd") + 44
        a, b, c, d = (16 * (value << 12) for value in matrix)
        content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        upright = np.rot90(frames, -degrees // 90, (1, 2))
        np.testing.assert_array_equal(GREY.decode(bytes(content)), upright.transpose(3, 0, 1, 2))

    def test_sound_is_ignored(self, tmp_path: Path) -> None:
        file = tmp_path / "both.mkv"
        with av.open(str(file), "w") as container:
            pictures, sound = (
                container.add_stream("ffv1", rate=10),
                container.add_stream("pcm_s16le", rate=8000),
            )
            pictures.height = pictures.width = 16
            pictures.pix_fmt = "bgr0"
            wave = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            wave.sample_rate = 8000
            container.mux(sound.encode(wave))
            for pixels in videos.grey(10, 20, 30):
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            for stream in (pictures, sound):
                container.mux(stream.encode())
        assert levels(GREY.decode(file)) == [10, 20, 30]


class TestRate:
    FRAMES = videos.grey(*range(0, 200, 10))

    def decoded(self, file: Path, rate_hz: float | None) -> list[int]:
        return levels(VideoModality(VideoConfig(size=(16, 16), frame_rate_hz=rate_hz)).decode(file))

    @pytest.mark.parametrize(
        ("rate_hz", "expected"),
        [
            (None, [*range(0, 200, 10)]),
            (10, [*range(0, 200, 10)]),
            (5, [*range(0, 200, 20)]),
            (20, [10 * (index // 2) for index in range(40)]),
            (2.5, [*range(0, 200, 40)]),
        ],
    )
    @pytest.mark.parametrize("kind", videos.KINDS[2:], ids=lambda kind: kind.ending)
    def test_the_nearest_frame(self, tmp_path: Path, kind, rate_hz, expected) -> None:
        received = self.decoded(videos.save(tmp_path / "clip", self.FRAMES, kind), rate_hz)
        # Of two frames that are equally near, whichever the rounding of a file's times prefers.
        np.testing.assert_allclose(received, expected, atol=14 if rate_hz == 20 else 4)

    def test_uneven_times_are_used(self, tmp_path: Path) -> None:
        times_ms = [0, 100, 200, 1200, 1300]
        file = videos.save(tmp_path / "clip", self.FRAMES[:5], videos.LOSSLESS, 10, times_ms)
        assert self.decoded(file, None) == [0, 10, 20, 30, 40]
        assert self.decoded(file, 10) == [0, 10, *[20] * 6, *[30] * 5, 40]
        assert self.decoded(file, 1) == [0, 30]

    def test_those_of_a_gif_too(self, tmp_path: Path) -> None:
        file = videos.save_gif(tmp_path / "clip", self.FRAMES[:3], [100, 400, 200])
        assert self.decoded(file, None) == [0, 10, 20]
        assert self.decoded(file, 10) == [0, 10, 10, 10, 20, 20, 20]

    @given(
        st.lists(st.integers(1, 30), min_size=1, max_size=12),
        st.fractions(Fraction(1, 9), 3, max_denominator=9),
    )
    def test_by_looking_at_every_frame_for_every_time(self, gaps: list[int], rate: Fraction) -> None:
        begins = [Fraction(sum(gaps[:index])) for index in range(len(gaps))]
        shown = [
            (begin, Fraction(gap), index) for index, (begin, gap) in enumerate(zip(begins, gaps, strict=True))
        ]
        expected, number = [], 0
        while number / rate < sum(gaps):
            expected.append(min(range(len(gaps)), key=lambda index: abs(begins[index] - number / rate)))
            number += 1
        assert list(at_rate(shown, rate)) == expected

    def test_times_that_cannot_be_are_not_filled(self, tmp_path: Path) -> None:
        file = videos.save(tmp_path / "clip", self.FRAMES[:3], videos.LOSSLESS, 10, [0, 100, 10_000_000])
        with pytest.raises(UnreadableItem, match="a frame lasts 10000 seconds"):
            self.decoded(file, 10)


class TestUnreadable:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "the file is empty"),
            (b"no video at all" * 99, "not a video that FFmpeg can read, or damaged"),
            (b"#EXTM3U\n#EXTINF:1\nother.mp4\n", "not a video that FFmpeg can read, or damaged"),
            (np.zeros((4, 4), np.uint8), r"expected frames \(F, H, W\) or"),
        ],
    )
    def test_no_clips(self, content, words: str) -> None:
        with pytest.raises(UnreadableItem, match=words):
            MODALITY.decode(content)

    def test_no_such_file(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.mp4", Path("a\0b.mp4")):
            with pytest.raises(UnreadableItem, match=r"No such file|invalid file name"):
                MODALITY.decode(path)

    @pytest.mark.parametrize("kind", videos.KINDS, ids=lambda kind: kind.ending)
    def test_cut_short(self, tmp_path: Path, kind: videos.Kind) -> None:
        content = videos.save(tmp_path / "clip", videos.moving(20), kind).read_bytes()
        with pytest.raises(UnreadableItem, match="truncated"):
            MODALITY.decode(content[: len(content) // 2])

    def test_too_short(self, tmp_path: Path) -> None:
        one = videos.save(tmp_path / "one", videos.grey(1), videos.LOSSLESS)
        with pytest.raises(UnreadableItem, match="too short: it has 1 frame, a clip has at least 2"):
            GREY.decode(one)
        three = videos.save(tmp_path / "three", videos.grey(1, 2, 3), videos.LOSSLESS)
        slow = VideoModality(VideoConfig(size=(16, 16), frame_rate_hz=2))
        with pytest.raises(UnreadableItem, match="too short: it has 1 frame at 2 frames per second"):
            slow.decode(three)
        (tmp_path / "none.frames").mkdir()
        with pytest.raises(UnreadableItem, match="too short: it has 0 frames, a clip"):
            GREY.decode(tmp_path / "none.frames")

    def test_a_broken_frame_of_a_folder_is_named(self, tmp_path: Path) -> None:
        folder = videos.save_folder(tmp_path / "clip", videos.moving(3))
        (folder / "1.png").write_bytes(b"")
        with pytest.raises(UnreadableItem, match=r"its frame 1\.png cannot be read: the file is empty"):
            MODALITY.decode(folder)

    def test_only_sound(self, tmp_path: Path) -> None:
        with av.open(str(tmp_path / "sound.mkv"), "w") as container:
            stream: Any = container.add_stream("pcm_s16le", rate=8000)
            wave = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            wave.sample_rate = 8000
            container.mux(stream.encode(wave))
            container.mux(stream.encode())
        with pytest.raises(UnreadableItem, match="no video stream"):
            MODALITY.decode(tmp_path / "sound.mkv")


class TestModality:
    def test_spec_protocol_and_time(self) -> None:
        assert MODALITY.spec.size == (4, 16, 24)
        assert MODALITY.spec.dims == 3 * 4 * 16 * 24
        assert MODALITY.stored_shape == (3, None, 16, 24)
        assert MODALITY.seconds(10) is None
        timed = VideoModality(VideoConfig(frame_rate_hz=12.5))
        assert timed.seconds(25) == 2
        assert timed.protocol()["frame_rate_hz"] == 12.5
        assert MODALITY.protocol()["filter"] == "lanczos"

    @pytest.mark.parametrize(
        "wrong", [{"frames": 0}, {"frame_rate_hz": 0}, {"frame_rate_hz": 1e9}, {"size": 0}]
    )
    def test_settings_out_of_range(self, wrong) -> None:
        with pytest.raises(ValidationError):
            VideoConfig(**wrong)

    def test_open_size_is_refused(self) -> None:
        with pytest.raises(InputError, match="expected a size"):
            VideoModality(VideoConfig(size=None))

    def test_all_levels_round_trip(self) -> None:
        clip = torch.arange(256, dtype=torch.uint8).view(1, 1, 4, 8, 8)
        assert torch.equal(MODALITY.to_stored(MODALITY.to_model(clip)), clip)

    def test_warnings(self) -> None:
        still = np.full((3, 4, 16, 24), 7, np.uint8)
        assert MODALITY.warnings(still) == ["still throughout"]
        still[0, 2, 3, 3] = 8
        assert MODALITY.warnings(still) == []

    def test_what_a_user_may_pass(self, tmp_path: Path) -> None:
        frames = videos.moving(5, 16, 24)
        first = torch.from_numpy(frames.transpose(3, 0, 1, 2).copy())
        expected = MODALITY.to_model(first[None])
        file = videos.save_gif(tmp_path / "clip", frames)
        for signal in (
            first,
            first[None],
            frames,
            frames[None],
            expected,
            file,
            str(file),
            file.read_bytes(),
        ):
            (checked,) = MODALITY.check(signal)
            torch.testing.assert_close(checked, expected)
        both = MODALITY.check([file, frames[:2], torch.stack([first, first])])
        assert [clip.shape[2] for clip in both] == [5, 2, 5, 5]

    @pytest.mark.parametrize(
        ("signal", "words"),
        [
            ([], "at least one clip"),
            (7, "received int"),
            (
                torch.zeros(3, 16, 24),
                r"shape \(B, 3, F, 16, 24\), received \(3, 16, 24\)",
            ),
            (torch.zeros(3, 0, 16, 24), "non-empty clips"),
            (torch.zeros(3, 4, 16, 25), r"received \(3, 4, 16, 25\)"),
            (torch.full((3, 4, 16, 24), 2.0), "values from 2 to 2"),
            (torch.zeros(3, 4, 16, 24, dtype=torch.int64), "received torch.int64"),
            (b"nothing", "cannot be read as a clip: not a video"),
        ],
    )
    def test_refused(self, signal, words: str) -> None:
        with pytest.raises(InputError, match=words):
            MODALITY.check(signal)


class TestFigures:
    @pytest.mark.parametrize("size", [(16, 24), (15, 23)])
    @pytest.mark.parametrize("rate_hz", [None, 8, 12.5])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_mp4_round_trip(self, tmp_path: Path, size, rate_hz, channels) -> None:
        modality = VideoModality(VideoConfig(size=size, frame_rate_hz=rate_hz, channels=channels))
        clip = modality.decode(videos.moving(7, *size))
        modality.save(clip, tmp_path / "clip.mp4")
        again = modality.decode(tmp_path / "clip.mp4")
        assert again.shape == clip.shape
        assert np.abs(again.astype(int) - clip).mean() < 20
        with av.open(str(tmp_path / "clip.mp4")) as container:
            (stream,) = container.streams.video
            assert stream.average_rate == Fraction(rate_hz or 25)
            assert (stream.height % 2, stream.width % 2) == (0, 0)

    @pytest.mark.parametrize("rate_hz", [8, 15])
    def test_gif_round_trip(self, tmp_path: Path, rate_hz: int) -> None:
        modality = VideoModality(VideoConfig(size=(15, 23), frame_rate_hz=rate_hz))
        clip = modality.decode(videos.moving(30, 15, 23, shift=1))
        modality.save(modality.to_model(torch.from_numpy(clip)[None]), tmp_path / "clip.GIF")
        np.testing.assert_array_equal(modality.decode(tmp_path / "clip.GIF"), clip)

    @pytest.mark.parametrize("rate_hz", [30.0, 120.0, 1000.0])
    def test_a_fast_gif_has_all_its_frames(self, tmp_path: Path, rate_hz: float) -> None:
        modality = VideoModality(VideoConfig(size=(16, 24), frame_rate_hz=None))
        clip = modality.decode(videos.moving(20, 16, 24, shift=1))
        write_clip(clip.transpose(1, 2, 3, 0), tmp_path / "clip.gif", rate_hz)
        np.testing.assert_array_equal(modality.decode(tmp_path / "clip.gif"), clip)

    def test_without_h264_it_is_mpeg4(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(av.codec, "codecs_available", {"mpeg4"})
        clip = MODALITY.decode(videos.moving(7, 16, 24))
        MODALITY.save(clip, tmp_path / "clip.mp4")
        monkeypatch.undo()
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert container.streams.video[0].codec_context.name == "mpeg4"
        assert np.abs(MODALITY.decode(tmp_path / "clip.mp4").astype(int) - clip).mean() < 20

    def test_other_things_are_not_saved(self, tmp_path: Path) -> None:
        clip = torch.zeros(3, 4, 16, 24)
        with pytest.raises(InputError, match=r"ends in \.mp4 or \.gif, received .*clip\.avi"):
            MODALITY.save(clip, tmp_path / "clip.avi")
        with pytest.raises(InputError, match="expected one clip, received 2"):
            MODALITY.save(torch.stack([clip, clip]), tmp_path / "clip.mp4")
        with pytest.raises(InputError, match=r"expected clips \(C, F, H, W\)"):
            MODALITY.save(clip[:2], tmp_path / "clip.mp4")

    def test_a_strip_of_each_clip_with_the_other_rows_under_it(self) -> None:
        modality = VideoModality(VideoConfig(size=(96, 96)))
        one, two = (torch.full((2, 3, 20, 96, 96), 180, dtype=torch.uint8) for _ in range(2))
        one[:, :, 19], two[1] = 255, 0
        picture = np.asarray(modality.preview([one, list(two)]))
        assert picture.shape[1] == 2 + 8 * 98
        assert picture[50, 50].tolist() == [180] * 3
        assert picture[50, 2 + 7 * 98 + 40].tolist() == [255] * 3  # the last frame
        assert picture[150, 50].tolist() == [180] * 3
        assert picture[-50, 50].tolist() == [0] * 3

    def test_unequal_rows(self) -> None:
        for rows in ([torch.zeros(2, 3, 4, 8, 8), torch.zeros(1, 3, 4, 8, 8)], [[]]):
            with pytest.raises(InputError, match="same number of clips"):
                MODALITY.preview(rows)


def test_endings_are_those_that_ffmpeg_may_open() -> None:
    assert {".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif"} <= set(clips.EXTENSIONS)
