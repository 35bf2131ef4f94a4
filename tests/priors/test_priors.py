"""Priors: counts by hand, losses and rates, and what labels cost; laws of all: tests/conformance."""

import itertools
import math

import numpy as np
import pytest
import torch

from smalti.autoregressive.pixelcnn import GatedPixelCNN, GatedPixelCNNConfig
from smalti.autoregressive.transformer import Transformer, TransformerConfig
from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.conditioners.embedding import Embedding
from smalti.core.conditioners import Conditioner
from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.evaluation.bounds import LabelPrior
from smalti.priors.autoregressive import LearnedPrior
from smalti.priors.batches import continued
from smalti.priors.labelled import LabelledPrior
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior

NUM_CODES, GRID, NUM_CLASSES = 3, (1, 2), 4


def network(num_codebooks: int, num_classes: int) -> GatedPixelCNN:
    torch.manual_seed(0)
    made = GatedPixelCNNConfig.tiny().build(NUM_CODES, num_codebooks, {"label": num_classes}).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


def unigram(num_codebooks: int, smoothing: float = 1.0) -> UnigramPrior:
    prior = UnigramPrior(NUM_CODES, num_codebooks, GRID, smoothing)
    prior.count(torch.randint(2, (5, num_codebooks, *GRID), generator=torch.Generator().manual_seed(0)))
    return prior


def learned(num_codebooks: int, num_classes: int = 0) -> LearnedPrior:
    return LearnedPrior(network(num_codebooks, num_classes), GRID).eval()


def line_prior() -> LearnedPrior:
    torch.manual_seed(0)
    return LearnedPrior(WaveNetConfig.tiny().build(NUM_CODES), (6,)).eval()


PRIORS = {
    "uniform": lambda num_codebooks: UniformPrior(NUM_CODES, num_codebooks, GRID),
    "unigram": unigram,
    "unigram before any count": lambda num_codebooks: UnigramPrior(NUM_CODES, num_codebooks, GRID),
    "learned": learned,
    "learned with classes": lambda num_codebooks: learned(num_codebooks, NUM_CLASSES),
    "labelled": lambda num_codebooks: LabelledPrior(learned(num_codebooks, NUM_CLASSES)),
}
CODEBOOKS = pytest.mark.parametrize("num_codebooks", [1, 2])


def all_grids(num_codebooks: int) -> torch.Tensor:
    every = itertools.product(range(NUM_CODES), repeat=num_codebooks * math.prod(GRID))
    return torch.tensor(list(every)).view(-1, num_codebooks, *GRID)


def same_label(label: int, num: int) -> Conditions:
    return Conditions(label=torch.full((num,), label))


@CODEBOOKS
@torch.no_grad()
def test_given_a_class_they_sum_to_one_too_and_labelled_to_its_share(num_codebooks):
    codes = all_grids(num_codebooks)
    prior = learned(num_codebooks, NUM_CLASSES)
    for label in range(NUM_CLASSES):
        conditions = same_label(label, len(codes))
        given = prior.log_prob(codes, conditions)
        torch.testing.assert_close(given.exp().sum(), torch.tensor(1.0), rtol=1e-5, atol=0)
        paid = LabelledPrior(prior).log_prob(codes, conditions)
        torch.testing.assert_close(given - paid, torch.full_like(paid, math.log(NUM_CLASSES)))
    assert not torch.allclose(given, prior.log_prob(codes))


@torch.no_grad()
def test_a_labelled_rate_is_a_bound_on_data_whose_class_is_unknown():
    """p(z | y) / classes is one term of the mixture over classes."""
    codes = all_grids(1)
    prior = learned(1, NUM_CLASSES)
    each = torch.stack([prior.log_prob(codes, same_label(label, len(codes))) for label in range(NUM_CLASSES)])
    mixture = each.logsumexp(0) - math.log(NUM_CLASSES)
    for label in range(NUM_CLASSES):
        paid = LabelledPrior(prior).log_prob(codes, same_label(label, len(codes)))
        assert (paid < mixture).all()


@torch.no_grad()
def test_items_without_a_label_pay_nothing():
    codes = all_grids(1)[:3]
    labelled = LabelledPrior(learned(1, NUM_CLASSES))
    mixed = labelled.log_prob(codes, Conditions(label=torch.tensor([2, -1, 0])))
    without = labelled.log_prob(codes)
    torch.testing.assert_close(without, labelled.prior.log_prob(codes))
    torch.testing.assert_close(mixed[1], without[1])
    for item, label in ((0, 2), (2, 0)):
        expected = labelled.prior.log_prob(codes[[item]], same_label(label, 1))[0] - math.log(NUM_CLASSES)
        torch.testing.assert_close(mixed[item], expected)


def test_only_the_labelled_prior_is_over_codes_and_label():
    assert {name for name, make in PRIORS.items() if isinstance(make(1), LabelPrior)} == {"labelled"}


@torch.no_grad()
def test_uniform_pays_ln_k_for_each_code():
    codes = torch.zeros(2, 3, 4, 5, dtype=torch.int64)
    rate = -UniformPrior(512, 3, (4, 5)).log_prob(codes)
    torch.testing.assert_close(rate, torch.full((2,), 60 * math.log(512)))


@pytest.mark.parametrize("name", ["uniform", "unigram", "learned"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_a_seed_draws_the_same_on_every_device(name):
    here, there = (
        PRIORS[name](2).to(device).sample(3, generator=torch.Generator().manual_seed(0))
        for device in ("cpu", "cuda")
    )
    assert torch.equal(here, there.cpu())


class TestUnigram:
    @pytest.mark.parametrize("smoothing", [1.0, 0.25])
    def test_counts_and_smoothing_by_hand(self, smoothing):
        rng = np.random.default_rng(0)
        prior = UnigramPrior(5, 2, (3, 2), smoothing)
        batches = [rng.integers(0, 4, (num, 2, 3, 2)) for num in (4, 1)]  # code 4 never occurs
        for batch in batches:
            prior.count(torch.from_numpy(batch))
        every = np.concatenate(batches)
        counts = np.stack([np.bincount(every[:, g].ravel(), minlength=5) for g in range(2)])
        np.testing.assert_array_equal(prior.counts.numpy(), counts)
        table = np.log((counts + smoothing) / (counts + smoothing).sum(1, keepdims=True))
        np.testing.assert_allclose(prior.log_table().numpy(), table, rtol=1e-6)
        codes = rng.integers(0, 5, (3, 2, 3, 2))
        expected = [sum(table[g, code] for g in range(2) for code in item[g].ravel()) for item in codes]
        np.testing.assert_allclose(prior.log_prob(torch.from_numpy(codes)).numpy(), expected, rtol=1e-5)

    def test_samples_by_frequency(self):
        prior = UnigramPrior(4, 2, (10, 10), smoothing=1e-6)
        prior.counts.copy_(torch.tensor([[70, 20, 10, 0], [0, 0, 50, 50]]))
        codes = prior.sample(100, generator=torch.Generator().manual_seed(0))
        for g in range(2):
            share = torch.bincount(codes[:, g].flatten(), minlength=4) / 10_000
            torch.testing.assert_close(share, prior.counts[g] / 100, rtol=0, atol=0.02)

    def test_temperature(self):
        prior = UnigramPrior(4, 1, (10, 10))
        prior.counts.copy_(torch.tensor([[70, 20, 10, 0]]))
        assert not prior.sample(10, temperature=0.0).any()
        hot = torch.bincount(prior.sample(100, temperature=1e4).flatten()) / 10_000
        torch.testing.assert_close(hot, torch.full((4,), 0.25), rtol=0, atol=0.03)

    def test_counts_are_saved(self):
        loaded = UnigramPrior(NUM_CODES, 2, GRID)
        loaded.load_state_dict(unigram(2).state_dict())
        assert torch.equal(loaded.log_table(), unigram(2).log_table())


class TestLearned:
    @CODEBOOKS
    def test_the_loss_is_the_mean_rate_of_a_code(self, num_codebooks):
        prior = learned(num_codebooks)
        codes = all_grids(num_codebooks)[::2]
        loss = prior.loss(Batch(codes.to(torch.uint8)))
        rate = -prior.log_prob(codes).mean() / (2 * num_codebooks)
        torch.testing.assert_close(loss.total, rate)
        torch.testing.assert_close(loss.terms["bits_per_code"], (rate / math.log(2)).detach())
        loss.total.backward()
        assert all(p.grad is not None for p in prior.parameters())

    def test_what_follows_a_short_item_is_no_code_of_it(self):
        """Every code of every item counts the same, and none that is padding."""
        prior, lengths = line_prior(), torch.tensor([6, 2, 1, 5])
        codes = torch.randint(NUM_CODES, (4, 1, 6), generator=torch.Generator().manual_seed(0))
        loss = prior.loss(Batch(codes, lengths=lengths))
        nats = 0.0
        for item, length in zip(codes, lengths.tolist(), strict=True):
            nats -= prior.log_prob(item[None, :, :length]).item()
        assert loss.total.item() == pytest.approx(nats / 14, rel=1e-5)
        assert loss.terms["bits_per_code"].item() == pytest.approx(nats / 14 / math.log(2), rel=1e-5)
        padding = torch.arange(6) >= lengths.view(-1, 1, 1)
        others = codes.where(~padding, (codes + 1) % NUM_CODES)
        torch.testing.assert_close(prior.loss(Batch(others, lengths=lengths)).total, loss.total)
        assert not torch.isclose(prior.loss(Batch(others)).total, prior.loss(Batch(codes)).total)
        full = prior.loss(Batch(codes, lengths=torch.full((4,), 6)))
        torch.testing.assert_close(full.total, prior.loss(Batch(codes)).total)
        loss.total.backward()
        assert all(bool(p.grad.isfinite().all()) for p in prior.parameters())

    def test_padding_on_the_first_axis_of_several_codebooks(self):
        prior, lengths = learned(2), torch.tensor([2, 1])
        codes = all_grids(2)[[3, 70]].transpose(2, 3)
        loss = prior.loss(Batch(codes, lengths=lengths)).total
        logits = prior.network(codes).log_softmax(-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(loss, -(logits[0].sum() + logits[1, :, :1].sum()) / 6)

    def test_a_long_clip_is_taken_in_stretches_of_what_the_prior_learned(self):
        torch.manual_seed(0)
        network = TransformerConfig.tiny().build(NUM_CODES).eval()
        prior, codes = LearnedPrior(network, (2, 3, 1)), torch.randint(NUM_CODES, (4, 1, 5, 3, 1))
        parts = [prior.log_prob(codes[:, :, begin : begin + 2]) for begin in (0, 2, 4)]
        torch.testing.assert_close(prior.log_prob(codes), torch.stack(parts).sum(0))

    def test_draws_a_line_of_another_length(self):
        prior = line_prior()
        for length in (1, 6, 9):
            drawn = prior.sample(2, grid=(length,), generator=torch.Generator().manual_seed(0))
            assert drawn.shape == (2, 1, length)
        assert prior.sample(2).shape == (2, 1, 6)

    def test_training_approaches_the_entropy_of_its_data(self):
        codes = torch.tensor([[[[0, 1]]], [[[2, 2]]]]).repeat(8, 1, 1, 1)
        prior = learned(1).train()
        optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
        for _ in range(80):
            loss = prior(Batch(codes)).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert math.log(2) / 2 <= loss.item() + 1e-4 < math.log(2) / 2 + 0.05

    @pytest.mark.parametrize("wrap", [lambda prior: prior, LabelledPrior])
    def test_a_class_without_classes(self, wrap):
        with pytest.raises(InputError, match="prior without classes"):
            wrap(learned(1)).sample(2, same_label(0, 2))

    @pytest.mark.parametrize("wrong", [{"num": 0}, {"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}])
    def test_settings_out_of_range(self, wrong):
        with pytest.raises(InputError, match=r"[Ee]xpected"):
            learned(1).sample(**{"num": 2} | wrong)

    def test_an_unknown_class(self):
        with pytest.raises(InputError, match=r"[Ee]xpected .*label"):
            learned(1, NUM_CLASSES).sample(1, same_label(NUM_CLASSES, 1))


def conditioned(**conditioners: Conditioner) -> LearnedPrior:
    """A prior over clips that embeds no condition itself, and whose conditioners are strong."""
    torch.manual_seed(0)
    made = Transformer(NUM_CODES, channels=8, layers=1, heads=2, conditioners=conditioners)
    torch.nn.init.normal_(made.head_weights)
    for parameter in made.conditioners.parameters():
        torch.nn.init.normal_(parameter, std=30)
    return LearnedPrior(made, (3, 2, 2)).eval()


@torch.no_grad()
def test_a_label_that_only_a_conditioner_reads():
    prior = conditioned(label=Embedding(8, num_ids=5))
    assert prior.num_labels == 5
    labels = Conditions(label=torch.tensor([4, -1]))
    codes = prior.sample(2, labels, generator=torch.Generator().manual_seed(0))
    cost = math.log(5) * torch.tensor([1.0, 0.0])
    torch.testing.assert_close(
        LabelledPrior(prior).log_joint(codes, labels), prior.log_prob(codes, labels) - cost
    )


def test_a_rollout_follows_actions_that_only_a_conditioner_reads():
    embedding = Embedding(8, num_ids=2)
    prior = conditioned(action=embedding)
    with torch.no_grad():
        # Opposite activations have opposite logits, so no code is the most probable under both.
        embedding.table.weight[1] = -embedding.table.weight[0]
    clip = SignalSpec(3, (3, 4, 4))
    given = torch.zeros(1, 1, 1, 2, 2, dtype=torch.int64)

    def rolled(action: str) -> torch.Tensor:
        settings = {"temperature": 1.0, "top_k": None, "top_p": None, "seed": 0, "batch_size": 4}
        names = ("left", "right")
        return continued(prior, clip, names, given, [action] * 2, None, 8, progress=None, **settings)

    assert rolled("left").shape == (8, 1, 3, 2, 2)
    assert not torch.equal(rolled("left"), rolled("right"))
    with pytest.raises(InputError, match="up"):
        rolled("up")


def test_priors_of_very_many_codes():
    """The uniform prior needs no table; a table of 2^36 codes is refused before memory is asked for."""
    for bits in (18, 36, 63):
        prior = UniformPrior(2**bits, 2, GRID)
        codes = prior.sample(100, generator=torch.Generator().manual_seed(0))
        assert codes.max() >= 2 ** (bits - 1)
        assert prior.log_prob(codes)[0].item() == pytest.approx(-4 * bits * math.log(2))
    with pytest.raises(InputError, match="at most 4,194,304 codes"):
        UnigramPrior(2**36, 1, GRID)
    prior = UnigramPrior(2**18, 1, GRID)
    prior.count(torch.full((3, 1, *GRID), 2**18 - 1))
    assert prior.log_prob(torch.full((1, 1, *GRID), 2**18 - 1)).item() == pytest.approx(
        2 * math.log(7 / (2**18 + 6)), rel=1e-5
    )
