"""Evaluate reconstruction and voice conversion with classifiers of speaker and content.

Held-out utterances are decoded from their codes, once as their own speaker and once as another. The
classifiers (judges) are trained only on real recordings of the training split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from smalti.app.console import counting, note
from smalti.app.data import open_data
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.data.ingest import decode_ahead
from smalti.data.loader import evenly_spaced
from smalti.data.sources import UnreadableItem
from smalti.encoding import encode_signals
from smalti.modalities.audio.sounds import resampled
from smalti.studies.speech.independent import RATE_HZ, DigitJudge, SpeakerJudge, praat_f0, praat_figures
from smalti.studies.speech.judges import Recognizer, train_recognizer
from smalti.studies.speech.page import rate_of, write_speech_page
from smalti.studies.speech.pitch import f0, voiced_kept
from smalti.studies.speech.recipes import SpeechStudy
from smalti.studies.speech.spectra import mel_distance
from smalti.tokenizer import Tokenizer

KNOWN_RECORDINGS = 60
"""Recordings by which an independent judge knows a speaker, evenly spaced among all of them."""
BATCH = 24
"""Utterances decoded per batch; changing it changes the random draws of a seed."""


@dataclass(frozen=True)
class Utterance:
    """An utterance of a data set.

    Attributes:
        name: name of the item.
        speaker: index of the speaker in the run's classes.
        content: label of the spoken content, or None if item names do not contain it.
        signal: the model's input, `(1, 1, T)`.
        waveform: amplitudes at the model's sample rate.
    """

    name: str
    speaker: int
    content: int | None
    signal: Tensor
    waveform: np.ndarray


@final
@dataclass(frozen=True)
class Independent:
    """Judges from other packages, which have not seen the data; see `smalti.studies.speech.independent`.

    Attributes:
        speaker: knows the speakers by the recordings of the training split.
        digit: None if the content is no spoken digit.
        rate_hz: sample rate of the waveforms.
    """

    speaker: SpeakerJudge
    digit: DigitJudge | None
    rate_hz: int

    def speakers(self, waveforms: Sequence[np.ndarray]) -> Int64[np.ndarray, " n"]:
        """Index of each utterance's speaker."""
        return np.array([int(self.speaker.speaker(self._resampled(w))) for w in waveforms])

    def digits(self, waveforms: Sequence[np.ndarray]) -> Int64[np.ndarray, " n"]:
        """Digit of each utterance, -1 for none."""
        assert self.digit is not None
        return np.array([self.digit.digit(self._resampled(w)) for w in waveforms])

    def f0(self, waveform: np.ndarray) -> Float64[np.ndarray, " frames"]:
        """F0 of each frame, Hz; NaN where it is unvoiced."""
        return praat_f0(waveform, self.rate_hz)

    def _resampled(self, waveform: np.ndarray) -> np.ndarray:
        return resampled(np.asarray(waveform, np.float32), self.rate_hz, RATE_HZ)


@final
@dataclass(frozen=True)
class Judges:
    """Classifiers of speaker and, if labels exist, of content; and the independent ones, if installed."""

    speaker: Recognizer
    content: Recognizer | None
    independent: Independent | None = None


def convert_all(
    study: SpeechStudy, seed: int, data: str, split: str, tokenizer: Tokenizer, quiet: bool
) -> dict[str, dict[str, int | float]]:
    """Reconstruct and convert utterances of a split, score them with the judges, and write a page.

    Returns:
        The metrics of the originals, the originals at the model's levels, the reconstructions and the
        conversions.
    """
    source = open_data(data, tokenizer.modality)
    training = _read_utterances(study, tokenizer, data, "train" if "train" in source.splits else "all")
    held_out = _read_utterances(study, tokenizer, data, split)
    rng = np.random.default_rng(seed)
    chosen = [held_out[i] for i in rng.permutation(len(held_out))[: study.converted]]
    note("Training the judges on real recordings.", quiet)
    judges = _train_judges(study, tokenizer, training, seed)
    num = len(tokenizer.classes)
    targets = [(u.speaker + 1 + int(rng.integers(num - 1))) % num for u in chosen]
    with counting("Decoding", quiet) as count:
        total = 2 * len(chosen)
        temperature = study.temperature
        speakers = [u.speaker for u in chosen]
        same = _decode_as(tokenizer, chosen, speakers, seed, temperature, lambda n: count(n, total))
        other = _decode_as(
            tokenizer, chosen, targets, seed, temperature, lambda n: count(len(chosen) + n, total)
        )
    names = tokenizer.classes
    shown = [
        (
            u.name,
            {
                f"{names[u.speaker]}, original": u.waveform,
                f"{names[u.speaker]}, from codes": same[index],
                f"as {names[target]}, same codes": other[index],
            },
        )
        for index, (u, target) in enumerate(zip(chosen, targets, strict=True))
    ]
    write_speech_page(tokenizer, shown, seed)
    own = [u.speaker for u in chosen]
    originals = [u.waveform for u in chosen]
    levels = [tokenizer.modality.render(u.signal)[0, 0, : len(u.waveform)].numpy() for u in chosen]
    rate_hz = rate_of(tokenizer)
    return {
        "originals": _scores(judges, tokenizer, chosen, originals, own, originals),
        "levels": _scores(judges, tokenizer, chosen, levels, own, originals),
        "reconstructed": {
            **_scores(judges, tokenizer, chosen, same, own, originals),
            **_voiced(judges, originals, same, rate_hz),
        },
        "converted": {
            **_scores(judges, tokenizer, chosen, other, targets, originals),
            **_pitch(judges, tokenizer, training, chosen, targets, other),
            **_voiced(judges, originals, other, rate_hz),
            **_content_kept(judges, chosen, same, other),
        },
    }


def _read_utterances(study: SpeechStudy, tokenizer: Tokenizer, data: str, split: str) -> list[Utterance]:
    """Read the utterances of a split whose speakers are among the run's classes."""
    modality = tokenizer.modality
    sounds: Any = tokenizer.recipe.data
    if modality.sample_rate_hz is None:
        raise InputError(f"expected a run over sounds, received one over {modality.plural_name}")
    source = open_data(data, modality)

    def read(content: Any) -> Any:
        return modality.decode(content), sounds.read(content)

    spoken = []
    for item, result in decode_ahead(source.items(split), read):
        if isinstance(result, UnreadableItem) or item.label not in tokenizer.classes:
            continue
        levels, waveform = result
        said = re.search(study.content_pattern, item.name) if study.content_pattern else None
        spoken.append(
            Utterance(
                item.name,
                tokenizer.classes.index(item.label),
                int(said[1]) if said else None,
                modality.to_model(torch.from_numpy(levels)[None]),
                waveform,
            )
        )
    if not spoken:
        raise InputError(
            f"expected utterances of the run's speakers in the split {split} of {data}, found none: use the "
            "data that the run was trained on"
        )
    return spoken


def _train_judges(
    study: SpeechStudy, tokenizer: Tokenizer, training: Sequence[Utterance], seed: int
) -> Judges:
    rate_hz = rate_of(tokenizer)
    waveforms = [u.waveform for u in training]

    def judge(labels: Sequence[int], is_content: bool) -> Recognizer:
        ids = np.array(labels, np.int64)
        return train_recognizer(waveforms, ids, rate_hz, is_content, study.judge_steps, seed=seed)

    contents = [u.content for u in training if u.content is not None]
    has_content = len(contents) == len(training) and len(set(contents)) > 1
    return Judges(
        judge([u.speaker for u in training], False),
        judge(contents, True) if has_content else None,
        _independent(study, training, rate_hz),
    )


def _independent(study: SpeechStudy, training: Sequence[Utterance], rate_hz: int) -> Independent | None:
    of_speaker: dict[str, list[int]] = {}
    for index, utterance in enumerate(training):
        of_speaker.setdefault(str(utterance.speaker), []).append(index)
    recordings = {
        speaker: [
            resampled(training[index].waveform, rate_hz, RATE_HZ)
            for index in evenly_spaced(np.array(own), KNOWN_RECORDINGS).tolist()
        ]
        for speaker, own in of_speaker.items()
    }
    try:
        return Independent(SpeakerJudge(recordings), DigitJudge() if study.are_digits else None, rate_hz)
    except InputError as error:
        note(f"Independent judges are left out: {error}")
        return None


def _decode_as(
    tokenizer: Tokenizer,
    spoken: Sequence[Utterance],
    speakers: Sequence[int],
    seed: int,
    temperature: float,
    report: Callable[[int], None],
) -> list[np.ndarray]:
    """Encode each utterance, and decode its codes with the given speaker, in batches of similar length."""
    model, modality = tokenizer.autoencoder, tokenizer.modality
    order = sorted(range(len(spoken)), key=lambda i: spoken[i].signal.shape[-1])
    waveforms: dict[int, np.ndarray] = {}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for begin in range(0, len(order), BATCH):
            chosen = order[begin : begin + BATCH]
            own = [spoken[i].speaker for i in chosen]
            codes = encode_signals(model, modality, [spoken[i].signal for i in chosen], own)
            longest = max(c.shape[-1] for c in codes)
            # Shorter utterances repeat their last code; the output beyond their end is discarded.
            filled = [torch.cat([c, c[..., -1:].expand(1, 1, longest - c.shape[-1])], 2) for c in codes]
            labels = torch.tensor([speakers[i] for i in chosen], device=tokenizer.device)
            filled_codes = torch.cat(filled).to(tokenizer.device)
            signals = model.decode(filled_codes, Conditions(label=labels), generator, temperature).cpu()
            for i, signal in zip(chosen, modality.render(signals), strict=True):
                waveforms[i] = signal[0, : len(spoken[i].waveform)].numpy()
            report(begin + len(chosen))
    return [waveforms[i] for i in range(len(spoken))]


def _scores(
    judges: Judges,
    tokenizer: Tokenizer,
    spoken: Sequence[Utterance],
    waveforms: Sequence[np.ndarray],
    wanted: Sequence[int],
    originals: Sequence[np.ndarray],
) -> dict[str, int | float]:
    """Score sounds with the judges."""
    speakers = judges.speaker.predict(waveforms)
    rate_hz = judges.speaker.sample_rate_hz
    # A spectrogram has whole frames only, so a waveform made from one may be slightly shorter.
    pairs = [(o[: len(w)], w) for o, w in zip(originals, waveforms, strict=True)]
    metrics = {
        "target_speaker_rate": float(np.mean(speakers == np.array(wanted))),
        "source_speaker_rate": float(np.mean(speakers == np.array([u.speaker for u in spoken]))),
        "mel_distance": float(np.mean([mel_distance(o, w, rate_hz) for o, w in pairs])),
        "num": len(spoken),
    }
    content = np.array([-2 if u.content is None else u.content for u in spoken])
    if judges.content is not None:
        metrics["content_rate"] = float(np.mean(judges.content.predict(waveforms) == content))
    if judges.independent is not None:
        named = judges.independent.speakers(waveforms)
        metrics["independent_target_speaker_rate"] = float(np.mean(named == np.array(wanted)))
        if judges.independent.digit is not None:
            heard = judges.independent.digits(waveforms)
            metrics["independent_content_rate"] = float(np.mean(heard == content))
    return metrics


def _content_kept(
    judges: Judges, spoken: Sequence[Utterance], same: Sequence[np.ndarray], other: Sequence[np.ndarray]
) -> dict[str, float]:
    """Among utterances whose content is recognised after reconstruction, the share after conversion."""
    content = np.array([-2 if u.content is None else u.content for u in spoken])
    named = {"content_kept": None if judges.content is None else judges.content.predict}
    if judges.independent is not None and judges.independent.digit is not None:
        named["independent_content_kept"] = judges.independent.digits
    kept = {}
    for name, predict in named.items():
        if predict is not None:
            by_same, by_other = predict(same) == content, predict(other) == content
            kept[name] = float((by_same & by_other).sum() / max(1, by_same.sum()))
    return kept


def _voiced(
    judges: Judges, originals: Sequence[np.ndarray], made: Sequence[np.ndarray], rate_hz: int
) -> dict[str, float]:
    """How much of the speech is voiced, as the originals are."""
    figures = {"voiced_kept": voiced_kept(originals, made, rate_hz)}
    if judges.independent is not None:
        figures["independent_voiced_kept"] = praat_figures(originals, made, rate_hz)["voiced_kept"]
    return figures


def _pitch(
    judges: Judges,
    tokenizer: Tokenizer,
    training: Sequence[Utterance],
    spoken: Sequence[Utterance],
    targets: Sequence[int],
    converted: Sequence[np.ndarray],
) -> dict[str, float]:
    """Median distance of a conversion's F0 from the target's and the source speaker's median, semitones.

    Of the conversions with a voiced frame alone; `_voiced` says how much of the speech is voiced.
    """
    rate_hz = rate_of(tokenizer)
    estimators: dict[str, Callable[[np.ndarray], np.ndarray]] = {"": lambda waveform: f0(waveform, rate_hz)}
    if judges.independent is not None:
        estimators["independent_"] = judges.independent.f0
    figures: dict[str, float] = {}
    for prefix, estimate in estimators.items():
        of_speaker = {
            label: _median_hz(estimate, [u.waveform for u in training if u.speaker == label][:60])
            for label in range(len(tokenizer.classes))
        }
        own = [_median_hz(estimate, [w]) for w in converted]
        to_target = [abs(12 * np.log2(hz / of_speaker[t])) for hz, t in zip(own, targets, strict=True)]
        to_source = [abs(12 * np.log2(hz / of_speaker[u.speaker])) for hz, u in zip(own, spoken, strict=True)]
        measured = {"f0_from_target_semitones": to_target, "f0_from_source_semitones": to_source}
        figures |= {
            f"{prefix}{name}": float(np.nanmedian(each))
            for name, each in measured.items()
            if np.isfinite(each).any()
        }
    return figures


def _median_hz(estimate: Callable[[np.ndarray], np.ndarray], waveforms: Sequence[np.ndarray]) -> float:
    """Median F0 of the voiced frames of all waveforms; NaN without any."""
    voiced = np.concatenate([estimate(waveform) for waveform in waveforms])
    return float(np.nanmedian(voiced)) if np.isfinite(voiced).any() else float("nan")
