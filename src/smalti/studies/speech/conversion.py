"""Voice conversion, measured: utterances through their codes as themselves and as others, heard by judges.

The judges know only real recordings of the training split. They tell who speaks, and what is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalti.app.console import counting, note
from smalti.app.data import open_data
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.data.ingest import decode_ahead
from smalti.data.sources import UnreadableItem
from smalti.encoding import encode_signals
from smalti.studies.speech.judges import Recognizer, train_recognizer
from smalti.studies.speech.page import rate_of, write_speech_page
from smalti.studies.speech.pitch import f0
from smalti.studies.speech.recipes import SpeechStudy
from smalti.studies.speech.spectra import mel_distance
from smalti.tokenizer import Tokenizer

BATCH = 24
"""Sounds that are decoded side by side; it is part of what a seed draws."""


@dataclass(frozen=True)
class Spoken:
    """An utterance of the test split.

    Attributes:
        name: of its item.
        speaker: who says it, a class of the run.
        content: what is said, or None where names do not tell.
        signal: in the model's range, `(1, 1, T)`.
        waveform: its amplitudes at the model's rate.
    """

    name: str
    speaker: int
    content: int | None
    signal: Tensor
    waveform: np.ndarray


@dataclass(frozen=True)
class Judges:
    """Who speaks, and what is said."""

    speaker: Recognizer
    content: Recognizer | None


def convert_all(
    study: SpeechStudy, seed: int, data: str, split: str, tokenizer: Tokenizer, quiet: bool
) -> dict[str, dict[str, int | float]]:
    """Reconstruct and convert utterances of the test split, and let judges hear them."""
    source = open_data(data, tokenizer.modality)
    training = _spoken(study, tokenizer, data, "train" if "train" in source.splits else "all")
    held_out = _spoken(study, tokenizer, data, split)
    rng = np.random.default_rng(seed)
    chosen = [held_out[i] for i in rng.permutation(len(held_out))[: study.converted]]
    note("Training the judges on real recordings.", quiet)
    judges = _judges(study, tokenizer, training, seed)
    num = len(tokenizer.classes)
    targets = [(u.speaker + 1 + int(rng.integers(num - 1))) % num for u in chosen]
    with counting("Decoding", quiet) as count:
        total = 2 * len(chosen)
        heat = study.temperature
        speakers = [u.speaker for u in chosen]
        same = _decoded(tokenizer, chosen, speakers, seed, heat, lambda n: count(n, total))
        other = _decoded(tokenizer, chosen, targets, seed, heat, lambda n: count(len(chosen) + n, total))
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
    return {
        "originals": _heard(judges, tokenizer, chosen, originals, own, originals),
        "levels": _heard(judges, tokenizer, chosen, levels, own, originals),
        "reconstructed": _heard(judges, tokenizer, chosen, same, own, originals),
        "converted": {
            **_heard(judges, tokenizer, chosen, other, targets, originals),
            **_pitch(tokenizer, training, chosen, targets, other),
            **_kept(judges, chosen, same, other),
        },
    }


def _spoken(study: SpeechStudy, tokenizer: Tokenizer, data: str, split: str) -> list[Spoken]:
    """The utterances of a split whose speaker the run knows."""
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
            Spoken(
                item.name,
                tokenizer.classes.index(item.label),
                int(said[1]) if said else None,
                modality.to_model(torch.from_numpy(levels)[None]),
                waveform,
            )
        )
    if not spoken:
        raise InputError(
            f"expected utterances of the run's speakers in the split {split} of {data}, found none: give the "
            "data that the run was trained on"
        )
    return spoken


def _judges(study: SpeechStudy, tokenizer: Tokenizer, training: Sequence[Spoken], seed: int) -> Judges:
    rate_hz = rate_of(tokenizer)
    waveforms = [u.waveform for u in training]

    def judge(labels: Sequence[int], is_content: bool) -> Recognizer:
        ids = np.array(labels, np.int64)
        return train_recognizer(waveforms, ids, rate_hz, is_content, study.judge_steps, seed=seed)

    contents = [u.content for u in training if u.content is not None]
    has_content = len(contents) == len(training) and len(set(contents)) > 1
    return Judges(judge([u.speaker for u in training], False), judge(contents, True) if has_content else None)


def _decoded(
    tokenizer: Tokenizer,
    spoken: Sequence[Spoken],
    speakers: Sequence[int],
    seed: int,
    temperature: float,
    report: Callable[[int], None],
) -> list[np.ndarray]:
    """Each utterance through its codes, with a speaker of its own; several are decoded side by side."""
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
            # Shorter ones go on with their last code; what is made of that is cut off.
            filled = [torch.cat([c, c[..., -1:].expand(1, 1, longest - c.shape[-1])], 2) for c in codes]
            labels = torch.tensor([speakers[i] for i in chosen], device=tokenizer.device)
            filled_codes = torch.cat(filled).to(tokenizer.device)
            signals = model.decode(filled_codes, Conditions(label=labels), generator, temperature).cpu()
            for i, signal in zip(chosen, modality.render(signals), strict=True):
                waveforms[i] = signal[0, : len(spoken[i].waveform)].numpy()
            report(begin + len(chosen))
    return [waveforms[i] for i in range(len(spoken))]


def _heard(
    judges: Judges,
    tokenizer: Tokenizer,
    spoken: Sequence[Spoken],
    waveforms: Sequence[np.ndarray],
    wanted: Sequence[int],
    originals: Sequence[np.ndarray],
) -> dict[str, int | float]:
    """Score sounds with the judges."""
    speakers = judges.speaker.predict(waveforms)
    rate_hz = judges.speaker.sample_rate_hz
    # A spectrogram has no part of a frame, so what is made from one may be a little shorter.
    pairs = [(o[: len(w)], w) for o, w in zip(originals, waveforms, strict=True)]
    metrics = {
        "target_speaker_rate": float(np.mean(speakers == np.array(wanted))),
        "source_speaker_rate": float(np.mean(speakers == np.array([u.speaker for u in spoken]))),
        "mel_distance": float(np.mean([mel_distance(o, w, rate_hz) for o, w in pairs])),
        "num": len(spoken),
    }
    if judges.content is not None:
        said = judges.content.predict(waveforms)
        metrics["content_rate"] = float(np.mean(said == np.array([u.content for u in spoken])))
    return metrics


def _kept(
    judges: Judges, spoken: Sequence[Spoken], same: Sequence[np.ndarray], other: Sequence[np.ndarray]
) -> dict[str, float]:
    """Of what is still understood after plain reconstruction, the share that is after conversion."""
    if judges.content is None:
        return {}
    content = np.array([u.content for u in spoken])
    by_same, by_other = judges.content.predict(same) == content, judges.content.predict(other) == content
    return {"content_kept": float((by_same & by_other).sum() / max(1, by_same.sum()))}


def _pitch(
    tokenizer: Tokenizer,
    training: Sequence[Spoken],
    spoken: Sequence[Spoken],
    targets: Sequence[int],
    converted: Sequence[np.ndarray],
) -> dict[str, int | float]:
    """Median F0 of conversions, in semitones from the target's and from the source's median."""
    rate_hz = rate_of(tokenizer)

    def median_hz(waveforms: Sequence[np.ndarray]) -> float:
        voiced = np.concatenate([f0(w, rate_hz) for w in waveforms])
        return float(np.nanmedian(voiced)) if np.isfinite(voiced).any() else float("nan")

    of_speaker = {
        label: median_hz([u.waveform for u in training if u.speaker == label][:60])
        for label in range(len(tokenizer.classes))
    }
    own = [median_hz([w]) for w in converted]
    to_target = [abs(12 * np.log2(hz / of_speaker[t])) for hz, t in zip(own, targets, strict=True)]
    to_source = [abs(12 * np.log2(hz / of_speaker[u.speaker])) for hz, u in zip(own, spoken, strict=True)]
    measured = {"f0_from_target_semitones": to_target, "f0_from_source_semitones": to_source}
    return {name: float(np.nanmedian(each)) for name, each in measured.items() if np.isfinite(each).any()}
