"""The convolutional decoder: it undoes the encoder's sizes and depends on every latent."""

import pytest
import torch
from torch import nn

from smalti.core.conditions import Conditions
from smalti.core.errors import InputError
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoder, ConvDecoderConfig
from smalti.encoders.conv import ConvEncoderConfig
from smalti.likelihoods.gaussian import GaussianFamily

SMALL = {"channels": 6, "residual_channels": 4}


def decoder(ndim: int = 2, strides=(2, 2), **settings) -> ConvDecoder:
    return ConvDecoder(5, 7, ndim, strides=strides, **SMALL, **settings)


@pytest.mark.parametrize("head_channels", [0, 3])
@pytest.mark.parametrize(
    ("size", "strides"), [((20,), (4, 5)), ((8, 12), (2, 2)), ((6, 18), (3, 2)), ((4, 8, 12), (2, 2))]
)
def test_the_output_has_the_size_that_was_encoded(size, strides, head_channels):
    encoder = ConvEncoderConfig.tiny().changed({"strides": strides}).build(SignalSpec(3, size), 5)
    layer = decoder(len(size), encoder.strides[::-1], head_channels=head_channels)
    assert layer(encoder(torch.randn(2, 3, *size))).shape == (2, 7, *size)


@pytest.mark.parametrize("settings", [{"time_strides": (1, 3)}, {"per_frame": True}], ids=str)
def test_it_mirrors_what_the_encoder_does_to_time(settings):
    config = ConvEncoderConfig.tiny().changed(settings)
    encoder = config.build(SignalSpec(3, (6, 8, 4)), 5)
    times = encoder.time_strides[::-1]
    layer = ConvDecoder(5, 7, 3, **SMALL, time_strides=times, per_frame=encoder.is_per_frame)
    assert layer(encoder(torch.randn(2, 3, 6, 8, 4))).shape == (2, 7, 6, 8, 4)


def test_per_frame_is_the_network_of_pictures_with_the_same_label():
    clips = ConvDecoder(5, 7, 3, **SMALL, conditions={"label": 3}, per_frame=True).eval()
    pictures = ConvDecoder(5, 7, 2, **SMALL, conditions={"label": 3}).eval()
    pictures.load_state_dict(clips.state_dict())
    latents = torch.randn(2, 5, 4, 3, 2)
    expected = torch.stack([pictures(frame, labels(2, 0)) for frame in latents.unbind(2)], 2)
    torch.testing.assert_close(clips(latents, labels(2, 0)), expected)


def test_the_papers_decoder():
    layer = ConvDecoder(dim=64, out_channels=768, channels=256, residual_channels=256, strides=(2, 2))
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    convolutions = [module for module in layer.modules() if isinstance(module, kinds)]
    assert [conv.kernel_size[0] for conv in convolutions] == [3, 3, 1, 3, 1, 4, 4]
    assert [conv.stride[0] for conv in convolutions] == [1, 1, 1, 1, 1, 2, 2]


def test_a_head_makes_the_parameters_by_a_1x1_convolution():
    *_, last_upsampling, _, head = decoder(head_channels=3).layers
    assert last_upsampling.out_channels == 3
    assert head.kernel_size == (1, 1)
    assert head.out_channels == 7


@pytest.mark.parametrize("head_channels", [0, 3])
def test_every_latent_and_every_parameter_counts(head_channels):
    torch.manual_seed(0)  # some weights leave a ReLU at zero for every latent
    layer = decoder(head_channels=head_channels)
    latents = torch.randn(4, 5, 3, 2, requires_grad=True)
    layer(latents).square().sum().backward()
    assert latents.grad.all()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []


def labels(*given: int) -> Conditions:
    return Conditions(label=torch.tensor(given))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@torch.no_grad()
def test_each_label_and_its_absence_say_something_else(ndim):
    layer = decoder(ndim, conditions={"label": 3}).eval()
    assert layer.condition_sizes == {"label": 3}
    latents = torch.randn(1, 5, *[2] * ndim).expand(4, 5, *[2] * ndim)
    labelled = layer(latents, labels(0, 1, -1, 2))
    assert len(labelled.flatten(1).unique(dim=0)) == 4
    for absent in (None, Conditions(), labels(-1, -1, -1, -1)):
        torch.testing.assert_close(layer(latents, absent), labelled[[2]].expand_as(labelled))


@torch.no_grad()
def test_labels_go_with_their_items():
    layer = decoder(conditions={"label": 3}).eval()
    latents = torch.randn(3, 5, 2, 3)
    together = layer(latents, labels(2, -1, 0))
    for item, label in enumerate((2, -1, 0)):
        torch.testing.assert_close(layer(latents[[item]], labels(label))[0], together[item])


@torch.no_grad()
def test_training_hides_this_share_of_the_labels():
    layer = decoder(conditions={"label": 3}, label_dropout=0.3).train()
    latents = torch.randn(1, 5, 2, 2).expand(2000, 5, 2, 2)
    torch.manual_seed(0)
    labelled = layer(latents, Conditions(label=torch.ones(2000, dtype=torch.int64))).flatten(1)
    hidden = (labelled - layer(latents[:1]).flatten(1)).abs().amax(1) < 1e-5
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert not torch.allclose(layer.eval()(latents[:1], labels(1)), layer(latents[:1]))


@pytest.mark.parametrize(("use_labels", "num_classes"), [(False, 3), (True, 0), (False, 0)])
@torch.no_grad()
def test_without_use_labels_or_without_classes_labels_are_ignored(use_labels, num_classes):
    config = ConvDecoderConfig(**SMALL, use_labels=use_labels)
    encoder = ConvEncoderConfig.tiny().build(SignalSpec(3, (8, 8)), 5)
    layer, _ = config.build(SignalSpec(3, (8, 8)), 5, encoder, GaussianFamily(), {"label": num_classes})
    latents = torch.randn(1, 5, 2, 2)
    assert layer.condition_sizes == {}
    assert not any("label" in name for name, _ in layer.named_parameters())
    assert torch.equal(layer(latents, labels(2)), layer(latents))


@pytest.mark.parametrize("wrong", [(3,), (-2,), (0, 1)])
def test_labels_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError, match=r"expected .*label"):
        decoder(conditions={"label": 3})(torch.randn(1, 5, 2, 2), labels(*wrong))
