"""Pitch as part of a network: batches of waveforms, and sums of harmonics. See also tests/studies/speech."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from smalti.nn.pitch import harmonics, yin

RATE = 8000


def summed(hz: np.ndarray) -> np.ndarray:
    """All harmonics of a frequency below half the rate, one by one."""
    phase = 2 * np.pi * np.cumsum(hz) / RATE
    return sum((np.cos(k * phase) * (k * hz < RATE / 2) for k in range(1, RATE)), np.zeros(len(hz)))


@pytest.mark.parametrize("hz", [50.0, 100.0, 123.4, 499.0])
def test_harmonics_are_the_sum_of_cosines(hz: float) -> None:
    made = harmonics(torch.full((1, 25), hz), 80, RATE)[0]
    np.testing.assert_allclose(made.numpy(), summed(np.full(2000, hz)), atol=2e-3)


def test_phases_continue_where_the_frequency_changes() -> None:
    for hop in (1, 40):
        hz = np.linspace(80, 300, 4000 // hop)
        # Single precision of the frequency alone would move the phase of the highest harmonic.
        made = harmonics(torch.from_numpy(hz).unsqueeze(0), hop, RATE)[0]
        np.testing.assert_allclose(made.numpy(), summed(hz.repeat(hop)), atol=1e-4)


def test_a_batch_is_its_items_and_each_has_its_own_pitch() -> None:
    time = torch.arange(RATE) / RATE
    waveforms = torch.stack(
        [(2 * math.pi * hz * time).sin() * 10**-gain for gain, hz in enumerate([90, 210])]
    )
    waveforms = torch.cat([waveforms, torch.zeros(1, RATE), torch.randn(1, RATE)])
    centres = torch.arange(1000, 7000, 80)
    found = yin(waveforms, RATE, centres)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0], torch.full((75,), 90.0), rtol=5e-3, atol=0)
    torch.testing.assert_close(found[1], torch.full((75,), 210.0), rtol=5e-3, atol=0)
    assert found[2:].isnan().float().mean() > 0.98
    for index in range(4):
        torch.testing.assert_close(
            yin(waveforms[index : index + 1], RATE, centres)[0],
            found[index],
            equal_nan=True,
            rtol=1e-4,
            atol=0,
        )
    assert yin(waveforms, RATE, centres[:0]).shape == (4, 0)
