"""Properties of quantizers for any settings, shapes, types and values."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.core.parts import Quantizer
from smalti.quantizers.bsq import BSQ
from smalti.quantizers.fsq import FSQ
from smalti.quantizers.ibq import IBQ
from smalti.quantizers.lfq import LFQ
from smalti.quantizers.residual import ResidualVQ
from smalti.quantizers.residual_fsq import ResidualFSQ
from smalti.quantizers.vq import VectorQuantizer

LEVELS = st.lists(st.integers(2, 1000), min_size=1, max_size=6)
SIGNS = {"bits": st.integers(1, 63), "num_codebooks": st.integers(1, 3), "group_bits": st.integers(1, 9)}
SETTINGS = {
    FSQ: {"levels": LEVELS, "bound": st.sampled_from(["tanh", "sigmoid"])},
    ResidualFSQ: {"levels": LEVELS, "num_quantizers": st.integers(1, 2)},
    LFQ: SIGNS,
    BSQ: SIGNS,
}


# Built in the test, since the checks of its arguments would draw random numbers inside a strategy.
def makers(of_kinds: dict[Any, Any]) -> st.SearchStrategy[tuple[Callable[..., Quantizer], dict[str, Any]]]:
    """Any of the classes, with any of its settings."""
    return st.one_of(
        *(
            st.fixed_dictionaries({**each, "channel_last": st.booleans()}).map(
                lambda chosen, of=of: (of, chosen)
            )
            for of, each in of_kinds.items()
        )
    )


LATENTS: dict[str, Any] = {
    "batch_size": st.integers(1, 3),
    "grid": st.lists(st.integers(1, 4), max_size=3),
    "dtype": st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    "scale": st.sampled_from([0.0, 1e-30, 0.1, 3.0, 1e4]),
    "seed": st.integers(0, 100),
}


@given(maker=makers(SETTINGS), **LATENTS)
@settings(max_examples=40, deadline=None)
def test_forward_encode_and_decode_agree(
    maker: tuple[Callable[..., Quantizer], dict[str, Any]],
    batch_size: int,
    grid: list[int],
    dtype: torch.dtype,
    scale: float,
    seed: int,
) -> None:
    kind, chosen = maker
    quantizer = kind(**chosen)
    is_last = quantizer.layout.channel_last
    shape = (batch_size, *grid, quantizer.dim) if is_last else (batch_size, quantizer.dim, *grid)
    latents = (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)
    latents.requires_grad_()
    quantized = quantizer.train()(latents)
    (quantized.latents.sum() + quantized.loss).backward()
    assert latents.grad.isfinite().all()
    codes = quantized.codes
    axis = -1 if is_last else 1
    assert codes.dtype == torch.int64
    assert codes.shape[axis] == quantizer.num_codebooks
    assert codes.movedim(axis, 1).shape[2:] == tuple(grid)
    assert codes.min() >= 0
    assert codes.max() <= quantizer.num_codes - 1
    assert torch.equal(quantizer.eval().encode(latents), codes)
    assert quantized.latents.dtype == torch.float32
    assert torch.equal(quantizer.decode(codes), quantized.latents)


VECTORS = {
    "num_codes": st.integers(2, 40),
    "codebook": st.sampled_from(["ema", "gradient", "simvq", "frozen"]),
}
OF_CODEBOOKS = {
    VectorQuantizer: VECTORS | {"dim": st.just(6), "num_codebooks": st.sampled_from([1, 2, 3, 6])},
    ResidualVQ: VECTORS
    | {
        "dim": st.integers(1, 6),
        "num_quantizers": st.integers(1, 3),
        "code_dim": st.integers(1, 3),
        "normalize": st.sampled_from(["none", "codes", "search"]),
        "split_first": st.booleans(),
        "quantizer_dropout": st.sampled_from([0.0, 0.5]),
    },
    IBQ: {
        "dim": st.integers(1, 6),
        "num_codes": st.integers(2, 40),
        "entropy_weight": st.sampled_from([0.0, 1.0]),
    },
}


@given(maker=makers(OF_CODEBOOKS), **LATENTS)
@settings(max_examples=40, deadline=None)
def test_codebooks_agree_with_a_search_of_all_codes_and_stay_finite(
    maker: tuple[Callable[..., Quantizer], dict[str, Any]],
    batch_size: int,
    grid: list[int],
    dtype: torch.dtype,
    scale: float,
    seed: int,
) -> None:
    kind, chosen = maker
    torch.manual_seed(seed)
    quantizer = kind(**chosen)
    is_last = quantizer.layout.channel_last
    shape = (batch_size, *grid, quantizer.dim) if is_last else (batch_size, quantizer.dim, *grid)
    latents = (scale * torch.randn(shape)).to(dtype).requires_grad_()
    learned = quantizer.train()(latents)
    (learned.latents.sum() + learned.loss).backward()
    assert latents.grad is not None
    assert latents.grad.isfinite().all()
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())
    quantized = quantizer.eval()(latents)
    assert torch.equal(quantizer.encode(latents), quantized.codes)
    assert torch.equal(quantizer.decode(quantized.codes), quantized.latents)
    if isinstance(quantizer, VectorQuantizer):
        tokens = latents.detach().double().movedim(-1 if is_last else 1, 0).flatten(1)
        tokens = tokens.unflatten(0, (quantizer.num_codebooks, -1)).transpose(1, 2)
        distances = torch.cdist(tokens, quantizer.codebook.codes.detach().double())
        codes = quantized.codes.movedim(-1 if is_last else 1, 0).flatten(1)
        taken = distances.gather(2, codes.unsqueeze(2)).squeeze(2)
        assert (taken <= distances.amin(2) * (1 + 1e-6) + 1e-6 * max(scale, 1e-3)).all()
