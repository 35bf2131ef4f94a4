"""The judge of actions, and what is measured by frame."""

import numpy as np
import pytest
import torch

from smalti.autoregressive.frame_pixelcnn import FramePixelCNNConfig
from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.data.store import Store
from smalti.data.store_layout import Decoded
from smalti.modalities.image.pixels import to_model
from smalti.studies.worlds.judges import (
    frame_nats,
    psnr_by_frame,
    sharpness_by_frame,
    train_action_judge,
    windows,
)
from tests import videos


def store(path, walks):
    items = [
        Decoded(str(number), videos.walk(actions).transpose(3, 0, 1, 2), None, actions)
        for number, actions in enumerate(walks)
    ]
    return Store.write(path, items, (3, None, 16, 16), np.uint8)


def test_a_judge_learns_to_tell_actions(tmp_path):
    training, held_out = videos.random_walks(30, 12), videos.random_walks(4, 12, seed=1)
    judge = train_action_judge(store(tmp_path / "train", training), 100, lambda frames: frames)
    clips = to_model(torch.from_numpy(np.stack([videos.walk(walk) for walk in held_out])).movedim(-1, 1))
    log_probs = judge.log_probs(clips)
    assert log_probs.shape == (4, 11, 3)
    torch.testing.assert_close(log_probs.exp().sum(2), torch.ones(4, 11))
    actions = torch.tensor([[sorted(videos.STEPS).index(name) for name in walk] for walk in held_out])
    assert (log_probs.argmax(2) == actions[:, :-1]).float().mean() > 0.9


def test_a_judge_of_one_action_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least two different actions"):
        train_action_judge(store(tmp_path / "train", [["left"] * 5] * 2), 1, lambda frames: frames)


def test_windows_are_stretches_of_one_clip(tmp_path):
    walks = [["left", "right"] * 4, ["right"] * 3]
    cut = list(windows(store(tmp_path / "train", walks), 5, 2))
    assert [clip for clip, _, _ in cut] == [0, 0]
    assert [actions.tolist() for _, _, actions in cut] == [[0, 1, 0, 1, 0]] * 2
    np.testing.assert_array_equal(cut[1][1].transpose(1, 2, 3, 0), videos.walk(walks[0])[2:7])


def test_psnr_and_sharpness_by_frame():
    real = torch.zeros(2, 3, 4, 8, 8)
    other = real.clone()
    other[:, :, 1] = 0.2
    other[0, :, 2] = 0.2
    psnr = psnr_by_frame(real, other)
    assert psnr.tolist() == pytest.approx([100, 20, 20 + 10 * np.log10(2), 100])
    stripes = torch.ones(1, 1, 2, 4, 4)
    stripes[:, :, 1, ::2] = -1
    # A step of 2 in [-1, 1] is one of 1; of two directions one has it everywhere.
    assert sharpness_by_frame(stripes).tolist() == pytest.approx([0, 0.5])


def test_nats_of_a_frame_are_those_of_its_codes():
    torch.manual_seed(0)
    network = FramePixelCNNConfig.tiny().build(5, 2, {"action": 3}).eval()
    codes, actions = torch.randint(5, (2, 2, 4, 3, 2)), torch.randint(-1, 3, (2, 4))
    nats = frame_nats(network, codes, actions)
    assert nats.shape == (2, 4)
    log_probs = network(codes, Conditions(action=actions)).log_softmax(-1)
    expected = -log_probs.gather(-1, codes.unsqueeze(-1)).squeeze(-1)[1, :, 2].sum()
    torch.testing.assert_close(nats[1, 2], expected)
