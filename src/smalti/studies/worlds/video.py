"""`smalti reproduce video`: section 4.4, clips that go on under actions, all of it in the space of codes.

What the paper shows in pictures is measured: what the actions are worth to the prior, whether a judge sees
them in what is drawn, and how long a drawn clip stays near what really came.
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
from smalti.studies.records import Record, publish
from smalti.studies.worlds.judges import psnr_by_frame, sharpness_by_frame, train_action_judge, windows
from smalti.studies.worlds.recipes import VideoStudy, video_study
from smalti.studies.worlds.runs import about, bounds, evaluate_once, measured_split, train_once
from smalti.studies.worlds.video_figures import (
    LENGTH,
    Windows,
    constant,
    decoded,
    drawn,
    seen_in_drawn,
    seen_in_real,
    through_codes,
    worth,
)
from smalti.studies.worlds.video_page import write_video_page
from smalti.tokenizer import Tokenizer, load
from smalti.trained import LEARNED

EXPERIMENT = "video"
QUESTION = "Do clips generated in code space follow the actions that condition them?"
REPEATED, RECONSTRUCTED, JUDGE = "horizon, last frame repeated", "horizon, reconstructed", "judge"
CONTROLS = {
    REPEATED: "last frame repeated",
    RECONSTRUCTED: "reconstructed frames",
    JUDGE: "the judge of actions on held-out frames",
}
"""Entries that no prior has a part in, in words."""


def reproduce_video(
    data: str | None, out: Path, budget: str = "cpu", seeds: int = 1, quiet: bool = False
) -> list[Record]:
    """Train both stages and a judge, measure them, write records, a table and a page with clips.

    Models that are trained are not trained again, so that the same command goes on after a stop; the judge,
    and all that is drawn and measured, takes minutes and is made anew.

    Args:
        data: walks with actions and a test split, such as `smalti collect doom` writes.
        out: where runs, records and the page go.
        budget: "tiny" to see it run, "cpu" for two cores, "paper" for the paper's frames and grids with a
            GPU's steps (the paper tells neither widths nor steps).
        seeds: 0 to `seeds` - 1.
        quiet: show no progress.

    Raises:
        InputError: for a user's mistake.
    """
    study = video_study(budget)
    modality = study.walks.data.build()
    data, source, split = measured_split(EXPERIMENT, data, modality)
    measured_on = described(source, split, data)
    if any(item is None or item.actions is None for item in _first(source, split)):
        raise InputError(
            f"expected clips with actions to reproduce {EXPERIMENT} with, received clips without in {data}: "
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
        evaluate_once(run, data, split, quiet)
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
            records.append(
                {**shared, **_of_entry(run, name, study.judge_steps), "entry": name, "metrics": metrics}
            )
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
    """Refuse clips that nothing can be measured on, before anything is trained."""
    known = set()
    if store.actions is not None:
        known = {clip for clip, _, done in windows(store, LENGTH, stride) if (done >= 0).all()}
    if len(known) < 2:
        raise InputError(
            f"expected at least two held-out clips with {LENGTH} frames whose actions are known in {data}, "
            f"received {len(known)}: collect longer walks, or more"
        )


def _first(source: Source, split: str) -> list[Item | None]:
    """The first item that is trained on, and of those that are measured on."""
    return [next(source.items(name), None) for name in (training_split(source), split)]


def _measured(
    study: VideoStudy, tokenizer: Tokenizer, held_out: Store, folder: Path, seed: int, quiet: bool
) -> dict[str, dict[str, Any]]:
    """The figures of all parts by name, and a page."""
    prior = tokenizer.trained.learned[LEARNED]
    chosen = Windows.of(held_out, study.stride, tokenizer)
    note("Training the judge of actions on real frames.", quiet)
    store = Store.open(tokenizer.directory / DATA_DIRECTORY)
    judge = train_action_judge(store, study.judge_steps, through_codes(tokenizer), seed=seed)
    note("Drawing.", quiet)
    real = chosen.signal(tokenizer)
    reconstructed = decoded(tokenizer, chosen.codes)
    followed = {
        "true actions": drawn(tokenizer, prior, chosen, chosen.actions, seed),
        "no actions": drawn(tokenizer, prior, chosen, None, seed),
    }
    under_one = {
        name: drawn(tokenizer, prior, chosen, constant(chosen.actions, number), seed)
        for number, name in enumerate(tokenizer.actions)
    }
    lines = {
        "true actions": followed["true actions"],
        "no actions": followed["no actions"],
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
    write_video_page(tokenizer, folder, chosen, under_one, followed["true actions"], horizon, seed)
    return {
        "actions": worth(prior, chosen),
        JUDGE: seen_in_real(judge, tokenizer, chosen, real, reconstructed),
        "rollouts": seen_in_drawn(judge, chosen, under_one),
        **{f"horizon, {name}": metrics for name, metrics in horizon.items()},
    }
