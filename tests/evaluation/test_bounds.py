"""Bits/dim against arithmetic by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from smalti.conditioners.cross_attention import CrossAttention
from smalti.conditioners.embedding import Embedding
from smalti.core.conditions import Batch, Conditions, PerItem, TokenSequence
from smalti.core.models import Autoencoder
from smalti.core.parts import Likelihood
from smalti.core.priors import DensityPrior
from smalti.core.results import Bound, Loss, Measured
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoder
from smalti.evaluation.bounds import Density, PriorDensity, measure
from smalti.evaluation.evaluate import evaluate
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.priors.uniform import UniformPrior

NO_CONDITIONS = Conditions()


class GivenLikelihood(Likelihood):
    """-ln p of each element is its code plus the signal."""

    def __init__(self, codes: torch.Tensor) -> None:
        self.codes = codes

    def log_prob(self, signal):
        return -(self.codes[:, :1].float() + signal)

    def sample(self, generator=None):
        raise NotImplementedError

    def mean(self):
        return self.codes[:, :1].float()


class GivenAutoencoder(Autoencoder):
    """Codes `(B, 2, 3)` for signals `(B, 1, 3)`."""

    signal, num_codebooks, num_codes, grid, title = SignalSpec(1, (3,)), 2, 10, (3,), "given"

    num_label_classes = 0

    def loss(self, batch):
        return Loss(torch.zeros(()), {})

    def encode(self, signal, conditions=None):
        return signal.round().long().expand(-1, 2, -1)

    def likelihood(self, codes, conditions=None):
        return GivenLikelihood(codes)


class GivenPrior(DensityPrior):
    """-ln p(codes) is their sum, and 100 more for each item with a label that it sees."""

    name = "plain"

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def log_prob(self, codes, conditions=NO_CONDITIONS):
        log_prob = -codes.flatten(1).sum(1).float()
        return (
            log_prob
            if conditions.tensor("label") is None
            else log_prob - 100.0 * (conditions["label"].data >= 0)
        )

    def sample(self, num, *args, **kwargs):
        raise NotImplementedError


class GivenLabelPrior(GivenPrior):
    """The same over codes and label."""

    name = "labelled"

    def log_joint(self, codes, conditions=NO_CONDITIONS):
        return self.log_prob(codes, conditions)


X = torch.tensor([[[1.0, 2.0, 0.0]], [[0.0, 0.0, 3.0]], [[4.0, 0.0, 4.0]]])
LABELS = torch.tensor([0, -1, 2])


def rows_of(*sizes: int) -> dict[str, PriorDensity]:
    model = GivenAutoencoder()
    density = Density(model.signal)
    priors = [GivenPrior(), GivenLabelPrior()]
    for x, labels in zip(X[: sum(sizes)].split(sizes), LABELS[: sum(sizes)].split(sizes), strict=True):
        density.update(measure(model, Batch(x, Conditions(label=labels)), priors))
    return density.compute()


@pytest.mark.parametrize("sizes", [(3,), (2, 1), (1, 1, 1)])
def test_by_hand(sizes):
    """An element x has code x: items of sums 3, 3, 8 pay twice in distortion, twice in rate (G = 2)."""
    sums, bits = np.array([3.0, 3.0, 8.0]), 1 / (3 * math.log(2))
    for name, extra in (("plain", np.zeros(3)), ("labelled", np.array([100.0, 0.0, 100.0]))):
        total = (4 * sums + extra) * bits
        assert rows_of(*sizes)[name] == pytest.approx(
            {
                "bits_per_dim": total.mean(),
                "rate": (2 * sums + extra).mean() * bits,
                "distortion": (2 * sums).mean() * bits,
                "stderr": total.std(ddof=1) / math.sqrt(3),
                "nats_per_code": (2 * sums + extra).mean() / 6,
            }
        )


def test_what_an_autoencoder_measures_of_a_batch():
    measured = measure(GivenAutoencoder(), Batch(X, Conditions(label=LABELS)), [GivenLabelPrior()], draws=9)
    assert list(measured.bounds) == ["labelled"]
    assert measured.bounds["labelled"].rate.tolist() == [106.0, 6.0, 116.0]
    assert measured.bounds["labelled"].distortion.tolist() == [6.0, 6.0, 16.0]
    assert measured.bounds["labelled"].log_prob.tolist() == [-112.0, -12.0, -132.0]
    assert torch.equal(measured.codes, X.long().expand(-1, 2, -1))
    assert torch.equal(measured.reconstruction, X)


def test_every_bound_has_its_row_and_without_codes_there_is_no_rate_a_code():
    density = Density(SignalSpec(2, (5,)))
    one = Bound(torch.tensor([1.0]), torch.tensor([4.0]))
    two = Bound(torch.tensor([0.0, 2.0]), torch.tensor([4.0, 6.0]))
    density.update(Measured({"normal": one, "normal, 3 draws": one}, torch.zeros(1, 2, 5), None))
    density.update(Measured({"normal": two}, torch.zeros(2, 2, 5), None))
    rows = density.compute()
    assert list(rows) == ["normal", "normal, 3 draws"]
    bits = 1 / (10 * math.log(2))
    assert rows["normal"] == pytest.approx(
        {
            "bits_per_dim": 17 / 3 * bits,
            "rate": 1 * bits,
            "distortion": 14 / 3 * bits,
            "stderr": np.std([5, 4, 8], ddof=1) / math.sqrt(3) * bits,
        }
    )
    assert rows["normal, 3 draws"]["bits_per_dim"] == pytest.approx(5 * bits)


def test_sums_of_single_precision_are_made_in_double():
    """Of many items each worth much, float32 would lose the last digits of the mean."""
    density = Density(SignalSpec(1, (1,)))
    for part in torch.full((100_000,), 20_000.1).split(100):
        density.update(Measured({"p": Bound(part, 2 * part)}, torch.zeros(100, 1, 1), None))
    bits = np.float64(np.float32(20_000.1)) / math.log(2)
    row = density.compute()["p"]
    assert row["rate"] == pytest.approx(bits, rel=1e-12)
    assert row["distortion"] == pytest.approx(2 * bits, rel=1e-12)
    assert row["bits_per_dim"] == pytest.approx(3 * bits, rel=1e-12)


def test_one_item_has_no_standard_error():
    figures = rows_of(1)["plain"]
    assert figures["stderr"] is None
    assert figures["bits_per_dim"] == pytest.approx(12 / (3 * math.log(2)))


class TestItemsOfDifferentLengths:
    """All bits over all dimensions, so that a long item counts more than a short one."""

    LENGTHS = np.array([3, 10, 1, 6, 20, 8])

    def measured(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rates, distortions and numbers of codes of the items, longer ones paying more."""
        rng = np.random.default_rng(seed)
        rate = 2.0 * self.LENGTHS + rng.normal(size=6)
        return rate, 5.0 * self.LENGTHS + 3 * rng.normal(size=6), self.LENGTHS * 2

    def density(self, *sizes: int) -> PriorDensity:
        rate, distortion, codes = self.measured()
        density = Density(SignalSpec(2, (8, 4)))
        for part in np.split(np.arange(6), np.cumsum(sizes)[:-1]):
            bound = Bound(torch.from_numpy(rate[part]).float(), torch.from_numpy(distortion[part]).float())
            found = torch.zeros(1, 1, int(codes[part].sum()), dtype=torch.int64)
            lengths = torch.from_numpy(self.LENGTHS[part])
            density.update(Measured({"p": bound}, None, found), lengths)
        return density.compute()["p"]

    @pytest.mark.parametrize("sizes", [(6,), (1,) * 6, (2, 4)], ids=str)
    def test_by_hand(self, sizes):
        rate, distortion, codes = self.measured()
        dims, n = self.LENGTHS * 8, 6  # 2 channels, 4 columns
        bits = (rate + distortion) / np.log(2)
        ratio = bits.sum() / dims.sum()
        # The variance of a ratio of means, by its linearisation (Cochran 1977, equation 2.46).
        variance = ((bits - ratio * dims) ** 2).sum() / (n - 1) / n / dims.mean() ** 2
        assert self.density(*sizes) == pytest.approx(
            {
                "bits_per_dim": ratio,
                "rate": rate.sum() / np.log(2) / dims.sum(),
                "distortion": distortion.sum() / np.log(2) / dims.sum(),
                "stderr": np.sqrt(variance),
                "nats_per_code": rate.sum() / codes.sum(),
            },
            rel=1e-6,
        )

    def test_the_standard_error_is_that_of_resampled_items(self):
        rng = np.random.default_rng(1)
        n = 400
        lengths = rng.integers(1, 30, n)
        nats = lengths * rng.gamma(9.0, 0.4, n)
        density = Density(SignalSpec(1, (8,)))
        bound = Bound(torch.zeros(n), torch.from_numpy(nats).float())
        density.update(Measured({"p": bound}, None, None), torch.from_numpy(lengths))
        drawn = rng.integers(n, size=(4000, n))
        bootstrap = (nats[drawn].sum(1) / lengths[drawn].sum(1) / np.log(2)).std()
        row = density.compute()["p"]
        assert row["stderr"] == pytest.approx(bootstrap, rel=0.05)
        # The spread of the items' own bits is another thing, and larger: lengths vary too.
        naive = nats.std() / np.sqrt(n) / lengths.mean() / np.log(2)
        assert row["stderr"] < 0.7 * naive

    def test_lengths_that_are_all_the_signals_own_change_nothing(self):
        rate, distortion, _ = self.measured()
        bound = Bound(torch.from_numpy(rate).float(), torch.from_numpy(distortion).float())
        rows = []
        for lengths in (None, torch.full((6,), 8)):
            density = Density(SignalSpec(2, (8, 4)))
            density.update(Measured({"p": bound}, None, None), lengths)
            rows.append(density.compute()["p"])
        assert rows[0] == rows[1]
        total = (bound.rate + bound.distortion).double().numpy() / (64 * np.log(2))
        assert rows[0]["stderr"] == pytest.approx(total.std(ddof=1) / np.sqrt(6))

    def test_one_item_has_no_standard_error(self):
        density = Density(SignalSpec(1, (8,)))
        density.update(
            Measured({"p": Bound(torch.tensor([1.0]), torch.tensor([2.0]))}, None, None), torch.tensor([3])
        )
        assert density.compute()["p"]["stderr"] is None
        assert density.compute()["p"]["bits_per_dim"] == pytest.approx(1 / math.log(2))


def test_an_autoencoder_sums_what_lies_within_an_items_length():
    lengths = torch.tensor([3, 1, 2])
    measured = measure(GivenAutoencoder(), Batch(X, lengths=lengths), [GivenPrior()])
    # An element x costs its code x and x again.
    assert measured.bounds["plain"].distortion.tolist() == [6.0, 0.0, 8.0]


def test_without_bounds_there_are_no_rows():
    density = Density(SignalSpec(1, (3,)))
    assert density.compute() == {}
    density.update(measure(GivenAutoencoder(), Batch(X)))
    assert density.compute() == {}


class TestConditionsOfTheDecoder:
    """A condition that the decoder is given is paid for, or the bound names it."""

    CONDITIONS = Conditions(
        label=torch.tensor([0, -1, 2]),
        text=TokenSequence(torch.tensor([[0, 1], [2, 3], [4, 5]])),
        unread=PerItem(torch.randn(3, 2)),
    )

    def measured(self, **conditioners) -> Measured:
        torch.manual_seed(0)
        config = VQVAEConfig.tiny()
        spec = SignalSpec(1, (8, 8))
        made = config.build(spec)
        decoder = ConvDecoder(
            made.quantizer.dim, made.family.num_parameters, channels=8, conditioners=conditioners
        )
        model = VQVAE(made.encoder, made.quantizer, decoder, made.family, spec).eval()
        x = torch.zeros(3, 1, 8, 8)
        priors = [UniformPrior(model.num_codes, model.num_codebooks, model.grid)]
        return measure(model, Batch(x, self.CONDITIONS), priors)

    def test_label_ids_are_paid_for(self):
        plain = self.measured().bounds["uniform"]
        bound = self.measured(label=Embedding(8, 10)).bounds["uniform"]
        torch.testing.assert_close(bound.rate - plain.rate, math.log(10) * torch.tensor([1.0, 0.0, 1.0]))
        assert (plain.given, bound.given) == ((), ())

    def test_other_conditions_are_named(self):
        text = CrossAttention(8, num_ids=6, dim=4, heads=2)
        plain = self.measured().bounds["uniform"]
        bound = self.measured(text=text).bounds["uniform"]
        assert torch.equal(bound.rate, plain.rate)
        assert bound.given == ("text",)

    def test_a_report_says_so_in_row_and_protocol(self, monkeypatch):
        monkeypatch.setattr(GivenAutoencoder, "condition_names", ("text",), raising=False)
        batch = Batch(X, Conditions(text=PerItem(torch.randn(3, 2))))
        given = evaluate(GivenAutoencoder(), [GivenPrior()], [batch])
        assert given.density["plain"]["given"] == ["text"]
        assert "p(x | text)" in given.protocol["bits_per_dim"]
        without = evaluate(GivenAutoencoder(), [GivenPrior()], [Batch(X)])
        assert "given" not in without.density["plain"]
        assert "p(x) / dims" in without.protocol["bits_per_dim"]

    def test_an_undeclared_condition_does_not_reach_the_decoder(self, monkeypatch):
        def reads(self, codes, conditions=None):
            assert "text" not in conditions
            return GivenLikelihood(codes)

        monkeypatch.setattr(GivenAutoencoder, "likelihood", reads)
        measure(GivenAutoencoder(), Batch(X, Conditions(text=PerItem(torch.randn(3, 2)))), [GivenPrior()])

    def test_ids_that_nobody_has_are_not_given(self):
        assert not PerItem(torch.tensor([-1, -1])).is_given
        assert PerItem(torch.tensor([-1, 0])).is_given
