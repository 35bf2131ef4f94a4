"""Independent judges of speech: packages with their models inside, none of which was trained on our data.

They need `smalti[judges]`, and no network. Each judge is imperfect, so a study states how it scores the
originals, and everything else relative to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from jaxtyping import Float, Float64

from smalti.core.errors import InputError
from smalti.core.extras import needs_extra

RATE_HZ = 16_000
"""Sample rate of all judges."""
QUALITY = "DNSMOS (speechmos)"
WORDS = "pocketsphinx, loop of the test's words"
DIGIT_WORDS = "pocketsphinx, one of ten digits"
SPEAKERS = "resemblyzer, nearest centroid"
PITCH = "Praat (parselmouth), autocorrelation, 60 to 400 Hz"
PITCH_HOP_SECONDS = 0.01

MOST_STATES = 500
"""Models of phones that the recognizer of loops keeps at each frame."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def quality(waveform: Float[np.ndarray, " t"]) -> dict[str, float]:
    """Predict mean opinion scores, 1 to 5, of speech at 16 kHz without a reference (DNSMOS, ITU-T P.835).

    Source: Reddy et al. 2022 (arXiv 2110.01763), by the package speechmos. Samples are clipped to [-1, 1].

    Returns:
        `overall`, `signal` and `background`.
    """
    with needs_extra("judges"):
        from speechmos import dnsmos  # pyright: ignore[reportMissingImports]
    scores = dnsmos.run(np.clip(np.asarray(waveform, np.float32), -1, 1), sr=RATE_HZ)
    names = {"overall": "ovrl_mos", "signal": "sig_mos", "background": "bak_mos"}
    return {name: float(scores[key]) for name, key in names.items()}


def praat_f0(waveform: Float[np.ndarray, " t"], rate_hz: int) -> Float64[np.ndarray, " frames"]:
    """Estimate the fundamental frequency every 10 ms by Praat, Hz; NaN where a frame is unvoiced.

    Boersma 1993, by the package parselmouth. Sounds of fewer than three periods of 60 Hz have no frames.
    """
    with needs_extra("judges"):
        import parselmouth  # pyright: ignore[reportMissingImports]
    if len(waveform) * 60 < 3 * rate_hz:
        return np.zeros(0)
    sound: Any = parselmouth.Sound(np.asarray(waveform, np.float64), rate_hz)
    found = np.asarray(sound.to_pitch(PITCH_HOP_SECONDS, 60.0, 400.0).selected_array["frequency"], np.float64)
    return np.where(found > 0, found, np.nan)


def praat_figures(
    originals: Sequence[Float[np.ndarray, " _"]], made: Sequence[Float[np.ndarray, " _"]], rate_hz: int
) -> dict[str, float]:
    """Compare the pitch of sounds with that of their originals, by Praat.

    Returns:
        `voiced_kept`, the share of the voiced frames of the originals that are voiced in the others too, and
        `f0_error_semitones`, the median distance of F0 in these frames; NaN without any.
    """
    voiced, kept, errors = 0, 0, [np.zeros(0)]
    for original, other in zip(originals, made, strict=True):
        length = min(len(original), len(other))
        one, two = praat_f0(original[:length], rate_hz), praat_f0(other[:length], rate_hz)
        both = np.isfinite(one) & np.isfinite(two)
        voiced, kept = voiced + int(np.isfinite(one).sum()), kept + int(both.sum())
        errors.append(np.abs(12 * np.log2(two[both] / one[both])))
    every = np.concatenate(errors)
    middle = float(np.median(every)) if len(every) else float("nan")
    return {"voiced_kept": kept / max(1, voiced), "f0_error_semitones": middle}


@final
class WordRecognizer:
    """Recognises words of a closed vocabulary by pocketsphinx and its US English model.

    Args:
        words: vocabulary; those that its dictionary lacks are left out.
        single: an utterance is one word, instead of any number of them.

    Raises:
        InputError: if the dictionary has none of the words.
    """

    def __init__(self, words: Sequence[str], single: bool = False) -> None:
        with needs_extra("judges"):
            import pocketsphinx  # pyright: ignore[reportMissingImports]
        # Without a limit, a loop of fifty words takes nine times as long as the speech lasts.
        limit = {} if single else {"maxhmmpf": MOST_STATES}
        self._decoder: Any = pocketsphinx.Decoder(samprate=RATE_HZ, loglevel="FATAL", lm=None, **limit)
        unique = sorted({word.lower() for word in words})
        self.words = tuple(word for word in unique if self._decoder.lookup_word(word) is not None)
        """The vocabulary that is recognised."""
        if not self.words:
            raise InputError(
                f"expected English words, received none that the dictionary of pocketsphinx has among "
                f"{len(unique)}: pass others"
            )
        repeat = "" if single else "+"
        grammar = f"#JSGF V1.0; grammar words; public <words> = ( {' | '.join(self.words)} ){repeat};"
        self._decoder.add_jsgf_string("words", grammar)
        self._decoder.activate_search("words")

    def recognise(self, waveform: Float[np.ndarray, " t"]) -> list[str]:
        """Return the words of an utterance at 16 kHz, in order; none if it matches no sequence of them."""
        samples = (np.clip(np.asarray(waveform), -1, 1) * 32767).astype("<i2")
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        best = self._decoder.hyp()
        # The second pronunciation of a word is called word(2).
        return [word.partition("(")[0] for word in best.hypstr.split()] if best is not None else []


def matched(reference: Sequence[str], received: Sequence[str]) -> int:
    """Count the words of a reference that are received, in a longest common subsequence."""
    row = [0] * (len(received) + 1)
    for word in reference:
        previous = 0
        for index, other in enumerate(received, 1):
            diagonal = previous + 1 if word == other else max(row[index], row[index - 1])
            previous, row[index] = row[index], diagonal
    return row[-1]


@final
class DigitJudge:
    """Names the digit that an utterance of one word says, by pocketsphinx."""

    def __init__(self) -> None:
        self._recognizer = WordRecognizer(DIGITS, single=True)

    def digit(self, waveform: Float[np.ndarray, " t"]) -> int:
        """Return the digit; -1 if none is recognised."""
        heard = self._recognizer.recognise(waveform)
        return DIGITS.index(heard[0]) if heard else -1


@final
class SpeakerJudge:
    """Names the speaker of an utterance: the one with the nearest mean embedding, by resemblyzer.

    Wan et al. 2018 (arXiv 1710.10467), trained on LibriSpeech and VoxCeleb.

    Args:
        recordings: at 16 kHz, of each speaker.

    Raises:
        InputError: for fewer than two speakers, or one without recordings.
    """

    def __init__(self, recordings: Mapping[str, Sequence[Float[np.ndarray, " _"]]]) -> None:
        if len(recordings) < 2 or not all(recordings.values()):
            raise InputError(
                f"expected recordings of at least two speakers, received those of {len(recordings)}: add some"
            )
        with needs_extra("judges"):
            import resemblyzer  # pyright: ignore[reportMissingImports]
        self._package: Any = resemblyzer
        self._encoder: Any = resemblyzer.VoiceEncoder("cpu", verbose=False)
        self.speakers = tuple(recordings)
        means = [np.mean([self._embedding(each) for each in own], 0) for own in recordings.values()]
        self._centroids = np.stack([mean / np.linalg.norm(mean) for mean in means])

    def speaker(self, waveform: Float[np.ndarray, " t"]) -> str:
        """Return the name of the most similar speaker."""
        return self.speakers[int((self._centroids @ self._embedding(waveform)).argmax())]

    def _embedding(self, waveform: Float[np.ndarray, " t"]) -> Float[np.ndarray, " d"]:
        prepared = self._package.preprocess_wav(np.asarray(waveform, np.float32), RATE_HZ)
        return self._encoder.embed_utterance(prepared)
