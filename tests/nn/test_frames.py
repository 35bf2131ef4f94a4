"""Short-time spectra as layers, against the transforms that evaluation uses."""

from __future__ import annotations

import pytest
import torch

from smalti.core.errors import InputError
from smalti.nn.convnext import ConvNeXtBlock
from smalti.nn.frames import MelFrames, SpectraToWaveform
from smalti.nn.spectral import LogMel, ShortTimeFourier


def sound(length: int = 800, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(2, 1, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("hop", "window"), [(10, 40), (20, 40), (4, 16)])
def test_mel_frames_are_those_of_log_mel_inside_the_signal(hop: int, window: int) -> None:
    frames = MelFrames(8000, 4, hop, window)(sound())
    expected = LogMel(8000, 4, hop, window)(sound())
    ends = window // hop
    torch.testing.assert_close(frames[..., ends:-ends], expected[..., ends:-ends])


@pytest.mark.parametrize(("hop", "window"), [(10, 40), (20, 40), (4, 16)])
def test_spectra_of_a_waveform_give_it_back(hop: int, window: int) -> None:
    """Hann windows add up to a constant, so frames cut without a window overlap to the signal itself."""
    signal = sound()
    lead = (window - hop) // 2
    frames = torch.nn.functional.pad(signal[:, 0], (lead, window - hop - lead)).unfold(-1, window, hop)
    spectra = torch.fft.rfft(frames).transpose(1, 2) / (window / 2)
    made = SpectraToWaveform(hop, window)(torch.cat([spectra.abs().log(), spectra.angle()], 1))
    assert made.shape == signal.shape
    inside = slice(window, -window)
    torch.testing.assert_close(made[..., inside], signal[..., inside], atol=1e-4, rtol=1e-3)


def test_a_sine_of_amplitude_1_has_log_magnitude_0() -> None:
    hop, window, bin_ = 16, 64, 5
    count = 20
    phase = 2 * torch.pi * bin_ * hop / window * torch.arange(count)
    spectra = torch.full((1, window + 2, count), -30.0)
    spectra[:, bin_] = 0
    spectra[:, window // 2 + 1 + bin_] = phase
    made = SpectraToWaveform(hop, window)(spectra)[0, 0, window:-window]
    assert made.abs().max() == pytest.approx(1, abs=0.01)
    of_sine = ShortTimeFourier(hop, window)(made.view(1, 1, -1)).abs()[0, bin_, 4:-4]
    torch.testing.assert_close(of_sine, torch.ones_like(of_sine), atol=0.01, rtol=0.0)


def test_magnitudes_are_bounded() -> None:
    made = SpectraToWaveform(4, 16)(torch.full((1, 18, 8), 1e9))
    assert made.isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_begins_as_a_scaled_step_from_its_input(causal: bool) -> None:
    x = sound().expand(-1, 4, -1)
    assert torch.equal(ConvNeXtBlock(4, 0.0, causal)(x), x)
    block = ConvNeXtBlock(4, 1.0, causal)
    by_hand = block.depthwise(torch.nn.functional.pad(x, (block.before, block.after))).transpose(1, 2)
    by_hand = (by_hand - by_hand.mean(-1, keepdim=True)) / (
        by_hand.var(-1, keepdim=True, correction=0) + 1e-6
    ).sqrt()
    hidden = torch.nn.functional.gelu(by_hand @ block.expand.weight.T + block.expand.bias)
    by_hand = x + (hidden @ block.contract.weight.T + block.contract.bias).transpose(1, 2)
    torch.testing.assert_close(block(x), by_hand)


@pytest.mark.parametrize(("hop", "window"), [(0, 8), (4, 4), (4, 10), (3, 9)])
def test_windows_that_do_not_add_up_to_a_constant(hop: int, window: int) -> None:
    with pytest.raises(InputError, match="even window"):
        SpectraToWaveform(hop, window)
    with pytest.raises(InputError, match="even window"):
        MelFrames(8000, 2, hop, window)
