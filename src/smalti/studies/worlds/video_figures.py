"""Metrics of action-conditioned rollouts on windows of held-out clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from smalti.app.commands.rollout import DRAWN, GIVEN
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.data.store import Store
from smalti.priors.autoregressive import LearnedPrior
from smalti.studies.worlds.judges import ActionJudge, Reconstruct, frame_nats, windows
from smalti.tokenizer import Tokenizer

LENGTH = GIVEN + DRAWN
"""Frames per window: given frames, then generated frames."""
SHORTEST = 3
"""Minimum number of steps with one action from which the judge classifies that action."""
AT_ONCE = 64
"""Number of windows decoded per batch."""


@dataclass(frozen=True)
class Windows:
    """Windows of held-out clips: pixel levels, actions, codes and the index of the clip."""

    levels: UInt8[Tensor, "b c f h w"]
    actions: Int64[Tensor, "b f"]
    codes: Int64[Tensor, "b g f rows columns"]
    clips: Int64[np.ndarray, " b"]

    @classmethod
    def of(cls, store: Store, stride: int, tokenizer: Tokenizer) -> Windows:
        """Cut and encode the windows of a store whose actions are all known.

        Args:
            store: store of held-out clips with actions.
            stride: frames between the starts of consecutive windows.
            tokenizer: encodes the windows.

        Raises:
            InputError: for an action that is not among the run's actions.
        """
        unknown = sorted(set(store.action_names) - set(tokenizer.actions))
        if unknown:
            raise InputError(
                f"expected held-out clips with the actions {', '.join(tokenizer.actions)}, received "
                f"{unknown[0]!r}: train on clips with this action, or remove the held-out clips that have it"
            )
        # Each split has its own action ids.
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
        """Standard error of the mean over clips, since windows of one clip are not independent."""
        means = [values[torch.from_numpy(self.clips == clip)].mean() for clip in np.unique(self.clips)]
        return float(torch.stack(means).std() / len(means) ** 0.5)

    def signal(self, tokenizer: Tokenizer) -> Float[Tensor, "b c f h w"]:
        """Return the frames in the model's range."""
        return tokenizer.modality.to_model(self.levels)


def action_gains(prior: LearnedPrior, chosen: Windows) -> dict[str, int | float]:
    """Compute nats per generated frame with true, shuffled and no actions.

    Shuffled actions are those of a window of the next clip.
    """
    other = of_another_clip(chosen.clips)
    shuffled = chosen.actions[other]
    conditions = {"true": chosen.actions, "shuffled": shuffled, "none": torch.full_like(chosen.actions, -1)}
    nats = {
        name: torch.cat(
            [
                frame_nats(prior.network, codes, part)
                for codes, part in zip(chosen.codes.split(AT_ONCE), actions.split(AT_ONCE), strict=True)
            ]
        )[:, GIVEN:].mean(1)
        for name, actions in conditions.items()
    }

    gains = {name: nats[name] - nats["true"] for name in ("shuffled", "none")}
    return {
        **{f"nats_{name}": float(each.mean()) for name, each in nats.items()},
        **{f"gain_over_{name}": float(each.mean()) for name, each in gains.items()},
        **{f"gain_over_{name}_stderr": chosen.stderr(each) for name, each in gains.items()},
        "actions_shuffled_alike": float((chosen.actions == shuffled)[:, GIVEN - 1 : -1].float().mean()),
        "num": len(chosen.clips),
    }


def of_another_clip(clips: Int64[np.ndarray, " b"]) -> Int64[Tensor, " b"]:
    """Return for each window the index of the window with the same number in the next clip.

    The last clip is followed by the first; if the next clip has fewer windows, numbers wrap around.
    """
    of_clip = {clip: np.flatnonzero(clips == clip) for clip in np.unique(clips)}
    names = list(of_clip)
    others = []
    for window, clip in enumerate(clips):
        following = of_clip[names[(names.index(clip) + 1) % len(names)]]
        number = int(np.flatnonzero(of_clip[clip] == window)[0])
        others.append(int(following[number % len(following)]))
    return torch.tensor(others)


def accuracy_on_real(
    judge: ActionJudge,
    tokenizer: Tokenizer,
    chosen: Windows,
    real: Float[Tensor, "b c f h w"],
    reconstructed: Float[Tensor, "b c f h w"],
) -> dict[str, Any]:
    """Compute the judge's accuracy on held-out frames: per pair of frames, and per stretch of one action."""
    actions = chosen.actions[:, :-1]

    def rates(clips: Tensor) -> dict[str, float]:
        seen = judge.log_probs(clips)
        right = seen.argmax(2) == actions
        voted_right = [
            (seen[window, begin:end].sum(0).argmax() == actions[window, begin]).item()
            for window, begin, end in stretches(actions)
        ]
        of_action = {
            f"of_{name}": float(right[actions == number].float().mean())
            for number, name in enumerate(tokenizer.actions)
            if (actions == number).any()
        }
        voted = {"action_accuracy": float(np.mean(voted_right))} if voted_right else {}
        return {**voted, "pair_accuracy": float(right.float().mean()), **of_action}

    majority = float(torch.bincount(actions.flatten()).max() / actions.numel())
    return {
        **rates(real),
        **{f"reconstructed_{name}": value for name, value in rates(reconstructed).items()},
        "majority": majority,
        "stretches": len(stretches(actions)),
        "num": actions.numel(),
    }


def stretches(actions: Int64[Tensor, "b f"]) -> list[tuple[int, int, int]]:
    """Return window, begin and end of each stretch of at least `SHORTEST` steps with one action."""
    found = []
    for window, row in enumerate(actions.tolist()):
        begin = 0
        for end in range(1, len(row) + 1):
            if end == len(row) or row[end] != row[begin]:
                if end - begin >= SHORTEST:
                    found.append((window, begin, end))
                begin = end
    return found


def accuracy_on_generated(
    judge: ActionJudge, chosen: Windows, constant: dict[str, Float[Tensor, "b c f h w"]]
) -> dict[str, Any]:
    """Compute how often the judge recognises the action of clips generated under one constant action.

    Args:
        judge: the classifier of actions.
        chosen: the windows that the clips continue.
        constant: generated clips by action.

    Returns:
        Accuracy per clip, from the sum of log-probabilities over its frames, and per pair of frames.
    """
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


def constant(actions: Int64[Tensor, "b f"], number: int) -> Int64[Tensor, "b f"]:
    """Replace the actions from the last given frame on by one constant action."""
    replaced = actions.clone()
    replaced[:, GIVEN - 1 :] = number
    return replaced


def drawn(
    tokenizer: Tokenizer,
    prior: LearnedPrior,
    chosen: Windows,
    actions: Int64[Tensor, "b f"] | None,
    seed: int,
    guidance: float = 1.0,
) -> Float[Tensor, "b c f h w"]:
    """Sample the continuation of each window's given frames under some actions, and decode the clips."""
    device = tokenizer.device
    codes = prior.sample(
        len(chosen.codes),
        Conditions(action=None if actions is None else actions.to(device)),
        generator=torch.Generator().manual_seed(seed),
        grid=tuple(chosen.codes.shape[2:]),
        given=chosen.codes[:, :, :GIVEN].to(device),
        guidance=guidance,
    )
    return decoded(tokenizer, codes.cpu())


def through_codes(tokenizer: Tokenizer) -> Reconstruct:
    """Return a function that reconstructs frames independently of each other, on the CPU."""

    @torch.no_grad()
    def reconstructed(frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        clips = frames.unsqueeze(2).to(tokenizer.device)
        return tokenizer.autoencoder.reconstruct(clips).squeeze(2).clamp(-1, 1).cpu()

    return reconstructed


def decoded(tokenizer: Tokenizer, codes: Int64[Tensor, "b g f *grid"]) -> Float[Tensor, "b c f h w"]:
    """Decode clips to integer levels in the model's range, so that metrics apply to displayable pixels."""
    modality = tokenizer.modality
    parts = [modality.to_stored(tokenizer.decode_signals(part)) for part in codes.split(AT_ONCE)]
    return modality.to_model(torch.cat(parts))
