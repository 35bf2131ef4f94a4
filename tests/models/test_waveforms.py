"""Models of waveforms: spectra in, an autoregressive likelihood out, items of any length."""

import math

import pytest
import torch

from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.decoders.autoregressive import WaveNetDecoderConfig
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.encoders.log_mel import LogMelEncoderConfig
from smalti.evaluation.bounds import measure
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.levels import from_levels, to_levels
from smalti.likelihoods.logistic_mixture import LogisticMixtureConfig
from smalti.models.vae import VAE, VAEConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.priors.uniform import UniformPrior
from smalti.quantizers.codebooks.gradient import GradientCodebookConfig
from tests.models import tiny

NUM_CLASSES, LEVELS, LENGTH = 3, 16, 64
LIKELIHOODS = pytest.mark.parametrize(
    "likelihood", [CategoricalConfig(), LogisticMixtureConfig(components=2)], ids=lambda c: c.kind
)
LABELS = Conditions(label=torch.tensor([0, 1, -1, 2]))
GRADIENT = VQVAEConfig.tiny().quantizer.model_copy(update={"codebook": GradientCodebookConfig()})
LABELLED_CONV = ConvDecoderConfig.tiny().model_copy(update={"use_labels": True})


def build(kind=VQVAE, length: int = LENGTH, num_classes: int = NUM_CLASSES, **parts):
    torch.manual_seed(0)
    config = {VQVAE: VQVAEConfig, VAE: VAEConfig}[kind].tiny()
    given = {
        "encoder": LogMelEncoderConfig.tiny(),
        "decoder": WaveNetDecoderConfig.tiny(),
        "likelihood": CategoricalConfig(),
        **({"quantizer": GRADIENT} if kind is VQVAE else {}),
        **parts,
    }
    return config.model_copy(update=given).build(SignalSpec(1, (length,), LEVELS), {"label": num_classes})


def waves(num: int = 4, length: int = LENGTH, seed: int = 1) -> torch.Tensor:
    return tiny.signals(SignalSpec(1, (length,), LEVELS), num, seed)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decoded_latents(model: VQVAE) -> list[torch.Tensor]:
    """Inputs of the decoder from now on."""
    seen: list[torch.Tensor] = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    return seen


class TestCodes:
    @pytest.mark.parametrize("length", [64, 4, 100])
    @LIKELIHOODS
    @torch.no_grad()
    def test_signals_of_any_length_to_codes_and_back(self, likelihood, length):
        model, x = build(likelihood=likelihood).eval(), waves(length=length)
        codes = model.encode(x)
        assert codes.shape == (4, 2, length // 4)
        decoded = model.decode(codes, LABELS, generator())
        assert decoded.shape == x.shape
        assert torch.equal(from_levels(to_levels(decoded, LEVELS), LEVELS), decoded)
        assert torch.equal(model.reconstruct(x, LABELS, generator()), decoded)
        assert not torch.equal(model.reconstruct(x, LABELS, generator(1)), decoded)

    @torch.no_grad()
    def test_codes_matter_to_what_is_decoded(self):
        model, x = build().eval(), waves()
        tiny.exaggerate(model.decoder)
        codes = model.encode(x)
        other = codes.clone()
        other[:, :, 8] = (other[:, :, 8] + 1) % model.num_codes
        changed = (model.likelihood(codes).log_prob(x) - model.likelihood(other).log_prob(x))[:, 0].abs()
        # A 3-wide convolution, a residual block that is 3 wide, an upsampling: about 3 codes to each side.
        assert changed[:, 32:36].max() > 1e-4
        assert (changed[:, : 4 * 5] < 1e-6).all()

    def test_a_length_that_does_not_divide(self):
        with pytest.raises(InputError, match=r"multiples of 4 .* received 62: set data.length=64"):
            build(length=62)


class TestLoss:
    @pytest.mark.parametrize("kind", [VQVAE, VAE])
    @LIKELIHOODS
    def test_every_parameter_learns(self, likelihood, kind):
        model = build(kind, likelihood=likelihood)
        loss = model(Batch(waves(8), Conditions(label=torch.arange(8) % 4 - 1)))
        loss.total.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []

    @LIKELIHOODS
    def test_a_few_steps_lower_it(self, likelihood):
        model = build(likelihood=likelihood)
        at = torch.arange(LENGTH) / LENGTH * 2 * math.pi
        sines = torch.stack([0.8 * torch.sin(at * turns) for turns in (2, 4, 7, 11)]).unsqueeze(1)
        batch = Batch(from_levels(to_levels(sines, LEVELS), LEVELS), LABELS)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(40):
            loss = model(batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-3:]) / 3 < losses[0] - 0.5
        assert all(math.isfinite(loss) for loss in losses)

    def test_several_processes_lose_what_one_would(self, monkeypatch):
        """Jitter, dropout of codes and hidden labels are drawn for the batch of all."""
        model = build(jitter=0.5, code_dropout=0.5).train()
        x, labels = waves(6), torch.arange(6) % NUM_CLASSES

        def loss(rank: int, world: int) -> torch.Tensor:
            monkeypatch.setattr("smalti.nn.collectives.rank_and_world", lambda: (rank, world))
            torch.manual_seed(0)
            share = slice(rank * 6 // world, (rank + 1) * 6 // world)
            return model.loss(Batch(x[share], Conditions(label=labels[share]))).total

        with torch.no_grad():
            shares = torch.stack([loss(rank, 3) for rank in range(3)])
            torch.testing.assert_close(shares.mean(), loss(0, 1))

    def test_stays_near_under_autocast(self):
        model, x = build().eval(), waves()
        expected = model.loss(Batch(x, LABELS)).total
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.loss(Batch(x, LABELS)).total
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
        assert loss.dtype == torch.float32

    @torch.no_grad()
    def test_a_loaded_state_gives_the_same(self):
        model, other = build().eval(), build().eval()
        for parameter in model.parameters():
            parameter.add_(0.1)
        other.load_state_dict(model.state_dict())
        assert torch.equal(model.loss(Batch(waves(), LABELS)).total, other.loss(Batch(waves(), LABELS)).total)


class TestRegularisers:
    """Regularisation of the latents between quantizer and decoder, in training only."""

    @torch.no_grad()
    def run(self, training: bool, **parts) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents as the quantizer gives them, and as the decoder takes them."""
        model, x = build(**parts).train(training), waves(200)
        seen = decoded_latents(model)
        torch.manual_seed(0)
        model.loss(Batch(x))
        return model.quantizer.decode(model.encode(x)), seen[0]

    def test_without_either_they_are_left_alone(self):
        quantized, seen = self.run(True)
        torch.testing.assert_close(seen, quantized)

    def test_in_evaluation_they_are_left_alone(self):
        quantized, seen = self.run(False, jitter=0.5, code_dropout=0.5)
        torch.testing.assert_close(seen, quantized)

    def test_code_dropout_takes_this_share_of_the_items_all_their_codes(self):
        quantized, seen = self.run(True, code_dropout=0.3)
        dropped = seen.flatten(1).eq(0).all(1)
        torch.testing.assert_close(seen[~dropped], quantized[~dropped])
        assert dropped.float().mean().item() == pytest.approx(0.3, abs=4.5 * (0.3 * 0.7 / 200) ** 0.5)

    def test_jitter_gives_this_share_of_the_positions_a_neighbours(self):
        quantized, seen = self.run(True, jitter=0.4)
        padded = torch.nn.functional.pad(quantized, (1, 1), mode="reflect")
        same, left, right = (
            (seen - other).abs().amax(1) < 1e-5 for other in (quantized, padded[..., :-2], padded[..., 2:])
        )
        assert (same | left | right).all()
        # Of positions whose neighbours have other codes than their own.
        apart = ((quantized - padded[..., :-2]).abs().amax(1) > 1e-4) & (
            (quantized - padded[..., 2:]).abs().amax(1) > 1e-4
        )
        share = (~same[apart]).float().mean().item()
        assert share == pytest.approx(0.4, abs=4.5 * (0.24 / int(apart.sum())) ** 0.5)

    def test_gradients_pass_to_the_encoder_but_for_what_was_dropped(self):
        model, x = build(code_dropout=0.5).train(), waves(8)
        seen = decoded_latents(model)
        latents: list[torch.Tensor] = []
        model.encoder.register_forward_hook(lambda module, inputs, output: latents.append(output))
        torch.manual_seed(0)
        quantized = model.quantizer(model.encoder(x))
        (model._decoded(model._regularised(quantized.latents), None).log_prob(x).sum()).backward(
            inputs=latents
        )
        dropped = seen[0].flatten(1).eq(0).all(1)
        assert 0 < dropped.sum() < 8
        assert torch.equal(latents[0].grad.flatten(1).abs().sum(1) == 0, dropped)


class TestWithoutCodes:
    @torch.no_grad()
    def test_is_what_the_decoder_says_to_zeros_whatever_the_codes(self):
        model, x = build(code_dropout=0.1).eval(), waves()
        before = model.likelihood_without_codes(4, model.grid, LABELS).log_prob(x)
        zeros = model.family(model.decoder(torch.zeros(4, model.quantizer.dim, *model.grid)), LABELS)
        assert torch.equal(before, zeros.log_prob(x))
        assert not torch.allclose(before, model.likelihood(model.encode(x), LABELS).log_prob(x))
        for parameter in [*model.quantizer.parameters(), *model.encoder.parameters()]:
            parameter.add_(1.0)
        assert torch.equal(model.likelihood_without_codes(4, model.grid, LABELS).log_prob(x), before)

    @torch.no_grad()
    def test_of_any_grid_and_with_labels(self):
        model, x = build(code_dropout=0.1).eval(), waves(length=32)
        labelled = model.likelihood_without_codes(4, (8,), LABELS).log_prob(x)
        assert labelled.shape == x.shape
        unlabelled = model.likelihood_without_codes(4, (8,)).log_prob(x)
        assert torch.equal((labelled - unlabelled).abs().flatten(1).amax(1) > 0, LABELS["label"].data >= 0)

    def test_is_not_known_where_it_was_not_learned(self):
        assert build().likelihood_without_codes(4, (16,)) is None


class TestLabels:
    @pytest.mark.parametrize("decoder", [WaveNetDecoderConfig.tiny(), LABELLED_CONV], ids=lambda c: c.kind)
    @torch.no_grad()
    def test_say_something_and_the_unknown_one_is_as_none(self, decoder):
        model, x = build(decoder=decoder).eval(), waves()
        codes = model.encode(x)
        labelled, unlabelled = (model.likelihood(codes, c).log_prob(x) for c in (LABELS, Conditions()))
        assert torch.equal((labelled - unlabelled).abs().flatten(1).amax(1) > 0, LABELS["label"].data >= 0)
        torch.testing.assert_close(model.likelihood(codes).log_prob(x), unlabelled)
        in_evaluation = model.loss(Batch(x, LABELS)).terms["distortion_bits_per_dim"]
        torch.testing.assert_close(in_evaluation, -labelled.mean() / math.log(2))

    @pytest.mark.parametrize("decoder", [WaveNetDecoderConfig.tiny(), LABELLED_CONV], ids=lambda c: c.kind)
    def test_out_of_range_are_refused(self, decoder):
        model, x = build(decoder=decoder), waves()
        with pytest.raises(InputError, match=r"expected labels from 0 to 2"):
            model.loss(Batch(x, Conditions(label=torch.tensor([0, 1, 2, 3]))))

    @torch.no_grad()
    def test_without_classes_are_ignored(self):
        model, x = build(num_classes=0).eval(), waves()
        assert torch.equal(model.loss(Batch(x, LABELS)).total, model.loss(Batch(x)).total)

    @pytest.mark.parametrize("kind", [VQVAE, VAE])
    @torch.no_grad()
    def test_are_paid_for_by_a_conditional_model(self, kind):
        """p(x) >= p(x | label) / number of labels; a missing label costs nothing."""
        model, x = build(kind).eval(), waves()
        priors = [UniformPrior(model.num_codes, 2, model.grid)] if kind is VQVAE else []
        labelled, unlabelled = (
            next(iter(measure(model, Batch(x, c), priors, 1, generator()).bounds.values()))
            for c in (LABELS, Conditions())
        )
        cost = math.log(NUM_CLASSES) * torch.tensor([1.0, 1.0, 0.0, 1.0])
        torch.testing.assert_close((labelled.rate - unlabelled.rate).float(), cost, rtol=0, atol=1e-4)


class TestBound:
    @pytest.mark.usefixtures("double")
    @torch.no_grad()
    def test_the_probabilities_of_all_signals_sum_to_at_most_one(self):
        quantizer = GRADIENT.model_copy(update={"num_codebooks": 1, "num_codes": 3})
        config = VQVAEConfig.tiny().model_copy(
            update={
                "encoder": ConvEncoderConfig.tiny(),
                "decoder": WaveNetDecoderConfig.tiny(),
                "likelihood": CategoricalConfig(),
                "quantizer": quantizer,
            }
        )
        torch.manual_seed(0)
        model = config.build(SignalSpec(1, (4,), levels=4)).eval()
        tiny.exaggerate(model.decoder, model.family)
        x = tiny.all_signals(model.signal)
        for codes in tiny.all_grids(model):
            log_prob = model.likelihood(codes.expand(256, 1, 1)).log_prob(x).sum((1, 2))
            torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0), rtol=1e-6, atol=0)
        bound = measure(model, Batch(x), [UniformPrior(3, 1, model.grid)]).bounds["uniform"]
        assert 0.05 < bound.log_prob.exp().sum() < 1

    def measured(self, model, x: torch.Tensor, lengths: torch.Tensor | None):
        priors = [UniformPrior(model.num_codes, 2, model.grid)] if isinstance(model, VQVAE) else []
        return measure(model, Batch(x, LABELS, lengths), priors, 1, generator())

    @pytest.mark.parametrize("kind", [VQVAE, VAE])
    @pytest.mark.parametrize("decoder", [WaveNetDecoderConfig.tiny(), LABELLED_CONV], ids=lambda c: c.kind)
    @torch.no_grad()
    def test_what_follows_an_item_does_not_count(self, monkeypatch, decoder, kind):
        """With the same codes, since the encoder hears what follows."""
        model, x = build(kind, decoder=decoder).eval(), waves()
        latents = model.encoder(x)
        monkeypatch.setattr(model.encoder, "forward", lambda *given: latents)
        lengths = torch.tensor([64, 40, 1, 63])
        other = x.clone()
        for item, length in zip(other, lengths.tolist(), strict=True):
            item[:, length:] = -item[:, length:]
        (name, bound), *_ = self.measured(model, x, lengths).bounds.items()
        beside = self.measured(model, other, lengths).bounds[name]
        torch.testing.assert_close(beside.distortion, bound.distortion)
        whole = self.measured(model, x, None).bounds[name].distortion
        assert (whole[1:] > bound.distortion[1:] + 1e-3).all()
        torch.testing.assert_close(whole[0], bound.distortion[0])
        whole_of_other = self.measured(model, other, None).bounds[name].distortion
        assert not torch.isclose(whole_of_other[1:], whole[1:]).any()

    @torch.no_grad()
    def test_by_hand(self):
        model, x = build().eval(), waves()
        lengths = torch.tensor([64, 40, 1, 63])
        log_prob = model.likelihood(model.encode(x), LABELS).log_prob(x)
        measured = self.measured(model, x, lengths)
        for item, length in enumerate(lengths.tolist()):
            expected = -log_prob[item, 0, :length].sum()
            torch.testing.assert_close(measured.bounds["uniform"].distortion[item], expected)
        assert measured.reconstruction is None
        assert torch.equal(measured.codes, model.encode(x))

    @torch.no_grad()
    def test_the_decoder_with_a_mean_still_gives_it(self):
        model, x = build(decoder=LABELLED_CONV).eval(), waves()
        measured = self.measured(model, x, None)
        # It is decoded in windows, whose sums have another order.
        expected = model.reconstruct(x, LABELS)
        torch.testing.assert_close(measured.reconstruction, expected, rtol=1e-4, atol=1e-5)
