"""The decoder with a source of harmonics: its voice has the predicted pitch, and training teaches it."""

from __future__ import annotations

import math

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.models import LatentVariableModel
from smalti.core.signals import SignalSpec
from smalti.decoders.harmonic import HIGHEST_HZ, LOWEST_HZ, HarmonicDecoder, HarmonicDecoderConfig
from smalti.decoders.spectral import SpectralDecoderConfig
from smalti.encoders.spectral import SpectralEncoderConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.models.vae import VAEConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.nn.pitch import yin
from smalti.objectives.adversarial import Adversarial
from smalti.objectives.base import Term
from smalti.objectives.discriminators.waveform import WaveformDiscriminator
from smalti.objectives.objective import Objective, ObjectiveConfig
from smalti.objectives.pitch import Pitch
from smalti.objectives.pixel import L2
from smalti.objectives.spectral import MelDistance
from smalti.quantizers.vq import VectorQuantizerConfig

RATE = 8000
SOUND = SignalSpec(1, (1600,), 65_536, axes=("time",), sample_rate_hz=RATE)


def decoder(hz: float, log_odds: float, **settings: int) -> HarmonicDecoder:
    """One that always predicts the same pitch, a flat spectrum of amplitude 1/100, and phases of its own."""
    torch.manual_seed(0)
    made = HarmonicDecoder(
        4, sample_rate_hz=RATE, channels=8, layers=1, hop=80, window=320, **settings
    ).eval()
    share = math.log2(hz / LOWEST_HZ) / math.log2(HIGHEST_HZ / LOWEST_HZ)
    for layer, bias in ((made.pitch[-1], None), (made.layers[-1], math.log(0.01))):
        assert isinstance(layer, torch.nn.Conv1d)
        assert layer.bias is not None
        torch.nn.init.zeros_(layer.weight)
        half = layer.out_channels // 2
        if bias is None:
            layer.bias.data[:half], layer.bias.data[half:] = math.log(share / (1 - share)), log_odds
        else:
            layer.bias.data[:half] = bias
            torch.nn.init.normal_(layer.weight[half:], std=30)
    return made


@torch.no_grad()
def test_what_no_mel_band_limits_is_left_out() -> None:
    latents, made = torch.randn(1, 4, 10), decoder(150.0, 0.0)
    expected = made(latents)
    last = made.layers[-1]
    assert isinstance(last, torch.nn.Conv1d)
    assert last.bias is not None
    last.bias[0] += 5
    last.bias[160] += 5
    assert torch.equal(made(latents), expected)
    last.bias[1] += 5
    assert not torch.equal(made(latents), expected)


def in_octave(found: torch.Tensor, hz: float) -> torch.Tensor:
    """At this sample rate, two periods may be nearer to a whole number of samples than one."""
    return torch.where(found < 0.75 * hz, 2 * found, found)


@pytest.mark.parametrize("hz", [80.0, 150.0, 333.0])
@torch.no_grad()
def test_the_voice_has_the_predicted_pitch_and_the_rest_has_none(hz: float) -> None:
    latents = torch.randn(1, 4, 20)
    centres = torch.arange(500, 2700, 80)
    voiced = decoder(hz, 20.0)(latents)
    assert voiced.shape == (1, 1, 3200)
    found = in_octave(yin(voiced[:, 0], RATE, centres), hz)
    torch.testing.assert_close(found, torch.full((1, len(centres)), hz), rtol=0.01, atol=0)
    assert yin(decoder(hz, -20.0)(latents)[:, 0], RATE, centres).isnan().float().mean() > 0.8
    pitch = decoder(hz, 20.0).predictions(latents)["pitch"]
    torch.testing.assert_close(pitch[0, 0], torch.full((40,), math.log2(hz)))
    torch.testing.assert_close(pitch[0, 1], torch.full((40,), 20.0))


@torch.no_grad()
def test_voiced_and_unvoiced_frames_have_one_envelope() -> None:
    """Power below 2 kHz, where voiced frames have harmonics alone."""
    latents = torch.randn(1, 4, 100)
    for hz in (100.0, 200.0):
        voiced, unvoiced = (
            torch.fft.rfft(decoder(hz, odds)(latents)[0, 0, 800:-800]).abs().square()[: 14_400 // 4].sum()
            for odds in (20.0, -20.0)
        )
        # Four overlapping frames of unrelated phases add up to 3/8 of the power of equal ones.
        assert 2 < (voiced / unvoiced).item() < 3.5


def model(kind: type = HarmonicDecoderConfig, of: type = VQVAEConfig) -> VQVAE:
    torch.manual_seed(0)
    parts = {
        "encoder": SpectralEncoderConfig(
            sample_rate_hz=RATE, channels=16, layers=1, hop=80, window=320, num_mels=32
        ),
        "decoder": kind(channels=16, layers=1, hop=80, window=320),
        "likelihood": GaussianConfig(),
    }
    quantizer = {"quantizer": VectorQuantizerConfig(num_codes=16, code_dim=8)} if of is VQVAEConfig else {}
    return of(**parts, **quantizer).build(SOUND)


def tones(num: int = 8) -> Batch:
    """Harmonics of 100 or 250 Hz."""
    time = torch.arange(1600) / RATE
    hz = torch.tensor([100.0, 250.0]).repeat(num // 2).view(-1, 1, 1)
    return Batch(sum((2 * math.pi * k * hz * time + k).sin() for k in (1, 2, 3)) * 0.1)


def test_training_teaches_the_pitch_through_the_codes() -> None:
    made, batch = model(), tones()
    objective = Objective(made, {"mel": MelDistance(RATE), "pitch": Pitch(RATE)}, likelihood=0.0)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    before = objective.measure(made.eval(), [batch])["pitch"]
    made.train()
    slopes = torch.autograd.grad(
        objective.loss(batch).total, list(made.encoder.parameters()), allow_unused=True
    )
    assert any(slope is not None and slope.any() for slope in slopes)
    for _ in range(150):
        optimizer.zero_grad()
        loss = objective.loss(batch)
        loss.total.backward()
        optimizer.step()
    assert loss.terms["pitch"] < before / 4
    latents = made.eval().forward_pass(batch).latents
    assert latents is not None
    octaves, log_odds = made.decoder.predictions(latents)["pitch"][..., 4:-4].unbind(1)
    middle = octaves.exp2().median(1).values
    torch.testing.assert_close(middle, torch.tensor([100.0, 250.0]).repeat(4), rtol=0.08, atol=0)
    assert (log_odds > 0).all()


def test_codes_need_not_keep_the_pitch() -> None:
    """The encoder then learns from the reconstruction alone; the decoder learns the pitch all the same."""
    batch, slopes = tones(), {}
    for through_codes in (True, False):
        made = model()
        term = Pitch(RATE, 3.0, through_codes=through_codes)
        Objective(made, {"l2": L2(), "pitch": term}).loss(batch).total.backward()
        slopes[through_codes] = [
            [each.grad for each in part.parameters()]
            for part in (made.encoder, made.decoder.pitch)  # pyright: ignore
        ]
    made = model()
    Objective(made, {"l2": L2()}).loss(batch).total.backward()
    for without, alone in zip(slopes[False][0], made.encoder.parameters(), strict=True):
        torch.testing.assert_close(without, alone.grad)
    assert any(not torch.equal(a, b) for a, b in zip(slopes[True][0], slopes[False][0], strict=True))
    for a, b in zip(slopes[True][1], slopes[False][1], strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_the_reconstruction_leave_the_pitch_alone() -> None:
    made, batch = model(), tones()
    Objective(made, {"l2": L2()}).loss(batch).total.backward()
    assert all(each.grad is None for each in made.decoder.pitch.parameters())  # pyright: ignore
    assert made.decoder.layers[-1].weight.grad is not None  # pyright: ignore


def test_a_vae_predicts_too() -> None:
    Objective(model(of=VAEConfig), {"pitch": Pitch(RATE)}).loss(tones()).total.backward()


def test_a_model_without_one_grid_of_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    monkeypatch.setattr(VQVAE, "latents", LatentVariableModel.latents)
    with pytest.raises(InputError, match="one grid of latents for the term pitch"):
        Objective(made, {"pitch": Pitch(RATE)})


@pytest.mark.parametrize("balance", [True, False])
def test_a_discriminator_leaves_the_gradient_of_the_pitch_as_it_is(balance: bool) -> None:
    batch, slopes = tones(2), []
    for with_judge in (False, True):
        made = model()
        terms: dict[str, Term] = {"mel": MelDistance(RATE), "pitch": Pitch(RATE, 3.0)}
        if with_judge:
            judge = WaveformDiscriminator(width=2, periods=(2,), windows=(128,))
            terms["judge"] = Adversarial(judge, 0.5, balance=balance)
        Objective(made, terms, likelihood=0.0).loss(batch).total.backward()
        slopes.append([each.grad for each in made.decoder.pitch.parameters()])  # pyright: ignore
    for alone, beside in zip(*slopes, strict=True):
        assert alone is not None
        assert alone.any()
        torch.testing.assert_close(beside, alone)


@torch.no_grad()
def test_other_precisions() -> None:
    """Pitch is in float32 under autocast, and weights of any dtype decode."""
    latents = torch.randn(1, 4, 20)
    centres = torch.arange(500, 2700, 80)
    made = decoder(150.0, 20.0)
    with torch.autocast("cpu", torch.bfloat16):
        under, pitch = made(latents), made.predictions(latents)["pitch"]
    assert pitch.dtype == under.dtype == torch.float32
    found = in_octave(yin(under[:, 0], RATE, centres), 150.0)
    torch.testing.assert_close(found, torch.full_like(found, 150.0), rtol=0.02, atol=0)
    double = decoder(150.0, 20.0).double()(latents.double())
    torch.testing.assert_close(double.float(), made(latents), rtol=1e-2, atol=1e-3)


def test_a_recipe_without_the_term_is_refused() -> None:
    for terms in ({}, {"mel": {"weight": 1}}):
        config = ObjectiveConfig.model_validate({"terms": terms})
        with pytest.raises(InputError, match=r"add objective\.terms\.pitch\.weight=4"):
            config.build(model())
    config = ObjectiveConfig.model_validate({"terms": {"voice": {"kind": "pitch"}}})
    assert isinstance(config.build(model()), Objective)


def test_measured_pitch_is_that_of_the_codes() -> None:
    """Without drawing anything, nor a statistic over ranks."""
    for of in (VQVAEConfig, VAEConfig):
        made, batch = model(of=of).eval(), tones()
        objective = Objective(made, {"pitch": Pitch(RATE)})
        latents = made.latents(batch.data)
        with torch.no_grad():
            expected = Pitch(RATE)(made.decoder.predictions(latents)["pitch"], batch.data)
        assert objective.measure(made, [batch]) == {"pitch": pytest.approx(expected.item())}


def test_the_term_needs_a_decoder_that_predicts_and_something_to_reconstruct() -> None:
    with pytest.raises(InputError, match="decoder that predicts pitch"):
        Objective(model(SpectralDecoderConfig), {"pitch": Pitch(RATE)})
    with pytest.raises(InputError, match="term of the reconstruction"):
        Objective(model(), {"pitch": Pitch(RATE)}, likelihood=0.0)


def test_recordings_are_decoded_as_a_whole() -> None:
    assert model().decoded_field is None
    assert model().receptive_field is not None
