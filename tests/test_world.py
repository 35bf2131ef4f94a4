"""Learned worlds: gymnasium's checks, the same frames as a rollout, one world equal to several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.rollouts import Rollouts
from smalti.tokenizer import Tokenizer, load
from tests import videos
from tests.runs import TINY_WALKS, TINY_WALKS_PRIOR, command

pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    videos.save_episodes(folder / "train.parquet", videos.random_walks(8, 8))
    videos.save_episodes(folder / "test.parquet", videos.random_walks(3, 9, seed=1))
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "walks"
    assert command("train", "walks", "--data", data, "--out", path, *TINY_WALKS).status == 0
    assert command("train-prior", path, *TINY_WALKS_PRIOR, "--quiet").status == 0
    return path


@pytest.fixture(scope="module")
def tokenizer(run: Path) -> Tokenizer:
    return load(str(run))


def world(*given: Any, **settings: Any) -> Any:
    from smalti.world import World

    return World(*given, **settings)


def vector(*given: Any, **settings: Any) -> Any:
    from smalti.world import VectorWorld

    return VectorWorld(*given, **settings)


def test_gymnasium_accepts_it(run: Path, data: Path) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(world(str(run), str(data), given=3, max_steps=4, render_mode="rgb_array"))


def test_gymnasium_makes_a_vector_of_it(tokenizer: Tokenizer, data: Path) -> None:
    import gymnasium as gym

    envs = gym.vector.SyncVectorEnv([lambda: world(tokenizer, data, given=3)] * 2)
    envs.reset(seed=[0, 0])
    frames, *_ = envs.step(np.array([0, 1]))
    assert frames.shape == (2, 16, 16, 3)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_frames_are_those_of_a_rollout_at_temperature_zero(tokenizer: Tokenizer, guidance: float) -> None:
    names = ["left", "right", "wait", "left", "left"]
    clip = videos.walk(["left", "wait", "right"])
    rollouts = Rollouts(tokenizer, 2, temperature=0.0, guidance=guidance)
    channels_first = np.ascontiguousarray(clip.transpose(3, 0, 1, 2))
    ids = [tokenizer.actions.index(name) for name in ("left", "wait")]
    rollouts.begin([0, 1], channels_first, ids)
    seen = [rollouts.codes[0]]
    for name in names:
        rollouts.advance([0, 1], [tokenizer.actions.index(name)] * 2)
        seen.append(rollouts.codes[0].clone())
        assert torch.equal(rollouts.codes[0], rollouts.codes[1])
    (given,) = tokenizer.encode(torch.from_numpy(channels_first))
    expected = tokenizer.rollout(given, names, ["left", "wait"], temperature=0.0, guidance=guidance)
    assert torch.equal(torch.stack(seen[1:], 1), expected[0, :, 3:])
    decoded = tokenizer.modality.to_stored(tokenizer.decode_signals(expected))[0, :, -1]
    assert np.array_equal(rollouts.frames([0])[0], decoded.movedim(0, -1).numpy())


def test_equal_seeds_give_equal_frames(tokenizer: Tokenizer, data: Path) -> None:
    def frames(seed: int) -> np.ndarray:
        made = world(tokenizer, data, given=3)
        first, _ = made.reset(seed=seed)
        return np.stack([first, *(made.step(action)[0] for action in (0, 1, 2))])

    assert np.array_equal(frames(1), frames(1))
    assert not np.array_equal(frames(1), frames(2))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_rows_are_independent_of_each_other(tokenizer: Tokenizer, guidance: float) -> None:
    clips = [videos.walk(["left", "wait"]), videos.walk(["right", "right"]) // 2]
    first = [np.ascontiguousarray(clip.transpose(3, 0, 1, 2)) for clip in clips]
    together = Rollouts(tokenizer, 2, temperature=0.0, guidance=guidance)
    for row, clip in enumerate(first):
        together.begin([row], clip)
    together.advance([0, 1], [0, 1])
    together.advance([1], [2])
    for row, actions in enumerate(([0], [1, 2])):
        alone = Rollouts(tokenizer, 1, temperature=0.0, guidance=guidance)
        alone.begin([0], first[row])
        for action in actions:
            alone.advance([0], [action])
        assert torch.equal(alone.codes[0], together.codes[row])


def test_worlds_are_truncated_and_begin_anew(tokenizer: Tokenizer, data: Path) -> None:
    seen: list[tuple[int, int]] = []

    def reward(before: np.ndarray, action: int, after: np.ndarray) -> float:
        seen.append((before.shape[0], action))
        return float(after.mean())

    made = vector(tokenizer, data, 2, max_steps=2, given=3, reward=reward)
    made.reset(seed=0)
    over, rewards = [], []
    for _ in range(4):
        frames, gained, terminated, truncated, _ = made.step(np.array([0, 2]))
        over.append(truncated.tolist())
        rewards.append(gained.tolist())
        assert not terminated.any()
    assert over == [[False, False], [True, True], [False, False], [False, False]]
    assert rewards[2] == [0.0, 0.0], "the step that begins anew takes no action"
    assert rewards[3] == pytest.approx([frame.mean() for frame in frames])
    assert seen == [(16, 0), (16, 2)] * 3


def test_a_clip_of_ones_own(tokenizer: Tokenizer) -> None:
    clips = [videos.walk(["left"] * 5), videos.walk(["right"] * 2)]
    made = world(tokenizer, clips, given=4)
    made.reset(seed=0)  # the second one is too short
    frame, _ = made.reset(options={"clip": clips[1]})
    (codes,) = tokenizer.encode(torch.from_numpy(np.ascontiguousarray(clips[1].transpose(3, 0, 1, 2))))
    decoded = tokenizer.modality.to_stored(tokenizer.decode_signals(codes))[0, :, -1]
    assert np.array_equal(frame, decoded.movedim(0, -1).numpy())
    assert made.render() is None


def test_memory_does_not_grow(tokenizer: Tokenizer, data: Path) -> None:
    made = vector(tokenizer, data, 1, given=2)
    made.reset(seed=0)

    def size() -> int:
        rollouts = made._rollouts
        return sum(layer.numel() for layer in rollouts._past) + rollouts.codes.numel()

    before = size()
    for _ in range(5):
        made.step(np.array([1]))
    assert size() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"given": 0}, "at least 1 frame"),
        ({"given": 20}, "at least 20 frames"),
        ({"num": 0}, "at least 1 world"),
        ({"max_steps": 0}, "1 step"),
        ({"guidance": -1.0}, "guidance from 0 to"),
        ({"guidance": 1e300}, "guidance from 0 to"),
    ],
)
def test_settings_out_of_range(
    tokenizer: Tokenizer, data: Path, settings: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        vector(tokenizer, data, **settings).reset(seed=0)


def test_bad_steps_and_runs(tokenizer: Tokenizer, data: Path, trained: Path) -> None:
    made = vector(tokenizer, data, 2, given=3)
    with pytest.raises(InputError, match="call reset"):
        made.step(np.array([0, 0]))
    with pytest.raises(InputError, match="one seed"):
        made.reset(seed=[0, 1])
    made.reset(seed=0)
    for actions in ([0], [0, 99], [-1, 0]):
        with pytest.raises(InputError, match="2 actions from 0 to 2"):
            made.step(np.array(actions))
    with pytest.raises(InputError, match="run over clips"):
        world(str(trained), data)
    with pytest.raises(InputError, match="rgb_array"):
        world(tokenizer, data, render_mode="human")
    with pytest.raises(InputError, match="at least one clip"):
        world(tokenizer, [])


def test_guidance_changes_what_is_drawn(tokenizer: Tokenizer) -> None:
    def codes(guidance: float) -> torch.Tensor:
        rollouts = Rollouts(tokenizer, 8, guidance=guidance)
        rollouts.begin(range(8), np.ascontiguousarray(videos.walk(["left"]).transpose(3, 0, 1, 2)))
        rollouts.advance(range(8), [0] * 8, torch.Generator().manual_seed(0))
        return rollouts.codes

    assert torch.equal(codes(3.0), codes(3.0))
    assert not torch.equal(codes(1.0), codes(3.0))
