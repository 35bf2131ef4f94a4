"""Holes of grids that an autoregressive network fills, against a loop of full forward passes."""

from __future__ import annotations

import pytest
import torch

from smalti.autoregressive.hierarchy import HierarchicalPixelCNNConfig
from smalti.autoregressive.pixelcnn import GatedPixelCNNConfig
from smalti.autoregressive.sampling import fill
from smalti.core.errors import InputError
from smalti.core.priors import AutoregressiveNetwork
from smalti.priors.autoregressive import LearnedPrior

NUM_CODES, GRID = 7, (4, 4)
NETWORKS = {
    "one codebook": lambda: GatedPixelCNNConfig.tiny().build(NUM_CODES),
    "two codebooks": lambda: GatedPixelCNNConfig.tiny().build(NUM_CODES, 2),
    "levels": lambda: HierarchicalPixelCNNConfig.tiny().build(NUM_CODES, 5),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> AutoregressiveNetwork:
    """An untrained network with clear preferences."""
    torch.manual_seed(0)
    made = NETWORKS[request.param]().eval()
    for parameter in made.parameters():
        parameter.data += torch.randn_like(parameter) / 2
    return made


@torch.no_grad()
def test_each_code_is_the_most_probable_given_those_before_it(network: AutoregressiveNetwork) -> None:
    shape = (3, network.num_codebooks, *GRID)
    codes = torch.randint(NUM_CODES, shape, generator=torch.Generator().manual_seed(1))
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.4
    expected = codes.where(keep, 0)
    order = network.order(GRID)
    flat = expected.flatten(2)
    for place in range(flat[0].numel()) if order is None else order.tolist():
        position, codebook = divmod(place, network.num_codebooks)
        best = network(expected).flatten(2, -2)[:, codebook, position].argmax(1)
        kept = keep.flatten(2)[:, codebook, position]
        flat[:, codebook, position] = flat[:, codebook, position].where(kept, best)
    drawn = fill(network, codes.where(keep, -1), keep, temperature=0.0)
    assert torch.equal(drawn, expected)
    assert not torch.equal(drawn, fill(network, codes, torch.zeros_like(keep), temperature=0.0))


def test_a_kept_beginning_is_continued(network: AutoregressiveNetwork) -> None:
    if network.order(GRID) is not None:
        pytest.skip("levels have no beginning")
    codes = torch.ones(2, network.num_codebooks, *GRID, dtype=torch.int64)
    keep = torch.zeros_like(codes, dtype=torch.bool)
    keep[:, :, :2] = True
    prior = LearnedPrior(network, GRID)
    assert torch.equal(
        prior.inpaint(codes, keep, temperature=0.0), prior.sample(2, temperature=0.0, given=codes[:, :, :2])
    )


def test_codes_of_another_number_of_codebooks(network: AutoregressiveNetwork) -> None:
    codes = torch.zeros(2, network.num_codebooks + 1, *GRID, dtype=torch.int64)
    with pytest.raises(InputError, match="codebooks"):
        LearnedPrior(network, GRID).inpaint(codes, torch.zeros_like(codes, dtype=torch.bool))
