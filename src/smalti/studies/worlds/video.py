"""`smalti reproduce video`: action-conditioned rollouts in code space (section 4.4 of the paper).

The paper shows pictures; here, the figures are how many nats the actions save the prior, how often a
classifier recognises the actions in generated clips, and how PSNR to the real frames decays over a rollout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smalti.app.commands.rollout import GIVEN
from smalti.app.console import note
from smalti.app.data import prepare, training_split
from smalti.app.provenance import commit, described
from smalti.app.runs import DATA_DIRECTORY
from smalti.core.errors import InputError
from smalti.data.sources import Item, Source
from smalti.data.store import Store
from smalti.priors.autoregressive import LearnedPrior
from smalti.stored_priors import LEARNED
from smalti.studies.records import Record, publish
from smalti.studies.stages import evaluate_once
from smalti.studies.worlds.judges import psnr_by_frame, sharpness_by_frame, train_action_judge, windows
from smalti.studies.worlds.recipes import VideoStudy, video_study
from smalti.studies.worlds.runs import DRAWS, about, bounds, measured_split, train_once
from smalti.studies.worlds.video_figures import (
    LENGTH,
    Windows,
    accuracy_on_generated,
    accuracy_on_real,
    action_gains,
    constant,
    decoded,
    drawn,
    through_codes,
)
from smalti.studies.worlds.video_page import write_video_page
from smalti.tokenizer import Tokenizer, load

EXPERIMENT = "video"
QUESTION = "Do clips generated in code space follow the actions that condition them?"
REPEATED, RECONSTRUCTED, JUDGE = "horizon, last frame repeated", "horizon, reconstructed", "judge"
CONTROLS = {
    REPEATED: "last frame repeated",
    RECONSTRUCTED: "reconstructed frames",
    JUDGE: "the judge of actions on held-out frames",
}
"""Descriptions of the entries that use no prior."""


def reproduce_video(
    data: str | None, out: Path, budget: str = "cpu", seeds: int = 1, quiet: bool = False
) -> list[Record]:
    """Train both stages and a judge, evaluate them, write records, a table and pages with clips.

    Trained models are reused, so the same command resumes an interrupted reproduction; the judge, rollouts
    and metrics take minutes and are computed again.

    Args:
        data: clips with actions and a test split, such as those of `smalti collect doom`.
        out: directory of runs, records and pages.
        budget: "tiny" for a smoke test, "cpu" for two cores, "paper" for the paper's frame and grid sizes
            with a number of steps that suits a GPU (the paper gives neither widths nor steps).
        seeds: number of seeds, 0 to `seeds` - 1.
        quiet: hide progress.

    Returns:
        The records.

    Raises:
        InputError: for a user error.
    """
    study = video_study(budget)
    modality = study.walks.data.build()
    data, source, split = measured_split(EXPERIMENT, data, modality)
    measured_on = described(source, split, data)
    if any(item is None or item.actions is None for item in _first(source, split)):
        raise InputError(
            f"expected clips with actions to reproduce {EXPERIMENT}, found clips without actions in {data}: "
            "collect some with smalti collect doom"
        )
    folder = out / f"{EXPERIMENT}-{budget}"
    records: list[Record] = []
    for seed in range(seeds):
        note(f"video, seed {seed}", quiet)
        of_seed = folder / f"seed{seed}"
        run = of_seed / "walks"
        held_out = prepare(of_seed / "held_out", source, split, modality, quiet=quiet)
        _check_held_out(held_out, data, study.stride)
        train_once(study.seeded(seed).walks, data, run, True, quiet)
        evaluate_once(run, data, split, quiet, DRAWS)
        shared = {
            "experiment": EXPERIMENT,
            "dataset": Path(data).name,
            "split": split,
            "measured_on": measured_on,
            "seed": seed,
            "note": QUESTION,
            "budget": budget,
            "measured_at": commit(),
            "judge_steps": study.judge_steps,
            "stride": study.stride,
        }
        measured = _measured(study, load(str(run)), held_out, of_seed, seed, quiet)
        records += [{**shared, **row} for row in bounds(run)]
        for name, metrics in measured.items():
            guided = {"guidance": study.guidance} if "guided" in name else {}
            of_entry = _of_entry(run, name, study.judge_steps)
            records.append({**shared, **of_entry, **guided, "entry": name, "metrics": metrics})
    publish(folder, records, quiet)
    note(f"The runs, records.jsonl and table.md are in {folder}, a page in each seed's folder.", quiet)
    return records


def _of_entry(run: Path, name: str, judge_steps: int) -> Record:
    """Return the record fields of a figure of the prior, or of a control that uses no prior."""
    if name not in CONTROLS:
        record = about(run, LEARNED)
        return {**record, "prior": LEARNED, "model": f"{record['model']}: {name}"}
    record = {**about(run, None), "prior": None, "model": f"control: {CONTROLS[name]}"}
    if name == JUDGE:
        return {**record, "steps": judge_steps, "seconds": None}
    if name == REPEATED:
        return {**record, "steps": 0, "seconds": 0, "stages": [], "config": None}
    return record


def _check_held_out(store: Store, data: str, stride: int) -> None:
    """Refuse clips that are too short to evaluate on, before training."""
    known = set()
    if store.actions is not None:
        known = {clip for clip, _, done in windows(store, LENGTH, stride) if (done >= 0).all()}
    if len(known) < 2:
        raise InputError(
            f"expected at least two held-out clips with {LENGTH} frames of known actions in {data}, found "
            f"{len(known)}: collect more or longer episodes"
        )


def _first(source: Source, split: str) -> list[Item | None]:
    """Return the first item of the training split and of the evaluation split."""
    return [next(source.items(name), None) for name in (training_split(source), split)]


def _measured(
    study: VideoStudy, tokenizer: Tokenizer, held_out: Store, folder: Path, seed: int, quiet: bool
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of all entries by name, and write the page."""
    prior = tokenizer.trained.learned[LEARNED]
    if not isinstance(prior, LearnedPrior):
        raise InputError(
            f"expected an autoregressive prior, whose nats per frame are compared, received a "
            f"{type(prior).__name__} in {tokenizer.directory}: train one with prior.kind=autoregressive"
        )
    chosen = Windows.of(held_out, study.stride, tokenizer)
    note("Training the judge of actions on real frames.", quiet)
    store = Store.open(tokenizer.directory / DATA_DIRECTORY)
    judge = train_action_judge(store, study.judge_steps, through_codes(tokenizer), seed=seed)
    note("Sampling rollouts.", quiet)
    real = chosen.signal(tokenizer)
    reconstructed = decoded(tokenizer, chosen.codes)
    followed = {
        "true actions": drawn(tokenizer, prior, chosen, chosen.actions, seed),
        "no actions": drawn(tokenizer, prior, chosen, None, seed),
    }
    followed["true actions, guided"] = drawn(tokenizer, prior, chosen, chosen.actions, seed, study.guidance)
    under_one, guided = (
        {
            name: drawn(tokenizer, prior, chosen, constant(chosen.actions, number), seed, guidance)
            for number, name in enumerate(tokenizer.actions)
        }
        for guidance in (1.0, study.guidance)
    )
    lines = {
        **followed,
        REPEATED.removeprefix("horizon, "): real[:, :, GIVEN - 1 : GIVEN].expand_as(real),
        RECONSTRUCTED.removeprefix("horizon, "): reconstructed,
    }
    horizon = {
        name: {
            "psnr": psnr_by_frame(real, clips)[GIVEN:].tolist(),
            "sharpness": (sharpness_by_frame(clips) / sharpness_by_frame(real))[GIVEN:].tolist(),
            "num": len(real),
        }
        for name, clips in lines.items()
    }
    shown = followed["true actions, guided"]
    write_video_page(tokenizer, folder, chosen, guided, shown, horizon, seed, study.guidance)
    return {
        "actions": action_gains(prior, chosen),
        JUDGE: accuracy_on_real(judge, tokenizer, chosen, real, reconstructed),
        "rollouts": accuracy_on_generated(judge, chosen, under_one),
        "guided rollouts": accuracy_on_generated(judge, chosen, guided),
        **{f"horizon, {name}": metrics for name, metrics in horizon.items()},
    }
