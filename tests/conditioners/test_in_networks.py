"""A sequence and a dense condition reach a transformer prior and a conv decoder, which know neither."""

from collections.abc import Mapping

import pytest
import torch

from smalti.autoregressive.sampling import sample, sample_naive
from smalti.autoregressive.transformer import Transformer
from smalti.conditioners.cross_attention import CrossAttention
from smalti.conditioners.embedding import Embedding
from smalti.conditioners.field import UpsampledField
from smalti.conditioners.projection import Projection
from smalti.core.conditioners import Conditioner
from smalti.core.conditions import Batch, Conditions, DenseField, PerFrame, PerItem, TokenSequence
from smalti.decoders.conv import ConvDecoder
from smalti.priors.autoregressive import LearnedPrior

CHANNELS, BATCH, GRID, NUM_CODES = 8, 4, (4, 2), 5
NAMES = ("text", "local", "mood", "throttle")


def conditioners() -> Mapping[str, Conditioner]:
    return {
        "text": CrossAttention(CHANNELS, num_ids=7, dim=6, heads=2),
        "local": UpsampledField(CHANNELS, dim=3),
        "mood": Embedding(CHANNELS, num_ids=4),
        "throttle": Projection(CHANNELS, dim=2),
    }


def given() -> Conditions:
    torch.manual_seed(2)
    return Conditions(
        text=TokenSequence.with_lengths(torch.randint(7, (BATCH, 5)), torch.tensor([5, 3, 1, 4])),
        local=DenseField(torch.randn(BATCH, 3, 2, 1)),
        mood=PerItem(torch.tensor([0, 3, 1, 2])),
        throttle=PerFrame(torch.randn(BATCH, GRID[0], 2)),
    )


def loud(network: torch.nn.Module) -> None:
    """Weights so large that a condition's effect cannot fade below what a test sees."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)


def transformer(num_codebooks: int = 1) -> Transformer:
    torch.manual_seed(0)
    network = Transformer(
        NUM_CODES, num_codebooks, channels=CHANNELS, layers=2, heads=2, conditioners=conditioners()
    )
    loud(network)
    return network.double().eval()


def decoder() -> ConvDecoder:
    torch.manual_seed(0)
    made = ConvDecoder(
        3, 2, channels=8, residual_channels=4, residual_blocks=1, strides=(2,), conditioners=conditioners()
    )
    loud(made)
    return made.double().eval()


def codes(num_codebooks: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(NUM_CODES, (BATCH, num_codebooks, *GRID), generator=generator)


@torch.no_grad()
def outputs(conditions: Conditions) -> dict[str, torch.Tensor]:
    """Outputs of a prior and a decoder under conditions that passed through a batch."""
    moved = conditions.to(torch.device("cpu")).part(slice(1, None)).part([2, 1, 0])
    batch = Batch(codes()[1:], moved)
    latents = torch.randn(3, 3, *GRID, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return {
        "prior": LearnedPrior(transformer(), GRID).log_prob(batch.data, batch.conditions),
        "decoder": decoder()(latents, batch.conditions),
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_condition_reaches_both_networks(name):
    plain = outputs(given())
    without = outputs(given().only(*(other for other in NAMES if other != name)))
    for network, output in plain.items():
        assert ((output - without[network]).abs().flatten(1 if output.ndim > 1 else 0) > 1e-6).any(-1).all()


def test_the_mask_of_a_sequence_reaches_both_networks():
    conditions = given()
    unmasked = Conditions(**{**conditions, "text": TokenSequence(conditions["text"].data)})
    plain, other = outputs(conditions), outputs(unmasked)
    for network, output in plain.items():
        assert (output - other[network]).abs().max() > 1e-6


@torch.no_grad()
def test_an_item_has_its_own_conditions():
    network, conditions = transformer(), given()
    together = network(codes(), conditions)
    for item in range(BATCH):
        alone = network(codes()[[item]], conditions.part([item]))
        torch.testing.assert_close(alone, together[[item]])


@pytest.mark.parametrize("num_codebooks", [1, 2])
@torch.no_grad()
def test_the_cached_steps_give_the_logits_of_the_whole(num_codebooks):
    network, conditions, grids = transformer(num_codebooks), given(), codes(num_codebooks)
    whole = network(grids, conditions).flatten(2, -2).transpose(1, 2).flatten(1, 2)
    state, previous = network.start(BATCH, GRID, conditions), None
    for symbol, expected in zip(
        grids.flatten(2).transpose(1, 2).flatten(1).unbind(1), whole.unbind(1), strict=True
    ):
        torch.testing.assert_close(network.step(previous, state), expected)
        previous = symbol


def test_samples_are_those_of_the_plain_loop():
    network, conditions = transformer(2), given()
    drawn = [
        draw(network, BATCH, GRID, conditions, generator=torch.Generator().manual_seed(5))
        for draw in (sample, sample_naive)
    ]
    assert torch.equal(*drawn)


@torch.no_grad()
def test_a_network_with_conditioners_is_not_compiled():
    network = transformer().float()
    assert network.kernel(network.start(1, (64, 2), None)) is None


@torch.no_grad()
def test_symbols_depend_only_on_those_before():
    network, conditions, grids = transformer(2), given(), codes(2)
    base = network(grids, conditions).flatten(2, -2).transpose(1, 2).flatten(1, 2)
    for symbol in range(grids[0].numel()):
        position, codebook = divmod(symbol, 2)
        other = grids.clone()
        flat = other.flatten(2)
        flat[:, codebook, position] = (flat[:, codebook, position] + 1) % NUM_CODES
        changed = network(flat.view_as(other), conditions).flatten(2, -2).transpose(1, 2).flatten(1, 2)
        assert torch.equal(changed[:, : symbol + 1], base[:, : symbol + 1])


def test_every_parameter_of_the_conditioners_learns():
    network = transformer().float().train()
    network(codes(), given()).square().sum().backward()
    names = [name for name, parameter in network.conditioners.named_parameters() if parameter.grad is None]
    # Only a hidden or absent vector uses it.
    assert set(names) <= {"by_name.throttle.absent"}
