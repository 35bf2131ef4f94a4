"""Damaged sounds and clips: a value or a reason, in bounded time and memory, and nothing printed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import av.codec
import numpy as np
import pytest

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio.sounds import read_sound
from smalti.modalities.video.clips import read_clip
from smalti.modalities.video.modality import VideoConfig
from tests import videos
from tests.memory import most_memory_kb, run_apart
from tests.modalities.audio.test_every_kind import by_libsndfile, by_pyav
from tests.modalities.video.test_metadata import encoded

LONGEST_S = 5
MOST_MEMORY_KB = 1_000_000
NUM, NUM_SLOW = 300, 50_000
"""Damaged files of each medium in the test suite, and in the slow one."""

SOUNDS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("AIFF", "PCM_16"), ("CAF", "PCM_16"),
          ("NIST", "PCM_16"), ("VOC", "PCM_16"), ("W64", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
          ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]  # fmt: skip
BY_PYAV = [("ipod", "aac"), ("adts", "aac"), ("asf", "wmav2"), ("tta", "tta"), ("wv", "wavpack"),
           ("matroska", "libopus")]  # fmt: skip
CLIPS = [("mp4", "mpeg4", "yuv420p", "aac"), ("webm", "libvpx", "yuv420p", "libopus"),
         ("matroska", "ffv1", "yuv444p", None), ("avi", "mjpeg", "yuvj420p", "pcm_s16le"),
         ("asf", "wmv2", "yuv420p", None)]  # fmt: skip
IMAGES = VideoConfig(size=(16, 16))


def sounds() -> list[bytes]:
    files = [by_libsndfile(*kind) for kind in SOUNDS]
    files += [by_pyav(*kind) for kind in BY_PYAV if kind[1] in av.codec.codecs_available]
    return [file for file in files if file]


def clips() -> list[bytes]:
    frames = videos.moving(8, 32, 48)
    return [
        encoded(container, codec, pixels, frames, sound=sound, context={"bit_rate": 500_000})
        for container, codec, pixels, sound in CLIPS
        if not {codec, sound or codec} - av.codec.codecs_available
    ]


def damaged(pool: list[bytes], num: int, seed: int) -> Iterator[bytes]:
    """Files with flipped bytes (half of them in the header), cut short, or joined to a part of another."""
    rng = np.random.default_rng(seed)
    for index in range(num):
        content = bytearray(pool[rng.integers(len(pool))])
        if index % 3 == 0:
            last = len(content) if rng.random() < 0.5 else min(400, len(content))
            for place in rng.integers(last, size=rng.integers(1, 12)):
                content[place] = rng.integers(256)
        elif index % 3 == 1:
            del content[rng.integers(len(content)) :]
        else:
            content[rng.integers(len(content)) :] = pool[rng.integers(len(pool))]
        yield bytes(content)


def check(files: Iterator[bytes], read: Callable[[bytes], Any]) -> None:
    for content in files:
        begin = time.process_time()
        try:
            assert read(content).size
        except UnreadableItem as error:
            assert str(error)  # noqa: PT017
        seconds = time.process_time() - begin
        assert seconds < LONGEST_S, (seconds, content[:64])
    most = most_memory_kb()
    assert most < MOST_MEMORY_KB, most


def run(num: int, seed: int) -> None:
    """Read damaged files of both media."""
    check(damaged(sounds(), num, seed), lambda content: read_sound(content, 16000))
    check(damaged(clips(), num, seed), lambda content: read_clip(content, 25.0, IMAGES.read))


def apart(num: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own, whose memory and standard error are those of the readers alone."""
    command = f"from tests.modalities.test_fuzz import run; run({num}, {seed})"
    return run_apart(command)


def test_damaged_sounds_and_clips() -> None:
    done = apart(NUM, 0)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_damaged_sounds_and_clips(seed: int) -> None:
    done = apart(NUM_SLOW // 2, seed)
    assert (done.returncode, done.stderr) == (0, "")
