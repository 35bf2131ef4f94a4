"""Sounds that are read block by block: the samples of the whole, and the same refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smalti.data.sources.base import UnreadableItem
from smalti.modalities.audio import kinds, libsndfile
from smalti.modalities.audio import sounds as module
from smalti.modalities.audio.sounds import read_sound, sound_blocks
from smalti.modalities.audio.spectrogram import LogMelConfig
from tests import sounds

RATE_HZ = 16_000


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_BYTES", 1)
    monkeypatch.setattr(libsndfile, "VALUES_AT_ONCE", 1000)
    monkeypatch.setattr(kinds, "BLOCK_BYTES", 5000)


def saved(folder: Path, kind: sounds.Kind, seconds: float = 0.4) -> Path:
    wave = sounds.tone(np.random.default_rng(0), seconds, kind.rate_hz, 300)
    return sounds.save(folder / "sound", wave, kind)


@pytest.mark.parametrize("kind", sounds.KINDS[:5], ids=lambda k: f"{k.subtype}{k.ending}")
def test_blocks_are_the_whole(kind: sounds.Kind, tmp_path: Path) -> None:
    file = saved(tmp_path, kind)
    blocks = sound_blocks(file, RATE_HZ)
    assert blocks is not None
    parts = list(blocks)
    assert len(parts) > 3
    assert np.array_equal(np.concatenate(parts), read_sound(file, RATE_HZ))


@pytest.mark.parametrize("kind", sounds.KINDS[5:], ids=lambda k: k.ending)
def test_other_formats_are_read_at_once(kind: sounds.Kind, tmp_path: Path) -> None:
    assert sound_blocks(saved(tmp_path, kind), RATE_HZ) is None


def test_short_files_joined_files_and_trimmed_sounds_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path, sounds.KINDS[0])
    joined = tmp_path / "joined.wav"
    joined.write_bytes(file.read_bytes() * 2)
    assert sound_blocks(joined, RATE_HZ) is None
    assert LogMelConfig(trim=True).blocks(file) is None
    assert LogMelConfig().build().blocks(file) is None  # it is normalised over the utterance
    assert LogMelConfig(normalise="none").build().blocks(file) is not None
    monkeypatch.setattr(module, "LONG_BYTES", file.stat().st_size + 1)
    assert sound_blocks(file, RATE_HZ) is None


def test_damage_is_found_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(UnreadableItem):
        sound_blocks(tmp_path / "missing.wav", RATE_HZ)
    whole = saved(tmp_path, sounds.KINDS[4]).read_bytes()
    cut = tmp_path / "cut.flac"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableItem):
        list(sound_blocks(cut, RATE_HZ) or ())
    nan = sounds.save(tmp_path / "nan", np.array([0.1] * 3000 + [np.nan]), sounds.KINDS[3])
    with pytest.raises(UnreadableItem):
        list(sound_blocks(nan, RATE_HZ) or ())
