"""Networks from their configs: which parts are built, and which do not fit each other."""

import pytest
import torch

from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.core.conditions import Batch
from smalti.core.errors import InputError
from smalti.core.parts import Decoder
from smalti.core.signals import SignalSpec
from smalti.decoders.autoregressive import AutoregressiveFamily, LocalDecoder, WaveNetDecoderConfig
from smalti.decoders.conv import ConvDecoder, ConvDecoderConfig
from smalti.encoders.conv import ConvEncoder, ConvEncoderConfig
from smalti.encoders.log_mel import LogMelEncoder, LogMelEncoderConfig
from smalti.likelihoods.categorical import CategoricalConfig, CategoricalFamily
from smalti.likelihoods.gaussian import GaussianConfig, GaussianFamily
from smalti.likelihoods.logistic_mixture import LogisticMixtureFamily
from smalti.likelihoods.normal import NormalFamily
from smalti.models import networks
from smalti.models.networks import NetworksConfig, build_networks, tiny_networks
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.quantizers.vq import VectorQuantizer

WAVEFORM = SignalSpec(1, (64,), levels=16)
WAVENET = WaveNetDecoderConfig.tiny()


def config(**parts) -> NetworksConfig:
    return VQVAEConfig(**{**tiny_networks(), **parts})


def upsampling(*strides: int) -> WaveNetDecoderConfig:
    return WAVENET.model_copy(update={"upsample": strides})


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [
        ({}, (ConvEncoder, ConvDecoder, LogisticMixtureFamily)),
        ({"likelihood": CategoricalConfig()}, (ConvEncoder, ConvDecoder, CategoricalFamily)),
        ({"encoder": LogMelEncoderConfig.tiny()}, (LogMelEncoder, ConvDecoder, LogisticMixtureFamily)),
        ({"decoder": WAVENET}, (ConvEncoder, LocalDecoder, AutoregressiveFamily)),
        (
            {"encoder": LogMelEncoderConfig.tiny(), "decoder": WAVENET},
            (LogMelEncoder, LocalDecoder, AutoregressiveFamily),
        ),
    ],
    ids=lambda parts: "-".join(parts) if isinstance(parts, dict) else "",
)
@torch.no_grad()
def test_parts_of_these_kinds_that_fit(parts, kinds):
    built = config(**parts)
    encoder, decoder, family = build_networks(built, WAVEFORM, encoded=5, decoded=3)
    assert (type(encoder), type(decoder), type(family)) == kinds
    assert VQVAEConfig.model_validate_json(built.model_dump_json()) == built
    latents = encoder(torch.zeros(2, 1, 64))
    assert latents.shape == (2, 5, *encoder.grid((64,)))
    likelihood = family(decoder(torch.zeros(2, 3, *encoder.grid((64,)))))
    assert likelihood.log_prob(torch.zeros(2, 1, 64)).shape == (2, 1, 64)


@pytest.mark.parametrize("spec", [SignalSpec(3, (8, 8)), SignalSpec(1, (8, 8)), SignalSpec(2, (64,))])
def test_a_wavenet_decoder_wants_a_waveform(spec):
    words = rf"WaveNet decoder, received {spec.channels} channels and {spec.ndim} axes"
    with pytest.raises(InputError, match=words):
        build_networks(config(decoder=WAVENET), spec, 5, 3)


@pytest.mark.parametrize("strides", [(3,), (8,), (2, 4)])
def test_upsampling_must_divide_the_stride(strides):
    words = r"upsample to divide the encoder's stride of 4, received"
    with pytest.raises(InputError, match=words):
        build_networks(config(decoder=upsampling(*strides)), WAVEFORM, 5, 3)


@pytest.mark.parametrize("strides", [(), (1,), (2,), (4,), (2, 2)])
def test_upsampling_that_divides_it(strides):
    *_, family = build_networks(config(decoder=upsampling(*strides)), WAVEFORM, 5, 3)
    assert isinstance(family, AutoregressiveFamily)
    assert family.frame * torch.Size(strides).numel() == 4


def test_a_wavenet_decoder_wants_a_likelihood_with_a_shape_for_each_sample():
    with pytest.raises(InputError, match="shared scale"):
        build_networks(config(decoder=WAVENET, likelihood=GaussianConfig()), WAVEFORM, 5, 3)


def test_a_log_mel_encoder_wants_a_waveform():
    with pytest.raises(InputError, match=r"expected a waveform .* received 3 channels"):
        build_networks(config(encoder=LogMelEncoderConfig.tiny()), SignalSpec(3, (8, 8)), 5, 3)


@pytest.mark.parametrize(
    ("decoder", "num_classes"),
    [
        (ConvDecoderConfig.tiny(), 0),
        (ConvDecoderConfig.tiny().model_copy(update={"use_labels": True}), 3),
        (WAVENET, 3),
    ],
    ids=["conv", "conv with labels", "wavenet"],
)
def test_number_of_label_classes(decoder, num_classes):
    _, built, family = build_networks(config(decoder=decoder), WAVEFORM, 5, 3, {"label": 3})
    assert {**built.condition_sizes, **family.condition_sizes} == ({"label": 3} if num_classes else {})


def test_sizes_are_those_of_the_config():
    wide = WAVENET.model_copy(update={"network": WaveNetConfig.tiny().model_copy(update={"layers": 4})})
    narrow = ConvEncoderConfig.tiny().model_copy(update={"strides": (2, 2, 2)})
    encoder, _, family = build_networks(config(decoder=wide, encoder=narrow), WAVEFORM, 5, 3)
    assert encoder.grid((64,)) == (8,)
    assert isinstance(family, AutoregressiveFamily)
    assert (family.network.reach, family.frame) == (31, 4)


def own_parts(channels: int = 3, levels: int = 256, out: int = 3, **quantizer):
    return (
        torch.nn.Conv2d(3, 8, 4, 4),
        VectorQuantizer(dim=8, num_codes=4, **quantizer),
        torch.nn.ConvTranspose2d(8, out, 4, 4),
        GaussianFamily(channels, levels),
        SignalSpec(3, (8, 8)),
    )


def test_modules_of_anybody_make_a_model():
    model = VQVAE(*own_parts())
    assert model.encode(torch.zeros(2, 3, 8, 8)).shape == (2, 1, 2, 2)
    assert model.loss(Batch(torch.zeros(2, 3, 8, 8))).total.isfinite()
    assert model.config is None


@pytest.mark.parametrize(
    ("parts", "received"),
    [
        (own_parts(out=1), r"output of shape \(1, 1, 8, 8\)"),
        (own_parts(channels=1, out=1), "one of 1"),
        (own_parts(levels=16), "received one of 16"),
        (own_parts(channel_last=True), "channel_last=True"),
        ((*own_parts()[:3], NormalFamily(3), SignalSpec(3, (8, 8))), "density"),
        ((torch.nn.Conv2d(3, 5, 4, 4), *own_parts()[1:]), "received one with 5"),
        ((torch.nn.Conv2d(4, 8, 4, 4), *own_parts()[1:]), "failed"),
        ((*own_parts()[:2], torch.nn.ConvTranspose2d(8, 3, 8, 8), *own_parts()[3:]), r"\(1, 3, 16, 16\)"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(parts, received):
    with pytest.raises(InputError, match=received):
        VQVAE(*parts)


@pytest.mark.parametrize(
    ("decoder", "received"),
    [
        (ConvDecoder(8, 1, channels=4), r"\(1, 1, 8, 8\)"),
        (ConvDecoder(8, 3, channels=4, strides=(2,)), r"\(1, 3, 4, 4\)"),
        (ConvDecoder(5, 3, channels=4), "failed"),
    ],
)
def test_own_decoders_that_do_not_fit_are_refused(decoder, received):
    encoder, quantizer, _, *others = own_parts()
    with pytest.raises(InputError, match=received):
        VQVAE(encoder, quantizer, decoder, *others)


def test_an_autoregressive_family_takes_parameters_of_its_frames():
    encoder, local, family = build_networks(config(decoder=upsampling(2)), WAVEFORM, 8, 8)
    quantizer = VectorQuantizer(dim=8, num_codes=4)
    assert VQVAE(encoder, quantizer, local, family, WAVEFORM).family.frame == 2
    with pytest.raises(InputError, match=r"\(1, 8, 64\)"):
        VQVAE(encoder, quantizer, LocalDecoder(8, channels=8, upsample_strides=(4,)), family, WAVEFORM)


def test_a_decoder_that_requires_a_condition_is_not_measured():
    class Required(Decoder):
        def forward(self, latents, conditions=None):
            raise InputError("expected a label, received none: pass one")

    encoder, quantizer, _, *others = own_parts()
    assert isinstance(VQVAE(encoder, quantizer, Required(), *others).decoder, Required)


def test_measuring_a_foreign_encoder_leaves_frozen_parts_frozen():
    encoder, *others = own_parts()
    frozen = torch.nn.BatchNorm2d(8).eval()
    module = torch.nn.Sequential(encoder, frozen)
    VQVAE(module, *others)
    assert module.training
    assert not frozen.training
    assert not frozen.running_mean.any()


class Moody(torch.nn.Module):
    """A decoder that reads values, counts its calls and keeps a tensor of its last input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.ConvTranspose2d(8, 3, 4, 4)
        self.is_needy, self.calls, self.last = True, 0, None

    def forward(self, latents):
        self.calls, self.last = self.calls + 1, latents
        return self.layer(latents) * (1 + float(latents.detach().sum()) if self.is_needy else 1)


@pytest.mark.parametrize(("is_needy", "small", "calls"), [(False, 2**23, 1), (False, 0, 0), (True, 0, 1)])
def test_measuring_a_foreign_decoder_leaves_no_tensors_without_values(monkeypatch, is_needy, small, calls):
    monkeypatch.setattr(networks, "SMALL", small)
    encoder, quantizer, _, *others = own_parts()
    decoder = Moody()
    decoder.is_needy = is_needy
    model = VQVAE(encoder, quantizer, decoder, *others)
    assert decoder.calls == calls
    assert decoder.last is None or not decoder.last.is_meta
    assert not any(each.is_meta for each in model.state_dict().values())
    assert model.loss(Batch(torch.zeros(2, 3, 8, 8))).total.isfinite()
