"""Runs over made sounds, trained once, through the real entry point."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from smalti.modalities.audio.modality import AudioConfig, AudioModality
from tests import sounds
from tests.runs import command


@dataclass(frozen=True)
class SoundRun:
    """A finished run with a prior, what it was trained on, and what was said meanwhile.

    Attributes:
        path: of the run.
        data: the folder that it was trained on.
        printed: by `smalti train`.
        lengths: samples of each file that can be read, at the run's rate, in the order of the source.
    """

    path: Path
    data: Path
    printed: str
    lengths: dict[str, int] = field(default_factory=dict)


BROKEN = ("anna/empty.wav", "ben/cut.flac")
"""Files that nobody can read."""


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 speakers, 7 files of every kind each, and a silent, a clipped, an empty and a broken one."""
    folder = tmp_path_factory.mktemp("data") / "recordings"
    rng = np.random.default_rng(0)
    # All but one are so long that they are drawn by the compiled loop.
    lengths = [0.05, *np.linspace(0.13, 0.6, 20)]
    for index in range(21):
        kind, seconds = sounds.KINDS[index % 7], lengths[(index * 8) % 21]
        speaker, hz = list(sounds.SPEAKERS.items())[index // 7]
        wave = sounds.tone(rng, seconds, kind.rate_hz, hz, index)
        sounds.save(folder / speaker / f"{index:02d}", wave, kind)
    sounds.save(folder / "cleo" / "silent", np.zeros(2000))
    sounds.save(folder / "cleo" / "clipped", np.clip(9 * sounds.tone(rng, 0.2, 8000, 300), -1, 1))
    (folder / BROKEN[0]).write_bytes(b"")
    whole = sounds.save(folder / "whole", sounds.tone(rng, 0.3, 44_100, 200), sounds.KINDS[4])
    (folder / BROKEN[1]).write_bytes(whole.read_bytes()[:1000])
    whole.unlink()
    return folder


@pytest.fixture(scope="session")
def spoken(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> SoundRun:
    """A run of the recipe `digits` on `recordings`. It is shared: a test that changes it takes a copy."""
    path = tmp_path_factory.mktemp("runs") / "spoken"
    trained = command("train", "digits", "--data", recordings, "--out", path, *sounds.DIGITS)
    assert trained.status == 0, trained.err
    prior = command("train-prior", path, *sounds.PRIOR, "--quiet")
    assert prior.status == 0, prior.err
    modality = AudioModality(AudioConfig(sample_rate_hz=sounds.RATE_HZ))
    names = sorted(str(file.relative_to(recordings)) for file in recordings.rglob("*.*"))
    lengths = {name: modality.decode(recordings / name).shape[1] for name in names if name not in BROKEN}
    return SoundRun(path, recordings, trained.err, lengths)


@dataclass(frozen=True)
class PhoneRun:
    """A finished run over units, and what its data holds.

    Attributes:
        path: of the run.
        data: a folder of speakers' folders.
        alignments: the table of phones.
        segments: of each aligned utterance, by its file's name.
    """

    path: Path
    data: Path
    alignments: Path
    segments: dict[str, sounds.Segments]


UNALIGNED = "ada/0.wav"
"""An utterance that the table does not know."""


@pytest.fixture(scope="session")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> PhoneRun:
    """Made utterances of 4 speakers and their phones in time; there is no run over them yet."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    segments: dict[str, sounds.Segments] = {}
    rows = ["utt\tstart\tend\tphone"]
    for index, speaker in enumerate(("ada", "bea", "cid", "dan")):
        for take in range(4):
            wave, spoken_ = sounds.utterance(rng, 16_000, 1 + 0.02 * index)
            name = f"{speaker}/{index}{take}.wav" if take else f"{speaker}/{index}.wav"
            sounds.save(folder / "speech" / name, wave, sounds.KINDS[3])
            if name != UNALIGNED:
                segments[name] = spoken_
                stem = Path(name).stem
                rows += [f"{stem}\t{start:.2f}\t{end:.2f}\t{phone}" for start, end, phone in spoken_]
    (folder / "phones.tsv").write_text("\n".join(rows) + "\n")
    return PhoneRun(folder / "run", folder / "speech", folder / "phones.tsv", segments)


@pytest.fixture(scope="session")
def units(utterances: PhoneRun) -> PhoneRun:
    """A finished run of the recipe `units` on `utterances`. It is shared."""
    trained = command("train", "units", "--data", utterances.data, "--out", utterances.path, *sounds.UNITS)
    assert trained.status == 0, trained.err
    return utterances
