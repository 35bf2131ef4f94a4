"""Selection of codes by the largest product with a token, with a gradient through the softmax of products.

All arrays of tokens times codes are made in chunks, forward and backward, so that memory does not grow with
their product: a step holds at most 8 arrays of `CHUNK_BYTES` (64 MiB on a CPU) besides arrays of the size of
its arguments. The backward pass computes the products again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smalti.nn.collectives import mean_over_ranks
from smalti.quantizers.nearest import rounding_margin

CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 64 * 2**20}
"""Bytes of an array of tokens times codes: it fits in the cache of a CPU, and fills a GPU."""


LEAST_LOGIT = -60.0
"""Logarithm of the least probability: e^-60 = 9e-27 vanishes beside 1 in float32."""


def largest_products(tokens: Float[Tensor, "n d"], codes: Float[Tensor, "k d"]) -> Int64[Tensor, " n"]:
    """Index of the code with the largest product with each token, equal to a float64 search on every token.

    Of equal products the lowest index wins. A token that is not finite gets index 0.

    Args:
        tokens: `(N, D)`, float32.
        codes: `(K, D)`, float32.
    """
    tokens, codes = tokens.detach(), codes.detach()
    if torch.compiler.is_exporting():
        return _first_largest(tokens, codes)
    return _largest_products(tokens, codes)


def select_softly(
    tokens: Float[Tensor, "n d"],
    codes: Float[Tensor, "k d"],
    temperature: float,
    with_entropies: bool = True,
) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"], Float[Tensor, ""], Float[Tensor, ""]]:
    """Choose codes as `largest_products` does, with the gradient of (onehot - sg[p] + p) E.

    Here p = softmax(z E^T).

    Args:
        tokens: z, `(N, D)`.
        codes: E, `(K, D)`.
        temperature: T, of the distributions whose entropies are computed.
        with_entropies: False returns zeros in their place.

    Returns:
        Exactly the chosen codes, and their indices; with q = softmax(z E^T / T), the mean of the entropies
        H(q) of tokens; and the entropy of the mean of q over the tokens of all ranks; in nats.
    """
    z_q, indices, sample, batch, *_ = _select(tokens, codes, temperature, with_entropies)
    return z_q, indices, sample, batch


@torch.library.custom_op("smalti::largest_products", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _largest_products(tokens: Tensor, codes: Tensor) -> Tensor:
    indices = torch.empty(len(tokens), dtype=torch.int64, device=tokens.device)
    margin = _margin(tokens, codes)
    for rows, scores in _products(tokens, codes):
        indices[rows] = _largest(scores, tokens[rows], codes, margin)
    return indices


@_largest_products.register_fake
def _shape_of_largest(tokens: Tensor, codes: Tensor) -> Tensor:
    return tokens.new_empty(tokens.shape[0], dtype=torch.int64)


def _margin(tokens: Tensor, codes: Tensor) -> Tensor:
    """Rounding error of the difference of two products, in lengths of the token."""
    return rounding_margin(tokens.shape[1], tokens.device) * codes.norm(dim=1).max()


def _largest(
    scores: Float[Tensor, "n k"], tokens: Float[Tensor, "n d"], codes: Float[Tensor, "k d"], margin: Tensor
) -> Int64[Tensor, " n"]:
    """Index of the largest score of each token; tokens with a second one within the margin are recomputed."""
    largest, indices = scores.max(1)
    where = indices.unsqueeze(1)
    second = scores.scatter_(1, where, -torch.inf).amax(1)
    scores.scatter_(1, where, largest.unsqueeze(1))
    # Not "second >= limit": no score is below a limit that is not a number.
    is_clear = second < largest - margin * tokens.norm(dim=1)
    doubtful = is_clear.logical_not_().nonzero().squeeze(1)
    if len(doubtful):
        indices[doubtful] = _first_largest(tokens[doubtful], codes)
    return indices


def _first_largest(tokens: Float[Tensor, "n d"], codes: Float[Tensor, "k d"]) -> Int64[Tensor, " n"]:
    """Search in float64; products that it cannot distinguish count as equal."""
    tokens, codes = tokens.double(), codes.double()
    scores = tokens @ codes.t()
    margin = 2 * (tokens.shape[1] + 4) * 2.0**-53 * codes.norm(dim=1).max()
    limit = scores.amax(1, keepdim=True) - margin * tokens.norm(dim=1, keepdim=True)
    indices = (scores >= limit).to(torch.uint8).argmax(1)
    return torch.where(tokens.isfinite().all(1), indices, 0)


@torch.library.custom_op("smalti::select_softly", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _select(
    tokens: Tensor, codes: Tensor, temperature: float, with_entropies: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`select_softly`, the mean `(K,)` of q over the tokens of all ranks, and log sum exp of q's logits.

    All logits are relative to that of the chosen code.
    """
    indices = torch.empty(len(tokens), dtype=torch.int64, device=tokens.device)
    mean, sample = codes.new_zeros(len(codes)), codes.new_zeros(())
    log_sums, margin = tokens.new_zeros(len(tokens)), _margin(tokens, codes)
    num = max(1, len(tokens))
    for rows, products in _products(tokens, codes):
        indices[rows] = _largest(products, tokens[rows], codes, margin)
        if with_entropies:
            logits = _scaled(_relative(products, indices[rows]), temperature)
            q = logits.exp()
            sums = q.sum(1)
            log_sums[rows] = sums.log()
            mean.addmv_(q.t(), 1 / (num * sums))
            sample += (log_sums[rows] - torch.linalg.vecdot(q, logits) / sums).sum() / num
    if with_entropies:
        mean = mean_over_ranks(mean)
    batch = -(mean * _log(mean)).sum()
    return codes[indices], indices, sample, batch, mean, log_sums


@_select.register_fake
def _shapes_of_selected(
    tokens: Tensor, codes: Tensor, temperature: float, with_entropies: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    scalar, num = codes.new_empty(()), tokens.shape[0]
    indices = tokens.new_empty(num, dtype=torch.int64)
    means = codes.new_empty(codes.shape[0]), tokens.new_empty(num)
    return torch.empty_like(tokens), indices, scalar, scalar.clone(), *means


@torch.library.custom_op("smalti::select_softly_backward", mutates_args=())
def _select_backward(
    of_latents: Tensor,
    of_sample: Tensor,
    of_batch: Tensor,
    tokens: Tensor,
    codes: Tensor,
    indices: Tensor,
    mean: Tensor,
    log_sums: Tensor,
    temperature: float,
    with_entropies: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of tokens and codes.

    With s = g E^T, for the gradient g of the latents, the gradient of the logits is p (s - sum p s). That of
    the entropies is q (u - sum q u) / T, with u = -(a log q + b log mean) / N for their gradients a and b.
    """
    of_codes = torch.zeros_like(codes).index_add_(0, indices, of_latents)
    of_tokens = torch.empty_like(tokens)
    of_mean = of_batch * _log(mean) / -len(tokens)
    scale = of_sample / -len(tokens)
    for (rows, products), (_, s) in zip(_products(tokens, codes), _products(of_latents, codes), strict=True):
        logits = _relative(products, indices[rows])
        p = logits.exp()
        p /= p.sum(1, keepdim=True)
        of_logits = s.sub_(torch.linalg.vecdot(p, s).unsqueeze(1)).mul_(p)
        if with_entropies:
            logits = _scaled(logits, temperature)
            q = torch.sub(logits, log_sums[rows].unsqueeze(1), out=p).exp_()
            # Without the constants of a token, which the difference from the mean removes.
            u = logits.mul_(scale).add_(of_mean)
            u -= torch.linalg.vecdot(q, u).unsqueeze(1)
            of_logits.addcmul_(u, q, value=1 / temperature)
        with torch.autocast(tokens.device.type, enabled=False):
            of_tokens[rows] = of_logits @ codes
            of_codes.addmm_(of_logits.t(), tokens[rows])
    return of_tokens, of_codes


@_select_backward.register_fake
def _shapes_of_gradients(
    of_latents: Tensor,
    of_sample: Tensor,
    of_batch: Tensor,
    tokens: Tensor,
    codes: Tensor,
    indices: Tensor,
    mean: Tensor,
    log_sums: Tensor,
    temperature: float,
    with_entropies: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(tokens), torch.empty_like(codes)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tokens, codes, ctx.temperature, ctx.with_entropies = inputs
    _, indices, _, _, mean, log_sums = output
    ctx.save_for_backward(tokens, codes, indices, mean, log_sums)


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
    of_tokens, of_codes = _select_backward(
        gradients[0].contiguous(), *gradients[2:4], *ctx.saved_tensors, ctx.temperature, ctx.with_entropies
    )
    return of_tokens, of_codes, None, None


_select.register_autograd(_backward, setup_context=_keep_for_backward)


def _products(tokens: Tensor, codes: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Products `(rows, K)` of tokens and codes, in chunks of rows."""
    budget = CHUNK_BYTES.get(tokens.device.type, CHUNK_BYTES["cpu"])
    rows = max(1, budget // (4 * len(codes)))
    for begin in range(0, len(tokens), rows):
        chunk = slice(begin, begin + rows)
        with torch.autocast(tokens.device.type, enabled=False):
            products = tokens[chunk] @ codes.t()
        yield chunk, products


def _relative(products: Float[Tensor, "n k"], indices: Int64[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """Subtract the product of the chosen code in place: 0 at most, up to rounding."""
    return products.sub_(products.gather(1, indices.unsqueeze(1)))


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """Divide relative logits by the temperature in place; small probabilities stay above denormal numbers.

    Arithmetic with denormal numbers is ten times slower.
    """
    return logits.div_(temperature).clamp_min_(LEAST_LOGIT)


def _log(mean: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
