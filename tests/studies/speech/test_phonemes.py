"""Phonemes in a run's codes: the command against a count by hand."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from smalti.core.conditions import Conditions
from smalti.data.loader import split_indices
from smalti.data.padding import padded
from smalti.data.store import Store
from smalti.encoders.context import ContextEncoder
from smalti.studies.speech import phonemes
from smalti.tokenizer import load
from tests import sounds
from tests.runs import Result, command
from tests.speech_runs import UNALIGNED, PhoneRun

SECONDS = 0.04
"""A code of the recipe `units`: four frames of 10 ms."""

Smalti = Callable[..., Result]


@pytest.fixture(scope="module")
def report(units: PhoneRun) -> dict[str, Any]:
    words = ("--data", units.data, "--alignments", units.alignments)
    done: list[tuple[int, int]] = []
    with mock.patch.object(phonemes, "counting") as counting:
        counting.return_value.__enter__.return_value = lambda *each: done.append(each)
        result = command("phonemes", units.path, *words, "--json")
    # Also of a split of which a part fits the map, and another part is scored.
    assert done[-1][0] == done[-1][1]
    assert result.status == 0, result.err
    assert f"{UNALIGNED}: it has no alignment" in result.err
    return json.loads(result.out)


def codes_of(units: PhoneRun, names: Sequence[str]) -> dict[str, list[int]]:
    """Codes of utterances, each under the voice of its speaker's utterances in the training data."""
    tokenizer = load(units.path, "cpu")
    encoder = tokenizer.autoencoder.encoder
    assert isinstance(encoder, ContextEncoder)
    store = Store.open(units.path / "data")
    trained_on = split_indices(store.count, tokenizer.recipe.validation_fraction)[0]
    signals = {}
    for name in {*names, *store.names}:
        levels = torch.from_numpy(tokenizer.modality.decode(units.data / name))[None]
        signal = tokenizer.modality.to_model(levels)
        signals[name] = padded(tokenizer.modality, signal, tokenizer.autoencoder.strides)
    codes = {}
    for name in names:
        own = [
            signals[store.names[i]][0] for i in trained_on if Path(store.names[i]).parent == Path(name).parent
        ]
        conditions = Conditions(voice=encoder.voice.voice(own)[None])
        codes[name] = tokenizer.autoencoder.encode(signals[name], conditions)[0, 0].tolist()
    return codes


def pairs(codes: dict[str, list[int]], segments: dict[str, sounds.Segments]) -> list[tuple[int, str]]:
    """Each code beside the phone at its centre."""
    return [
        (code, phone)
        for name, line in codes.items()
        for index, code in enumerate(line)
        for start, end, phone in segments[name]
        if start <= (index + 0.5) * SECONDS < end
    ]


def accuracy(train: list[tuple[int, str]], held_out: list[tuple[int, str]]) -> tuple[float, float]:
    """Of the map from a code to its most frequent phone; and of the most frequent phone of all."""
    majority = min(Counter(phone for _, phone in train).items(), key=lambda each: (-each[1], each[0]))[0]
    counts: dict[int, Counter[str]] = {}
    for code, phone in train:
        counts.setdefault(code, Counter())[phone] += 1
    best = {k: min(c.items(), key=lambda each: (-each[1], each[0]))[0] for k, c in counts.items()}
    right = sum(best.get(code, majority) == phone for code, phone in held_out)
    return right / len(held_out), sum(phone == majority for _, phone in held_out) / len(held_out)


def test_figures_are_those_of_a_count_by_hand(report: dict[str, Any], units: PhoneRun) -> None:
    """Without splits, every fourth speaker is held out."""
    names = sorted(units.segments)
    train = pairs(codes_of(units, [n for n in names if not n.startswith("dan/")]), units.segments)
    held_out = pairs(codes_of(units, [n for n in names if n.startswith("dan/")]), units.segments)
    assert report["speakers"] == {"train": 3, "held_out": 1}
    metrics = report["metrics"]
    share, majority = accuracy(train, held_out)
    assert metrics["phoneme_accuracy_with_silence"] == pytest.approx(share)
    assert metrics["majority_with_silence"] == pytest.approx(majority)
    assert metrics["num_windows_with_silence"] == len(held_out)
    loud = [[(c, p) for c, p in each if p != "SIL"] for each in (train, held_out)]
    share, majority = accuracy(*loud)
    assert metrics["phoneme_accuracy"] == pytest.approx(share)
    assert metrics["majority"] == pytest.approx(majority)
    assert metrics["num_windows"] == len(loud[1])
    # Four steps of training are few, but they tell more than a frequency does.
    assert metrics["phoneme_accuracy_with_silence"] > metrics["majority_with_silence"] + 0.1
    assert metrics["mutual_information"] > metrics["shuffled_mutual_information"]


def test_the_report_is_saved_and_says_what_was_left_out(report: dict[str, Any], units: PhoneRun) -> None:
    assert report == json.loads((units.path / "phonemes.json").read_text())
    assert report["skipped"] == [{"name": UNALIGNED, "reason": "it has no alignment"}]
    assert report["codes_per_second"] == pytest.approx(1 / SECONDS)
    assert report["num_codes"] == 16
    assert report["model"] == load(units.path, "cpu").fingerprint
    assert "centre" in report["protocol"]["label"]
    assert (units.path / "figures" / "code_phone.png").is_file()


def test_controls_are_measured_on_the_same_windows(report: dict[str, Any]) -> None:
    (control,) = report["controls"].values()
    assert list(report["controls"]) == ["log-mel k-means"]
    assert control.keys() == report["metrics"].keys()
    for name in ("num_windows", "majority", "num_windows_with_silence", "majority_with_silence"):
        assert control[name] == report["metrics"][name]
    assert control["phoneme_accuracy"] > control["majority"]
    assert 0 <= report["metrics"]["shuffled"] <= 1


def test_the_tables_hold_the_figures(units: PhoneRun, report: dict[str, Any], smalti: Smalti) -> None:
    words = ("--data", units.data, "--alignments", units.alignments, "--quiet")
    result = smalti("phonemes", units.path, *words)
    assert result.status == 0, result.err
    metrics = report["metrics"]
    for name in ("phoneme_accuracy", "phoneme_accuracy_stderr"):
        assert f"{metrics[name]:.1%}" in result.out
    assert report["cautions"]
    for sentence in report["cautions"]:
        assert sentence in " ".join(result.out.split())
    assert f"{report['controls']['log-mel k-means']['phoneme_accuracy']:.1%}" in result.out
    assert "16 codes, 25 per second" in result.out


def test_a_test_split_is_what_is_scored(units: PhoneRun, smalti: Smalti, tmp_path: Path) -> None:
    """The same files in splits; one of the speakers is in both."""
    held_out = {n: s for n, s in units.segments.items() if n.startswith("ada/") or n == "bea/1.wav"}
    for name in units.segments:
        target = tmp_path / "data" / ("test" if name in held_out else "train") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(units.data / name, target)
    run = shutil.copytree(units.path, tmp_path / "run")
    words = ("--data", tmp_path / "data", "--alignments", units.alignments, "--json")
    result = smalti("phonemes", run, *words)
    assert result.status == 0, result.err
    assert "held-out part: 1, such as bea" in " ".join(result.err.split())
    report = json.loads(result.out)
    assert report["speakers"] == {"train": 3, "held_out": 2}
    assert report["skipped"] == []
    windows = pairs(codes_of(units, sorted(held_out)), held_out)
    assert report["metrics"]["num_windows_with_silence"] == len(windows)
