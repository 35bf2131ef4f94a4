"""The encoder of code grids: codes are names, tables of several codebooks are summed, sizes are checked."""

import pytest
import torch

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.encoders.code_grid import CodeGridEncoder, CodeGridEncoderConfig
from smalti.likelihoods.levels import from_levels

SPEC = SignalSpec(2, (6, 6), levels=16)


def encoder(spec: SignalSpec = SPEC) -> CodeGridEncoder:
    torch.manual_seed(0)
    return CodeGridEncoderConfig.tiny().build(spec, 5)


def codes(num: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(16, (num, 2, 6, 6), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_whole_grid_becomes_one_place():
    layer = encoder()
    assert layer.grid((6, 6)) == (1, 1)
    assert layer(from_levels(codes(), 16)).shape == (3, 5, 1, 1)


@torch.no_grad()
def test_what_a_code_means_is_in_its_tables_alone():
    """Codes under other names, and tables whose rows moved with them, give the same latents."""
    layer, grids = encoder(), codes()
    before = layer(from_levels(grids, 16))
    names = torch.randperm(16)
    for table in layer.embeddings:
        weight = table.weight.clone()
        table.weight[names] = weight
    torch.testing.assert_close(layer(from_levels(names[grids], 16)), before)
    assert not torch.allclose(layer(from_levels(grids, 16)), before)


def test_every_table_learns():
    layer = encoder()
    layer(from_levels(codes(), 16)).sum().backward()
    assert all(table.weight.grad.abs().sum() > 0 for table in layer.embeddings)


def test_a_grid_that_the_strides_do_not_divide_is_refused():
    with pytest.raises(InputError, match="multiples of 6"):
        encoder().grid((8, 6))
