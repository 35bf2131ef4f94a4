"""Hierarchies; what every model has to do is in tests/conformance."""

import math
from collections.abc import Sequence
from typing import Literal

import pytest
import torch

from smalti.core.conditions import Batch, Conditions
from smalti.core.errors import InputError
from smalti.core.parts import ENCODERS, Encoder, EncoderConfig
from smalti.core.signals import SignalSpec
from smalti.decoders.conv import ConvDecoder
from smalti.evaluation.codebook import CodebookUse, counts_by_codebook
from smalti.likelihoods.gaussian import GaussianFamily
from smalti.likelihoods.normal import NormalFamily
from smalti.models.hierarchy import Hierarchy, HierarchyConfig
from smalti.nn.blocks import CONVOLUTIONS
from smalti.quantizers.vq import VectorQuantizer

SPEC = SignalSpec(3, (16, 24))
THREE = HierarchyConfig.tiny().model_copy(update={"factors": (2, 2)})


def build(config: HierarchyConfig = THREE) -> Hierarchy:
    torch.manual_seed(0)
    return config.build(SPEC).eval()


def test_codes_are_of_all_levels():
    model = build()
    assert model.grid == (2, 3)
    assert model.stride == 8
    assert model.levels.grids(model.grid) == [(2, 3), (4, 6), (8, 12)]
    assert model.num_codebooks == 2 * (1 + 4 + 16)
    codes = model.encode(torch.rand(2, 3, *SPEC.size) * 2 - 1)
    assert codes.shape == (2, 42, 2, 3)
    assert "of 3 levels" in model.title


def test_sizes_that_the_levels_do_not_divide_are_refused():
    for size, fitting in (((16, 20), "16x16"), ((10, 24), "8x24")):
        with pytest.raises(
            InputError, match=f"multiples of 8 .*received {size[0]}x{size[1]}.*size={fitting}"
        ):
            THREE.build(SignalSpec(3, size))


@torch.no_grad()
def test_what_decodes_the_signal_sees_every_level():
    model, codes = build(), torch.randint(16, (1, 42, 2, 3))
    mean = model.likelihood(codes).mean()
    for level, part in enumerate(model.levels.unpack(codes)):
        parts = model.levels.unpack(codes)
        parts[level] = (part + 1) % 16
        assert not torch.allclose(model.likelihood(model.levels.pack(parts)).mean(), mean)


@torch.no_grad()
def test_a_finer_level_is_quantized_after_the_coarser_ones():
    """Its latents are made with what is known from above: other coarse codes give it other latents."""
    model, signal = build(), torch.rand(1, 3, *SPEC.size) * 2 - 1
    before = model.levels.unpack(model.encode(signal))
    model.quantizers[2].codebook.codes.add_(3.0)
    after = model.levels.unpack(model.encode(signal))
    assert not torch.equal(before[2], after[2])


def test_every_parameter_of_every_level_learns():
    model = build().train()
    model.loss(Batch(torch.rand(4, 3, *SPEC.size) * 2 - 1)).total.backward()
    named = [name for name, p in model.named_parameters() if p.requires_grad]
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert set(named) == learned


def test_it_learns():
    torch.manual_seed(0)
    model = build().train()
    coarse = torch.rand(8, 3, 2, 3)
    signal = torch.nn.functional.interpolate(coarse, SPEC.size) * 2 - 1
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = model.loss(Batch(signal))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.terms["distortion_bits_per_dim"].item())
        assert math.isfinite(losses[-1])
    assert losses[-1] < losses[0] - 0.8


def test_use_is_counted_by_the_codebooks_that_there_are():
    """Fine codes that are all different at each place of their block are of one codebook."""
    model = build(HierarchyConfig.tiny())
    coarse, fine = torch.zeros(1, 2, 4, 6, dtype=torch.int64), torch.zeros(1, 2, 8, 12, dtype=torch.int64)
    fine[:, 0, ::2, ::2], fine[:, 0, 1::2, 1::2] = 1, 2
    fine[:, 1] = 3
    use = CodebookUse(model.num_codebooks, model.num_codes)
    use.update(model.levels.pack([coarse, fine]))
    counts = counts_by_codebook(use.counts, model.codebook_ids)
    assert counts.shape == (4, 16)
    assert counts.sum(1).tolist() == [24, 24, 96, 96]
    assert counts[2, :3].tolist() == [48, 24, 24]
    assert counts[3, 3] == 96


@pytest.mark.parametrize("settings", [{"per_frame": True}, {"time_strides": (2,)}])
def test_settings_of_time_are_refused(settings):
    encoder = THREE.encoder.model_copy(update=settings)
    with pytest.raises(InputError, match="per_frame or time_strides"):
        THREE.model_copy(update={"encoder": encoder}).build(SignalSpec(3, (8, 16, 16)))


def parts(config: HierarchyConfig = THREE, **changes) -> dict:
    """Keyword arguments of a hierarchy of registered parts."""
    model = build(config)
    given = {
        "encoders": model.encoders,
        "projections": list(model.projections),
        "quantizers": list(model.quantizers),
        "decoders": model.decoders,
        "likelihood": model.family,
        "signal": SPEC,
        "factors": config.factors,
    }
    return {**given, **changes}


def test_a_hierarchy_of_registered_parts_can_be_saved(tmp_path):
    before = torch.random.get_rng_state()
    model = Hierarchy(**parts())
    torch.random.set_rng_state(before)
    model.eval().save_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = Hierarchy.from_pretrained(tmp_path)
    signal = torch.rand(2, 3, *SPEC.size) * 2 - 1
    assert torch.equal(again.encode(signal), model.encode(signal))


def test_a_hierarchy_that_no_config_builds_cannot_be_saved(tmp_path):
    given = parts()
    given["projections"][0] = torch.nn.Sequential(given["projections"][0], torch.nn.Identity())
    with pytest.raises(InputError, match="registered config"):
        Hierarchy(**given).save_pretrained(tmp_path)


class Patches(Encoder):
    """An encoder of separate patches."""

    def __init__(self, channels: int, dim: int, ndim: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.strides = PatchesConfig(strides=strides), strides
        self.layer = CONVOLUTIONS[ndim](channels, dim, strides[0], strides[0])

    def forward(self, signal: torch.Tensor, conditions: Conditions | None = None) -> torch.Tensor:
        return self.layer(signal)

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(side // self.strides[0] for side in size)


class PatchesConfig(EncoderConfig):
    kind: Literal["patches"] = "patches"
    strides: tuple[int, ...] = (4,)

    def build(self, signal: SignalSpec, dim: int) -> Patches:
        return Patches(signal.channels, dim, signal.ndim, self.strides)


@pytest.fixture
def patches(monkeypatch: pytest.MonkeyPatch) -> HierarchyConfig:
    """A hierarchy whose encoders are not of this package, and have no `channels`."""
    monkeypatch.setattr(ENCODERS, "_kinds", dict(ENCODERS.kinds()))
    ENCODERS.register(PatchesConfig)
    settings = {"encoder": {"kind": "patches"}, "factors": (2,), "features": 6, "maps": 5}
    return HierarchyConfig.model_validate({**THREE.model_dump(), **settings})


def test_a_hierarchy_of_other_registered_encoders(patches, tmp_path):
    model = build(patches)
    assert model.grid == (2, 3)
    assert [encoder.strides for encoder in model.encoders] == [(4,), (2,)]
    assert model.num_channels == (6, 5)
    for place, made in (("built", model), ("injected", Hierarchy(**parts(patches)).eval())):
        made.save_pretrained(tmp_path / place)
        again = Hierarchy.from_pretrained(tmp_path / place)
        signal = torch.rand(2, 3, *SPEC.size) * 2 - 1
        assert torch.equal(again.encode(signal), made.encode(signal))


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"features": None}, "features"),
        ({"encoder": {"kind": "log_mel"}, "features": 4}, "log-mel"),
        ({"encoder": {"kind": "code_grid"}}, "CodeGridEncoderConfig"),
        ({"decoder": {"kind": "pixelcnn"}, "likelihood": {"kind": "categorical"}}, "PixelCNNDecoderConfig"),
    ],
)
def test_parts_that_make_no_levels_are_refused(patches, changes, received):
    config = HierarchyConfig.model_validate({**patches.model_dump(), **changes})
    with pytest.raises(InputError, match=received):
        config.build(SignalSpec(3, (336, 336)))


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"likelihood": NormalFamily(3)}, "density"),
        ({"likelihood": GaussianFamily(3, 16)}, "received one of 16"),
        ({"likelihood": GaussianFamily(3)}, "received an output of shape"),
        ({"factors": (2,)}, r"\[3, 3, 3, 3\]"),
        ({"factors": (2, 4)}, r"\(2, 4\)"),
        (
            {"quantizers": [VectorQuantizer(dim=4, num_codes=k, num_codebooks=2) for k in (4, 4, 8)]},
            r"\(2, 8\)",
        ),
        ({"quantizers": [VectorQuantizer(dim=4, num_codes=4, channel_last=True)] * 3}, "channel_last=True"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, received):
    with pytest.raises(InputError, match=received):
        Hierarchy(**parts(**changes))


def test_a_decoder_between_levels_that_does_not_fit_is_refused():
    decoders = parts()["decoders"]
    wrong = ConvDecoder(8, 8, channels=8, residual_channels=4, strides=(4,))
    with pytest.raises(InputError, match="level 2"):
        Hierarchy(**parts(decoders=[*decoders[:2], wrong]))
