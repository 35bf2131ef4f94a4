"""`smalti phonemes`: measure the phoneme content of a run's codes, with controls."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from smalti.app.console import Counter, counting, note
from smalti.app.data import open_data, report_skipped
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.data.ingest import decode_ahead, readable
from smalti.data.sources import Item, Source, UnreadableItem
from smalti.modalities.audio.sounds import read_sound
from smalti.nn.spectral import LogMel
from smalti.quantizers.vq import VectorQuantizer
from smalti.studies.speech.abx import ABX, Token, abx, tokens_of
from smalti.studies.speech.alignments import Alignments
from smalti.studies.speech.figures import code_phone_matrix
from smalti.studies.speech.phoneme_map import (
    UNLABELLED,
    Windows,
    cautions,
    cooccurrences,
    kmeans_codes,
    phoneme_figures,
)
from smalti.studies.speech.phoneme_map import protocol as phoneme_protocol
from smalti.tokenizer import Tokenizer, load

RESULTS = "phonemes.json"
SILENCE = ("SIL", "SP", "SPN", "NSN", "sil", "sp", "spn", "nsn", "h#", "pau", "")
"""Labels that aligners use for silence and noise."""
CONTROL_RATE_HZ, CONTROL_MELS = 16_000, 40
HELD_OUT = 4
"""Without splits, every fourth speaker is held out."""


@dataclass(frozen=True)
class _Utterance:
    """One utterance: its codes `(n,)`, and log-mels `(n, M)` averaged over the span of each code."""

    name: str
    speaker: str | None
    codes: np.ndarray
    log_mels: np.ndarray


def phonemes(
    run: str,
    data: str,
    alignments: Path,
    quiet: bool = False,
    split: str | None = None,
    seed: int = 0,
    with_controls: bool = True,
) -> dict[str, Any]:
    """Fit the code-to-phone map on training speakers, score it on held-out ones, save `phonemes.json`.

    Args:
        run: directory of a run, or a name on the Hub.
        data: a source of audio; without splits, every fourth speaker is held out.
        alignments: a table of phone alignments.
        quiet: hide progress.
        split: split to score on; None prefers test, then validation.
        seed: seed of the controls.
        with_controls: whether to measure k-means of log-mels and ABX, too.

    Returns:
        The report, with figures, controls and their definitions.

    Raises:
        InputError: for a user error, or when no window is left to fit or to score.
    """
    tokenizer = load(run)
    seconds = tokenizer.modality.seconds(tokenizer.autoencoder.stride)
    if seconds is None or tokenizer.autoencoder.num_codebooks != 1:
        raise InputError(
            f"expected a run over audio with one codebook, received {run} over "
            f"{tokenizer.modality.plural_name} with {tokenizer.autoencoder.num_codebooks}: train one, for "
            "example with `smalti train units`"
        )
    table = Alignments.read(alignments)
    source = open_data(data, tokenizer.modality)
    skipped: list[dict[str, str]] = []
    fitted, scored = _divided(source, split)
    with counting("Encoding", quiet) as count:
        codes = {
            name: {
                item.name: item.codes[0].numpy()
                for item in tokenizer.encode_items(source, name, skipped=skipped, progress=count)
            }
            for name in dict.fromkeys((fitted[0], scored[0]))
        }
        utterances = {
            part: _utterances(codes[name], source, name, kept, table, seconds, skipped, count)
            for part, (name, kept) in (("train", fitted), ("held_out", scored))
        }
    report_skipped(skipped)
    shared = _speakers(utterances["train"]) & _speakers(utterances["held_out"])
    if shared:
        note(f"Speakers in both the training and the held-out part: {len(shared)}, such as {min(shared)}.")
    num_codes = tokenizer.autoencoder.num_codes
    silence = [table.phones.index(phone) for phone in table.phones if phone in SILENCE]

    def figures(codes: dict[str, list[np.ndarray]]) -> dict[str, Any]:
        windows = {
            part: _windows(utterances[part], codes[part], table, seconds) for part in ("train", "held_out")
        }
        return phoneme_figures(
            windows["train"], windows["held_out"], num_codes, len(table.phones), silence, seed
        )

    own = {part: [u.codes for u in each] for part, each in utterances.items()}
    report: dict[str, Any] = {
        "data": data,
        "model": tokenizer.fingerprint,
        "alignments": str(alignments),
        "seed": seed,
        "num_codes": num_codes,
        "codes_per_second": 1 / seconds,
        "speakers": {part: len(_speakers(each)) for part, each in utterances.items()},
        "metrics": figures(own),
        "controls": {},
        "skipped": skipped,
        "protocol": phoneme_protocol()
        | {
            "label": "phone at the centre of the time span of each code",
            "voice": "speaker statistics, if the encoder needs them: saved by training for its speakers, and "
            "computed for another speaker from all recordings in the split, without transcripts",
            "held out": "not used to fit the map, nor, if the data has a test split, to train the model",
        },
        "shared_speakers": len(shared),
    }
    report["cautions"] = cautions(report["metrics"], num_codes)
    if with_controls:
        report["controls"]["log-mel k-means"] = figures(_clustered(utterances, num_codes, seed))
        report["abx"] = _abx(tokenizer, utterances["held_out"], table, seconds, seed)
    _save(tokenizer, report, utterances["held_out"], table, seconds)
    return report


def show(report: dict[str, Any]) -> None:
    """Print a report as tables."""
    from rich import print as show_table

    title = f"{report['num_codes']} codes, {report['codes_per_second']:g} per second"
    table = Table(title=f"{title}: {report['metrics']['num_windows']:,} held-out windows without silence")
    columns = {
        "phoneme_accuracy": "phones",
        "phoneme_accuracy_stderr": "±",
        "majority": "majority",
        "shuffled": "shuffled codes",
    }
    columns |= {"bigram": "bigram map", "phone_purity": "purity", "mutual_information": "nats"}
    table.add_column("codes")
    for name in columns.values():
        table.add_column(name, justify="right")
    rows = {"this run": report["metrics"], **report["controls"]}
    for ending, words in (("", ""), ("_with_silence", ", with silence")):
        for name, metrics in rows.items():
            cells = [metrics[column + ending] for column in columns]
            percent = [f"{cell:.1%}" for cell in cells[:-1]]
            table.add_row(name + words, *percent, f"{cells[-1]:.3f}")
    show_table(table)
    for sentence in report["cautions"]:
        show_table(sentence)
    for name, measured in report.get("abx", {}).items():
        show_table(
            f"ABX across speakers, {name}: {measured['error']:.1f} % ({measured['num_triples']:,} triples)"
        )


Kept = Callable[[str | None], bool]
"""Predicate on a speaker: True if the speaker's utterances belong to a part."""


def _divided(source: Source, split: str | None) -> tuple[tuple[str, Kept], tuple[str, Kept]]:
    """Return the split and speakers to fit on, and those to score on."""
    training = next((name for name in ("train", "all") if name in source.splits), source.splits[0])
    others = [name for name in ("test", "validation") if name in source.splits]
    if split is not None and split not in source.splits:
        raise InputError(f"expected one of the splits {', '.join(source.splits)}, received {split!r}")
    held_out = split or next(iter(others), None)
    if held_out is not None:
        return (training, lambda speaker: True), (held_out, lambda speaker: True)
    speakers = sorted({item.label for item in source.items(training) if item.label is not None})
    if len(speakers) < 2:
        raise InputError(
            f"expected a test split or at least 2 speakers in {source.description}, found neither: train "
            "with data.pattern=REGEX that has a group `speaker`, or add a table of utterances"
        )
    chosen = set(speakers[HELD_OUT - 1 :: HELD_OUT] or speakers[-1:])
    return (training, lambda speaker: speaker not in chosen), (training, lambda speaker: speaker in chosen)


def _utterances(
    codes: Mapping[str, np.ndarray],
    source: Source,
    split: str,
    kept: Kept,
    table: Alignments,
    seconds: float,
    skipped: list[dict[str, str]],
    report: Counter,
) -> list[_Utterance]:
    """Return the aligned utterances of a part, with their codes and the log-mels of the same time spans."""
    log_mel = LogMel(CONTROL_RATE_HZ, CONTROL_MELS)
    utterances = []
    last = "no utterance of these speakers"

    def read(content: Any) -> np.ndarray:
        return read_sound(content, CONTROL_RATE_HZ)

    total, passed = source.count(split), 0

    def chosen() -> Iterator[Item]:
        nonlocal passed
        for passed, item in enumerate(source.items(split), 1):  # noqa: B007
            if kept(item.label):
                yield item

    for item, sound in decode_ahead(chosen(), read):
        report(passed, total)
        name = readable(item.name)
        if name not in codes or isinstance(sound, UnreadableItem):
            last = f"{name} cannot be read"
        elif item.name not in table:
            skipped.append({"name": name, "reason": "it has no alignment"})
            last = f"{name} has no alignment"
        else:
            with torch.no_grad():
                mels = log_mel(torch.from_numpy(sound)[None, None])[0].t().numpy()
            averaged = _averaged(mels, len(codes[name]), seconds)
            utterances.append(_Utterance(name, item.label and readable(item.label), codes[name], averaged))
    report(total, total)
    if not utterances:
        raise InputError(
            f"expected readable utterances with an alignment in the split {split} of {source.description}, "
            f"found none ({last}): use the alignments of these files"
        )
    return utterances


def _averaged(frames: np.ndarray, num: int, seconds: float) -> np.ndarray:
    """Average 10 ms frames over the time span of each code; beyond the end, repeat the last frame."""
    edges = np.round(np.arange(num + 1) * seconds * 100).astype(int).clip(0, len(frames))
    last = len(frames) - 1
    return np.stack(
        [frames[min(a, last) : max(b, min(a, last) + 1)].mean(0) for a, b in itertools.pairwise(edges)]
    )


def _speakers(utterances: Sequence[_Utterance]) -> set[str]:
    return {utterance.speaker for utterance in utterances if utterance.speaker is not None}


def _windows(
    utterances: Sequence[_Utterance], codes: Sequence[np.ndarray], table: Alignments, seconds: float
) -> Windows:
    """Pair codes with the phones at their centres."""
    ids = {phone: index for index, phone in enumerate(table.phones)}
    phones = [
        [UNLABELLED if phone is None else ids[phone] for phone in _phones(u.name, len(c), table, seconds)]
        for u, c in zip(utterances, codes, strict=True)
    ]
    if not phones:
        return Windows(*(np.zeros(0, np.int64) for _ in range(3)))
    return Windows(
        np.concatenate([np.asarray(c, np.int64) for c in codes]),
        np.concatenate([np.array(p, np.int64) for p in phones]),
        np.repeat(np.arange(len(codes)), [len(c) for c in codes]),
    )


def _phones(name: str, num: int, table: Alignments, seconds: float) -> list[str | None]:
    return table.labels_at(name, (np.arange(num) + 0.5) * seconds)


def _clustered(
    utterances: dict[str, list[_Utterance]], num_codes: int, seed: int
) -> dict[str, list[np.ndarray]]:
    """Return k-means codes of log-mels, fitted on the training utterances."""
    features = {part: np.concatenate([u.log_mels for u in each]) for part, each in utterances.items()}
    train, held_out = kmeans_codes(features["train"], features["held_out"], num_codes, seed)
    return {
        part: np.split(codes, np.cumsum([len(u.codes) for u in utterances[part]])[:-1])
        for part, codes in (("train", train), ("held_out", held_out))
    }


def _abx(
    tokenizer: Tokenizer, utterances: Sequence[_Utterance], table: Alignments, seconds: float, seed: int
) -> dict[str, Any]:
    """Measure ABX of code vectors, codes and log-mels on the same tokens of the held-out utterances."""
    silence = [phone for phone in table.phones if phone in SILENCE]

    def tokens(features: Any) -> list[Token]:
        return [
            token
            for u in utterances
            for token in tokens_of(features(u), seconds, table.segments(u.name), u.speaker or "?", silence)
        ]

    quantizer = getattr(tokenizer.autoencoder, "quantizer", None)
    kinds: dict[str, tuple[Any, str]] = {
        "codes": (lambda u: u.codes.astype(np.int64), "edit"),
        "log-mel": (lambda u: u.log_mels.astype(np.float64), "angular"),
    }
    if isinstance(quantizer, VectorQuantizer):
        vectors = quantizer.codebook.codes[0].detach().cpu().double().numpy()
        kinds = {"code vectors": (lambda u: vectors[u.codes], "angular"), **kinds}
    measured = {}
    for name, (features, distance) in kinds.items():
        try:
            result: ABX = abx(tokens(features), distance, seed=seed)
        except InputError as error:
            note(f"ABX was not measured: {error}")
            return {}
        measured[f"{name}, {distance}"] = {
            "error": result.error,
            "num_triples": result.num_triples,
            "protocol": result.protocol,
        }
    return measured


def _save(
    tokenizer: Tokenizer,
    report: dict[str, Any],
    utterances: Sequence[_Utterance],
    table: Alignments,
    seconds: float,
) -> None:
    windows = _windows(utterances, [u.codes for u in utterances], table, seconds)
    kept = np.isin(windows.phones, [i for i, phone in enumerate(table.phones) if phone not in SILENCE])
    counts = cooccurrences(windows.codes[kept], windows.phones[kept], report["num_codes"], len(table.phones))
    figures = tokenizer.directory / "figures"
    try:
        with atomic_file(tokenizer.directory / RESULTS) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
        figures.mkdir(exist_ok=True)
        shown = np.flatnonzero(counts.any(0))
        names = [table.phones[index] for index in shown]
        code_phone_matrix(counts[:, shown], names, figures / "code_phone.png")
    except (InputError, OSError) as error:
        note(f"The report is not saved in the run: {error}")
