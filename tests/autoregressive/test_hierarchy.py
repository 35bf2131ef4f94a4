"""Networks of several levels; what every network has to do is in tests/conformance."""

import pytest
import torch

from smalti.autoregressive.hierarchy import HierarchicalPixelCNN, HierarchicalPixelCNNConfig
from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.sampling import sample, sample_naive
from smalti.core.conditions import Conditions, PerItem
from smalti.core.errors import InputError

LEVEL = GatedPixelCNNConfig.tiny()
THREE = HierarchicalPixelCNNConfig(
    coarsest=LEVEL, finer=LEVEL, factors=(2, 2), condition_channels=8, condition_blocks=1
)


def build(config: HierarchicalPixelCNNConfig = THREE, num_codebooks: int = 21) -> HierarchicalPixelCNN:
    torch.manual_seed(0)
    return config.build(5, num_codebooks).double().eval()


@torch.no_grad()
def test_three_levels_step_as_they_go():
    network, codes = build(), torch.randint(5, (2, 21, 2, 1))
    order = network.order((2, 1))
    whole, symbols = (
        each.flatten(2, 3).transpose(1, 2).flatten(1, 2)[:, order] for each in (network(codes), codes)
    )
    state = network.start(2, (2, 1))
    for i in range(symbols.shape[1]):
        logits = network.step(symbols[:, i - 1] if i else None, state)
        torch.testing.assert_close(logits, whole[:, i], rtol=0, atol=1e-9)


def test_three_levels_draw_as_the_naive_loop_does():
    network = build()
    fast, slow = (
        loop(network, 2, (1, 2), generator=torch.Generator().manual_seed(3))
        for loop in (sample, sample_naive)
    )
    assert torch.equal(fast, slow)


@torch.no_grad()
def test_a_level_sees_those_above_it_whole_and_none_below():
    network, codes = build(), torch.randint(5, (1, 21, 2, 2))
    parts = network.layout.unpack(codes)
    logits = network(codes)
    for level in range(3):
        changed = [part.clone() for part in parts]
        # The last place of a level, which nothing of it comes after.
        changed[level][..., -1, -1] = (changed[level][..., -1, -1] + 1) % 5
        differs = (network(network.layout.pack(changed)) - logits).abs().amax(-1) > 1e-12
        by_level = [bool(part.any()) for part in network.layout.unpack(differs.long())]
        assert by_level == [other > level for other in range(3)]


@pytest.mark.parametrize(
    ("settings", "num_codebooks"), [({}, 20), ({"factors": (2,)}, 21), ({"factors": (3, 2)}, 21)]
)
def test_levels_that_do_not_fit_are_refused(settings, num_codebooks):
    with pytest.raises(InputError, match=r"set network\.factors"):
        build(THREE.model_copy(update=settings), num_codebooks)


def test_a_beginning_is_refused():
    with pytest.raises(InputError, match="draws level by level"):
        sample(build(), 1, (2, 1), given=torch.zeros(1, 21, 1, 1, dtype=torch.int64))


@pytest.mark.parametrize("grid", [(3,), (1, 2, 3), (0, 2)])
def test_other_grids_are_refused(grid):
    with pytest.raises(InputError, match="a grid of rows and columns"):
        build().start(1, grid)


@torch.no_grad()
def test_every_condition_of_an_item_reaches_the_inner_networks(monkeypatch):
    network = HierarchicalPixelCNNConfig.tiny().build(4, 5).eval()
    seen = []
    for inner in network.networks:
        whole, start = inner.forward, inner.start
        monkeypatch.setattr(inner, "forward", lambda x, c, _f=whole: (seen.append(set(c)), _f(x, c))[1])
        monkeypatch.setattr(inner, "start", lambda n, g, c, _f=start: (seen.append(set(c)), _f(n, g, c))[1])
    given = Conditions(mood=PerItem(torch.tensor([1, 2])))
    network(torch.zeros(2, 5, *(2, 2), dtype=torch.int64), given)
    sample(network, 2, (2, 2), given)
    assert seen
    assert all("mood" in names for names in seen)


def test_the_condition_that_levels_supply_has_no_conditioner():
    level = {"conditioners": {"local": {"kind": "upsampled_field", "dim": 2}}}
    for key in ("coarsest", "finer"):
        with pytest.raises(InputError, match="'local'"):
            HierarchicalPixelCNNConfig.model_validate({key: level}).build(4, 5)
