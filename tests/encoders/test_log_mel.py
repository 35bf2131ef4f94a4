"""The log-mel encoder: its two parts by hand, its grid, what it does not hear, and what it refuses."""

import pytest
import torch
from pydantic import ValidationError

from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.encoders.conv import ConvEncoderConfig
from smalti.encoders.log_mel import LogMelEncoder, LogMelEncoderConfig
from smalti.nn.spectral import mu_law_decode, mu_law_encode

DIM = 5


def encoder(length: int = 64, **settings) -> LogMelEncoder:
    torch.manual_seed(0)
    config = LogMelEncoderConfig.tiny().model_copy(update=settings)
    return config.build(SignalSpec(1, (length,)), DIM)


def sound(num: int = 3, length: int = 64, seed: int = 1) -> torch.Tensor:
    return torch.rand(num, 1, length, generator=torch.Generator().manual_seed(seed)) * 1.8 - 0.9


@pytest.mark.parametrize("length", [4, 64, 100, 4000])
@pytest.mark.parametrize("strides", [(2,), (1,), (2, 3), (5,)])
def test_the_grid_is_the_shape_of_the_latents(length, strides):
    network = ConvEncoderConfig.tiny().model_copy(update={"strides": strides})
    layer = encoder(length, network=network)
    assert layer.strides == (2, *strides)
    factor = torch.Size(layer.strides).numel()
    length = -(-length // factor) * factor
    (positions,) = layer.grid((length,))
    assert positions == length // factor
    assert layer(sound(2, length)).shape == (2, DIM, positions)


def test_a_size_that_does_not_divide_is_refused_with_an_advice_that_works():
    layer = encoder()
    with pytest.raises(
        InputError, match=r"multiples of 4 \(strides \(2, 2\)\), received 63: set data.length=64"
    ):
        layer.grid((63,))
    assert layer.grid((64,)) == (16,)


@pytest.mark.parametrize("spec", [SignalSpec(3, (8, 8)), SignalSpec(2, (64,)), SignalSpec(1, (8, 8))])
def test_what_is_no_waveform_is_refused(spec):
    words = rf"received {spec.channels} channels and {spec.ndim} axes"
    with pytest.raises(InputError, match=words):
        LogMelEncoderConfig.tiny().build(spec, DIM)


@pytest.mark.parametrize("companded", [True, False])
@torch.no_grad()
def test_frames_are_normalised_in_each_band_and_given_to_the_network(companded):
    layer, x = encoder(companded=companded), sound()
    frames = layer.front_end(mu_law_decode(x) if companded else x).numpy()
    assert frames.shape == (3, 4, 32)
    normalised = (frames - frames.mean(2, keepdims=True)) / (frames.std(2, keepdims=True) + 0.01)
    torch.testing.assert_close(layer(x), layer.network(torch.from_numpy(normalised)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_companded_signal_is_expanded():
    x = sound()
    expected = encoder(companded=False)(x)
    torch.testing.assert_close(encoder(companded=True)(mu_law_encode(x)), expected, rtol=0, atol=1e-3)
    assert not torch.allclose(encoder(companded=True)(x), expected, rtol=0, atol=1e-2)


@torch.no_grad()
def test_level_is_not_heard_and_content_is():
    layer, x = encoder(companded=False), sound()
    torch.testing.assert_close(layer(x / 8), layer(x), rtol=0, atol=1e-4)
    assert not torch.allclose(layer(sound(seed=2)), layer(x), rtol=0, atol=1e-2)


@torch.no_grad()
def test_silence_and_an_item_beside_others():
    layer = encoder()
    silent = torch.zeros(1, 1, 64)
    together = layer(torch.cat([sound(), silent]))
    assert together.isfinite().all()
    torch.testing.assert_close(layer(silent)[0], together[3], rtol=0, atol=1e-5)
    torch.testing.assert_close(layer(sound()), together[:3], rtol=0, atol=1e-5)


def test_every_parameter_learns():
    layer = encoder()
    layer(sound()).square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_only_the_network_has_weights():
    assert all(name.startswith("network.") for name in encoder().state_dict())


@pytest.mark.parametrize("wrong", [{"hop": 0}, {"window": 1}, {"num_mels": 0}, {"sample_rate_hz": 10}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValidationError):
        LogMelEncoderConfig(**wrong)
    assert LogMelEncoderConfig.model_validate(LogMelEncoderConfig().model_dump()) == LogMelEncoderConfig()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            SignalSpec(1, (64,), 256, 8000),
            "model.encoder.sample_rate_hz=8000, as in the data, received 1000",
        ),
        (
            SignalSpec(1, (64,), 65536, 1000),
            "model.encoder.companded=False, as in the data, received True",
        ),
    ],
)
def test_what_the_data_is_not_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        LogMelEncoderConfig.tiny().build(spec, DIM)
    alike = {"sample_rate_hz": spec.sample_rate_hz, "companded": spec.levels == 256, "hop": 16, "window": 64}
    LogMelEncoderConfig.tiny().model_copy(update=alike).build(spec, DIM)
