"""Evaluate a world model: bits that actions save, and how long actions stay visible in its samples.

The judge of actions is trained on real frames, as they are and through their codes, and never on drawn ones.
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
"""Rows and columns in which the judge keeps what it sees: what is ahead grows to all sides."""


Reconstruct = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]


@final
class ActionJudge(nn.Module):
    """Four strided convolutions over a frame and the next one: which action lies between them.

    Args:
        channels: of a frame.
        num_actions: what it tells apart.
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
        """Logits of the actions between two frames, which lie one after the other in the channels."""
        return self.logit(self.layers(pairs))

    @torch.no_grad()
    def log_probs(self, clips: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b f1 a"]:
        """ln p(action) at each frame of clips in [-1, 1] but the last."""
        self.eval()
        pairs = torch.cat([clips[:, :, :-1], clips[:, :, 1:]], 1).transpose(1, 2)
        logits = torch.cat([self(part) for part in pairs.flatten(0, 1).split(256)])
        return logits.log_softmax(1).unflatten(0, pairs.shape[:2])


def train_action_judge(
    store: Store, steps: int, reconstructed: Reconstruct, batch_size: int = 64, seed: int = 0
) -> ActionJudge:
    """Train a judge on the real clips of a store, on the frames whose actions are known.

    It sees every other pair of frames through the codes of the model that is to be judged, or else it would
    take the softness of all that is decoded for a sign of something.

    Args:
        store: of uint8 clips with their actions.
        steps: of Adam, with a cosine schedule.
        reconstructed: what a model makes of frames `(N, C, H, W)` in [-1, 1], through codes.
        batch_size: pairs of frames a step.
        seed: of weights and batches.

    Raises:
        InputError: for clips without actions, or of one action.
    """
    if store.actions is None or store.lengths is None or len(store.action_names) < 2:
        raise InputError("expected clips with two actions or more, received others: collect some")
    torch.manual_seed(seed)
    judge = ActionJudge(store.signals.shape[1], len(store.action_names))
    # Of all frames but those that end a clip.
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
    """-ln p(frame's codes | frames before, actions) of each frame, nats, on the host."""
    codes = codes.to(next(network.parameters()).device)
    logits = network(codes, Conditions(action=actions)).float()
    nats = F.cross_entropy(logits.flatten(0, -2), codes.flatten(), reduction="none").view(codes.shape)
    return nats.sum((1, 3, 4)).cpu()


def windows(
    store: Store, length: int, stride: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "c f h w"], Int64[np.ndarray, " f"]]]:
    """Stretches of the clips of a store, with the number of the clip and their actions."""
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
    """PSNR of each frame over all clips, dB, of the mean squared error; both in [-1, 1].

    A mean of PSNRs would be ruled by the few clips in which a frame comes again exactly.
    """
    errors = (((original - other) / 2).double() ** 2).mean((0, 1, 3, 4)).clamp_min(1e-10)
    return -10 * errors.log10()


def sharpness_by_frame(clips: Float[Tensor, "b c f h w"]) -> Float[Tensor, " f"]:
    """Mean absolute difference of neighbours, down and to the right, of each frame; on the scale [0, 1]."""
    down, right = clips.diff(dim=3).abs(), clips.diff(dim=4).abs()
    return ((down.mean((0, 1, 3, 4)) + right.mean((0, 1, 3, 4))) / 4).double()
