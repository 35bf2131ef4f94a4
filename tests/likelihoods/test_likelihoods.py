"""Likelihoods: probabilities of levels against the mathematics of Python, draws against probabilities."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from smalti.core.parts import Likelihood
from smalti.core.signals import SignalSpec
from smalti.likelihoods.categorical import Categorical, CategoricalConfig, CategoricalFamily
from smalti.likelihoods.gaussian import Gaussian, GaussianConfig, GaussianFamily
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureConfig, LogisticMixtureFamily

MEANS, LOG_SCALES = [-30.0, -1.5, -1.0, 0.001, 0.9, 1.0, 4.0], [-7.0, -3.0, 0.0, 1.5]


def level_values(levels: int) -> np.ndarray:
    return 2 * np.arange(levels) / (levels - 1) - 1


def mass(cdf: Callable[[float], float], mean: float, scale: float, levels: int) -> np.ndarray:
    """Probability of each level's bin, the outermost open; exact in both tails."""
    half = 1 / (levels - 1)
    masses = []
    for k, value in enumerate(level_values(levels)):
        a = -math.inf if k == 0 else (value - half - mean) / scale
        b = math.inf if k == levels - 1 else (value + half - mean) / scale
        if a > 0:
            a, b = -b, -a
        masses.append(cdf(b) - cdf(a))
    return np.array(masses)


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def logistic_cdf(x: float) -> float:
    return 0.0 if x < -700 else 1 / (1 + math.exp(-x))


def gaussian(num: int, mean: float, log_scale: float, levels: int = 256, dtype=torch.float64) -> Gaussian:
    """`num` equal elements."""
    return Gaussian(torch.full((1, 1, num), mean, dtype=dtype), torch.tensor(log_scale, dtype=dtype), levels)


def mixture(num: int, logits, means, log_scales, levels: int = 256, dtype=torch.float64) -> LogisticMixture:
    """`num` equal elements."""
    parts = (
        torch.tensor(part, dtype=dtype).view(1, 1, -1, 1).expand(1, 1, -1, num)
        for part in (logits, means, log_scales)
    )
    return LogisticMixture(*parts, levels)


def categorical(num: int, logits, dtype=torch.float64) -> Categorical:
    """`num` equal elements."""
    return Categorical(torch.tensor(logits, dtype=dtype).view(1, 1, -1, 1).expand(1, 1, -1, num))


def log_probs(likelihood: Likelihood, levels: int, dtype=torch.float64) -> np.ndarray:
    """ln p of every level, by a likelihood that has as many elements as levels."""
    every = torch.from_numpy(level_values(levels)).to(dtype).view(1, 1, -1)
    return likelihood.log_prob(every).squeeze().double().numpy()


def assert_log_probs(actual: np.ndarray, masses: np.ndarray) -> None:
    representable = masses > 1e-290
    np.testing.assert_allclose(actual[representable], np.log(masses[representable]), rtol=1e-6, atol=1e-6)
    assert (actual[~representable] < -600).all()
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(np.exp(actual).sum(), 1, rtol=1e-6)


class TestLogProb:
    @pytest.mark.parametrize("levels", [2, 8, 256])
    @pytest.mark.parametrize("log_scale", LOG_SCALES)
    @pytest.mark.parametrize("mean", MEANS)
    def test_gaussian(self, mean, log_scale, levels):
        actual = log_probs(gaussian(levels, mean, log_scale, levels), levels)
        assert_log_probs(actual, mass(normal_cdf, mean, math.exp(log_scale), levels))

    @pytest.mark.parametrize("levels", [2, 8, 256])
    @pytest.mark.parametrize("log_scale", LOG_SCALES)
    @pytest.mark.parametrize("mean", MEANS)
    def test_one_logistic(self, mean, log_scale, levels):
        actual = log_probs(mixture(levels, [2.0], [mean], [log_scale], levels), levels)
        assert_log_probs(actual, mass(logistic_cdf, mean, math.exp(log_scale), levels))

    def test_mixture_of_logistics(self):
        logits, means, log_scales = [0.3, -1.0, 2.0], [-0.9, 0.2, 1.2], [-6.0, -2.0, -0.5]
        actual = log_probs(mixture(256, logits, means, log_scales), 256)
        weights = np.exp(logits) / np.exp(logits).sum()
        parts = [mass(logistic_cdf, m, math.exp(s), 256) for m, s in zip(means, log_scales, strict=True)]
        assert_log_probs(actual, sum(w * part for w, part in zip(weights, parts, strict=True)))

    def test_categorical(self):
        logits = np.random.default_rng(0).normal(size=256) * 20
        expected = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        np.testing.assert_allclose(log_probs(categorical(256, logits.tolist()), 256), expected, rtol=1e-9)

    @pytest.mark.parametrize("log_scale", LOG_SCALES)
    @pytest.mark.parametrize("mean", MEANS)
    def test_in_float32_it_sums_to_one_and_agrees(self, mean, log_scale):
        for make in (
            lambda dtype: gaussian(256, mean, log_scale, dtype=dtype),
            lambda dtype: mixture(256, [0.0, 1.0], [mean, 0.3], [log_scale, -2.0], dtype=dtype),
        ):
            single = log_probs(make(torch.float32), 256, torch.float32)
            np.testing.assert_allclose(np.exp(single).sum(), 1, rtol=1e-3)
            # Only probabilities: of a far tail's logarithm float32 holds fewer digits after the point.
            np.testing.assert_allclose(np.exp(single), np.exp(log_probs(make(torch.float64), 256)), atol=1e-4)

    @pytest.mark.parametrize("log_scale", [5.0, 12.0, 40.0])
    def test_a_scale_beyond_all_reason_still_sums_to_one(self, log_scale):
        for likelihood in (
            gaussian(256, 0.1, log_scale, dtype=torch.float32),
            mixture(256, [0.0], [0.1], [log_scale], dtype=torch.float32),
        ):
            np.testing.assert_allclose(np.exp(log_probs(likelihood, 256, torch.float32)).sum(), 1, rtol=1e-3)


class TestGradients:
    @pytest.mark.parametrize("log_scale", [-7.0, -2.0, 3.0, 30.0])
    @pytest.mark.parametrize("mean", [-1e4, -3.0, -1.0, 0.0, 1.0, 3.0, 1e4])
    def test_finite_at_the_outermost_levels_and_in_far_tails(self, mean, log_scale):
        signal = torch.tensor([[[-1.0, 1.0, 0.0, 1 - 2 / 255]]])
        mean_, log_scale_ = (torch.full((1, 1, 4), value, requires_grad=True) for value in (mean, log_scale))
        wide = [p.unsqueeze(2).expand(1, 1, 2, 4) for p in (torch.zeros(1, 1, 4), mean_, log_scale_)]
        for likelihood in (Gaussian(mean_, log_scale_, 256), LogisticMixture(*wide, 256)):
            log_prob = likelihood.log_prob(signal)
            gradients = torch.autograd.grad(log_prob.sum(), [mean_, log_scale_])
            assert log_prob.isfinite().all()
            assert all(gradient.isfinite().all() for gradient in gradients)

    @pytest.mark.parametrize("scales_away", [2.0, 30.0, 1e3, 9e3, 2e4, 56_530.0])
    def test_of_a_far_tail_are_those_of_its_leading_term(self, scales_away):
        """With narrow bins ln p is about -z^2 / 2 for a Gaussian z scales away, and -z for a logistic."""
        scale = 0.3
        mean = torch.full((1, 1, 1), -scale * scales_away, requires_grad=True)
        signal, log_scale = torch.zeros(1, 1, 1), torch.tensor(math.log(scale))
        wide = mean.unsqueeze(2), log_scale.expand(1, 1, 1, 1)
        for likelihood, slope in (
            (Gaussian(mean, log_scale, 65536), scales_away / scale),
            (LogisticMixture(torch.zeros(1, 1, 1, 1), *wide, 65536), math.tanh(scales_away / 2) / scale),
        ):
            (gradient,) = torch.autograd.grad(likelihood.log_prob(signal).sum(), mean)
            assert gradient.item() == pytest.approx(slope, rel=0.01)

    def test_a_mean_far_away_is_pulled_towards_the_signal(self):
        mean = torch.tensor([[[-1.0, -1.0, 1.0, 1.0]]], requires_grad=True)
        signal = torch.tensor([[[1.0, 0.0, -1.0, 0.0]]])
        scales = torch.full((1, 1, 1, 4), -7.0)
        for likelihood in (
            Gaussian(mean, torch.tensor(-7.0), 256),
            LogisticMixture(torch.zeros(1, 1, 1, 4), mean.unsqueeze(2), scales, 256),
        ):
            (gradient,) = torch.autograd.grad(likelihood.log_prob(signal).sum(), mean)
            assert (gradient * (signal - mean) > 1).all()

    def test_numerically(self):
        signal = torch.from_numpy(level_values(8)).view(1, 1, 8)
        torch.manual_seed(0)
        mean, log_scale = (torch.randn(1, 1, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
        assert torch.autograd.gradcheck(lambda m, s: Gaussian(m, s, 8).log_prob(signal), (mean, log_scale))
        parts = [torch.randn(1, 1, 3, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        assert torch.autograd.gradcheck(lambda *p: LogisticMixture(*p, 8).log_prob(signal), parts)


SAMPLED = {
    "gaussian": lambda num, dtype: gaussian(num, 0.2, -0.9, 16, dtype),
    "gaussian beyond the range": lambda num, dtype: gaussian(num, 1.1, -2.0, 16, dtype),
    "mixture": lambda num, dtype: mixture(num, [0.0, 1.0], [-0.8, 0.5], [-2.5, -1.5], 16, dtype),
    "mixture with wide tails": lambda num, dtype: mixture(
        num, [0.0, -1.0], [-1.0, 0.9], [0.5, -4.0], 16, dtype
    ),
    "categorical": lambda num, dtype: categorical(num, [k % 5 - 2 for k in range(16)], dtype),
}


class TestSamples:
    @pytest.mark.parametrize("make", SAMPLED.values(), ids=SAMPLED)
    def test_lie_on_levels_as_often_as_their_probability(self, make):
        num = 40_000
        drawn = make(num, torch.float32).sample(torch.Generator().manual_seed(0))
        assert torch.equal(from_levels(to_levels(drawn, 16), 16), drawn)
        expected = num * np.exp(log_probs(make(16, torch.float64), 16))
        observed = np.bincount(to_levels(drawn, 16).flatten().numpy(), minlength=16)
        likely = expected > 5
        chi_square = ((observed - expected)[likely] ** 2 / expected[likely]).sum()
        degrees = likely.sum()
        assert degrees > 2
        assert chi_square < degrees + 5 * math.sqrt(2 * degrees)
        assert observed[~likely].sum() < 5 * degrees

    @pytest.mark.parametrize("make", SAMPLED.values(), ids=SAMPLED)
    def test_follow_the_generator(self, make):
        likelihood = make(100, torch.float32)
        one, same, other = (likelihood.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


class TestTemperature:
    LIKELIHOODS = pytest.mark.parametrize(
        ("likelihood", "mode"),
        [
            (gaussian(9, 0.13, -2.0, 16), 0.13),
            (gaussian(9, 3.0, -2.0, 16), 1.0),
            (mixture(9, [0.5, 1.5], [-0.6, 0.4], [-1.0, -3.0], 16), 0.4),
            (categorical(9, [0.0, 3.0, 1.0, 2.9]), 2 / 3 - 1),
        ],
        ids=["gaussian", "gaussian beyond the range", "mixture", "categorical"],
    )

    @staticmethod
    def draw(likelihood: Likelihood, temperature: float, seed: int) -> torch.Tensor:
        return likelihood.sample(torch.Generator().manual_seed(seed), temperature)

    @LIKELIHOODS
    def test_none_takes_the_likeliest_level(self, likelihood, mode):
        for seed in (0, 1):
            drawn = self.draw(likelihood, 0.0, seed)
            levels = 4 if isinstance(likelihood, Categorical) else 16
            assert torch.equal(to_levels(drawn, levels), to_levels(torch.full((1, 1, 9), mode), levels))
        every = log_probs(likelihood, 4) if isinstance(likelihood, Categorical) else None
        assert every is None or every.argmax() == 1

    def test_numbers_are_made_where_the_generator_is(self, monkeypatch):
        """The meta device stands for a GPU here, whose generator cannot be that of a CPU."""
        devices = []

        def noted(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
            def drawn(*size, **settings):
                devices.append(torch.device(settings["device"]).type)
                return draw(*size, **settings)

            return drawn

        for name in ("rand", "randn"):
            monkeypatch.setattr(torch, name, noted(getattr(torch, name)))
        given = torch.zeros(1, 1, 4, 9, device="meta")
        for likelihood in (
            Gaussian(given[:, :, 0], torch.zeros((), device="meta"), 16),
            LogisticMixture(given, given, given, 16),
            Categorical(given),
        ):
            assert self.draw(likelihood, 0.5, 0).device.type == "meta"
            assert set(devices) == {"cpu"}
            likelihood.sample()
            assert devices.pop() == "meta"
            devices.clear()

    @LIKELIHOODS
    def test_of_one_changes_no_draw(self, likelihood, mode):
        for seed in (0, 1):
            plain = likelihood.sample(torch.Generator().manual_seed(seed))
            assert torch.equal(self.draw(likelihood, 1.0, seed), plain)

    def test_of_a_softmax_divides_the_logits(self):
        logits = [0.0, 1.0, -1.0, 2.0]
        drawn = to_levels(self.draw(categorical(40_000, logits), 0.5, 0), 4).flatten()
        expected = torch.tensor(logits).div(0.5).softmax(0)
        torch.testing.assert_close(drawn.bincount() / 40_000, expected, rtol=0, atol=0.01)

    def test_of_a_gaussian_scales_its_deviation(self):
        drawn = self.draw(gaussian(40_000, 0.1, math.log(0.2), 4096), 0.5, 0)
        assert drawn.std().item() == pytest.approx(0.1, rel=0.02)
        assert drawn.mean().item() == pytest.approx(0.1, abs=0.003)


class TestMean:
    @pytest.mark.parametrize(
        "likelihood",
        [
            gaussian(256, 0.3, -3.0),
            gaussian(256, -0.97, -6.0),
            gaussian(256, 5.0, -2.0),
            mixture(256, [0.0, 1.0], [-0.5, 0.4], [-4.0, -3.0]),
            mixture(256, [0.0, 1.0], [-7.0, 7.0], [-4.0, -3.0]),
            categorical(256, [math.sin(k / 9) for k in range(256)]),
        ],
    )
    def test_is_the_expectation(self, likelihood):
        expectation = (np.exp(log_probs(likelihood, 256)) * level_values(256)).sum()
        np.testing.assert_allclose(likelihood.mean().flatten().numpy(), expectation, atol=5e-3)

    def test_of_a_softmax_is_not_rounded_by_autocast(self):
        likelihood = Categorical(torch.randn(2, 3, 256, 4, 4))
        expected = likelihood.mean()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(likelihood.mean(), expected)


class TestLevels:
    @pytest.mark.parametrize("levels", [2, 3, 16, 255, 256, 65536])
    def test_there_and_back(self, levels):
        every = torch.arange(levels)
        signal = from_levels(every, levels)
        assert torch.equal(to_levels(signal, levels), every)
        np.testing.assert_allclose(signal.numpy(), level_values(levels), atol=2e-7)

    def test_every_byte_keeps_its_class(self):
        pixels = torch.arange(256, dtype=torch.uint8)
        for signal in (from_levels(pixels, 256), pixels.float() / 127.5 - 1, pixels.double() / 255 * 2 - 1):
            assert torch.equal(to_levels(signal, 256), pixels.long())

    def test_the_nearest_level_and_never_beyond(self):
        signal = torch.tensor([-5.0, -1.0, -0.01, 0.01, 0.99, 7.0])
        assert to_levels(signal, 3).tolist() == [0, 0, 1, 1, 2, 2]


SPEC = SignalSpec(channels=3, size=(2, 2))


class TestFamilies:
    def test_gaussian_has_one_learned_scale_a_channel(self):
        family = GaussianFamily(SPEC.channels, SPEC.levels)
        family.log_scale.data = torch.tensor([-1.0, -2.0, -20.0])  # the last below the least scale
        means = torch.randn(2, 3, 2, 2)
        signal = from_levels(torch.randint(256, means.shape), 256)
        actual = family(means).log_prob(signal)
        for channel, log_scale in enumerate((-1.0, -2.0, -7.0)):
            alone = Gaussian(means[:, [channel]], torch.tensor(log_scale), 256).log_prob(signal[:, [channel]])
            torch.testing.assert_close(actual[:, [channel]], alone)

    @pytest.mark.parametrize("ndim", [1, 2, 3])
    def test_mixture_layout(self, ndim):
        spec = SignalSpec(channels=2, size=(3,) * ndim)
        family = LogisticMixtureFamily(spec.channels, spec.levels, components=4)
        assert family.num_parameters == 12 * spec.channels
        parameters = torch.randn(2, 24, *spec.size)
        signal = from_levels(torch.randint(256, (2, 2, *spec.size)), 256)
        logits, means, log_scales = parameters.view(2, 2, 3, 4, *spec.size).unbind(2)
        anchors = torch.tensor([-0.6, -0.2, 0.2, 0.6]).view(-1, *[1] * ndim)
        by_hand = LogisticMixture(logits, means + anchors, log_scales - 2, 256)
        torch.testing.assert_close(family(parameters).log_prob(signal), by_hand.log_prob(signal))

    def test_categorical_layout(self):
        family = CategoricalFamily(SPEC.channels, SPEC.levels)
        target = torch.randint(256, (2, 3, 2, 2))
        parameters = torch.full((2, 3, 256, 2, 2), -50.0).scatter_(2, target.unsqueeze(2), 50.0).flatten(1, 2)
        likelihood = family(parameters)
        assert (likelihood.log_prob(from_levels(target, 256)) > -1e-6).all()
        assert (likelihood.log_prob(from_levels((target + 1) % 256, 256)) < -90).all()
        assert torch.equal(to_levels(likelihood.mean(), 256), target)
        assert torch.equal(likelihood.sample(), from_levels(target, 256))

    @pytest.mark.parametrize(
        ("config", "kind"),
        [
            (GaussianConfig(), GaussianFamily),
            (LogisticMixtureConfig(), LogisticMixtureFamily),
            (CategoricalConfig(), CategoricalFamily),
        ],
    )
    def test_built_by_config(self, config, kind):
        assert type(config.build(SPEC)) is kind
