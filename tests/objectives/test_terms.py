"""Terms of objectives against NumPy forms of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import nn

from smalti.core.errors import InputError
from smalti.core.signals import Continuous, SignalSpec
from smalti.nn.spectral import LogMel
from smalti.objectives.base import TERMS, PredictionTerm, Term
from smalti.objectives.discriminators.waveform import WaveformDiscriminator
from smalti.objectives.perceptual import Perceptual
from smalti.objectives.pitch import Pitch, PitchConfig
from smalti.objectives.pixel import L1, L2
from smalti.objectives.spectral import FrequencyDistance, MelDistance
from smalti.objectives.structural import SCALE_WEIGHTS, MultiScaleSSIM, scale_weights
from tests.conformance.classes import concrete

PICTURES = SignalSpec(3, (48, 64))
CLIPS = SignalSpec(1, (4, 32, 32))
SOUNDS = SignalSpec(1, (4096,), 65_536, sample_rate_hz=16_000)
SIGNALS = {"pictures": PICTURES, "clips": CLIPS, "sounds": SOUNDS}


class Thirds(nn.Module):
    """Two maps of features of RGB pictures, at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, 2)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(pictures), torch.nn.functional.avg_pool2d(pictures, 4) + 2]


def terms_of(spec: SignalSpec) -> dict[str, Term]:
    """One term of each kind that can compare such signals with reconstructions."""
    torch.manual_seed(0)
    found: dict[str, Term] = {}
    for kind, config in TERMS.kinds().items():
        settings = {"discriminator": {"kind": "waveform", "width": 2}} if spec is SOUNDS else {}
        given = settings if kind == "adversarial" else {}
        if kind == "adversarial" and spec is not SOUNDS:
            given = {"discriminator": {"kind": "patch", "width": 4, "layers": 2}}
        try:
            found[kind] = config.model_validate(given).build(spec)
        except InputError:
            continue
    return {kind: term for kind, term in found.items() if not isinstance(term, PredictionTerm)}


def signals(spec: SignalSpec, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, spec.channels, *spec.size, generator=generator) * 2 - 1


def test_every_kind_of_term_is_tested() -> None:
    built = {type(term) for spec in SIGNALS.values() for term in terms_of(spec).values()}
    assert built | {Pitch} == concrete(Term)
    assert {"l1", "l2"} <= terms_of(SOUNDS).keys()
    assert terms_of(SOUNDS).keys() - terms_of(PICTURES).keys() == {"mel"}


@pytest.mark.parametrize("name", SIGNALS)
def test_terms_are_finite_differentiable_and_those_that_compare_are_least_at_the_signal(name: str) -> None:
    spec = SIGNALS[name]
    signal, other = signals(spec), signals(spec, 1).requires_grad_()
    for kind, term in terms_of(spec).items():
        loss = term(other, signal)
        assert loss.shape == ()
        (gradient,) = torch.autograd.grad(loss, other)
        assert gradient.isfinite().all(), kind
        assert gradient.abs().sum() > 0, kind
        if kind != "adversarial":
            assert term(signal, signal).item() == pytest.approx(0, abs=1e-5), kind
            assert loss.item() > 0, kind


@pytest.mark.parametrize("name", SIGNALS)
def test_a_term_is_a_mean_over_items(name: str) -> None:
    spec = SIGNALS[name]
    signal, other = signals(spec), signals(spec, 1)
    for kind, term in terms_of(spec).items():
        each = torch.stack([term(other[i : i + 1], signal[i : i + 1]) for i in range(2)]).mean()
        torch.testing.assert_close(term(other, signal), each, rtol=1e-4, atol=1e-5, msg=kind)


def test_terms_have_no_tensors_in_the_state_but_those_of_discriminators() -> None:
    for spec in SIGNALS.values():
        for kind, term in terms_of(spec).items():
            assert (kind == "adversarial") == bool(term.state_dict()), kind


def test_pixel_errors() -> None:
    signal, other = signals(PICTURES), signals(PICTURES, 1)
    error = (other - signal).numpy().astype(np.float64)
    assert L1()(other, signal).item() == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert L2()(other, signal).item() == pytest.approx(np.square(error).mean(), rel=1e-5)


def blurred(x: np.ndarray) -> np.ndarray:
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    return correlate1d(correlate1d(x, window, 0), window, 1)[5:-5, 5:-5]


def ms_ssim(x: np.ndarray, y: np.ndarray, weights: tuple[float, ...]) -> float:
    """Wang et al. 2003, equation 7, of one channel of intensities from 0 to 1."""
    c1, c2, product = 0.01**2, 0.03**2, 1.0
    for scale, weight in enumerate(weights):
        if scale:
            x, y = (
                a[: len(a) // 2 * 2, : a.shape[1] // 2 * 2].reshape(len(a) // 2, 2, -1, 2).mean((1, 3))
                for a in (x, y)
            )
        mx, my = blurred(x), blurred(y)
        vx, vy = blurred(x * x) - mx**2, blurred(y * y) - my**2
        of_scale = (2 * (blurred(x * y) - mx * my) + c2) / (vx + vy + c2)
        if scale == len(weights) - 1:
            of_scale = of_scale * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        product *= max(of_scale.mean(), 1e-3) ** weight
    return product


def test_ms_ssim_is_that_of_the_definition() -> None:
    signal = signals(PICTURES).cumsum(2).cumsum(3)
    signal = signal / signal.abs().amax()
    noise = 0.05 * torch.randn(signal.shape, generator=torch.Generator().manual_seed(2))
    other = (signal + noise).clamp(-1, 1)
    weights = scale_weights(48)
    assert len(weights) == 3
    expected = np.mean(
        [
            ms_ssim((a.double().numpy() + 1) / 2, (b.double().numpy() + 1) / 2, weights)
            for a, b in zip(other.flatten(0, 1), signal.flatten(0, 1), strict=True)
        ]
    )
    assert MultiScaleSSIM()(other, signal).item() == pytest.approx(1 - expected, abs=1e-4)


def test_ms_ssim_of_a_small_shift_is_small_at_every_brightness() -> None:
    flat = torch.zeros(1, 1, 32, 32)
    for brightness in (-0.8, 0.0, 0.8):
        assert MultiScaleSSIM()(flat + brightness + 0.05, flat + brightness - 0.05).item() < 0.2


@pytest.mark.parametrize("name", SIGNALS)
def test_terms_under_autocast(name: str) -> None:
    """Losses of small errors are not lost in the rounding of bfloat16."""
    spec = SIGNALS[name]
    signal = signals(spec).cumsum(-1)
    signal = signal / signal.abs().amax()
    other = signal + 0.02 * signals(spec, 1)
    for kind, term in terms_of(spec).items():
        expected = term(other, signal)
        with torch.autocast("cpu", torch.bfloat16):
            received = term(other, signal)
        assert received.dtype == torch.float32, kind
        tolerance = 0.02 if kind == "adversarial" else 1e-3
        torch.testing.assert_close(received, expected, rtol=tolerance, atol=tolerance * 0.1, msg=kind)


def test_ms_ssim_of_opposite_pictures_has_a_finite_slope() -> None:
    signal = signals(PICTURES)
    other = (-signal).requires_grad_()
    (gradient,) = torch.autograd.grad(MultiScaleSSIM()(other, signal), other)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("side", "num"), [(11, 1), (21, 1), (22, 2), (64, 3), (88, 4), (176, 5), (4096, 5)])
def test_scales_that_a_picture_has_room_for(side: int, num: int) -> None:
    assert len(scale_weights(side)) == num
    assert sum(scale_weights(side)) == pytest.approx(1)
    assert scale_weights(176) == pytest.approx([w / sum(SCALE_WEIGHTS) for w in SCALE_WEIGHTS])


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_frequency_distance(alpha: float) -> None:
    signal, other = signals(PICTURES), signals(PICTURES, 1)
    spectrum = np.fft.fft2((other - signal).double().numpy(), norm="ortho")
    distance = np.abs(spectrum)
    weights = (distance / distance.max((-2, -1), keepdims=True)) ** alpha
    expected = (weights * distance**2).mean()
    assert FrequencyDistance(alpha=alpha)(other, signal).item() == pytest.approx(expected, rel=1e-4)
    if alpha == 0:  # Parseval
        assert expected == pytest.approx(L2()(other, signal).item(), rel=1e-5)


def test_mel_distance_is_the_mean_over_resolutions() -> None:
    signal, other = signals(SOUNDS), signals(SOUNDS, 1)
    term = MelDistance(16_000, windows_ms=(8.0, 32.0))
    expected = []
    for window, mels in ((128, 9), (512, 38)):
        spectrogram = LogMel(16_000, mels, window // 4, window)
        expected.append((spectrogram(other) - spectrogram(signal)).abs().mean().item())
    assert term(other, signal).item() == pytest.approx(np.mean(expected), rel=1e-5)
    short = term(other[..., :40], signal[..., :40])  # a hop of 128 samples does not fit
    assert short.isfinite()
    with pytest.raises(InputError, match="longer crops"):
        term(other[..., :8], signal[..., :8])


def test_perceptual_distance_normalises_the_channels_of_each_position() -> None:
    torch.manual_seed(0)
    network = Thirds()
    signal, other = signals(PICTURES), signals(PICTURES, 1)
    with torch.no_grad():
        distances = []
        for ours, theirs in zip(network(other), network(signal), strict=True):
            a, b = (x.double().numpy() / np.linalg.norm(x, axis=1, keepdims=True) for x in (ours, theirs))
            distances.append(np.square(a - b).sum(1).mean())
    term = Perceptual(network)
    assert term(other, signal).item() == pytest.approx(np.mean(distances), rel=1e-4)
    assert not list(term.parameters())
    assert not any(each.requires_grad for each in network.parameters())
    term.train()
    assert not network.training


def test_grey_pictures_and_frames_count_as_rgb() -> None:
    torch.manual_seed(0)
    term = Perceptual(Thirds())
    grey, other = signals(CLIPS), signals(CLIPS, 1)
    frames = [x.movedim(2, 1).flatten(0, 1).expand(-1, 3, -1, -1) for x in (other, grey)]
    torch.testing.assert_close(term(other, grey), term(*frames))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("perceptual", SOUNDS),
        ("perceptual", SignalSpec(2, (32, 32))),
        ("ms-ssim", SignalSpec(3, (10, 40))),
        ("ms-ssim", SignalSpec(3, (32, 32), domain=Continuous())),
        ("frequency", SOUNDS),
        ("mel", PICTURES),
        ("mel", SignalSpec(1, (400,))),
        ("mel", SignalSpec(1, (400,), sample_rate_hz=8000)),
        ("adversarial", SOUNDS),
        ("adversarial", SignalSpec(3, (16, 64))),
    ],
)
def test_terms_refuse_signals_that_they_cannot_compare(kind: str, spec: SignalSpec) -> None:
    with pytest.raises(InputError, match=r"leave (it )?out|data\.kind|fewer layers|encoding=linear"):
        TERMS.get(kind)().build(spec)


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"weight": -1.0}, {"start": -1}])
def test_terms_refuse_weights_and_starts_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="weight above 0"):
        L1(**settings)


@pytest.mark.parametrize("level", [1.0, 0.1])
def test_waveform_discriminators_judge_waveforms_at_one_level(level: float) -> None:
    """A quiet waveform is judged as a loud one; silence has a finite gradient."""
    torch.manual_seed(0)
    networks = WaveformDiscriminator(width=2, periods=(2, 3), windows=(64,))
    noise = torch.randn(2, 1, 400)
    expected = [verdict.logits for verdict in networks(noise)]
    for verdict, logits in zip(networks(level * noise), expected, strict=True):
        torch.testing.assert_close(verdict.logits, logits, rtol=0.02, atol=1e-3)
    silence = torch.zeros(1, 1, 400, requires_grad=True)
    sum(verdict.logits.sum() for verdict in networks(silence)).backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()


def test_a_waveform_discriminator_learns_on_speech_that_is_quiet() -> None:
    """It tells tones from noise at -35 dB within 30 steps; at their own levels, it did not learn."""
    torch.manual_seed(0)
    networks = WaveformDiscriminator(width=4, periods=(2, 3), windows=(256,))
    optimizer = torch.optim.Adam(networks.parameters(), 1e-3, (0.5, 0.9))
    times = torch.arange(2000) / 16_000
    for _ in range(30):
        hz = torch.empty(4, 1, 1).uniform_(150, 400)
        real = 0.02 * torch.sin(2 * torch.pi * hz * times)
        fake = 0.02 * torch.randn(4, 1, 2000)
        loss = sum(
            (1 - of_real.logits).relu().mean() + (1 + of_fake.logits).relu().mean()
            for of_real, of_fake in zip(networks(real), networks(fake), strict=True)
        ) / len(networks.networks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1.2


def spoken(length: int = 4000) -> torch.Tensor:
    """A tone of 200 Hz, which is noise in its second half, and noise alone; at 8 kHz."""
    noise = torch.randn(2, 1, length, generator=torch.Generator().manual_seed(0))
    tone = (2 * torch.pi * 200 * torch.arange(length // 2) / 8000).sin()
    noise[0, 0, : length // 2] = tone
    return noise


def test_pitch_is_that_of_the_signal_inside_it() -> None:
    signal, num = spoken(), 50
    truth = torch.zeros(2, 2, num)
    truth[:, 0], truth[:, 1] = np.log2(200), -20.0
    truth[0, 1, :24] = 20.0
    term = Pitch(8000)
    # Only the frames around the end of the tone are uncertain.
    assert term(truth, signal).item() < 20 * 2 / 70
    # The windows of the first and last two frames reach beyond the signal.
    anything = truth.clone()
    anything[..., :2] = 0
    anything[..., -1:] = 0
    torch.testing.assert_close(term(anything, signal), term(truth, signal))
    # An octave in 22 of the 92 frames that count, about half of each.
    higher = truth.clone()
    higher[:, 0] += 1
    assert (term(higher, signal) - term(truth, signal)).item() == pytest.approx(10 * 22 / 92, rel=0.1)
    whispered = truth.clone()
    whispered[:, 1] = -20
    assert (term(whispered, signal) - term(truth, signal)).item() == pytest.approx(20 * 22 / 92, rel=0.1)
    each = torch.stack([term(higher[i : i + 1], signal[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(term(higher, signal), each.mean())


def test_pitch_at_padding_does_not_count() -> None:
    torch.manual_seed(0)
    signal, num = spoken(), 50
    predicted = torch.randn(2, 2, num)
    observed = torch.ones(2, 1, 4000, dtype=torch.bool)
    observed[1, :, 2000:] = False
    term = Pitch(8000)
    expected = term(predicted[:1], signal[:1]) / 2 + term(predicted[1:, :, :25], signal[1:, :, :2000]) / 2
    torch.testing.assert_close(term(predicted, signal, observed), expected, rtol=1e-3, atol=0)
    other = predicted.clone()
    other[1, :, 25:] += 5
    assert term(other, signal, observed) == term(predicted, signal, observed)


@pytest.mark.parametrize("rate", [100, 1599])
def test_pitch_needs_a_sample_rate_for_its_range(rate: int) -> None:
    with pytest.raises(InputError, match="at least 1600 Hz for the term pitch"):
        Pitch(rate)
    Pitch(1600)(torch.zeros(1, 2, 20), torch.randn(1, 1, 1600))


def test_pitch_is_trained_from_the_first_step() -> None:
    with pytest.raises(InputError, match="start 0"):
        Pitch(8000, start=5)


def test_pitch_of_signals_without_room_for_it_is_not_judged() -> None:
    given = torch.zeros(1, 2, 2, requires_grad=True)
    Pitch(8000)(given, torch.randn(1, 1, 160)).backward()
    assert given.grad is not None
    assert not given.grad.any()


def test_pitch_refuses_what_is_no_waveform() -> None:
    with pytest.raises(InputError, match="the term pitch"):
        PitchConfig().build(PICTURES)
