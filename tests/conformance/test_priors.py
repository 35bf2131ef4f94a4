"""Laws of every prior. A new one is a line in `CASES`."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from smalti.coding.streams import Decoder, Encoder
from smalti.core.conditions import Batch, Conditions, PerItem
from smalti.core.errors import InputError
from smalti.core.priors import DensityPrior, Prior, TrainablePrior
from smalti.priors.autoregressive import LearnedPrior
from smalti.priors.base import PRIORS
from smalti.priors.labelled import LabelledPrior
from smalti.priors.masked import MaskedPrior
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior
from tests.conformance.classes import concrete
from tests.examples import executed
from tests.priors.test_priors import GRID, NUM_CLASSES, NUM_CODES, all_grids, learned, same_label

EXAMPLE = executed("own_prior", PRIORS)


@dataclass(frozen=True)
class Case:
    """Recipe for building a prior, in evaluation mode, and its abilities.

    Attributes:
        build: `(num_codebooks, num_labels) -> Prior`, over codes of `GRID`.
        labels: the numbers of labels that it can be built with.
        has_mode: temperature 0 draws the same grid with any seed.
        draws_other_grids: `sample_grids` takes another size and a first part.
        refuses_conditions: `sample` refuses what it does not read.
    """

    build: Callable[[int, int], Prior]
    labels: tuple[int, ...] = (0,)
    has_mode: bool = True
    draws_other_grids: bool = False
    refuses_conditions: bool = True


def counted(num_codebooks: int, num_labels: int) -> UnigramPrior:
    prior = UnigramPrior(NUM_CODES, num_codebooks, GRID)
    prior.counts.copy_(torch.tensor([[5, 1, 2], [0, 7, 3]])[:num_codebooks])
    return prior


def masked(num_codebooks: int, num_labels: int) -> Prior:
    torch.manual_seed(0)
    conditions = {"label": num_labels}
    prior = MaskedPrior(NUM_CODES, num_codebooks, GRID, conditions, channels=16, layers=1, heads=2, rounds=3)
    with torch.no_grad():
        prior.head_weights.mul_(50)  # untrained, it would be close to uniform
    return prior.eval()


def own_masked(num_codebooks: int, num_labels: int) -> Prior:
    torch.manual_seed(0)
    config = EXAMPLE.OwnMaskedPriorConfig(channels=8, layers=1, rounds=2)
    prior = config.build(NUM_CODES, num_codebooks, GRID, {"label": num_labels}).eval()
    prior.name = "masked"
    return prior


CASES: dict[type[Prior], Case] = {
    UniformPrior: Case(lambda num_codebooks, _: UniformPrior(NUM_CODES, num_codebooks, GRID), has_mode=False),
    UnigramPrior: Case(counted),
    LearnedPrior: Case(learned, labels=(0, NUM_CLASSES), draws_other_grids=True),
    LabelledPrior: Case(lambda *sizes: LabelledPrior(learned(*sizes)), labels=(NUM_CLASSES,)),
    MaskedPrior: Case(masked, labels=(0, NUM_CLASSES), draws_other_grids=True),
    EXAMPLE.OwnMaskedPrior: Case(own_masked, labels=(0, NUM_CLASSES), refuses_conditions=False),
}


def every(interface: type) -> Any:
    """Run a test with each prior of an interface, each number of labels, and one or two codebooks."""
    return pytest.mark.parametrize(
        ("case", "num_codebooks", "num_labels"),
        [
            pytest.param(case, *sizes, id=f"{kind.__name__}-G{sizes[0]}-Y{sizes[1]}")
            for kind, case in CASES.items()
            if issubclass(kind, interface)
            for sizes in itertools.product((1, 2), case.labels)
        ],
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_prior_is_in_the_table() -> None:
    own = {kind for kind in CASES if kind.__module__.startswith("smalti.")}
    assert concrete(Prior) == own
    registered = [config for config in PRIORS.kinds().values() if config.__module__.startswith("smalti.")]
    built = {inspect.signature(config.build).return_annotation for config in registered}
    assert built == {kind.__name__ for kind in own if issubclass(kind, TrainablePrior)}


@every(Prior)
def test_samples_are_codes_and_follow_the_generator(case: Case, num_codebooks: int, num_labels: int) -> None:
    prior = case.build(num_codebooks, num_labels)
    one, same, other = (prior.sample(6, generator=seeded(seed)) for seed in (0, 0, 1))
    assert one.shape == (6, num_codebooks, *GRID)
    assert one.dtype == torch.int64
    assert one.min() >= 0
    assert one.max() < NUM_CODES
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@every(Prior)
def test_at_temperature_0_all_grids_are_the_most_probable(
    case: Case, num_codebooks: int, num_labels: int
) -> None:
    prior = case.build(num_codebooks, num_labels)
    one, other = (prior.sample(3, temperature=0.0, generator=seeded(seed)) for seed in (0, 1))
    assert torch.equal(one, other) == case.has_mode
    assert torch.equal(one, one[:1].expand_as(one)) == case.has_mode


@every(Prior)
def test_conditions_matter_or_are_refused(case: Case, num_codebooks: int, num_labels: int) -> None:
    prior = case.build(num_codebooks, num_labels)
    assert prior.num_labels == num_labels
    if num_labels:
        drawn = [
            prior.sample(64, same_label(label, 64), generator=seeded(0)) for label in range(-1, num_labels)
        ]
        assert all(not torch.equal(*pair) for pair in itertools.combinations(drawn, 2))
    if case.refuses_conditions:
        unread = [Conditions(mood=PerItem(torch.zeros(2, dtype=torch.int64)))]
        for conditions in unread if num_labels else [*unread, same_label(0, 2)]:
            with pytest.raises(InputError):
                prior.sample(2, conditions)


@every(Prior)
def test_other_grids_are_drawn_or_refused(case: Case, num_codebooks: int, num_labels: int) -> None:
    prior, grid = case.build(num_codebooks, num_labels), (3, GRID[1])
    given = torch.ones(2, num_codebooks, *GRID, dtype=torch.int64)
    assert torch.equal(
        prior.sample_grids(2, Conditions(), generator=seeded(0)), prior.sample(2, generator=seeded(0))
    )
    if case.draws_other_grids:
        assert prior.sample_grids(2, Conditions(), grid=grid).shape == (2, num_codebooks, *grid)
        continued = prior.sample_grids(2, Conditions(), grid=grid, given=given)
        assert torch.equal(continued[:, :, :1], given)
        return
    for settings in ({"grid": grid}, {"grid": grid, "given": given}):
        with pytest.raises(InputError):
            prior.sample_grids(2, Conditions(), **settings)


@every(Prior)
def test_stages_fill_until_nothing_is_hidden(case: Case, num_codebooks: int, num_labels: int) -> None:
    prior = case.build(num_codebooks, num_labels)
    codes = torch.zeros(2, num_codebooks, *GRID, dtype=torch.int64)
    nothing = torch.zeros_like(codes, dtype=torch.bool)
    drawn = list(prior.stages(codes, nothing, generator=seeded(0)))
    left = [int(hidden.sum()) for _, hidden in drawn]
    assert left == sorted(left, reverse=True)
    assert left[0] == codes.numel()
    assert left[-1] == 0
    for (grids, hidden), (later, _) in itertools.pairwise(drawn):
        assert torch.equal(grids[~hidden], later[~hidden]), "what is drawn stays"
    assert torch.equal(drawn[-1][0], prior.sample(2, generator=seeded(0)))


@every(Prior)
def test_kept_codes_stay_or_are_refused(case: Case, num_codebooks: int, num_labels: int) -> None:
    prior = case.build(num_codebooks, num_labels)
    codes = torch.full((64, num_codebooks, *GRID), NUM_CODES - 1)
    keep = torch.zeros_like(codes, dtype=torch.bool)
    keep[:, :, 0, 1] = True
    if not case.draws_other_grids:
        with pytest.raises(InputError, match="part of a grid"):
            prior.inpaint(codes, keep)
        return
    unknown = codes.where(keep, -7)
    drawn = prior.inpaint(unknown, keep, generator=seeded(0))
    assert (drawn[keep] == NUM_CODES - 1).all()
    assert (drawn >= 0).all()
    assert drawn[~keep].unique().numel() > 1
    *_, (last, hidden) = prior.stages(unknown, keep, generator=seeded(0))
    assert torch.equal(last, drawn)
    assert not hidden.any()
    with pytest.raises(InputError, match="code"):
        prior.inpaint(unknown, ~keep)


@every(DensityPrior)
@torch.no_grad()
def test_probabilities_of_all_grids_sum_to_one(case: Case, num_codebooks: int, num_labels: int) -> None:
    prior, codes = case.build(num_codebooks, num_labels), all_grids(num_codebooks)
    assert isinstance(prior, DensityPrior)
    log_prob = prior.log_prob(codes)
    assert log_prob.shape == (len(codes),)
    assert (log_prob < 0).all()
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0), rtol=1e-5, atol=0)


@every(DensityPrior)
@torch.no_grad()
def test_grids_are_drawn_as_often_as_their_probability(
    case: Case, num_codebooks: int, num_labels: int
) -> None:
    prior, codes = case.build(num_codebooks, num_labels), all_grids(num_codebooks)
    assert isinstance(prior, DensityPrior)
    drawn = prior.sample(4000, generator=seeded(0)).flatten(1)
    numbers = (drawn * NUM_CODES ** torch.arange(drawn.shape[1] - 1, -1, -1)).sum(1)
    frequency = torch.bincount(numbers, minlength=len(codes)) / 4000
    torch.testing.assert_close(frequency, prior.log_prob(codes).exp(), rtol=0, atol=0.03)


@every(TrainablePrior)
def test_training_lowers_the_loss(case: Case, num_codebooks: int, num_labels: int) -> None:
    prior = case.build(num_codebooks, num_labels).train()
    assert isinstance(prior, TrainablePrior)
    assert tuple(prior.grid) == GRID
    codes = torch.ones(12, num_codebooks, *GRID, dtype=torch.uint8)
    conditions = same_label(0, len(codes)) if num_labels else Conditions()
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = prior.loss(Batch(codes, conditions))
        assert prior.score in {"loss", *loss.terms}
        optimizer.zero_grad()
        loss.total.backward()
        assert [name for name, each in prior.named_parameters() if each.grad is None] == []
        optimizer.step()
        losses.append(loss.total.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@every(TrainablePrior)
def test_weights_come_back(case: Case, num_codebooks: int, num_labels: int) -> None:
    prior, other = (case.build(num_codebooks, num_labels) for _ in range(2))
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other.sample(3, generator=seeded(0)), prior.sample(3, generator=seeded(0)))


@every(DensityPrior)
@torch.no_grad()
def test_entropy_coding_is_exact_and_takes_the_bits_of_log_prob(
    case: Case, num_codebooks: int, num_labels: int
) -> None:
    prior = case.build(num_codebooks, num_labels)
    assert isinstance(prior, DensityPrior)
    codes = all_grids(num_codebooks)
    encoder = Encoder()
    prior.code(codes.clone(), encoder)
    bits = -prior.log_prob(codes).double().sum().item() / math.log(2)
    assert encoder.bits == pytest.approx(bits, rel=1e-5)
    decoded, decoder = torch.zeros_like(codes), Decoder(encoder.finish())
    prior.code(decoded, decoder)
    decoder.check_end()
    assert torch.equal(decoded, codes)
