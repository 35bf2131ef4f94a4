"""First-person frames with actions, rendered by ViZDoom without a screen.

The agent repeats each random action for some steps, and turns away when it is blocked. Frames are
reproducible: an episode depends only on the seed and its number.

Source: Kempka et al. 2016, "ViZDoom: A Doom-based AI Research Platform" (arXiv 1605.02097).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smalti.core.errors import InputError
from smalti.core.suggestions import suggestion

if TYPE_CHECKING:
    import vizdoom

ACTIONS = ("forward", "left", "right")
BUTTONS = ("MOVE_FORWARD", "TURN_LEFT", "TURN_RIGHT")
"""ViZDoom buttons used by the actions."""
WEIGHTS = (0.5, 0.25, 0.25)
"""Sampling probability of each action."""
HELD = (3, 7)
"""Minimum and maximum number of steps for which an action is repeated."""
TICS = 2
"""Game tics per step, of 35 per second: 17.5 frames per second."""
LEAST_MOVE = 1.0
"""Map units per step below which an agent moving forward counts as blocked."""
RESOLUTIONS = ((160, 120), (320, 240), (640, 480))
"""Rendered widths and heights; frames are cropped from the centre of the smallest with enough rows."""


@dataclass(frozen=True)
class Episode:
    """One episode: a random walk.

    Attributes:
        number: index of the episode.
        frames: `(F, H, W, 3)`.
        actions: index in `ACTIONS` of the action at each frame; the next frame shows its effect.
    """

    number: int
    frames: UInt8[np.ndarray, "f h w 3"]
    actions: tuple[int, ...]


def scenarios() -> list[str]:
    """List the scenario names that `Doom` accepts.

    Raises:
        InputError: when ViZDoom is not installed.
    """
    return sorted(path.stem for path in Path(_vizdoom().scenarios_path).glob("*.cfg"))


@final
class Doom:
    """Episodes of random walks in a ViZDoom scenario.

    Args:
        scenario: one of `scenarios()`.
        size: side of a frame in pixels, up to 480.
        length: frames per episode, unless the game ends it earlier.
        seed: seed of all episodes.

    Raises:
        InputError: when ViZDoom is not installed, the scenario is unknown or multiplayer only, or the size is
            out of range.
    """

    def __init__(self, scenario: str, size: int = 84, length: int = 100, seed: int = 0) -> None:
        known = scenarios()
        if scenario not in known:
            raise InputError(f"expected a scenario, received {scenario!r}: {suggestion(scenario, known)}")
        if not 1 <= size <= RESOLUTIONS[-1][1]:
            raise InputError(f"expected a size from 1 to {RESOLUTIONS[-1][1]}, received {size}")
        self.scenario, self.size, self.length, self.seed = scenario, size, length, seed
        self._doom = _vizdoom()
        self._folder = TemporaryDirectory(prefix="vizdoom")
        try:
            self._game = self._started()
        except BaseException:
            self._folder.cleanup()
            raise

    def close(self) -> None:
        """End the game."""
        self._game.close()
        self._folder.cleanup()

    def __enter__(self) -> Doom:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def episode(self, number: int) -> Episode:
        """Render the episode with this index, from 0.

        Raises:
            InputError: when ViZDoom quits unexpectedly.
        """
        try:
            return self._walked(number)
        except (self._doom.ViZDoomErrorException, self._doom.ViZDoomUnexpectedExitException) as error:
            raise InputError(
                f"ViZDoom ended during episode {number} ({_reason(error)}): collect again; if it ends there "
                "again, use another scenario or seed"
            ) from error

    def _walked(self, number: int) -> Episode:
        game = self._game
        # ViZDoom takes a 32-bit seed; the agent's generator takes one of any size.
        game.set_seed((self.seed * 1_000_003 + number) % 2**32)
        game.new_episode()
        walker = random.Random(f"{self.seed} {number}")
        frames: list[np.ndarray] = []
        actions: list[int] = []
        held, action, is_blocked = 0, 0, False
        while len(frames) < self.length and not game.is_episode_finished():
            if held == 0 or (is_blocked and action == 0):
                action = _drawn(walker, is_blocked)
                # Turn longer when blocked: about a half turn leads away from a wall, a short one along it.
                held = walker.randint(*HELD) * (3 if is_blocked else 1)
            frames.append(self._frame(game.get_state()))
            actions.append(action)
            before = self._place()
            game.make_action([float(action == button) for button in range(len(BUTTONS))], TICS)
            is_blocked = action == 0 and bool(np.hypot(*(self._place() - before)) < LEAST_MOVE)
            held -= 1
        return Episode(number, np.stack(frames), tuple(actions))

    def episodes(self, num: int) -> Iterator[Episode]:
        """Yield episodes from index 0 with `num` frames in total; the last one is truncated."""
        number = 0
        while num > 0:
            episode = self.episode(number)
            yield Episode(number, episode.frames[:num], episode.actions[:num])
            num -= len(episode.actions)
            number += 1

    def _started(self) -> vizdoom.DoomGame:
        doom = self._doom
        width, height = next(shape for shape in RESOLUTIONS if shape[1] >= self.size)
        game = doom.DoomGame()
        try:
            game.load_config(str(Path(doom.scenarios_path) / f"{self.scenario}.cfg"))
            game.set_window_visible(False)
            game.set_sound_enabled(False)
            game.set_render_hud(False)
            game.set_mode(doom.Mode.PLAYER)
            game.set_screen_format(doom.ScreenFormat.RGB24)
            game.set_screen_resolution(getattr(doom.ScreenResolution, f"RES_{width}X{height}"))
            game.set_available_buttons([getattr(doom.Button, name) for name in BUTTONS])
            game.set_available_game_variables([doom.GameVariable.POSITION_X, doom.GameVariable.POSITION_Y])
            # ViZDoom writes its settings into the working directory.
            game.set_doom_config_path(str(Path(self._folder.name) / "vizdoom.ini"))
            with contextlib.chdir(self._folder.name):
                game.init()
        except (doom.ViZDoomErrorException, doom.ViZDoomUnexpectedExitException, OSError) as error:
            raise InputError(
                f"ViZDoom cannot start the scenario {self.scenario} ({_reason(error)}): use another, such "
                "as my_way_home"
            ) from error
        return game

    def _place(self) -> np.ndarray:
        names = (self._doom.GameVariable.POSITION_X, self._doom.GameVariable.POSITION_Y)
        return np.array([self._game.get_game_variable(name) for name in names])

    def _frame(self, state: Any) -> UInt8[np.ndarray, "h w 3"]:
        """Crop the centre of the rendered screen, and resize it."""
        screen = state.screen_buffer
        height, width, _ = screen.shape
        begin = (width - height) // 2
        picture = Image.fromarray(np.ascontiguousarray(screen[:, begin : begin + height]))
        return np.asarray(picture.resize((self.size, self.size), Image.Resampling.LANCZOS))


def _drawn(walker: random.Random, is_blocked: bool) -> int:
    """Sample an action; if the agent is blocked, one that turns it away."""
    choices: Sequence[int] = range(1 if is_blocked else 0, len(ACTIONS))
    return walker.choices(choices, [WEIGHTS[choice] for choice in choices])[0]


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _vizdoom() -> Any:
    if find_spec("vizdoom") is None:
        raise InputError("expected ViZDoom to collect frames, found none: run pip install 'smalti[doom]'")
    import vizdoom

    return vizdoom
