"""The VQ-VAE: its loss and bound by hand, and the bound against the sum over all codes."""

import math

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.priors import DensityPrior
from smalti.core.results import Bound
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.evaluation.bounds import measure
from smalti.likelihoods.categorical import CategoricalConfig
from smalti.likelihoods.levels import from_levels
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.priors.uniform import UniformPrior
from smalti.priors.unigram import UnigramPrior
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.codebooks.gradient import GradientCodebookConfig
from smalti.quantizers.vq import VectorQuantizerConfig
from tests.models import tiny
from tests.models.tiny import LIKELIHOODS, all_grids, all_signals

CODEBOOKS = pytest.mark.parametrize(
    "codebook", [GradientCodebookConfig(), EMACodebookConfig()], ids=lambda config: config.kind
)


def vqvae(size=(8, 8), channels: int = 3, levels: int = 256, seed: int = 0, **parts) -> VQVAE:
    torch.manual_seed(seed)
    config = VQVAEConfig.tiny().model_copy(update=parts)
    return config.build(SignalSpec(channels, size, levels))


def quantizer(codebook, **sizes) -> VectorQuantizerConfig:
    return VectorQuantizerConfig.tiny().model_copy(update={"codebook": codebook, **sizes})


def signals(model: VQVAE, num: int = 4, seed: int = 1) -> torch.Tensor:
    return tiny.signals(model.signal, num, seed)


class TestLoss:
    @LIKELIHOODS
    def test_is_the_papers_three_terms(self, likelihood):
        model = vqvae(
            likelihood=likelihood, quantizer=quantizer(GradientCodebookConfig(), commitment_weight=0.7)
        )
        x = signals(model)
        loss = model.loss(Batch(x))
        z_e = model.encoder(x)
        e = model.quantizer.decode(model.encode(x))
        log_prob = model.family(model.decoder(e)).log_prob(x)
        distortion = -log_prob.sum() / (4 * model.signal.dims)
        squared = (z_e - e).square().sum() / z_e.numel()
        torch.testing.assert_close(loss.total, distortion + squared + 0.7 * squared)
        torch.testing.assert_close(loss.terms["distortion_bits_per_dim"], (distortion / math.log(2)).detach())
        assert not any(term.requires_grad for term in loss.terms.values())

    def test_who_learns_what(self):
        """Decoder: the first term; encoder: the first and the third; codes: the second alone."""
        model = vqvae(quantizer=quantizer(GradientCodebookConfig(), commitment_weight=0.5))
        x = signals(model)
        model.loss(Batch(x)).total.backward()
        of_loss = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        z_e = model.encoder(x)
        e = model.quantizer.decode(model.encode(x)).detach()
        latents = e.clone().requires_grad_()
        (-model.family(model.decoder(latents)).log_prob(x).mean()).backward()
        for name, parameter in model.named_parameters():
            if name.startswith(("decoder", "family")):
                torch.testing.assert_close(of_loss[name], parameter.grad)
        codebook = model.quantizer.decode(model.encode(x))
        (latents.grad * z_e + 0.5 * (z_e - e).square() / e.numel()).sum().backward()
        (codebook - z_e.detach()).square().mean().backward()
        for name, parameter in model.named_parameters():
            if name.startswith(("encoder", "quantizer")):
                torch.testing.assert_close(of_loss[name], parameter.grad)

    def test_equal_shares_of_a_batch_average_to_the_whole(self):
        model = vqvae(quantizer=quantizer(GradientCodebookConfig()))
        x = signals(model, 6)
        shares = torch.stack([model.loss(Batch(part)).total for part in x.split(2)])
        torch.testing.assert_close(shares.mean(), model.loss(Batch(x)).total)

    @CODEBOOKS
    @LIKELIHOODS
    def test_a_few_steps_lower_it(self, likelihood, codebook):
        model = vqvae(likelihood=likelihood, quantizer=quantizer(codebook))
        batch = Batch(
            signals(model)[:, :, :1, :1].expand(-1, -1, 8, 8).contiguous()
        )  # a colour for each item
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(25):
            loss = model(batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-3:]) / 3 < losses[0] - 0.3
        assert all(math.isfinite(loss) for loss in losses)

    @CODEBOOKS
    def test_a_batch_of_one_and_a_remainder_train(self, codebook):
        model = vqvae(quantizer=quantizer(codebook))
        for num in (4, 3, 1):
            loss = model(Batch(signals(model, num))).total
            loss.backward()
            assert loss.isfinite()


def enumerable(size: tuple[int, ...], num_codes: int, **parts) -> VQVAE:
    """A model with one codebook, whose codes make some difference to the likelihood."""
    codes = quantizer(GradientCodebookConfig(), num_codebooks=1, num_codes=num_codes)
    model = vqvae(size, channels=1, levels=4, quantizer=codes, **parts)
    tiny.exaggerate(model.decoder)
    return model.eval()


def log_prob_bound(model: VQVAE, x: torch.Tensor, prior: DensityPrior) -> Bound:
    return measure(model, Batch(x), [prior]).bounds[prior.name]


class TestBound:
    @LIKELIHOODS
    def test_with_the_uniform_prior_is_n_ln_k_and_the_distortion(self, likelihood):
        model = vqvae((8, 12), likelihood=likelihood).eval()
        x = signals(model)
        bound = log_prob_bound(model, x, UniformPrior(model.num_codes, model.num_codebooks, model.grid))
        torch.testing.assert_close(bound.rate, torch.full((4,), 2 * 2 * 3 * math.log(16)))
        for item in range(4):
            log_prob = model.likelihood(model.encode(x[[item]])).log_prob(x[[item]]).sum()
            torch.testing.assert_close(bound.distortion[item], -log_prob)
        torch.testing.assert_close(bound.log_prob, -(bound.rate + bound.distortion))

    @pytest.mark.parametrize("prior_kind", ["uniform", "unigram"])
    @pytest.mark.parametrize(("size", "num_codes"), [((4,), 2), ((8,), 2), ((4,), 3)])
    @LIKELIHOODS
    @torch.no_grad()
    def test_is_below_the_sum_over_all_codes(self, likelihood, size, num_codes, prior_kind):
        model = enumerable(size, num_codes, likelihood=likelihood)
        x = signals(model, 40)
        prior = UniformPrior(num_codes, 1, model.grid)
        if prior_kind == "unigram":
            prior = UnigramPrior(num_codes, 1, model.grid)
            prior.count(model.encode(x))
        terms = []
        for codes in all_grids(model):
            codes = codes.expand(len(x), *codes.shape)
            log_prob = model.likelihood(codes).log_prob(x).flatten(1).sum(1)
            terms.append(log_prob + prior.log_prob(codes))
        evidence = torch.stack(terms).logsumexp(0)
        bound = log_prob_bound(model, x, prior).log_prob
        assert (bound <= evidence + 1e-4).all()
        assert (evidence - bound).max() > 0.01

    @LIKELIHOODS
    @torch.no_grad()
    def test_the_probabilities_of_all_signals_sum_to_at_most_one(self, likelihood):
        model = enumerable((4,), 3, likelihood=likelihood)
        x = all_signals(model.signal)
        assert len(x) == 256
        for codes in all_grids(model):
            log_prob = model.likelihood(codes.expand(256, 1, 1)).log_prob(x).flatten(1).sum(1)
            torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0), rtol=1e-3, atol=0)
        bound = log_prob_bound(model, x, UniformPrior(3, 1, model.grid)).log_prob
        assert 0.05 < bound.exp().sum() < 1


class TestParts:
    @pytest.mark.parametrize(
        ("size", "strides", "grid"),
        [
            ((8, 16), (2, 2), (2, 4)),
            ((6, 9), (3,), (2, 3)),
            ((20,), (4, 5), (1,)),
            ((4, 8, 4), (2, 2), (1, 2, 1)),
        ],
    )
    @LIKELIHOODS
    def test_sizes_that_are_not_square(self, likelihood, size, strides, grid):
        encoder = ConvEncoderConfig.tiny().model_copy(update={"strides": strides})
        model = vqvae(size, encoder=encoder, likelihood=likelihood)
        x = signals(model, 2)
        assert model.grid == grid
        assert model.loss(Batch(x)).total.isfinite()
        codes = model.encode(x)
        assert codes.shape == (2, 2, *grid)
        assert model.decode(codes).shape == x.shape
        assert model.likelihood(codes).sample().shape == x.shape

    @pytest.mark.parametrize("settings", [{"jitter": 2.0}, {"code_dropout": 1.0}, {"jitter": -0.1}])
    def test_shares_out_of_range(self, settings):
        model = vqvae((8,))
        parts = (model.encoder, model.quantizer, model.decoder, model.family, model.signal)
        with pytest.raises(InputError, match=str(*settings.values())):
            VQVAE(*parts, **settings)

    @pytest.mark.parametrize("size", [(8, 8), (4, 8, 4)])
    def test_jitter_is_for_lines(self, size):
        with pytest.raises(InputError, match=rf"jitter of 0.1, received {len(size)} axes"):
            vqvae(size, jitter=0.1)
        assert vqvae(size, jitter=0.0).loss(Batch(signals(vqvae(size)))).total.isfinite()

    @torch.no_grad()
    def test_code_dropout_on_a_plane(self):
        """An item without its codes costs what it costs without any."""
        model = vqvae(code_dropout=0.5, quantizer=quantizer(GradientCodebookConfig()))
        x = signals(model, 40)
        torch.manual_seed(0)
        kept = torch.rand(1, 40)[0] >= 0.5
        with_codes = model.likelihood(model.encode(x)).log_prob(x)
        without = model.likelihood_without_codes(40, model.grid).log_prob(x)
        expected = -torch.where(kept.view(-1, 1, 1, 1), with_codes, without).mean() / math.log(2)
        torch.manual_seed(0)
        received = model.train().loss(Batch(x)).terms["distortion_bits_per_dim"]
        torch.testing.assert_close(received, expected)

    def test_a_size_that_does_not_divide(self):
        with pytest.raises(InputError, match=r"multiples of 4 .* received 8x10: set data.size=8x8"):
            vqvae((8, 10))

    def test_codes_of_another_model(self):
        model = vqvae()
        with pytest.raises(InputError, match="expected codes from 0 to 15, received codes from 16"):
            model.likelihood(torch.full((1, 2, 2, 2), 16))

    @LIKELIHOODS
    def test_a_batch_gives_what_each_item_gives_alone(self, likelihood):
        model = vqvae(likelihood=likelihood)
        model.loss(Batch(signals(model, 8)))
        model.eval()
        x = signals(model, 5, seed=2)
        prior = UniformPrior(model.num_codes, model.num_codebooks, model.grid)
        codes, bound, reconstruction = model.encode(x), log_prob_bound(model, x, prior), model.reconstruct(x)
        for item in range(5):
            alone = x[[item]]
            assert torch.equal(model.encode(alone)[0], codes[item])
            torch.testing.assert_close(log_prob_bound(model, alone, prior).log_prob[0], bound.log_prob[item])
            torch.testing.assert_close(model.reconstruct(alone)[0], reconstruction[item])

    @CODEBOOKS
    def test_a_loaded_model_goes_on_as_the_saved_one(self, codebook, tmp_path):
        model = vqvae(quantizer=quantizer(codebook))
        model.loss(Batch(signals(model)))
        torch.save(model.state_dict(), tmp_path / "model.pt")
        loaded = vqvae(quantizer=quantizer(codebook), seed=9)
        loaded.load_state_dict(torch.load(tmp_path / "model.pt"))
        x = signals(model, seed=3)
        for _ in range(3):
            assert torch.equal(model.loss(Batch(x)).total, loaded.loss(Batch(x)).total)
        assert torch.equal(model.encode(x), loaded.encode(x))
        assert torch.equal(model.reconstruct(x), loaded.reconstruct(x))

    def test_bytes_keep_their_exact_class(self):
        """A softmax that is sure of one byte at each place, for all 256 bytes."""
        model = vqvae((16, 16), channels=1, likelihood=CategoricalConfig()).eval()
        pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
        logits = torch.nn.functional.one_hot(pixels.long(), 256).float().movedim(-1, 2).flatten(1, 2)
        model.decoder.forward = lambda latents, conditions=None: 100 * logits
        for signal in (pixels.float() / 127.5 - 1, from_levels(pixels, 256)):
            bound = log_prob_bound(
                model, signal, UniformPrior(model.num_codes, model.num_codebooks, model.grid)
            )
            assert bound.distortion.item() < 1e-6

    def test_a_config_survives_json(self):
        config = VQVAEConfig(
            decoder=ConvDecoderConfig(head_channels=8),
            likelihood=CategoricalConfig(),
            quantizer=quantizer(GradientCodebookConfig()),
        )
        assert VQVAEConfig.model_validate_json(config.model_dump_json()) == config
