"""The sum over swapped codes against exact enumeration."""

import itertools
import math

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.evaluation.bounds import measure
from smalti.likelihoods.levels import from_levels
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior
from smalti.quantizers.vq import VectorQuantizer, VectorQuantizerConfig
from smalti.studies.likelihood.approximation import next_nearest, with_swaps

CODES = 4


@pytest.fixture
def model() -> VQVAE:
    torch.manual_seed(0)
    quantizer = VectorQuantizerConfig(num_codebooks=1, num_codes=CODES, code_dim=3)
    model = VQVAEConfig.tiny().model_copy(update={"quantizer": quantizer}).build(SignalSpec(1, (4, 8)))
    model.loss(Batch(signals(8, seed=5)))
    return model.eval()


def signals(num: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return from_levels(torch.randint(256, (num, 1, 4, 8), generator=generator), 256)


def neighbours(model: VQVAE, x: torch.Tensor, num: int) -> torch.Tensor:
    assert isinstance(model.quantizer, VectorQuantizer)
    return next_nearest(model.encoder(x), model.quantizer, num)


def unigram(model: VQVAE) -> UnigramPrior:
    prior = UnigramPrior(CODES, 1, model.grid)
    prior.count(model.encode(signals(8, seed=5)))
    return prior


def terms(model: VQVAE, prior, x: torch.Tensor, grids: list[torch.Tensor]) -> torch.Tensor:
    """ln p(x|z) + ln p(z) of every grid z, one by one."""
    return torch.stack(
        [
            model.likelihood(codes).log_prob(x).sum().double() + prior.log_prob(codes)[0].double()
            for codes in grids
        ]
    )


@torch.no_grad()
def test_against_the_terms_one_by_one(model):
    x, others = signals(3), neighbours(model, signals(3), 2)
    priors = [UniformPrior(CODES, 1, model.grid), unigram(model)]
    batches = [Batch(x[:2]), Batch(x[2:])]
    result = with_swaps(model, priors, batches, lambda signal: neighbours(model, signal, 2))
    for prior in priors:
        for item in range(3):
            codes = model.encode(x[[item]])
            for swaps in range(3):
                grids = [codes]
                for order, place in itertools.product(range(swaps), range(codes.numel())):
                    grid = codes.clone()
                    grid.view(-1)[place] = others[order, item].flatten()[place]
                    grids.append(grid)
                bound = terms(model, prior, x[[item]], grids).logsumexp(0)
                bits = -bound.item() / (32 * math.log(2))
                assert result[prior.name][item, swaps].item() == pytest.approx(bits, rel=1e-6)


def test_equal_neighbours_are_refused(model):
    x = signals(1)
    for wrong in (
        lambda s: model.encode(s).unsqueeze(0),
        lambda s: neighbours(model, s, 1).repeat(2, 1, 1, 1, 1),
    ):
        with pytest.raises(InputError, match="differ from the code and from each other"):
            with_swaps(model, [unigram(model)], [Batch(x)], wrong)


@torch.no_grad()
def test_every_sum_is_a_bound_and_more_terms_are_tighter(model):
    x, prior = signals(1), unigram(model)
    swapped = with_swaps(model, [prior], [Batch(x)], lambda signal: neighbours(model, signal, CODES - 1))
    bits = swapped["unigram"][0].tolist()
    everything = [
        torch.tensor(codes).view(1, 1, *model.grid)
        for codes in itertools.product(range(CODES), repeat=math.prod(model.grid))
    ]
    exact = -terms(model, prior, x, everything).logsumexp(0).item() / (32 * math.log(2))
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > bits[-1] >= exact - 1e-9
    single = measure(model, Batch(x), [prior]).bounds["unigram"]
    assert bits[0] == pytest.approx((-single.log_prob / (32 * math.log(2))).item(), rel=1e-6)


@torch.no_grad()
def test_neighbours_are_the_next_nearest(model):
    x = signals(3)
    latents = model.encoder(x)
    codes, others = model.encode(x), neighbours(model, x, CODES - 1)
    tokens = latents.movedim(1, -1).flatten(0, -2).numpy()
    distances = ((tokens[:, None] - model.quantizer.codebook.codes[0].numpy()) ** 2).sum(-1)
    order = torch.cat([codes.unsqueeze(0), others]).flatten(1)
    assert torch.equal(order, torch.from_numpy(distances.argsort(1).T.copy()))
    with pytest.raises(InputError, match="expected from 1 to 3 neighbours"):
        neighbours(model, x, CODES)
