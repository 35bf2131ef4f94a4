"""The autoregressive likelihood: a distribution, by the sum over all signals, and drawn from as it says."""

import itertools
import math

import pytest
import torch

from smalti.autoregressive.transformer import Transformer
from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.coding.streams import Decoder, Encoder
from smalti.conditioners.embedding import Embedding
from smalti.core.conditions import Conditions, PerItem
from smalti.core.errors import InputError
from smalti.core.parts import LikelihoodFamily
from smalti.core.signals import SignalSpec
from smalti.decoders.autoregressive import (
    AutoregressiveFamily,
    AutoregressiveLikelihood,
    PixelCNNDecoderConfig,
    WaveNetDecoderConfig,
    init_ordered,
)
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.categorical import Categorical, CategoricalConfig
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from tests.models.tiny import exaggerate

NUM_CLASSES, DIM = 3, 4
FACTORS = pytest.mark.parametrize(
    ("factor", "levels"),
    [
        (CategoricalConfig(), 4),
        (LogisticMixtureConfig(components=3), 4),
        # As many parameters as levels: they must not be taken for logits.
        (LogisticMixtureConfig(components=2), 6),
    ],
    ids=["categorical", "mixture", "mixture of as many parameters as levels"],
)


def config(upsample: tuple[int, ...] = (), **network) -> WaveNetDecoderConfig:
    return WaveNetDecoderConfig(
        channels=6,
        residual_channels=4,
        upsample=upsample,
        network=WaveNetConfig.tiny().model_copy(update=network),
    )


def family(
    factor, levels: int, length: int = 3, strides=(3,), upsample: tuple[int, ...] = (), num_classes: int = 0
) -> AutoregressiveFamily:
    spec = SignalSpec(1, (length,), levels)
    encoder = ConvEncoderConfig(strides=strides, channels=4).build(spec, DIM)
    torch.manual_seed(0)
    _, made = config(upsample).build(spec, DIM, encoder, factor.build(spec), {"label": num_classes})
    made.eval()
    exaggerate(made.network)
    return made


def locals_of(made: AutoregressiveFamily, num: int, frames: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(num, made.num_parameters, frames, generator=torch.Generator().manual_seed(seed))


def every_signal(levels: int, length: int = 3) -> torch.Tensor:
    every = torch.tensor(list(itertools.product(range(levels), repeat=length)))
    return from_levels(every, levels).unsqueeze(1)


class Softmax(LikelihoodFamily):
    """A softmax family of a user's own."""

    gives_logits = True

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.channels, self.levels, self.num_parameters = channels, levels, channels * levels

    def forward(self, parameters, conditions=None):
        return Categorical(parameters.unflatten(1, (self.channels, self.levels)))


@torch.no_grad()
def test_a_softmax_of_ones_own_is_the_networks_output_and_sampled_by_its_loop(monkeypatch):
    spec = SignalSpec(1, (6,), 4)
    encoder = ConvEncoderConfig(strides=(3,), channels=4).build(spec, DIM)
    local, drawn = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1)), []
    for likelihood in (Softmax(1, 4), CategoricalConfig().build(spec)):
        torch.manual_seed(0)
        _, made = config().build(spec, DIM, encoder, likelihood)
        draws = []
        monkeypatch.setattr(likelihood, "forward", lambda *given, _draws=draws: _draws.append(given))
        drawn.append(made.eval()(local).sample(torch.Generator().manual_seed(2)))
        assert made.network.outputs is None
        assert draws == []
    assert torch.equal(*drawn)


def test_a_pixelcnn_decoder_takes_a_softmax_of_ones_own():
    spec = SignalSpec(2, (4, 4), 5)
    encoder = ConvEncoderConfig(strides=(2,), channels=4).build(spec, DIM)
    _, made = PixelCNNDecoderConfig.tiny().build(spec, DIM, encoder, Softmax(2, 5))
    x = from_levels(torch.randint(5, (3, 2, 4, 4)), 5)
    assert made(torch.randn(3, 8, 2, 2)).log_prob(x).shape == x.shape
    with pytest.raises(InputError, match="LogisticMixtureFamily"):
        PixelCNNDecoderConfig.tiny().build(spec, DIM, encoder, LogisticMixtureConfig().build(spec))


class TestLikelihood:
    @pytest.mark.usefixtures("double")
    @pytest.mark.parametrize("frames", [1, 3])
    @FACTORS
    @torch.no_grad()
    def test_probabilities_of_all_signals_sum_to_one(self, factor, levels, frames):
        made = family(factor, levels, strides=(3,), upsample=(frames,), num_classes=NUM_CLASSES)
        signals = every_signal(levels)
        sums = []
        for label in (-1, 0, 2):
            local = locals_of(made, 1, frames).double().expand(len(signals), -1, -1)
            conditions = Conditions(label=torch.full((len(signals),), label))
            log_prob = made(local, conditions).log_prob(signals)
            assert log_prob.shape == signals.shape
            sums.append(log_prob.sum((1, 2)).exp())
            torch.testing.assert_close(sums[-1].sum(), torch.tensor(1.0), rtol=1e-6, atol=0)
        assert not torch.allclose(sums[0], sums[1], rtol=1e-3)
        assert not torch.allclose(sums[1], sums[2], rtol=1e-3)

    @FACTORS
    @torch.no_grad()
    def test_draws_follow_the_probabilities(self, factor, levels):
        made = family(factor, levels)
        n, signals = 20_000, every_signal(levels)
        local = locals_of(made, 1, 1)
        drawn = made(local.expand(n, -1, -1)).sample(torch.Generator().manual_seed(0))
        assert drawn.shape == (n, 1, 3)
        digits = to_levels(drawn, levels)[:, 0]
        places = digits @ torch.tensor([levels**2, levels, 1])
        observed = torch.bincount(places, minlength=levels**3) / n
        p = made(local.expand(len(signals), -1, -1)).log_prob(signals).sum((1, 2)).exp()
        assert ((observed - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-4).all()

    @FACTORS
    @torch.no_grad()
    def test_a_low_temperature_keeps_to_what_is_probable(self, factor, levels):
        made = family(factor, levels)
        likelihood = made(locals_of(made, 1, 1).expand(500, -1, -1))
        drawn = {
            (temperature, seed): likelihood.sample(torch.Generator().manual_seed(seed), temperature)
            for temperature in (0.0, 0.3, 1.0)
            for seed in (0, 1)
        }
        assert torch.equal(drawn[0.0, 0], drawn[0.0, 1])
        assert len(drawn[0.0, 0].unique(dim=0)) == 1
        assert not torch.equal(drawn[0.3, 0], drawn[0.3, 1])
        cold, warm = (likelihood.log_prob(drawn[t, 0]).sum((1, 2)).mean() for t in (0.3, 1.0))
        assert cold > warm + 0.1

    @FACTORS
    @torch.no_grad()
    def test_each_sample_is_given_those_before_it_alone(self, factor, levels):
        made = family(factor, levels, length=6, strides=(6,))
        local, one = locals_of(made, 1, 1), every_signal(levels, 1)[[0, 1, 2, 1, 0, 3], 0].T.unsqueeze(0)
        base = made(local).log_prob(one)
        for at in range(6):
            other = one.clone()
            other[..., at] = -other[..., at]
            changed = (made(local).log_prob(other) - base)[0, 0].abs()
            assert (changed[:at] < 1e-6).all()
            assert changed[at:].min() > 1e-6

    def test_the_local_condition_gets_a_gradient_in_every_frame(self):
        made = family(CategoricalConfig(), 4, length=12, strides=(6,), upsample=(3,))
        local = locals_of(made, 2, 6).requires_grad_()
        signals = every_signal(4)[:2].repeat(1, 1, 4)
        made(local).log_prob(signals).sum().backward()
        assert local.grad.abs().amax(1).min() > 0

    @pytest.mark.parametrize("factor", [CategoricalConfig(), LogisticMixtureConfig(components=2)])
    def test_every_parameter_learns(self, factor):
        made = family(factor, 4, length=12, strides=(3,), num_classes=NUM_CLASSES)
        conditions = Conditions(label=torch.tensor([0, 1, 2, -1, 0, 1, 2, -1]))
        likelihood = made(locals_of(made, 8, 4), conditions)
        likelihood.log_prob(every_signal(4)[8:16].repeat(1, 1, 4)).mean().backward()
        assert [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_it_has_no_mean(self):
        likelihood = family(CategoricalConfig(), 4)(torch.zeros(2, 6, 1))
        assert not likelihood.has_mean
        assert likelihood.known_mean() is None
        with pytest.raises(RuntimeError, match="draw with sample"):
            likelihood.mean()
        one, same, other = (
            likelihood.mean_or_draw(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_labels_without_classes_are_ignored(self):
        made = family(CategoricalConfig(), 4)
        local, signals = locals_of(made, 2, 1), every_signal(4)[:2]
        log_prob = made(local, Conditions(label=torch.tensor([5, -9]))).log_prob(signals)
        assert torch.equal(log_prob, made(local).log_prob(signals))

    def test_a_local_condition_that_is_passed_on_does_not_replace_the_latents(self):
        made = family(CategoricalConfig(), 4)
        local, signals = locals_of(made, 2, 1), every_signal(4)[:2]
        log_prob = made(local, Conditions(local=torch.zeros_like(local))).log_prob(signals)
        assert torch.equal(log_prob, made(local).log_prob(signals))


class TestSizes:
    @pytest.mark.parametrize(
        ("strides", "upsample", "frame"),
        [((4, 5), (), 20), ((4, 5), (2, 5), 2), ((20,), (4,), 5), ((2, 3), (6,), 1)],
    )
    def test_what_upsampling_leaves_of_the_stride_is_repeated(self, strides, upsample, frame):
        factor = torch.Size(strides).numel()
        made = family(
            LogisticMixtureConfig(components=2), 256, 3 * factor, strides=strides, upsample=upsample
        )
        assert made.frame == frame
        latents = torch.randn(2, DIM, 3)
        local = config(upsample).local(DIM, 1)(latents)
        assert local.shape == (2, made.num_parameters, 3 * factor // frame)
        likelihood = made(local)
        assert isinstance(likelihood, AutoregressiveLikelihood)
        drawn = likelihood.sample(torch.Generator().manual_seed(0))
        assert drawn.shape == (2, 1, 3 * factor)
        assert likelihood.log_prob(drawn).shape == drawn.shape
        assert torch.equal(from_levels(to_levels(drawn, 256), 256), drawn)
        assert drawn.abs().max() <= 1

    @pytest.mark.parametrize("residual_blocks", [0, 2])
    def test_every_latent_and_every_parameter_counts(self, residual_blocks):
        layer = config((2, 3)).changed({"residual_blocks": residual_blocks}).local(DIM, 1)
        latents = torch.randn(4, DIM, 5, requires_grad=True)
        layer(latents).square().sum().backward()
        assert latents.grad.all()
        assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_labels_are_for_the_network_over_the_samples(self):
        layer, latents = config().local(DIM, 1), torch.randn(2, DIM, 5)
        assert torch.equal(layer(latents, Conditions(label=torch.tensor([0, 1]))), layer(latents))

    @torch.no_grad()
    def test_sixteen_bits(self):
        """65,536 levels: read as numbers, given by a mixture, neighbours nearly alike."""
        made = family(LogisticMixtureConfig(components=2), 65_536, 8, strides=(4,))
        likelihood = made(locals_of(made, 3, 2))
        drawn = likelihood.sample(torch.Generator().manual_seed(0))
        levels = to_levels(drawn, 65_536)
        assert torch.equal(from_levels(levels, 65_536), drawn)
        assert len(levels.unique()) > 12
        log_prob = likelihood.log_prob(drawn)
        assert log_prob.isfinite().all()
        assert (log_prob < 0).all()
        # The first samples' factors, summed over all their levels.
        every = torch.zeros(65_536, 1, 8)
        every[:, 0, 0] = from_levels(torch.arange(65_536), 65_536)
        likelihood = made(locals_of(made, 1, 2).expand(8192, -1, -1))
        total = sum(likelihood.log_prob(x)[:, 0, 0].double().exp().sum().item() for x in every.split(8192))
        assert total == pytest.approx(1.0, rel=1e-3)


@torch.no_grad()
def test_every_condition_reaches_the_network_over_the_signal():
    torch.manual_seed(0)
    embedding = Embedding(8, num_ids=3)
    network = Transformer(4, channels=8, layers=1, heads=2, conditioners={"mood": embedding})
    exaggerate(network)
    spec = SignalSpec(1, (4,), 4)
    made = AutoregressiveFamily(network, CategoricalConfig().build(spec), 2, 2, 4).eval()
    local, signal = torch.randn(2, 2, 2), from_levels(torch.randint(4, (2, 1, 4)), 4)
    given = Conditions(mood=PerItem(torch.tensor([1, 2])), more=PerItem(torch.zeros(2, 1)))
    plain, conditioned = (made(local, conditions).log_prob(signal) for conditions in (None, given))
    assert ((plain - conditioned).abs().amax((1, 2)) > 1e-3).all()


@FACTORS
@pytest.mark.parametrize("length", [2, 3])
@torch.no_grad()
def test_entropy_coding_is_exact_and_takes_the_bits_of_log_prob(factor, levels, length):
    made = family(factor, levels)
    local = torch.randn(4, made.num_parameters, 1, generator=torch.Generator().manual_seed(0))
    likelihood = made(local, Conditions())
    symbols = torch.randint(levels, (4, 1, 3), generator=torch.Generator().manual_seed(1))
    log_prob = likelihood.log_prob(from_levels(symbols, levels))[:, :, :length]
    symbols = symbols[:, :, :length]
    encoder = Encoder()
    likelihood.code(symbols.clone(), encoder)
    assert encoder.bits == pytest.approx(-log_prob.double().sum().item() / math.log(2), rel=1e-4)
    decoded = torch.zeros_like(symbols)
    likelihood.code(decoded, Decoder(encoder.finish()))
    assert torch.equal(decoded, symbols)


def test_ordered_levels_begin_with_similar_embeddings():
    """Level by level, not only at the ends; the scale is that of torch's own initialization."""
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(64, 200)
    init_ordered(embedding)
    weight = embedding.weight.detach()
    assert weight.square().mean() == pytest.approx(1, abs=0.1)
    distance = torch.cdist(weight, weight)
    near = torch.stack([distance.diagonal(offset).mean() for offset in (1, 4, 16)])
    assert (near[1:] > 2 * near[:-1]).all()
    assert distance.diagonal(1).max() < distance.diagonal(16).min()


def test_a_pixelcnn_decoder_of_pixels_begins_ordered():
    spec = SignalSpec(1, (4, 4), 64)
    encoder = ConvEncoderConfig(strides=(2,), channels=4).build(spec, DIM)

    def steps(ordered):
        torch.manual_seed(0)
        settings = PixelCNNDecoderConfig.tiny().model_copy(update={"ordered": ordered})
        _, made = settings.build(spec, DIM, encoder, CategoricalConfig().build(spec))
        weight = made.network.embeddings[0].weight.detach()
        return (weight[1:] - weight[:-1]).square().mean()

    assert steps(True) < 0.1 * steps(False)
