"""Networks beside the paper's: shapes, receptive fields, conditions, training, round trips."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.models import ModelConfig
from smalti.core.parts import Decoder, Encoder
from smalti.core.signals import SignalSpec
from smalti.decoders.harmonic import HarmonicDecoder, HarmonicDecoderConfig
from smalti.decoders.resnet import ResNetDecoder, ResNetDecoderConfig
from smalti.decoders.seanet import SEANetDecoder, SEANetDecoderConfig
from smalti.decoders.spectral import SpectralDecoder, SpectralDecoderConfig
from smalti.decoders.vit import ViTDecoder, ViTDecoderConfig
from smalti.encoders.resnet import SIZES as RESNETS
from smalti.encoders.resnet import ResNetEncoder, ResNetEncoderConfig
from smalti.encoders.seanet import SEANetEncoder, SEANetEncoderConfig
from smalti.encoders.spectral import SpectralEncoder, SpectralEncoderConfig
from smalti.encoders.vit import ViTEncoder, ViTEncoderConfig
from smalti.likelihoods.gaussian import GaussianConfig
from smalti.modalities.audio.modality import AudioConfig
from smalti.models.decoded_windows import decode_batch
from smalti.models.hierarchy import HierarchyConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.models.windows import encode_each
from smalti.nn.attention import rotary_angles, rotate
from smalti.nn.resnet import NearestUpsampling, StridedConvolution
from tests.conformance.models import signals

KINDS = {
    "resnet": (ResNetEncoderConfig, ResNetDecoderConfig),
    "coarse": (ResNetEncoderConfig, ResNetDecoderConfig),
    "vit": (ViTEncoderConfig, ViTDecoderConfig),
    "seanet": (SEANetEncoderConfig, SEANetDecoderConfig),
    "spectral": (SpectralEncoderConfig, SpectralDecoderConfig),
    "harmonic": (SpectralEncoderConfig, HarmonicDecoderConfig),
}
SPECS = {1: SignalSpec(1, (16,)), 2: SignalSpec(3, (8, 12)), 3: SignalSpec(2, (4, 8, 4))}
PICTURE = SignalSpec(3, (16, 16))
MU_LAW = AudioConfig(sample_rate_hz=1000, length=16).build().spec
SOUND = SignalSpec(1, (48,), axes=("time",))
CASES = [
    *((kind, ndim, {}) for kind in ("resnet", "vit") for ndim in SPECS),
    *((kind, 3, {"per_frame": True}) for kind in ("resnet", "vit")),
    ("resnet", 3, {"time_strides": (1, 2)}),
    *(("coarse", ndim, {}) for ndim in SPECS),
    ("coarse", 3, {"time_strides": (1, 2)}),
    ("vit", 3, {"time_strides": (2,)}),
    ("seanet", 1, {}),
    ("seanet", 1, {"causal": True}),
    ("spectral", 1, {}),
    ("spectral", 1, {"causal": True, "rate": 1}),
    ("harmonic", 1, {}),
]
EVERY = pytest.mark.parametrize(("kind", "ndim", "settings"), CASES, ids=str)
EVERY_KIND = pytest.mark.parametrize(
    ("kind", "ndim"),
    [("resnet", 2), ("coarse", 2), ("vit", 2), ("seanet", 1), ("spectral", 1), ("harmonic", 1)],
)


def config(kind: str, settings: dict[str, object] | None = None, **decoder: object) -> VQVAEConfig:
    """A tiny VQ-VAE of these networks."""
    encoders, decoders = KINDS[kind]
    tiny = VQVAEConfig.tiny()
    if kind == "coarse":
        settings, decoder = (
            {"full_resolution": False, **(settings or {})},
            {"full_resolution": False, **decoder},
        )
    if kind in ("spectral", "harmonic"):
        tiny = tiny.model_copy(update={"likelihood": GaussianConfig()})
    return tiny.model_copy(
        update={
            "encoder": encoders.tiny().changed(settings or {}),
            "decoder": decoders.tiny().changed(decoder),
        }
    )


@EVERY
@torch.no_grad()
def test_signal_to_codes_and_back(kind: str, ndim: int, settings: dict[str, object]) -> None:
    spec = SPECS[ndim]
    model = config(kind, settings).build(spec).eval()
    codes = model.encode(signals(spec))
    assert codes.shape == (3, model.num_codebooks, *model.encoder.grid(spec.size))
    assert model.decode(codes).shape == (3, spec.channels, *spec.size)


@EVERY
def test_every_parameter_is_trained(kind: str, ndim: int, settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = config(kind, settings, use_labels=True).build(SPECS[ndim], {"label": 2})
    batch = Batch(signals(SPECS[ndim], 6), Conditions(label=torch.tensor([0, 1, -1, 0, 1, -1])))
    loss = model.loss(batch).total
    loss.backward()
    # What a decoder predicts beside its output is trained by a term of an objective.
    for predicted in model.decoder.predictions(model.encoder(batch.data), batch.conditions).values():
        predicted.sum().backward()
    unused = [name for name, each in model.named_parameters() if each.grad is None]
    assert [name for name in unused if "quantizer" not in name] == []
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(12):
        optimizer.zero_grad()
        model.loss(batch).total.backward()
        optimizer.step()
    assert model.loss(batch).total < loss


@EVERY_KIND
@torch.no_grad()
def test_other_sizes_than_in_training(kind: str, ndim: int) -> None:
    model = config(kind).build(SPECS[ndim]).eval()
    size = tuple(side + 4 * (axis + 1) for axis, side in enumerate(SPECS[ndim].size))
    x = signals(SignalSpec(SPECS[ndim].channels, size))
    assert model.decode(model.encode(x)).shape == x.shape


@EVERY_KIND
@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(kind: str, ndim: int, tmp_path) -> None:
    model = config(kind).build(SPECS[ndim]).eval()
    model.save_pretrained(tmp_path)
    again = VQVAE.from_pretrained(tmp_path).eval()
    x = signals(SPECS[ndim])
    assert torch.equal(again.encode(x), model.encode(x))
    assert torch.equal(again.decode(model.encode(x)), model.decode(model.encode(x)))


@EVERY_KIND
def test_a_config_of_the_part_builds_it_again(kind: str, ndim: int) -> None:
    model = config(kind, use_labels=True).build(SPECS[ndim], {"label": 2})
    encoders, decoders = KINDS[kind]
    assert isinstance(model.encoder.config, encoders)
    assert model.encoder.config == config(kind).encoder
    assert isinstance(model.decoder.config, decoders)
    assert model.decoder.config.use_labels


@EVERY_KIND
@torch.no_grad()
def test_the_decoder_is_conditioned_on_the_label(kind: str, ndim: int) -> None:
    torch.manual_seed(0)
    model = config(kind, use_labels=True).build(SPECS[ndim], {"label": 2}).eval()
    codes = model.encode(signals(SPECS[ndim], 1))
    one, other, none = (
        model.decode(codes, Conditions(label=torch.tensor([label])) if label >= 0 else None)
        for label in (0, 1, -1)
    )
    assert not torch.equal(one, other)
    assert not torch.equal(one, none)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@torch.no_grad()
def test_a_latent_depends_on_all_of_the_signal(kind: str) -> None:
    torch.manual_seed(0)
    encoder = KINDS[kind][0].tiny().build(PICTURE, 4).eval()
    assert encoder.receptive_field is None
    x = torch.randn(1, 3, 16, 16)
    moved = x.clone()
    moved[..., -1, -1] += 10
    assert (encoder(x) != encoder(moved)).any(1).all()


@torch.no_grad()
def test_a_strided_convolution_reaches_one_position_to_the_right() -> None:
    """As in VQGAN: one position beyond its own to the right, and none to the left."""
    layer = StridedConvolution(1, 2, [2])
    x = torch.randn(1, 2, 12)
    for position in range(12):
        moved = x.clone()
        moved[..., position] += 1
        reached = (layer(x) != layer(moved)).any(1)[0].nonzero().flatten().tolist()
        assert reached == [n for n in range(6) if 2 * n <= position <= 2 * n + 2]


@pytest.mark.parametrize("strides", [(2,), (3,), (2, 3), (1, 2, 4)])
def test_strides_divide_and_multiply_the_size(strides: tuple[int, ...]) -> None:
    ndim = len(strides)
    x = torch.randn(2, 4, *(2 * stride for stride in strides))
    assert StridedConvolution(ndim, 4, strides)(x).shape[2:] == (2,) * ndim
    assert NearestUpsampling(ndim, 4, strides)(x).shape[2:] == tuple(2 * s * s for s in strides)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("strides", [(2,), (3,), (2, 5)])
def test_receptive_fields_of_seanet(causal: bool, strides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    encoder = SEANetEncoder(1, 3, channels=2, causal=causal, strides=strides).double().eval()
    decoder = SEANetDecoder(3, 1, channels=2, causal=causal, strides=strides[::-1]).double().eval()
    check_receptive_fields(encoder, decoder, math.prod(strides), torch.float64)
    assert not causal or after(encoder) == after(decoder) == 0


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("hop", "window", "rate"), [(2, 8, 2), (3, 6, 1), (2, 4, 3), (4, 12, 2)])
def test_receptive_fields_of_spectral(causal: bool, hop: int, window: int, rate: int) -> None:
    torch.manual_seed(0)
    settings = {"hop": hop, "window": window, "rate": rate, "causal": causal, "channels": 4, "layers": 1}
    encoder = SpectralEncoder(3, sample_rate_hz=1000, num_mels=2, **settings).eval()
    decoder = SpectralDecoder(3, **settings).eval()
    check_receptive_fields(encoder, decoder, hop * rate, torch.float32)
    assert not causal or after(encoder) == after(decoder) == 0


def after(part: Encoder | Decoder) -> int:
    assert part.receptive_field is not None
    return part.receptive_field.after


def check_receptive_fields(encoder: Encoder, decoder: Decoder, stride: int, dtype: torch.dtype) -> None:
    """They are the positions whose change reaches a latent, and the latents that reach a position.

    The ends of a Hann window are zero, so that up to one position fewer may be reached.
    """
    of_encoder, of_decoder = encoder.receptive_field, decoder.receptive_field
    assert of_encoder is not None
    assert of_decoder is not None
    reach = -(-max(of_encoder.before, of_encoder.after) // stride) + of_decoder.before + of_decoder.after
    num, middle = 2 * reach + 5, reach + 2
    signal = torch.randn(1, 1, num * stride, dtype=dtype)
    latents = encoder(signal).detach()
    assert latents.shape == (1, 3, num)
    assert decoder(latents).shape == signal.shape

    def reaching(network: torch.nn.Module, x: torch.Tensor, outputs: slice) -> list[int]:
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            network(x)[..., outputs].square().sum().backward()
        assert x.grad is not None
        return x.grad[0].abs().sum(0).nonzero().flatten().tolist()

    seen = reaching(encoder, signal, slice(middle, middle + 1))
    at, slack = middle * stride, int(isinstance(encoder, SpectralEncoder))
    assert seen[0] - (at - of_encoder.before) in range(slack + 1)
    assert at + stride - 1 + of_encoder.after - seen[-1] in range(slack + 1)
    seen = reaching(decoder, latents, slice(at, at + stride))
    assert seen[0] - (middle - of_decoder.before) in range(slack + 1)
    assert middle + of_decoder.after - seen[-1] in range(slack + 1)
    assert seen[0] > 0


@pytest.mark.parametrize("kind", ["seanet", "spectral"])
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_sounds_of_any_length_are_encoded_as_alone(kind: str, causal: bool) -> None:
    torch.manual_seed(0)
    model = config(kind, {"causal": causal}).build(SOUND).eval()
    sounds = [torch.randn(1, 4 * num).clamp(-1, 1) for num in (3, 700, 90)]
    reads = [lambda begin, end, sound=sound: sound[:, begin:end] for sound in sounds]
    together = encode_each(model, reads, [sound.shape[1:] for sound in sounds])
    for sound, codes in zip(sounds, together, strict=True):
        (alone,) = encode_each(
            model, [lambda begin, end, sound=sound: sound[:, begin:end]], [sound.shape[1:]]
        )
        assert torch.equal(codes, alone)
        whole = model.encoder(sound.unsqueeze(0))
        assert (model.quantizer.encode(whole)[0] == codes).float().mean() > 0.99


@torch.no_grad()
def test_spectra_beyond_the_ends_of_a_signal_are_silent() -> None:
    """Decoded in windows, sounds are those of the plain decoder, also where spectra are loud."""
    torch.manual_seed(0)
    model = config("spectral").build(SOUND).eval()
    spectra = next(layer for layer in model.decoder.layers if isinstance(layer, torch.nn.Conv1d))
    assert spectra.bias is not None
    spectra.bias.zero_()
    codes = torch.randint(model.num_codes, (2, model.num_codebooks, 300))
    in_windows = decode_batch(model, codes, Conditions())
    whole = model.family(model.decoder(model.quantizer.decode(codes))).mean()
    assert whole.abs().mean() > 1e-3
    torch.testing.assert_close(in_windows, whole, atol=1e-5, rtol=1e-4)


def test_sizes_differ_in_parameters() -> None:
    def parameters(part: torch.nn.Module) -> int:
        return sum(each.numel() for each in part.parameters())

    with torch.device("meta"):
        for build in (
            lambda size: ResNetEncoder(size=size),
            lambda size: ViTEncoder(size=size),
            lambda size: SEANetEncoder(size=size),
            lambda size: ResNetDecoder(size=size),
            lambda size: ViTDecoder(size=size),
            lambda size: SEANetDecoder(size=size),
            lambda size: SpectralEncoder(size=size),
            lambda size: SpectralDecoder(size=size),
            lambda size: HarmonicDecoder(size=size),
        ):
            small, base, large = (parameters(build(size)) for size in ("S", "B", "L"))
            assert small * 1.5 < base < large / 1.5
        by_hand = ResNetEncoder(channels=RESNETS["B"][0], blocks=2)
        assert parameters(by_hand) == parameters(ResNetEncoder(size="B"))


@torch.no_grad()
def test_products_of_rotated_vectors_depend_on_distances() -> None:
    angles = rotary_angles((5, 6), 16)
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16).expand(2, 1, 1, 30, 16)
    products = (rotate(query, angles) @ rotate(key, angles).transpose(-1, -2))[0, 0].view(5, 6, 5, 6)
    torch.testing.assert_close(products[0, 0, 2, 3], products[2, 2, 4, 5])
    torch.testing.assert_close(products[3, 4, 1, 1], products[2, 3, 0, 0])
    assert not torch.isclose(products[0, 0, 2, 3], products[0, 0, 3, 2])
    torch.testing.assert_close(rotate(query, angles).norm(dim=-1), query.norm(dim=-1))


@pytest.mark.parametrize(
    ("kind", "spec", "settings", "words"),
    [
        ("seanet", PICTURE, {}, "one axis"),
        ("spectral", PICTURE, {}, "one axis"),
        ("spectral", SPECS[1], {"window": 7}, "window of 8"),
        ("spectral", SPECS[1], {"window": 2}, "window of 8"),
        ("spectral", MU_LAW, {"companded": True}, "linear levels"),
        ("resnet", PICTURE, {"per_frame": True}, "clips"),
        ("vit", SPECS[1], {"time_strides": (2,)}, "clips"),
        ("vit", PICTURE, {"channels": 18, "heads": 4}, "channels=16"),
    ],
)
def test_settings_that_do_not_fit(kind: str, spec: SignalSpec, settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        config(kind, settings).build(spec)


def test_a_hierarchy_of_residual_networks() -> None:
    tiny = HierarchyConfig.tiny()
    made: ModelConfig = tiny.model_copy(
        update={"encoder": ResNetEncoderConfig.tiny(), "decoder": ResNetDecoderConfig.tiny()}
    )
    model = made.build(PICTURE)
    assert any(isinstance(part, ResNetEncoder) for part in model.modules())
    assert any(isinstance(part, ResNetDecoder) for part in model.modules())
    assert model.loss(Batch(signals(PICTURE))).total.isfinite()


@pytest.mark.parametrize("kind", ["seanet", "spectral"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_decoder_is_causal_as_its_encoder(kind: str, causal: bool) -> None:
    model = config(kind, {"causal": causal}).build(SOUND)
    field = model.decoder.receptive_field
    assert field is not None
    assert (field.after == 0) == causal


@torch.no_grad()
def test_positions_of_equal_patches_differ() -> None:
    torch.manual_seed(0)
    decoder = ViTDecoder(4, 3, channels=16, layers=1, heads=2, strides=(2,)).eval()
    patches = decoder(torch.ones(1, 4, 3, 3))[0].unfold(1, 2, 2).unfold(2, 2, 2).movedim(0, 2).flatten(2)
    assert len(patches.flatten(0, 1).mul(1e4).round().unique(dim=0)) == 9


@pytest.mark.parametrize(
    "settings", [{"time_strides": (2,), "strides": (2, 2)}, {"time_strides": (1, 2), "per_frame": True}]
)
def test_decoders_with_settings_that_contradict_each_other(settings: dict) -> None:
    with pytest.raises(ValidationError, match="time_strides"):
        ResNetDecoderConfig(**settings)
