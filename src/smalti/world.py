"""Learned worlds as gymnasium environments: frames that a run predicts from actions.

world = smalti.World("runs/walks", "data/doom", max_steps=100)
frame, info = world.reset(seed=0)
frame, reward, terminated, truncated, info = world.step(world.action_space.sample())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import UInt8

from smalti.core.errors import InputError
from smalti.core.extras import needs_extra
from smalti.data.sources import Item, UnreadableItem, open_source
from smalti.rollouts import Rollouts
from smalti.stored_priors import LEARNED
from smalti.tokenizer import Tokenizer, load

with needs_extra("world"):
    import gymnasium as gym
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space

GIVEN = 6
"""Default number of frames to begin with, as in van den Oord et al. 2017, section 4.4."""
ATTEMPTS = 100
"""Number of clips to try before the source is called too short or unreadable."""

Reward = Callable[[UInt8[np.ndarray, "h w c"], int, UInt8[np.ndarray, "h w c"]], float]
"""Maps a frame, the action taken there, and the next frame to a reward."""
Starts = str | Path | Sequence[np.ndarray]


def no_reward(before: np.ndarray, action: int, after: np.ndarray) -> float:
    """Reward of every step: 0."""
    return 0.0


@final
class StartingClips:
    """Clips that worlds begin with: a random stretch of a random clip.

    Args:
        starts: a source of clips, such as the data of the run, or clips `(F, H, W, C)`, uint8.
        tokenizer: its modality reads the clips; its `actions` name theirs.
        given: number of frames of a stretch.

    Raises:
        InputError: if the source cannot be opened.
    """

    def __init__(self, starts: Starts, tokenizer: Tokenizer, given: int) -> None:
        if given < 1:
            raise InputError(f"expected at least 1 frame to begin with, received {given}: raise given")
        self._tokenizer, self._given = tokenizer, given
        self._clips: Sequence[np.ndarray] | None = None
        if isinstance(starts, str | Path):
            modality = tokenizer.modality
            self._source = open_source(str(starts), modality.extensions, modality.pattern)
            self._split = "test" if "test" in self._source.splits else self._source.splits[0]
            self._count = self._source.count(self._split)
        else:
            self._clips, self._count = starts, len(starts)
        if not self._count:
            raise InputError("expected at least one clip to begin with, received none: pass other starts")

    def draw(self, random: np.random.Generator) -> tuple[UInt8[np.ndarray, "c f h w"], list[int]]:
        """Return the frames of a stretch, and the ids of the actions at all of them but the last.

        Raises:
            InputError: if no clip that was tried is readable and has enough frames.
        """
        for _ in range(ATTEMPTS):
            item = self._item(int(random.integers(self._count)))
            try:
                clip = self._tokenizer.modality.decode(item.content)
            except UnreadableItem:
                continue
            frames = clip.shape[1]
            if frames < self._given:
                continue
            first = int(random.integers(frames - self._given + 1))
            names = item.actions if item.actions is not None and len(item.actions) == frames else None
            return clip[:, first : first + self._given], self._ids(names, first)
        raise InputError(
            f"expected readable clips of at least {self._given} frames, found none in {ATTEMPTS} attempts: "
            "lower given, or pass other starts"
        )

    def _item(self, index: int) -> Item:
        if self._clips is not None:
            return Item(str(index), self._clips[index])
        return next(iter(self._source.section(self._split, index, index + 1)))

    def _ids(self, names: Sequence[str | None] | None, first: int) -> list[int]:
        if names is None:
            return []
        known = {name: number for number, name in enumerate(self._tokenizer.actions)}
        return [known.get(name or "", -1) for name in names[first : first + self._given - 1]]


@final
class VectorWorld(VectorEnv):
    """Several worlds at once, which are sampled and decoded together.

    Args:
        run: a run's directory, its name on the Hub, or its tokenizer.
        starts: see `StartingClips`.
        num: number of worlds.
        max_steps: steps after which a world is truncated; None for no limit. The step after that begins anew.
        reward: see `Reward`; a learned world knows frames only.
        prior: name of the prior.
        temperature: of each draw.
        guidance: weight of classifier-free guidance towards the actions; 1 for none.
        given: number of frames to begin with.

    Raises:
        InputError: for a run without actions, or starts that cannot be read.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        run: str | Path | Tokenizer,
        starts: Starts,
        num: int = 1,
        *,
        max_steps: int | None = None,
        reward: Reward = no_reward,
        prior: str = LEARNED,
        temperature: float = 1.0,
        guidance: float = 1.0,
        given: int = GIVEN,
    ) -> None:
        if num < 1 or (max_steps is not None and max_steps < 1):
            raise InputError(
                f"expected at least 1 world and 1 step, received {num} and {max_steps}: raise num or "
                "max_steps"
            )
        tokenizer = run if isinstance(run, Tokenizer) else load(str(run))
        self._rollouts = Rollouts(tokenizer, num, prior, temperature, guidance)
        self._starts = StartingClips(starts, tokenizer, given)
        self._max_steps, self._reward = max_steps, reward
        self.action_names = tokenizer.actions
        """Names of the actions, by id."""
        signal = tokenizer.autoencoder.signal
        shape = (*signal.size[1:], signal.channels)
        self.num_envs = num
        self.single_observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.single_action_space = gym.spaces.Discrete(len(tokenizer.actions))
        self.observation_space = batch_space(self.single_observation_space, num)
        self.action_space = batch_space(self.single_action_space, num)
        self.render_mode = "rgb_array"
        self._frames = np.zeros((num, *shape), np.uint8)
        self._steps = np.zeros(num, np.int64)
        self._generator: torch.Generator | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all worlds; equal seeds and actions give equal frames.

        Args:
            seed: one for all worlds.
            options: `clip`, frames `(F, H, W, C)` of a clip to begin all worlds with.
        """
        if isinstance(seed, list):
            raise InputError(
                f"expected one seed for all worlds, drawn together, received {len(seed)}: pass an int"
            )
        super().reset(seed=seed)
        if self._generator is None or seed is not None:
            self._generator = torch.Generator().manual_seed(int(self.np_random.integers(2**31)))
        rows = range(self.num_envs)
        if options and "clip" in options:
            clip = np.moveaxis(np.asarray(options["clip"]), -1, 0)
            self._rollouts.begin(rows, np.ascontiguousarray(clip))
            self._steps[:] = 0
            self._frames[:] = self._rollouts.frames(rows)
        else:
            self._begin(rows)
        return self._frames.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one action in each world; worlds that were truncated in the last step begin anew instead.

        Raises:
            InputError: before the first `reset`, or for an action out of range.
        """
        if self._generator is None:
            raise InputError("expected a reset before the first step, received none: call reset")
        given = np.asarray(actions)
        if given.shape != (self.num_envs,) or not self.action_space.contains(given.astype(np.int64)):
            raise InputError(
                f"expected {self.num_envs} actions from 0 to {len(self.action_names) - 1}, received "
                f"{actions}: pass one id for each world"
            )
        is_over = self._is_over()
        going, over = np.flatnonzero(~is_over).tolist(), np.flatnonzero(is_over).tolist()
        rewards = np.zeros(self.num_envs)
        if going:
            before = self._frames[going].copy()
            self._rollouts.advance(going, given[going].tolist(), self._generator)
            self._frames[going] = self._rollouts.frames(going)
            self._steps[going] += 1
            for row, frame in zip(going, before, strict=True):
                rewards[row] = self._reward(frame, int(given[row]), self._frames[row])
        if over:
            self._begin(over)
        never = np.zeros(self.num_envs, bool)
        return self._frames.copy(), rewards, never, self._is_over(), {}

    def render(self) -> tuple[np.ndarray, ...]:
        """Return the current frame of each world."""
        return tuple(self._frames.copy())

    def _begin(self, rows: Sequence[int]) -> None:
        for row in rows:
            self._rollouts.begin([row], *self._starts.draw(self.np_random))
        self._frames[list(rows)] = self._rollouts.frames(rows)
        self._steps[list(rows)] = 0

    def _is_over(self) -> np.ndarray:
        if self._max_steps is None:
            return np.zeros(self.num_envs, bool)
        return self._steps >= self._max_steps


@final
class World(gym.Env[np.ndarray, np.int64]):
    """One learned world: observations are frames `(H, W, C)`, uint8, and actions are ids.

    Args:
        run, starts, settings: see `VectorWorld`.

    Raises:
        InputError: as there.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        run: str | Path | Tokenizer,
        starts: Starts,
        *,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"expected a render_mode of rgb_array, received {render_mode!r}: leave it out")
        self._worlds = VectorWorld(run, starts, 1, **settings)
        self.render_mode = render_mode
        self.action_names = self._worlds.action_names
        self.observation_space = self._worlds.single_observation_space
        self.action_space: Any = self._worlds.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin with a random stretch of a clip, or with `options["clip"]`."""
        super().reset(seed=seed)
        frames, info = self._worlds.reset(seed=seed, options=options)
        return frames[0], info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take an action; the world is truncated after `max_steps`."""
        frames, rewards, terminated, truncated, info = self._worlds.step(np.asarray([action]))
        return frames[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Any:
        """Return the current frame, or None without a render_mode."""
        return self._worlds.render()[0] if self.render_mode else None
