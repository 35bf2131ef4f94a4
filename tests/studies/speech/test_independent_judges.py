"""Judges from other packages: what they are given and what is made of their answers.

The packages are replaced by small ones of the same interface, so nothing here needs `smalti[judges]`.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.studies.speech.independent import (
    SpeakerJudge,
    WordRecognizer,
    matched,
    praat_f0,
    praat_figures,
    quality,
)

SILENCE = np.zeros(4, np.float32)


def package(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def test_quality_is_that_of_the_clipped_waveform(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[np.ndarray] = []

    def run(samples: np.ndarray, sr: int) -> dict[str, Any]:
        given.append(samples)
        assert sr == 16_000
        return {"ovrl_mos": np.float64(3.0), "sig_mos": 3.5, "bak_mos": 4.0, "p808_mos": 3.2}

    package(monkeypatch, "speechmos", dnsmos=SimpleNamespace(run=run))
    scores = quality(np.array([0.5, -2.0, 1.5]))
    assert scores == {"overall": 3.0, "signal": 3.5, "background": 4.0}
    assert given[0].tolist() == [0.5, -1.0, 1.0]
    assert given[0].dtype == np.float32


class Decoder:
    """Hears what it is told to; its dictionary lacks "xyzzy"."""

    heard: str | None = None
    grammar = ""
    limit: int | None = None

    def __init__(self, **settings: Any) -> None:
        assert settings["samprate"] == 16_000
        Decoder.limit = settings.get("maxhmmpf")

    def lookup_word(self, word: str) -> str | None:
        return None if word == "xyzzy" else word

    def add_jsgf_string(self, name: str, grammar: str) -> None:
        Decoder.grammar = grammar

    def activate_search(self, name: str) -> None: ...
    def start_utt(self) -> None: ...
    def end_utt(self) -> None: ...

    def process_raw(self, samples: bytes, full_utt: bool) -> None:
        assert full_utt
        self.loudest = np.frombuffer(samples, "<i2").max()

    def hyp(self) -> SimpleNamespace | None:
        return None if self.heard is None else SimpleNamespace(hypstr=self.heard)


@pytest.mark.parametrize("single", [False, True])
def test_words_of_a_closed_vocabulary(monkeypatch: pytest.MonkeyPatch, single: bool) -> None:
    install(monkeypatch)
    recognizer = WordRecognizer(["TWO", "one", "two", "xyzzy"], single)
    assert recognizer.words == ("one", "two")
    assert Decoder.limit == (None if single else 500)
    assert ("( one | two )" + ("" if single else "+") + ";") in Decoder.grammar
    monkeypatch.setattr(Decoder, "heard", "two(2) one")
    assert recognizer.recognise(np.array([2.0, 0.1])) == ["two", "one"]
    monkeypatch.setattr(Decoder, "heard", None)
    assert recognizer.recognise(np.zeros(3)) == []
    with pytest.raises(InputError, match="English words"):
        WordRecognizer(["xyzzy"])


class VoiceEncoder:
    """The first sample is the voice."""

    def __init__(self, device: str, verbose: bool) -> None: ...

    def embed_utterance(self, wave: np.ndarray) -> np.ndarray:
        return np.array([np.cos(wave[0]), np.sin(wave[0])])


class Sound:
    """A frame every 10 ms, unvoiced where the waveform is -1, and of 100 Hz elsewhere."""

    def __init__(self, samples: np.ndarray, rate_hz: int) -> None:
        self.frames = samples[:: rate_hz // 100]

    def to_pitch(self, hop_seconds: float, low_hz: float, high_hz: float) -> SimpleNamespace:
        assert (hop_seconds, low_hz, high_hz) == (0.01, 60.0, 400.0)
        return SimpleNamespace(selected_array={"frequency": np.where(self.frames > -1, 100.0, 0.0)})


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make small packages available under the names of those that judge speakers, words and pitch."""
    package(monkeypatch, "parselmouth", Sound=Sound)
    package(monkeypatch, "pocketsphinx", Decoder=Decoder)
    package(monkeypatch, "resemblyzer", VoiceEncoder=VoiceEncoder, preprocess_wav=lambda wave, rate: wave)


def test_the_speaker_is_that_of_the_nearest_centroid(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    judge = SpeakerJudge({"ann": [np.full(4, 0.1), np.full(4, 0.3)], "bob": [np.full(4, 1.5)]})
    assert [judge.speaker(np.full(4, angle)) for angle in (0.2, 0.7, 0.9, 1.4)] == [
        "ann",
        "ann",
        "bob",
        "bob",
    ]
    with pytest.raises(InputError, match="two speakers"):
        SpeakerJudge({"ann": [np.zeros(4)]})
    with pytest.raises(InputError, match="two speakers"):
        SpeakerJudge({"ann": [np.zeros(4)], "bob": []})


def test_pitch_by_praat(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    one = np.ones(1600)
    other = np.concatenate([one[:1200], -one[:400], one])
    np.testing.assert_array_equal(praat_f0(other[:1600], 16_000), [100.0] * 8 + [np.nan] * 2)
    assert praat_f0(one[:799], 16_000).shape == (0,)
    figures = praat_figures([one, -one], [other, one], 16_000)
    assert figures == {"voiced_kept": 0.8, "f0_error_semitones": 0.0}
    nothing = praat_figures([-one], [one], 16_000)
    assert nothing["voiced_kept"] == 0
    assert np.isnan(nothing["f0_error_semitones"])


@pytest.mark.parametrize(
    ("reference", "received", "expected"),
    [
        ("a b c", "a b c", 3),
        ("a b c", "c b a", 1),
        ("a b c", "x a y c", 2),
        ("a a", "a", 1),
        ("", "a", 0),
        ("a", "", 0),
    ],
)
def test_matched_words(reference: str, received: str, expected: int) -> None:
    assert matched(reference.split(), received.split()) == expected


@pytest.mark.parametrize(
    "use",
    [
        lambda: quality(np.zeros(4)),
        lambda: WordRecognizer(["one"]),
        lambda: SpeakerJudge({"a": [SILENCE], "b": [SILENCE]}),
        lambda: praat_f0(np.zeros(16_000), 16_000),
    ],
)
def test_a_missing_package_is_named(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("speechmos", "parselmouth", "pocketsphinx", "resemblyzer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"smalti\[judges\]"):
        use()
