"""Autoregressive prior of clips: p(z_t | earlier frames, actions), a gated PixelCNN over each frame.

A memory of causal convolutions summarises the earlier frames and their actions; its output is the local
condition of the PixelCNN that draws the next frame. The cost of a frame is that of an image, independent of
the number of earlier frames.
Sources: van den Oord et al. 2017, "Neural Discrete Representation Learning" (arXiv 1711.00937), section 4.4,
which does not specify its network; Kalchbrenner et al. 2017, "Video Pixel Networks" (arXiv 1610.00527), for
the split into a network over frames and a network within a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig, PixelCNNState
from smalti.core.conditioners import condition_names
from smalti.core.conditions import Conditions, id_sizes
from smalti.core.errors import InputError
from smalti.core.priors import NETWORKS, AutoregressiveNetwork, NetworkConfig
from smalti.nn.collectives import rand_over_ranks, randint_over_ranks
from smalti.nn.memory import FrameMemory, Past
from smalti.nn.symbols import check_codes, check_counts, check_turn, label_indices

DEFAULT_FRAME = GatedPixelCNNConfig()


@NETWORKS.register
class FramePixelCNNConfig(NetworkConfig):
    """Settings of a `FramePixelCNN`.

    Attributes:
        frame: settings of the network that draws one frame.
        memory_channels: width of the network over earlier frames.
        memory_layers: its layers; n layers see n + 1 frames.
        action_dropout: share of the clips whose actions training hides, either all, or a prefix or suffix of
            them, so that one network learns p(z), p(z | actions), and p(z | some of the actions).
        history_noise: share of the earlier codes that training replaces by uniformly drawn codes, for
            robustness to frames that the network drew itself.
    """

    kind: Literal["frame_pixelcnn"] = "frame_pixelcnn"
    frame: GatedPixelCNNConfig = DEFAULT_FRAME
    memory_channels: int = Field(default=128, ge=1)
    memory_layers: int = Field(default=5, ge=1)
    action_dropout: float = Field(default=0.2, ge=0, le=1)
    history_noise: float = Field(default=0.0, ge=0, lt=1)

    @classmethod
    def tiny(cls) -> FramePixelCNNConfig:
        """The smallest network with every part, for tests; it sees three frames."""
        return cls(frame=GatedPixelCNNConfig.tiny(), memory_channels=8, memory_layers=2)

    def build(
        self,
        num_codes: int,
        num_codebooks: int = 1,
        conditions: Mapping[str, int] | None = None,
    ) -> FramePixelCNN:
        """Build the untrained network; see `FramePixelCNN`."""
        return FramePixelCNN(num_codes, num_codebooks, conditions, **self.settings())


@dataclass(slots=True)
class FrameState:
    """Sampling state.

    Attributes:
        grid: frames, rows and columns.
        actions: indices of the actions, `(B, frames)`.
        of_frames: conditions of each frame, `B * frames` items.
        past: state of the memory over the complete frames.
        known: local condition of the current frame, `(B, P, h, w)`.
        codes: codes of the current frame so far, `(B, G, h, w)`.
        frame: state of the PixelCNN within the current frame; None before its first symbol.
        frames: number of complete frames.
        symbols: number of symbols of the current frame for which logits were computed.
    """

    grid: tuple[int, int, int]
    actions: Tensor
    of_frames: Conditions
    past: Past
    known: Tensor
    codes: Tensor
    frame: PixelCNNState | None = None
    frames: int = 0
    symbols: int = 0


@final
class FramePixelCNN(AutoregressiveNetwork):
    """A gated PixelCNN over each frame of a clip, conditioned on a memory of the earlier frames.

    The conditioners of `frame` read the conditions of its frame: the frame's own of values per frame, and its
    part of a field over the clip.

    Args:
        num_codes: codes K of each codebook.
        num_codebooks: codes G of each position.
        conditions: number of ids of each id condition of the data, by name; it embeds `label` and `action`.
            An action of -1, or none at all, selects a learned "not given".
        frame: settings of the network that draws one frame.
        memory_channels: width of the network over earlier frames.
        memory_layers: its layers; n layers see n + 1 frames.
        action_dropout: share of the clips whose actions training hides; see `hide_actions`.
        history_noise: share of the earlier codes that training replaces by uniformly drawn codes.

    Raises:
        InputError: if `frame` has a conditioner for `action`, which the memory reads, or for `local`, which
            the memory supplies.
    """

    config: FramePixelCNNConfig

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 1,
        conditions: Mapping[str, int] | None = None,
        *,
        frame: GatedPixelCNNConfig = DEFAULT_FRAME,
        memory_channels: int = 128,
        memory_layers: int = 5,
        action_dropout: float = 0.2,
        history_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = config = FramePixelCNNConfig(
            frame=frame,
            memory_channels=memory_channels,
            memory_layers=memory_layers,
            action_dropout=action_dropout,
            history_noise=history_noise,
        )
        check_counts(num_codes, num_codebooks)
        self.num_codes, self.num_codebooks = num_codes, num_codebooks
        self.condition_sizes = id_sizes(conditions, "label", "action")
        channels = config.memory_channels
        self.embeddings = nn.ModuleList(nn.Embedding(num_codes, channels) for _ in range(num_codebooks))
        self.actions = nn.Embedding(self.num_actions + 1, channels) if self.num_actions else None
        self.memory = FrameMemory(channels, config.memory_layers, is_conditioned=self.num_actions > 0)
        self.nothing = nn.Parameter(torch.zeros(channels))
        self.frame = config.frame.build(num_codes, num_codebooks, conditions, local_channels=channels)
        self._of_frames = ("label", *sorted(condition_names(self.frame)))
        if taken := {"action", "local"} & {*self._of_frames}:
            raise InputError(
                f"expected conditioners of other conditions than actions and local maps, which the memory "
                f"handles, received one of {taken.pop()!r}: remove it from frame.conditioners"
            )

    @property
    def reach(self) -> int:
        """Number of earlier frames that the network sees."""
        return self.config.memory_layers + 1

    def check_grid(self, grid: Sequence[int]) -> None:
        """Check that the grid has frames, rows and columns.

        Raises:
            InputError: for another grid.
        """
        if len(grid) != 3 or min(grid) < 1:
            raise InputError(
                f"expected a grid of frames, rows and columns, received {tuple(grid)}: use "
                "gated_pixelcnn for images"
            )

    def forward(
        self, codes: Int64[Tensor, "b g f h w"], conditions: Conditions | None = None
    ) -> Float[Tensor, "b g f h w k"]:
        """Logits of every code at once; training mode hides some actions and labels.

        Raises:
            InputError: if the grid is not one of frames, rows and columns, a code, label or action is out of
                range, or the numbers of actions and frames differ.
        """
        self.check_grid(codes.shape[2:])
        check_codes(codes, self.num_codebooks, self.num_codes)
        batch_size, frames, grid = len(codes), codes.shape[2], codes.shape[3:]
        actions = self._actions(conditions, batch_size, frames)
        label_indices(conditions, batch_size, self.num_classes, codes.device)
        seen = codes
        if self.training:
            actions = hide_actions(actions, self.config.action_dropout, self.num_actions)
            seen = with_noise(codes, self.config.history_noise, self.num_codes)
        known = self._nothing(batch_size, grid).unsqueeze(2)
        if frames > 1:
            # The memory after a frame conditions the next one; after the last frame it is not needed.
            past = self.memory.start(batch_size, grid)
            later, _ = self.remembered(seen[:, :, :-1], actions[:, :-1], past)
            known = torch.cat([known, later], 2)
        local = known.transpose(1, 2).flatten(0, 1)
        of_frames = self._by_frame(conditions, frames)
        logits = self.frame(codes.transpose(1, 2).flatten(0, 1), Conditions(**of_frames, local=local))
        return logits.unflatten(0, (batch_size, frames)).transpose(1, 2)

    @torch.no_grad()
    def start(self, batch_size: int, grid: Sequence[int], conditions: Conditions | None = None) -> FrameState:
        """State before the first symbol; actions and labels are never hidden.

        Raises:
            InputError: as in `forward`.
        """
        self.check_grid(grid)
        frames, rows, columns = grid
        actions = self._actions(conditions, batch_size, frames)
        # Validate now rather than when the first frame begins.
        label_indices(conditions, batch_size, self.num_classes, actions.device)
        return FrameState(
            (frames, rows, columns),
            actions,
            self._by_frame(conditions, frames),
            self.memory.start(batch_size, (rows, columns)),
            self._nothing(batch_size, (rows, columns)),
            torch.zeros(
                batch_size, self.num_codebooks, rows, columns, dtype=torch.int64, device=self.nothing.device
            ),
        )

    @torch.no_grad()
    def skip(self, codes: Int64[Tensor, "b g f h w"], state: FrameState) -> None:
        """Set a clip's first frames to given codes, at the cost of one pass over them.

        Raises:
            InputError: if the codes do not fit, or symbols were drawn before.
        """
        check_codes(codes, self.num_codebooks, self.num_codes)
        frames, *grid = state.grid
        if state.symbols or state.frames or list(codes.shape[3:]) != grid or codes.shape[2] >= frames:
            raise InputError(
                f"expected the first frames of a clip with grid {state.grid}, received codes of shape "
                f"{tuple(codes.shape)} after {state.frames} frames: pass them to a fresh state"
            )
        self._remember(codes, state)

    @torch.no_grad()
    def step(self, previous: Int64[Tensor, " b"] | None, state: FrameState) -> Float[Tensor, "b k"]:
        """Logits of the next symbol. See `AutoregressiveNetwork.step`."""
        check_turn(previous, state.frames * state.codes[0].numel() + state.symbols)
        if previous is not None and state.frame is not None:
            position, codebook = divmod(state.symbols - 1, self.num_codebooks)
            state.codes.flatten(2)[:, codebook, position] = previous
        if state.symbols == state.codes[0].numel():
            self._remember(state.codes.unsqueeze(2), state)
            previous = None
        if state.frames == state.grid[0]:
            raise InputError(f"expected no step after the last symbol of a clip {state.grid}: call start")
        if state.frame is None:
            own = state.of_frames.part(slice(state.frames, None, state.grid[0]))
            conditions = Conditions(**own, local=state.known)
            state.frame = self.frame.start(len(state.codes), state.grid[1:], conditions)
            previous = None
        state.symbols += 1
        return self.frame.step(previous, state.frame)

    def _remember(self, codes: Int64[Tensor, "b g f h w"], state: FrameState) -> None:
        """Add complete frames to the memory; the next symbol is the first of the following frame."""
        done = state.actions[:, state.frames : state.frames + codes.shape[2]]
        known, state.past = self.remembered(codes, done, state.past)
        state.known = known[:, :, -1]
        state.frames += codes.shape[2]
        state.frame, state.symbols = None, 0

    def remembered(
        self, codes: Int64[Tensor, "b g f h w"], actions: Int64[Tensor, "b f"], past: Past
    ) -> tuple[Float[Tensor, "b c f h w"], Past]:
        """Compute the memory after each of some frames, which conditions the next one.

        Args:
            codes: of the frames.
            actions: rows of the action embedding; the last row is "not given".
            past: state before the first of these frames, from `memory.start` or from this method.

        Returns:
            The memory `(B, C, F, h, w)`, and the state after the last frame.
        """
        each = zip(self.embeddings, codes.unbind(1), strict=True)
        embedded = torch.stack([embed(c) for embed, c in each]).sum(0)
        action_vectors = None if self.actions is None else self.actions(actions)
        if action_vectors is not None:
            embedded = embedded + action_vectors[:, :, None, None]
        return self.memory(embedded.movedim(-1, 1), action_vectors, past)

    def _by_frame(self, conditions: Conditions | None, frames: int) -> Conditions:
        """Return the conditions of each frame, which the network of a frame reads."""
        return (conditions or Conditions()).only(*self._of_frames).by_frame(frames)

    def _nothing(self, batch_size: int, grid: Sequence[int]) -> Float[Tensor, "b c h w"]:
        """Local condition of a clip's first frame."""
        return self.nothing[:, None, None].expand(batch_size, -1, *grid)

    def _actions(self, conditions: Conditions | None, batch_size: int, frames: int) -> Int64[Tensor, "b f"]:
        """Indices into the action embedding, whose last entry is "not given"."""
        actions = conditions.tensor("action") if conditions is not None else None
        device = self.nothing.device
        if actions is None or not self.num_actions:
            return torch.full((batch_size, frames), self.num_actions, device=device)
        if actions.shape != (batch_size, frames):
            raise InputError(
                f"expected actions of shape {(batch_size, frames)}, one for each frame, received "
                f"{tuple(actions.shape)}: use -1 for an unknown action"
            )
        low, high = (int(bound) for bound in actions.aminmax())
        if low < -1 or high >= self.num_actions:
            raise InputError(
                f"expected actions from 0 to {self.num_actions - 1}, or -1 for none, received actions from "
                f"{low} to {high}"
            )
        actions = actions.to(device)
        return actions.where(actions >= 0, self.num_actions)


def hide_actions(actions: Int64[Tensor, "b f"], share: float, num_actions: int) -> Int64[Tensor, "b f"]:
    """Set the actions of a share of clips to "not given": for half of these clips all actions, for a quarter
    a prefix, for a quarter a suffix.

    Every rank draws for the batch of all ranks and takes its own part, as `hide_labels` does.
    """
    if not num_actions:
        return actions
    batch_size, frames = actions.shape
    drawn, which, begun = (rand_over_ranks((batch_size, 1), actions.device) for _ in range(3))
    # All actions; or those before a frame, or from it on.
    place = torch.where(which < 0.5, frames, (begun * frames).long())
    is_before = torch.arange(frames, device=actions.device) < place
    hidden = (drawn < share) & (is_before ^ (which >= 0.75))
    return actions.masked_fill(hidden, num_actions)


def with_noise(codes: Int64[Tensor, "b g f h w"], share: float, num_codes: int) -> Int64[Tensor, "b g f h w"]:
    """Replace a share of codes by uniformly drawn ones, drawn for the batch of all ranks."""
    if not share:
        return codes
    drawn = rand_over_ranks(codes.shape, codes.device)
    others = randint_over_ranks(num_codes, codes.shape, codes.device)
    return others.where(drawn < share, codes)
