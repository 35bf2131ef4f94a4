"""Rollouts of clips one action at a time, many at once, in memory that does not grow with their length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from smalti.autoregressive.frame_pixelcnn import FramePixelCNN
from smalti.autoregressive.guidance import GuidedNetwork
from smalti.autoregressive.sampling import sample
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.precision import full_precision
from smalti.core.priors import check_guidance
from smalti.stored_priors import LEARNED
from smalti.tokenizer import Tokenizer


@final
class Rollouts:
    """A batch of rollouts: each has a current frame, and a memory of those before it.

    The memory is the state of the prior's recurrent layers, of a fixed size: n layers see n + 1 frames.

    Args:
        tokenizer: of clips with one code grid per frame, with a prior that reads actions.
        num: number N of rollouts.
        prior: name of the prior.
        temperature: of each draw.
        guidance: weight of classifier-free guidance towards the actions; 1 for none. Otherwise a second
            memory sees the same frames without actions, and a frame takes at least twice the time.

    Attributes:
        codes: int64 `(N, G, h, w)`, codes of the current frames.

    Raises:
        InputError: for another model or prior, or a guidance that is out of range.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        num: int,
        prior: str = LEARNED,
        temperature: float = 1.0,
        guidance: float = 1.0,
    ) -> None:
        model, learned = tokenizer.autoencoder, tokenizer.trained.learned_prior(prior)
        network: Any = getattr(learned, "network", None)
        if not model.signal.is_clip or model.stride != 1 or not isinstance(network, FramePixelCNN):
            raise InputError(
                "expected a run over clips with one code grid per frame and a frame-by-frame prior, received "
                f"{tokenizer.directory} over {tokenizer.modality.plural_name}: train one with smalti train "
                "walks, and its prior"
            )
        if not network.num_actions:
            raise InputError(
                f"expected a prior that reads actions, received {tokenizer.directory} without actions: train "
                "it on clips with actions"
            )
        self._tokenizer, self._network, self._temperature = tokenizer, network.eval(), temperature
        grid = model.grid[1:]
        weight = check_guidance(guidance, Conditions(action=torch.zeros(num, 1, dtype=torch.int64)), network)
        self._num_memories = 1 if weight == 1 else 2
        self._drawing = (
            network.frame if weight == 1 else GuidedNetwork(network.frame, weight, is_doubled=True)
        )
        self._past = network.memory.start(self._num_memories * num, grid)
        self.codes = torch.zeros(num, model.num_codebooks, *grid, dtype=torch.int64, device=tokenizer.device)

    @property
    def num(self) -> int:
        """Number of rollouts."""
        return len(self.codes)

    @torch.no_grad()
    def begin(
        self, rows: Sequence[int], clip: UInt8[np.ndarray, "c f h w"], actions: Sequence[int] = ()
    ) -> None:
        """Begin some rollouts at the last frame of a clip.

        Args:
            rows: indices of the rollouts.
            clip: at least one frame, of the model's size.
            actions: ids of the actions at all frames but the last, -1 for unknown; () for none known.

        Raises:
            InputError: if there is not one action for each frame but the last.
        """
        frames = clip.shape[1]
        if actions and len(actions) != frames - 1:
            raise InputError(
                f"expected {frames - 1} actions before the last of {frames} frames, received {len(actions)}: "
                "pass one per frame except the last"
            )
        (codes,) = self._tokenizer.encode(torch.from_numpy(clip))
        self.codes[list(rows)] = codes[0, :, -1]
        past = self._network.memory.start(self._num_memories, codes.shape[3:])
        if frames > 1:
            known = torch.tensor([list(actions) or [-1] * (frames - 1)], device=codes.device)
            each = codes[:, :, :-1].expand(self._num_memories, -1, -1, -1, -1)
            with full_precision(self._network):
                _, past = self._network.remembered(each, self._ids(known), past)
        for layer, begun in zip(self._past, past, strict=True):
            layer[self._memories(rows)] = begun.repeat_interleave(len(rows), 0)

    @torch.no_grad()
    def advance(
        self, rows: Sequence[int], actions: Sequence[int], generator: torch.Generator | None = None
    ) -> None:
        """Draw the next frame of some rollouts, given the action at their current one.

        Args:
            rows: indices of the rollouts.
            actions: ids, one for each.
            generator: of the draws; they depend on which rollouts are drawn together.
        """
        chosen, network, memories = list(rows), self._network, self._memories(rows)
        given = torch.tensor(actions, device=self.codes.device)[:, None]
        seen = self.codes[chosen].unsqueeze(2).repeat(self._num_memories, 1, 1, 1, 1)
        with full_precision(network):
            known, past = network.remembered(
                seen, self._ids(given), [layer[memories] for layer in self._past]
            )
            for layer, after in zip(self._past, past, strict=True):
                layer[memories] = after
            self.codes[chosen] = sample(
                self._drawing,
                len(chosen),
                self.codes.shape[2:],
                Conditions(local=known[:, :, -1]),
                temperature=self._temperature,
                generator=generator,
            ).to(self.codes.device)

    @torch.no_grad()
    def frames(self, rows: Sequence[int]) -> UInt8[np.ndarray, "n h w c"]:
        """Decode the current frames of some rollouts."""
        decoded = self._tokenizer.autoencoder.decode(self.codes[list(rows)].unsqueeze(2))
        stored = self._tokenizer.modality.to_stored(decoded)[:, :, 0]
        return stored.movedim(1, -1).cpu().numpy()

    def _memories(self, rows: Sequence[int]) -> list[int]:
        """Rows of the memories of some rollouts: those with actions, then those without."""
        return [memory * self.num + row for memory in range(self._num_memories) for row in rows]

    def _ids(self, actions: Int64[Tensor, "b f"]) -> Int64[Tensor, "m f"]:
        """Rows of the action embedding for each memory; the last one stands for an unknown action."""
        known = actions.where(actions >= 0, self._network.num_actions)
        return torch.cat(
            [known, *[torch.full_like(known, self._network.num_actions)] * (self._num_memories - 1)]
        )
