"""The decoder with a source of harmonics: its voice has the predicted pitch, and training teaches it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.decoders.harmonic import HIGHEST_HZ, LOWEST_HZ, HarmonicDecoder, HarmonicDecoderConfig
from smalti.decoders.spectral import SpectralDecoderConfig
from smalti.encoders.spectral import SpectralEncoderConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.models.vae import VAEConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.nn.pitch import yin
from smalti.objectives.objective import Objective
from smalti.objectives.pitch import Pitch
from smalti.objectives.pixel import L2
from smalti.objectives.spectral import MelDistance
from smalti.quantizers.vq import VectorQuantizerConfig

RATE = 8000
SOUND = SignalSpec(1, (1600,), 65_536, axes=("time",), sample_rate_hz=RATE)


def decoder(hz: float, log_odds: float, **settings: int) -> HarmonicDecoder:
    """One that always predicts the same pitch, and a flat spectrum of amplitude 1/100."""
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
            layer.bias.data[half:].uniform_(-3, 3)
    return made


@pytest.mark.parametrize("hz", [80.0, 150.0, 333.0])
@torch.no_grad()
def test_the_voice_has_the_predicted_pitch_and_the_rest_has_none(hz: float) -> None:
    latents = torch.randn(1, 4, 20)
    centres = torch.arange(500, 2700, 80)
    voiced = decoder(hz, 20.0)(latents)
    assert voiced.shape == (1, 1, 3200)
    torch.testing.assert_close(
        yin(voiced[:, 0], RATE, centres), torch.full((1, len(centres)), hz), rtol=0.01, atol=0
    )
    pitch = decoder(hz, 20.0).predictions(latents)["pitch"]
    torch.testing.assert_close(pitch[0, 0], torch.full((40,), math.log2(hz)))
    torch.testing.assert_close(pitch[0, 1], torch.full((40,), 20.0))


@torch.no_grad()
def test_voiced_and_unvoiced_frames_are_equally_loud() -> None:
    """Power below 2 kHz, where voiced frames have harmonics alone."""
    latents = torch.randn(1, 4, 50)
    for hz in (100.0, 200.0):
        low = slice(0, 2000 * 8000 // RATE)
        voiced, unvoiced = (
            torch.fft.rfft(decoder(hz, odds)(latents)[0, 0, 800:-800]).abs().square()[low].sum()
            for odds in (20.0, -20.0)
        )
        # The unvoiced frames have one phase for each frequency, and overlap.
        assert 0.2 < (voiced / unvoiced).item() < 5


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


def test_gradients_of_the_reconstruction_leave_the_pitch_alone() -> None:
    made, batch = model(), tones()
    Objective(made, {"l2": L2()}).loss(batch).total.backward()
    assert all(each.grad is None for each in made.decoder.pitch.parameters())  # pyright: ignore
    assert made.decoder.layers[-1].weight.grad is not None  # pyright: ignore


def test_a_vae_predicts_too() -> None:
    Objective(model(of=VAEConfig), {"pitch": Pitch(RATE)}).loss(tones()).total.backward()


def test_a_model_that_keeps_its_latents_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, original = Objective(model(), {"pitch": Pitch(RATE)}), VQVAE.forward_pass
    monkeypatch.setattr(
        VQVAE, "forward_pass", lambda self, batch: replace(original(self, batch), latents=None)
    )
    with pytest.raises(InputError, match=r"grid of latents for the predictions of its decoder \(pitch\)"):
        objective.loss(tones())


def test_the_term_needs_a_decoder_that_predicts_and_something_to_reconstruct() -> None:
    with pytest.raises(InputError, match="decoder that predicts pitch"):
        Objective(model(SpectralDecoderConfig), {"pitch": Pitch(RATE)})
    with pytest.raises(InputError, match="term of the reconstruction"):
        Objective(model(), {"pitch": Pitch(RATE)}, likelihood=0.0)


def test_recordings_are_decoded_as_a_whole() -> None:
    assert model().decoded_field is None
    assert model().receptive_field is not None
