"""`smalti reproduce speech` and `reproduce phonemes`: section 4.3 of the paper, measured where it has sounds.

Where the paper lets one listen, judges that know only real recordings tell who speaks and what is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalti.data.ingest import decode_ahead
from smalti.data.sources import UnreadableItem
from smalti.evaluation.pitch import f0
from smalti.evaluation.recognition import Recognizer, train_recognizer
from smalti.evaluation.spectra import mel_distance
from smalti.evaluation.speech_figures import f0_curves, spectrograms
from smalti.files import atomic_file
from smalti.interfaces import Conditions, InputError
from smalti.modalities.waveforms import SoundConfig
from smalti.recipes import build_modality
from smalti.recipes.speech_studies import PAPER_PHONEMES, SpeechStudy, speech_study
from smalti.tokenizer import Tokenizer, load
from smalti.trained import prior_directory
from smalti.training.checkpoints import RunDirectory
from smalti.verbs.console import counting, note
from smalti.verbs.data import open_data, pick_split
from smalti.verbs.evaluate import RESULTS, evaluate
from smalti.verbs.phonemes import RESULTS as PHONEMES
from smalti.verbs.phonemes import phonemes
from smalti.verbs.pretrain import DIRECTORY as PRETRAINING
from smalti.verbs.provenance import described
from smalti.verbs.records import Record, last_step, markdown, stage, write_records
from smalti.verbs.runs import check_data, check_target
from smalti.verbs.train import train_recipe
from smalti.verbs.train_prior import train_prior_recipe
from smalti.web.page import inline, sound, write_page

CONVERSION = "conversion.json"
BATCH = 24
"""Sounds that are decoded side by side; it is part of what a seed draws."""
PLAYED = 4
"""Utterances on the page."""


def reproduce_speech(
    name: str,
    data: str | None,
    out: Path,
    budget: str = "cpu",
    seeds: int = 1,
    alignments: Path | None = None,
    quiet: bool = False,
) -> list[Record]:
    """Train the models of an experiment with speech, measure them, write records, a table and a page.

    What is finished is not done again, so that the same command goes on after a stop.

    Args:
        name: "speech" (codes of a waveform, conversion, prior) or "phonemes" (units).
        data: a source of speech; its test split is measured on.
        out: where runs, records and the page go.
        budget: "tiny" to see it run, "cpu" for two cores, "paper" for the paper's sizes.
        seeds: 0 to `seeds` - 1.
        alignments: phones in time, for "phonemes".
        quiet: show no progress.

    Raises:
        InputError: for a user's mistake.
    """
    study = speech_study(name, budget)
    if data is None:
        raise InputError(f"expected speech to reproduce {name} with, received none: add --data SOURCE")
    if name == "phonemes" and alignments is None:
        raise InputError("expected a table of phones in time for `reproduce phonemes`: add --alignments TSV")
    split = _measured_split(study, data)
    folder = out / f"{study.name}-{budget}"
    records: list[Record] = []
    for seed in range(seeds):
        run = folder / f"seed{seed}"
        note(f"{study.name}, seed {seed}", quiet)
        _train(study, seed, data, run, quiet)
        _evaluate(run, data, split, quiet)
        if alignments is not None and name == "phonemes":
            records += _phoneme_records(study, seed, data, run, alignments, quiet)
        else:
            records += _speech_records(study, seed, data, run, quiet)
    records = [{**record, "budget": budget} for record in records]
    write_records(folder / "records.jsonl", records)
    header, rows = table_of(records)
    with atomic_file(folder / "table.md") as temporary:
        temporary.write_text(markdown(header, rows))
    if not quiet:
        print((folder / "table.md").read_text())
    note(f"The runs, records.jsonl and table.md are in {folder}.", quiet)
    return records


def table_of(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row for each record, a column for each metric that any of them has."""
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(record["metrics"])
    header = ["model", "prior", "seed", *names]
    rows = [
        [
            record["model"],
            record["prior"] or "-",
            str(record["seed"]),
            *(_cell(record["metrics"].get(name)) for name in names),
        ]
        for record in records
    ]
    return header, rows


def _cell(value: int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _train(study: SpeechStudy, seed: int, data: str, path: Path, quiet: bool) -> None:
    recipe = study.recipe
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})
    if recipe.pretraining is not None:
        training = recipe.pretraining.training.model_copy(update={"seed": seed})
        recipe = recipe.model_copy(
            update={"pretraining": recipe.pretraining.model_copy(update={"training": training})}
        )
    run = RunDirectory(path)
    check_target(run, recipe)
    check_data(run, data)
    if last_step(run) < recipe.training.steps or not (run.figures_path / "codes.png").is_file():
        train_recipe(recipe, data, path, quiet)
    prior = recipe.prior.model_copy(
        update={"training": recipe.prior.training.model_copy(update={"seed": seed})}
    )
    own = RunDirectory(prior_directory(path))
    if last_step(own) < prior.training.steps or not (own.figures_path / "samples.png").is_file():
        train_prior_recipe(path, prior, quiet)


def _measured_split(study: SpeechStudy, data: str) -> str:
    """The split to measure on.

    Raises:
        InputError: when there is none that is held out.
    """
    source = open_data(data, build_modality(study.recipe.data))
    split = pick_split(source, None, "test", "validation")
    if split not in ("test", "validation"):
        raise InputError(
            f"expected data with a test split to measure on, found only {split!r} in {data}: name one by "
            "folders `train` and `test`, a table with a column split, or a group `split` in data.pattern"
        )
    return split


def _evaluate(run: Path, data: str, split: str, quiet: bool) -> None:
    fingerprints = (RunDirectory(run).fingerprint(), RunDirectory(prior_directory(run)).fingerprint())
    if (run / RESULTS).is_file():
        report = json.loads((run / RESULTS).read_text())
        same_data = Path(report["data"]).resolve() == Path(data).resolve() and report["split"] == split
        if same_data and (report["model"], report["priors"].get("learned")) == fingerprints:
            return
    evaluate(str(run), data, split, quiet=quiet, draws=1)


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
    """A record for each prior: bits a sample, and nats a code."""
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
    note_ = f"{study.question} Phones are those of the alignments given. Paper: {PAPER_PHONEMES}"
    records.append({**base, "metrics": {**report["metrics"], **errors}, "note": note_})
    for name, metrics in report["controls"].items():
        records.append({**base, "model": f"control: {name}", "metrics": metrics, "note": note_})
    return records


@dataclass(frozen=True)
class _Spoken:
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
class _Judges:
    """Who speaks, and what is said."""

    speaker: Recognizer
    content: Recognizer | None


def _speech_records(study: SpeechStudy, seed: int, data: str, run: Path, quiet: bool) -> list[Record]:
    records = _bound_records(study, seed, data, run)
    base = _record(study, seed, run, data, None)
    tokenizer = load(run)
    if len(tokenizer.classes) < 2:
        note("There are not two speakers, so nothing is converted.", quiet)
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
        saved = {"about": about, "metrics": _convert_all(study, seed, data, tokenizer, quiet)}
        with atomic_file(run / CONVERSION) as temporary:
            temporary.write_text(json.dumps(saved))
    words = {
        "originals": "control: real recordings",
        "levels": "control: real recordings through the levels of the signal, not the codes",
    }
    for kind, metrics in saved["metrics"].items():
        records.append({**base, "model": words.get(kind, f"{base['model']}: {kind}"), "metrics": metrics})
    return records


def _convert_all(
    study: SpeechStudy, seed: int, data: str, tokenizer: Tokenizer, quiet: bool
) -> dict[str, dict[str, int | float]]:
    """Reconstruct and convert utterances of the test split, and let judges hear them."""
    source = open_data(data, tokenizer.modality)
    split = pick_split(source, None, "test", "validation")
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
    _write_page(tokenizer, chosen, targets, same, other, seed)
    own = [u.speaker for u in chosen]
    originals = [u.waveform for u in chosen]
    levels = [tokenizer.modality.render(u.signal)[0, 0].numpy() for u in chosen]
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


def _spoken(study: SpeechStudy, tokenizer: Tokenizer, data: str, split: str) -> list[_Spoken]:
    """The utterances of a split whose speaker the run knows."""
    modality = tokenizer.modality
    sounds = tokenizer.recipe.data
    if not isinstance(sounds, SoundConfig):
        raise InputError(f"expected a run over sounds, received one over {modality.noun}")
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
            _Spoken(
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


def _judges(study: SpeechStudy, tokenizer: Tokenizer, training: Sequence[_Spoken], seed: int) -> _Judges:
    rate_hz = rate_of(tokenizer)
    waveforms = [u.waveform for u in training]

    def judge(labels: Sequence[int], is_content: bool) -> Recognizer:
        ids = np.array(labels, np.int64)
        return train_recognizer(waveforms, ids, rate_hz, is_content, study.judge_steps, seed=seed)

    contents = [u.content for u in training if u.content is not None]
    has_content = len(contents) == len(training) and len(set(contents)) > 1
    return _Judges(
        judge([u.speaker for u in training], False), judge(contents, True) if has_content else None
    )


def rate_of(tokenizer: Tokenizer) -> int:
    """Sample rate of the run's sounds, Hz.

    Raises:
        InputError: when it has none.
    """
    if tokenizer.modality.sample_rate_hz is None:
        raise InputError(f"expected a run over sounds, received one over {tokenizer.modality.noun}")
    return tokenizer.modality.sample_rate_hz


def _decoded(
    tokenizer: Tokenizer,
    spoken: Sequence[_Spoken],
    speakers: Sequence[int],
    seed: int,
    temperature: float,
    report: Any,
) -> list[np.ndarray]:
    """Each utterance through its codes, with a speaker of its own; several are decoded side by side."""
    model, modality = tokenizer.autoencoder, tokenizer.modality
    order = sorted(range(len(spoken)), key=lambda i: spoken[i].signal.shape[-1])
    waveforms: dict[int, np.ndarray] = {}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for begin in range(0, len(order), BATCH):
            chosen = order[begin : begin + BATCH]
            codes = [model.encode(tokenizer.padded(spoken[i].signal).to(tokenizer.device)) for i in chosen]
            longest = max(c.shape[-1] for c in codes)
            # Shorter ones go on with their last code; what is made of that is cut off.
            filled = [torch.cat([c, c[..., -1:].expand(1, 1, longest - c.shape[-1])], 2) for c in codes]
            labels = torch.tensor([speakers[i] for i in chosen], device=tokenizer.device)
            signals = model.decode(torch.cat(filled), Conditions(labels), generator, temperature).cpu()
            for i, signal in zip(chosen, modality.render(signals), strict=True):
                waveforms[i] = signal[0, : spoken[i].signal.shape[-1]].numpy()
            report(begin + len(chosen))
    return [waveforms[i] for i in range(len(spoken))]


def _heard(
    judges: _Judges,
    tokenizer: Tokenizer,
    spoken: Sequence[_Spoken],
    waveforms: Sequence[np.ndarray],
    wanted: Sequence[int],
    originals: Sequence[np.ndarray],
) -> dict[str, int | float]:
    """What the judges say of some sounds."""
    speakers = judges.speaker.predict(waveforms)
    rate_hz = judges.speaker.sample_rate_hz
    metrics = {
        "target_speaker_rate": float(np.mean(speakers == np.array(wanted))),
        "source_speaker_rate": float(np.mean(speakers == np.array([u.speaker for u in spoken]))),
        "mel_distance": float(
            np.mean([mel_distance(o, w, rate_hz) for o, w in zip(originals, waveforms, strict=True)])
        ),
        "num": len(spoken),
    }
    if judges.content is not None:
        said = judges.content.predict(waveforms)
        metrics["content_rate"] = float(np.mean(said == np.array([u.content for u in spoken])))
    return metrics


def _kept(
    judges: _Judges, spoken: Sequence[_Spoken], same: Sequence[np.ndarray], other: Sequence[np.ndarray]
) -> dict[str, float]:
    """Of what is still understood after plain reconstruction, the share that is after conversion."""
    if judges.content is None:
        return {}
    content = np.array([u.content for u in spoken])
    by_same, by_other = judges.content.predict(same) == content, judges.content.predict(other) == content
    return {"content_kept": float((by_same & by_other).sum() / max(1, by_same.sum()))}


def _pitch(
    tokenizer: Tokenizer,
    training: Sequence[_Spoken],
    spoken: Sequence[_Spoken],
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


def _write_page(
    tokenizer: Tokenizer,
    spoken: Sequence[_Spoken],
    targets: Sequence[int],
    same: Sequence[np.ndarray],
    other: Sequence[np.ndarray],
    seed: int,
) -> None:
    """A page to listen to and look at, beside the run."""
    rate_hz = rate_of(tokenizer)
    figures = tokenizer.directory / "figures"
    rows = []
    for index in range(min(PLAYED, len(spoken))):
        speaker, target = tokenizer.classes[spoken[index].speaker], tokenizer.classes[targets[index]]
        waveforms = {
            f"{speaker}, original": spoken[index].waveform,
            f"{speaker}, from codes": same[index],
            f"as {target}, same codes": other[index],
        }
        pictures = figures / f"conversion{index}.png", figures / f"conversion{index}_f0.png"
        spectrograms(waveforms, rate_hz, pictures[0])
        f0_curves({title: f0(w, rate_hz) for title, w in waveforms.items()}, 0.01, pictures[1])
        rows.append(
            {
                "name": spoken[index].name,
                "sounds": [(title, sound(w, rate_hz)) for title, w in waveforms.items()],
                "pictures": [inline(picture) for picture in pictures],
            }
        )
    drawn = tokenizer.sample_codes(6, seed=seed, temperature=0.9)
    signals = tokenizer.decode_signals(drawn, seed=seed)
    samples = [sound(w[0].numpy(), rate_hz) for w in tokenizer.modality.render(signals)]
    picture = figures / "speech_samples.png"
    tokenizer.modality.preview([signals]).save(picture)
    write_page(
        tokenizer.directory / "index.html",
        "speech.html.j2",
        title=f"{tokenizer.recipe.name}: {tokenizer.trained.model.title}",
        codes_per_second=f"{rate_hz / tokenizer.autoencoder.stride:g}",
        num_codes=tokenizer.autoencoder.num_codes,
        speakers=", ".join(tokenizer.classes[:12]) + (", ..." if len(tokenizer.classes) > 12 else ""),
        rows=rows,
        samples=samples,
        samples_picture=picture,
        curves=figures / "learning_curves.png",
    )
