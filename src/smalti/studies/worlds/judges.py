"""Metrics of a world model: nats per frame, PSNR and sharpness by frame, and a classifier of actions.

The action classifier (judge) is trained on real and reconstructed frames, never on generated ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.priors import AutoregressiveNetwork
from smalti.data.store import Store
from smalti.modalities.image.pixels import to_model

WIDTHS = (32, 64, 64, 64)
POOLED = 4
"""Rows and columns of the judge's final pooling, which keeps positions: moving forward expands the view."""


Reconstruct = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]


@final
class ActionJudge(nn.Module):
    """Classifier of the action between two consecutive frames, with four strided convolutions.

    Args:
        channels: number of channels of a frame.
        num_actions: number of actions.
    """

    def __init__(self, channels: int, num_actions: int) -> None:
        super().__init__()
        widths = (2 * channels, *WIDTHS)
        layers: list[nn.Module] = []
        for index, (a, b) in enumerate(itertools.pairwise(widths)):
            size = 3 if index else 5
            layers += [nn.Conv2d(a, b, size, 2, size // 2), nn.BatchNorm2d(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(POOLED), nn.Flatten(), nn.Dropout(0.2))
        self.logit = nn.Linear(WIDTHS[-1] * POOLED**2, num_actions)

    def forward(self, pairs: Float[Tensor, "n c2 h w"]) -> Float[Tensor, "n a"]:
        """Return action logits for pairs of frames, concatenated along the channels."""
        return self.logit(self.layers(pairs))

    @torch.no_grad()
    def log_probs(self, clips: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b f1 a"]:
        """Return ln p(action) for each frame but the last of clips in [-1, 1]."""
        self.eval()
        pairs = torch.cat([clips[:, :, :-1], clips[:, :, 1:]], 1).transpose(1, 2)
        logits = torch.cat([self(part) for part in pairs.flatten(0, 1).split(256)])
        return logits.log_softmax(1).unflatten(0, pairs.shape[:2])


def train_action_judge(
    store: Store, steps: int, reconstructed: Reconstruct, batch_size: int = 64, seed: int = 0
) -> ActionJudge:
    """Train a judge on the real frames of a store whose actions are known.

    Half of each batch is reconstructed by the evaluated model, so that the judge does not mistake the blur of
    decoded frames for evidence of an action.

    Args:
        store: store of uint8 clips with actions.
        steps: number of Adam steps, with a cosine schedule.
        reconstructed: reconstructs frames `(N, C, H, W)` in [-1, 1] from their codes.
        batch_size: pairs of frames per step.
        seed: seed of weights and batches.

    Raises:
        InputError: for clips without actions, or with a single action.
    """
    if store.actions is None or store.lengths is None or len(store.action_names) < 2:
        raise InputError(
            "expected clips with at least two different actions, received fewer: collect some with smalti "
            "collect doom"
        )
    torch.manual_seed(seed)
    judge = ActionJudge(store.signals.shape[1], len(store.action_names))
    # All frames except the last of each clip, which has no successor.
    rows = np.delete(np.arange(len(store.signals)), store.begins + store.lengths - 1)
    rows = rows[store.actions[rows] >= 0]
    optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(seed)
    judge.train()
    for _ in range(steps):
        chosen = rng.choice(rows, batch_size)
        frames, following = (to_model(torch.from_numpy(store.signals[at])) for at in (chosen, chosen + 1))
        half = batch_size // 2
        again = reconstructed(torch.cat([frames[:half], following[:half]])).chunk(2)
        frames, following = torch.cat([again[0], frames[half:]]), torch.cat([again[1], following[half:]])
        logits = judge(torch.cat([frames, following], 1))
        loss = F.cross_entropy(logits, torch.from_numpy(store.actions[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


@torch.no_grad()
def frame_nats(
    network: AutoregressiveNetwork, codes: Int64[Tensor, "b g f h w"], actions: Int64[Tensor, "b f"]
) -> Float[Tensor, "b f"]:
    """Return -ln p(codes of a frame | previous frames, actions) for each frame, nats, on the CPU."""
    codes = codes.to(next(network.parameters()).device)
    logits = network(codes, Conditions(action=actions)).float()
    nats = F.cross_entropy(logits.flatten(0, -2), codes.flatten(), reduction="none").view(codes.shape)
    return nats.sum((1, 3, 4)).cpu()


def windows(
    store: Store, length: int, stride: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "c f h w"], Int64[np.ndarray, " f"]]]:
    """Yield windows of the clips of a store: index of the clip, frames and actions.

    Args:
        store: store of clips with actions.
        length: frames per window.
        stride: frames between the starts of consecutive windows.
    """
    assert store.lengths is not None
    assert store.actions is not None
    for index in range(store.count):
        clip, begin = store.item(index), int(store.begins[index])
        for first in range(0, clip.shape[1] - length + 1, stride):
            actions = store.actions[begin + first : begin + first + length]
            yield index, clip[:, first : first + length], actions


def psnr_by_frame(
    original: Float[Tensor, "b c f h w"], other: Float[Tensor, "b c f h w"]
) -> Float[Tensor, " f"]:
    """PSNR of each frame, dB, from the mean squared error over all clips; both inputs are in [-1, 1].

    A mean of PSNRs would be dominated by the few clips with an exact copy of a frame.
    """
    errors = (((original - other) / 2).double() ** 2).mean((0, 1, 3, 4)).clamp_min(1e-10)
    return -10 * errors.log10()


def sharpness_by_frame(clips: Float[Tensor, "b c f h w"]) -> Float[Tensor, " f"]:
    """Mean absolute difference of vertically and horizontally adjacent pixels of each frame, in [0, 1]."""
    down, right = clips.diff(dim=3).abs(), clips.diff(dim=4).abs()
    return ((down.mean((0, 1, 3, 4)) + right.mean((0, 1, 3, 4))) / 4).double()
