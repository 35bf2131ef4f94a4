"""Shared by tests of runs over sounds: made sounds, and settings that train in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

SPEAKERS = {"anna": 220.0, "ben": 110.0, "cleo": 330.0}
"""Who speaks, and how high, Hz."""

WIDTHS = ("channels", "gate_channels", "skip_channels", "head_channels")
STEPS = [
    "training.steps=6",
    "training.batch_size=4",
    "training.log_every=2",
    "training.checkpoint_every=3",
    "training.warmup_steps=1",
]
NUM_CODES, CODE_BITS, HOP = 24, 5, 160
"""Of the run over `digits`: entries, bits of a code without a prior, samples of a code."""
RATE_HZ = 8000

DIGITS = [
    *STEPS,
    "training.validate_every=3",
    "data.length=640",
    "model.encoder.network.channels=8",
    "model.encoder.network.residual_channels=4",
    "model.decoder.channels=8",
    "model.decoder.residual_channels=4",
    *(f"model.decoder.network.{width}=8" for width in WIDTHS),
    "model.decoder.network.layers=3",
    "model.decoder.network.stacks=1",
    f"num_codes={NUM_CODES}",
    "code_dim=4",
    "code_dropout=0.25",
]
"""The recipe `digits`, in seconds."""

PRIOR = [
    *STEPS,
    "length=7",
    *(f"network.{width}=8" for width in WIDTHS),
    "network.layers=2",
    "network.stacks=1",
]
"""A prior over the codes of either, in seconds."""

UNITS = [
    "data.length=32",
    "model.encoder.channels=12",
    "model.encoder.layer=2",
    "model.encoder.dilations=1,2",
    "model.encoder.voice.cepstra=5",
    "model.encoder.voice.num_clusters=8",
    "model.encoder.voice.rounds=1",
    "model.decoder.channels=8",
    "model.decoder.residual_channels=4",
    "model.likelihood.components=2",
    "num_codes=16",
    "code_dim=6",
    "pretraining.task.num_clusters=8",
    "pretraining.task.clusterings=2",
    "pretraining.training.steps=4",
    "pretraining.training.batch_size=4",
    "pretraining.training.checkpoint_every=2",
    "pretraining.training.log_every=2",
    *STEPS,
    "training.validate_every=3",
    "training.schedule=constant",
]
"""The recipe `units`, in seconds."""


def tone(rng: np.random.Generator, seconds: float, rate_hz: int, hz: float, kind: int = 0) -> np.ndarray:
    """A sine, a chirp or a burst of noise `(T,)`, each with a little noise under it."""
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = rng.standard_normal(len(at))
    match kind % 3:
        case 0:
            wave = 0.4 * np.sin(2 * np.pi * hz * at) + 0.1 * np.sin(6 * np.pi * hz * at)
        case 1:
            wave = 0.4 * np.sin(2 * np.pi * hz * at * (1 + at))
        case _:
            wave = 0.2 * noise * np.exp(-3 * at)
    return wave + 0.003 * noise


@dataclass(frozen=True)
class Kind:
    """Format of a file of sound."""

    ending: str
    subtype: str
    rate_hz: int
    channels: int


KINDS = (
    Kind(".wav", "PCM_16", 8000, 1),
    Kind(".wav", "PCM_U8", 11_025, 1),
    Kind(".wav", "PCM_24", 48_000, 2),
    Kind(".wav", "FLOAT", 16_000, 1),
    Kind(".flac", "PCM_16", 44_100, 2),
    Kind(".ogg", "VORBIS", 22_050, 1),
    Kind(".mp3", "MPEG_LAYER_III", 16_000, 2),
)


def save(path: Path, wave: np.ndarray, kind: Kind = KINDS[0]) -> Path:
    """One sound of a kind; gives the file."""
    path = path.with_suffix(kind.ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = np.stack([wave, 0.5 * wave], 1)[:, : kind.channels]
    soundfile.write(path, channels, kind.rate_hz, subtype=kind.subtype)
    return path


PHONES = {"AA": 500.0, "IY": 1500.0, "S": 4000.0}
"""Frequencies of the noisy tones that stand for phones, Hz."""

Segments = list[tuple[float, float, str]]
"""Start and end in seconds, and the phone."""


def utterance(rng: np.random.Generator, rate_hz: int, pitch: float) -> tuple[np.ndarray, Segments]:
    """Silence, some phones, silence, of a speaker whose frequencies are all `pitch` times as high."""
    names = ["SIL", *map(str, rng.permutation(list(PHONES))), *map(str, rng.permutation(list(PHONES))), "SIL"]
    parts, segments, begin = [], Segments(), 0.0
    for name in names:
        seconds = float(rng.integers(8, 16)) / 100
        at = np.arange(round(seconds * rate_hz)) / rate_hz
        wave = 1e-3 * rng.standard_normal(len(at))
        if name in PHONES:
            phase = 2 * np.pi * PHONES[name] * pitch * at + 0.3 * rng.standard_normal(len(at))
            wave = wave + 0.3 * np.sin(phase)
        parts.append(wave)
        segments.append((begin, round(begin + seconds, 2), name))
        begin = round(begin + seconds, 2)
    return np.concatenate(parts), segments
