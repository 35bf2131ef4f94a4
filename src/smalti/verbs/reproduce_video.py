"""`smalti reproduce video`: section 4.4, clips that go on under actions, all of it in the space of codes.

What the paper shows in pictures is measured: what the actions are worth to the prior, whether a judge sees
them in what is drawn, and how long a drawn clip stays near what really came.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from smalti.data.sources import Item, Source
from smalti.data.store import Store
from smalti.evaluation.figures import horizon_curves
from smalti.evaluation.worlds import (
    ActionJudge,
    Reconstruct,
    frame_nats,
    psnr_by_frame,
    sharpness_by_frame,
    train_action_judge,
    windows,
)
from smalti.interfaces import Conditions, InputError
from smalti.modalities.pixels import as_levels, picture_grid
from smalti.models.prior import LearnedPrior
from smalti.recipes import build_modality
from smalti.recipes.world_studies import VideoStudy, video_study
from smalti.tokenizer import Tokenizer, load
from smalti.trained import LEARNED
from smalti.verbs.console import note
from smalti.verbs.data import prepare, training_split
from smalti.verbs.provenance import commit, described
from smalti.verbs.records import Record, publish
from smalti.verbs.rollout import DRAWN, GIVEN
from smalti.verbs.runs import DATA_DIRECTORY
from smalti.verbs.world_runs import about, bounds, evaluate_once, measured_split, train_once
from smalti.web.page import gif, inline, write_page

EXPERIMENT = "video"
QUESTION = "Do clips that are drawn in the space of codes do what they are told?"
LENGTH = GIVEN + DRAWN
"""Frames of a window: those that are given, and those that are drawn or predicted."""
REPEATED, RECONSTRUCTED, JUDGE = "horizon, last frame repeated", "horizon, reconstructed", "judge"
CONTROLS = {
    REPEATED: "last frame repeated",
    RECONSTRUCTED: "reconstructed frames",
    JUDGE: "the judge of actions on held-out frames",
}
"""Entries that no prior has a part in, in words."""
SHORTEST = 3
"""Steps of a stretch under one action, at least, from which the judge is to tell it."""
SHOWN = 3
"""Windows on the page."""
AT_ONCE = 64
"""Windows that are decoded together."""
GIF_MS = 120
"""That a frame is shown on the page: slower than it was walked, so that it can be followed."""


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
    modality = build_modality(study.walks.data)
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
    """What a figure is of: the prior, or what it is compared with, which no prior has a part in."""
    if name not in CONTROLS:
        record = about(run, LEARNED)
        return {**record, "prior": LEARNED, "model": f"{record['model']}: {name}"}
    record = {**about(run, None), "prior": None, "model": f"control: {CONTROLS[name]}"}
    match name:
        case "judge":
            return {**record, "steps": judge_steps, "seconds": None}
        case "horizon, last frame repeated":
            return {**record, "steps": 0, "seconds": 0, "stages": [], "config": None}
        case _:
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


@dataclass(frozen=True)
class _Windows:
    """Held-out stretches: their pixels, actions, codes, and the clip of each."""

    levels: UInt8[Tensor, "b c f h w"]
    actions: Int64[Tensor, "b f"]
    codes: Int64[Tensor, "b g f rows columns"]
    clips: Int64[np.ndarray, " b"]

    @classmethod
    def of(cls, store: Store, stride: int, tokenizer: Tokenizer) -> _Windows:
        unknown = sorted(set(store.action_names) - set(tokenizer.actions))
        if unknown:
            raise InputError(
                f"expected held-out clips with the actions {', '.join(tokenizer.actions)}, received "
                f"{unknown[0]!r}: train on walks that have it, or leave those clips out"
            )
        # Each split numbers its actions by itself.
        ids = np.array([tokenizer.actions.index(name) for name in store.action_names], np.int64)
        cut = [
            (clip, pixels, ids[done])
            for clip, pixels, done in windows(store, LENGTH, stride)
            if (done >= 0).all()
        ]
        levels = torch.from_numpy(np.stack([pixels for _, pixels, _ in cut]))
        actions = torch.from_numpy(np.stack([done for _, _, done in cut]))
        codes = torch.cat(tokenizer.encode(levels))
        return cls(levels, actions, codes, np.array([clip for clip, _, _ in cut]))

    def stderr(self, values: Float[Tensor, " b"]) -> float:
        """Standard error, over clips, of the mean over windows: those of a clip are not independent."""
        means = [values[torch.from_numpy(self.clips == clip)].mean() for clip in np.unique(self.clips)]
        return float(torch.stack(means).std() / len(means) ** 0.5)

    def signal(self, tokenizer: Tokenizer) -> Float[Tensor, "b c f h w"]:
        return tokenizer.modality.to_model(self.levels)


def _measured(
    study: VideoStudy, tokenizer: Tokenizer, held_out: Store, folder: Path, seed: int, quiet: bool
) -> dict[str, dict[str, Any]]:
    """The figures of all parts by name, and a page."""
    prior = tokenizer.trained.learned[LEARNED]
    chosen = _Windows.of(held_out, study.stride, tokenizer)
    note("Training the judge of actions on real frames.", quiet)
    store = Store.open(tokenizer.directory / DATA_DIRECTORY)
    judge = train_action_judge(store, study.judge_steps, _through_codes(tokenizer), seed=seed)
    note("Drawing.", quiet)
    real = chosen.signal(tokenizer)
    reconstructed = _decoded(tokenizer, chosen.codes)
    drawn = {
        "true actions": _drawn(tokenizer, prior, chosen, chosen.actions, seed),
        "no actions": _drawn(tokenizer, prior, chosen, None, seed),
    }
    constant = {
        name: _drawn(tokenizer, prior, chosen, _constant(chosen.actions, number), seed)
        for number, name in enumerate(tokenizer.actions)
    }
    lines = {
        "true actions": drawn["true actions"],
        "no actions": drawn["no actions"],
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
    _page(tokenizer, folder, chosen, constant, drawn["true actions"], horizon, seed)
    return {
        "actions": _worth(prior, chosen),
        JUDGE: _seen(judge, tokenizer, chosen, real, reconstructed),
        "rollouts": _obeyed(judge, chosen, constant),
        **{f"horizon, {name}": metrics for name, metrics in horizon.items()},
    }


def _worth(prior: LearnedPrior, chosen: _Windows) -> dict[str, int | float]:
    """Nats of a frame after the given ones, with true, shuffled and no actions.

    Shuffled are those of a window of the next clip.
    """
    other = _of_another_clip(chosen.clips)
    shuffled = chosen.actions[other]
    told = {"true": chosen.actions, "shuffled": shuffled, "none": torch.full_like(chosen.actions, -1)}
    nats = {
        name: torch.cat(
            [
                frame_nats(prior.network, codes, part)
                for codes, part in zip(chosen.codes.split(AT_ONCE), actions.split(AT_ONCE), strict=True)
            ]
        )[:, GIVEN:].mean(1)
        for name, actions in told.items()
    }

    gains = {name: nats[name] - nats["true"] for name in ("shuffled", "none")}
    return {
        **{f"nats_{name}": float(each.mean()) for name, each in nats.items()},
        **{f"gain_over_{name}": float(each.mean()) for name, each in gains.items()},
        **{f"gain_over_{name}_stderr": chosen.stderr(each) for name, each in gains.items()},
        "actions_shuffled_alike": float((chosen.actions == shuffled)[:, GIVEN - 1 : -1].float().mean()),
        "num": len(chosen.clips),
    }


def _of_another_clip(clips: Int64[np.ndarray, " b"]) -> Int64[Tensor, " b"]:
    """For each window one of the next clip, after the last of which comes the first: the one of its number.

    Where the next clip has fewer windows, they are counted round.
    """
    of_clip = {clip: np.flatnonzero(clips == clip) for clip in np.unique(clips)}
    names = list(of_clip)
    others = []
    for window, clip in enumerate(clips):
        following = of_clip[names[(names.index(clip) + 1) % len(names)]]
        number = int(np.flatnonzero(of_clip[clip] == window)[0])
        others.append(int(following[number % len(following)]))
    return torch.tensor(others)


def _seen(
    judge: ActionJudge,
    tokenizer: Tokenizer,
    chosen: _Windows,
    real: Float[Tensor, "b c f h w"],
    reconstructed: Float[Tensor, "b c f h w"],
) -> dict[str, Any]:
    """How often the judge tells the action between two held-out frames, and that of a stretch under one."""
    actions = chosen.actions[:, :-1]

    def rates(clips: Tensor) -> dict[str, float]:
        seen = judge.log_probs(clips)
        right = seen.argmax(2) == actions
        stretches = [
            (seen[window, begin:end].sum(0).argmax() == actions[window, begin]).item()
            for window, begin, end in _stretches(actions)
        ]
        of_action = {
            f"of_{name}": float(right[actions == number].float().mean())
            for number, name in enumerate(tokenizer.actions)
            if (actions == number).any()
        }
        voted = {"action_accuracy": float(np.mean(stretches))} if stretches else {}
        return {**voted, "pair_accuracy": float(right.float().mean()), **of_action}

    majority = float(torch.bincount(actions.flatten()).max() / actions.numel())
    return {
        **rates(real),
        **{f"reconstructed_{name}": value for name, value in rates(reconstructed).items()},
        "majority": majority,
        "stretches": len(_stretches(actions)),
        "num": actions.numel(),
    }


def _stretches(actions: Int64[Tensor, "b f"]) -> list[tuple[int, int, int]]:
    """Window, begin and end of each stretch of `SHORTEST` steps or more under one action."""
    found = []
    for window, row in enumerate(actions.tolist()):
        begin = 0
        for end in range(1, len(row) + 1):
            if end == len(row) or row[end] != row[begin]:
                if end - begin >= SHORTEST:
                    found.append((window, begin, end))
                begin = end
    return found


def _obeyed(
    judge: ActionJudge, chosen: _Windows, constant: dict[str, Float[Tensor, "b c f h w"]]
) -> dict[str, Any]:
    """In how many clips drawn under one action the judge sees that action, over all their frames; and in how
    many pairs of frames."""
    of_clip, of_pair, right = {}, {}, []
    for number, (name, clips) in enumerate(constant.items()):
        seen = judge.log_probs(clips[:, :, GIVEN - 1 :])
        right.append((seen.sum(1).argmax(1) == number).float())
        of_clip[name] = float(right[-1].mean())
        of_pair[name] = float((seen.argmax(2) == number).float().mean())
    return {
        "action_accuracy": sum(of_clip.values()) / len(of_clip),
        "action_accuracy_stderr": chosen.stderr(torch.stack(right).mean(0)),
        **{f"clips_of_{name}": rate for name, rate in of_clip.items()},
        "pair_accuracy": sum(of_pair.values()) / len(of_pair),
        "num": sum(len(clips) for clips in constant.values()),
    }


def _constant(actions: Int64[Tensor, "b f"], number: int) -> Int64[Tensor, "b f"]:
    """One action from the last given frame on, after what really was done before."""
    told = actions.clone()
    told[:, GIVEN - 1 :] = number
    return told


def _drawn(
    tokenizer: Tokenizer,
    prior: LearnedPrior,
    chosen: _Windows,
    actions: Int64[Tensor, "b f"] | None,
    seed: int,
) -> Float[Tensor, "b c f h w"]:
    """Each window's given frames, and what is drawn after them under some actions; in pixels."""
    device = tokenizer.device
    codes = prior.sample(
        len(chosen.codes),
        Conditions(actions=None if actions is None else actions.to(device)),
        generator=torch.Generator().manual_seed(seed),
        grid=tuple(chosen.codes.shape[2:]),
        given=chosen.codes[:, :, :GIVEN].to(device),
    )
    return _decoded(tokenizer, codes.cpu())


def _through_codes(tokenizer: Tokenizer) -> Reconstruct:
    """What the model makes of frames, each by itself, on the host."""

    @torch.no_grad()
    def reconstructed(frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        clips = frames.unsqueeze(2).to(tokenizer.device)
        return tokenizer.autoencoder.reconstruct(clips).squeeze(2).clamp(-1, 1).cpu()

    return reconstructed


def _decoded(tokenizer: Tokenizer, codes: Int64[Tensor, "b g f *grid"]) -> Float[Tensor, "b c f h w"]:
    # As levels, so that nothing is measured that a picture cannot show.
    modality = tokenizer.modality
    parts = [modality.to_stored(tokenizer.decode_signals(part)) for part in codes.split(AT_ONCE)]
    return modality.to_model(torch.cat(parts))


def _page(
    tokenizer: Tokenizer,
    folder: Path,
    chosen: _Windows,
    constant: dict[str, Float[Tensor, "b c f h w"]],
    followed: Float[Tensor, "b c f h w"],
    horizon: dict[str, dict[str, Any]],
    seed: int,
) -> None:
    """Strips and clips: what really came, what is drawn under each action, and clips out of nothing."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    at = torch.linspace(0, len(chosen.levels) - 1, SHOWN + 2).round().long()[1:-1].tolist()
    real = chosen.signal(tokenizer)
    shown = []
    for index, number in enumerate(at):
        rows = {"what really came": real[number], "drawn, the same actions": followed[number]}
        rows |= {f"drawn, {name}": clips[number] for name, clips in constant.items()}
        strip = figures / f"rollout{index}.png"
        levels = [tokenizer.modality.to_stored(clip.unsqueeze(0))[0] for clip in rows.values()]
        picture_grid([as_levels(clip.transpose(0, 1)) for clip in levels], LENGTH, scale=1).save(strip)
        shown.append(
            {
                "strip": strip,
                "clips": [(name, _animated(clip)) for name, clip in zip(rows, levels, strict=True)],
            }
        )
    names = {"psnr": "PSNR to what really came, dB", "sharpness": "sharpness, real frames = 1"}
    curves = {
        title: {name: metrics[key] for name, metrics in horizon.items()} for key, title in names.items()
    }
    horizon_curves(curves, figures / "horizon.png")
    drawn = tokenizer.decode_signals(tokenizer.sample_codes(6, seed=seed))
    samples = [_animated(clip) for clip in tokenizer.modality.to_stored(drawn)]
    write_page(
        folder / "index.html",
        "video.html.j2",
        title=tokenizer.recipe.name,
        given=GIVEN,
        drawn=DRAWN,
        reconstructions=tokenizer.directory / "figures" / "reconstructions.png",
        shown=[{"strip": inline(row["strip"]), "clips": row["clips"]} for row in shown],
        horizon=figures / "horizon.png",
        samples=samples,
    )


def _animated(levels: UInt8[Tensor, "c f h w"], scale: int = 2) -> str:
    """A clip as an animated GIF for a page, enlarged."""
    pixels = levels.permute(1, 2, 3, 0).numpy().repeat(scale, 1).repeat(scale, 2)
    first, *others = (Image.fromarray(frame.squeeze()) for frame in pixels)
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=GIF_MS, loop=0)
    return gif(buffer.getvalue())
