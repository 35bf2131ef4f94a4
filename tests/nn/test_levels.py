"""Codes of several grids in one."""

import pytest
import torch

from smalti.nn.levels import Levels


def codes(levels: Levels, coarsest: tuple[int, ...], batch_size: int = 2) -> list[torch.Tensor]:
    return [torch.randint(9, (batch_size, levels.num_codebooks, *grid)) for grid in levels.grids(coarsest)]


@pytest.mark.parametrize(
    ("num_codebooks", "factors", "coarsest"),
    [(1, (2,), (2, 3)), (2, (2, 3), (1, 2)), (3, (4,), (5,)), (1, (2, 2), (1, 2, 3)), (2, (), (3, 3))],
)
def test_unpacking_is_the_inverse_of_packing(num_codebooks, factors, coarsest):
    levels = Levels(num_codebooks, factors, len(coarsest))
    each = codes(levels, coarsest)
    packed = levels.pack(each)
    assert packed.shape == (2, sum(levels.sizes), *coarsest)
    assert all(map(torch.equal, levels.unpack(packed), each))
    in_order = packed.flatten(2).transpose(1, 2).flatten(1)[:, levels.order(coarsest)]
    one_by_one = [level.flatten(2).transpose(1, 2).flatten(1) for level in each]
    assert torch.equal(in_order, torch.cat(one_by_one, 1))


def test_a_coarse_place_holds_its_block_of_fine_ones():
    levels = Levels(1, (2,))
    fine = torch.arange(16).view(1, 1, 4, 4)
    packed = levels.pack([torch.full((1, 1, 2, 2), 99), fine])
    assert packed[0, :, 0, 1].tolist() == [99, 2, 3, 6, 7]
    assert packed[0, :, 1, 0].tolist() == [99, 8, 9, 12, 13]


def test_more_axes_go_with_their_places():
    levels = Levels(2, (2,))
    logits = [torch.rand(1, 2, *grid, 5) for grid in levels.grids((2, 2))]
    packed = levels.pack(logits)
    assert packed.shape == (1, 10, 2, 2, 5)
    for last in range(5):
        assert torch.equal(packed[..., last], levels.pack([each[..., last] for each in logits]))
