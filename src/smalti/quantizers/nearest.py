"""Exact nearest-code search in memory independent of tokens times codes.

argmin_j |x - e_j|^2 = argmin_j |e_j|^2 - 2 x.e_j, so neither the token's norm nor a square root is needed
(both cost precision). Tokens and codes are first centred on the codebook's mean, which does not change the
argmin and preserves precision for data far from the origin.

A float32 product has a rounding error, so two scores may be too close to compare. Tokens whose second
smallest score is within this error are recomputed in float64 over the close codes. The result therefore
equals the float64 search on every token; of equal distances the lowest index wins.

There are two implementations: `chunked`, in plain torch, for every device, and `compiled`, for CPUs, which
fuses product and minimum; `nearest_codes` chooses. `portable` is the form for exported programs.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from smalti.core.errors import InputError
from smalti.kernels.compiled import compiled_module
from smalti.nn.symbols import check_tensor

CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
"""Bytes of scores held at once: small enough for the cache on a CPU, large enough to fill a GPU."""

KERNEL = "smalti.kernels.nearest"
WORTH_COMPILING = 2**24
"""Minimum number of multiplications for the compiled search; compiling takes a second, once per machine."""


@torch.no_grad()
def nearest_codes(
    tokens: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], chunk_bytes: int | None = None
) -> Int64[Tensor, " n"]:
    """Index of the code nearest to each token (Euclidean), equal to a float64 search on every token.

    A token that is not finite has no nearest code and gets index 0. Under `torch.compile` the search is a
    single operation of the graph, and under `torch.export` plain operations (see `portable`); both ignore
    `chunk_bytes`.

    Args:
        tokens: `(N, D)`, any float dtype; computed in float32 regardless of autocast.
        codebook: `(K, D)`, finite: with a code that is not, every token is computed in float64 and gets 0.
        chunk_bytes: bytes of scores held at once, where scores are held; None chooses by device.

    Raises:
        InputError: for other types or shapes, or a codebook without codes.
    """
    _check_shapes(tokens, codebook)
    tokens, codebook = tokens.detach(), codebook.detach()
    if torch.compiler.is_exporting():
        return portable(tokens, codebook)
    if torch.compiler.is_compiling():
        return _opaque(tokens, codebook)
    work = tokens.numel() * len(codebook)
    if tokens.device.type == "cpu" and work >= WORTH_COMPILING and compiled_module(KERNEL) is not None:
        return compiled(tokens, codebook, chunk_bytes)
    return chunked(tokens, codebook, chunk_bytes)


def _check_shapes(tokens: Tensor, codebook: Tensor) -> None:
    # The compiled loops would read beyond the arrays.
    check_tensor(tokens, "tokens")
    check_tensor(codebook, "the codes of a codebook")
    is_valid = tokens.ndim == codebook.ndim == 2 and tokens.shape[1] == codebook.shape[1]
    if not is_valid or not codebook.shape[0]:
        raise InputError(
            "expected tokens of shape (N, D) and a codebook of shape (K, D) with K of at least 1, received "
            f"{tuple(tokens.shape)} and {tuple(codebook.shape)}: flatten the other axes first"
        )


@torch.library.custom_op(
    "smalti::nearest_codes",
    mutates_args=(),
    schema="(Tensor tokens, Tensor codebook) -> Tensor",
    # The number of recomputed tokens is read from the device, so the operation cannot be in a CUDA graph.
    tags=(torch.Tag.cudagraph_unsafe,),
)
def _opaque(tokens: Tensor, codebook: Tensor) -> Tensor:
    """`nearest_codes` as an operation that is opaque to the compiler."""
    return nearest_codes(tokens, codebook)


@_opaque.register_fake
def _shape_of(tokens: Tensor, codebook: Tensor) -> Tensor:
    return tokens.new_empty(tokens.shape[0], dtype=torch.int64)


def portable(tokens: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int64[Tensor, " n"]:
    """Nearest-code search in plain operations whose shapes depend only on the shapes of the arguments.

    All in float64: codes that a float64 product cannot distinguish count as equal, and the first of them
    wins. Memory holds a score for every token and code.
    """
    tokens, codebook = tokens.double(), codebook.double()
    centre = codebook.mean(0)
    centred = codebook - centre
    moved = tokens - centre
    # Autocast does not affect float64.
    scores = torch.addmm(centred.square().sum(1), moved, centred.t(), alpha=-2)
    norm = centred.norm(dim=1).max()
    tolerance = 2 * (tokens.shape[1] + 4) * 2.0**-53 * norm * (2 * moved.norm(dim=1, keepdim=True) + norm)
    codes = (scores <= scores.amin(1, keepdim=True) + tolerance).to(torch.uint8).argmax(1)
    return torch.where(tokens.isfinite().all(1), codes, 0)


def compiled(
    tokens: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], chunk_bytes: int | None = None
) -> Int64[Tensor, " n"]:
    """`nearest_codes` with compiled loops on a CPU; uncertain tokens are passed to `chunked`."""
    loops = compiled_module(KERNEL)
    assert loops is not None, "no compiled search is available: use `chunked`"
    with torch.autocast("cpu", enabled=False):
        tokens, codebook = (x.detach().to(torch.float32) for x in (tokens, codebook))
        codes, doubtful = loops.search(
            tokens,
            codebook,
            codebook.mean(0),
            rounding_margin(tokens.shape[1], tokens.device),
            _least_margin(tokens.shape[1]),
        )
        where = doubtful.nonzero().squeeze(1)
        if len(where):
            codes[where] = chunked(tokens[where], codebook, chunk_bytes)
    return codes


def chunked(
    tokens: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], chunk_bytes: int | None = None
) -> Int64[Tensor, " n"]:
    """`nearest_codes` on any device: scores in chunks of tokens, and their minimum in two levels.

    The first level takes minima over blocks of codes, because a reduction without indices is ten times faster
    than `argmin` on a CPU.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        tokens, codebook = tokens.detach().float(), codebook.detach().float()
        num_codes, dim = codebook.shape
        block = _block_size(num_codes)
        centre = codebook.mean(0)
        centred = codebook - centre
        # Padding codes with an infinite score fill the last block and never win.
        weight = centred.new_zeros(math.ceil(num_codes / block) * block, dim)
        weight[:num_codes] = centred
        bias = centred.new_full((len(weight),), torch.inf)
        bias[:num_codes] = centred.square().sum(1)
        weight = weight.mul_(-2).t().contiguous()
        margin = rounding_margin(dim, tokens.device)
        code_norm = centred.norm(dim=1).amax()

        budget = chunk_bytes or CHUNK_BYTES.get(tokens.device.type, CHUNK_BYTES["cpu"])
        rows = max(1, min(len(tokens), budget // (4 * len(bias))))
        finite = tokens.isfinite().all(1)
        scores = tokens.new_empty(rows, len(bias))
        codes = torch.empty(len(tokens), dtype=torch.int64, device=tokens.device)
        for begin in range(0, len(tokens), rows):
            chunk = tokens[begin : begin + rows] - centre
            result = torch.addmm(bias, chunk, weight, out=scores[: len(chunk)])
            tolerance = margin * code_norm * (2 * chunk.norm(dim=1) + code_norm) + _least_margin(dim)
            best, limit, doubtful = _two_level_argmin(result.view(len(chunk), -1, block), tolerance)
            codes[begin : begin + rows] = best
            doubtful &= finite[begin : begin + rows]
            for where in doubtful.nonzero().squeeze(1).split(max(1, budget // (16 * num_codes))):
                # Negated comparison, so that all codes are candidates where a score overflowed.
                candidates = ~(result[where, :num_codes] > limit[where])
                codes[begin + where] = _decide_float64(tokens[begin + where], codebook, candidates, budget)
        codes[~finite] = 0
    return codes


def _block_size(num_codes: int) -> int:
    """About the square root of the number of codes, so that both levels of the minimum cost the same."""
    return min(256, max(8, 2 ** round(math.log2(max(num_codes, 1)) / 2)))


def rounding_margin(dim: int, device: torch.device) -> float:
    """Bound on the relative error of a score: (D + 4) roundings at the product's precision, for both
    codes."""
    # Not `get_float32_matmul_precision`, which raises if the precision was set per backend.
    tf32 = device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return 2 * (dim + 4) * (2.0**-11 if tf32 else 2.0**-24)


def _least_margin(dim: int) -> float:
    """Bound on the absolute error of a score in the float32 subnormal range."""
    return (dim + 4) * torch.finfo(torch.float32).tiny


def _two_level_argmin(
    scores: Float[Tensor, "n blocks block"], tolerance: Float[Tensor, " n"]
) -> tuple[Int64[Tensor, " n"], Float[Tensor, "n 1"], Bool[Tensor, " n"]]:
    """The argmin over all codes, the minimum plus the tolerance, and whether another code is below that."""
    minima = scores.amin(2)
    winner = minima.argmin(1)
    block = scores[torch.arange(len(scores), device=scores.device), winner]
    best = block.argmin(1)
    limit = (minima.amin(1) + tolerance).unsqueeze(1)
    # Not "> 1": where a score overflowed, the limit is NaN and no minimum is below it.
    doubtful = ((minima <= limit).sum(1) != 1) | ((block <= limit).sum(1) != 1)
    return winner * scores.shape[2] + best, limit, doubtful


def _decide_float64(
    tokens: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], candidates: Bool[Tensor, "n k"], budget: int
) -> Int64[Tensor, " n"]:
    """The nearest of each token's candidates, by differences in float64, in chunks.

    Equal distances may be sums of different terms and be rounded differently, so distances within the float64
    rounding error count as equal.
    """
    distances = torch.full(candidates.shape, torch.inf, dtype=torch.float64, device=tokens.device)
    pairs = max(1, budget // (8 * codebook.shape[1]))
    for row, code in zip(*(index.split(pairs) for index in candidates.nonzero(as_tuple=True)), strict=True):
        distances[row, code] = (tokens[row].double() - codebook[code].double()).square_().sum(1)
    limit = distances.amin(1, keepdim=True) * (1 + codebook.shape[1] * 2.0**-52)
    return (distances <= limit).to(torch.uint8).argmax(1)
