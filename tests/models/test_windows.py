"""Signals in windows: the codes of the whole, whatever shares the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, cycle, islice, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.parts import Encoder
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoder
from smalti.encoders.conv import ConvEncoder
from smalti.models import decoded_windows
from smalti.models.decoded_windows import decode_parts
from smalti.models.vqvae import VQVAE
from smalti.models.windows import WindowedEncoder, encode_batch, encode_each
from smalti.quantizers.multi_scale import MultiScaleVQ
from tests.bits import DIM, TINY, Bits, bits_model


def model(encoder: Encoder, size: Sequence[int], channels: int = 1) -> VQVAE:
    return bits_model(encoder, SignalSpec(channels, size, axes=("time", "height", "width")[: len(size)]))


WAVES = model(ConvEncoder(1, DIM, 1, **TINY, strides=(2, 3)), (12,))
MELS = model(ConvEncoder(5, DIM, 1, **{**TINY, "residual_blocks": 2}, strides=(2,)), (12,), 5)
DEEP = model(ConvEncoder(1, DIM, 1, **{**TINY, "residual_blocks": 3}, strides=(5, 1)), (10,))
CLIPS = model(ConvEncoder(2, DIM, 3, **TINY, strides=(2, 2), time_strides=(1, 2)), (4, 8, 4), 2)
FRAMES = model(ConvEncoder(2, DIM, 3, **TINY, strides=(2, 2), per_frame=True, norm="group"), (4, 8, 4), 2)
PICTURES = bits_model(ConvEncoder(1, DIM, 2, **TINY, strides=(2, 2)), SignalSpec(1, (16, 8)))
EVERY = pytest.mark.parametrize(
    "own", [WAVES, MELS, DEEP, CLIPS, FRAMES], ids=["waves", "mels", "deep", "clips", "frames"]
)


def signals(own: VQVAE, lengths: Sequence[int]) -> list[Tensor]:
    """Signals of so many codes each."""
    torch.manual_seed(0)
    spec = own.signal
    return [torch.randn(spec.channels, codes * own.stride, *spec.size[1:]) for codes in lengths]


def encoded(own: VQVAE, items: Sequence[Tensor]) -> list[Tensor]:
    def read(item: Tensor):
        return lambda begin, end: item[:, begin:end]

    return encode_each(own, [read(item) for item in items], [item.shape[1:] for item in items])


@EVERY
@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 200), min_size=2, max_size=6))
def test_a_batch_of_unequal_signals_has_the_codes_of_each_alone(own: VQVAE, lengths: list[int]) -> None:
    items = signals(own, lengths)
    for item, codes in zip(items, encoded(own, items), strict=True):
        assert torch.equal(own.encode(item[None])[0], codes)


@EVERY
def test_the_latents_are_those_of_the_whole(own: VQVAE) -> None:
    """Up to rounding, since a layer may be computed by another algorithm for another shape."""
    windows = WindowedEncoder(own, own.signal.size[1:])
    for length in (1, windows.codes - 1, windows.codes, windows.codes + 1, 3 * windows.codes + 2):
        (item,) = signals(own, [length])
        with torch.no_grad():
            whole = own.encoder(item[None])
        made = own.quantizer.decode(own.encode(item[None]))
        torch.testing.assert_close(made, whole, rtol=1e-4, atol=1e-4)


@EVERY
@settings(max_examples=4, deadline=None)
@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=2))
def test_a_decoded_signal_is_that_of_the_whole(own: VQVAE, lengths: list[int]) -> None:
    assert own.decoded_field is not None
    for item in signals(own, lengths):
        codes = own.encode(torch.stack([item, -item, item / 2]))
        decoded = own.decode(codes)
        assert decoded.shape == (3, *item.shape)
        with torch.no_grad():
            torch.testing.assert_close(decoded, own.likelihood(codes).mean(), rtol=1e-4, atol=1e-4)
        assert all(torch.equal(own.decode(codes[[row]])[0], decoded[row]) for row in range(3))


@EVERY
@settings(max_examples=4, deadline=None)
@given(length=st.integers(1, 300), sizes=st.lists(st.integers(0, 90), min_size=1, max_size=3))
def test_parts_of_codes_are_decoded_to_blocks_of_the_whole(own: VQVAE, length: int, sizes: list[int]) -> None:
    codes = own.encode(signals(own, [length])[0][None])
    ends = list(accumulate(islice(cycle([*sizes, 1]), length)))
    parts = [codes[:, :, begin:end] for begin, end in pairwise([0, *ends, length])]
    blocks = list(decode_parts(own, parts))
    assert torch.equal(torch.cat(blocks, 2), own.decode(codes))


def test_codes_are_drawn_only_when_they_are_needed() -> None:
    codes = WAVES.encode(signals(WAVES, [4000])[0][None])
    drawn, longest = 0, 0

    def parts() -> Iterator[Tensor]:
        nonlocal drawn
        for part in codes.split(10, 2):
            drawn += part.shape[2]
            yield part

    decoded = 0
    for block in decode_parts(WAVES, parts()):
        longest = max(longest, drawn - decoded // WAVES.stride)
        decoded += block.shape[2]
    assert decoded == 4000 * WAVES.stride
    assert longest < 2000


@pytest.mark.parametrize("size", [(16, 8), (96, 40), (200, 24)])
def test_a_picture_of_another_size_is_decoded_in_windows(size: tuple[int, int]) -> None:
    codes = PICTURES.encode(torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0)))
    calls: list[int] = []
    plain = PICTURES.decode_within

    def counted(codes: Tensor, *more: object) -> Tensor:
        calls.append(codes.shape[2])
        return plain(codes, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PICTURES, "decode_within", counted)
        patched.setattr(decoded_windows, "MOST_PIXELS", 1 << 10)
        decoded = PICTURES.decode(codes)
    with torch.no_grad():
        torch.testing.assert_close(decoded, PICTURES.likelihood(codes).mean(), rtol=1e-4, atol=1e-4)
    if size == PICTURES.signal.size:
        assert not calls
    else:
        assert len(calls) > 1
        assert len(set(calls)) == 1


def test_a_signal_is_decoded_under_its_own_label() -> None:
    decoder = ConvDecoder(DIM, 1, 1, **TINY, strides=(3, 2), conditions={"label": 4})
    labelled = VQVAE(WAVES.encoder, Bits(), decoder, WAVES.family, WAVES.signal).eval()
    torch.nn.init.normal_(decoder.label.weight)
    codes = labelled.encode(torch.stack(signals(WAVES, [150, 150])))
    given = Conditions(label=torch.tensor([2, -1]))
    with torch.no_grad():
        expected = labelled.likelihood(codes, given).mean()
    torch.testing.assert_close(labelled.decode(codes, given), expected, rtol=1e-4, atol=1e-4)


def test_every_call_has_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, plain = set(), WAVES.encode_within
    monkeypatch.setattr(WAVES, "encode_within", lambda x, *more: (seen.add(x.shape), plain(x, *more))[1])
    encoded(WAVES, signals(WAVES, [1, 500, 20]))
    encoded(WAVES, signals(WAVES, [3]))
    assert len(seen) == 1


def test_rows_of_a_batch_are_signals() -> None:
    batch = torch.stack(signals(MELS, [70, 70, 70]))
    assert [
        torch.equal(MELS.encode(one[None])[0], codes)
        for one, codes in zip(batch, encode_batch(MELS, batch), strict=True)
    ] == [True] * 3


def test_networks_over_all_of_time_have_no_receptive_field() -> None:
    group = ConvEncoder(1, DIM, 1, **TINY, norm="group", strides=(2, 2))
    assert model(group, (8,)).receptive_field is None
    scales = MultiScaleVQ(DIM, 8, ((1,), (4,)))
    assert scales.is_per_position is False


def test_a_length_between_codes_is_refused() -> None:
    with pytest.raises(InputError):
        WAVES.encode(torch.zeros(1, 1, 13))
