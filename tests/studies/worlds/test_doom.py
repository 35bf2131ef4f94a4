"""Walks through ViZDoom: seeded, of the size asked for, away from walls, and refused in a sentence."""

import numpy as np
import pytest

from smalti.core.errors import InputError
from smalti.studies.worlds.doom import ACTIONS, Doom, scenarios

pytest.importorskip("vizdoom", reason="needs the extra smalti[doom]")


@pytest.fixture(scope="module")
def episodes():
    with Doom("my_way_home", size=42, length=40) as world:
        return list(world.episodes(100))


def test_frames_are_as_many_and_as_large_as_asked(episodes):
    assert [len(episode.actions) for episode in episodes] == [40, 40, 20]
    for episode in episodes:
        assert episode.frames.shape == (len(episode.actions), 42, 42, 3)
        assert episode.frames.dtype == np.uint8
        assert set(episode.actions) <= set(range(len(ACTIONS)))


def test_frames_show_something_that_moves(episodes):
    for episode in episodes:
        assert episode.frames.std() > 5
        assert np.abs(np.diff(episode.frames.astype(int), axis=0)).mean() > 1


def test_actions_are_held(episodes):
    changes = sum(a != b for e in episodes for a, b in zip(e.actions, e.actions[1:], strict=False))
    assert 5 < changes < 40


def test_turning_left_and_right_move_the_picture_apart(episodes):
    """The middle of the picture moves to the right under a turn to the left, by correlation of columns."""
    shifts = {"left": [], "right": []}
    for episode in episodes:
        for index, action in enumerate(episode.actions[:-1]):
            if ACTIONS[action] in shifts:
                shifts[ACTIONS[action]].append(_shift(episode.frames[index], episode.frames[index + 1]))
    assert np.median(shifts["left"]) > 0 > np.median(shifts["right"])


def _shift(before: np.ndarray, after: np.ndarray, most: int = 8) -> int:
    """By how many columns a frame moved to the right."""
    one, other = (frame.astype(float).mean(2) for frame in (before, after))
    errors = {
        by: np.square(one[:, most - by : -most - by or None] - other[:, most:-most]).mean()
        for by in range(-most + 1, most)
    }
    return min(errors, key=errors.__getitem__)


def test_an_episode_depends_on_its_seed_and_number_alone(episodes):
    with Doom("my_way_home", size=42, length=40) as world:
        again = world.episode(1)
    np.testing.assert_array_equal(again.frames, episodes[1].frames)
    assert again.actions == episodes[1].actions
    with Doom("my_way_home", size=42, length=40, seed=1) as world:
        other = world.episode(1)
    assert not np.array_equal(other.frames, episodes[1].frames)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Doom("my_way_home", size=42, length=4) as world:
        world.episode(0)
    assert not list(tmp_path.iterdir())


def test_large_frames():
    with Doom("basic", size=128, length=2) as world:
        assert world.episode(0).frames.shape == (2, 128, 128, 3)


def test_bad_input():
    assert {"my_way_home", "health_gathering"} <= set(scenarios())
    with pytest.raises(InputError, match="expected a scenario, received 'lab'"):
        Doom("lab")
    with pytest.raises(InputError, match="expected a size from 1 to 480, received 481"):
        Doom("basic", size=481)


def test_a_game_that_ends_is_reported_in_a_sentence():
    import vizdoom

    class Ended:
        def __getattr__(self, name):
            raise vizdoom.ViZDoomUnexpectedExitException("it is gone")

        def close(self):
            pass

    with Doom("my_way_home", size=42, length=4) as world:
        world._game.close()
        world._game = Ended()
        with pytest.raises(InputError, match=r"ViZDoom ended during episode 3 \(it is gone\)"):
            world.episode(3)
