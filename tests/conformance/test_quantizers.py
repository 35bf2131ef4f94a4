"""Properties of every quantizer. A new one is a line in `NEAREST_CODE` or `OTHERS`."""

import copy
import re
from collections.abc import Callable
from functools import partial

import pytest
import torch

from smalti.core.errors import InputError
from smalti.core.parts import QUANTIZERS, Quantizer
from smalti.core.precision import default_dtype
from smalti.quantizers.bsq import BSQ
from smalti.quantizers.codebooks.ema import EMACodebookConfig
from smalti.quantizers.fsq import FSQ
from smalti.quantizers.ibq import IBQ
from smalti.quantizers.lfq import LFQ
from smalti.quantizers.multi_scale import MultiScaleVQ
from smalti.quantizers.residual import ResidualVQ
from smalti.quantizers.residual_fsq import ResidualFSQ
from smalti.quantizers.vq import VectorQuantizer
from tests.conformance.classes import concrete

REVIVING = EMACodebookConfig(revive_after=2.0, revive_every=2, data_init=False)
NEAREST_CODE: dict[str, Callable[..., Quantizer]] = {
    "vq-ema": partial(VectorQuantizer, 8, 16, 2),
    "vq-gradient": partial(VectorQuantizer, 8, 16, 2, codebook="gradient"),
    "vq-frozen": partial(VectorQuantizer, 8, 16, 2, codebook="frozen"),
    "vq-reviving": partial(VectorQuantizer, 8, 40, 2, codebook=REVIVING),
    "vq-one-codebook": partial(VectorQuantizer, 4, 16),
    "vq-simvq": partial(VectorQuantizer, 8, 16, 2, codebook="simvq"),
    "vq-unit": partial(VectorQuantizer, 8, 16, 2, normalize="codes"),
    "vq-rotation": partial(VectorQuantizer, 8, 16, 2, gradient="rotation"),
    "vq-diveq": partial(VectorQuantizer, 8, 16, 2, codebook="gradient", gradient="diveq"),
    "vq-nsvq": partial(VectorQuantizer, 8, 16, 2, codebook="gradient", gradient="nsvq"),
}
"""Those whose codes are the nearest of a codebook, so that each code is its own nearest."""
OTHERS: dict[str, Callable[..., Quantizer]] = {
    "fsq": partial(FSQ, (4, 3, 5)),
    "fsq-sigmoid": partial(FSQ, (4, 3, 5), "sigmoid"),
    "lfq": partial(LFQ, 4, 2, entropy_anneal_steps=16),
    "lfq-grouped": partial(LFQ, 5, group_bits=2),
    "lfq-many-codes": partial(LFQ, 36),
    "bsq": partial(BSQ, 4, 2, commitment_weight=0.25, entropy_anneal_steps=16),
    "bsq-many-codes": partial(BSQ, 36),
    "ibq": partial(IBQ, 6, 16),
    "multi-scale": partial(MultiScaleVQ, 6, 16, ((1, 2), (4, 4))),
    "residual": partial(ResidualVQ, 6, 16, 3),
    "residual-dac": partial(ResidualVQ, 6, 16, 3, codebook="gradient", code_dim=4, normalize="search"),
    "residual-unit": partial(ResidualVQ, 6, 16, 3, code_dim=4, normalize="codes", split_first=True),
    "residual-diveq": partial(ResidualVQ, 6, 16, 3, codebook="gradient", gradient="diveq"),
    "residual-fsq": partial(ResidualFSQ, (4, 3), 3),
}
CASES = NEAREST_CODE | OTHERS
EVERY = pytest.mark.parametrize("build", CASES.values(), ids=CASES)
NEAREST = pytest.mark.parametrize("build", NEAREST_CODE.values(), ids=NEAREST_CODE)
GRIDS = pytest.mark.parametrize("grid", [(7,), (3, 5), (2, 3, 4), (1, 1)], ids=str)


def grid_for(quantizer: Quantizer, *grid: int) -> tuple[int, ...]:
    """The grid of latents, unless the quantizer has one of its own."""
    return getattr(quantizer, "grid", grid)


def trained(build: Callable[[], Quantizer], seed: int = 0) -> Quantizer:
    """A quantizer after a step, in evaluation mode."""
    torch.manual_seed(seed)
    quantizer = build()
    quantizer(torch.randn(4, quantizer.dim, *grid_for(quantizer, 6, 6)))
    return quantizer.eval()


def latents_for(quantizer: Quantizer, *grid: int) -> torch.Tensor:
    grid = grid_for(quantizer, *grid)
    return 2 * torch.randn(3, quantizer.dim, *grid, generator=torch.Generator().manual_seed(1))


def test_every_quantizer_is_in_the_table():
    quantizers = [build() for build in CASES.values()]
    assert concrete(Quantizer) == {type(quantizer) for quantizer in quantizers}
    assert set(QUANTIZERS.kinds()) == {quantizer.config.kind for quantizer in quantizers}


@GRIDS
@EVERY
def test_shapes_and_ranges(build, grid):
    quantizer = trained(build)
    latents = latents_for(quantizer, *grid)
    codes = quantizer.encode(latents)
    assert codes.dtype == torch.int64
    assert codes.shape == (3, quantizer.num_codebooks, *quantizer.code_grid(latents.shape[2:]))
    assert len(quantizer.codebook_ids) == quantizer.num_codebooks
    assert codes.min() >= 0
    assert codes.max() < quantizer.num_codes
    decoded = quantizer.decode(codes)
    assert decoded.shape == latents.shape
    assert decoded.dtype == torch.float32


@GRIDS
@NEAREST
def test_encode_decode_round_trip(build, grid):
    quantizer = trained(build)
    codes = quantizer.encode(latents_for(quantizer, *grid))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


@GRIDS
@EVERY
def test_channels_last_is_the_same_with_the_axis_moved(build, grid):
    first, last = build().train(), build(channel_last=True).train()
    last.load_state_dict(first.state_dict())
    for _ in range(2):
        latents = latents_for(first, *grid)
        torch.manual_seed(0)
        moved = last(latents.movedim(1, -1))
        torch.manual_seed(0)
        quantized = first(latents)
        assert torch.equal(moved.codes, quantized.codes.movedim(1, -1))
        assert torch.equal(moved.latents, quantized.latents.movedim(1, -1))
        torch.testing.assert_close(moved.loss, quantized.loss)
    codes = last.encode(latents.movedim(1, -1))
    assert torch.equal(codes, first.encode(latents).movedim(1, -1))
    assert torch.equal(last.decode(codes), first.decode(codes.movedim(-1, 1)).movedim(1, -1))


@pytest.mark.parametrize("channel_last", [False, True])
@EVERY
def test_another_number_of_channels_is_refused(build, channel_last):
    quantizer = build(channel_last=channel_last)
    shape = (2, 3, 3, quantizer.dim + 1) if channel_last else (2, quantizer.dim + 1, 3, 3)
    for use in (quantizer, quantizer.encode):
        with pytest.raises(InputError, match=rf"received {re.escape(str(shape))}"):
            use(torch.zeros(shape))


@EVERY
def test_its_config_builds_another_like_it(build):
    quantizer = trained(build)
    config = quantizer.config
    assert QUANTIZERS.parse(config.model_dump(mode="json")) == config
    other = config.build().eval()
    assert other.title == quantizer.title != ""
    other.load_state_dict(quantizer.state_dict())
    latents = latents_for(quantizer, 3, 5)
    assert torch.equal(other.encode(latents), quantizer.encode(latents))


@GRIDS
@EVERY
def test_forward_agrees_with_encode_and_decode(build, grid):
    quantizer = trained(build)
    latents = latents_for(quantizer, *grid)
    quantized = quantizer(latents)
    assert torch.equal(quantized.codes, quantizer.encode(latents))
    assert torch.equal(quantized.latents, quantizer.decode(quantized.codes))
    assert quantized.loss.isfinite()
    assert not any(term.requires_grad for term in quantized.terms.values())


@NEAREST
def test_every_code_decodes_to_itself(build):
    quantizer = trained(build)
    codes = torch.arange(quantizer.num_codes).expand(1, quantizer.num_codebooks, -1).contiguous()
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


@EVERY
def test_the_encoder_gets_a_gradient(build):
    quantizer = trained(build).train()
    latents = latents_for(quantizer, 3, 3).requires_grad_()
    quantized = quantizer(latents)
    (quantized.latents.sum() + quantized.loss).backward()
    assert latents.grad.all()


@EVERY
def test_an_item_is_quantized_as_in_a_batch(build):
    quantizer = trained(build)
    latents = latents_for(quantizer, 4, 3)
    codes = quantizer.encode(latents)
    for item in range(3):
        assert torch.equal(quantizer.encode(latents[[item]])[0], codes[item])


@EVERY
def test_autocast_changes_nothing(build):
    quantizer = trained(build)
    latents = 50 + latents_for(quantizer, 8, 8) / 10
    expected = quantizer(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized, codes = quantizer(latents), quantizer.encode(latents)
        decoded = quantizer.decode(codes)
    assert torch.equal(codes, expected.codes)
    assert torch.equal(quantized.codes, expected.codes)
    assert torch.equal(quantized.latents, expected.latents)
    assert torch.equal(decoded, expected.latents)


@EVERY
def test_another_default_type_changes_nothing(build):
    quantizer = trained(build)
    latents = latents_for(quantizer, 5, 5)
    expected = quantizer(latents)
    with default_dtype(torch.float64):
        quantized, codes = quantizer(latents), quantizer.encode(latents)
        decoded = quantizer.decode(codes)
    assert torch.equal(codes, expected.codes)
    assert decoded.dtype == quantized.latents.dtype == torch.float32
    assert torch.equal(quantized.latents, expected.latents)
    assert torch.equal(decoded, expected.latents)


@EVERY
def test_a_loaded_state_gives_the_same(build):
    saved, loaded = trained(build), build()
    loaded.load_state_dict(saved.state_dict())
    latents = latents_for(saved, 5, 5)
    for one, other in (
        (saved.eval(), loaded.eval()),
        (saved.train(), loaded.train()),
        (saved.eval(), loaded.eval()),
    ):
        assert torch.equal(one(latents).codes, other(latents).codes)
        assert torch.equal(one.encode(latents), other.encode(latents))
        assert torch.equal(one.decode(one.encode(latents)), other.decode(one.encode(latents)))


@pytest.mark.parametrize("training", [False, True])
@EVERY
def test_what_is_not_a_number_is_seen_and_spoils_no_other_item(build, training):
    quantizer = trained(build).train(training)
    latents = latents_for(quantizer, 3, 5)
    torch.manual_seed(0)
    expected = copy.deepcopy(quantizer)(latents)
    place = (1, slice(None), *(0 for _ in latents.shape[2:]))
    latents[place][0] = torch.nan
    torch.manual_seed(0)
    quantized = quantizer(latents)
    assert quantized.latents[place].isnan().any()
    assert torch.equal(quantized.codes[[0, 2]], expected.codes[[0, 2]])
    assert torch.equal(quantized.latents[[0, 2]], expected.latents[[0, 2]])
    assert quantized.codes.min() >= 0
    assert quantized.codes.max() < quantizer.num_codes
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@EVERY
def test_a_module_of_another_type_is_that_of_its_weights(build, dtype):
    """Also with gradients; the weights are rounded, and nothing else."""
    rounded = trained(build).to(dtype)
    single = copy.deepcopy(rounded).float()
    latents = latents_for(single, 3, 5)
    expected = single(latents)
    quantized = rounded(latents.clone().requires_grad_())
    assert torch.equal(quantized.codes, expected.codes)
    assert torch.equal(quantized.latents.float(), expected.latents)
    assert torch.equal(rounded.decode(quantized.codes).float(), expected.latents)
    (quantized.latents.sum() + quantized.loss).backward()


@EVERY
def test_it_can_be_built_without_memory_and_then_filled(build):
    quantizer = trained(build)
    with torch.device("meta"):
        empty = build()
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(quantizer.state_dict())
    latents = latents_for(quantizer, 3, 5)
    codes = quantizer.encode(latents)
    assert torch.equal(filled.encode(latents), codes)
    assert torch.equal(filled.decode(codes), quantizer.decode(codes))


@EVERY
def test_views_and_other_memory_formats_are_the_same(build):
    quantizer = trained(build)
    latents = latents_for(quantizer, 3, 5)
    expected = quantizer(latents)
    strided = torch.zeros(*latents.shape, 2)[..., 0].copy_(latents)
    for view in (strided, latents.transpose(0, 1).contiguous().transpose(0, 1)):
        assert torch.equal(quantizer(view).latents, expected.latents)
        assert torch.equal(quantizer.encode(view), expected.codes)
    codes = expected.codes.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(quantizer.decode(codes), expected.latents)


@EVERY
def test_evaluation_learns_nothing(build):
    quantizer = trained(build)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(latents_for(quantizer, 5, 5))
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


@EVERY
def test_codes_of_another_model_get_a_sentence(build):
    quantizer = trained(build)
    codes = quantizer.encode(latents_for(quantizer, 2, 2))
    for bad in (codes + quantizer.num_codes, codes - quantizer.num_codes, codes.repeat(1, 2, 1, 1)):
        with pytest.raises(InputError, match=r"expected codes .* received "):
            quantizer.decode(bad)
