"""`smalti reproduce speech` and `reproduce phonemes` at the tiny budget, on made recordings."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.core.models import Autoencoder
from smalti.stored_priors import new_prior
from smalti.studies.records import read_records
from smalti.studies.speech.recipes import BUDGETS, speech_study
from tests import sounds
from tests.runs import Result, command, digests
from tests.speech_runs import PhoneRun
from tests.studies.speech.test_independent_judges import Decoder, install

FIELDS = {
    "experiment", "dataset", "split", "model", "prior", "metrics", "seed", "steps", "seconds", "device",
    "commit", "config", "note", "budget", "stages",
}  # fmt: skip
BOUNDS = {
    "speech": ["uniform", "unigram", "learned", "learned+class"],
    "conversion": ["uniform", "unigram", "learned", "learned+class"],
    "voices-codec": ["uniform", "unigram", "learned", "learned+class"],
    # Its test split is of a speaker that nobody knows.
    "phonemes": ["uniform", "unigram", "learned"],
}


@dataclass(frozen=True)
class Done:
    """An experiment that was run: the command, what it said, its folder and its records."""

    words: list[object]
    result: Result
    folder: Path
    records: list[dict[str, Any]]


def reproduced(name: str, out: Path, *words: object) -> Done:
    command_ = ["reproduce", name, "--budget", "tiny", "--out", out, *words]
    result = command(*command_)
    assert result.status == 0, result.err
    folder = out / f"{name}-tiny"
    return Done(command_, result, folder, read_records(folder / "records.jsonl"))


@pytest.fixture(scope="module")
def digits_said(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits of two speakers, named as the Free Spoken Digit Dataset does; take 0 is the test split."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    rng = np.random.default_rng(0)
    speakers = itertools.islice(sounds.SPEAKERS.items(), 2)
    for (speaker, hz), digit, take in itertools.product(speakers, (2, 5, 7), (0, 5, 6)):
        wave = sounds.tone(rng, rng.uniform(0.25, 0.4), 8000, hz, digit)
        sounds.save(folder / f"{digit}_{speaker}_{take}", wave)
    return folder


@pytest.fixture(scope="module")
def speech(digits_said: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return reproduced("speech", tmp_path_factory.mktemp("reproduced"), "--data", digits_said)


@pytest.fixture(scope="module")
def conversion(digits_said: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return reproduced("conversion", tmp_path_factory.mktemp("reproduced"), "--data", digits_said)


@pytest.fixture(scope="module")
def voices_codec(digits_said: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Judged by the independent judges too, whose packages are replaced by small ones."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        patch.setattr(Decoder, "heard", "five")
        return reproduced("voices-codec", tmp_path_factory.mktemp("reproduced"), "--data", digits_said)


@pytest.fixture(scope="module")
def phonemes(utterances: PhoneRun, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The last of the speakers is the test split."""
    folder = tmp_path_factory.mktemp("data")
    for file in utterances.data.rglob("*.wav"):
        target = folder / ("test" if file.parent.name == "dan" else "train") / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    words = ("--data", folder, "--alignments", utterances.alignments)
    return reproduced("phonemes", tmp_path_factory.mktemp("reproduced"), *words)


def by_model(done: Done) -> dict[str, dict[str, Any]]:
    return {record["model"]: record["metrics"] for record in done.records if record["prior"] is None}


@pytest.mark.parametrize("name", ["speech", "conversion", "voices-codec", "phonemes"])
def test_records_have_what_every_record_has(name: str, request: pytest.FixtureRequest) -> None:
    done: Done = request.getfixturevalue(name.replace("-", "_"))
    study = speech_study(name, "tiny")
    assert [record["prior"] for record in done.records if record["prior"]] == BOUNDS[name]
    for record in done.records:
        assert record.keys() >= FIELDS
        assert (record["experiment"], record["budget"], record["seed"]) == (name, "tiny", 0)
        assert record["note"].startswith(study.question)
        assert record["config"]["name"] == study.recipe.name
        assert all(
            isinstance(value, int | float) for value in record["metrics"].values() if value is not None
        )
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert str(done.folder.parent) not in json.dumps(record)
        stages = 1 + (name == "phonemes") + (record["prior"] or "").startswith("learned")
        assert len(record["stages"]) == stages
        steps = 3 * stages
        assert record["steps"] == sum(stage["steps"] for stage in record["stages"]) == steps
    for record in done.records[: len(BOUNDS[name])]:
        metrics = record["metrics"]
        assert metrics["rate"] + metrics["distortion"] == pytest.approx(metrics["bits_per_dim"])
        assert {"usage", "perplexity", "num"} <= metrics.keys()


@pytest.mark.parametrize("name", ["speech", "conversion", "phonemes"])
def test_the_table_is_made_of_the_records_and_shown(name: str, request: pytest.FixtureRequest) -> None:
    done: Done = request.getfixturevalue(name)
    table = (done.folder / "table.md").read_text()
    assert table.strip() in done.result.out
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(done.records)
    assert all(row.count("|") == rows[0].count("|") for row in rows)


def test_judges_hear_recordings_reconstructions_and_conversions(speech: Done) -> None:
    heard = by_model(speech)
    (model,) = {record["model"] for record in speech.records if record["prior"]}
    assert {f"{model}: reconstructed", f"{model}: converted"} <= heard.keys()
    assert any(name.startswith("control: real recordings") for name in heard)
    for metrics in heard.values():
        assert metrics["num"] == 3
        for rate in ("target_speaker_rate", "source_speaker_rate", "content_rate"):
            assert 0 <= metrics[rate] <= 1
    real = heard["control: real recordings"]
    assert real["mel_distance"] == pytest.approx(0, abs=1e-6)
    assert real["target_speaker_rate"] == real["source_speaker_rate"]
    assert heard[f"{model}: converted"]["mel_distance"] > 0.1
    assert speech.records[0]["split"] == "test"
    assert speech.records[0]["metrics"]["num"] == 6
    assert {"distortion_true", "distortion_shuffled", "distortion_none"} <= speech.records[0][
        "metrics"
    ].keys()


def test_the_page_has_players_and_pictures(speech: Done) -> None:
    page = (speech.folder / "seed0" / "index.html").read_text(encoding="utf-8")
    # Three utterances: original, reconstructed, converted; and six samples.
    assert page.count("<audio controls") == 3 * 3 + 6
    assert page.count('src="data:audio/wav;base64,') == 3 * 3 + 6
    assert page.count('src="data:image/png;base64,') == 3 * 2 + 2
    assert "anna, original" in page
    assert "ben, original" in page
    for digit in ("2_", "5_", "7_"):
        assert page.count(f"<h2>{digit}") <= 2
    assert "http" not in page.replace("http-equiv", "")


def test_phones_are_measured_with_controls(phonemes: Done) -> None:
    heard = by_model(phonemes)
    assert "control: log-mel k-means" in heard
    report = json.loads((phonemes.folder / "seed0" / "phonemes.json").read_text())
    own = next(metrics for model, metrics in heard.items() if not model.startswith("control"))
    assert own["phoneme_accuracy"] == report["metrics"]["phoneme_accuracy"]
    assert heard["control: log-mel k-means"] == report["controls"]["log-mel k-means"]
    assert own["phoneme_accuracy_with_silence"] >= 0
    assert any(name.startswith("abx ") for name in own) == bool(report["abx"])


@pytest.mark.parametrize("name", ["speech", "conversion", "phonemes"])
def test_what_is_finished_is_not_done_again(name: str, request: pytest.FixtureRequest) -> None:
    done: Done = request.getfixturevalue(name)
    before = digests(done.folder)
    again = command(*done.words)
    assert again.status == 0, again.err
    assert digests(done.folder) == before
    assert "Training" not in again.err


def test_a_kill_before_the_judges_were_done_is_made_good(speech: Done) -> None:
    run = speech.folder / "seed0"
    before = digests(speech.folder)
    (run / "conversion.json").unlink()
    (run / "evaluation.json").unlink()
    assert command(*speech.words).status == 0
    after = digests(speech.folder)
    changed = {name for name in before if before[name] != after.get(name)}
    assert not changed, "what is measured again is the same"


def test_other_data_is_not_mixed_with_a_finished_run(
    speech: Done, digits_said: Path, utterances: PhoneRun, tmp_path: Path
) -> None:
    copied = shutil.copytree(digits_said, tmp_path / "copied")
    words = [copied if word == digits_said else word for word in speech.words]
    result = command(*words)
    assert result.status == 2
    assert "holds a run on the data" in result.err
    words = [utterances.data if word == digits_said else word for word in speech.words]
    result = command(*words)
    assert result.status == 2
    assert "expected data with a test split" in result.err


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ["speech", "conversion", "phonemes"])
def test_every_study_can_be_built(name: str, budget: str) -> None:
    study = speech_study(name, budget)
    model = study.recipe.model.build(study.recipe.data.build().spec, {"label": 6})
    assert isinstance(model, Autoencoder)
    prior = new_prior(study.recipe.prior, model, {"label": 6})
    assert prior.grid == (study.recipe.prior.length,)
    assert (study.recipe.pretraining is not None) == (name == "phonemes")


def test_budgets_differ_in_steps_and_the_papers_is_the_papers() -> None:
    steps = [speech_study("speech", budget).recipe.training.steps for budget in BUDGETS]
    assert steps == sorted(set(steps))
    paper = speech_study("speech", "paper").recipe
    assert paper.model.encoder.strides == (2,) * 6
    assert paper.model.quantizer.num_codes == 512
    with pytest.raises(InputError, match="received 'song'"):
        speech_study("song", "cpu")


def test_independent_judges_judge_what_ours_do(voices_codec: Done, conversion: Done) -> None:
    judged = [record for record in voices_codec.records if "judge" in record]
    assert len(judged) == 4
    for record in judged:
        metrics = record["metrics"]
        assert record["judge"] == {
            "speaker": "resemblyzer, nearest centroid",
            "content": "pocketsphinx, one of ten digits",
            "pitch": "Praat (parselmouth), autocorrelation, 60 to 400 Hz",
        }
        assert 0 <= metrics["independent_target_speaker_rate"] <= 1
        # Every recording is heard as a five, which two of the three that are judged are.
        assert metrics["independent_content_rate"] == pytest.approx(2 / 3)
    converted = judged[-1]["metrics"]
    assert converted["independent_content_kept"] == 1
    # Every frame is voiced, at 100 Hz.
    assert converted["independent_voiced_kept"] == 1
    assert converted["independent_f0_from_target_semitones"] == 0
    assert not any("judge" in record for record in conversion.records)
