"""`smalti reproduce speech`, `conversion`, `voices-codec` and `phonemes`: section 4.3 of the paper, measured.

The paper lets the reader listen; here, classifiers trained on real recordings recognise speaker and content.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smalti.app.console import note
from smalti.app.data import open_data, pick_split
from smalti.app.pretraining import DIRECTORY as PRETRAINING
from smalti.app.provenance import described
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.stored_priors import prior_directory
from smalti.studies.records import Record, publish, stage
from smalti.studies.speech.conversion import convert_all
from smalti.studies.speech.independent import DIGIT_WORDS, PITCH, SPEAKERS
from smalti.studies.speech.phonemes import RESULTS as PHONEMES
from smalti.studies.speech.phonemes import phonemes
from smalti.studies.speech.recipes import PAPER_PHONEMES, SpeechStudy, speech_study
from smalti.studies.stages import evaluate_once, train_model_once, train_prior_once
from smalti.tokenizer import load
from smalti.training.checkpoints import RESULTS, RunDirectory

CONVERSION = "conversion.json"


def reproduce_speech(
    name: str,
    data: str | None,
    out: Path,
    budget: str = "cpu",
    seeds: int = 1,
    alignments: Path | None = None,
    quiet: bool = False,
) -> list[Record]:
    """Train and evaluate the models of a speech study, and write records, a table and a page.

    Finished stages are skipped, so the same command resumes an interrupted reproduction.

    Args:
        name: "speech" (codes of waveforms, conversion, prior), "conversion" (the same with spectrograms),
            "voices-codec" (with waveforms from spectra) or "phonemes" (units).
        data: a source of speech with a test split for evaluation.
        out: directory of runs, records and page.
        budget: "tiny" for a smoke test, "cpu" for two cores, "paper" for the paper's sizes.
        seeds: number of seeds, 0 to `seeds` - 1.
        alignments: a table of phone alignments, for "phonemes".
        quiet: hide progress.

    Returns:
        The records.

    Raises:
        InputError: for a user error.
    """
    study = speech_study(name, budget)
    if data is None:
        raise InputError(f"expected speech to reproduce {name}, received none: add --data SOURCE")
    if name == "phonemes" and alignments is None:
        raise InputError(f"expected phone alignments for {name}, received none: add --alignments TSV")
    split = _measured_split(study, data)
    folder = out / f"{study.name}-{budget}"
    records: list[Record] = []
    for seed in range(seeds):
        run = folder / f"seed{seed}"
        note(f"{study.name}, seed {seed}", quiet)
        _train(study, seed, data, run, quiet)
        evaluate_once(run, data, split, quiet, draws=1)
        if alignments is not None and name == "phonemes":
            records += _phoneme_records(study, seed, data, run, alignments, quiet)
        else:
            records += _speech_records(study, seed, data, run, quiet)
    records = [{**record, "budget": budget} for record in records]
    publish(folder, records, quiet)
    note(f"The runs, records.jsonl and table.md are in {folder}.", quiet)
    return records


def _train(study: SpeechStudy, seed: int, data: str, path: Path, quiet: bool) -> None:
    recipe = study.recipe
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})
    if recipe.pretraining is not None:
        training = recipe.pretraining.training.model_copy(update={"seed": seed})
        recipe = recipe.model_copy(
            update={"pretraining": recipe.pretraining.model_copy(update={"training": training})}
        )
    train_model_once(recipe, data, path, quiet)
    prior = recipe.prior.model_copy(
        update={"training": recipe.prior.training.model_copy(update={"seed": seed})}
    )
    train_prior_once(prior, path, quiet)


def _measured_split(study: SpeechStudy, data: str) -> str:
    """Return the split to evaluate on.

    Raises:
        InputError: when there is no held-out split.
    """
    source = open_data(data, study.recipe.data.build())
    split = pick_split(source, None, "test", "validation")
    if split not in ("test", "validation"):
        raise InputError(
            f"expected data with a test split to evaluate on, found only {split!r} in {data}: use folders "
            "`train` and `test`, a table with a column `split`, or a group `split` in data.pattern"
        )
    return split


def _record(study: SpeechStudy, seed: int, run: Path, data: str, of_prior: str | None) -> Record:
    before = [stage(run / PRETRAINING, of_model=run)] if (run / PRETRAINING).is_dir() else []
    stages = [*before, stage(run)] + ([stage(prior_directory(run, of_prior), of_prior)] if of_prior else [])
    config = RunDirectory(run).read_config("recipe")["recipe"]
    tokenizer = load(run, "cpu")
    source = open_data(data, tokenizer.modality)
    split = pick_split(source, None, "test", "validation", "all")
    return {
        "experiment": study.name,
        "dataset": Path(data).name,
        "split": split,
        "measured_on": described(source, split, data),
        "model": tokenizer.trained.model.title,
        "prior": of_prior,
        "seed": seed,
        "steps": sum(one["steps"] for one in stages),
        "seconds": sum(one["seconds"] for one in stages),
        "device": stages[0]["device"],
        "commit": stages[0]["commit"],
        "config": config,
        "stages": stages,
        "note": study.question,
    }


def _bound_records(study: SpeechStudy, seed: int, data: str, run: Path) -> list[Record]:
    """Return one record per prior: bits per sample, and nats per code."""
    report = json.loads((run / RESULTS).read_text())
    records = []
    for name, row in report["bits_per_dim"].items():
        base = _record(study, seed, run, data, "learned" if name.startswith("learned") else None)
        metrics = {**row, **report["codebook"], "num": report["num"]}
        records.append({**base, "prior": name, "metrics": metrics})
    return records


def _phoneme_records(
    study: SpeechStudy, seed: int, data: str, run: Path, alignments: Path, quiet: bool
) -> list[Record]:
    report: dict[str, Any] = {}
    if (run / PHONEMES).is_file():
        report = json.loads((run / PHONEMES).read_text())
    about = (RunDirectory(run).fingerprint(), data, str(alignments), seed)
    if tuple(report.get(name) for name in ("model", "data", "alignments", "seed")) != about:
        report = phonemes(str(run), data, alignments, quiet, seed=seed)
    records = _bound_records(study, seed, data, run)
    base = _record(study, seed, run, data, None)
    errors = {f"abx {name}": measured["error"] for name, measured in report.get("abx", {}).items()}
    note_ = f"{study.question} Phones are taken from the given alignments. Paper: {PAPER_PHONEMES}"
    records.append({**base, "metrics": {**report["metrics"], **errors}, "note": note_})
    for name, metrics in report["controls"].items():
        records.append({**base, "model": f"control: {name}", "metrics": metrics, "note": note_})
    return records


def _speech_records(study: SpeechStudy, seed: int, data: str, run: Path, quiet: bool) -> list[Record]:
    records = _bound_records(study, seed, data, run)
    base = _record(study, seed, run, data, None)
    tokenizer = load(run)
    if len(tokenizer.classes) < 2:
        note("The data has fewer than two speakers, so voice conversion is skipped.", quiet)
        return records
    saved = json.loads((run / CONVERSION).read_text()) if (run / CONVERSION).is_file() else {}
    about: dict[str, Any] = {
        "model": tokenizer.fingerprint,
        "data": data,
        "seed": seed,
        "num": study.converted,
        "judge_steps": study.judge_steps,
    }
    about["temperature"] = study.temperature
    if saved.get("about") != about:
        saved = {"about": about, "metrics": convert_all(study, seed, data, base["split"], tokenizer, quiet)}
        with atomic_file(run / CONVERSION) as temporary:
            temporary.write_text(json.dumps(saved))
    words = {
        "originals": "control: real recordings",
        "levels": "control: real recordings in the model's signal representation, without codes",
    }
    for kind, metrics in saved["metrics"].items():
        record = {**base, "model": words.get(kind, f"{base['model']}: {kind}"), "metrics": metrics}
        if "independent_target_speaker_rate" in metrics:
            record["judge"] = {"speaker": SPEAKERS, "content": DIGIT_WORDS, "pitch": PITCH}
        records.append(record)
    return records
