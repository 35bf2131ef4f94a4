"""Coders: exact for any distribution, close to the information content, and safe with any content."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.coding.streams import Decoder, Encoder, Probe, ProbeFull
from smalti.core.errors import InputError


def test_symbols_come_back_at_the_size_of_their_information():
    generator = torch.Generator().manual_seed(0)
    masses = torch.rand(4000, 9, generator=generator) ** 4
    symbols = torch.multinomial(masses, 1, generator=generator).squeeze(1)
    encoder = Encoder()
    encoder.categorical(symbols, masses)
    content = encoder.finish()
    p = (masses / masses.sum(1, keepdim=True)).gather(1, symbols.unsqueeze(1))
    bits = -p.double().log2().sum().item()
    assert encoder.bits == pytest.approx(bits, rel=1e-6)
    assert bits <= 8 * len(content) <= bits * 1.001 + 64
    decoded, decoder = torch.zeros_like(symbols), Decoder(content)
    decoder.categorical(decoded, masses)
    decoder.check_end()
    assert torch.equal(decoded, symbols)


def test_impossible_symbols_can_be_coded():
    masses = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    symbols = torch.tensor([2, 0, 1])
    encoder = Encoder()
    encoder.categorical(symbols, masses)
    decoded = torch.zeros(3, dtype=torch.int64)
    Decoder(encoder.finish()).categorical(decoded, masses)
    assert decoded.tolist() == [2, 0, 1]


@pytest.mark.parametrize("num", [1, 2, 255, 512, 65537, 2**31 - 1])
def test_uniform_symbols_cost_their_logarithm(num: int):
    symbols = torch.randint(num, (3, 200), generator=torch.Generator().manual_seed(1))
    symbols[0, :2] = torch.tensor([0, num - 1])
    encoder = Encoder()
    encoder.uniform(symbols.clone(), num)
    content = encoder.finish()
    assert 8 * len(content) <= 600 * np.log2(num) * 1.001 + 64
    decoded = torch.zeros_like(symbols)
    Decoder(content).uniform(decoded, num)
    assert torch.equal(decoded, symbols)


@pytest.mark.parametrize("num", [2, 16, 17, 256, 65536])
def test_levels_cost_the_mass_of_their_bin(num: int):
    generator = torch.Generator().manual_seed(2)
    mean = torch.rand(2, 300, generator=generator, dtype=torch.float64) * num
    scale = 0.05 * num

    def below(edge: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((edge - mean) / scale)

    noise = torch.logit(torch.rand(2, 300, generator=generator, dtype=torch.float64))
    symbols = (mean + scale * noise).floor().clamp(0, num - 1).long()
    lower = torch.where(symbols > 0, below(symbols), 0.0)
    upper = torch.where(symbols < num - 1, below(symbols + 1), 1.0)
    bits = -(upper - lower).log2().sum().item()
    encoder = Encoder()
    encoder.levels(symbols.clone(), below, num)
    content = encoder.finish()
    assert encoder.bits == pytest.approx(bits, rel=1e-6)
    assert 8 * len(content) <= bits * 1.001 + 64
    decoded = torch.zeros_like(symbols)
    Decoder(content).levels(decoded, below, num)
    assert torch.equal(decoded, symbols)


def test_levels_in_the_far_tails_can_be_coded():
    symbols = torch.tensor([0, 255, 128, 17])

    def below(edge: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((edge.double() - 200) * 1e6)

    encoder = Encoder()
    encoder.levels(symbols.clone(), below, 256)
    decoded = torch.zeros_like(symbols)
    Decoder(encoder.finish()).levels(decoded, below, 256)
    assert torch.equal(decoded, symbols)


@settings(max_examples=50)
@given(st.binary(max_size=64))
def test_any_content_decodes_to_symbols_in_range_or_is_refused(content: bytes):
    symbols = torch.full((40,), -1)
    try:
        Decoder(content).categorical(symbols, torch.rand(40, 5) + 0.01)
    except InputError:
        return
    assert 0 <= symbols.min() <= symbols.max() < 5


def test_masses_that_are_no_numbers_are_refused():
    with pytest.raises(InputError, match="finite"):
        Encoder().categorical(torch.tensor([0]), torch.tensor([[1.0, float("nan")]]))


def test_a_probe_tells_the_last_bit():
    def digest(masses: torch.Tensor) -> str:
        probe = Probe(1)
        probe.categorical(torch.zeros(1, dtype=torch.int64), masses)
        return probe.digest.hexdigest()

    masses = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    assert digest(masses) == digest(masses.clone())
    assert digest(masses) != digest(torch.nextafter(masses, torch.ones_like(masses)))
    with pytest.raises(ProbeFull):
        Probe(0).categorical(torch.zeros(1, dtype=torch.int64), masses)
