"""VIMCO: its bounds and its gradient against sums over all codes and all tuples of draws of tiny models."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

import smalti.models.vimco
from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.priors import DensityPrior
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoder
from smalti.encoders.conv import ConvEncoderConfig
from smalti.evaluation.bounds import measure
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.models.vimco import VIMCO, VIMCOConfig
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior
from tests.models.memory import Alive
from tests.models.tiny import LIKELIHOODS, all_grids, exaggerate, signals
from tests.models.vimco import (
    LARGER,
    LISTED,
    SMALLEST,
    TWICE,
    assert_mean,
    exact_bound,
    listed,
    log_likelihoods,
    log_posteriors,
    log_priors,
    repeated,
    vimco,
)


@pytest.mark.usefixtures("double")
class TestPosterior:
    @LISTED
    @torch.no_grad()
    def test_is_the_softmax_of_each_place(self, sizes):
        model = listed(**sizes)
        x = signals(model.signal)
        log_q = model.log_posterior(x)
        assert log_q.shape == (4, model.num_codebooks, *model.grid, model.num_codes)
        of_grids = []
        for codes in all_grids(model):
            picked = log_q.gather(-1, codes.expand(4, *codes.shape).unsqueeze(-1))
            of_grids.append(picked.flatten(1).sum(1))
        torch.testing.assert_close(torch.stack(of_grids, 1), log_posteriors(model, x))
        torch.testing.assert_close(log_posteriors(model, x).exp().sum(1), torch.ones(4))

    @LISTED
    @torch.no_grad()
    def test_the_most_probable_codes_are_the_encoding(self, sizes):
        model = listed(**sizes)
        x = signals(model.signal, 20)
        best = all_grids(model)[log_posteriors(model, x).argmax(1)]
        assert torch.equal(model.encode(x), best)
        assert len(best.unique(dim=0)) > 1

    @LISTED
    @torch.no_grad()
    def test_draws_follow_it(self, sizes):
        model = listed(**sizes)
        (x,) = signals(model.signal, 1).split(1)
        num = 20_000
        drawn = model.draw_codes(x.expand(num, 1, -1), torch.Generator().manual_seed(0))
        assert drawn.dtype == torch.int64
        assert drawn.shape == (num, model.num_codebooks, *model.grid)
        found = Counter(tuple(codes) for codes in drawn.flatten(1).tolist())
        expected = num * log_posteriors(model, x)[0].exp()
        observed = torch.tensor(
            [float(found[tuple(codes)]) for codes in all_grids(model).flatten(1).tolist()]
        )
        assert observed.sum() == num
        likely = expected > 5
        chi_square = ((observed - expected)[likely].square() / expected[likely]).sum()
        degrees = int(likely.sum())
        assert degrees >= 3
        assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


class TestDraws:
    def test_follow_the_generator_and_nothing_else(self):
        model = vimco()
        x = signals(LARGER, 6)

        def draw(seed: int) -> Tensor:
            return model.draw_codes(x, torch.Generator().manual_seed(seed))

        torch.manual_seed(0)
        untouched = torch.rand(1)
        torch.manual_seed(0)
        first = draw(1)
        assert torch.equal(torch.rand(1), untouched)
        assert torch.equal(draw(1), first)
        assert not torch.equal(draw(2), first)
        assert not torch.equal(first, model.encode(x))
        generator = torch.Generator().manual_seed(1)
        drawn = model.draw_codes(x, generator)
        assert torch.equal(drawn, first)
        assert not torch.equal(model.draw_codes(x, generator), first)

    @pytest.mark.parametrize("sure", [0, 3, 6])
    def test_a_code_without_probability_is_never_drawn(self, sure: int):
        """In single precision, with nearly all of it on one code, first, in the middle, or last."""
        logits = torch.full((1, 1, 7), -150.0)
        logits[..., sure] = 0
        logits[..., (sure + 1) % 7] = -5
        drawn = smalti.models.vimco._draw(logits.log_softmax(-1), 300_000, torch.Generator().manual_seed(0))
        counts = drawn.flatten().bincount(minlength=7)
        assert counts.nonzero().flatten().tolist() == sorted([sure, (sure + 1) % 7])
        assert counts[(sure + 1) % 7].item() == pytest.approx(300_000 * math.exp(-5), rel=0.1)

    @pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
    def test_nor_for_the_least_and_the_greatest_random_number(
        self, uniform: float, monkeypatch: pytest.MonkeyPatch
    ):
        log_q = torch.tensor([-math.inf, -150.0, -0.7, -0.7, -150.0, -math.inf]).log_softmax(-1)
        monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, uniform))
        drawn = smalti.models.vimco._draw(log_q.view(1, 1, 6), 1, torch.Generator())
        assert drawn.item() == (2 if uniform == 0 else 3)

    def test_each_item_and_place_and_draw_has_its_own(self):
        log_q = torch.full((5, 2, 3, 4, 64), -math.log(64))
        drawn = smalti.models.vimco._draw(log_q, 6)
        assert drawn.shape == (6, 5, 2, 3, 4)
        for dim in range(5):
            assert len(drawn.unique(dim=dim)) == len(drawn)
            first, second = drawn.select(dim, 0), drawn.select(dim, 1)
            assert not torch.equal(first, second)

    def test_ranks_share_the_draws_of_one_process(self, monkeypatch: pytest.MonkeyPatch):
        log_q = torch.randn(6, 2, 3, 5).log_softmax(-1)
        torch.manual_seed(3)
        whole = smalti.models.vimco._draw(log_q, 4)
        shares = []
        for rank, part in enumerate(log_q.split(2)):
            monkeypatch.setattr("smalti.nn.collectives.rank_and_world", lambda rank=rank: (rank, 3))
            torch.manual_seed(3)
            shares.append(smalti.models.vimco._draw(part, 4))
        assert torch.equal(torch.cat(shares, 1), whole)


@pytest.mark.usefixtures("double")
class TestBounds:
    @LISTED
    @LIKELIHOODS
    @torch.no_grad()
    def test_of_one_draw_is_the_sum_over_all_codes(self, likelihood, sizes):
        model = listed(**sizes, likelihood=likelihood)
        unigram = UnigramPrior(model.num_codes, model.num_codebooks, model.grid)
        unigram.count(model.encode(signals(model.signal, 30, seed=4)))
        priors = [UniformPrior(model.num_codes, model.num_codebooks, model.grid), unigram]
        for x in signals(model.signal, 3).split(1):
            bounds = repeated(model, x, 4000, 1, *priors)
            assert list(bounds) == ["uniform", "unigram"]
            log_q, log_p = log_posteriors(model, x)[0], log_likelihoods(model, x)[0]
            for prior in priors:
                log_joint = log_p + log_priors(model, prior)
                bound = bounds[prior.name]
                expected = (log_q.exp() * (log_joint - log_q)).sum()
                assert_mean(bound.log_prob, expected)
                assert_mean(bound.distortion, -(log_q.exp() * log_p).sum())
                assert expected < log_joint.logsumexp(0)

    @pytest.mark.parametrize("draws", [2, 3])
    @LISTED
    @torch.no_grad()
    def test_of_several_draws_is_the_sum_over_all_tuples(self, sizes, draws):
        model = listed(**sizes)
        unigram = UnigramPrior(model.num_codes, model.num_codebooks, model.grid)
        unigram.count(model.encode(signals(model.signal, 30, seed=4)))
        priors = [UniformPrior(model.num_codes, model.num_codebooks, model.grid), unigram]
        for x in signals(model.signal, 2).split(1):
            bounds = repeated(model, x, 4000, draws, *priors)
            named = [prior.name for prior in priors]
            assert list(bounds) == [n for name in named for n in (name, f"{name}, {draws} draws")]
            log_q, log_p = log_posteriors(model, x)[0], log_likelihoods(model, x)[0]
            for prior in priors:
                log_joint = log_p + log_priors(model, prior)
                weighted, plain = bounds[f"{prior.name}, {draws} draws"], bounds[prior.name]
                expected = exact_bound(log_q, log_joint, draws)
                assert_mean(weighted.log_prob, expected)
                assert_mean(plain.log_prob, exact_bound(log_q, log_joint, 1))
                assert exact_bound(log_q, log_joint, 1) + 0.01 < expected < log_joint.logsumexp(0) - 0.001
                # Of the same draws a weighted mean is never below the mean of the logarithms.
                assert (weighted.log_prob >= plain.log_prob - 1e-9).all()

    @torch.no_grad()
    def test_of_many_draws_is_near_the_evidence(self):
        model = listed(TWICE, encoder_times=1)
        x = signals(TWICE, 6)
        exact = (log_likelihoods(model, x) + log_priors(model)).logsumexp(1)
        prior = UniformPrior(model.num_codes, 1, model.grid)
        bounds = measure(model, Batch(x), [prior], 3000, torch.Generator().manual_seed(0)).bounds
        torch.testing.assert_close(bounds["uniform, 3000 draws"].log_prob, exact, rtol=0, atol=0.05)

    @torch.no_grad()
    def test_only_a_prior_over_labels_sees_them(self):
        seen_labels = {}

        class Plain(DensityPrior):
            name = "no"

            def log_prob(self, codes, conditions=None):
                seen_labels.setdefault(self.name, []).append(conditions.tensor("label"))
                return torch.zeros(len(codes))

            def sample(self, num, *args, **kwargs):
                raise NotImplementedError

        class OverLabels(Plain):
            name = "yes"

            def log_joint(self, codes, conditions=None):
                return self.log_prob(codes, conditions)

        model = listed()
        labels = torch.tensor([3, -1])
        batch = Batch(signals(SMALLEST, 2), Conditions(label=labels))
        measure(model, batch, [OverLabels(), Plain()], draws=2)
        assert all(seen is labels for seen in seen_labels["yes"])
        assert seen_labels["no"] == [None, None]

    @torch.no_grad()
    def test_reconstruction_and_codes_are_of_the_most_probable(self):
        model = listed(TWICE)
        x = signals(TWICE, 5)
        measured = measure(model, Batch(x), draws=3)
        assert torch.equal(measured.codes, model.encode(x))
        assert torch.equal(measured.reconstruction, model.likelihood(model.encode(x)).mean())


class TestMemory:
    @LIKELIHOODS
    def test_does_not_grow_with_the_samples(self, likelihood):
        """Of a further draw its codes stay, and some numbers: no picture, no activation, no parameter."""
        items = 4
        x = signals(LARGER, items)

        def bytes_of(num_samples: int) -> tuple[int, int]:
            settings = {"num_samples": num_samples, "decode_at_once": 6, "likelihood": likelihood}
            model = VIMCOConfig.tiny().changed(settings).build(LARGER)
            # Draws that all weigh the same, so that every one is decoded again.
            exaggerate(model.decoder, times=0)
            with Alive() as alive:
                loss = model.loss(Batch(x)).total
                kept = alive.now()
                loss.backward()
            return kept, alive.peak

        few, many = bytes_of(3), bytes_of(43)
        codes = 8 * 2 * 2 * 3  # bytes of the codes of one draw of one item: G times the positions
        of_each = [(more - less) / (40 * items) for less, more in zip(few, many, strict=True)]
        assert all(growth < 8 * codes for growth in of_each), (few, many)
        assert 8 * codes < x[0].numel() * 4
        assert few[1] > 6 * x[0].numel() * 4

    def test_no_more_are_decoded_at_once_than_is_set(self):
        model = vimco(num_samples=7, decode_at_once=4)
        sizes: list[int] = []
        model.decoder.register_forward_hook(lambda module, given, made: sizes.append(len(given[0])))
        loss = model.loss(Batch(signals(LARGER, 3))).total
        first_pass = len(sizes)
        assert sizes[:5] == [4, 4, 4, 4, 4]
        loss.backward()
        assert len(sizes) > first_pass
        assert max(sizes) == 4

    @torch.no_grad()
    def test_measuring_decodes_no_more_at_once_either(self):
        model = vimco(decode_at_once=4)
        sizes: list[int] = []
        model.decoder.register_forward_hook(lambda module, given, made: sizes.append(len(given[0])))
        prior = UniformPrior(model.num_codes, model.num_codebooks, model.grid)
        measure(model, Batch(signals(LARGER, 3)), [prior], draws=9)
        # 27 draws by fours; the last call is the reconstruction.
        assert sizes == [4, 4, 4, 4, 4, 4, 3, 3]


class TestParts:
    @pytest.mark.parametrize(
        ("size", "strides", "grid"),
        [((8, 16), (2, 2), (2, 4)), ((6, 9), (3,), (2, 3)), ((20,), (4, 5), (1,))],
    )
    @LIKELIHOODS
    def test_sizes_that_are_not_square(self, likelihood, size, strides, grid):
        encoder = ConvEncoderConfig.tiny().model_copy(update={"strides": strides})
        model = vimco(SignalSpec(3, size), encoder=encoder, likelihood=likelihood)
        x = signals(model.signal, 2)
        assert model.grid == grid
        assert model.loss(Batch(x)).total.isfinite()
        codes = model.encode(x)
        assert codes.shape == model.draw_codes(x).shape == (2, 2, *grid)
        assert model.decode(codes).shape == x.shape

    @torch.no_grad()
    def test_each_codebook_and_code_has_its_own_embedding(self):
        model = vimco()
        given = []
        model.decoder.register_forward_hook(lambda module, inputs, made: given.append(inputs[0]))
        codes = torch.randint(5, (2, 2, 2, 3), generator=torch.Generator().manual_seed(0))
        model.likelihood(codes)
        for b, y, x in itertools.product(range(2), range(2), range(3)):
            expected = [model.embeddings[g, codes[b, g, y, x]] for g in range(2)]
            assert torch.equal(given[0][b, :, y, x], torch.cat(expected))

    @pytest.mark.parametrize("bad", [-1, 5, 1000])
    def test_codes_out_of_range(self, bad: int):
        codes = torch.zeros(1, 2, 2, 3, dtype=torch.int64)
        codes[0, 1, 1, 1] = bad
        with pytest.raises(InputError, match=rf"expected codes from 0 to 4, received .*{bad}"):
            vimco().likelihood(codes)

    def test_codes_of_another_number_of_codebooks(self):
        with pytest.raises(InputError, match=r"with 2 codebooks.* received .*3"):
            vimco().likelihood(torch.zeros(1, 3, 2, 3, dtype=torch.int64))

    def test_a_size_that_does_not_divide(self):
        with pytest.raises(InputError, match=r"multiples of 4 .* received 8x10"):
            vimco(SignalSpec(3, (8, 10)))

    def test_the_title_names_the_number_of_samples(self):
        assert vimco().title == "VIMCO, 4 samples"

    @pytest.mark.parametrize(
        "name", ["num_codebooks", "num_codes", "code_dim", "num_samples", "decode_at_once"]
    )
    def test_numbers_out_of_range(self, name):
        model = vimco()
        sizes = {"num_codebooks": 2, "num_codes": 5, "code_dim": 4, name: 0}
        with pytest.raises(InputError, match=name):
            VIMCO(model.encoder, model.decoder, model.family, LARGER, **sizes)

    def test_a_class_conditional_decoder_is_refused(self):
        """Its labels would be charged for and never passed."""
        model = vimco()
        decoder = ConvDecoder(8, 18, strides=(2, 2), conditions={"label": 5})
        with pytest.raises(InputError, match="conditioned on label"):
            VIMCO(model.encoder, decoder, model.family, LARGER, num_codebooks=2, num_codes=5, code_dim=4)

    def test_a_config_survives_json(self):
        config = VIMCOConfig(num_codes=7, num_samples=9, likelihood=CategoricalConfig())
        assert VIMCOConfig.model_validate_json(config.model_dump_json()) == config
