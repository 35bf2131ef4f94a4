"""Clips frame by frame: actions, given beginnings, and what lies beyond the network's reach."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from smalti.autoregressive.frame_pixelcnn import (
    FramePixelCNN,
    FramePixelCNNConfig,
    hide_actions,
    with_noise,
)
from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.sampling import sample, sample_naive
from smalti.conditioners.embedding import EmbeddingConfig
from smalti.conditioners.field import UpsampledFieldConfig
from smalti.core.conditions import Conditions, DenseField, PerFrame
from smalti.core.errors import InputError
from smalti.priors.autoregressive import LearnedPrior

NUM_CODES, NUM_ACTIONS = 5, 3
GRID = (5, 2, 3)


def build(num_codebooks: int = 2, num_actions: int = NUM_ACTIONS, **settings: object) -> FramePixelCNN:
    torch.manual_seed(0)
    config = FramePixelCNNConfig.tiny().model_copy(update=settings)
    network = config.build(NUM_CODES, num_codebooks, {"action": num_actions}).double().eval()
    torch.nn.init.normal_(network.nothing)
    return network


def clips(batch_size: int, num_codebooks: int = 2, grid: tuple[int, ...] = GRID) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(NUM_CODES, (batch_size, num_codebooks, *grid), generator=generator)


def some_actions(batch_size: int, frames: int = GRID[0]) -> Conditions:
    generator = torch.Generator().manual_seed(2)
    return Conditions(action=torch.randint(-1, NUM_ACTIONS, (batch_size, frames), generator=generator))


@pytest.mark.parametrize("first", [0, 1, 3])
@torch.no_grad()
def test_steps_after_given_frames_give_the_logits_of_the_whole(first):
    network, codes, conditions = build(), clips(2), some_actions(2)
    whole = network(codes, conditions).flatten(2, -2).transpose(1, 2).flatten(1, 2)
    symbols = codes.flatten(2).transpose(1, 2).flatten(1)
    state, begin = network.start(2, GRID, conditions), first * codes[0, :, 0].numel()
    if first:
        network.skip(codes[:, :, :first], state)
    for i in range(begin, symbols.shape[1]):
        logits = network.step(symbols[:, i - 1] if i else None, state)
        torch.testing.assert_close(logits, whole[:, i], rtol=0, atol=1e-9)
    with pytest.raises(InputError, match="after the last symbol"):
        network.step(symbols[:, -1], state)


def test_cached_and_naive_rollouts_draw_the_same():
    network, codes, conditions = build(), clips(3), some_actions(3)
    fast, slow = (
        loop(
            network,
            3,
            GRID,
            conditions,
            generator=torch.Generator().manual_seed(7),
            given=codes[:, :, :2],
        )
        for loop in (sample, sample_naive)
    )
    assert torch.equal(fast, slow)
    assert torch.equal(fast[:, :, :2], codes[:, :, :2])
    assert not torch.equal(fast[:, :, 2:], codes[:, :, 2:])


@torch.no_grad()
def test_an_action_changes_the_frames_after_it_and_none_before():
    network, codes = build(), clips(1)
    actions = torch.zeros(1, GRID[0], dtype=torch.int64)
    plain = network(codes, Conditions(action=actions))
    for at in range(GRID[0]):
        other = actions.clone()
        other[0, at] = 1
        differs = (network(codes, Conditions(action=other)) - plain).abs().amax((0, 1, 3, 4, 5)) > 1e-12
        # It reaches as many frames as the memory has layers, and one more.
        assert differs.tolist() == [at < frame <= at + network.reach for frame in range(GRID[0])]


@torch.no_grad()
def test_actions_that_are_not_given_are_those_of_no_conditions():
    network, codes = build(), clips(2)
    unknown = Conditions(action=torch.full((2, GRID[0]), -1))
    assert torch.equal(network(codes, unknown), network(codes))
    deaf = build(num_actions=0)
    assert torch.equal(deaf(codes, some_actions(2)), deaf(codes))


@pytest.mark.parametrize(
    "actions", [torch.zeros(2, 4), torch.zeros(1, 5), torch.full((2, 5), 3), torch.full((2, 5), -2)]
)
def test_actions_that_do_not_fit_are_refused(actions):
    network = build()
    conditions = Conditions(action=actions.long())
    for call in (lambda: network(clips(2), conditions), lambda: network.start(2, GRID, conditions)):
        with pytest.raises(InputError, match=r"expected actions .* received"):
            call()


@pytest.mark.parametrize("shape", [(2, 2, 5, 2, 3), (2, 2, 2, 3, 2)])
def test_given_frames_that_do_not_fit_are_refused(shape):
    network = build()
    with pytest.raises(InputError, match=r"first frames.*received"):
        network.skip(torch.zeros(shape, dtype=torch.int64), network.start(2, GRID))
    state = network.start(2, GRID)
    network.step(None, state)
    with pytest.raises(InputError, match="fresh state"):
        network.skip(clips(2)[:, :, :1], state)


@pytest.mark.parametrize("grid", [(4, 4), (3,), (1, 0, 2)])
def test_grids_of_other_than_frames_are_refused(grid):
    with pytest.raises(InputError, match="a grid of frames, rows and columns"):
        build().start(1, grid)


def test_training_hides_actions_of_whole_clips_and_of_beginnings():
    actions = torch.zeros(4000, 8, dtype=torch.int64)
    torch.manual_seed(0)
    hidden = hide_actions(actions, 0.5, NUM_ACTIONS) == NUM_ACTIONS
    number = hidden.sum(1)
    is_beginning = (hidden[:, 1:] <= hidden[:, :-1]).all(1)
    is_end = (hidden[:, 1:] >= hidden[:, :-1]).all(1)
    assert (is_beginning | is_end).all()
    # A quarter all, and an end that begins with the first frame; of each other kind an eighth of an eighth.
    assert abs((number == 8).float().mean().item() - 0.25 - 1 / 64) < 0.03
    for count in range(1, 8):
        for kind in (is_beginning, is_end):
            assert abs(((number == count) & kind).float().mean().item() - 1 / 64) < 0.008
    assert torch.equal(hide_actions(actions, 0.0, NUM_ACTIONS), actions)


def test_noise_replaces_the_share_of_codes_that_it_says():
    codes = torch.zeros(8, 1, 10, 10, 10, dtype=torch.int64)
    torch.manual_seed(0)
    # One of five of the others is the same.
    assert abs((with_noise(codes, 0.2, 5) != 0).float().mean().item() - 0.16) < 0.015
    assert with_noise(codes, 0.0, 5) is codes


def test_it_learns_what_actions_do():
    """Frames of one code that goes up by the action: with the true actions nothing is left to guess."""
    torch.manual_seed(0)
    network = FramePixelCNNConfig.tiny().build(NUM_CODES, conditions={"action": NUM_ACTIONS})
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)

    def walks(num: int) -> tuple[torch.Tensor, torch.Tensor]:
        actions = torch.randint(NUM_ACTIONS, (num, 5))
        first = torch.randint(NUM_CODES, (num, 1))
        steps = torch.cat([first, actions[:, :-1]], 1).cumsum(1) % NUM_CODES
        return steps.view(num, 1, 5, 1, 1).expand(-1, -1, -1, 2, 2), actions

    def nats(actions: torch.Tensor, codes: torch.Tensor) -> float:
        """Of a frame after the first, of which three kinds are possible."""
        with torch.no_grad():
            logits = network(codes, Conditions(action=actions))[:, :, 1:]
        return 4 * cross_entropy(logits.flatten(0, -2), codes[:, :, 1:].flatten()).item()

    for _ in range(300):
        codes, actions = walks(32)
        loss = cross_entropy(network(codes, Conditions(action=actions)).flatten(0, -2), codes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    codes, actions = walks(200)
    assert nats(actions, codes) < 0.2
    assert nats(actions.roll(1, 0), codes) > math.log(3)
    assert nats(torch.full_like(actions, -1), codes) == pytest.approx(math.log(3), abs=0.2)


def test_a_frame_reads_its_own_value_and_its_part_of_a_field():
    """The logits of a frame change with its own values, and with those of no other frame."""
    conditioners = {"weather": EmbeddingConfig(num_ids=4), "depth": UpsampledFieldConfig(dim=2)}
    frame = GatedPixelCNNConfig.tiny().model_copy(update={"conditioners": conditioners})
    network = build(frame=frame)
    codes, grid = clips(1, grid=(4, 2, 2)), (4, 2, 2)
    weather, depth = torch.tensor([[0, 1, 2, 3]]), torch.randn(1, 2, 2, 1, 1)

    @torch.no_grad()
    def logits(weather: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        given = Conditions(weather=PerFrame(weather), depth=DenseField(depth), **some_actions(1, 4))
        return network(codes, given).squeeze(0).transpose(0, 1).flatten(1)

    whole = logits(weather, depth)
    for frame_number in range(4):
        other = weather.clone()
        other[0, frame_number] = (other[0, frame_number] + 1) % 4
        changed = (logits(other, depth) != whole).any(1)
        assert changed.tolist() == [number == frame_number for number in range(4)]
    deeper = depth.clone()
    deeper[:, :, 1] += 1
    assert (logits(weather, deeper) != whole).any(1).tolist() == [False, False, True, True]
    with pytest.raises(InputError, match="weather"):
        network.start(1, grid, Conditions(weather=PerFrame(weather[:, :3])))


@pytest.mark.parametrize("name", ["action", "local"])
def test_conditions_of_the_memory_have_no_conditioner(name):
    frame = GatedPixelCNNConfig(conditioners={name: EmbeddingConfig(num_ids=3)})
    with pytest.raises(InputError, match=name):
        build(frame=frame)


def test_actions_that_are_one_per_code_of_several_frames_do_not_hinder_a_long_clip():
    """A prior without actions scores clips that have them, whatever their number."""
    prior = LearnedPrior(build(num_actions=0), (2, 2, 3))
    codes = clips(2, grid=(4, 2, 3))
    with torch.no_grad():
        assert torch.equal(prior.log_prob(codes, some_actions(2, 8)), prior.log_prob(codes))
