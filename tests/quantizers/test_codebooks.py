"""Learning of codebooks: the averages against NumPy, initialisation, revival; several processes as one."""

import copy

import numpy as np
import pytest
import torch

from smalti.core.errors import InputError
from smalti.quantizers.codebooks.base import search
from smalti.quantizers.codebooks.ema import EMACodebook, EMACodebookConfig
from smalti.quantizers.codebooks.frozen import FrozenCodebook
from smalti.quantizers.codebooks.gradient import GradientCodebook
from smalti.quantizers.codebooks.statistics import APART
from smalti.quantizers.vq import VectorQuantizer
from tests.nn.test_collectives import on_ranks

BUFFERS = ("codes", "counts", "sums", "missed", "steps")


def ema(num_codebooks: int = 1, num_codes: int = 4, code_dim: int = 2, started: bool = False, **settings):
    """An EMA codebook; a started one has taken a step, so that it is not initialised from tokens."""
    torch.manual_seed(0)
    codebook = EMACodebook(num_codebooks, num_codes, code_dim, EMACodebookConfig(**settings))
    if started:
        codebook.step = 1
        codebook.counts.fill_(1.0)
        codebook.sums.copy_(codebook.codes)
    return codebook


def step(codebook: EMACodebook, tokens: torch.Tensor) -> torch.Tensor:
    """Output of a quantizer for a training batch."""
    codebook.prepare(tokens)
    indices = search(tokens, codebook.codes)
    codebook.learn(tokens, indices)
    return indices


def buffers(codebook: EMACodebook) -> dict[str, torch.Tensor]:
    return {name: getattr(codebook, name).clone() for name in BUFFERS}


def test_a_first_batch_without_tokens_is_refused():
    codebook = ema()
    before = buffers(codebook)
    with pytest.raises(InputError):
        codebook.prepare(torch.zeros(1, 0, 2))
    assert all(torch.equal(value, before[name]) for name, value in buffers(codebook).items())


def test_the_device_is_never_asked_for_the_step(monkeypatch):
    """All reads of one number; on a device each would wait for it."""
    asked = []

    def noted(name):
        original = getattr(torch.Tensor, name)

        def read(tensor):
            asked.append(tensor)
            return original(tensor)

        return read

    codebook = ema(revive_after=0)
    for name in ("item", "__int__", "__bool__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, noted(name))
    tokens = torch.randn(1, 20, 2)
    for _ in range(4):
        step(codebook, tokens)
    assert asked, "what it reads is the number on the host"
    assert not any(tensor is codebook.steps for tensor in asked)


def test_the_step_on_the_host_follows_the_buffer():
    codebook, tokens = ema(), torch.randn(1, 20, 2)
    for taken in range(3):
        assert codebook.step == codebook.steps == taken
        step(codebook, tokens)
    copied = copy.deepcopy(codebook)
    step(copied, tokens)
    assert (codebook.step, copied.step, int(copied.steps)) == (3, 4, 4)
    loaded = ema()
    loaded.load_state_dict(codebook.state_dict())
    assert loaded.step == loaded.steps == 3
    codebook.load_state_dict(ema().state_dict())
    assert codebook.step == codebook.steps == 0
    step(codebook, tokens + 100)
    assert codebook.codes.min() > 50, "it was initialised from data again"


class TestMovingAverages:
    @pytest.mark.parametrize("epsilon", [1e-5, 0.1])
    @pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
    def test_several_steps_against_numpy(self, decay, epsilon):
        """Appendix A.1, with the Laplace smoothing of the authors' code on a copy of the counts."""
        num_codebooks, num_codes, dim = 2, 5, 3
        codebook = ema(
            num_codebooks, num_codes, dim, started=True, decay=decay, epsilon=epsilon, revive_after=0
        )
        rng = np.random.default_rng(0)
        counts, sums = codebook.counts.double().numpy(), codebook.sums.double().numpy()
        for _ in range(6):
            tokens = rng.normal(size=(num_codebooks, 9, dim)).astype(np.float32)
            indices = rng.integers(0, num_codes - 1, (num_codebooks, 9))  # the last code is never chosen
            codebook.learn(torch.from_numpy(tokens), torch.from_numpy(indices))
            for g in range(num_codebooks):
                for i in range(num_codes):
                    chosen = tokens[g, indices[g] == i]
                    counts[g, i] = decay * counts[g, i] + (1 - decay) * len(chosen)
                    sums[g, i] = decay * sums[g, i] + (1 - decay) * chosen.sum(0)
            total = counts.sum(1, keepdims=True)
            smoothed = (counts + epsilon) / (total + num_codes * epsilon) * total
            np.testing.assert_allclose(codebook.counts.numpy(), counts, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(codebook.sums.numpy(), sums, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(
                codebook.codes.numpy(), sums / smoothed[..., None], rtol=1e-4, atol=1e-5
            )
        assert codebook.steps.item() == 7

    def test_codes_converge_to_the_means_of_their_tokens(self):
        codebook = ema(decay=0.5, started=True)
        tokens = torch.randn(1, 40, 2)
        indices = torch.arange(40).unsqueeze(0) % 4
        for _ in range(40):
            codebook.learn(tokens, indices)
        means = torch.stack([tokens[0, indices[0] == i].mean(0) for i in range(4)])
        torch.testing.assert_close(codebook.codes[0], means, rtol=1e-4, atol=1e-4)

    def test_a_token_that_is_not_finite_is_left_out(self):
        tokens, indices = torch.randn(1, 8, 2), torch.arange(8).unsqueeze(0) % 4
        one, other = (ema(started=True) for _ in range(2))
        one.learn(tokens, indices)
        bad = torch.cat([tokens, torch.tensor([[[torch.nan, 1.0], [2.0, torch.inf]]])], 1)
        other.learn(bad, torch.cat([indices, torch.tensor([[0, 3]])], 1))
        for name in BUFFERS:
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


class TestInitialisation:
    def test_without_iterations_codes_are_tokens_each_another(self):
        tokens = torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(1)) * 5 + 100
        codebook = ema(2, 16, 3, init_iterations=0)
        codebook.prepare(tokens)
        distance, which = torch.cdist(codebook.codes, tokens).min(2)
        assert distance.max() < 5 * APART * 5  # five deviations of the noise that keeps them apart
        assert all(len(of_codebook.unique()) == 16 for of_codebook in which)

    def test_codes_are_the_means_of_clusters(self):
        """Four tight clusters far apart and from the origin: k-means finds what it was begun in."""
        centres = torch.tensor([[50.0, 50.0], [50.0, -50.0], [-50.0, 50.0], [-50.0, -50.0]]) + 200
        tokens = (centres.repeat(50, 1) + 0.1 * torch.randn(200, 2)).unsqueeze(0)
        codebook = ema(num_codes=64)
        codebook.prepare(tokens)
        indices = search(tokens, codebook.codes)[0]
        for i in indices.unique():
            torch.testing.assert_close(
                codebook.codes[0, i], tokens[0, indices == i].mean(0), rtol=1e-4, atol=0.05
            )
        assert torch.cdist(tokens, codebook.codes).amin(2).max() < 0.5

    def test_k_means_lowers_the_distortion(self):
        tokens = torch.randn(1, 500, 4, generator=torch.Generator().manual_seed(1))
        distortion = []
        for iterations in (0, 1, 10):
            codebook = ema(num_codes=16, code_dim=4, init_iterations=iterations)
            codebook.prepare(tokens)
            distortion.append(torch.cdist(tokens, codebook.codes).amin(2).square().mean().item())
        assert distortion[0] > 1.05 * distortion[1] > 1.05 * distortion[2]

    def test_only_at_the_first_batch(self):
        codebook = ema()
        step(codebook, torch.randn(1, 20, 2))
        before = buffers(codebook)
        codebook.prepare(torch.randn(1, 20, 2) + 50)
        assert all(torch.equal(getattr(codebook, name), value) for name, value in before.items())

    @pytest.mark.parametrize("num", [1, 2, 5])
    def test_fewer_tokens_than_codes(self, num):
        tokens = torch.randn(1, num, 2)
        codebook = ema(num_codes=16)
        for _ in range(12):
            indices = step(codebook, tokens)
        assert codebook.codes.isfinite().all()
        torch.testing.assert_close(codebook.codes[0, indices[0]], tokens[0], rtol=0, atol=0.05)

    def test_a_token_that_is_not_finite_poisons_no_code(self):
        tokens = torch.randn(1, 40, 2)
        tokens[0, ::7] = torch.nan
        codebook = ema(num_codes=16)
        for _ in range(12):
            step(codebook, tokens)
        assert all(value.isfinite().all() for value in buffers(codebook).values())
        finite = tokens[:, tokens[0].isfinite().all(1)]
        assert torch.cdist(finite, codebook.codes).amin(2).mean() < 0.3

    def test_the_same_for_every_state_of_the_global_generator(self):
        results = []
        for seed in (1, 2):
            codebook = EMACodebook(1, 16, 2, EMACodebookConfig(revive_every=2))
            torch.manual_seed(seed)
            for at in range(6):
                step(codebook, torch.randn(1, 30, 2, generator=torch.Generator().manual_seed(at)))
            results.append(buffers(codebook))
        assert all(torch.equal(results[0][name], results[1][name]) for name in BUFFERS)

    def test_another_seed_draws_other_tokens(self):
        tokens = torch.randn(1, 60, 2)
        one, other = ema(seed=0, init_iterations=0), ema(seed=1, init_iterations=0)
        one.prepare(tokens)
        other.prepare(tokens)
        assert not torch.allclose(one.codes, other.codes, atol=1e-2)


class TestRevival:
    TOKENS = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.1, 0.0], [0.0, 1.1], [0.9, 0.2], [0.2, 0.9]]])
    INDICES = torch.tensor([[0, 1, 0, 1, 0, 1]])

    @staticmethod
    def with_dead_codes(**settings) -> EMACodebook:
        """Codes 0 and 1 are in use; 2 and 3 have long been far away from all tokens."""
        codebook = ema(started=True, decay=0.5, **settings)
        codebook.missed.copy_(torch.tensor([[0.0, 0.0, 99.0, 99.0]]))
        codebook.counts.copy_(torch.tensor([[3.0, 3.0, 1e-3, 1e-3]]))
        codebook.codes.copy_(torch.tensor([[[1.0, 0.1], [0.1, 1.0], [90.0, 90.0], [-90.0, 90.0]]]))
        codebook.sums.copy_(codebook.codes * codebook.counts.unsqueeze(2))
        return codebook

    def test_dead_codes_get_tokens_with_count_and_sum_and_others_nothing(self):
        revived, left = self.with_dead_codes(revive_every=1), self.with_dead_codes(revive_after=0)
        for codebook in (revived, left):
            codebook.learn(self.TOKENS, self.INDICES)
        even_share = 6 / 4
        for dead in (2, 3):
            torch.testing.assert_close(revived.counts[0, dead].item(), even_share)
            token = (revived.sums[0, dead] - even_share * self.TOKENS[0]).abs().amax(1).argmin()
            near = 5 * APART * self.TOKENS.std().item()
            torch.testing.assert_close(
                revived.sums[0, dead], even_share * self.TOKENS[0, token], rtol=0, atol=even_share * near
            )
            torch.testing.assert_close(revived.codes[0, dead], self.TOKENS[0, token], rtol=1e-4, atol=near)
            assert revived.missed[0, dead] == 0
            assert left.codes[0, dead].norm() > 50
        assert torch.equal(revived.counts[:, :2], left.counts[:, :2])
        assert torch.equal(revived.sums[:, :2], left.sums[:, :2])
        torch.testing.assert_close(revived.codes[:, :2], left.codes[:, :2], rtol=1e-3, atol=0)

    def test_a_revived_code_comes_into_use(self):
        codebook = self.with_dead_codes(revive_every=1)
        assert step(codebook, self.TOKENS).max() == 1
        assert step(codebook, self.TOKENS).max() > 1

    def test_only_every_so_many_steps(self):
        codebook = self.with_dead_codes(revive_every=4)
        dead_after = []
        for _ in range(4):
            codebook.learn(self.TOKENS, self.INDICES)
            dead_after.append(codebook.counts[0, 2].item() < 0.01)
        assert dead_after == [True, True, False, False]  # the codebook had taken one step before

    @pytest.mark.parametrize(("revive_after", "steps"), [(6.0, 4), (100.0, 67)])
    def test_dead_is_what_an_even_share_would_have_chosen_so_often(self, revive_after, steps):
        """An even share of 6 tokens on 4 codes is 1.5 a step."""
        codebook = self.with_dead_codes(revive_every=1, revive_after=revive_after)
        codebook.missed.zero_()
        taken = 0
        while codebook.counts[0, 2] < 0.01:
            codebook.learn(self.TOKENS, self.INDICES)
            taken += 1
        assert taken == steps

    def test_a_code_that_is_chosen_now_and_then_is_alive(self):
        codebook = self.with_dead_codes(revive_every=1, revive_after=6.0)
        codebook.missed.zero_()
        with_2 = torch.tensor([[0, 1, 0, 1, 0, 2]])
        for at in range(20):
            codebook.learn(self.TOKENS, with_2 if at % 3 == 0 else self.INDICES)
            torch.testing.assert_close(codebook.missed[0, 2].item(), at % 3 * 1.5)

    def test_a_batch_without_a_finite_token_leaves_all_finite(self):
        codebook = self.with_dead_codes(revive_every=1, revive_after=99.0)
        for tokens in (torch.full((1, 6, 2), torch.nan), self.TOKENS):
            step(codebook, tokens)
            assert all(value.isfinite().all() for value in buffers(codebook).values())
        assert torch.cdist(self.TOKENS, codebook.codes).amin(2).max() < 0.5

    def test_collapse_is_undone(self):
        """All codes far from the data but one, which at first takes every token."""
        codebook = ema(num_codes=16, started=True, decay=0.9)
        codebook.codes.copy_(torch.full((1, 16, 2), 100.0))
        codebook.codes[0, 0] = 0.0
        codebook.sums.copy_(codebook.codes)
        tokens = torch.randn(1, 200, 2)
        assert len(step(codebook, tokens).unique()) == 1
        for _ in range(100):
            indices = step(codebook, tokens)
        assert len(indices.unique()) == 16


class TestGradient:
    def test_initial_range_is_the_fan_in_scaling(self):
        torch.manual_seed(0)
        codes = GradientCodebook(2, 512, 12).codes
        assert 0.99 * 0.5 < codes.abs().max() <= 0.5
        assert codes.mean().abs() < 0.02

    def test_only_the_optimiser_moves_it(self):
        codebook = GradientCodebook(1, 4, 2)
        before = codebook.codes.detach().clone()
        tokens = torch.randn(1, 9, 2)
        codebook.prepare(tokens)
        codebook.learn(tokens, search(tokens, codebook.codes))
        assert torch.equal(codebook.codes, before)


class TestFrozen:
    def test_only_set_moves_it(self):
        codebook = FrozenCodebook(2, 4, 3).train()
        assert list(codebook.parameters()) == []
        codes = torch.randn(2, 4, 3)
        codebook.set(codes)
        tokens = torch.randn(2, 9, 3)
        codebook.prepare(tokens)
        codebook.learn(tokens, search(tokens, codebook.codes))
        assert torch.equal(codebook.codes, codes)
        assert codebook.loss(tokens, tokens) is None

    def test_it_is_saved_with_its_model(self):
        one, other = (FrozenCodebook(1, 4, 3) for _ in range(2))
        assert not torch.equal(one.codes, other.codes)
        other.load_state_dict(one.state_dict())
        assert torch.equal(one.codes, other.codes)

    def test_a_quantizer_over_it_searches_it(self):
        quantizer = VectorQuantizer(dim=3, num_codes=8, codebook="frozen").train()
        latents = torch.randn(2, 3, 5)
        before = quantizer.codebook.codes.clone()
        quantized = quantizer(latents)
        distances = torch.cdist(latents.transpose(1, 2), before[0])
        assert torch.equal(quantized.codes[:, 0], distances.argmin(2))
        torch.testing.assert_close(quantized.latents.transpose(1, 2), before[0][quantized.codes[:, 0]])
        assert torch.equal(quantizer.codebook.codes, before)


def batches(rank: int) -> list[torch.Tensor]:
    """Tokens `(G, n, D)` of a rank: different, of unequal numbers, once none and once none that is finite."""
    generator = torch.Generator().manual_seed(rank)
    numbers = [(30, 10), (0, 20), (20, 0), (5, 5), (7, 40), (12, 12)]
    tokens = [torch.randn(2, pair[rank], 3, generator=generator) + rank for pair in numbers]
    if rank == 1:
        tokens[3].fill_(torch.nan)
    return tokens


def train(shares: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    codebook = ema(2, 8, 3, decay=0.8, revive_every=2, revive_after=4.0)
    torch.manual_seed(int(shares[0].sum() * 100) % 1000)  # ranks' global generators may differ
    for tokens in shares:
        step(codebook, tokens)
    return buffers(codebook)


def train_rank(rank: int) -> dict[str, torch.Tensor]:
    return train(batches(rank))


def test_two_processes_learn_what_one_learns_from_both_shares():
    first, second = on_ranks(train_rank, 2)
    for name in BUFFERS:
        assert torch.equal(first[name], second[name])
    whole = train([torch.cat(pair, 1) for pair in zip(batches(0), batches(1), strict=True)])
    for name in BUFFERS:
        torch.testing.assert_close(first[name], whole[name], rtol=1e-4, atol=1e-5)
